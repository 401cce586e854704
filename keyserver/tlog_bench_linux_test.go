package keyserver

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// The figures of a keyserver's transparency log: with 1,000,000 entries under KEYTREE_EXHAUSTIVE=1, with
// 20,000 otherwise. For example:
//
//	KEYTREE_EXHAUSTIVE=1 go test ./keyserver -run '^$' -bench Log -benchtime 1x -timeout 1h

func logEntries() int {
	if exhaustive() {
		return 1_000_000
	}
	return 20_000
}

// logOptions are those of a keyserver's log in a folder.
func logOptions(s *Service, dir string) tlog.Options {
	return tlog.Options{
		Source: s, Origin: tlog.Origin(testDomain), KeyFile: filepath.Join(dir, "log.key"), StateFile: filepath.Join(dir, "log.json"), Log: zerolog.Nop(),
	}
}

// runLog opens a log and has it sign, until what is returned is called.
func runLog(b *testing.B, opt tlog.Options) (l *tlog.Log, stop func()) {
	b.Helper()
	l, err := tlog.Open(opt)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { l.Run(ctx); close(done) }()
	return l, func() {
		cancel()
		<-done
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	}
}

// fillStore puts entries of nobody's behind those that a service has, in the store alone: it has to be
// closed then.
func fillStore(b *testing.B, s *Service, n int) {
	b.Helper()
	chain := s.Chain()
	random := rand.NewChaCha8([32]byte{1})
	for n > 0 {
		var writes []store.Write
		set := func(key, value []byte) { writes = append(writes, store.Write{Key: key, Value: value}) }
		for range min(n, 5_000) {
			var e hashchain.Entry
			random.Read(e[:])
			e[32] = 1 // the type
			e = e.Behind(chain.Head)
			position := chain.Size
			err := chain.Append([]hashchain.Entry{e}, func(id hashchain.NodeID, h hashchain.Hash) { set(nodeKey(id), h[:]) })
			if err != nil {
				b.Fatal(err)
			}
			record := entryRecord{e, s.now()}
			set(entryKey(position), record.encode())
			set(byHashKey(e.Hash()), number(position))
			n--
		}
		set([]byte{prefixHead}, headRecord(&chain))
		if err := s.db.Commit(writes); err != nil {
			b.Fatal(err)
		}
	}
}

// cpuTime is what the process has used of all cores.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLogOfMany opens a keyserver with many entries, which nobody has asked for anything yet, and
// tells how long it takes to have every tile of hashes, from the opening of its log on; and how many
// entries a second a static export writes, synced. Beside the time it tells that of the processors,
// since other programs may have them, too.
func BenchmarkLogOfMany(b *testing.B) {
	dir := b.TempDir()
	opt := Options{Domain: testDomain, Dir: filepath.Join(dir, "db"), KeyFile: filepath.Join(dir, "key"), Tokens: testOptions("", newClock()).Tokens}
	s := openTest(b, opt)
	fillStore(b, s, logEntries()-1)
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	s = openTest(b, opt)
	for n := range b.N {
		files := filepath.Join(dir, fmt.Sprint("log", n))
		if err := os.Mkdir(files, 0o700); err != nil {
			b.Fatal(err)
		}
		begun, used := time.Now(), cpuTime(b)
		l, stop := runLog(b, logOptions(s, files))
		size := uint64(0)
		for size != s.Chain().Size {
			signed, _, err := l.Checkpoint()
			if c, err := format.Stated(signed); err == nil {
				size = c.Size
			}
			if err != nil && !errors.Is(err, tlog.ErrNone) {
				b.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		signed := time.Since(begun)
		tiles := 0
		for _, t := range format.Tiles(0, size) {
			if t.L < 0 {
				continue
			}
			if _, err := l.Tile(b.Context(), t); err != nil {
				b.Fatal(err)
			}
			tiles++
		}
		b.ReportMetric(signed.Seconds(), "s-to-checkpoint")
		b.ReportMetric(time.Since(begun).Seconds(), "s-to-all-tiles")
		b.ReportMetric((cpuTime(b) - used).Seconds(), "cpu-s-to-all-tiles")
		b.ReportMetric(float64(tiles), "tiles")
		begun, used = time.Now(), cpuTime(b)
		if _, _, err := tlog.Export(b.Context(), l, filepath.Join(dir, fmt.Sprint("www", n))); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(size)/time.Since(begun).Seconds(), "exported-entries/s")
		b.ReportMetric(float64(size)/(cpuTime(b)-used).Seconds(), "exported-entries/cpu-s")
		stop()
	}
}

// BenchmarkCreateUIDWithLog registers identities from 64 callers for each core at once, in turn without
// and with a log that signs beside, on the disk of the folder for temporary files, and tells how the
// rates compare: what the machine does besides differs from turn to turn.
func BenchmarkCreateUIDWithLog(b *testing.B) {
	const turns = 10
	each := 200
	if exhaustive() {
		each = 5_000
	}
	var rates, costs [2]float64 // registrations per second, and processor time for one: means of all turns
	for range b.N {
		dir := b.TempDir()
		s := openTest(b, Options{Domain: testDomain, Dir: filepath.Join(dir, "db"), KeyFile: filepath.Join(dir, "key"), Tokens: testOptions("", newClock()).Tokens})
		if err := os.Mkdir(filepath.Join(dir, "log"), 0o700); err != nil {
			b.Fatal(err)
		}
		made := uint64(0)
		for turn := range 2 * turns {
			logged := (turn + turn/2) % 2 // 0 1 1 0 0 1 1 0 …
			stop := func() {}
			if logged == 1 {
				_, stop = runLog(b, logOptions(s, filepath.Join(dir, "log")))
			}
			rate, cost := registerAll(b, s, &made, each)
			rates[logged] += rate / turns / float64(b.N)
			costs[logged] += cost.Seconds() / turns / float64(b.N)
			stop()
		}
	}
	b.ReportMetric(rates[0], "entries/s-without")
	b.ReportMetric(rates[1], "entries/s-with")
	b.ReportMetric(rates[1]/rates[0], "with/without")
	b.ReportMetric(costs[0]/costs[1], "cpu-with/without") // of what as much processor time registers
}

// registerAll registers as many identities, and returns how many a second, and what each takes of the
// processors.
func registerAll(b *testing.B, s *Service, made *uint64, count int) (rate float64, cost time.Duration) {
	b.Helper()
	list := make([]func() error, count)
	for i := range list {
		m := message(s, fmt.Sprintf("n%s@example.org", letters(*made)), newKey(*made))
		*made++
		list[i] = func() error { _, err := s.CreateUID(b.Context(), m, ""); return err }
	}
	var next atomic.Int64
	var all sync.WaitGroup
	begun, used := time.Now(), cpuTime(b)
	for range 64 * runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for {
				i := next.Add(1) - 1
				if i >= int64(count) {
					return
				}
				if err := list[i](); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	return float64(count) / time.Since(begun).Seconds(), (cpuTime(b) - used) / time.Duration(count)
}
