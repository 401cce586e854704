package graph

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	sumdb "golang.org/x/mod/sumdb/tlog"

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

// benchLog is a state log of 400,000 entries and three witnesses.
type benchLog struct {
	log       *tlog.Key
	witnesses []*tlog.Key
	policy    *tlog.Policy
	stored    []sumdb.Hash // of all proofs, which have one entry
}

const benchEntries = 400_000

func newBenchLog(b *testing.B) *benchLog {
	generate := func(name string) *tlog.Key {
		k, err := tlog.GenerateKey(name)
		if err != nil {
			b.Fatal(err)
		}
		return k
	}
	l := &benchLog{log: generate(protocol.StateOrigin("keys.example.org", "mainnet", 1))}
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

// file returns the file of a proof whose entry is in the middle of the log.
func (l *benchLog) file(b *testing.B, p *proof.StateProof) []byte {
	entry := p.Entry.Bytes()
	read := sumdb.HashReaderFunc(func(indexes []int64) (hashes []sumdb.Hash, err error) {
		for _, i := range indexes {
			hashes = append(hashes, l.stored[i])
		}
		return hashes, nil
	})
	for i := int64(0); i < benchEntries && int64(len(l.stored)) < sumdb.StoredHashCount(benchEntries); i++ { // once
		hash := sumdb.Hash{} // but for that one
		if i == benchEntries/2 {
			hash = sumdb.RecordHash(entry[:])
		}
		more, err := sumdb.StoredHashesForRecordHash(i, hash, read)
		if err != nil {
			b.Fatal(err)
		}
		l.stored = append(l.stored, more...)
	}
	root, err := sumdb.TreeHash(benchEntries, read)
	if err != nil {
		b.Fatal(err)
	}
	file := tlog.Proof{Index: benchEntries / 2}
	if file.Hashes, err = sumdb.ProveRecord(benchEntries, benchEntries/2, read); err != nil {
		b.Fatal(err)
	}
	if file.Extra, err = p.Marshal(); err != nil {
		b.Fatal(err)
	}
	signed := l.log.Sign(tlog.Checkpoint{Origin: l.log.Name(), Size: benchEntries, Root: root})
	file.Checkpoint = signed
	for _, w := range l.witnesses {
		file.Checkpoint = append(file.Checkpoint, w.Cosign(signed, time.Now())...)
	}
	return file.Marshal()
}
