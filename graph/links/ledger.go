package links

import (
	"fmt"
	"runtime"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/graph/cow"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/graph/txids"
	"github.com/keytree-bch/keytree/protocol"
)

// ledger reads what the store has of actions, and of names, as of a block: it passes
// over what came later. Actions go by their numbers. Not safe for concurrent use.
type ledger struct {
	txn    *store.Txn
	blocks *cow.Array[blockSpan] // those that have actions; may have later ones
	known  int32                 // how many actions there are
	index  txids.Index           // of them; may have later ones
	next   uint32                // height of the first block that it does not see
	asked  int                   // how many actions, and what became of them, were asked for

	chunk lastChunk // of actions
}

// ledger returns what the store has of what the state knows, with blocks up to one.
func (s *State) ledger(txn *store.Txn, next uint32) ledger {
	return ledger{txn: txn, blocks: &s.blocks, known: s.actions, index: s.index, next: next}
}

// number returns the number of an action, none if it is not there.
func (l *ledger) number(txid chainhash.Hash) (int32, error) {
	return l.numberByHash(l.index.Hash(txid), txid)
}

// numberByHash returns the number of an action, the hash of whose txid is known.
func (l *ledger) numberByHash(hash uint32, txid chainhash.Hash) (int32, error) {
	return l.index.Find(l.txn, hash, func(n int32) (bool, error) {
		if n >= l.known {
			return false, nil
		}
		a, err := l.action(n)
		return a.txid == txid, err
	})
}

// firstMention returns the number of the action that was the first to mention a key, if that was in no
// identity then; else none.
func (l *ledger) firstMention(key protocol.KeyHash) (int32, error) {
	return l.firstByHash(key, l.index.HashKey(key))
}

// firstByHash is firstMention of a key whose hash is known.
func (l *ledger) firstByHash(key protocol.KeyHash, hash uint32) (int32, error) {
	return l.index.Find(l.txn, hash, func(n int32) (bool, error) {
		if n >= l.known {
			return false, nil
		}
		a, err := l.action(n)
		m, ok := a.mentioning(key)
		return ok && m.first, err
	})
}

// hashes returns the hashes by which an action is found in an index: of its txid, and of the keys that it is
// the first to mention.
func (a *storedAction) hashes(x *txids.Index) []uint32 {
	hashes := []uint32{x.Hash(a.txid)}
	keys, n := a.keys()
	for i, key := range keys[:n] {
		if a.mentions[i].first {
			hashes = append(hashes, x.HashKey(key))
		}
	}
	return hashes
}

// lookupsAtOnce is how many actions make it worthwhile to look for their numbers on another
// processor.
const lookupsAtOnce = 100

// numbersOf returns the numbers of so many actions, none for those that are not there, and the
// hashes of their txids. It looks for them on all processors: a block's actions have to be looked for one by
// one.
func (l *ledger) numbersOf(count int, txid func(i int) chainhash.Hash) (numbers []int32, hashes []uint32, err error) {
	numbers, hashes = make([]int32, count), make([]uint32, count)
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for from := 0; from < count; from += lookupsAtOnce {
		group.Go(func() (err error) {
			own := *l // reading an action changes it
			for i := from; i < min(from+lookupsAtOnce, count) && err == nil; i++ {
				id := txid(i)
				hashes[i] = l.index.Hash(id)
				numbers[i], err = own.numberByHash(hashes[i], id)
			}
			return err
		})
	}
	return numbers, hashes, group.Wait()
}

// span returns the block that an action is in.
func (l *ledger) span(action int32) blockSpan { return spanOf(l.blocks, action) }

// heightOf returns the height of the block that an action is in.
func (l *ledger) heightOf(action int32) uint32 { return l.span(action).height }

// action reads an action.
func (l *ledger) action(n int32) (storedAction, error) {
	l.asked++
	if n < 0 || n >= l.known {
		return storedAction{}, fmt.Errorf("%w: action %d is referred to, there are %d", store.ErrDamaged, n, l.known)
	}
	span := l.span(n)
	within := n - span.first
	chunk, err := l.chunk.read(l.txn, store.PrefixActions, span.height, uint32(within/ActionsPerChunk))
	if err != nil {
		return storedAction{}, err
	}
	a, err := decodeAction(inChunk(chunk, int(within%ActionsPerChunk)))
	if err != nil {
		err = fmt.Errorf("action %d of block %d: %w", within, span.height, err)
	}
	return a, err
}

// late returns what became of an action that waited in its own block; ok is false
// while it waits.
func (l *ledger) late(n int32) (o lateFate, ok bool, err error) {
	l.asked++
	value, err := store.Read(l.txn, store.LateKey(n))
	if err != nil || value == nil {
		return o, false, err
	}
	o, err = decodeLateFate(value)
	return o, err == nil && o.height < l.next, err
}

// cut returns how the link of a request ended; ok is false if it has not.
func (l *ledger) cut(request int32) (c cutLink, ok bool, err error) {
	l.asked++
	value, err := store.Read(l.txn, store.CutKey(request))
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
	stem := store.NameStem(id)
	it := store.NewIterator(l.txn, stem)
	defer it.Close()
	value, err := store.VersionAt(it, stem, l.next-1)
	if err != nil || value == nil {
		return alone, err
	}
	return decodeNameRecord(value)
}

// waiters lists the actions of a kind that have waited for what is referred to, in
// order of position.
func (l *ledger) waiters(w wanted) (actions []int32, err error) {
	err = store.EachKey(l.txn, w.stem(), nil, func(key []byte) error {
		d := store.Decoder{Rest: key[wantedStemSize:]}
		if n := d.Action(); n < l.known {
			actions = append(actions, n)
		}
		return d.Finish("key of an action that waits")
	})
	return actions, err
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

// lastChunk is a chunk of a block's that was read, and is kept until another is.
type lastChunk struct {
	height, number uint32
	value          []byte // nil before the first
}

// read returns a chunk; nil if it is not there, of which nothing can be decoded.
func (c *lastChunk) read(txn *store.Txn, prefix byte, height, number uint32) ([]byte, error) {
	if c.value == nil || c.height != height || c.number != number {
		value, err := store.Read(txn, store.ChunkKey(prefix, height, number))
		if err != nil {
			return nil, err
		}
		c.height, c.number, c.value = height, number, value
	}
	return c.value, nil
}
