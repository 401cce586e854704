// Package client is what a user keeps and does of a keyserver (keyserver/WIRE.md):
// a verified copy of its hashchain, look-ups in that copy, and the user's own
// identities with their private keys.
//
//	client.go    the folder that all is kept in; Init, Open
//	wire.go      the JSON-RPC calls, bounded
//	patience.go  how long a keyserver may take
//	clock.go     whether its clock and this machine's agree
//	copy.go      the local copy of the hashchain
//	sync.go      downloading, verifying, following the keyserver's own keys
//	witnessed.go what the keyserver's log and its witnesses have signed
//	resync.go    beginning the copy again
//	reply.go     UID messages as the keyserver returns them, and what it has signed
//	evidence.go  what a keyserver has signed that an honest one does not
//	lookup.go    exhaustive search, and who is behind an identity
//	paper.go     the escrow key on paper
//	vault.go     secrets at rest
//	identity.go  an identity of the user's own, and what is done with its keys
//	register.go  Create, Update, Recover, Confirm
//	pending.go   messages on their way: see, make again, cancel
//	keyinits.go  KeyInits: add, flush
//	fetched.go   KeyInits of others, kept until they are used
//	sessions.go  sessions with other users: begin, answer, receive
//
// What never belongs here: the server; the terminal; the format of what is sent from user
// to user (package session), and how it travels.
//
// # What is trusted
//
// The first download trusts the keyserver for the entry at position 0 alone. Its hash
// can be compared with what others have (Client.Fingerprint). From then on the client
// believes only what follows from it. Every entry is verified against the one before it.
// The keyserver's keys are followed through the entries of keyserver@domain, each of which
// the key before has signed. A reply must be signed by the key that was the keyserver's at
// its position, and be about the entry that the copy has there.
//
// # What is signed
//
// The keyserver signs replies, each about one entry and its position. All else comes
// unsigned: entries, the end of the hashchain, capabilities, the date of an answer. Whoever is between the
// keyserver and the client can change that, and leave no trace in the folder:
//
//   - A piece of the hashchain is added when the keyserver has signed a reply about its
//     last entry. Since an entry's hash covers the one before it, that reply covers all
//     of the copy. An honest keyserver can always give it: entry and reply are on its
//     disk in one step, and neither ever changes. The client takes no piece without one
//     (ErrUnsigned).
//   - A contradiction to the copy is ErrContradiction. The client asks for the reply about
//     the other entry. If the key in force has signed that, too, it is Misbehaviour, with
//     evidence: the holder of that key has signed two histories.
//   - A hashchain that ends before the copy, or before an entry that was acknowledged, is
//     ErrContradiction: nothing that a keyserver signs says where its hashchain ends.
//   - Before the first entry is known, everything can be anybody's, keys included: no
//     signature convicts then, unless a fingerprint was given.
//
// Refusals (ServerError) and failures of the network say what they are.
//
// A keyserver can still show different chains to users who never compare, and
// withhold what it has not acknowledged. The first is noticed as soon as somebody
// looks up an identity whose message names, as LASTENTRY, an entry of the other
// chain.
//
// # Files
//
// A folder belongs to one keyserver; only one process has it open at a time.
//
//	keyserver.json        where the keyserver is, how far the copy goes, its keys
//	chain                 the entries, 153 bytes each
//	lookups/HASH.json     how far an identity was searched, and what was found
//	identities/HASH.json  one of the user's own, encrypted under its passphrase
//	fetched/HASH.json     KeyInits of somebody that were taken and not used yet
//	evidence/*.json       misbehaviour
//
// Earlier versions took entries that nothing signed covers. Their folders are used as
// they are; Sync cuts off what is not covered at the end of the copy.
//
// HASH is the SHA-256 of the identity. Every file but chain is replaced as a whole, and
// is on disk before the client does what relies on it. chain only grows, but for that cut and
// for Resync. A process that was killed may have written beyond the length in keyserver.json;
// that is written again. Whenever a process is killed the next one goes on.
package client
