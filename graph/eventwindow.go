package graph

import "github.com/dgraph-io/badger/v4"

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
	events = BlockEvents{Height: height, Hash: v.block.hash, PrevHash: v.block.prev, StateHash: v.block.stateHash}
	w := eventWindow{before: first, room: limit}
	if err := v.stillThere(); err != nil {
		return events, err
	}
	if events.Effects, err = effectsIn(&w, &v.ledger, height); err == nil && !w.more {
		events.Anchors, err = anchorEffectsIn(&w, v.ledger.txn, height)
	}
	events.More = w.more
	return events, err
}

// eventWindow selects some of a block's events, which are shown to it in their order.
type eventWindow struct {
	before int  // how many are left out at first
	room   int  // how many are taken after those
	more   bool // whether there are any behind those: no more need be shown
}

// takes tells whether the next event is taken.
func (w *eventWindow) takes() bool {
	switch {
	case w.before > 0:
		w.before--
		return false
	case w.room == 0:
		w.more = true
		return false
	}
	w.room--
	return true
}

// effectsIn reads the effects of the block at height that are in a window.
func effectsIn(w *eventWindow, l *ledger, height uint32) (effects []Effect, err error) {
	stored := chunkReader{txn: l.txn, prefix: prefixEffects, height: height}
	for !w.more {
		if left, err := stored.fill(maxStoredEffect); err != nil || !left {
			return effects, err
		}
		o, err := stored.storedEffect(l.known)
		if err != nil {
			return nil, err
		}
		if !w.takes() {
			continue
		}
		effect, err := effectOf(l, &o)
		if err != nil {
			return nil, err
		}
		effects = append(effects, effect)
	}
	return effects, nil
}

// anchorEffectsIn reads those effects on chains of anchors of the block at height that
// are in a window.
func anchorEffectsIn(w *eventWindow, txn *badger.Txn, height uint32) (effects []AnchorEffect, err error) {
	breaks := chunkReader{txn: txn, prefix: prefixBreaks, height: height}
	number := uint32(0)
	for chunk := uint32(0); !w.more; chunk++ {
		some, err := read(txn, chunkKey(prefixAnchorTxs, height, chunk))
		if err != nil || some == nil {
			return effects, err
		}
		txs, err := decodeAnchorTxs(some)
		if err != nil {
			return nil, err
		}
		for i := range txs {
			broken, err := breaks.breaksBy(number)
			if err != nil {
				return nil, err
			}
			for _, effect := range txs[i].effects(broken) {
				if w.takes() {
					effects = append(effects, effect)
				}
			}
			number++
		}
	}
	return effects, nil
}

// chunkReader reads a long value of a height. It holds a chunk or two of it at a time.
type chunkReader struct {
	txn    *badger.Txn
	prefix byte
	height uint32

	next    uint32 // the number of the chunk to be read
	ended   bool   // there is none of that number
	buf     []byte
	decoder // over what was read of the value
}

// fill reads on until n bytes can be decoded, or all that are left. It tells whether
// there are any.
func (r *chunkReader) fill(n int) (left bool, err error) {
	for !r.ended && len(r.rest) < n {
		chunk, err := read(r.txn, chunkKey(r.prefix, r.height, r.next))
		if err != nil {
			return false, err
		}
		r.next, r.ended = r.next+1, chunk == nil
		r.buf = append(append(r.buf[:0], r.rest...), chunk...)
		r.rest = r.buf
	}
	return len(r.rest) > 0, nil
}
