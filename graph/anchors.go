package graph

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// AnchorTx is a confirmed transaction that carries an anchor, or spends the baton
// of a chain of anchors, or both. One that does neither is passed over, so
// whoever finds them may give too many.
type AnchorTx struct {
	Index  uint32            // in the block
	Author *protocol.KeyHash // nil: the tx has none
	Raw    protocol.Tx       // the serialized transaction
}

// AnchorEffect is a transition of a chain of anchors. Fields that its type does
// not name are zero. Hashes are in internal byte order.
type AnchorEffect struct {
	Type   EffectType // AnchorAdded, ChainBroken
	Tx     chainhash.Hash
	Chain  chainhash.Hash    // txid of the genesis anchor
	Anchor protocol.Anchor   // AnchorAdded
	Author *protocol.KeyHash // AnchorAdded; nil: the tx has none
	Break  protocol.Break    // ChainBroken
}

// appendTo appends the canonical encoding (SPEC.md, "State hash").
func (e *AnchorEffect) appendTo(b []byte) []byte {
	b = append(b, byte(e.Type))
	b = append(b, e.Tx[:]...)
	b = append(b, e.Chain[:]...)
	if e.Type == ChainBroken {
		return append(b, byte(e.Break))
	}
	b = binary.LittleEndian.AppendUint64(b, e.Anchor.Position)
	b = append(b, e.Anchor.Head[:]...)
	b = append(b, e.Anchor.Root[:]...)
	var author protocol.KeyHash
	if e.Author != nil {
		author = *e.Author
	}
	b = append(b, author[:]...)
	return append(append(b, byte(len(e.Anchor.Domain))), e.Anchor.Domain...)
}

// baton is the right to go on with a chain of anchors: output 0 of its last one.
type baton struct {
	chain  chainhash.Hash // txid of the genesis anchor
	number uint32         // of the last anchor in the chain
	anchor protocol.Anchor
}

// merkleRoot returns the merkle root in the header, which it checks to be the
// block's.
func (b *Block) merkleRoot() (chainhash.Hash, error) {
	header, err := protocol.ParseHeader(b.Header[:])
	if err == nil && header.Hash != b.Hash {
		err = fmt.Errorf("%w: block %v comes with the header of block %v", ErrBlock, b.Hash, header.Hash)
	}
	return header.MerkleRoot, err
}

// inOrder returns the block's anchors in order of position.
func (b *Block) inOrder() []*AnchorTx {
	order := make([]*AnchorTx, len(b.Anchors))
	for i := range b.Anchors {
		order[i] = &b.Anchors[i]
	}
	slices.SortFunc(order, func(x, y *AnchorTx) int { return cmp.Compare(x.Index, y.Index) })
	return order
}

// checkAnchors checks that the block has its anchors, each once, and that its merkle
// tree shows that.
func (b *Block) checkAnchors() error {
	root, err := b.merkleRoot()
	if err != nil {
		return err
	}
	err = b.Merkle.Check(func(yield func(uint32, protocol.Tx) bool) {
		for _, a := range b.inOrder() {
			if !yield(a.Index, a.Raw) {
				return
			}
		}
	}, root)
	if err != nil {
		return fmt.Errorf("%w: anchors of block %v: %w", ErrBlock, b.Hash, err)
	}
	return nil
}

// newAnchors checks that a block has its anchors, and that none of these transactions is
// on the chain already.
func (c *change) newAnchors(b *Block) error {
	for i := range b.Actions {
		if t := c.draft.anchorOf(b.Actions[i].TxID); t != nil {
			return onChain(t.txid, t.height)
		}
	}
	if len(b.Anchors) == 0 {
		return nil
	}
	if err := b.checkAnchors(); err != nil {
		return err
	}
	for i := range b.Anchors {
		txid := b.Anchors[i].Raw.TxID()
		if height, ok, err := c.draft.heightOfAnchor(txid); err != nil {
			return err
		} else if ok {
			return onChain(txid, height)
		}
		n, err := c.draft.number(txid)
		if err != nil {
			return err
		}
		if n != none {
			return onChain(txid, c.draft.heightOf(n))
		}
	}
	return nil
}

