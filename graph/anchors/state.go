package anchors

import (
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/cow"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// none stands for no transaction and no break, where a number is expected.
const none = cow.None

// State is what is held in memory of anchors: where their chains may go on. It is a version,
// as package cow has them: a step changes a fork.
type State struct {
	batons cow.Index[chainhash.Hash] // txids whose output 0 they are
}

// NewState returns the state before the first block.
func NewState() *State { return &State{cow.NewIndex[chainhash.Hash]()} }

// Fork returns a state that is as s is now, to be changed. s must not be changed any
// more.
func (s *State) Fork() *State { return &State{s.batons.Fork()} }

// Open returns how many chains may go on.
func (s *State) Open() int { return int(s.batons.Len()) }

// Batons returns the txids whose output 0 is the baton of an unbroken chain of
// anchors, in any order: whatever spends one of them matters.
func (s *State) Batons() []chainhash.Hash {
	txids := make([]chainhash.Hash, 0, s.batons.Len())
	for n := range s.batons.Len() {
		txids = append(txids, s.batons.Key(n))
	}
	return txids
}

// Differs says in what two states are not the same, "" if they are.
func (s *State) Differs(t *State) string {
	if s.batons.Len() != t.batons.Len() {
		return "batons of chains of anchors"
	}
	for n := range s.batons.Len() {
		if t.batons.Find(s.batons.Key(n)) == none {
			return "batons of chains of anchors"
		}
	}
	return ""
}

// Load derives a state that was new from the store.
func (s *State) Load(txn *store.Txn) error {
	return store.EachNewest(txn, store.PrefixChain, store.ChainStemSize, func(_, value []byte) error { return s.takeBaton(value) })
}

// TakeBack takes the batons back that the block at height made, and gives those back
// that it spent. txn reads the store with the block; changed are the keys that it added under
// store.PrefixChain. After an error, which is the store's, the state is to be dropped.
func (s *State) TakeBack(txn *store.Txn, height uint32, changed [][]byte) error {
	made, err := readTxs(txn, height)
	if err != nil {
		return err
	}
	for i := range made {
		if n := s.batons.Find(made[i].txid); n != none {
			s.batons.Remove(n)
		}
	}
	for _, key := range changed {
		value, _, err := store.VersionBefore(txn, key)
		if err != nil {
			return err
		}
		if value == nil {
			continue // the block began it
		}
		if err := s.takeBaton(value); err != nil {
			return err
		}
	}
	return nil
}

// takeBaton notes the baton of the chain with a record, if it has one.
func (s *State) takeBaton(record []byte) error {
	r, err := decodeChainRecord(record)
	if err != nil {
		return err
	}
	if r.how == protocol.Unbroken {
		s.batons.Add(r.last)
	}
	return nil
}
