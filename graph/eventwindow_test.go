package graph

import (
	"math"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph/anchors"
)

// TestEventsInWindows reads a block's events in windows of many sizes, which put together
// are all of its events.
func TestEventsInWindows(t *testing.T) {
	c := newAnchorGraph(t)
	const here = "example.org"
	var txs []*wire.MsgTx
	events := 0
	for i := range 2*anchors.TxsPerChunk + 3 {
		first := anchorTxOf(t, anchor(here, uint64(i)+10, 1), i+1)
		txs = append(txs, first) // begins a chain
		events++
		switch i % 3 { // what breaks it, or does not
		case 0:
			txs = append(txs, anchorTxOf(t, nil, i+1, batonOf(first)))
			events++
		case 1:
			txs = append(txs, anchorTxOf(t, anchor(here, uint64(i), 1), i+1, batonOf(first)))
			events += 2
		}
	}
	var block Block
	anchorBlock(t, &block, 0, txs...)
	block.Actions = grow(0, chainhash.Hash{}, shapes["path"], 1, 20).Actions
	for i := range block.Actions {
		block.Actions[i].Index += uint32(len(txs)) + 1
	}
	if err := c.g.Connect(block); err != nil {
		t.Fatal(err)
	}
	whole, err := c.g.Events(0, 0, math.MaxInt)
	if err != nil {
		t.Fatal(err)
	}
	if whole.More || len(whole.Effects) < 38 || len(whole.Anchors) != events {
		t.Fatalf("%d effects, %d on anchors, more: %v", len(whole.Effects), len(whole.Anchors), whole.More)
	}
	all := len(whole.Effects) + len(whole.Anchors)
	for size := 1; size <= all; size++ {
		joined := BlockEvents{Height: whole.Height, Hash: whole.Hash, PrevHash: whole.PrevHash, StateHash: whole.StateHash, StateRoot: whole.StateRoot, Time: whole.Time}
		for first := 0; first < all; first += size {
			window, err := c.g.Events(0, first, size)
			if err != nil {
				t.Fatal(err)
			}
			if n := len(window.Effects) + len(window.Anchors); n != min(size, all-first) || window.More != (first+size < all) {
				t.Fatalf("from %d at most %d: %d events, more: %v", first, size, n, window.More)
			}
			joined.Effects = append(joined.Effects, window.Effects...)
			joined.Anchors = append(joined.Anchors, window.Anchors...)
		}
		if !reflect.DeepEqual(joined, whole) {
			t.Fatalf("in windows of %d: %v, want %v", size, joined, whole)
		}
	}
	if beyond, err := c.g.Events(0, all, 10); err != nil || beyond.More || len(beyond.Effects)+len(beyond.Anchors) > 0 {
		t.Errorf("behind the last event: %v, %v", beyond, err)
	}
}

// TestEventsHoldTheirWindowOnly reads one event at the end of a long block.
func TestEventsHoldTheirWindowOnly(t *testing.T) {
	if testing.Short() {
		t.Skip("it measures what one goroutine allocates")
	}
	g := openTest(t, t.TempDir())
	block := grow(0, chainhash.Hash{}, shapes["star"], 1, 30_000)
	if err := g.Connect(block); err != nil {
		t.Fatal(err)
	}
	allocated := func(first, limit int) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		events, err := g.Events(0, first, limit)
		runtime.ReadMemStats(&after)
		if err != nil || len(events.Effects) != limit {
			t.Fatalf("%d effects, %v", len(events.Effects), err)
		}
		return after.TotalAlloc - before.TotalAlloc
	}
	all := allocated(0, 59_999)
	// It reads the one chunk that has it, of fifteen.
	if one := allocated(59_998, 1); one > all/100 {
		t.Errorf("the last of 59,999 events took %d bytes, all of them %d", one, all)
	}
}

// TestEventsFromAnyNumber reads windows of the events of a long block that begin at and beside each chunk of
// effects, and behind the last: of all that is before, effects and anchors, nothing is lost or told twice.
func TestEventsFromAnyNumber(t *testing.T) {
	c := newAnchorGraph(t)
	var block Block
	anchorBlock(t, &block, 0, anchorTxOf(t, anchor("example.org", 10, 1), 1))
	block.Actions = grow(0, chainhash.Hash{}, shapes["star"], 1, 5000).Actions
	for i := range block.Actions {
		block.Actions[i].Index += 2
	}
	if err := c.g.Connect(block); err != nil {
		t.Fatal(err)
	}
	whole, err := c.g.Events(0, 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	const chunk = 4096
	all := len(whole.Effects) + len(whole.Anchors)
	if len(whole.Effects) < 2*chunk || len(whole.Anchors) != 1 {
		t.Fatalf("%d effects, %d on anchors", len(whole.Effects), len(whole.Anchors))
	}
	for _, first := range []int{chunk - 1, chunk, chunk + 1, 2*chunk - 1, 2 * chunk, 2*chunk + 1, all - 2, all - 1, all, all + 1, all + 5*chunk} {
		window, err := c.g.Events(0, first, 10)
		if err != nil {
			t.Fatal(err)
		}
		effects, anchored := whole.Effects[min(first, len(whole.Effects)):min(first+10, len(whole.Effects))], 0
		if first < all && first+10 > len(whole.Effects) {
			anchored = 1
		}
		if !slices.Equal(window.Effects, effects) || len(window.Anchors) != anchored || window.More != (first+10 < all) {
			t.Errorf("from %d on: %d effects, want %d; %d on anchors, want %d; more: %v", first, len(window.Effects), len(effects), len(window.Anchors), anchored, window.More)
		}
	}
}
