package anchors

import (
	"cmp"
	"fmt"
	"hash"
	"iter"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// Tx is a confirmed transaction that carries an anchor, or spends the baton
// of a chain of anchors, or both. One that does neither is passed over, so
// whoever finds them may give too many.
type Tx struct {
	Index  uint32            // in the block
	Author *protocol.KeyHash // nil: the tx has none
	Raw    protocol.Tx       // the serialized transaction
}

// Identity is the identity that a key belongs to.
type Identity struct {
	ID   chainhash.Hash // id_tx_hash
	Root protocol.KeyHash
}

// Block is a block's anchors.
type Block struct {
	Txs []Tx // in any order
	// Header is the serialized header of the block, and Merkle what leads
	// from all Txs to the merkle root in it. They are looked at only if there are Txs.
	Header [protocol.HeaderSize]byte
	Merkle protocol.PartialMerkleTree
}

// MerkleRoot returns the merkle root in the header, which it checks to be that of the block with
// a hash. store.ErrBlock.
func (b *Block) MerkleRoot(hash chainhash.Hash) (chainhash.Hash, error) {
	header, err := protocol.ParseHeader(b.Header[:])
	if err == nil && header.Hash != hash {
		err = fmt.Errorf("%w: block %v comes with the header of block %v", store.ErrBlock, hash, header.Hash)
	}
	return header.MerkleRoot, err
}

// inOrder returns the block's anchors in order of position.
func (b *Block) inOrder() []*Tx {
	order := make([]*Tx, len(b.Txs))
	for i := range b.Txs {
		order[i] = &b.Txs[i]
	}
	slices.SortFunc(order, func(x, y *Tx) int { return cmp.Compare(x.Index, y.Index) })
	return order
}

// Check checks that the block with a hash has these anchors, each once, and that its merkle
// tree shows that. store.ErrBlock.
func (b *Block) Check(hash chainhash.Hash) error {
	root, err := b.MerkleRoot(hash)
	if err != nil {
		return err
	}
	err = b.Merkle.Check(func(yield func(uint32, protocol.Tx) bool) {
		for _, t := range b.inOrder() {
			if !yield(t.Index, t.Raw) {
				return
			}
		}
	}, root)
	if err != nil {
		return fmt.Errorf("%w: anchors of block %v: %w", store.ErrBlock, hash, err)
	}
	return nil
}

// tx is a Tx under way. There is one for each of a step, so it has nothing
// that can be had from the transaction.
type tx struct {
	*Tx
	txid     chainhash.Hash
	height   uint32
	isAnchor bool
	met      bool // it has been come upon
	counts   bool // it is an anchor, or broke a chain of them

	chain  chainhash.Hash // as in storedTx
	number uint32
}

// stored returns the transaction as it is stored.
func (t *tx) stored() storedTx {
	s := storedTx{index: t.Index, txid: t.txid}
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
func (t *tx) spends() (txids []chainhash.Hash) {
	for _, out := range t.Raw.Inputs() {
		if out.Index == 0 {
			txids = append(txids, out.Hash)
		}
	}
	return txids
}

// Step is the rules applied to one block. It changes the state in memory, and notes
// what has to be written because of it.
type Step struct {
	*State
	*Draft
	height uint32
	err    error // the first of the store; what follows it does not count

	// identify returns the identity of a key as of the block, a zero one if it is in none.
	identify func(protocol.KeyHash) Identity

	effects hash.Hash // takes their canonical encoding
	space   []byte    // where that is made

	order    []int32                    // numbers in Draft.anchors of those that count, as they were applied
	breaks   []storedBreak              // in the same order
	brokenAt []chainhash.Hash           // by the number of the break, the chain's last anchor before it
	header   header                     // if some count
	merkle   protocol.PartialMerkleTree // of those that count
}

// Apply applies the rules to the anchors of the block at height, which Check has found to be there:
// which chain each record goes on with, begins or breaks (protocol/SPEC.md §10). Anchors come
// first, in order of position but for those that spend the output of another, which come
// after that, wherever the two stand (protocol/SPEC.md §9); then what carries none, and so
// cannot be gone on from, in order of position. effects takes the effects in their canonical
// encoding. Errors are the store's; the state is to be dropped then.
func Apply(state *State, d *Draft, height uint32, b *Block, identify func(protocol.KeyHash) Identity, effects hash.Hash) (*Step, error) {
	s := &Step{State: state, Draft: d, height: height, identify: identify, effects: effects}
	s.apply(b)
	return s, s.err
}

// fail notes an error of the store.
func (s *Step) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

func (s *Step) apply(b *Block) {
	first := int32(len(s.anchors))
	s.anchors = slices.Grow(s.anchors, len(b.Txs))
	for _, a := range b.inOrder() {
		_, isAnchor := a.Raw.Anchor()
		txid := a.Raw.TxID()
		s.numbers[txid] = int32(len(s.anchors))
		s.anchors = append(s.anchors, tx{Tx: a, txid: txid, height: s.height, isAnchor: isAnchor})
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
				s.decide(f.anchor)
				waiting = waiting[:len(waiting)-1]
				continue
			}
			before, ok := s.numbers[f.spends[0]]
			if f.spends = f.spends[1:]; ok && before >= first {
				meet(before)
			}
		}
	}
	for n := first; n < int32(len(s.anchors)); n++ {
		if !s.anchors[n].isAnchor {
			s.decide(n)
		}
	}
	s.prove(b)
}

