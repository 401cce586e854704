// Package state is the graph as of a block, as far as it is held in memory, and what one block
// makes of it: links and anchors, which have nothing to do with each other but the blocks, one step
// and the state hash. The rules of each are in packages links and anchors. How a state is written,
// published and asked is for package graph; whether the store has what the rules make of it, for
// package fsck.
package state

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"hash"
	"math"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
)

// State is what is held in memory. It is a version, as package cow has them: a step changes
// a fork. A state that was published is read by anybody and changed by nobody.
type State struct {
	Links   *links.State
	Anchors *anchors.State
}

// New returns the state before the first block. With roots it keeps the state root (protocol/SPEC.md §12).
func New(roots bool) *State {
	s := &State{links.NewState(), anchors.NewState()}
	if roots {
		s.Links.KeepRecords()
	}
	return s
}

// Fork returns a state that is as s is now, to be changed. s must not be changed any
// more.
func (s *State) Fork() *State { return &State{s.Links.Fork(), s.Anchors.Fork()} }

// Load derives a state from the store, with the state root or without. It believes what that says: whether the rules
// give the same is for package fsck to see. ErrMemory if there is no room for the keys in links, or what the state root
// is made of; ErrDamaged.
func Load(txn *store.Txn, room links.Room, roots bool) (*State, error) {
	return New(roots).load(txn, room)
}

func (s *State) load(txn *store.Txn, room links.Room) (*State, error) {
	if err := s.Links.Load(txn, room); err != nil {
		return nil, err
	}
	return s, s.Anchors.Load(txn)
}

// CheckRoot compares the state root with that of the state's block; ErrDamaged. It has nothing to
// compare if one of them has none.
func (s *State) CheckRoot(record *store.Block) error {
	root := s.Links.StateRoot()
	if root != record.StateRoot && record.StateRoot != [32]byte{} && s.Links.KeepsRecords() {
		return fmt.Errorf("%w: the block has state root %x, what is stored gives %x", store.ErrDamaged, record.StateRoot, root)
	}
	return nil
}

// Empty returns a state that is new, and can be compared with s once it has been loaded, or blocks have
// been applied to it.
func (s *State) Empty() *State { return &State{s.Links.Empty(), anchors.NewState()} }

// Differs says in what two states are not the same, "" if they are.
func (s *State) Differs(t *State) string {
	return cmp.Or(s.Links.Differs(t.Links), s.Anchors.Differs(t.Anchors))
}

// DiffersFromStore says in what the state is not what the store says, "" if it is. ErrDamaged if
// none can be derived from the store.
func (s *State) DiffersFromStore(txn *store.Txn) (what string, err error) {
	again, err := s.Empty().load(txn, links.Room{Keys: math.MaxInt, Records: math.MaxInt})
	if err != nil {
		return "", err
	}
	return s.Differs(again), nil
}

// TakeBack reverses what the block at height did, which is the last that the state has. txn reads
// the store with the block. After an error, which is the store's, the state is to be dropped.
func (s *State) TakeBack(txn *store.Txn, height uint32) error {
	var identities, chains [][]byte // that the block has changed
	err := store.EachAdded(txn, height, func(key []byte) error {
		switch key[0] {
		case store.PrefixIdentity:
			identities = append(identities, key)
		case store.PrefixChain:
			chains = append(chains, key)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.Links.TakeBack(txn, height, identities); err != nil {
		return err
	}
	return s.Anchors.TakeBack(txn, height, chains)
}

// Draft is what the store has, with what a change adds to it.
type Draft struct {
	links   *links.Draft
	anchors *anchors.Draft
}

// NewDraft returns a draft for a change of so many actions that makes a fork of the state as of the
// block before height next. txn reads the store as of that block, and may have more.
func NewDraft(txn *store.Txn, fork *State, next uint32, actions int) *Draft {
	return &Draft{links.NewDraft(txn, fork.Links, next, actions), anchors.NewDraft(txn, next)}
}

// nextHash is H(h) of protocol/SPEC.md §9: the previous state hash, the
// block's hash in internal byte order, and the SHA-256 of its encoded effects.
func nextHash(prev [32]byte, block chainhash.Hash, effects hash.Hash) [32]byte {
	h := sha256.New()
	h.Write(prev[:])
	h.Write(block[:])
	h.Write(effects.Sum(nil))
	return [32]byte(h.Sum(nil))
}
