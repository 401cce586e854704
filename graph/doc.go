// Package graph is the identity graph of MIP-0003: the rules that turn a
// chain's actions into identities (protocol/SPEC.md §3 to §9), and their store; and
// the chains of anchors (protocol/SPEC.md §10).
//
// Blocks go in by [Graph.Connect] and out by [Graph.Disconnect]; questions are
// asked of a [View], as of any block. The graph knows neither node nor network:
// it is given decoded actions whose authors somebody else has established.
//
// # Layout
//
//	graph.go      open, close, what is looked at from time to time
//	snapshot.go   the graph as of a step, and who holds it
//	change.go     a step in the making, and how it is taken: connecting
//	undo.go       taking a block back
//	load.go       the snapshot at the start
//	checkpoint.go when the state is written to a file beside the database
//	memory.go     how much memory may be held
//	view.go       questions as of a block: those of links and those of anchors
//	pending.go    what is supposed of the next block
//	pendingview.go questions as if it were there, and why their answers differ
//	events.go     what each block changed, and the blocks that were taken back
//	follow.go     which of the keys and identities that a client follows a block changes
//	followers.go  all that is followed; roll.go: by whom
//	notes.go      what the last steps have changed of that, found once for each
//	touches.go    which identities a block touches
//	stateproof.go proofs of what the state root commits to
//	proofmaps.go  the maps that they are made of
//
//	links/        links: their rules, state, records, questions
//	anchors/      the same of anchors
//	state/        both as of a block, and what one block makes of them; the state hash
//	txids/        which action has a txid, and is the first to mention a key: sorted runs
//	forest/       the links in force, in memory: root and depth without walking
//	cow/          arrays and maps in versions that share their pages
//	store/        every key of the database, in one table; one step's writes
//	fsck/         whether everything stored is what the rules make of the actions
//	badgerdb/     opening Badger once its files are what was written; room on the
//	              disk; the stamped commit. A keyserver uses it as well
//
// A block flows down once: Graph takes it, state applies it by the rules of links and anchors,
// these say what it writes, and store brings that to Badger.
//
// # Memory and disk
//
// The database only grows. A block brings its actions, in chunks; its effects; and a
// new version of each thing that it changed: a key's links, an identity's tree (keyed by
// id_tx_hash), a name that merged. Those of identities and names sort newest first under the height at which
// they came. Those of keys are many, and are in chunks: each says which one of its key was before it, and from its fourth on
// they are listed by key. So a question reads the state as of any height without replaying, in a
// few reads per key on the path whose link has changed since. The tip says up to which block
// all that counts.
//
// Badger takes some 3.5 µs of processor time per record, so few are written: fewer than one
// for ten actions. That is why the actions of a block share values, and its keys do, why what actions are found by stands in
// runs, and why little is written about
// them afterwards: an action says itself what its own block made of it. Only what a
// later block decided, and a link that was cut, have records of their own. TestRecords
// counts, in blocks of 1,000 actions, per action:
//
//	links                            a      k      x      o        e, i, b, u, T
//	of a path                        0.032  0.016         0.009    0.005
//	of a random tree                 0.032  0.030         0.009    0.005
//	of one, requests blocks before   0.032  0.030  0.019  0.010    0.005
//
// Held in memory is what has been paid for by a link, and little else: where each key
// stands that is or was in one, some 140 bytes; what the state root is made of, some 60 bytes for each of these
// keys and for each id that a link or a cut has named; a hash of what each waiting action waits
// for; and the txid of each open chain of anchors. All else, refused, open, used and cut
// actions and the keys that they mention, is found in the store, so that fees alone buy
// none of a server's memory. Filters that tell which run may have a txid or a key take 2 bytes of an entry,
// up to a bound.
//
// The start reads the state back from a checkpoint, which is written when the graph is
// closed and now and then, and applies the blocks since once more. What follows from its parts, the forest, the
// hash table of the keys, the trie of the state root, is made on all processors, beside its checksum: if that is wrong,
// nothing of it is believed. Without a checkpoint it
// reads the keys from all versions of their records, and the ends of their lists from all actions.
//
// A step makes a change: another version of what is in memory, and what has to be
// written. The version shares with the one before all pages that it does not change. While
// the change is written, questions are answered from the version before. Then one pointer
// is replaced. A change that is refused, or cannot be written, is dropped. One that is never
// written tells what blocks would make of the graph. A block of many actions is written in
// stages while it is applied. So a step holds about what its actions are, and not what they
// come to. The copies of pages cost a step of 1,000 actions at random some 2 µs per action.
//
// Package forest holds the links in force. It answers root, depth and "is it the same
// tree" in time logarithmic in the tree's size, whatever its shape. A walk up stored
// parents would cost, for each question, as many steps as an attacker likes. The forest
// also finds the next link on the way up that is newer than a height: all before that
// is in memory as of that height, too.
//
// A question follows a long list as of any height without passing over what has gone.
// Each key names its first child and its next sibling as of each height. Each action names
// the one before it that mentions the same key, with a landmark every 64. While a key is in no
// identity yet, its first action is found by the key (package txids), and each other is a landmark:
// most keys have no other.
//
// # The state root
//
// A step makes the hash of all that is true after a block (protocol/SPEC.md §12), and stores it with the block. It is that
// of a trie in memory (package statemap), whose pages a step copies as it changes them. So dropping a step drops
// its root. The records in the trie follow from where the keys stand, and from the store: taking a block back makes those
// again that the block had changed, and compares the root with that of the block before. The checkpoint has the
// leaves of the trie, and opening from it compares the root as well. Without one the leaves are made from the
// keys and from the identities that merged. What is pending has no root. Without the state root (Options) none of that
// is done, and blocks that come have none; package fsck makes each block's again, and compares those that are stored.
//
// # State proofs
//
// A proof shows records of the trie as of a block (protocol/SPEC.md §13). Versions of the trie share what no step has
// changed: so those of the last steps stay, as long as what they do not share fits into Options.ProofMemory. The trie as of
// an older block is made again from the nearest newer one, by what the undo records say that blocks have added. Beyond
// the undo horizon, or if that is more work, it is made of all keys that are stored. One is made at a time, the last few
// are kept, and more than Options.ProofRebuildKeys are refused: ProofWork tells who lets others ask, before, what
// it takes. Blocks never wait for any of that nor are refused because of the memory: it gives way, also while a trie is made.
//
// What records have in them comes from the keys, if they have not changed since the block, or from the store. Each is
// compared with the hash of its leaf, and the root with that of the block: what does not verify is not shown.
//
// # Anchors
//
// Beside identities the graph holds the anchors by which keyservers commit to
// their hashchains. The two share only the blocks, one step and the state hash. An
// anchor's author is a key like any other. Memory has only where a chain may go on: its
// baton. An anchor is stored with the proof that its block has it, which was checked when
// the block came. So an auditor can get the proof whatever has become of the node. The
// merkle branches of a block's anchors share most of their nodes; each node is stored once.
//
// # What is pending
//
// What a node's mempool would do is a change as well, of the current snapshot, that is never
// committed. Its writes stay in memory, and are read over those of the store (store.Txn): so
// all rules and all questions are those of blocks, and a block that holds just that gives the same answers. It
// hangs on its snapshot and goes with it. It is made of a snapshot that is held, and not by the writer, who
// waits for none of it; where memory is short, it gives way to blocks. Nothing of it is
// written to disk, and no view as of a block sees it.
//
// # What is followed
//
// A block at the top of an identity of a million keys changes them all, and thousands of clients follow some of them. A
// goroutine of the graph's finds what a step has changed of what is followed, once for each step, after it was published. No
// step and no question waits for that, and if nobody follows it does nothing. It goes down from the keys whose
// own link or name is another: they are on the pages of memory that the two versions do not share. Counts beside the nodes of
// the forest (forest.Watch) tell below which nodes somebody follows a key: so k keys are found in O(k log n). A branch within a
// branch is looked at once. So the cost of a block is that of its changes and of what is followed, and not their
// product, whatever it does at the top. It passes over steps that come faster than that. Who asks about one of these,
// or about one from before he followed or long ago, has his own keys compared before and after it.
//
// # Durability
//
// A step is on disk before Connect or Disconnect returns nil, and is found there
// as a whole or not at all, whenever the process is killed or a write fails:
//
//  1. There is room on the disk, or the step is refused.
//  2. It is written and synced in as few transactions as Badger allows, often one; a
//     large one in stages. New blocks lie above the tip, where nobody reads, until the
//     last transaction names the new tip; a block that is taken back lies above it from
//     the first one on, and is removed like what a crash has left.
//  3. What is above the tip after a crash is removed at the next start: a block's
//     undo record, which lists what it adds, is its first to be written and its
//     last to be removed. Runs of txids come before the list that names them, that
//     before the tip, and after the tip what they have made needless is removed. What no list names is
//     removed at the next start.
//  4. After a failure the step is dropped, unless the tip on disk is the new one: then
//     it has been taken. What it has left above the tip is removed at once, or else
//     before the next step. If the tip cannot be read, the graph is broken and says so
//     until it is opened anew.
//
// Open checks every byte, and the tables are checked again from time to time. Damage is
// named and never served.
//
// Known gaps. Between two of those checks Badger may not find a record whose table has
// just been damaged, or may end the process over it. The end of the newest log may be lost
// like in a crash: the graph is then as it was some blocks before. A disk that somebody
// else fills within one step ends the process, as a kill would. The order of writes relies
// on fsync meaning what it says, also for a new file's name in its folder.
//
// # Concurrency
//
// One writer at a time: Connect and Disconnect exclude each other. Questions run
// concurrently with each other and with the writer, and wait for neither a lock nor
// the disk's acknowledgement of a step. A view holds a snapshot, of memory and store
// together: it sees one state for its whole life, or says that its block was taken
// back.
package graph