// decide lets a transaction go on with, begin and break chains.
func (s *Step) decide(n int32) {
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
		s.space = e.appendTo(s.space[:0])
		s.effects.Write(s.space)
	}
}

// prove keeps what shows that the block has the transactions that count.
func (s *Step) prove(b *Block) {
	if len(s.order) == 0 {
		return
	}
	s.header.header, s.merkle = b.Header, b.Merkle
	if len(s.order) < len(b.Txs) {
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

// Write adds what the block wrote about anchors. Errors are the store's.
func (s *Step) Write(w *store.Writes) error {
	if len(s.order) == 0 {
		return nil
	}
	w.Set(store.HeightKey(store.PrefixHeader, s.height), s.header.encode())
	chunk := uint32(0)
	for numbers := range slices.Chunk(s.order, TxsPerChunk) {
		w.Set(store.ChunkKey(store.PrefixAnchorTxs, s.height, chunk), w.Make(func(b []byte) []byte {
			for _, n := range numbers {
				stored := s.anchors[n].stored()
				if stored.hasAuthor {
					stored.identity = s.identify(stored.author)
				}
				b = stored.appendTo(b)
			}
			return b
		}))
		chunk++
	}
	setMerkleTree(w, s.height, s.merkle)
	var breaks []byte
	for i := range s.breaks {
		breaks = s.breaks[i].appendTo(breaks)
	}
	w.SetChunks(store.PrefixBreaks, s.height, breaks)
	for i, n := range s.order {
		s.writeAnchor(w, place{s.height, uint32(i)}, &s.anchors[n])
	}
	s.writeChains(w)
	return s.err
}

// writeAnchor adds a transaction, and where it is found.
func (s *Step) writeAnchor(w *store.Writes, at place, t *tx) {
	for n, rest := uint32(0), t.Raw; len(rest) > 0; n++ {
		chunk := rest[:min(len(rest), store.ChunkSize)]
		rest = rest[len(chunk):]
		w.Set(w.Make(func(b []byte) []byte { return store.AppendRawTxKey(b, at.height, at.number, n) }), chunk)
	}
	// Undoing finds these by the transaction (EachPlace).
	stored := t.stored()
	for key, value := range stored.places(at, w) {
		w.Set(key, value)
	}
}

// places lists the keys under which a transaction is found, and what stands there; w makes both.
func (t *storedTx) places(at place, w *store.Writes) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		place := w.Make(at.appendTo)
		ofDomain := func(prefix byte) []byte {
			return w.Make(func(b []byte) []byte {
				return store.Position{Height: at.height, Index: t.index}.Append(store.AppendDomainStem(b, prefix, t.record.Domain))
			})
		}
		if !yield(w.Make(func(b []byte) []byte { return append(append(b, store.PrefixAnchorTx), t.txid[:]...) }), place) || !t.isAnchor {
			return
		}
		_ = yield(w.Make(func(b []byte) []byte { return store.AppendChainAnchorKey(b, t.chain, t.number) }), place) &&
			yield(ofDomain(store.PrefixDomainAnchor), place) &&
			(t.number > 0 || yield(ofDomain(store.PrefixDomainChain), t.chain[:]))
	}
}

// EachPlace visits the keys under which the transactions of the block at height are found, of as
// many of them as there are.
func EachPlace(txn *store.Txn, height uint32, visit func(key []byte) error) error {
	var w store.Writes // makes the keys
	return store.EachChunk(txn, store.PrefixAnchorTxs, height, func(n uint32, chunk []byte) error {
		txs, err := decodeTxs(chunk)
		for i := range txs {
			at := place{height, n*TxsPerChunk + uint32(i)}
			for key := range txs[i].places(at, &w) {
				if err == nil {
					err = visit(key)
				}
			}
		}
		return err
	})
}

// chainChange is what a block did to a chain of anchors.
type chainChange struct {
	chain  chainhash.Hash // txid of the genesis anchor
	anchor int32          // number in Draft.anchors of the last one that the block added; none if it added none
	broken int32          // number in step.breaks of how it was broken; none if it was not
}

// writeChains adds the chains that have changed, in order of their genesis anchors'
// txids.
func (s *Step) writeChains(w *store.Writes) {
	changes := make([]chainChange, 0, len(s.order)+len(s.breaks))
	for _, n := range s.order {
		if t := &s.anchors[n]; t.isAnchor {
			changes = append(changes, chainChange{t.chain, n, none})
		}
	}
	for n := range s.breaks {
		changes = append(changes, chainChange{s.breaks[n].chain, none, int32(n)})
	}
	slices.SortFunc(changes, func(x, y chainChange) int { return store.CompareHashes(x.chain, y.chain) })
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
		w.Add(
			w.Make(func(b []byte) []byte {
				return store.Version(append(append(b, store.PrefixChain), c.chain[:]...), s.height)
			}),
			w.Make(r.appendTo))
	}
}

// chainRecord returns what a chain is after the block.
func (s *Step) chainRecord(c *chainChange) (r chainRecord, err error) {
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
