// Package indexer keeps a graph equal to a node's best chain.
//
// A block flows one way: from the node (indexer/node), through the walk, the
// decoder and the author check (protocol), into the rules and the store (graph).
// Run does all of it: the start-up check, judging the chain by its headers
// (branch.go), catching up, following, reorganising. pipeline.go names the stages on
// the way. Import does the same from a node's files.
//
// A node is not believed. Its chain is judged by the network's rules, a block by its
// merkle root, and what a transaction spends by the signature (author.go). An answer that
// fails is refused, with the node's name. Run waits for a node that is away, behind or not
// fit to be asked just now.
//
// Only some transactions of a block matter: those with an action or an anchor, and those
// that spend the baton of a chain of anchors. The blocks before decide which batons there
// are; batons.go says how blocks are walked over all the same before those are connected.
//
// What is not in a block yet is followed in indexer/mempool. What both keep of a
// transaction until the graph has it is in indexer/claims.
//
// What never belongs here: what an action means (graph), how a node is spoken to
// (indexer/node/...), who asks (rpc).
package indexer
