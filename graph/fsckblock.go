package graph

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/cow"
	"github.com/keytree-bch/keytree/protocol"
)

// block applies the block under way to the inspection's state, and compares all
// that it must have written. record is nil if the chain cannot be followed. hash
// is the state hash that should follow, before and after.
func (i *inspection) block(above blockRecord, hash *[32]byte) (record *blockRecord, err error) {
	key := heightKey(prefixBlock, i.height)
	value, err := i.get(key)
	if err != nil || value == nil {
		return nil, err
	}
	b, err := decodeBlockRecord(value)
	if err != nil {
		i.find(key, "%v", err)
		return nil, nil
	}
	if i.height > i.params.StartHeight && b.prev != above.hash {
		i.find(key, "follows block %v, the one before it is %v", b.prev, above.hash)
	}
	actions, err := i.actions()
	if err != nil || i.stopped {
		return nil, err
	}
	effects, err := readChunks(i.txn, prefixEffects, i.height)
	if err != nil {
		return nil, err
	}
	again := Block{Height: i.height, Hash: b.hash, Actions: actions}
	if err := i.anchors(&again); err != nil || i.stopped {
		return nil, err
	}
	s := newStep(i.state, newDraft(i.ledger(), len(actions)), i.height, above.counts)
	if err := s.apply(&again); err != nil {
		return nil, i.unusable(chunkKey(prefixActions, i.height, 0), err)
	}
	// One wrong link of the chain is reported once: what follows may build on the
	// stored hash or on the right one.
	should := nextStateHash(*hash, b.hash, s.effects)
	if b.stateHash != should && b.stateHash != nextStateHash(above.stateHash, b.hash, s.effects) {
		if !bytes.Equal(effects, s.storedEffects) {
			i.find(chunkKey(prefixActions, i.height, 0), "by the rules these actions have neither the effects that are stored nor the state hash: %s",
				i.difference(effects, s.storedEffects))
			return nil, nil
		}
		i.find(key, "state hash %x, by the block's actions it is %x", b.stateHash, should)
	}
	*hash = should
	if s.counts != b.counts {
		i.find(key, "counts %+v, expected %+v", b.counts, s.counts)
	}
	w := writes{stageBytes: i.stageBytes}
	w.out = func(stage []entry) error {
		for _, e := range stage {
			switch {
			case e.key[0] == prefixUndo && i.height < i.undoFrom: // it was dropped
				continue
			case e.key[0] == prefixBlock: // it has been compared
				continue
			}
			if err := i.compare(e.key, e.value); err != nil {
				return err
			}
		}
		return nil
	}
	w.beginBlock(i.height)
	w.set(key, value)
	s.write(&w)
	w.flush()
	if s.err != nil {
		return nil, i.unusable(chunkKey(prefixAnchorTxs, i.height, 0), s.err)
	}
	if w.err != nil {
		return nil, w.err
	}
	return &b, nil
}

// ledger returns what the store has as of the block before the one under way.
func (i *inspection) ledger() ledger {
	return ledger{txn: i.txn, blocks: &i.state.blocks, known: i.state.actions, next: i.height}
}

// actions reads the actions of the block under way. It stops the inspection if
// they cannot be read.
func (i *inspection) actions() (actions []Action, err error) {
	stored, err := readActions(i.txn, i.height)
	if err != nil {
		return nil, i.unusable(chunkKey(prefixActions, i.height, 0), err)
	}
	before := i.ledger()
	txids := make(map[chainhash.Hash]bool, len(stored))
	for n := range stored {
		a := &stored[n]
		known, err := before.number(a.txid)
		if err != nil {
			return nil, err
		}
		if known != none || txids[a.txid] {
			i.find(chunkKey(prefixActions, i.height, uint32(n/actionsPerChunk)), "action %v is on the chain already", a.txid)
			i.stopped = true
			return nil, nil
		}
		txids[a.txid] = true
		if n > 0 && stored[n-1].index >= a.index {
			i.find(chunkKey(prefixActions, i.height, uint32(n/actionsPerChunk)), "action %v is not in order of position", a.txid)
			i.stopped = true
			return nil, nil
		}
		action := Action{Index: a.index, TxID: a.txid, Action: protocol.Action{Kind: a.kind, Parent: a.parent, Ref: a.reference, Message: a.message}}
		if a.hasAuthor {
			action.Author = &a.author
		}
		if a.malformed {
			action.Malformed = errors.New("malformed")
		}
		if a.messageLen > inlineMessage {
			if action.Message, err = i.message(position{i.height, a.index}, a.messageLen); err != nil {
				return nil, err
			}
		}
		actions = append(actions, action)
	}
	return actions, nil
}

