package graph

import (
	"bytes"
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
	Branch []chainhash.Hash  // from it to the block's merkle root (protocol.CheckMerkleBranch)
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

// checkAnchor checks that the block with the given merkle root has the transaction
// that it is said to have.
func (b *Block) checkAnchor(a *AnchorTx, root chainhash.Hash) error {
	if err := protocol.CheckMerkleBranch(a.Raw, a.Index, a.Branch, root); err != nil {
		return fmt.Errorf("%w: block %v, transaction %d: %w", ErrBlock, b.Hash, a.Index, err)
	}
	return nil
}

// newAnchors checks that a block has its anchors, each once, and that none of these
// transactions is on the chain of base and the change already.
func (c *change) newAnchors(b *Block, base *snapshot) error {
	for i := range b.Actions {
		if height, known := c.anchors[b.Actions[i].TxID]; known {
			return onChain(b.Actions[i].TxID, height)
		}
	}
	if len(b.Anchors) == 0 {
		return nil
	}
	root, err := b.merkleRoot()
	if err != nil {
		return err
	}
	if c.anchors == nil {
		c.anchors = make(map[chainhash.Hash]uint32, len(b.Anchors))
	}
	seen := make(map[uint32]bool, len(b.Anchors))
	for i := range b.Anchors {
		a := &b.Anchors[i]
		if err := b.checkAnchor(a, root); err != nil {
			return err
		}
		if seen[a.Index] {
			return fmt.Errorf("%w: block %v has transaction %d twice", ErrBlock, b.Hash, a.Index)
		}
		seen[a.Index] = true
		txid := a.Raw.TxID()
		height, known := c.anchors[txid]
		if !known {
			n, err := c.draft.number(txid)
			if err != nil {
				return err
			}
			if known = n != none; known {
				height = c.draft.heightOf(n)
			}
		}
		if !known {
			if height, known, err = base.heightOfAnchor(txid); err != nil {
				return err
			}
		}
		if known {
			return onChain(txid, height)
		}
		c.anchors[txid] = b.Height
	}
	return nil
}

// onChain is ErrBlock for a transaction that is at a height already.
func onChain(txid chainhash.Hash, height uint32) error {
	return fmt.Errorf("%w: transaction %v is at height %d already", ErrBlock, txid, height)
}

// heightOfAnchor returns the height of a transaction that is an anchor or broke a
// chain of them; ok is false if it is not on the chain.
func (s *snapshot) heightOfAnchor(txid chainhash.Hash) (height uint32, ok bool, err error) {
	value, err := read(s.txn, anchorTxKey(txid))
	if err != nil || value == nil {
		return 0, false, err
	}
	p, err := decodeAnchorPlace(value)
	return p.height, s.tip != nil && p.height <= s.tip.Height, err
}

// anchorTx is an AnchorTx under way.
type anchorTx struct {
	storedAnchorTx
	anchor *protocol.Anchor // nil: it carries none
	spends []spend          // by its inputs, in their order, of outputs that may be batons
	waits  int              // how many of spends have been followed to their transaction
	met    bool             // it has been come upon
	raw    protocol.Tx
	branch []chainhash.Hash
}

// spend is an input that spends output 0 of a transaction.
type spend struct {
	input uint32
	tx    chainhash.Hash
}

func newAnchorTx(a *AnchorTx) anchorTx {
	t := anchorTx{raw: a.Raw, branch: a.Branch}
	t.index, t.txid = a.Index, a.Raw.TxID()
	if anchor, ok := a.Raw.Anchor(); ok {
		t.anchor, t.record = &anchor, anchor
		t.isAnchor = true
		if a.Author != nil {
			t.hasAuthor, t.author = true, *a.Author
		}
	}
	for input, out := range a.Raw.Inputs() {
		if out.Index == 0 {
			t.spends = append(t.spends, spend{input, out.Hash})
		}
	}
	return t
}

// anchor applies the rules of anchors to a block: which chain each record goes on
// with, begins or breaks (anchors, "The chain of anchors"). Anchors come first,
// in order of position but for those that spend the output of another, which come
// after that, wherever the two stand; then what carries none, and so cannot be
// gone on from, in order of position.
func (s *step) anchor(b *Block) {
	txs := make([]anchorTx, len(b.Anchors))
	for i := range b.Anchors {
		txs[i] = newAnchorTx(&b.Anchors[i])
	}
	slices.SortFunc(txs, func(x, y anchorTx) int { return cmp.Compare(x.index, y.index) })
	number := make(map[chainhash.Hash]int, len(txs)) // of the anchors
	for i := range txs {
		if txs[i].isAnchor {
			number[txs[i].txid] = i
		}
	}
	var waiting []int // each for the one behind it
	for i := range txs {
		if txs[i].isAnchor && !txs[i].met {
			txs[i].met, waiting = true, append(waiting, i)
		}
		for len(waiting) > 0 {
			t := &txs[waiting[len(waiting)-1]]
			if t.waits < len(t.spends) {
				before, isAnchor := number[t.spends[t.waits].tx]
				if t.waits++; isAnchor && !txs[before].met {
					txs[before].met, waiting = true, append(waiting, before)
				}
				continue
			}
			waiting = waiting[:len(waiting)-1]
			s.decideAnchor(t)
		}
	}
	for i := range txs {
		if !txs[i].isAnchor {
			s.decideAnchor(&txs[i])
		}
	}
	if len(s.anchorTxs) > 0 {
		s.header = b.Header
	}
}

// decideAnchor lets a transaction go on with, begin and break chains.
func (s *step) decideAnchor(t *anchorTx) {
	var broken []storedBreak
	placed := false
	for _, spend := range t.spends {
		n := s.batons.Find(spend.tx)
		if n == none {
			continue
		}
		s.batons.Remove(n)
		baton, err := s.baton(spend.tx)
		if err != nil {
			s.fail(err)
			return
		}
		r := chainRecord{anchors: baton.number + 1, last: spend.tx, anchor: baton.anchor}
		how := baton.anchor.Follow(t.anchor, spend.input)
		if how == protocol.Unbroken || how.BelongsToChain() {
			placed = true
			t.chain, t.number = baton.chain, baton.number+1
			r.anchors, r.last, r.anchor = baton.number+2, t.txid, *t.anchor
		}
		if how != protocol.Unbroken {
			r.how, r.by, r.at = how, t.txid, s.height
			broken = append(broken, storedBreak{tx: uint32(len(s.anchorTxs)), chain: baton.chain, how: how})
		}
		s.setChain(baton.chain, r)
	}
	if t.isAnchor && !placed {
		t.chain, t.number = t.txid, 0
		s.setChain(t.chain, chainRecord{anchors: 1, last: t.txid, anchor: *t.anchor})
	}
	if !t.isAnchor && len(broken) == 0 {
		return
	}
	s.anchorTxs, s.breaks = append(s.anchorTxs, *t), append(s.breaks, broken...)
	for _, e := range t.effects(broken) {
		s.hash(e.appendTo)
	}
}

// setChain notes what has become of a chain.
func (s *step) setChain(chain chainhash.Hash, r chainRecord) {
	if s.chains == nil {
		s.chains = make(map[chainhash.Hash]chainRecord)
	}
	s.chains[chain] = r
	if b, ok := r.baton(chain); ok {
		s.batons.Add(r.last)
		s.opened[r.last] = b
	}
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

// writeAnchors adds what the block wrote about anchors.
func (s *step) writeAnchors(w *writes) {
	if len(s.anchorTxs) == 0 {
		return
	}
	w.set(heightKey(prefixHeader, s.height), s.header[:])
	for chunk := uint32(0); int(chunk)*anchorsPerChunk < len(s.anchorTxs); chunk++ {
		from := int(chunk) * anchorsPerChunk
		var b []byte
		for i := from; i < min(from+anchorsPerChunk, len(s.anchorTxs)); i++ {
			b = s.anchorTxs[i].appendTo(b)
		}
		w.set(chunkKey(prefixAnchorTxs, s.height, chunk), b)
	}
	var breaks []byte
	for i := range s.breaks {
		breaks = s.breaks[i].appendTo(breaks)
	}
	w.setChunks(prefixBreaks, s.height, breaks)
	for i := range s.anchorTxs {
		t := &s.anchorTxs[i]
		for n, rest := uint32(0), encodeProof(t.branch, t.raw); len(rest) > 0; n++ {
			chunk := rest[:min(len(rest), chunkSize)]
			rest = rest[len(chunk):]
			w.set(proofKey(s.height, uint32(i), n), chunk)
		}
		place := anchorPlace{s.height, uint32(i)}.encode()
		w.add(anchorTxKey(t.txid), place)
		if t.isAnchor {
			at := position{s.height, t.index}
			w.add(chainAnchorKey(t.chain, t.number), place)
			w.add(at.append(domainStem(prefixDomainAnchor, t.record.Domain)), place)
			if t.number == 0 {
				w.add(at.append(domainStem(prefixDomainChain, t.record.Domain)), t.chain[:])
			}
		}
	}
	chains := make([]chainhash.Hash, 0, len(s.chains))
	for chain := range s.chains {
		chains = append(chains, chain)
	}
	slices.SortFunc(chains, func(a, b chainhash.Hash) int { return bytes.Compare(a[:], b[:]) })
	for _, chain := range chains {
		r := s.chains[chain]
		w.add(version(chainStem(chain), s.height), r.encode())
	}
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
