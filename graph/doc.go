// Package graph holds the identity graph of MIP-0003: the rules that turn a
// chain's actions into identities (identity-rules §3 to §9), and their store.
//
// Blocks go in by [Graph.Connect] and out by [Graph.Disconnect]; questions are
// asked of a [View], as of any block. The graph knows neither node nor network:
// it is given decoded actions whose authors somebody else has established.
//
// # Layout
//
//	rules.go      one block's actions to transitions, in the four phases
//	identity.go   which id a tree has; merging; the names that merged
//	forest.go     the links in force, in memory
//	effect.go     transitions, their canonical encoding, the state hash
//	schema.go     every key of the database, in one table
//	record.go     the values
//	writes.go     one atomic step per Connect, undo records
//	graph.go      open, connect, disconnect
//	view.go       questions as of a block
//	events.go     what each block changed, and the blocks that were taken back
//
// # Memory and disk
//
// Badger holds everything, keyed so that the state as of any height can be read
// without replaying: what changes over time (a key's parent, a parent's
// children, a root's id, an identity's size) is stored as versions, newest
// first, under the height at which it changed.
//
// The links in force are also held in memory, as a forest that answers root,
// depth and "is it the same tree" in time logarithmic in the tree's size
// whatever its shape; a walk up stored parents would cost an attacker's chosen
// depth per question. It is rebuilt from the store when the graph is opened. See
// forest.go for why it is an Euler tour in a balanced tree.
//
// # Concurrency
//
// One writer at a time: Connect and Disconnect exclude each other. Questions run
// concurrently with each other and with the writer. A view sees one state for
// its whole life.
package graph
