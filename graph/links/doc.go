// Package links holds the rules of links between keys (identity-rules §3 to §6), where keys
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
//	write.go        what a block writes
//	undo.go         taking a block back
//	load.go         the state in memory, from the store
//	answers.go      what is answered
//	view.go         questions as of a block: resolving, identities
//	past.go         resolving as of an older block, and what a question may cost
//	members.go      the keys of an identity
//	actions.go      actions and what became of them
//	differs.go      whether two states are the same
package links
