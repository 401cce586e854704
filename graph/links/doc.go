// Package links holds the rules of links between keys (protocol/SPEC.md §3 to §6), where keys
// stand because of them, and what became of the actions that ask for, accept and revoke them. It
// knows nothing of anchors, nor of when a step is written or who asks.
//
//	rules.go        one block's actions to transitions, in the four phases
//	join.go         which id a tree has when links come and go
//	effect.go       transitions, their canonical encoding
//	storedeffect.go the same as they are stored, by number
//	state.go        what is held in memory: where the keys of links stand
//	waiting.go      what actions wait for
//	ledger.go       what the store has of actions and names
//	draft.go        what a change adds to it
//	record.go       the values in the store
//	keyversion.go   where keys stood as of each block that changed that
//	write.go        what a block writes
//	undo.go         taking a block back
//	load.go         the state in memory, from the store
//	records.go      the records of the state root
//	pastrecords.go  the same as of an older block
//	answers.go      what is answered
//	view.go         questions as of a block: resolving, identities
//	past.go         resolving as of an older block, and what a question may cost
//	members.go      the keys of an identity
//	below.go        the links directly below a key
//	actions.go      actions and what became of them
//	requests.go     link requests that a key was asked for
//	differs.go      whether two states are the same
//
// # What a question may cost
//
// Payers of fees decide how large identities and lists become, and clients what is asked about
// them, as of which block. So the work of each question is bounded, whatever there is:
//
//	Resolve       as of the tip logarithmic in the identity's size; else MaxWork, or ErrWork
//	Identity      35 records
//	Members       MaxWork, after which the page ends; with a cursor what Resolve takes besides, or ErrWork
//	Action        14 records, the message, in chunks of 64 kB, and a chunk of 4 kB of each run of txids
//	ActionsOf     a page: what Action takes for each, but 512 kB of messages and the last one; 64 records to
//	              come to the first, and 4,096 that are passed over, after which the page ends
//	Requests      a page: what Action takes and one more for each, but 512 kB of messages and the last one; 64 records
//	              to come to the first, and twice 4,096 for what is passed over, after which the page ends
//	Request       15 records and the message
//	Touched       four records for each of 1,000 actions
//	LinksBelow    a page: recordWork for each, less than MaxWork up to 4,000
//	PastRecords   a record: Find two records and an action, Back and Rebuild what they say
//	Effects       a chunk of 4,096 of those of the block before the page, 10 ns each, and 7 records for each on it
//
// The tests named Adversary reach the first three, and Requests, with identities that are made for that.
package links
