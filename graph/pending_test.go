package graph

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
)

// supposed is what was queued, as what is pending.
func (c *chain) supposed() *PendingBlock {
	next := &PendingBlock{Height: c.next, PrevHash: c.tip, Actions: c.queue}
	c.queue = nil
	return next
}

// suppose lets what was queued be pending.
func (c *chain) suppose() *PendingBlock {
	c.t.Helper()
	next := c.supposed()
	if err := c.g.SetPending(next); err != nil {
		c.t.Fatal(err)
	}
	return next
}

func (c *chain) pending() *PendingView {
	c.t.Helper()
	v, ok := c.g.Pending()
	if !ok {
		c.t.Fatal("nothing is pending")
	}
	c.t.Cleanup(v.Close)
	return v
}

// isClosed tells whether a channel is.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// TestPendingChanged sets, replaces and drops what is pending, and looks at who is told, and what
// is answered.
func TestPendingChanged(t *testing.T) {
	c := newChain(t)
	if _, ok := c.g.Pending(); ok {
		t.Error("something is pending before the first block")
	}
	c.link("b", "B", "A")
	nothing, confirmed := c.g.PendingChanged(), c.g.Changed()
	if err := c.g.SetPending(nil); err != nil || isClosed(nothing) {
		t.Errorf("nothing instead of nothing: %v, told %t", err, isClosed(nothing))
	}

	seen := time.Unix(1_700_000_000, 0)
	c.request("c request", "C", "B")
	c.accept("c", "B", "c request")
	next := c.supposed()
	next.Txs = map[chainhash.Hash]PendingTx{tx("c"): {DoubleSpend: true, Seen: seen}}
	next.Coverage = Coverage{Omitted: 3, AsOf: seen}
	if err := c.g.SetPending(next); err != nil {
		t.Fatal(err)
	}
	first, changed := c.pending(), c.g.PendingChanged()
	if !isClosed(nothing) || isClosed(changed) || isClosed(confirmed) {
		t.Error("told wrongly that something is pending")
	}
	double, _ := first.Tx(tx("c"))
	plain, ok := first.Tx(tx("c request"))
	_, other := first.Tx(tx("b"))
	if double != (PendingTx{true, seen}) || plain != (PendingTx{}) || !ok || other || first.Len() != 2 || first.Coverage() != next.Coverage || first.Height() != c.next {
		t.Errorf("%+v, %+v, %t, %t, %+v", double, plain, ok, other, first.Coverage())
	}

	if err := c.g.SetPending(&PendingBlock{Height: c.next, PrevHash: c.tip}); err != nil {
		t.Fatal(err)
	}
	second := c.pending()
	if !isClosed(changed) || second.Generation() != first.Generation()+1 {
		t.Errorf("told %t, generation %d after %d", isClosed(changed), second.Generation(), first.Generation())
	}
	changed = c.g.PendingChanged()
	c.link("d", "D", "A")
	if _, ok := c.g.Pending(); ok || !isClosed(changed) {
		t.Errorf("after another tip: pending %t, told %t", ok, isClosed(changed))
	}
	// Views that are held go on.
	r, err := first.Resolve(t.Context(), key("C"))
	if err != nil || r.Root != key("A") || r.Depth != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err = second.Resolve(t.Context(), key("C")); err != nil || r.Depth != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	for range 2 {
		if err := c.g.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := first.Resolve(t.Context(), key("C")); !errors.Is(err, ErrReorganised) {
		t.Errorf("the tip was taken back: %v", err)
	}
}

// TestPendingWhy has answers that differ because of one of several pending actions, maybe far away.
func TestPendingWhy(t *testing.T) {
	c := newChain(t)
	c.link("b", "B", "A")
	c.link("c", "C", "B")
	c.link("y", "Y", "X")
	c.link("l", "L", "K")
	c.request("z request", "Z", "Q")
	c.accept("w", "R", "w request") // waits
	c.block()

	c.revoke("cut b", "A", "b")
	c.accept("z", "Q", "z request")
	c.request("w request", "W", "R")
	c.request("a request", "A", "Y")
	c.accept("a", "Y", "a request")
	c.request("nothing", "N", "A")
	c.request("k request", "K", "P") // and away again
	c.accept("k", "P", "k request")
	c.revoke("cut k", "P", "k")
	c.suppose()
	v := c.pending()
	for name, want := range map[string][]string{
		"C": {"cut b"},                   // above it
		"A": {"a request", "a"},          // and the id is the older one, below which it comes
		"X": {"a request", "a"},          // gets the older id of a tree below it
		"Q": {"z"},                       // named by a confirmed request
		"W": {"w request"},               // put in force by a confirmed accept
		"P": {"k request", "k", "cut k"}, // keeps the older id
		"L": {"k request", "k", "cut k"},
		"N": nil,
		"O": nil,
	} {
		got, more, err := v.WhyKey(t.Context(), key(name))
		if err != nil || more || !sameTxs(got, want) {
			t.Errorf("%s differs because of %v, %t, %v, expected %q", name, got, more, err, want)
		}
	}
	for id, want := range map[string][]string{
		"b request": {"cut b", "a request", "a"},
		"y request": {"a request", "a"},
		"cut b":     {"cut b"},
		"w request": {"w request"},
		"z request": {"z"},
		"nothing":   nil,
	} {
		got, _, more, err := v.WhyIdentity(tx(id))
		if err != nil || more || !sameTxs(got, want) {
			t.Errorf("identity %s differs because of %v, %t, %v, expected %q", id, got, more, err, want)
		}
	}
	for action, want := range map[string][]string{
		"b":         {"cut b"},
		"w":         {"w request"},
		"z request": {"z"},
		"c":         nil,
	} {
		got, err := v.WhyAction(tx(action))
		if err != nil || !sameTxs(got, want) {
			t.Errorf("action %s differs because of %v, %v, expected %q", action, got, err, want)
		}
	}
}

// sameTxs tells whether txids are those of names, in any order.
func sameTxs(txids []chainhash.Hash, names []string) bool {
	want := make(map[chainhash.Hash]bool)
	for _, name := range names {
		want[tx(name)] = true
	}
	for _, txid := range txids {
		if !want[txid] {
			return false
		}
	}
	return len(want) == len(txids)
}

// TestPendingLeavesNoTrace lets this and that be pending: neither the store nor what is held in
// memory of the tip changes.
func TestPendingLeavesNoTrace(t *testing.T) {
	c := newChain(t)
	c.link("b", "B", "A")
	c.accept("early", "A", "c request")
	c.block()
	before := c.g.digest(t)
	for range 3 {
		c.request("c request", "C", "A")
		c.revoke("cut", "A", "b")
		c.suppose()
		c.wantID(c.at(0), "B", tx("b request"), "A", 1)
		c.wantID(c.at(0), "C", chainhash.Hash{}, "C", 0)
	}
	if c.g.digest(t) != before {
		t.Error("the store is another")
	}
	c.g.checkMemory(t)
	c.g.wantSound(t)
	c.link("d", "D", "A")
	c.wantID(c.at(0), "D", tx("b request"), "A", 1)
	c.g.checkMemory(t)
	c.g.wantSound(t)
}

// TestPendingStandsInNobodysWay connects a block while what is pending is being worked out, which is
// stale then.
func TestPendingStandsInNobodysWay(t *testing.T) {
	c := newChain(t)
	c.link("b", "B", "A")
	base, err := c.g.hold()
	if err != nil {
		t.Fatal(err)
	}
	defer base.release()
	c.g.supposing.Lock()
	c.revoke("cut", "A", "b")
	next := c.supposed()
	c.link("c", "C", "A")
	p, err := c.g.suppose(base, next)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.g.setPending(base, p); !errors.Is(err, ErrBlock) {
		t.Errorf("what is pending after another tip: %v", err)
	}
	c.g.supposing.Unlock()
	if _, ok := c.g.Pending(); ok {
		t.Error("it is pending")
	}
	c.g.checkMemory(t)
}

// TestPendingGivesWay has room for what is pending, or for a block, and not for both.
func TestPendingGivesWay(t *testing.T) {
	c := newChain(t)
	c.link("b", "B", "A")
	queue := func(actions int) {
		for n := range actions {
			c.request(fmt.Sprint(n), fmt.Sprint("child", n), "A")
		}
	}
	for range 8 { // filters take a share of the memory: this comes closer to what leaves just that room
		m := c.g.Memory()
		c.g.opt.Memory = (m.all() + stagesMemory + 1500*stepMemory) * 4 / 3
	}
	queue(2 + int(stagesMemory)/stepMemory + 1500)
	if err := c.g.SetPending(c.supposed()); !errors.Is(err, ErrMemory) {
		t.Errorf("more than there is room for: %v", err)
	}
	queue(1000)
	c.suppose()
	if got := c.g.Memory().Pending; got < 1000*stepMemory {
		t.Errorf("1,000 pending actions take %d bytes", got)
	}
	queue(1000)
	changed := c.g.PendingChanged()
	c.block()
	if got := c.g.Memory().Pending; got != 0 || !isClosed(changed) {
		t.Errorf("after a block %d bytes are pending", got)
	}
}

// TestPendingMany lets many actions be pending: what they take is counted, and confirmed answers
// stay. KEYTREE_EXHAUSTIVE has 100,000 of them.
func TestPendingMany(t *testing.T) {
	keys := 1000
	if exhaustive() {
		keys = 50_000
	}
	g, err := Open(t.TempDir(), testParams, Options{Memory: scaleMemory})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	first := grow(0, chainhash.Hash{}, shapes["tree"], 1, keys)
	if err := g.Connect(first); err != nil {
		t.Fatal(err)
	}
	next := &PendingBlock{Height: 1, PrevHash: first.Hash, Actions: grow(1, first.Hash, shapes["tree"], keys, 2*keys).Actions}
	before := heapInUse()
	start := time.Now()
	if err := g.SetPending(next); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	took -= took % time.Millisecond
	taken, counted := heapInUse()-before, g.Memory().Pending
	t.Logf("%d pending actions: %v, %d bytes, counted %d", len(next.Actions), took, taken, counted)
	if exhaustive() && taken > counted {
		t.Errorf("they take %d bytes, counted are %d", taken, counted)
	}
	v, ok := g.Pending()
	if !ok {
		t.Fatal("nothing is pending")
	}
	defer v.Close()
	for n := keys - 5; n < keys+5; n++ {
		is, err := v.Resolve(t.Context(), key(fmt.Sprint(n)))
		was, err2 := v.Tip().Resolve(t.Context(), key(fmt.Sprint(n)))
		if err != nil || err2 != nil || (was.Depth > 0) != (n < keys) || is.Depth == 0 || is.Root != key("0") {
			t.Errorf("key %d: depth %d, pending %d, %v, %v", n, was.Depth, is.Depth, err, err2)
		}
	}
	runtime.KeepAlive(next)
}

// TestPendingAnchors lets random transactions be pending that go on with chains of anchors, begin or break
// them, on top of others: what they would make of them is what the plain model says, and what they do once
// they are mined.
func TestPendingAnchors(t *testing.T) {
	for seed := range uint64(4) {
		r := newRandomAnchors(seed)
		g := openTest(t, t.TempDir())
		c := anchorGraph{t, g}
		var blocks [][]*wire.MsgTx
		c.connect()
		blocks = append(blocks, nil)
		for range 8 {
			txs := r.next(t, 3+r.IntN(10))
			tip, _ := g.Tip()
			next := &PendingBlock{Height: tip.Height + 1, PrevHash: tip.Hash}
			var mined Block
			anchorBlock(t, &mined, 0, txs...) // serializes them
			next.Anchors = mined.Anchors.Txs
			if err := g.SetPending(next); err != nil {
				t.Fatal(err)
			}
			v, ok := g.Pending()
			if !ok {
				t.Fatal("nothing is pending")
			}
			blocks = append(blocks, txs)
			plain := plainAnchors(blocks)
			got := make(map[chainhash.Hash]anchors.Chain)
			for id, want := range plain {
				chain, err := v.AnchorChain(id)
				if err != nil {
					t.Fatal(err)
				}
				got[id] = chain
				if int(chain.Anchors) != len(want.anchors) || chain.Break != want.how || chain.BrokenBy != want.by {
					t.Errorf("pending chain %+v, want %+v", chain, want)
				}
			}
			all, _, err := v.AnchorsOf(t.Context(), "a.org", nil, 1000)
			if err != nil {
				t.Fatal(err)
			}
			effects, err := v.AnchorEffects(0, 1000)
			if err != nil {
				t.Fatal(err)
			}
			// A coinbase comes before what was pending, in its order.
			slices.SortFunc(txs, func(x, y *wire.MsgTx) int { return compareDisplayed(x.TxHash(), y.TxHash()) })
			c.connect(txs...)
			now := c.view()
			for id, want := range got {
				chain, err := now.AnchorChain(id)
				if err != nil || !reflect.DeepEqual(chain, want) {
					t.Errorf("mined chain %+v, %v, pending it was %+v", chain, err, want)
				}
			}
			minedAll, _, err := now.AnchorsOf(t.Context(), "a.org", nil, 1000)
			if err != nil || !reflect.DeepEqual(minedAll, all) {
				t.Errorf("mined anchors %+v, %v, pending %+v", minedAll, err, all)
			}
			events, err := g.Events(next.Height, 0, 1000)
			if err != nil || !reflect.DeepEqual(events.Anchors, effects) {
				t.Errorf("mined effects %+v, %v, pending %+v", events.Anchors, err, effects)
			}
			v.Close()
		}
		g.wantSound(t)
	}
}

// TestPendingRefusesAnchors gives what is no transaction, and one twice.
func TestPendingRefusesAnchors(t *testing.T) {
	c := newAnchorGraph(t)
	c.connect()
	tip, _ := c.g.Tip()
	var b Block
	anchorBlock(t, &b, 0, anchorTxOf(t, anchor("example.org", 1, 1), 1))
	sound := b.Anchors.Txs[0]
	for name, txs := range map[string][]anchors.Tx{
		"no transaction": {{Raw: protocol.Tx{1, 2, 3}}},
		"twice":          {sound, sound},
	} {
		if err := c.g.SetPending(&PendingBlock{Height: 1, PrevHash: tip.Hash, Anchors: txs}); !errors.Is(err, ErrBlock) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// One that is an action as well is one transaction.
	next := &PendingBlock{Height: 1, PrevHash: tip.Hash, Anchors: []anchors.Tx{sound},
		Actions: []links.Action{{TxID: sound.Raw.TxID(), Action: protocol.Action{Kind: protocol.MLR}}}}
	if err := c.g.SetPending(next); err != nil {
		t.Fatal(err)
	}
	v, _ := c.g.Pending()
	defer v.Close()
	actions, _, err := v.Actions(t.Context(), nil, 10)
	if err != nil || v.Len() != 1 || len(actions) != 1 || actions[0].Index != 1 || actions[0].Reason != links.NoAuthor {
		t.Errorf("%d transactions, %+v, %v", v.Len(), actions, err)
	}
}

// TestPendingWhileSteps supposes the next block of a path, and asks, from several goroutines while
// blocks come and go; it is for the race detector above all.
func TestPendingWhileSteps(t *testing.T) {
	g := openTest(t, t.TempDir())
	blocks := []Block{pathBlock(0, chainhash.Hash{})}
	for height := range uint32(15) {
		blocks = append(blocks, pathBlock(height+1, blocks[height].Hash))
	}
	if err := g.Connect(blocks[0]); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var others sync.WaitGroup
	each := func(do func()) {
		others.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					do()
				}
			}
		})
	}
	each(func() {
		tip, _ := g.Tip()
		next := &PendingBlock{Height: tip.Height + 1, PrevHash: tip.Hash, Actions: pathBlock(tip.Height+1, tip.Hash).Actions}
		if err := g.SetPending(next); err != nil && !errors.Is(err, ErrBlock) {
			t.Error(err)
		}
	})
	for range 2 {
		each(func() {
			changed := g.PendingChanged()
			v, ok := g.Pending()
			if !ok {
				select {
				case <-changed:
				case <-done:
				}
				return
			}
			defer v.Close()
			deepest := key(fmt.Sprint(v.Height() + 1))
			r, err := v.Resolve(t.Context(), deepest)
			if !errors.Is(err, ErrReorganised) && (err != nil || r.Depth != v.Height()+1) {
				t.Errorf("pending block %d: depth %d, %v", v.Height(), r.Depth, err)
			}
			if r, err = v.Tip().Resolve(t.Context(), deepest); !errors.Is(err, ErrReorganised) && (err != nil || r.Depth != 0) {
				t.Errorf("before block %d: depth %d, %v", v.Height(), r.Depth, err)
			}
			if why, _, err := v.WhyKey(t.Context(), deepest); !errors.Is(err, ErrReorganised) && (err != nil || len(why) != 2) {
				t.Errorf("pending block %d: %d reasons, %v", v.Height(), len(why), err)
			}
		})
	}
	for _, b := range blocks[1:] {
		if err := g.Connect(b); err != nil {
			t.Error(err)
		}
	}
	for range len(blocks) - 1 {
		if err := g.Disconnect(); err != nil {
			t.Error(err)
		}
	}
	close(done)
	others.Wait()
	g.checkMemory(t)
	g.wantSound(t)
}
