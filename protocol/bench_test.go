package protocol

import (
	"bytes"
	"testing"

	"github.com/gcash/bchd/wire"
)

// The blocks that all benchmarks of this file run on: 1 MB each.
func benchBlocks() map[string]blockSpec {
	return map[string]blockSpec{
		"payments": {seed: 1, size: 1_000_000, actions: 0.001},
		"mixed":    {seed: 2, size: 1_000_000, actions: 0.01, mixed: true},
	}
}

// benchOver runs work on each block, by name, after a check that work finds all
// the actions.
func benchOver(b *testing.B, work func(b *testing.B, raw []byte) (actions int)) {
	for _, name := range []string{"payments", "mixed"} {
		raw, actions := newBlock(b, benchBlocks()[name])
		b.Run(name, func(b *testing.B) {
			if got := work(b, raw); got != actions {
				b.Fatalf("found %d actions, the block has %d", got, actions)
			}
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				work(b, raw)
			}
		})
	}
}

// BenchmarkWalk is what the indexer does with every block: check its form and
// find the actions.
func BenchmarkWalk(b *testing.B) {
	benchOver(b, func(b *testing.B, raw []byte) int {
		block, err := ReadBlock(raw)
		if err != nil {
			b.Fatal(err)
		}
		return len(block.found)
	})
}

// BenchmarkWalkDecode also decodes the actions found, with their txids.
func BenchmarkWalkDecode(b *testing.B) {
	benchOver(b, func(b *testing.B, raw []byte) (actions int) {
		block, err := ReadBlock(raw)
		if err != nil {
			b.Fatal(err)
		}
		for c := range block.Carriers() {
			if c.Action.Malformed != nil {
				b.Fatal(c.Action.Malformed)
			}
			actions++
		}
		return actions
	})
}

// BenchmarkWalkVerify adds all txids and the check of the merkle root.
func BenchmarkWalkVerify(b *testing.B) {
	benchOver(b, func(b *testing.B, raw []byte) int {
		block, err := (&Walk{Root: RootAlways}).Read(raw)
		if err != nil {
			b.Fatal(err)
		}
		return len(block.found)
	})
}

// BenchmarkWireDecode is the plain way: bchd's decoder, then a look at each
// output script.
func BenchmarkWireDecode(b *testing.B) {
	benchOver(b, func(b *testing.B, raw []byte) int {
		_, actions := wireDecode(b, raw)
		return actions
	})
}

// BenchmarkWireDecodeVerify adds all txids and the check of the merkle root.
func BenchmarkWireDecodeVerify(b *testing.B) {
	benchOver(b, func(b *testing.B, raw []byte) int {
		block, actions := wireDecode(b, raw)
		if plainMerkleRoot(txids(block.Transactions)) != block.Header.MerkleRoot {
			b.Fatal("merkle root does not match")
		}
		return actions
	})
}

func wireDecode(b *testing.B, raw []byte) (block *wire.MsgBlock, actions int) {
	block = new(wire.MsgBlock)
	if err := block.Deserialize(bytes.NewReader(raw)); err != nil {
		b.Fatal(err)
	}
	for _, tx := range block.Transactions {
		for _, out := range tx.TxOut {
			if actionKind(out.PkScript) != 0 {
				actions++
				break
			}
		}
	}
	return block, actions
}

// BenchmarkCopy is what this machine's memory allows.
func BenchmarkCopy(b *testing.B) {
	for _, name := range []string{"payments", "mixed"} {
		raw, _ := newBlock(b, benchBlocks()[name])
		b.Run(name, func(b *testing.B) {
			to := make([]byte, len(raw))
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				copy(to, raw)
			}
		})
	}
}
