package protocol

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
)

// TestBatons compares the walk with a look at every input.
func TestBatons(t *testing.T) {
	raw, _ := newBlock(t, blockSpec{seed: 5, size: 300_000, actions: 0.01, mixed: true})
	block, err := ReadBlock(raw)
	if err != nil {
		t.Fatal(err)
	}
	plain := slices.Collect(block.Carriers())
	var spent []chainhash.Hash
	for _, tx := range block.Txs() {
		for _, out := range tx.Inputs() {
			spent = append(spent, out.Hash)
		}
	}
	rng := rand.New(rand.NewPCG(1, 4))
	for _, count := range []int{0, 1, 10, 300, 20_000} { // 20,000 with more bits
		batons := make(map[chainhash.Hash]bool)
		for range count {
			if rng.IntN(2) == 0 {
				batons[spent[rng.IntN(len(spent))]] = true
			} else {
				batons[chainhash.Hash(generator{rng}.bytes(32))] = true
			}
		}
		walk := Walk{Root: RootIfFound, Batons: NewBatonSet(func(yield func(chainhash.Hash) bool) {
			for txid := range batons {
				if !yield(txid) {
					return
				}
			}
		})}
		block, err := walk.Read(raw)
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[uint32]Carrier)
		for c := range block.Carriers() {
			got[c.Index] = c
		}
		spenders := 0
		for i, tx := range block.Txs() {
			spends := false
			for n, out := range tx.Inputs() {
				spends = spends || batons[out.Hash] && out.Index == 0
				if first, _ := tx.Input0(); n == 0 && out != first {
					t.Fatalf("input 0 of %d spends %v and %v", i, out, first)
				}
			}
			if spends {
				spenders++
			}
			carries := slices.ContainsFunc(plain, func(c Carrier) bool { return c.Index == i })
			if c, ok := got[i]; ok != (spends || carries) || c.SpendsBaton != spends || (c.Action.Kind != 0) != carries {
				t.Errorf("%d batons, transaction %d: found %v, %+v; it spends one: %v, carries: %v", count, i, ok, c, spends, carries)
			}
		}
		if spenders == 0 && count >= 300 {
			t.Errorf("%d of %d batons are spent in the block", spenders, count)
		}
	}
}

// TestBatonsAdded adds batons to a set in steps of all sizes. What there was before
// stays as it was.
func TestBatonsAdded(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 6))
	g := generator{rng}
	var sets []*BatonSet
	var all []chainhash.Hash
	since := make(map[chainhash.Hash]int) // the number of the first set that has it
	var set *BatonSet
	for len(all) < 5000 { // so many that the filter grows
		added := make([]chainhash.Hash, rng.IntN(1<<rng.IntN(9)))
		for i := range added {
			added[i] = g.hash()
		}
		if len(all) > 0 && rng.IntN(2) == 0 {
			added = append(added, all[rng.IntN(len(all))]) // once more
		}
		for _, txid := range added {
			if _, ok := since[txid]; !ok {
				since[txid] = len(sets)
			}
		}
		all = append(all, added...)
		set = set.With(slices.Values(added))
		sets = append(sets, set)
		if most := bits.Len(uint(len(all))) + 1; len(set.layers) > most {
			t.Fatalf("%d batons in %d layers, expected %d at most", len(all), len(set.layers), most)
		}
	}
	input := make([]byte, outPointSize)
	for i, set := range sets {
		for txid, first := range since {
			copy(input, txid[:])
			if want := first <= i; set.spentBy(input, 0) != want {
				t.Fatalf("set %d: baton %v, from set %d on, is in it: %v, expected %v", i, txid, first, !want, want)
			}
		}
	}
}

// TestBatonOutPoint has a baton beside what looks like it.
func TestBatonOutPoint(t *testing.T) {
	baton := chainhash.Hash{1, 2, 3, 4, 5, 6, 7, 8, 9}
	other := baton
	other[31] = 1 // the same for the filter
	in := func(outs ...wire.OutPoint) (inputs []wire.TxIn) {
		for _, out := range outs {
			inputs = append(inputs, wire.TxIn{PreviousOutPoint: out, SignatureScript: make([]byte, 300)})
		}
		return inputs
	}
	it, no := wire.OutPoint{Hash: baton}, wire.OutPoint{Hash: other}
	raw := rawBlock(t, rawTx(in(no)), rawTx(in(it)), rawTx(in(no, no, it)), rawTx(in(wire.OutPoint{Hash: baton, Index: 1})), rawTx(in(wire.OutPoint{Hash: baton, Index: 1 << 31})))
	for _, set := range []*BatonSet{nil, NewBatonSet(slices.Values([]chainhash.Hash{baton}))} {
		block, err := (&Walk{Batons: set}).Read(raw)
		if err != nil {
			t.Fatal(err)
		}
		var got []uint32
		for c := range block.Carriers() {
			got = append(got, c.Index)
			if !c.SpendsBaton || c.Anchor != nil || c.Action.Kind != 0 {
				t.Errorf("got %+v", c)
			}
		}
		if want := fmt.Sprint([]uint32{1, 2}[:map[bool]int{true: 0, false: 2}[set == nil]]); fmt.Sprint(got) != want {
			t.Errorf("found %v, expected %v", got, want)
		}
	}
}

// BenchmarkBatons is the walk on the lookout for batons, none of which is spent.
func BenchmarkBatons(b *testing.B) {
	raw, _ := newBlock(b, benchBlocks()["payments"])
	for _, count := range []int{0, 1, 1000, 100_000} {
		g := generator{rand.New(rand.NewPCG(1, 5))}
		walk := Walk{}
		if count > 0 {
			walk.Batons = NewBatonSet(func(yield func(chainhash.Hash) bool) {
				for range count {
					if !yield(g.hash()) {
						return
					}
				}
			})
		}
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := walk.Read(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
