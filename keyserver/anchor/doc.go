// Package anchor publishes a keyserver's hashchain heads on the chain, as one chain
// of anchors (protocol/ANCHORS.md §2), so that the keyserver cannot show two
// histories without anybody being able to prove it.
//
//	doc.go         what is promised
//	ask.go         what a publisher asks: the hashchain, the chain's index, a node
//	publisher.go   options, start, the loop, the operator's requests
//	observe.go     what hashchain, files and index say, put together; nothing is changed
//	observenode.go what the node says, where it has to be asked
//	decide.go      which chain it is, what files and keys lack: pure functions of that
//	decidenext.go  what the node gets, when the next anchor is due, and what it spends: pure, too
//	act.go         one decision carried out; then everything is observed again
//	tx.go          the transactions
//	state.go       the state file
//	keys.go        the key file, and its two siblings while the key is replaced
//	status.go      what the operator is told
//
// A publisher goes round: observe, decide, act. It remembers nothing between rounds that
// is not on disk, but what it last offered to the node and told the operator. So a crash
// between two acts, a restart and a lost file are no cases of their own: the next
// observation shows what is missing.
//
// What never belongs here: serving anything; judging other people's anchors, which the
// graph and the auditor do; how a node is reached.
//
// # What is promised
//
//   - One chain. A genesis anchor is made only if neither the state file, nor the chain,
//     nor the node's mempool knows one by this key. Every later anchor spends the baton
//     of the newest one with its first input, so of two versions of one anchor only one
//     can ever be confirmed.
//   - What was signed first is what is broadcast: a transaction is on disk before any
//     node sees it, and it is this one that is broadcast again after a restart, or when a
//     reorganisation took it out of the chain. It is replaced only if the node refuses
//     it; the replacement then has the same record, and spends the same baton.
//   - Positions never decrease, and only what the keyserver has on disk is anchored. A
//     record is repeated as a heartbeat, by the times of blocks alone, or when the baton
//     goes to another key.
//   - Before the keyserver answers anybody, Check compares its hashchain with the newest
//     anchors. If they are ahead of it or contradict it, the database is not the one that
//     was anchored, and serving it would fork history. There is no way around that. The
//     database names its chain of anchors, so that this holds where key and state file
//     are lost. It names none in a backup from before the genesis anchor was confirmed. If
//     the key has made none either, any chain for the domain may be its own, unless the
//     genesis anchor commits to another entry 0. Nothing else can tell, so the operator is
//     asked (ErrUndecided). Anybody can begin a chain, so his answer that none is his holds
//     for good, for this copy of the database.
//
// # What is trusted
//
// The node, to pass transactions on and to tell what is unspent; the index, to tell
// what is confirmed. If they lie, anchors are late or missing, and money for fees may be
// lost, but there are no two histories: signatures are made for one hashchain only.
//
// # Known gaps
//
// If the payment that the genesis anchor spends is itself undone before that anchor is
// confirmed, no anchor can be made until it is back. The payment must have been confirmed
// once before it is used, so this takes a reorganisation and a double spend.
//
// If state file and database are both restored from an old backup while later anchors are
// neither confirmed nor in the node's mempool, nothing here can know of them.
//
// If key and state file are both lost, and the operator has said before that no chain is
// his, a copy of the database's folder, other than a backup, still says so.
package anchor
