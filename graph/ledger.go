package graph

import (
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/cow"
	"github.com/keytree-bch/keytree/protocol"
)

// ledger reads what the store has of actions, and of names, as of a block: it passes
// over what came later. Actions go by their numbers. Not safe for concurrent use.
type ledger struct {
	txn    *badger.Txn
	blocks *cow.Array[blockSpan] // those that have actions; may have later ones
	known  int32                 // how many actions there are
	next   uint32                // height of the first block that it does not see

	chunk struct { // the one of actions that was read last
		height, number uint32
		value          []byte // nil before the first
	}
}

// ledger returns what the store has as of a snapshot.
func (s *snapshot) ledger() ledger {
	l := ledger{txn: s.txn, blocks: &s.state.blocks, known: s.state.actions}
	if s.tip != nil {
		l.next = s.tip.Height + 1
	}
	return l
}

// number returns the number of an action, none if it is not there.
func (l *ledger) number(txid chainhash.Hash) (int32, error) {
	value, err := read(l.txn, actionTxKey(txid))
	if err != nil || value == nil {
		return none, err
	}
	d := decoder{rest: value}
	n := d.action()
	if err := d.finish("number of an action"); err != nil || n >= l.known {
		return none, err
	}
	return n, nil
}

// span returns the block that an action is in.
func (l *ledger) span(action int32) blockSpan {
	return l.blocks.At(search(l.blocks.Len(), func(i int32) bool { return l.blocks.Ref(i).first > action }) - 1)
}

// heightOf returns the height of the block that an action is in.
func (l *ledger) heightOf(action int32) uint32 { return l.span(action).height }

// action reads an action.
func (l *ledger) action(n int32) (storedAction, error) {
	if n < 0 || n >= l.known {
		return storedAction{}, fmt.Errorf("%w: action %d is referred to, there are %d", ErrDamaged, n, l.known)
	}
	span := l.span(n)
	within := uint32(n - span.first)
	c := &l.chunk
	if number := within / actionsPerChunk; c.value == nil || c.height != span.height || c.number != number {
		value, err := read(l.txn, chunkKey(prefixActions, span.height, number))
		if err != nil {
			return storedAction{}, err
		}
		c.height, c.number, c.value = span.height, number, value
	}
	a, err := actionInChunk(c.value, int(within%actionsPerChunk))
	if err != nil {
		err = fmt.Errorf("action %d of block %d: %w", within, span.height, err)
	}
	return a, err
}

// late returns what became of an action that waited in its own block; ok is false
// while it waits.
func (l *ledger) late(n int32) (o lateFate, ok bool, err error) {
	value, err := read(l.txn, lateKey(n))
	if err != nil || value == nil {
		return o, false, err
	}
	o, err = decodeLateFate(value)
	return o, err == nil && o.height < l.next, err
}

// cut returns how the link of a request ended; ok is false if it has not.
func (l *ledger) cut(request int32) (c cutLink, ok bool, err error) {
	value, err := read(l.txn, cutKey(request))
	if err != nil || value == nil {
		return c, false, err
	}
	c, err = decodeCutLink(value)
	return c, err == nil && c.cut < l.next, err
}

// name returns where a name stands among those that merged.
func (l *ledger) name(id chainhash.Hash) (nameRecord, error) {
	alone := nameRecord{weight: 1, survivor: id}
	if l.next == 0 {
		return alone, nil
	}
	stem := nameStem(id)
	it := newIterator(l.txn, stem)
	defer it.Close()
	if it.Seek(version(stem, l.next-1)); !it.Valid() {
		return alone, nil
	}
	value, err := it.Item().ValueCopy(nil)
	if err != nil {
		return alone, fmt.Errorf("reading the database: %w", err)
	}
	return decodeNameRecord(value)
}

// waiters lists the actions of a kind that have waited for what is referred to, in
// order of position.
func (l *ledger) waiters(w wanted) (actions []int32, err error) {
	err = eachKey(l.txn, w.stem(), nil, func(key []byte) error {
		d := decoder{rest: key[wantedStemSize:]}
		if n := d.action(); n < l.known {
			actions = append(actions, n)
		}
		return d.finish("key of an action that waits")
	})
	return actions, err
}

