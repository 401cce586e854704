package graph

import (
	"math"
	"math/bits"
	"reflect"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph/store"
)

// spent asks a question, and returns how many bytes it allocated, of which most are copies of the records that it
// read, and its processor time.
func spent(t *testing.T, ask func()) (allocated uint64, took time.Duration) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const ofThread = 1 // RUSAGE_THREAD
	processorTime := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(ofThread, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := processorTime()
	ask()
	took = processorTime() - start
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc, took
}

// TestAdversaryBrokenChains has transactions break as many chains of anchors in one block as they have inputs, and
// reads pages of the block's events that begin at any of them: a page costs what its events do, and the few records
// by which it is found.
func TestAdversaryBrokenChains(t *testing.T) {
	if testing.Short() {
		t.Skip("it measures what one goroutine allocates")
	}
	begun, inputs := 6000, 1000
	if exhaustive() {
		begun, inputs = 300_000, 20_000
	}
	c := newAnchorGraph(t)
	var breaking []*wire.MsgTx
	for from := 0; from < begun; from += inputs {
		var own []*wire.MsgTx
		var spends []wire.OutPoint
		for i := range inputs {
			own = append(own, anchorTxOf(t, anchor("a.org", 0, byte(i)), from+i))
			spends = append(spends, batonOf(own[i]))
		}
		c.connect(own...)
		breaking = append(breaking, anchorTxOf(t, nil, from, spends...))
	}
	c.connect(breaking...)
	tip, _ := c.g.Tip()
	whole, err := c.g.Events(tip.Height, 0, math.MaxInt)
	if err != nil || len(whole.Anchors) != begun {
		t.Fatalf("%d events, expected %d, %v", len(whole.Anchors), begun, err)
	}
	const page = 100
	records := uint64(2*bits.Len(uint(begun)) + 4) // to find the first event; and to count, and for the page
	for _, from := range []int{0, 1, 1771, 1772, begun / 2, begun - page, begun - 1} {
		var got BlockEvents
		allocated, took := spent(t, func() { got, err = c.g.Events(tip.Height, from, page) })
		if err != nil || !reflect.DeepEqual(got.Anchors, whole.Anchors[from:min(from+page, begun)]) || got.More != (from+page < begun) {
			t.Fatalf("from %d: %d events, more: %t, %v", from, len(got.Anchors), got.More, err)
		}
		t.Logf("%d of %d events from %d: %d kB, %v of processor time", len(got.Anchors), begun, from, allocated>>10, took)
		if most := records * 4 * store.ChunkSize; allocated > most {
			t.Errorf("%d events from %d took %d bytes, expected %d at most: those of %d records", page, from, allocated, most, records)
		}
	}
}

// TestAdversaryAnchors lists the anchors of a domain for which strangers have made as many chains as they like to pay
// for, and shows that one of them is in its block, which they fill.
func TestAdversaryAnchors(t *testing.T) {
	if testing.Short() {
		t.Skip("it measures what one goroutine allocates")
	}
	count := 3000
	if exhaustive() {
		count = anchorsPerBlock
	}
	const page, record = 1000, 4 << 10 // a chunk of anchors, of merkle nodes
	c := newAnchorGraph(t)
	block := blockOfAnchors(t, 0, [32]byte{}, count, nil)
	if err := c.g.Connect(block); err != nil {
		t.Fatal(err)
	}
	v, err := c.g.At(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	deep := &store.Position{Height: 0, Index: uint32(count - page)}
	last := block.Anchors.Txs[count-1].Raw.TxID()
	for _, question := range []struct {
		name    string
		records uint64
		ask     func() (entries int, err error)
	}{
		{"AnchorChainsOf", 6 * page, func() (int, error) {
			chains, _, err := v.AnchorChainsOf(t.Context(), "a.org", deep, page)
			return len(chains), err
		}},
		{"AnchorsOf, and what became of their chains", 3 * page, func() (int, error) {
			list, _, err := v.AnchorsOf(t.Context(), "a.org", deep, page)
			for i := range list {
				if _, _, err := v.ChainBreak(list[i].Chain); err != nil {
					return 0, err
				}
			}
			return len(list), err
		}},
		{"AnchorProof", 3 + 32, func() (int, error) { _, err := v.AnchorProof(last); return page, err }},
	} {
		var entries int
		allocated, took := spent(t, func() { entries, err = question.ask() })
		if err != nil || entries != page {
			t.Fatalf("%s: %d, %v", question.name, entries, err)
		}
		t.Logf("%s among %d: %d kB, %v of processor time", question.name, count, allocated>>10, took)
		if most := question.records * 4 * record; allocated > most {
			t.Errorf("%s took %d bytes, expected %d at most: those of %d records", question.name, allocated, most, question.records)
		}
	}
}
