// Package signin is the text by which a key signs in: the Bitcoin Cash profile of CAIP-122
// that protocol/SIGNIN.md describes. It makes the text, reads it, and verifies what a
// wallet signed of it.
//
// A Verifier needs no memory for the challenges that it makes. Two things are left to its
// caller: to refuse a nonce that was used before (protocol/SIGNIN.md §5), and to find the
// identity behind the key. A third is left to the app: to compare the nonce with that of
// the browser's session (protocol/SIGNIN.md §6).
//
// What never belongs here: a clock, a list of used nonces, a connection to a wallet, and
// what the key means to an identity.
//
// All functions may be called concurrently. Texts and signatures that come in are hostile
// until they are checked.
package signin