// placeOf returns where a transaction is that is an anchor or broke a chain of them; ok is
// false if it is not on the chain.
func (l *ledger) placeOf(txid chainhash.Hash) (p anchorPlace, ok bool, err error) {
	value, err := read(l.txn, anchorTxKey(txid))
	if err != nil || value == nil {
		return p, false, err
	}
	p, err = decodeAnchorPlace(value)
	return p, err == nil && p.height < l.next, err
}

// baton returns the chain of anchors whose baton output 0 of a transaction is.
func (l *ledger) baton(txid chainhash.Hash) (b baton, err error) {
	p, ok, err := l.placeOf(txid)
	if err == nil && !ok {
		err = fmt.Errorf("%w: the anchor %v, whose output is a baton, is missing", ErrDamaged, txid)
	}
	if err != nil {
		return b, err
	}
	t, err := readAnchorTx(l.txn, p)
	return baton{t.chain, t.number, t.record}, err
}

// fate is what became of an action.
type fate struct {
	height uint32 // of the block that decided it; never while it waits
	reason Reason // why it was refused
	target int32  // MLA, MCR: the action that it refers to; none if that is not known
}

func (o *fate) refused() bool { return o.reason != NoReason }

// book is a ledger, or one with what a change adds to it.
type book interface {
	heightOf(n int32) uint32
	action(n int32) (storedAction, error)
	late(n int32) (lateFate, bool, error)
	cut(request int32) (cutLink, bool, error)
}

// fateOf says what became of an action.
func fateOf(b book, n int32, a *storedAction) (fate, error) {
	if !a.waits {
		return fate{b.heightOf(n), a.reason, a.target}, nil
	}
	o, ok, err := b.late(n)
	if !ok {
		return fate{height: never, target: none}, err
	}
	return fate(o), err
}

// about is the keys that an action is about.
type about struct {
	hasParent, hasChild bool
	parent, child       protocol.KeyHash
}

// aboutOf says what an action is about, o being what became of it. A reference to the
// wrong kind is about nobody.
func aboutOf(b book, a *storedAction, o *fate) (about, error) {
	if !a.waits || o.target == none || o.reason == WrongKind {
		return about{a.hasParent, a.hasChild, a.parent, a.child}, nil
	}
	target, err := b.action(o.target)
	if err != nil {
		return about{}, err
	}
	of, err := fateOf(b, o.target, &target)
	if err != nil {
		return about{}, err
	}
	return aboutOf(b, &target, &of)
}

// draft is a ledger with what a change adds to it.
type draft struct {
	ledger                           // as of the block before the change
	fresh   []storedAction           // the change's own actions, from the number known on
	numbers map[chainhash.Hash]int32 // of fresh
	fates   map[int32]lateFate
	cuts    map[int32]cutLink // by request
	names   map[chainhash.Hash]nameRecord
	waits   map[wanted][]int32

	anchors       []anchorTx               // the change's own, and what may have broken a chain; block by block
	anchorNumbers map[chainhash.Hash]int32 // of anchors
}

// newDraft returns a draft for a change of so many actions.
func newDraft(before ledger, actions int) *draft {
	return &draft{
		ledger: before, fresh: make([]storedAction, 0, actions), numbers: make(map[chainhash.Hash]int32, actions), fates: make(map[int32]lateFate), cuts: make(map[int32]cutLink),
		names: make(map[chainhash.Hash]nameRecord), waits: make(map[wanted][]int32), anchorNumbers: make(map[chainhash.Hash]int32),
	}
}

// add adds an action and returns its number; or that of the same transaction, if it is
// there already.
func (d *draft) add(a storedAction) (n int32, fresh bool, err error) {
	n, err = d.number(a.txid)
	if err != nil || n != none {
		return n, false, err
	}
	n = d.known + int32(len(d.fresh))
	d.fresh = append(d.fresh, a)
	d.numbers[a.txid] = n
	return n, true, nil
}

func (d *draft) number(txid chainhash.Hash) (int32, error) {
	if n, ok := d.numbers[txid]; ok {
		return n, nil
	}
	return d.ledger.number(txid)
}

