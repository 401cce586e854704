package graph

import (
	"crypto/sha256"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// BenchmarkStateProof makes an identity of n keys, beside its root, and measures the proof of a key of depth 1: its size, in a log of
// 400,000 entries with 3 cosigners, the time to make it as of the tip, the time to check it, and what it takes to make the
// map of an older block again: from undo records, and of all keys.
func BenchmarkStateProof(b *testing.B) {
	for _, keys := range scales()[1:] {
		b.Run(fmt.Sprint(keys), func(b *testing.B) { benchmarkStateProof(b, keys) })
	}
}

func benchmarkStateProof(b *testing.B, keys int) {
	g, err := Open(b.TempDir(), testParams, Options{Memory: scaleMemory, ProofRebuildKeys: 2 * keys})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	gr := &grower{shape: shapes["star"]}
	gr.growTo(b, g, keys)
	tip, _ := g.Tip()
	subject := func() []proof.StateSubject {
		return []proof.StateSubject{{Key: key(fmt.Sprint(1 + rand.IntN(keys-1)))}}
	}
	prove := func(height uint32) *proof.StateProof {
		p, err := g.ProveState(b.Context(), height, subject())
		if err != nil {
			b.Fatal(err)
		}
		return p
	}
	// Processor time, whatever else the machine does.
	run := func(name string, op func(b *testing.B, i int)) {
		b.Run(name, func(b *testing.B) {
			start := processorTime(b)
			i := 0
			for ; b.Loop(); i++ {
				op(b, i)
			}
			b.ReportMetric(float64((processorTime(b)-start).Microseconds())/float64(i), "cpu-µs/op")
		})
	}
	run("make", func(b *testing.B, i int) { prove(tip.Height) })
	l := newBenchLog(b)
	var files [][]byte
	size, largest := 0, 0
	for range 100 {
		files = append(files, l.file(b, prove(tip.Height)))
		size += len(files[len(files)-1])
		largest = max(largest, len(files[len(files)-1]))
	}
	run("check", func(b *testing.B, i int) {
		b.ReportMetric(float64(size)/float64(len(files)), "bytes")
		b.ReportMetric(float64(largest), "bytes-at-most")
		proven, err := proof.VerifyState(files[i%len(files)], l.policy)
		if err != nil || len(proven.Subjects[0].Keys) != 2 {
			b.Fatal(err, proven)
		}
	})
	run("remake-12-blocks", func(b *testing.B, i int) {
		g.proofMaps.giveWay()
		prove(tip.Height - min(12, tip.Height))
	})
	s := g.current.Load()
	s.undoFrom = tip.Height + 1 // nobody else has the graph
	run("remake-of-all", func(b *testing.B, i int) {
		g.proofMaps.giveWay()
		prove(tip.Height - 1)
	})
}

// benchLog is a state log and three witnesses.
type benchLog struct {
	log       *tlog.Key
	witnesses []*tlog.Key
	policy    *tlog.Policy
	others    map[int]tlog.Hash // of trees of so many entries whose hashes are zero
}

func newBenchLog(b *testing.B) *benchLog {
	generate := func(name string) *tlog.Key {
		k, err := tlog.GenerateKey(name)
		if err != nil {
			b.Fatal(err)
		}
		return k
	}
	l := &benchLog{log: generate(protocol.StateOrigin("keys.example.org", "mainnet", 1)), others: map[int]tlog.Hash{1: {}}}
	text := fmt.Sprintf("log %s\n", l.log.Log())
	for i := range 3 {
		l.witnesses = append(l.witnesses, generate(fmt.Sprintf("witness%d.example.org", i)))
		text += fmt.Sprintf("witness w%d %s\n", i, l.witnesses[i].Witness())
	}
	var err error
	if l.policy, err = tlog.ParsePolicy([]byte(text + "group two 2 w0 w1 w2\nquorum two\n")); err != nil {
		b.Fatal(err)
	}
	return l
}

// file returns the file of a proof whose entry is in the middle of a log of 400,000.
func (l *benchLog) file(b *testing.B, p *proof.StateProof) []byte {
	const entries = 400_000
	entry := p.Entry.Bytes()
	file := tlog.Proof{Index: entries / 2}
	root := l.prove(&file, entries, entries/2, sha256.Sum256(append([]byte{0}, entry[:]...)))
	var err error
	if file.Extra, err = p.Marshal(); err != nil {
		b.Fatal(err)
	}
	signed := l.log.Sign(tlog.Checkpoint{Origin: l.log.Name(), Size: entries, Root: root})
	file.Checkpoint = signed
	for _, w := range l.witnesses {
		file.Checkpoint = append(file.Checkpoint, w.Cosign(signed, time.Now())...)
	}
	return file.Marshal()
}

// half is the size of the left one of two trees that make one (RFC 6962 §2.1).
func half(entries int) int { return 1 << (bits.Len(uint(entries-1)) - 1) }

func join(left, right tlog.Hash) tlog.Hash {
	return sha256.Sum256(append(append([]byte{1}, left[:]...), right[:]...))
}

// prove adds the hashes that lead from a leaf to the root of a tree of so many entries, which it returns.
func (l *benchLog) prove(file *tlog.Proof, entries, index int, leaf tlog.Hash) tlog.Hash {
	if entries == 1 {
		return leaf
	}
	k := half(entries)
	var left, right tlog.Hash
	if index < k {
		left, right = l.prove(file, k, index, leaf), l.other(entries-k)
		file.Hashes = append(file.Hashes, right)
	} else {
		left, right = l.other(k), l.prove(file, entries-k, index-k, leaf)
		file.Hashes = append(file.Hashes, left)
	}
	return join(left, right)
}

func (l *benchLog) other(entries int) tlog.Hash {
	hash, ok := l.others[entries]
	if !ok {
		k := half(entries)
		hash = join(l.other(k), l.other(entries-k))
		l.others[entries] = hash
	}
	return hash
}
