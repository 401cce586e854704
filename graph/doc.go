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
//	writes.go     one step in the making, undo records
//	store.go      where writes go: the place where they can fail
//	journal.go    how a step becomes durable as a whole
//	badger.go     Badger as that store
//	files.go      whether the files are what was written, before Badger sees them
//	disk.go       whether there is room for a step
//	graph.go      open, connect, disconnect
//	load.go       what is held in memory, from the store
//	view.go       questions as of a block
//	events.go     what each block changed, and the blocks that were taken back
//	fsck.go       whether everything stored agrees with everything else
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
// # Durability
//
// A step is on disk before Connect or Disconnect returns nil, and is found there
// as a whole or not at all, whenever the process is killed or a write fails:
//
//  1. There is room on the disk, or the step is refused.
//  2. It is written and synced as one transaction; or, if it is too large, to a
//     journal, which is synced, then marked complete, then copied to its place,
//     then unmarked and cleared. A journal with the mark is copied again at the
//     next start, one without it is cleared.
//  3. After a failure, memory is read back from what is on disk. If that fails
//     too, the graph is broken and says so until it is opened anew.
//
// Every byte is checked when the graph is opened, and the tables again from time
// to time: what is damaged is named and never served. Known gaps: between two of
// those checks Badger may not find a record whose table has just been damaged, or
// end the process over it. The end of the newest log may be lost like in a crash:
// the graph is then as it was some blocks before. A disk that somebody else fills
// within one step ends the process, as a kill would. The order of writes relies
// on fsync meaning what it says, also for a new file's name in its folder.
//
// # Concurrency
//
// One writer at a time: Connect and Disconnect exclude each other. Questions run
// concurrently with each other and with the writer. A view sees one state for
// its whole life.
package graph