// onChain is ErrBlock for a transaction that is at a height already.
func onChain(txid chainhash.Hash, height uint32) error {
	return fmt.Errorf("%w: transaction %v is at height %d already", ErrBlock, txid, height)
}

// anchorTx is an AnchorTx under way. There is one for each of a step, so it has nothing
// that can be had from the transaction.
type anchorTx struct {
	*AnchorTx
	txid     chainhash.Hash
	height   uint32
	isAnchor bool
	met      bool // it has been come upon
	counts   bool // it is an anchor, or broke a chain of them

	chain  chainhash.Hash // as in storedAnchorTx
	number uint32
}

// stored returns the transaction as it is stored.
func (t *anchorTx) stored() storedAnchorTx {
	s := storedAnchorTx{index: t.Index, txid: t.txid}
	if !t.isAnchor {
		return s
	}
	s.isAnchor, s.chain, s.number = true, t.chain, t.number
	s.record, _ = t.Raw.Anchor()
	if t.Author != nil {
		s.hasAuthor, s.author = true, *t.Author
	}
	return s
}

// spends lists the transactions whose output 0 it spends, in order of its inputs.
func (t *anchorTx) spends() (txids []chainhash.Hash) {
	for _, out := range t.Raw.Inputs() {
		if out.Index == 0 {
			txids = append(txids, out.Hash)
		}
	}
	return txids
}

// anchor applies the rules of anchors to a block: which chain each record goes on
// with, begins or breaks (anchors, "The chain of anchors"). Anchors come first,
// in order of position but for those that spend the output of another, which come
// after that, wherever the two stand; then what carries none, and so cannot be
// gone on from, in order of position.
func (s *step) anchor(b *Block) {
	first := int32(len(s.anchors))
	s.anchors = slices.Grow(s.anchors, len(b.Anchors))
	for _, a := range b.inOrder() {
		_, isAnchor := a.Raw.Anchor()
		s.anchorNumbers[a.Raw.TxID()] = int32(len(s.anchors))
		s.anchors = append(s.anchors, anchorTx{AnchorTx: a, txid: a.Raw.TxID(), height: s.height, isAnchor: isAnchor})
	}
	// following is an anchor with those of its spends that have not been followed.
	type following struct {
		anchor int32
		spends []chainhash.Hash
	}
	var waiting []following // each for the one behind it
	meet := func(n int32) {
		if t := &s.anchors[n]; t.isAnchor && !t.met {
			t.met = true
			waiting = append(waiting, following{n, t.spends()})
		}
	}
	for n := first; n < int32(len(s.anchors)); n++ {
		meet(n)
		for len(waiting) > 0 {
			f := &waiting[len(waiting)-1]
			if len(f.spends) == 0 {
				s.decideAnchor(f.anchor)
				waiting = waiting[:len(waiting)-1]
				continue
			}
			before, ok := s.anchorNumbers[f.spends[0]]
			if f.spends = f.spends[1:]; ok && before >= first {
				meet(before)
			}
		}
	}
	for n := first; n < int32(len(s.anchors)); n++ {
		if !s.anchors[n].isAnchor {
			s.decideAnchor(n)
		}
	}
	s.proveAnchors(b)
}

