package sha256d

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

func random(rng *rand.Rand, size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// TestMessages compares with crypto/sha256, for all lengths around the borders of
// blocks, and for any number of messages of all kinds of lengths at a time.
func TestMessages(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	check := func(messages [][]byte) {
		t.Helper()
		sums := make([]chainhash.Hash, len(messages)+1)
		Messages(sums, messages)
		for i, message := range messages {
			if want := chainhash.DoubleHashH(message); sums[i] != want {
				t.Errorf("message %d of %d, %d bytes: %v, expected %v", i, len(messages), len(message), sums[i], want)
			}
		}
		if sums[len(messages)] != (chainhash.Hash{}) {
			t.Error("wrote behind the last sum")
		}
	}
	check(nil)
	for size := range 300 {
		check([][]byte{random(rng, size)})
		check([][]byte{random(rng, size), random(rng, 299-size)})
	}
	for range 300 {
		messages := make([][]byte, rng.IntN(1<<rng.IntN(11)))
		for i := range messages {
			messages[i] = random(rng, rng.IntN(1<<rng.IntN(12)))
		}
		check(messages)
	}
}

func TestPairs(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for count := range 40 {
		hashes := make([]chainhash.Hash, count)
		var want []chainhash.Hash
		for i := range hashes {
			hashes[i] = chainhash.Hash(random(rng, chainhash.HashSize))
			if i%2 == 1 {
				want = append(want, chainhash.DoubleHashH(bytes.Join([][]byte{hashes[i-1][:], hashes[i][:]}, nil)))
			}
		}
		sums := make([]chainhash.Hash, count/2)
		Pairs(sums, hashes)
		Pairs(hashes, hashes) // in place
		for i := range want {
			if sums[i] != want[i] || hashes[i] != want[i] {
				t.Errorf("pair %d of %d hashes: %v and %v, expected %v", i, count, sums[i], hashes[i], want[i])
			}
		}
	}
}

func BenchmarkMessages(b *testing.B) {
	for _, size := range []int{32, 226, 10_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			messages := make([][]byte, 64)
			for i := range messages {
				messages[i] = make([]byte, size)
			}
			sums := make([]chainhash.Hash, len(messages))
			b.SetBytes(int64(len(messages) * size))
			b.ReportAllocs()
			for b.Loop() {
				Messages(sums, messages)
			}
		})
	}
}

// BenchmarkMixed is of messages about as long as a block's transactions.
func BenchmarkMixed(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 3))
	messages, size := make([][]byte, 256), 0
	for i := range messages {
		messages[i] = random(rng, []int{191, 192, 226, 226, 225, 373, 372, 340, 519, 700 + rng.IntN(3000)}[rng.IntN(10)])
		size += len(messages[i])
	}
	sums := make([]chainhash.Hash, len(messages))
	b.SetBytes(int64(size))
	for b.Loop() {
		Messages(sums, messages)
	}
}

func BenchmarkPairs(b *testing.B) {
	hashes, sums := make([]chainhash.Hash, 128), make([]chainhash.Hash, 64)
	b.SetBytes(128 * chainhash.HashSize)
	b.ReportAllocs()
	for b.Loop() {
		Pairs(sums, hashes)
	}
}

// BenchmarkOneByOne is what there was before.
func BenchmarkOneByOne(b *testing.B) {
	message := make([]byte, 226)
	b.SetBytes(226)
	for b.Loop() {
		chainhash.DoubleHashH(message)
	}
}
