// Package keyserver is a keyserver without its wire: the key repository, the key
// hashchain and the KeyInit repository of one domain (keyserver/WIRE.md), kept in a
// store of its own (package store).
//
// A [Service] answers the calls of the wire's table as Go methods. Messages come in
// as decoded by the packages uid and keyinit; errors wrap the values in errors.go
// and theirs, which the wire turns into codes.
//
//	errors.go    what can go wrong, and what to do then
//	options.go   what a service is told at its start
//	service.go   opening and closing
//	start.go     the first start; verification of what is stored at the next ones
//	identity.go  CreateUID, UpdateUID: who may have and change a name
//	chain.go     entries, replies, look-ups, proofs, the signed head; the state at any size
//	keyinits.go  KeyInits: add, fetch, flush
//	shelves.go   the KeyInits of keys that were asked for lately, at hand for the writer
//	sweep.go     removing KeyInits that have expired
//	rotate.go    a new server key
//	serverkey.go the file with the server's secrets
//	writer.go    one writer, which decides concurrent calls and makes them durable in groups
//	standby.go   a server beside the one that writes, which takes over
//	acknowledged.go  the file that remembers how far the hashchain was acknowledged
//	tx.go        one call's part in such a group
//	schema.go    every key of the database, in one table
//	backup.go    backup while running, restore
//	migrate.go   what becomes of a database that an earlier keytree has made
//	check.go     whether everything stored agrees with everything else
//
// What never belongs here: JSON-RPC, gRPC, HTTP; clients; Bitcoin Cash.
//
// # Durability
//
// A keyserver cannot take back what it has said: a chain that lost an entry, or has
// another in its place, is misbehaviour to everybody who saw the first. So:
//
//  1. The caller's goroutine verifies a call. What costs little comes first, so that nobody
//     has signatures verified who cannot pay or may not have what he asks for. Then the
//     one writer gets the call, with all that it takes long to look up.
//  2. The writer takes all calls that wait, and decides them one after the other. What
//     they write (entry, reply, indexes, tokens spent) is one commit. Each call is in it as
//     a whole or not at all. If there is too little room on the disk, nothing is written,
//     all of them are refused (ErrDiskFull), and the service goes on.
//  3. Server signatures are made beside that, by as many goroutines as it takes, as soon
//     as an entry has its position. The commit waits for them.
//  4. While a group is committed, the writer decides the next one on top of it. The next
//     one is committed only after the one before was, and refused with it.
//  5. Calls are answered, refusals included, only when their own group is on disk. Only
//     then can a reader see an entry.
//  6. If a commit fails with nothing stored, for want of room or of the database, what was
//     decided on top of it is refused, too, and the service goes on.
//  7. If a commit fails otherwise, nobody can say whether it is on disk. The service answers
//     nothing any more (ErrFailed) until it is opened anew, least of all what was decided
//     on top of that commit. An entry that was shown and is gone after a crash would be a
//     second history.
//
// Every start checks each byte of the database's files (graph/badgerdb). Then it checks
// all entries from position 0 against each other, the Merkle tree and the recorded head,
// and the server's key against its identity in the chain.
//
// Where the store is in a folder of this machine, that is all. A store that several servers can
// reach has one writer, and standbys (standby.go); what the writer has to read there was read ahead
// by those who call (ahead.go).
//
// Known gaps. If the end of the database's newest log is lost, the chain is shorter but
// sound: only somebody who remembers a later head can tell, as an anchor does (package
// anchor), or Options.Acknowledged. The same is true of a restored backup. A disk that somebody else fills within
// one commit ends the process, as a kill would. Damage between two starts is refused where
// Badger's checksums cover it, and searched for every ten minutes; until then Badger may
// take a record for missing.
//
// # Held back
//
// A keyserver that is anchored must not answer before its hashchain was compared with
// its anchors: the database may be an old backup, and every answer a second history. So
// with Options.Held every method that shows or changes history, or what users have stored,
// returns ErrHeld until Release. A method that does not says why: it is for the comparison
// itself, or for the operator, or shows no history. Methods read through view and write
// through change, which ask. viewHeld and the writer do not ask.
//
// # Secrets
//
// The server's private keys are in a file outside of the database and of its
// backups. The database knows which names are registered, and can read all UID
// messages. A thief of it can list the users, but not speak for the server.
//
// # Concurrency
//
// All methods may be called concurrently. Readers see a state that is on disk, and do not
// wait for it.
package keyserver
