package graph

import (
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/keytree-bch/keytree/graph/forest"
	"github.com/keytree-bch/keytree/protocol"
)

// load derives the snapshot that a transaction sees, which reads by it from then on.
func load(txn *badger.Txn, params Params) (*snapshot, error) {
	s := newSnapshot()
	s.state, s.undoFrom, s.txn = newState(), params.StartHeight, txn
	height, err := tipHeight(txn)
	if err != nil {
		return nil, err
	}
	if height != nil {
		record, err := readBlock(txn, *height)
		if err != nil {
			return nil, err
		}
		s.setBlock(*height, record)
	}
	value, err := read(txn, []byte{prefixUndoFrom})
	if err != nil {
		return nil, err
	}
	if value != nil {
		d := decoder{rest: value}
		s.undoFrom = d.uint32()
		if err := d.finish("undo horizon"); err != nil {
			return nil, err
		}
	}
	return s, s.state.load(txn)
}

// tipHeight reads the height of the tip, nil if there is no block. ErrDamaged if
// the tip is not a block that is there: then nothing can be said to lie above it.
func tipHeight(txn *badger.Txn) (*uint32, error) {
	value, err := read(txn, []byte{prefixTip})
	if err != nil {
		return nil, err
	}
	if value == nil {
		return nil, fmt.Errorf("%w: no record of the tip", ErrDamaged)
	}
	if len(value) == 0 {
		return nil, nil
	}
	d := decoder{rest: value}
	height, hash := d.uint32(), d.hash()
	if err := d.finish("tip"); err != nil {
		return nil, err
	}
	record, err := readBlock(txn, height)
	if err == nil && record.hash != hash {
		err = fmt.Errorf("%w: the tip is block %v, at its height %d is %v", ErrDamaged, hash, height, record.hash)
	}
	return &height, err
}

// blockAbove returns the height of a block record above the tip, nil if there is
// none, as it should be once what was not finished has been swept.
func blockAbove(txn *badger.Txn, tip *uint32) *uint32 {
	it := newIterator(txn, []byte{prefixBlock})
	defer it.Close()
	from := []byte{prefixBlock}
	if tip != nil {
		from = append(heightKey(prefixBlock, *tip), 0)
	}
	if it.Seek(from); !it.Valid() || len(it.Item().Key()) != 5 {
		return nil
	}
	height := binary.BigEndian.Uint32(it.Item().Key()[1:])
	return &height
}

func readTip(txn *badger.Txn) (*Tip, error) {
	height, err := tipHeight(txn)
	if err != nil || height == nil {
		return nil, err
	}
	record, err := readBlock(txn, *height)
	if err != nil {
		return nil, err
	}
	return &Tip{Height: *height, Hash: record.hash, StateHash: record.stateHash, Counts: record.counts}, nil
}

func readBlock(txn *badger.Txn, height uint32) (blockRecord, error) {
	value, err := read(txn, heightKey(prefixBlock, height))
	if err != nil {
		return blockRecord{}, err
	}
	if value == nil {
		return blockRecord{}, fmt.Errorf("%w: no record of block %d", ErrDamaged, height)
	}
	return decodeBlockRecord(value)
}

// loader makes a state of the actions and effects of all blocks. It believes the
// effects: whether the rules give the same is for Check to see.
type loader struct {
	*state
	parents []int32         // by key; the forest is built of them in the end
	holds   map[int32]int32 // identities that hold a tree, with a key of it
}

