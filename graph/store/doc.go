// Package store is how the graph lies in Badger: the keys of its database in one table
// (schema.go), the coding of values, the records that are about a block as a whole, and
// one step's writes, in the order in which they must become durable. What the records of
// links and of anchors mean is for those packages to say.
//
//	schema.go  every key of the database, in one table
//	codec.go   reading fields off a value
//	block.go   what is stored of a block, the tip, and blocks that were taken off the chain
//	writes.go  one step in the making, cut in stages and pieces
//	commit.go  where writes go: the place where they can fail; the sweep
//	txn.go     reading as of a moment, with the writes of a change over it
//	read.go    reading as of a height, and in chunks
//	format.go  what a database was made for
package store
