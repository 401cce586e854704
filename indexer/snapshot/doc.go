// Package snapshot has an index in a file: what the rules need of each block, so that another
// indexer gets to the same state in minutes, without reading the chain. Nothing that the rules
// make of it is in the file, but the state hash of each block, with which the result is compared;
// so a snapshot can be wrong, but not believed. protocol/SNAPSHOT.md has the format, and what
// each byte is held against.
//
//	format.go    what is in a snapshot
//	write.go     writing one
//	read.go      reading one: the form, and what can be seen of a block alone
//	create.go    making one of an index, and of the node that it follows
//	expect.go    the state that a reader asks for
//	load.go      making an index of one, by the rules
//	folder.go    a data folder that gets its index from one
//	download.go  fetching one
//	progress.go  how far that is
//
// A snapshot comes from anybody. What is read of it at a time has a bound, which the
// memory that the process may take decides.
//
// What never belongs here: what an action means (graph), and how an index goes on from there
// (package indexer).
package snapshot
