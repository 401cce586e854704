package audit

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
)

// longHistory is files with a hashchain, the proof bundle of its anchors and the
// headers of their blocks, so that none of it is in memory.
type longHistory struct {
	world            *world
	entries, anchors int
	entryFile        string
	bundleFile       string
}

const (
	longBranch = 12 // blocks of some 4,000 transactions
	pieceSize  = 1 << 14
)

func newLongHistory(t testing.TB, entries, anchors int) *longHistory {
	t.Helper()
	dir := t.TempDir()
	l := &longHistory{
		world: &world{t: t, now: time.Unix(testTime, 0)}, entries: entries, anchors: anchors,
		entryFile: filepath.Join(dir, "entries"), bundleFile: filepath.Join(dir, "bundle"),
	}
	file, err := os.Create(l.entryFile)
	if err != nil {
		t.Fatal(err)
	}
	out := bufio.NewWriter(file)
	random := mathrand.NewChaCha8([32]byte{1})
	var c hashchain.Chain
	w := l.world
	for i := range entries {
		e := randomEntry(random, c.Head)
		if i == 0 {
			if e, err = hashchain.Seal(c.Head, uid.KeyserverLocalpart+"@"+testDomain, hashchain.Hash{}, rand.Reader); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Append([]hashchain.Entry{e}, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write(e[:]); err != nil {
			t.Fatal(err)
		}
		if (i+1)%(entries/anchors) == 0 {
			w.addAnchor(&protocol.Anchor{Domain: testDomain, Position: c.Size - 1, Head: c.Head, Root: c.Root()})
		}
	}
	w.genesis = chainhash.DoubleHashH(w.items[0].Raw)
	err = errors.Join(out.Flush(), file.Close(), os.WriteFile(l.bundleFile, w.bundle(0), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	w.items = nil
	return l
}

// randomEntry is an entry of which only the hash is right.
func randomEntry(random io.Reader, prev hashchain.Hash) hashchain.Entry {
	var b [185 - 32]byte // the entry without its hash, and the hash before it
	io.ReadFull(random, b[:len(b)-32])
	b[0] = 1
	copy(b[len(b)-32:], prev[:])
	var e hashchain.Entry
	sum := sha256.Sum256(b[:])
	copy(e[copy(e[:], sum[:]):], b[:])
	return e
}

// addAnchor puts an anchor into a block whose other transactions are hashes alone.
func (w *world) addAnchor(record *protocol.Anchor) {
	if len(w.headers) > 0 {
		w.height++
	}
	tx := w.tx([]wire.OutPoint{w.baton}, record)
	w.baton = wire.OutPoint{Hash: chainhash.DoubleHashH(tx)}
	it := &proof.BundleItem{Height: w.height, Raw: tx, Index: uint32(w.height) % (1 << longBranch), Branch: make([]chainhash.Hash, longBranch)}
	root := w.baton.Hash
	for i := range it.Branch {
		rand.Read(it.Branch[i][:])
		pair := append(append([]byte{}, root[:]...), it.Branch[i][:]...)
		if it.Index>>i&1 == 1 {
			pair = append(append([]byte{}, it.Branch[i][:]...), root[:]...)
		}
		root = chainhash.DoubleHashH(pair)
	}
	w.now = w.now.Add(time.Hour)
	raw := it.Header[:]
	copy(raw[4:], w.tip.Hash[:])
	copy(raw[36:], root[:])
	binary.LittleEndian.PutUint32(raw[68:], uint32(w.now.Unix()))
	binary.LittleEndian.PutUint32(raw[72:], testNet.PowLimitBits)
	w.tip = solve(w.t, raw)
	w.headers = append(w.headers, raw...)
	w.items = append(w.items, it)
}

// Entries implements Keyserver.
func (l *longHistory) Entries(_ context.Context, from uint64) iter.Seq2[[]hashchain.Entry, error] {
	return func(yield func([]hashchain.Entry, error) bool) {
		file, err := os.Open(l.entryFile)
		if err != nil {
			yield(nil, err)
			return
		}
		defer file.Close()
		for from < uint64(l.entries) {
			entries := make([]hashchain.Entry, min(pieceSize, uint64(l.entries)-from))
			raw := make([]byte, len(entries)*hashchain.EntrySize)
			_, err := file.ReadAt(raw, int64(from)*hashchain.EntrySize)
			for i := range entries {
				entries[i] = hashchain.Entry(raw[i*hashchain.EntrySize:])
			}
			from += uint64(len(entries))
			if !yield(entries, err) || err != nil {
				return
			}
		}
	}
}

var errNothing = errors.New("nothing is signed here")

// Positions implements Keyserver.
func (l *longHistory) Positions(context.Context, string) ([]uint64, error) { return nil, errNothing }

// Reply implements Keyserver.
func (l *longHistory) Reply(context.Context, hashchain.Hash) (*uid.Reply, error) {
	return nil, errNothing
}

// Schedule implements Keyserver.
func (l *longHistory) Schedule(context.Context) (*schedule.Schedule, error) { return nil, nil }

// Head implements Keyserver.
func (l *longHistory) Head(context.Context) (*hashchain.SignedHead, error) { return nil, nil }

// audit does a first audit and returns how much memory it had in use at most, in
// bytes.
func (l *longHistory) audit(t testing.TB) (peak uint64) {
	t.Helper()
	c := l.world.config(t.TempDir())
	n := 0
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	c.Progress = func(string, uint64, uint64) {
		if n++; n%64 == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse-min(m.HeapInuse, before.HeapInuse))
		}
	}
	a, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	r, err := a.Audit(t.Context(), Sources{
		Keyserver: l,
		Bundle:    func(context.Context, uint32) (io.ReadCloser, error) { return os.Open(l.bundleFile) },
		Headers:   l.world.headerFile(),
	})
	if err := errors.Join(err, a.Close()); err != nil {
		t.Fatal(err)
	}
	r.want(t, Sound, "")
	if r.Entries != uint64(l.entries) || r.Anchors != uint32(l.anchors) || r.Covered != r.Entries {
		t.Fatalf("%d entries, %d anchors, %d covered", r.Entries, r.Anchors, r.Covered)
	}
	return peak
}

// exhaustive tells whether to take the time for what takes minutes.
func exhaustive() bool { return os.Getenv("KEYTREE_EXHAUSTIVE") == "1" }

// TestLongHistory audits 10,000 anchors of 1,000,000 entries, or a fiftieth of
// that, in little memory.
func TestLongHistory(t *testing.T) {
	inMemory(t)
	entries, anchors := 20_000, 200
	if exhaustive() {
		entries, anchors = 1_000_000, 10_000
	}
	const most = 48 << 20
	if peak := newLongHistory(t, entries, anchors).audit(t); peak > most {
		t.Errorf("%d entries, %d anchors took %d MiB, expected at most %d", entries, anchors, peak>>20, most>>20)
	} else {
		t.Logf("%d entries, %d anchors took %d MiB", entries, anchors, peak>>20)
	}
}

// BenchmarkAudit is a first audit: all entries, few anchors; few entries, all
// anchors; both; and SHA-256 of the same bytes, once. The full size is behind
// KEYTREE_EXHAUSTIVE=1.
func BenchmarkAudit(b *testing.B) {
	inMemory(b)
	entries, anchors := 50_000, 500
	if exhaustive() {
		entries, anchors = 1_000_000, 10_000
	}
	for _, size := range []struct{ entries, anchors int }{{entries, 1}, {anchors, anchors}, {entries, anchors}} {
		b.Run(fmt.Sprintf("entries=%d/anchors=%d", size.entries, size.anchors), func(b *testing.B) {
			l := newLongHistory(b, size.entries, size.anchors)
			peak := uint64(0)
			for b.Loop() {
				peak = max(peak, l.audit(b))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(size.entries), "ns/entry")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(size.anchors), "ns/anchor")
			b.ReportMetric(float64(peak)/(1<<20), "peak-MiB")
		})
		b.Run(fmt.Sprintf("sha256/entries=%d/anchors=%d", size.entries, size.anchors), func(b *testing.B) {
			l := newLongHistory(b, size.entries, size.anchors)
			for b.Loop() {
				for _, path := range []string{l.entryFile, l.bundleFile} {
					file, err := os.Open(path)
					if err != nil {
						b.Fatal(err)
					}
					_, err = io.Copy(sha256.New(), file)
					if err := errors.Join(err, file.Close()); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(size.entries), "ns/entry")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(size.anchors), "ns/anchor")
		})
	}
}
