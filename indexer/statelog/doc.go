// Package statelog publishes what an indexer makes of the chain as a state log (protocol/STATELOG.md), and cosigns
// those of others when they say the same. It joins the graph, which knows nothing of logs, with
// keyserver/tlog, which signs and serves them, and keyserver/witness, which cosigns.
//
//	publisher.go  follows the chain: which entries are published, when an epoch ends
//	tree.go       the entries of an epoch and their Merkle tree, in files
//	prove.go      the entry of a height, with the proof that the checkpoint covers it
//	known.go      since when headers are known
//	anchored.go   what anchors of it commit to
//	cosign.go     cosigns what was computed here, too, and keeps what differs as evidence
//
// # What is never signed
//
// A log that has signed two chains has not lied, but nobody can tell it from one that has. So:
//
//  1. An entry is published once its block has ten others on top and its header was known for two hours. When headers
//     became known is on disk; who has lost that begins to count anew.
//  2. Entries are on disk, synced, before a checkpoint covers them, and the checkpoint before anybody gets it.
//  3. A checkpoint is signed only while the newest entry's block is on the chain.
//  4. When a block that a checkpoint covers is found to be replaced by another, the files of the next epoch are made
//     first: that they are there is what keeps the key from ever signing again. A process that is
//     killed before finds the replaced block once more.
//  5. Entries that no checkpoint covers are taken back with their blocks.
//
// Known gaps. If the chain goes over to other blocks and back again between two looks, the log has not
// noticed, and goes on: nothing that it signed is wrong. If the entries are lost, and a published block was replaced
// before they are made again, nothing tells a fork from a lie: the log signs nothing more (tlog.ErrForked), and its operator
// begins one with another key file and another host name.
//
// What never belongs here: how HTTP requests are answered (rpc/statelog), what H and R are (graph).
package statelog

import "errors"

var (
	// ErrNoStateRoot says that a block has no state root, since it came while none was kept. Index again
	// with the state root on.
	ErrNoStateRoot = errors.New("block without a state root")
	// ErrContradiction says that the graph has another state of a block than it had when the block's entry was made:
	// the one or the other is damaged, or made by another version's rules. Nothing is signed.
	ErrContradiction = errors.New("the graph contradicts the state log")
)
