// Package hashchain is the key hashchain: one entry for each UID message that a
// keyserver has accepted, each hashed with the one before it (keyserver/WIRE.md
// §9), and the RFC 6962 Merkle tree over the entries.
//
// An entry hides whose it is: only who knows the identity can find it and open
// what it points to. So a chain is public, and is searched by trying each entry.
//
//	entry.go   the entry's bytes; sealing, matching and opening it
//	ckdf.go    the keys that hide an entry
//	chain.go   verification of entries in the order of their arrival
//	search.go  exhaustive search, on all cores
//	tree.go    the Merkle tree: root, inclusion and consistency proofs
//	head.go    a keyserver's signed statement of where its chain ends
//
// What never belongs here: UID messages, storage, the network.
//
// Nothing here keeps state between calls but a Chain, which one goroutine uses
// at a time.
package hashchain
