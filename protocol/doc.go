// Package protocol knows keytree's wire formats: the three MIP-0003 actions and
// who their author is, keyservers' anchors, the walk over raw serialized blocks
// that finds them, addresses, and the transactions that publish links and
// anchors: there is one builder and one signer for both. It also judges headers: whether
// they carry the work that a network asks for, and are of its chain. The records under the state
// root, and entries of state logs, are here as well.
//
// It works on bytes that its callers hold: no I/O, no clock, no state, no
// goroutines. What never belongs here: what an action brings about, which the graph decides
// (protocol/SPEC.md §3 and later); and anything that has to ask a node or keep an
// earlier block.
//
// All functions may be called concurrently. Bytes that come in are hostile until
// they are checked: nothing here panics on them or allocates more than a fixed
// multiple of what was received.
package protocol