// decideAnchor lets a transaction go on with, begin and break chains.
func (s *step) decideAnchor(n int32) {
	t, breaks := &s.anchors[n], len(s.breaks)
	stored := t.stored()
	var next *protocol.Anchor
	if t.isAnchor {
		next = &stored.record
	}
	goesOn, open := false, t.isAnchor
	for input, out := range t.Raw.Inputs() {
		spent := none
		if out.Index == 0 {
			spent = s.batons.Find(out.Hash)
		}
		if spent == none {
			continue
		}
		s.batons.Remove(spent)
		baton, err := s.baton(out.Hash)
		if err != nil {
			s.fail(err)
			return
		}
		how := baton.anchor.Follow(next, input)
		if how == protocol.Unbroken || how.BelongsToChain() {
			goesOn, open = true, how == protocol.Unbroken
			t.chain, t.number = baton.chain, baton.number+1
		}
		if how != protocol.Unbroken {
			s.breaks = append(s.breaks, storedBreak{tx: uint32(len(s.order)), chain: baton.chain, how: how})
			s.brokenAt = append(s.brokenAt, out.Hash)
		}
	}
	if t.isAnchor && !goesOn {
		t.chain, t.number = t.txid, 0
	}
	if open {
		s.batons.Add(t.txid)
	}
	if t.counts = t.isAnchor || len(s.breaks) > breaks; !t.counts {
		return
	}
	s.order = append(s.order, n)
	stored.chain, stored.number = t.chain, t.number
	for _, e := range stored.effects(s.breaks[breaks:]) {
		s.hash(e.appendTo)
	}
}

// proveAnchors keeps what shows that the block has the transactions that count.
func (s *step) proveAnchors(b *Block) {
	if len(s.order) == 0 {
		return
	}
	s.header.header, s.merkle = b.Header, b.Merkle
	if len(s.order) < len(b.Anchors) {
		indices := make([]uint32, len(s.order))
		for i, n := range s.order {
			indices[i] = s.anchors[n].Index
		}
		var err error
		if s.merkle, err = b.Merkle.Part(indices...); err != nil {
			s.fail(err)
		}
	}
	s.header.levels = s.merkle.Levels()
}

// effects lists the transitions that a transaction brought about, broken being the
// chains that it broke.
func (t *storedAnchorTx) effects(broken []storedBreak) (effects []AnchorEffect) {
	if t.isAnchor {
		e := AnchorEffect{Type: AnchorAdded, Tx: t.txid, Chain: t.chain, Anchor: t.record}
		if t.hasAuthor {
			e.Author = &t.author
		}
		effects = append(effects, e)
	}
	for _, b := range broken {
		effects = append(effects, AnchorEffect{Type: ChainBroken, Tx: t.txid, Chain: b.chain, Break: b.how})
	}
	return effects
}

// writeAnchors adds what the block wrote about anchors. What it cannot read for that is
// noted in err.
func (s *step) writeAnchors(w *writes) {
	if len(s.order) == 0 {
		return
	}
	w.set(heightKey(prefixHeader, s.height), s.header.encode())
	chunk := uint32(0)
	for numbers := range slices.Chunk(s.order, anchorsPerChunk) {
		w.set(chunkKey(prefixAnchorTxs, s.height, chunk), w.make(func(b []byte) []byte {
			for _, n := range numbers {
				stored := s.anchors[n].stored()
				b = stored.appendTo(b)
			}
			return b
		}))
		chunk++
	}
	w.setMerkleTree(s.height, s.merkle)
	var breaks []byte
	for i := range s.breaks {
		breaks = s.breaks[i].appendTo(breaks)
	}
	w.setChunks(prefixBreaks, s.height, breaks)
	for i, n := range s.order {
		s.writeAnchor(w, anchorPlace{s.height, uint32(i)}, &s.anchors[n])
	}
	s.writeChains(w)
}

// writeAnchor adds a transaction, and where it is found.
func (s *step) writeAnchor(w *writes, at anchorPlace, t *anchorTx) {
	for n, rest := uint32(0), t.Raw; len(rest) > 0; n++ {
		chunk := rest[:min(len(rest), chunkSize)]
		rest = rest[len(chunk):]
		w.set(w.make(func(b []byte) []byte { return appendRawTxKey(b, at, n) }), chunk)
	}
	place := w.make(at.appendTo)
	w.add(w.make(func(b []byte) []byte { return append(append(b, prefixAnchorTx), t.txid[:]...) }), place)
	if !t.isAnchor {
		return
	}
	record, _ := t.Raw.Anchor()
	w.add(w.make(func(b []byte) []byte { return appendChainAnchorKey(b, t.chain, t.number) }), place)
	ofDomain := func(prefix byte) []byte {
		return w.make(func(b []byte) []byte {
			return position{s.height, t.Index}.append(appendDomainStem(b, prefix, record.Domain))
		})
	}
	w.add(ofDomain(prefixDomainAnchor), place)
	if t.number == 0 {
		w.add(ofDomain(prefixDomainChain), t.chain[:])
	}
}

