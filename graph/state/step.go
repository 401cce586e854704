package state

import (
	"crypto/sha256"
	"hash"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// Block is a block's actions, in any order, and its anchors.
type Block struct {
	Height   uint32
	Hash     chainhash.Hash
	PrevHash chainhash.Hash
	Time     uint32 // as the header says, like Bits; the graph keeps both
	Bits     uint32
	Actions  []links.Action
	Anchors  anchors.Block
}

// Step is a block that has been applied.
type Step struct {
	state   *State
	height  uint32
	block   chainhash.Hash
	effects hash.Hash // SHA-256 of them in their canonical encoding
	links   *links.Step
	anchors *anchors.Step
}

// Apply applies a block to a state, of which d is the draft; counts are those as of the block
// before. Its anchors must have been checked, and Repeats must have found nothing. ErrBlock if the
// block contradicts itself or the chain; other errors are the store's. The state is to be dropped
// then.
func Apply(s *State, d *Draft, b *Block, counts store.Counts) (*Step, error) {
	step := &Step{state: s, height: b.Height, block: b.Hash, effects: sha256.New()}
	var err error
	if step.links, err = links.Apply(s.Links, d.links, b.Height, b.Actions, counts, step.effects); err != nil {
		return nil, err
	}
	step.anchors, err = anchors.Apply(s.Anchors, d.anchors, b.Height, &b.Anchors, s.identityOf, step.effects)
	return step, err
}

// identityOf returns the identity of a key, a zero one if it is in none.
func (s *State) identityOf(key protocol.KeyHash) anchors.Identity {
	id, root := s.Links.IdentityOf(key)
	if id == (chainhash.Hash{}) {
		return anchors.Identity{}
	}
	return anchors.Identity{ID: id, Root: root}
}

// Repeats returns ErrBlock if one of the block's transactions that are anchors is an action or an
// anchor on the chain, or one that is an action is an anchor of the same change; other errors are
// the store's.
func (d *Draft) Repeats(b *Block) error {
	for i := range b.Actions {
		if height, ok := d.anchors.OwnHeight(b.Actions[i].TxID); ok {
			return store.OnChain(b.Actions[i].TxID, height)
		}
	}
	for i := range b.Anchors.Txs {
		txid := b.Anchors.Txs[i].Raw.TxID()
		for _, of := range []func(chainhash.Hash) (uint32, bool, error){d.anchors.HeightOf, d.links.HeightOf} {
			if height, ok, err := of(txid); err != nil {
				return err
			} else if ok {
				return store.OnChain(txid, height)
			}
		}
	}
	return nil
}

// Counts returns the totals as of the block.
func (s *Step) Counts() store.Counts { return s.links.Counts }

// Tally returns what became of actions by the block.
func (s *Step) Tally() links.Tally { return s.links.Tally }

// Hash returns the state hash that follows from the one before the block.
func (s *Step) Hash(before [32]byte) [32]byte { return nextHash(before, s.block, s.effects) }

// Root returns the state root as of the block, which it makes; zero if the state keeps none. Errors are the
// store's.
func (s *Step) Root() (root [32]byte, err error) {
	err = s.links.UpdateRecords()
	return s.state.Links.StateRoot(), err
}

// StoredEffects returns the effects of the block's actions as they are stored.
func (s *Step) StoredEffects() []byte { return s.links.StoredEffects() }

// Write adds all that the block writes: its record, and what its actions and anchors have changed.
// Errors are the store's; those of w are in w.Err.
func (s *Step) Write(w *store.Writes, record *store.Block) error {
	w.BeginBlock(s.height)
	w.Set(store.HeightKey(store.PrefixBlock, s.height), record.Encode())
	s.links.Write(w)
	if err := s.anchors.Write(w); err != nil {
		return err
	}
	w.FinishBlock()
	return nil
}