func (s *state) load(txn *badger.Txn) error {
	l := loader{state: s, holds: make(map[int32]int32)}
	opt := badger.DefaultIteratorOptions
	opt.Prefix = []byte{prefixActions}
	it := txn.NewIterator(opt)
	defer it.Close()
	for it.Rewind(); it.Valid(); {
		key := it.Item().KeyCopy(nil)
		if len(key) != 9 {
			return fmt.Errorf("%w: the key of a chunk of actions has the wrong length", ErrDamaged)
		}
		height := binary.BigEndian.Uint32(key[1:])
		var actions []storedAction
		for ; it.ValidForPrefix(key[:5]); it.Next() {
			chunk, err := it.Item().ValueCopy(nil)
			if err != nil {
				return fmt.Errorf("reading the database: %w", err)
			}
			some, err := decodeActions(chunk)
			if err != nil {
				return err
			}
			actions = append(actions, some...)
		}
		effects, err := readChunks(txn, prefixEffects, height)
		if err != nil {
			return err
		}
		if err := l.block(height, actions, effects); err != nil {
			return fmt.Errorf("block %d: %w", height, err)
		}
	}
	if !forest.Rooted(l.parents) {
		return fmt.Errorf("%w: the links in force form a cycle", ErrDamaged)
	}
	s.forest.Build(l.parents)
	for id, key := range l.holds {
		s.places.Edit(s.forest.Root(key)).id = id
	}
	return s.loadBatons(txn)
}

// block adds a block as it was applied.
func (l *loader) block(height uint32, actions []storedAction, effects []byte) error {
	first := l.txids.Len()
	l.blocks.Append(blockSpan{height, first})
	for i := range actions {
		if n := l.add(&actions[i]); n != first+int32(i) {
			return fmt.Errorf("%w: transaction %v is there twice", ErrDamaged, actions[i].txid)
		}
	}
	for int(l.keys.Len()) > len(l.parents) {
		l.parents = append(l.parents, none)
	}
	storedEffects, err := decodeStoredEffects(effects, l.txids.Len(), l.keys.Len())
	if err != nil {
		return err
	}
	for i := range storedEffects {
		if err := l.effect(&storedEffects[i], height, first, actions); err != nil {
			return err
		}
	}
	for i := range actions {
		n := first + int32(i)
		keys, count := l.mentions(n, height)
		if count != len(actions[i].previous) {
			return fmt.Errorf("%w: action %v mentions %d keys, not %d", ErrDamaged, actions[i].txid, count, len(actions[i].previous))
		}
		for _, key := range keys[:count] {
			mentioned := l.mentioned.Edit(key)
			mentioned.last = n
			mentioned.count++
		}
	}
	return nil
}

// effect adds an effect of the block at height.
func (l *loader) effect(o *storedEffect, height uint32, first int32, actions []storedAction) error {
	n := o.action
	a := l.actions.Edit(n)
	switch o.effect {
	case IdentityNamed:
		return nil // the link before it says all
	case IdentityMerged:
		l.merge(n, o.target)
		delete(l.holds, n)
		return nil
	}
	ref := l.waiting.reference(n)
	if n >= first {
		ref = actions[n-first].reference
	}
	if o.effect == ActionWaiting {
		l.waiting.add(n, a.kind, ref)
		return nil
	}
	if a.decided != never {
		return fmt.Errorf("%w: action %v is decided twice", ErrDamaged, l.txids.Key(n))
	}
	l.waiting.remove(n, a.kind)
	a.decided = height
	switch o.effect {
	case RequestOpened:
		return nil
	case ActionRefused:
		a.reason = o.reason
		if a.kind != protocol.MLR && o.reason != Malformed && o.reason != NoAuthor {
			if target := l.find(ref); target != none {
				l.attach(n, target)
			}
		}
		return nil
	}
	l.attach(n, o.target)
	if a.child == none || a.parent == none {
		return fmt.Errorf("%w: action %v cannot have made or cut a link", ErrDamaged, l.txids.Key(n))
	}
	l.actions.Edit(o.target).ended = n
	l.holds[o.id] = a.parent
	if o.effect == LinkFormed {
		if l.parents[a.child] != none {
			return fmt.Errorf("%w: a key has two parents", ErrDamaged)
		}
		l.parents[a.child], l.places.Edit(a.child).accept = a.parent, n
		l.addChild(a.child, a.parent, height)
		return nil
	}
	if l.parents[a.child] != a.parent {
		return fmt.Errorf("%w: a link is cut that is not there", ErrDamaged)
	}
	l.parents[a.child], l.places.Edit(a.child).accept = none, none
	l.removeChild(a.child, a.parent, height)
	l.holds[n] = a.child
	return nil
}