// chainChange is what a block did to a chain of anchors.
type chainChange struct {
	chain  chainhash.Hash // txid of the genesis anchor
	anchor int32          // number in draft.anchors of the last one that the block added; none if it added none
	broken int32          // number in step.breaks of how it was broken; none if it was not
}

// writeChains adds the chains that have changed, in order of their genesis anchors'
// txids.
func (s *step) writeChains(w *writes) {
	changes := make([]chainChange, 0, len(s.order)+len(s.breaks))
	for _, n := range s.order {
		if t := &s.anchors[n]; t.isAnchor {
			changes = append(changes, chainChange{t.chain, n, none})
		}
	}
	for n := range s.breaks {
		changes = append(changes, chainChange{s.breaks[n].chain, none, int32(n)})
	}
	slices.SortFunc(changes, func(x, y chainChange) int { return compareHashes(x.chain, y.chain) })
	for len(changes) > 0 {
		c := changes[0]
		for changes = changes[1:]; len(changes) > 0 && changes[0].chain == c.chain; changes = changes[1:] {
			if n := changes[0].anchor; n != none && (c.anchor == none || s.anchors[n].number > s.anchors[c.anchor].number) {
				c.anchor = n
			}
			c.broken = max(c.broken, changes[0].broken) // one of them is none
		}
		r, err := s.chainRecord(&c)
		if err != nil {
			s.fail(err)
			return
		}
		w.add(
			w.make(func(b []byte) []byte { return version(append(append(b, prefixChain), c.chain[:]...), s.height) }),
			w.make(r.appendTo))
	}
}

// chainRecord returns what a chain is after the block.
func (s *step) chainRecord(c *chainChange) (r chainRecord, err error) {
	if c.broken != none {
		o := &s.breaks[c.broken]
		r.how, r.by, r.at = o.how, s.anchors[s.order[o.tx]].txid, s.height
		r.last = s.brokenAt[c.broken]
	}
	if c.anchor != none {
		r.last = s.anchors[c.anchor].txid
	}
	last, err := s.baton(r.last)
	r.anchors, r.anchor = last.number+1, last.anchor
	return r, err
}

// loadBatons derives the batons from the store.
func (s *state) loadBatons(txn *badger.Txn) error {
	return eachNewest(txn, prefixChain, chainStemSize, func(_, value []byte) error { return s.takeBaton(value) })
}

// undoAnchors takes the batons back that the block at height made, and gives those back
// that it spent. changed are the keys of its versions of chains.
func (s *state) undoAnchors(txn *badger.Txn, height uint32, changed [][]byte) error {
	made, err := readAnchorTxs(txn, height)
	if err != nil {
		return err
	}
	for i := range made {
		if n := s.batons.Find(made[i].txid); n != none {
			s.batons.Remove(n)
		}
	}
	for _, key := range changed {
		value, _, err := versionBefore(txn, key)
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
func (s *state) takeBaton(record []byte) error {
	r, err := decodeChainRecord(record)
	if err != nil {
		return err
	}
	if r.how == protocol.Unbroken {
		s.batons.Add(r.last)
	}
	return nil
}

// Batons returns the txids whose output 0 is the baton of an unbroken chain of
// anchors as of the tip, in any order: whatever spends one of them matters.
func (g *Graph) Batons() []chainhash.Hash {
	state := g.current.Load().state
	txids := make([]chainhash.Hash, 0, state.batons.Len())
	for n := range state.batons.Len() {
		txids = append(txids, state.batons.Key(n))
	}
	return txids
}
