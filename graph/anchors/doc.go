// Package anchors holds the rules of keyservers' anchors (protocol/SPEC.md §10): whose
// chain each goes on with, begins, breaks; and what shows that they are on the chain. It knows
// nothing of links, nor of when a step is written or who asks.
//
//	rules.go   one block's anchors to transitions
//	effect.go  transitions, their canonical encoding
//	state.go   what is held in memory: where chains may go on
//	draft.go   what the store has of anchors, and what a change adds to it
//	record.go  the values in the store
//	merkle.go  what leads from a block's anchors to its merkle root, each node once
//	view.go    questions as of a block
//	proofs.go  what shows that anchors are on the chain
//	reread.go  a block's anchors as they were given, from the store
package anchors
