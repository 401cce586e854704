// Package indexer keeps a graph equal to a node's best chain.
//
// A block flows one way: from the node (indexer/node), through the walk, the
// decoder and the author check (protocol), into the rules and the store (graph).
// Run does all of it: the start-up check, catching up, following, reorganising.
// pipeline.go names the stages on the way.
//
// What never belongs here: what an action means (graph), how a node is spoken to
// (indexer/node/...), who asks (rpc).
package indexer
