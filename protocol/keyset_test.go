package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gcash/bchd/wire"
)

// TestPayments compares the walk with a plain look at every output.
func TestPayments(t *testing.T) {
	for seed, spec := range []blockSpec{{size: 50_000}, {size: 50_000, mixed: true}, {size: 50_000, mixed: true, actions: 0.5}} {
		spec.seed = uint64(seed)
		raw, _ := newBlock(t, spec)
		block, err := ReadBlock(raw)
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(uint64(seed), 2))
		var all []KeyHash
		for _, tx := range block.Txs() {
			for _, output := range tx.Outputs() {
				if key, ok := P2PKHKey(StripTokenPrefix(output.Script)); ok {
					all = append(all, key)
				}
			}
		}
		for _, share := range []float64{0, 0.01, 0.3, 1} {
			var keys []KeyHash
			for _, key := range all {
				if rng.Float64() < share {
					keys = append(keys, key)
				}
			}
			set := NewKeySet(slices.Values(keys))
			var want []Tx
			for _, tx := range block.Txs() {
				for _, output := range tx.Outputs() {
					if key, ok := P2PKHKey(StripTokenPrefix(output.Script)); ok && slices.Contains(keys, key) {
						want = append(want, tx)
						break
					}
				}
			}
			payments, err := set.Payments(raw)
			if err != nil {
				t.Fatal(err)
			}
			got := slices.Collect(payments)
			if !slices.EqualFunc(got, want, func(a, b Tx) bool { return bytes.Equal(a, b) }) {
				t.Errorf("seed %d, share %v: %d transactions, expected %d", seed, share, len(got), len(want))
			}
		}
	}
}

func TestPaymentForms(t *testing.T) {
	key := KeyHash{1, 2, 3, 4, 5, 6, 7, 8, 9}
	near := key // the filter cannot tell it from key
	near[19]++
	set := NewKeySet(slices.Values([]KeyHash{key}))
	script := P2PKHScript(key)
	with := func(at int, b byte) []byte {
		changed := bytes.Clone(script)
		changed[at] = b
		return changed
	}
	category := append([]byte{wire.PREFIX_BYTE}, make([]byte, 32)...)
	for _, tt := range []struct {
		name    string
		outputs [][]byte
		want    bool
	}{
		{"P2PKH", [][]byte{script}, true},
		{"the second output", [][]byte{P2PKHScript(near), script}, true},
		{"another key", [][]byte{P2PKHScript(near)}, false},
		{"with a token", [][]byte{append(append(bytes.Clone(category), 0x10, 1), script...)}, true},
		{"with a prefix that is none", [][]byte{append(append(bytes.Clone(category), 0x00, 1), script...)}, false},
		{"another key with a token", [][]byte{append(append(bytes.Clone(category), 0x10, 1), P2PKHScript(near)...)}, false},
		{"without OP_DUP", [][]byte{with(0, 0x61)}, false},
		{"without OP_CHECKSIG", [][]byte{with(24, 0x61)}, false},
		{"longer", [][]byte{append(bytes.Clone(script), 0x61)}, false},
		{"within another script", [][]byte{append([]byte{0x61}, script...)}, false},
		{"an action", [][]byte{append([]byte{0x6a, 2, 0x6d, 0x20, 20}, key[:]...)}, false},
		{"none", nil, false},
	} {
		raw := rawBlock(t, rawTx([]wire.TxIn{{}}, tt.outputs...))
		payments, err := set.Payments(raw)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if got := len(slices.Collect(payments)); (got == 1) != tt.want {
			t.Errorf("%s: %d transactions", tt.name, got)
		}
		// Every block that ends too early is refused, nothing is read behind its end.
		for end := range raw {
			if _, err := set.Payments(raw[:end:end]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%s, %d bytes: %v", tt.name, end, err)
			}
		}
	}
}

// BenchmarkPayments looks for 100,000 keys.
func BenchmarkPayments(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 3))
	set := NewKeySet(func(yield func(KeyHash) bool) {
		for range 100_000 {
			var key KeyHash
			binary.LittleEndian.PutUint64(key[:], rng.Uint64())
			if !yield(key) {
				return
			}
		}
	})
	raw, _ := newBlock(b, benchBlocks()["payments"])
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		payments, err := set.Payments(raw)
		if err != nil {
			b.Fatal(err)
		}
		for tx := range payments {
			b.Fatalf("%v pays a key that nobody has", tx.TxID())
		}
	}
}
