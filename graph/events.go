package graph

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// Disconnected is a block that was taken off the best chain.
type Disconnected = store.Stale

// BlockEvents is what one connected block changed, or a part of it.
type BlockEvents struct {
	Height    uint32
	Hash      chainhash.Hash
	PrevHash  chainhash.Hash
	StateHash [32]byte
	StateRoot [32]byte         // zero if none was kept when the block came
	Time      uint32           // of its header, in seconds since 1970
	Effects   []links.Effect   // in the order of the canonical encoding
	Anchors   []anchors.Effect // likewise, after Effects
	More      bool             // whether the block has events behind these
}

// Events returns what the applied block at height changed: of its events, at most limit
// from the one of number first on. Those that are Effects come before those that are
// Anchors. What it holds grows with limit, not with the block, whose length payers of
// fees decide. ErrHeight if there is no such block; ErrReorganised if it is taken back
// meanwhile.
func (g *Graph) Events(height uint32, first, limit int) (events BlockEvents, err error) {
	v, err := g.At(&height)
	if err != nil {
		return BlockEvents{}, err
	}
	defer v.Close()
	events = BlockEvents{Height: height, Hash: v.block.Hash, PrevHash: v.block.Prev, StateHash: v.block.StateHash, StateRoot: v.block.StateRoot, Time: v.block.Time}
	// One more than is asked for shows whether there are more.
	limit = min(limit, math.MaxInt-1)
	var passed int
	if events.Effects, passed, err = v.Effects(first, limit+1); err != nil {
		return events, err
	}
	if left := limit + 1 - len(events.Effects); left > 0 {
		if events.Anchors, err = v.AnchorEffects(first-passed, left); err != nil {
			return events, err
		}
	}
	if events.More = len(events.Effects)+len(events.Anchors) > limit; events.More {
		if n := len(events.Anchors); n > 0 {
			events.Anchors = events.Anchors[:n-1]
		} else {
			events.Effects = events.Effects[:limit]
		}
	}
	return events, nil
}

// BlockHeader returns what the graph keeps of the header of the applied block at
// height: Hash, PrevBlock, Time and Bits; the rest is zero. ErrHeight if there is
// no such block.
func (g *Graph) BlockHeader(height uint32) (protocol.Header, error) {
	v, err := g.At(&height)
	if err != nil {
		return protocol.Header{}, err
	}
	defer v.Close()
	return protocol.Header{Hash: v.block.Hash, PrevBlock: v.block.Prev, Time: v.block.Time, Bits: v.block.Bits}, nil
}

// Disconnects returns the stale blocks with a height in [from, to], in the order
// in which they were taken off the chain, also those that have come back to it
// since. Those older than the undo horizon are forgotten; of a block that was
// taken off twice the last time counts.
func (g *Graph) Disconnects(from, to uint32) ([]Disconnected, error) {
	type stale struct {
		Disconnected
		seq uint64
	}
	var found []stale
	err := g.inStore(func(txn *store.Txn) error {
		it := store.NewIterator(txn, []byte{store.PrefixStale})
		defer it.Close()
		for it.Seek(store.HeightKey(store.PrefixStale, from)); it.Valid(); it.Next() {
			block, seq, err := store.ReadStale(it.Item())
			if err != nil {
				return err
			}
			if block.Height > to {
				break
			}
			found = append(found, stale{block, seq})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b stale) int { return cmp.Compare(a.seq, b.seq) })
	blocks := make([]Disconnected, len(found))
	for i := range found {
		blocks[i] = found[i].Disconnected
	}
	return blocks, nil
}

// DisconnectedBlock returns a stale block. ErrNotFound if it is not known to
// have been taken off the chain.
func (g *Graph) DisconnectedBlock(height uint32, hash chainhash.Hash) (block Disconnected, err error) {
	err = g.inStore(func(txn *store.Txn) (err error) {
		var found bool
		if block, found, err = readStale(txn, height, hash); err == nil && !found {
			err = fmt.Errorf("stale block %v at height %d: %w", hash, height, store.ErrNotFound)
		}
		return err
	})
	return block, err
}

// readStale reads a stale block; found is false if there is none.
func readStale(txn *store.Txn, height uint32, hash chainhash.Hash) (block Disconnected, found bool, err error) {
	key := store.StaleKey(height, hash)
	value, err := store.Read(txn, key)
	if err != nil || value == nil {
		return block, false, err
	}
	block, _, err = store.DecodeStale(key, value)
	return block, err == nil, err
}

// nextStale returns the number of the next block to be taken off the chain.
func nextStale(txn *store.Txn) (uint64, error) {
	it := store.NewIterator(txn, []byte{store.PrefixStale})
	defer it.Close()
	var next uint64
	for it.Rewind(); it.Valid(); it.Next() {
		_, seq, err := store.ReadStale(it.Item())
		if err != nil {
			return 0, err
		}
		next = max(next, seq+1)
	}
	return next, nil
}