// anchors reads the anchors of the block under way, of which only the proofs and
// the authors are believed. It stops the inspection if they cannot be.
func (i *inspection) anchors(b *Block) error {
	stored, err := readAnchorTxs(i.txn, i.height)
	if err != nil || len(stored) == 0 {
		return i.unusable(chunkKey(prefixAnchorTxs, i.height, 0), err)
	}
	header, err := readAnchorHeader(i.txn, i.height)
	var root chainhash.Hash
	if b.Header = header.header; err == nil {
		root, err = b.merkleRoot()
	}
	if err != nil {
		return i.unusable(heightKey(prefixHeader, i.height), err)
	}
	raws := newReader(i.txn, heightKey(prefixRawTx, i.height))
	defer raws.Close()
	for n := range stored {
		t, place := &stored[n], anchorPlace{i.height, uint32(n)}
		a := AnchorTx{Index: t.index}
		if t.hasAuthor {
			a.Author = &t.author
		}
		if a.Raw, err = readRawTx(raws, place); err == nil && a.Raw.TxID() != t.txid {
			err = fmt.Errorf("%w: it is transaction %v, expected %v", ErrDamaged, a.Raw.TxID(), t.txid)
		}
		if err != nil {
			i.find(anchorTxsKey(place), "transaction %v is not the one that is stored", t.txid)
			return i.unusable(appendRawTxKey(nil, place, 0), err)
		}
		b.Anchors = append(b.Anchors, a)
	}
	if b.Merkle, err = i.merkleTree(); err != nil || i.stopped {
		return err
	}
	if err := b.checkAnchors(); err != nil {
		i.findUnproven(b, root)
		return i.unusable(heightKey(prefixMerkle, i.height), err)
	}
	return nil
}

// merkleTree reads all merkle nodes of the block under way. It stops the inspection if
// they cannot be read, or are not where they are looked for.
func (i *inspection) merkleTree() (tree protocol.PartialMerkleTree, err error) {
	it := newReader(i.txn, heightKey(prefixMerkle, i.height))
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		key := it.Item().KeyCopy(nil)
		value, err := it.Item().ValueCopy(nil)
		if err != nil {
			return nil, fmt.Errorf("reading the database: %w", err)
		}
		chunk := merkleChunk(value)
		if err := chunk.check(); err != nil {
			return nil, i.unusable(key, err)
		}
		for n := range chunk.len() {
			tree = append(tree, chunk.at(n))
		}
		last := tree[len(tree)-1]
		if !bytes.Equal(key, appendMerkleKey(nil, i.height, last.Level, last.Index)) {
			return nil, i.unusable(key, fmt.Errorf("%w: the last merkle node is %d of level %d", ErrDamaged, last.Index, last.Level))
		}
	}
	return tree, nil
}

// findUnproven reports the first anchor of a block that cannot be shown to be in it, if
// there is one.
func (i *inspection) findUnproven(b *Block, root chainhash.Hash) {
	for n := range b.Anchors {
		a := &b.Anchors[n]
		branch, err := b.Merkle.Branch(a.Index)
		if err == nil {
			err = protocol.CheckMerkleBranch(a.Raw, a.Index, branch, root)
		}
		if err != nil {
			i.find(anchorTxsKey(anchorPlace{i.height, uint32(n)}), "transaction %v cannot be shown to be in the block: %v", a.Raw.TxID(), err)
			return
		}
	}
}

