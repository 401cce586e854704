package graph

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/fsck"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// inspect runs Check's comparison of all records on an open graph.
func (g *Graph) check(t testing.TB) *fsck.Report {
	t.Helper()
	r, err := fsck.CheckOpen(t.Context(), g.db, g.params, g.opt.fsck(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func lines(r *fsck.Report) string {
	var lines []string
	for _, f := range r.Findings {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

// wantSound checks that nothing is wrong in an open graph.
func (g *Graph) wantSound(t testing.TB) {
	t.Helper()
	r := g.check(t)
	tip, ok := g.Tip()
	if len(r.Findings) > 0 || ok && (r.Tip == nil || *r.Tip != tip) {
		t.Errorf("tip %+v, checked up to %+v, found:\n%v", tip, r.Tip, lines(r))
	}
}

// randomBlocks makes blocks of conflicting actions between few keys, some of
// which wait, and some of which are nonsense; and of anchors.
type randomBlocks struct {
	*rand.Rand
	seed     uint64
	serial   int
	requests []links.Action
	accepts  []links.Action
	anchors  *randomAnchors
}

func newRandomBlocks(seed uint64) *randomBlocks {
	return &randomBlocks{Rand: rand.New(rand.NewPCG(seed, 2)), seed: seed, anchors: newRandomAnchors(seed)}
}

func (r *randomBlocks) key() protocol.KeyHash { return key(fmt.Sprint("key", r.IntN(12))) }

// recent returns one of the last few actions, or one that does not exist.
func (r *randomBlocks) recent(actions []links.Action) links.Action {
	if len(actions) == 0 || r.IntN(20) == 0 {
		return links.Action{TxID: tx(fmt.Sprint("none", r.serial)), Action: protocol.Action{Parent: r.key()}}
	}
	return actions[max(0, len(actions)-1-r.IntN(12))]
}

func (r *randomBlocks) next(t testing.TB, height uint32, prev chainhash.Hash, actions int) Block {
	t.Helper()
	b := Block{Height: height, PrevHash: prev}
	for i := range actions {
		r.serial++
		author := r.key()
		a := links.Action{Index: uint32(i), TxID: tx(fmt.Sprint(r.seed, "/", r.serial)), Author: &author}
		switch a.Kind = protocol.Kind(1 + r.IntN(3)); a.Kind {
		case protocol.MLR:
			a.Parent = r.key()
			r.requests = append(r.requests, a)
		case protocol.MLA:
			request := r.recent(r.requests)
			a.Ref = protocol.RefersTo(request.TxID)
			if r.IntN(8) > 0 {
				author = request.Parent
			}
			r.accepts = append(r.accepts, a)
		case protocol.MCR:
			accept := r.recent(r.accepts)
			a.Ref = protocol.RefersTo(accept.TxID)
			if accept.Author != nil && r.IntN(8) > 0 {
				author = *accept.Author
			}
		}
		if r.IntN(6) == 0 && a.Kind != protocol.MLR { // confirmed before what it refers to
			a.Ref = protocol.RefersTo(tx(fmt.Sprint(r.seed, "/", r.serial+1+r.IntN(8))))
		}
		if r.IntN(20) == 0 {
			a.Action = protocol.Action{Kind: a.Kind, Malformed: errors.New("malformed")}
		} else if r.IntN(4) == 0 {
			a.Message = bytes.Repeat([]byte{byte(i)}, r.IntN(400))
		}
		if r.IntN(20) == 0 {
			a.Author = nil
		}
		b.Actions = append(b.Actions, a)
	}
	if actions == 0 || r.serial%2 == 0 {
		b.Hash = sha256.Sum256(fmt.Append(nil, r.seed, r.serial, height, prev))
		return b
	}
	txs := r.anchors.next(t, r.IntN(2+actions/2))
	author := r.key()
	anchorBlock(t, &b, uint64(r.serial), txs...)
	for i := range b.Anchors.Txs {
		if i%3 > 0 {
			b.Anchors.Txs[i].Author = &author
		}
	}
	return b
}

// richGraph is a graph in which there is a record of every kind.
func richGraph(t *testing.T) *Graph {
	t.Helper()
	params := Params{Network: "regtest", StartHeight: 7}
	g, err := Open(t.TempDir(), params, Options{MemTable: 1 << 20, BlockCache: 1 << 20, UndoBlocks: 20, recentActions: 60})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	r := newRandomBlocks(1)
	var prev chainhash.Hash
	connect := func(n, actions int) {
		var blocks []Block
		height := params.StartHeight
		if tip, ok := g.Tip(); ok {
			height, prev = tip.Height+1, tip.Hash
		}
		for range n {
			b := r.next(t, height, prev, actions)
			if len(b.Actions) > 10 {
				b.Actions[0].Malformed, b.Actions[0].Message = nil, bytes.Repeat([]byte("long"), store.ChunkSize/3)
			}
			height, prev = b.Height+1, b.Hash
			blocks = append(blocks, b)
		}
		if err := g.Connect(blocks...); err != nil {
			t.Fatal(err)
		}
	}
	connect(120, 1)
	connect(3, 30)
	for range 2 {
		if err := g.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
	connect(1, 60)
	connect(2, 100)
	return g
}

// TestCheckNamesEveryRecord damages one record of each kind after the other, in every byte, and
// sees that it is named.
func TestCheckNamesEveryRecord(t *testing.T) {
	if testing.Short() {
		t.Skip("it checks the same graph again and again")
	}
	g := richGraph(t)
	g.wantSound(t)
	if tip, _ := g.Tip(); tip.Counts.Links == 0 || tip.Counts.Waiting == 0 || g.UndoFrom() == g.params.StartHeight {
		t.Fatalf("the chain is too dull: %+v, undo from %d", tip.Counts, g.UndoFrom())
	}
	samples := 5 // bytes per record
	if exhaustive() {
		samples = 1 << 20
	}
	records := make(map[byte][][2][]byte)
	err := g.db.View(func(txn *badger.Txn) error {
		it := store.NewIterator(store.NewTxn(txn), nil)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			value, err := store.Value(it.Item())
			if err != nil {
				return err
			}
			key := it.Item().KeyCopy()
			records[key[0]] = append(records[key[0]], [2][]byte{key, value})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	set := func(key, value []byte) {
		t.Helper()
		err := g.db.Update(func(txn *badger.Txn) error {
			if value == nil {
				return txn.Delete(key)
			}
			return txn.Set(key, value)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// wantNamed checks that the damage is found and that one finding is about the
	// key, or else, with also, about a record of that kind.
	wantNamed := func(key []byte, what string, also ...byte) {
		t.Helper()
		r := g.check(t)
		for _, f := range r.Findings {
			if bytes.Equal(f.Key, key) || len(f.Key) > 0 && bytes.IndexByte(also, f.Key[0]) >= 0 {
				return
			}
		}
		t.Errorf("%s of %c %x is not named; found:\n%v", what, key[0], key[1:], lines(r))
	}
	for prefix := range byte(255) {
		if store.RecordName(prefix) == "" {
			continue
		}
		if len(records[prefix]) == 0 {
			t.Errorf("there is no record under %c", prefix)
			continue
		}
		all := records[prefix]
		for _, n := range []int{0, len(all) / 2, len(all) - 1} {
			key, value := all[n][0], all[n][1]
			switch prefix {
			case store.PrefixStale, store.PrefixStaleChange: // nothing else says what was taken off
			case store.PrefixUndo, store.PrefixEffects, store.PrefixActions, store.PrefixAnchorTxs, store.PrefixMerkle:
				set(key, nil)
				wantNamed(key, "loss", store.PrefixBlock, prefix)
			case store.PrefixUndoFrom:
				set(key, nil)
				wantNamed(key, "loss", store.PrefixUndo)
			default:
				set(key, nil)
				wantNamed(key, "loss")
			}
			set(key, value)

			if prefix == store.PrefixMessage || prefix == store.PrefixStamp {
				set(key, append(value[:len(value):len(value)], 0)) // the bytes themselves are compared with nothing
				if prefix == store.PrefixMessage {
					wantNamed(key, "growth")
				}
				set(key, value)
				continue
			}
			var covers []bool
			if prefix == store.PrefixActions {
				covers = g.covered(t, key, value)
			}
			for at := 0; at < len(value); at += 1 + len(value)/samples {
				if prefix == store.PrefixActions && !covers[at] {
					continue
				}
				if prefix == store.PrefixBlock && n == 0 && at >= 32 && at < 64 {
					continue // what is above the first block is not known
				}
				changed := bytes.Clone(value)
				changed[at] ^= 1 << (at % 8)
				set(key, changed)
				what := fmt.Sprintf("byte %d of %x", at, value)
				switch prefix {
				case store.PrefixStale, store.PrefixStaleChange:
				case store.PrefixFormat:
					if _, err := fsck.CheckOpen(t.Context(), g.db, g.params, g.opt.fsck(), nil); err == nil {
						wantNamed(key, what)
					} else if !errors.Is(err, ErrMismatch) {
						t.Error(err)
					}
				case store.PrefixEffects, store.PrefixUndoFrom, store.PrefixTip, store.PrefixActions:
					wantNamed(key, what, store.PrefixBlock, store.PrefixUndo, store.PrefixActions, store.PrefixTip, store.PrefixEffects, store.PrefixMessage)
				case store.PrefixAnchorTxs: // the state hash alone tells who the author was
					wantNamed(key, what, prefix, store.PrefixBlock)
				default:
					wantNamed(key, what, prefix)
				}
				set(key, value)
			}
		}
		// One too many.
		extra := append(bytes.Clone(all[0][0]), 1)
		if prefix == store.PrefixFormat || prefix == store.PrefixTip || prefix == store.PrefixUndoFrom || prefix == store.PrefixStamp {
			extra = []byte{prefix, 0}
		}
		set(extra, all[0][1])
		wantNamed(extra, "one too many")
		set(extra, nil)
	}
	for _, key := range [][]byte{{'?'}, {'z', 1}} {
		set(key, []byte{1})
		wantNamed(key, "a foreign record")
		set(key, nil)
	}
	g.wantSound(t)
}

// exhaustive reports whether the long forms of the tests are asked for.
func exhaustive() bool { return os.Getenv("KEYTREE_EXHAUSTIVE") != "" }

// covered reports which bytes of a chunk of actions, whose key is given, are compared with
// something: all but places in the block, messages, and what else is in an action without
// author.
func (g *Graph) covered(t *testing.T, key, chunk []byte) []bool {
	t.Helper()
	height, number := binary.BigEndian.Uint32(key[1:]), int(binary.BigEndian.Uint32(key[5:]))
	var actions []links.Action
	err := g.db.View(func(txn *badger.Txn) (err error) {
		actions, err = links.ReadActions(store.NewTxn(txn), height, func(store.Position, uint32) ([]byte, error) { return nil, nil })
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	actions = actions[number*links.ActionsPerChunk:]
	is := make([]bool, len(chunk))
	d := store.Decoder{Rest: chunk}
	for n := 0; len(d.Rest) > 0; n++ {
		from := len(chunk) - len(d.Rest)
		length := d.Length()
		start := len(chunk) - len(d.Rest)
		d.Take(length)
		for at := from; at < len(chunk)-len(d.Rest)-len(actions[n].Message); at++ {
			is[at] = at <= start || at >= start+5 && (actions[n].Author != nil || at < start+37)
		}
	}
	return is
}
