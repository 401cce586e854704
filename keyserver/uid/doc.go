// Package uid is UID messages: the long-term keys and addresses of an identity,
// as users send them to a keyserver and as the keyserver hands them out
// (keyserver/WIRE.md §5).
//
// Two profiles are known. "1.0" is what the deployed client writes; "1.1" adds an
// escrow key, other preferences, several public keys and chain links.
//
//	identity.go  names: how they are mapped so that look-alikes are one
//	message.go   the message, its canonical bytes, its hash
//	check.go     what a message must be like, profile by profile
//	sign.go      signatures: by whom a message must be signed
//	time.go      validity, and how long a name stays taken
//	reply.go     the encrypted form that the key repository keeps and returns
//
// What never belongs here: whether a message fits into a hashchain, storage, the
// network. Check says whether a message is one; VerifyCreation and VerifyUpdate
// whether those signed it who must have; the keyserver, whether it comes in time.
package uid