// unusable reports damage to what the rules are applied to, and stops the
// inspection. Other errors it returns.
func (i *inspection) unusable(key []byte, err error) error {
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrBlock) {
		i.find(key, "%v", err)
		i.stopped = true
		return nil
	}
	return err
}

// message reads a long message, or returns another one of its length if it is
// not all there: comparing finds what is missing.
func (i *inspection) message(at position, length uint32) ([]byte, error) {
	message, err := longMessage(i.txn, at, length)
	if errors.Is(err, ErrDamaged) || err == nil && uint32(len(message)) != length {
		i.find(messageKey(at, 0), "%d bytes in all chunks, expected %d", len(message), length)
		return make([]byte, min(length, 1<<20)), nil
	}
	return message, err
}

// difference says where two lists of effects part.
func (i *inspection) difference(stored, right []byte) string {
	a, err := decodeStoredEffects(stored, i.state.actions)
	if err != nil {
		return err.Error()
	}
	b, err := decodeStoredEffects(right, i.state.actions)
	if err != nil {
		return err.Error()
	}
	for n := range max(len(a), len(b)) {
		switch {
		case n >= len(a):
			return fmt.Sprintf("effect %d should be %+v, there is none", n, b[n])
		case n >= len(b):
			return fmt.Sprintf("effect %d is %+v, there should be none", n, a[n])
		case a[n] != b[n]:
			return fmt.Sprintf("effect %d is %+v, it should be %+v", n, a[n], b[n])
		}
	}
	return "they are encoded otherwise"
}

// compareMemory compares what Open would hold in memory with what the rules came
// to.
func (i *inspection) compareMemory() error {
	if len(i.Findings) > 0 {
		return nil
	}
	loaded := newState()
	loaded.waiting.seed = i.state.waiting.seed
	if err := loaded.load(i.txn, math.MaxInt); errors.Is(err, ErrDamaged) {
		i.add(Finding{Problem: err.Error()})
		return nil
	} else if err != nil {
		return err
	}
	if what := i.state.differs(loaded); what != "" {
		i.add(Finding{Problem: "what is read at the start has other " + what + " than the rules give"})
	}
	return nil
}

func sameMap[K, V comparable](a, b *cow.Map[K, V]) bool {
	return maps.Equal(maps.Collect(a.All()), maps.Collect(b.All()))
}

// differs says in what two states are not the same, "" if they are. The numbers of keys
// may differ.
func (s *state) differs(t *state) string {
	inIdentities := int32(0)
	for n := range s.places.Len() {
		if !s.places.Ref(n).named() {
			continue // taken back
		}
		inIdentities++
		key := s.keys.Key(n)
		m := t.inIdentity(key)
		if m == none {
			return fmt.Sprintf("keys: %x is missing", key)
		}
		if s.forest.Depth(n) != t.forest.Depth(m) || s.forest.Size(n) != t.forest.Size(m) ||
			s.keys.Key(s.forest.Root(n)) != t.keys.Key(t.forest.Root(m)) || s.record(n) != t.record(m) {
			return fmt.Sprintf("links of key %x", key)
		}
		p, q := s.places.Ref(n), t.places.Ref(m)
		if s.keyOr(p.last) != t.keyOr(q.last) || s.keyOr(p.previous) != t.keyOr(q.previous) ||
			p.mentioned != q.mentioned || p.since != q.since {
			return fmt.Sprintf("places of key %x", key)
		}
	}
	for n := range t.places.Len() {
		if t.places.Ref(n).named() {
			inIdentities--
		}
	}
	if inIdentities != 0 {
		return "keys"
	}
	if s.actions != t.actions || s.blocks.Len() != t.blocks.Len() {
		return "actions"
	}
	for n := range s.blocks.Len() {
		if s.blocks.At(n) != t.blocks.At(n) {
			return "actions"
		}
	}
	if !sameMap(&s.waiting.counts, &t.waiting.counts) {
		return "waiting actions"
	}
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

// keyOr returns the key with a number, a zero one if that is none.
func (s *state) keyOr(n int32) (key protocol.KeyHash) {
	if n == none {
		return key
	}
	return s.keys.Key(n)
}
