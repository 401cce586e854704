// Package keyinit is KeyInit messages: keys and an address for the beginning of
// one session, which a keyserver hands out in its user's absence
// (keyserver/WIRE.md §12).
//
//	keyinit.go  the message, what it must be like, and its signatures
//	anchor.go   the session anchor in it, encrypted
//	disperse.go which message is handed out next, and whether it is used up
//	flush.go    the order to forget all messages of a key
//
// What never belongs here: whether the user exists, storage, the network.
package keyinit
