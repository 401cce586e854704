package fsck

import (
	"bytes"
	"errors"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/state"
	"github.com/keytree-bch/keytree/graph/store"
)

// block applies the block under way to the inspection's state, and compares all
// that it must have written. record is nil if the chain cannot be followed. hash
// is the state hash that should follow, before and after.
func (i *inspection) block(above store.Block, hash *[32]byte) (record *store.Block, err error) {
	key := store.HeightKey(store.PrefixBlock, i.height)
	value, err := i.get(key)
	if err != nil || value == nil {
		return nil, err
	}
	b, err := store.DecodeBlock(value)
	if err != nil {
		i.find(key, "%v", err)
		return nil, nil
	}
	if i.height > i.params.StartHeight && b.Prev != above.Hash {
		i.find(key, "follows block %v, the one before it is %v", b.Prev, above.Hash)
	}
	again := state.Block{Height: i.height, Hash: b.Hash}
	if again.Actions, err = i.actions(); err != nil || i.stopped {
		return nil, err
	}
	if again.Anchors, err = i.anchors(&b); err != nil || i.stopped {
		return nil, err
	}
	step, err := state.Apply(i.state, state.NewDraft(i.txn, i.state, i.height, len(again.Actions)), &again, above.Counts)
	if err != nil {
		return nil, i.unusable(store.ChunkKey(store.PrefixActions, i.height, 0), err)
	}
	if ok, err := i.compareHash(key, step, &b, above.StateHash, hash); err != nil || !ok {
		return nil, err
	}
	if root, err := step.Root(); err != nil {
		return nil, i.unusable(key, err)
	} else if root != b.StateRoot && b.StateRoot != [32]byte{} {
		i.find(key, "state root %x, by the block's actions it is %x", b.StateRoot, root)
	}
	if counts := step.Counts(); counts != b.Counts {
		i.find(key, "counts %+v, expected %+v", b.Counts, counts)
	}
	w := store.Writes{StageBytes: i.stageBytes, Out: i.compareAll}
	if err := step.Write(&w, &b); err != nil {
		return nil, i.unusable(store.ChunkKey(store.PrefixAnchorTxs, i.height, 0), err)
	}
	w.Flush()
	return &b, w.Err
}

// compareHash compares the state hash of a block's record with the one that follows from the
// step. ok is false if the chain cannot be followed.
func (i *inspection) compareHash(key []byte, step *state.Step, b *store.Block, above [32]byte, hash *[32]byte) (ok bool, err error) {
	// One wrong link of the chain is reported once: what follows may build on the
	// stored hash or on the right one.
	should := step.Hash(*hash)
	if b.StateHash != should && b.StateHash != step.Hash(above) {
		effects, err := store.ReadChunks(i.txn, store.PrefixEffects, i.height)
		if err != nil {
			return false, err
		}
		if !bytes.Equal(effects, step.StoredEffects()) {
			i.find(store.ChunkKey(store.PrefixActions, i.height, 0), "by the rules these actions have neither the effects that are stored nor the state hash: %s",
				i.state.Links.EffectsDiffer(effects, step.StoredEffects()))
			return false, nil
		}
		i.find(key, "state hash %x, by the block's actions it is %x", b.StateHash, should)
	}
	*hash = should
	return true, nil
}

// compareAll compares what a block would write with what is stored.
func (i *inspection) compareAll(stage []store.Entry) error {
	for _, e := range stage {
		switch {
		case e.Key[0] == store.PrefixUndo && i.height < i.undoFrom: // it was dropped
			continue
		case e.Key[0] == store.PrefixBlock: // it has been compared
			continue
		}
		if err := i.compare(e.Key, e.Value); err != nil {
			return err
		}
	}
	return nil
}

// actions reads the actions of the block under way. It stops the inspection if
// they cannot be read.
func (i *inspection) actions() ([]links.Action, error) {
	actions, err := links.ReadActions(i.txn, i.height, i.message)
	if err != nil {
		return nil, i.unusable(store.ChunkKey(store.PrefixActions, i.height, 0), err)
	}
	for n := 1; n < len(actions); n++ {
		if a := &actions[n]; actions[n-1].Index >= a.Index {
			i.find(store.ChunkKey(store.PrefixActions, i.height, uint32(n/links.ActionsPerChunk)), "action %v is not in order of position", a.TxID)
			i.stopped = true
			return nil, nil
		}
	}
	return actions, nil
}

// anchors reads the anchors of the block under way. It stops the inspection if they cannot be believed.
func (i *inspection) anchors(b *store.Block) (anchors.Block, error) {
	again, sound, err := anchors.ReadBlock(i.txn, i.height, b.Hash, func(key []byte, why error) { i.find(key, "%v", why) })
	i.stopped = i.stopped || !sound
	return again, err
}

// unusable reports damage to what the rules are applied to, and stops the
// inspection. Other errors it returns.
func (i *inspection) unusable(key []byte, err error) error {
	if errors.Is(err, store.ErrDamaged) || errors.Is(err, store.ErrBlock) {
		i.find(key, "%v", err)
		i.stopped = true
		return nil
	}
	return err
}

// message reads a long message, or returns another one of its length if it is
// not all there: comparing finds what is missing.
func (i *inspection) message(at store.Position, length uint32) ([]byte, error) {
	message, err := links.LongMessage(i.txn, at, length)
	if errors.Is(err, store.ErrDamaged) || err == nil && uint32(len(message)) != length {
		i.find(store.MessageKey(at, 0), "%d bytes in all chunks, expected %d", len(message), length)
		return make([]byte, min(length, 1<<20)), nil
	}
	return message, err
}

// compareMemory compares what would be held in memory once the graph has been opened with what the
// rules came to.
func (i *inspection) compareMemory() error {
	if len(i.Findings) > 0 {
		return nil
	}
	what, err := i.state.DiffersFromStore(i.txn)
	switch {
	case errors.Is(err, store.ErrDamaged):
		i.add(Finding{Problem: err.Error()})
		return nil
	case what != "":
		i.add(Finding{Problem: "what is read at the start has other " + what + " than the rules give"})
	}
	return err
}
