// Package statemap holds the map under the state root (protocol/SPEC.md §12): a binary Merkle
// Patricia trie of records, one version of which shares with the next all that a block does not
// change.
//
//	map.go     the trie: a version from another and a block's changes
//	page.go    the leaves below a node, and their hash
//	show.go    where the search for a record ends, and the tree that shows some (protocol/SPEC.md §13)
//	load.go    a version from all its leaves
//
// What never belongs here: what blocks do to records, and where they are stored.
//
// # Memory
//
// A node holds a page of up to pageLeaves leaves, or two nodes, by the next bit of the map key. The shape
// depends on the leaves alone. Of each record 44 bytes are held: the beginning of its map key, the hash of its
// leaf, and the number by which its owner finds it. The hashes within a page are made when they are
// needed: so a record takes some 54 bytes, and not the 190 of a trie with a node for each. Whoever wants many
// leaves in one place has to find map keys that begin alike, at twice the work for each further bit; it costs
// him more than us, and the path to a record is never longer than 256 nodes.
package statemap