// find returns the action that a reference means, none if none is confirmed.
func (d *draft) find(ref protocol.Reference) (int32, error) {
	for _, txid := range ref.TxIDs() {
		if n, err := d.number(txid); err != nil || n != none {
			return n, err
		}
	}
	return none, nil
}

func (d *draft) action(n int32) (storedAction, error) {
	if n >= d.known && int(n-d.known) < len(d.fresh) {
		return d.fresh[n-d.known], nil
	}
	return d.ledger.action(n)
}

func (d *draft) late(n int32) (lateFate, bool, error) {
	if o, ok := d.fates[n]; ok || n >= d.known {
		return o, ok, nil
	}
	return d.ledger.late(n)
}

func (d *draft) cut(request int32) (cutLink, bool, error) {
	if c, ok := d.cuts[request]; ok || request >= d.known {
		return c, ok, nil
	}
	return d.ledger.cut(request)
}

func (d *draft) name(id chainhash.Hash) (nameRecord, error) {
	if r, ok := d.names[id]; ok {
		return r, nil
	}
	return d.ledger.name(id)
}

// waiters lists the actions of a kind that wait for what is referred to, in order of
// position.
func (d *draft) waiters(w wanted) ([]int32, error) {
	before, err := d.ledger.waiters(w)
	all := append(before, d.waits[w]...)
	// They are released once. Those that are decided waited for the same in the other
	// byte order.
	return slices.DeleteFunc(all, func(n int32) bool {
		if err != nil {
			return false
		}
		var decided bool
		_, decided, err = d.late(n)
		return decided
	}), err
}

func (d *draft) baton(txid chainhash.Hash) (baton, error) {
	if t := d.anchorOf(txid); t != nil {
		stored := t.stored()
		return baton{stored.chain, stored.number, stored.record}, nil
	}
	return d.ledger.baton(txid)
}

// anchorOf returns one of the change's own transactions that are an anchor or broke a
// chain of them; nil if it is none.
func (d *draft) anchorOf(txid chainhash.Hash) *anchorTx {
	if n, ok := d.anchorNumbers[txid]; ok && d.anchors[n].counts {
		return &d.anchors[n]
	}
	return nil
}

// heightOfAnchor returns the height of a transaction that is an anchor or broke a
// chain of them; ok is false if it is not on the chain.
func (d *draft) heightOfAnchor(txid chainhash.Hash) (height uint32, ok bool, err error) {
	if t := d.anchorOf(txid); t != nil {
		return t.height, true, nil
	}
	p, ok, err := d.placeOf(txid)
	return p.height, ok, err
}

// representative returns the name that stands for all that merged with one, with its
// record. See merge.
func (d *draft) representative(id chainhash.Hash) (chainhash.Hash, nameRecord, error) {
	for {
		r, err := d.name(id)
		if err != nil || r.up == (chainhash.Hash{}) {
			return id, r, err
		}
		id = r.up
	}
}

// merge makes one set of those of two names, of which id survives, and returns
// the names whose records changed.
//
// Names that merged form sets, found by union-find: each name points to another
// of its set, and the set's representative knows the identity that survives. A
// chain of merges, each into the next older identity, would otherwise make the
// first name as slow to resolve as an attacker likes. The smaller set goes under
// the larger, so a name is found in O(log n) steps; pointers are versioned and
// never moved, so that holds as of any height.
func (d *draft) merge(merged, id chainhash.Hash) (changed [2]chainhash.Hash, err error) {
	small, a, err := d.representative(merged)
	if err != nil {
		return changed, err
	}
	large, b, err := d.representative(id)
	if err != nil {
		return changed, err
	}
	if a.weight > b.weight {
		small, large = large, small
	}
	d.names[small] = nameRecord{up: large}
	d.names[large] = nameRecord{weight: a.weight + b.weight, survivor: id}
	return [2]chainhash.Hash{small, large}, nil
}

// sortedByTx returns the numbers of the change's own actions from one to another in
// order of their txids.
func (d *draft) sortedByTx(from, to int32) []int32 {
	numbers := make([]int32, 0, to-from)
	for n := from; n < to; n++ {
		numbers = append(numbers, n)
	}
	slices.SortFunc(numbers, func(x, y int32) int {
		return compareHashes(d.fresh[x-d.known].txid, d.fresh[y-d.known].txid)
	})
	return numbers
}
