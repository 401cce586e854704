package keyserver

import (
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// BenchmarkCreateUID registers identities from 64 callers for each core at once, on the
// disk of the folder for temporary files. Beside the entries per second it tells what part
// that is of the Ed25519 checks that all cores together could do, and how long the writer
// decides an entry, which it does one after the other.
func BenchmarkCreateUID(b *testing.B) {
	s := openTest(b, Options{Domain: testDomain, Dir: filepath.Join(b.TempDir(), "db"), KeyFile: filepath.Join(b.TempDir(), "key"), Tokens: testOptions("", newClock()).Tokens})
	messages := make([]*uid.Message, b.N)
	var making sync.WaitGroup
	for part := range runtime.GOMAXPROCS(0) {
		making.Go(func() {
			for n := part; n < b.N; n += runtime.GOMAXPROCS(0) {
				messages[n] = message(s, fmt.Sprintf("n%s@example.org", letters(uint64(n))), newKey(uint64(n)))
			}
		})
	}
	making.Wait()
	check := checkTime()
	groups := 0 // the writer's, until the service is closed
	s.writer.commit = func(writes []store.Write) error { groups++; return s.db.Commit(writes) }
	var next atomic.Int64
	b.SetParallelism(64)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.CreateUID(b.Context(), messages[next.Add(1)-1], ""); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	if err := s.Close(); err != nil {
		b.Error(err)
	}
	entries := float64(b.N) / b.Elapsed().Seconds()
	checks := 1 / check.Seconds()
	b.ReportMetric(entries, "entries/s")
	b.ReportMetric(checks, "checks/s/core")
	b.ReportMetric(entries/checks/float64(runtime.GOMAXPROCS(0)), "of-checks")
	b.ReportMetric(float64(b.N)/float64(groups), "entries/group")
	b.ReportMetric(float64(s.writer.deciding.Nanoseconds())/float64(b.N), "serial-ns/entry")
}

// BenchmarkAddKeyInit adds KeyInits, as many at once as may be, from 64 callers of as many
// names. It tells how long the writer decides each.
func BenchmarkAddKeyInit(b *testing.B) {
	opt := testOptions(b.TempDir(), newClock())
	opt.memTable, opt.MaxKeyInits = 0, mostKeyInits
	s := openTest(b, opt)
	const callers = 64
	calls := make([][][]*keyinit.KeyInit, callers)
	var making, adding sync.WaitGroup
	for n := range uint64(callers) {
		mustCreate(b, s, message(s, fmt.Sprintf("n%s@example.org", letters(n)), newKey(n)))
		making.Go(func() {
			for range min(mostKeyInits/MaxKeyInitsPerCall, (b.N+callers-1)/callers) {
				calls[n] = append(calls[n], keyInits(b, s, newKey(n), MaxKeyInitsPerCall))
			}
		})
	}
	making.Wait()
	var added atomic.Int64
	b.ResetTimer()
	for n := range uint64(callers) {
		adding.Go(func() {
			for _, inits := range calls[n] {
				if _, err := s.AddKeyInit(b.Context(), public(newKey(n)), inits, free(len(inits))); err != nil {
					b.Error(err)
					return
				}
				added.Add(int64(len(inits)))
			}
		})
	}
	adding.Wait()
	b.StopTimer()
	if err := s.Close(); err != nil {
		b.Error(err)
	}
	b.ReportMetric(float64(added.Load())/b.Elapsed().Seconds(), "KeyInits/s")
	b.ReportMetric(float64(s.writer.deciding.Nanoseconds())/float64(added.Load()), "serial-ns/KeyInit")
}

// BenchmarkFetchKeyInit fetches a KeyInit for fallback of a name under which many were added
// and flushed before. It tells how long the writer decides a call.
func BenchmarkFetchKeyInit(b *testing.B) {
	for _, flushed := range []int{0, 20_000} {
		b.Run(fmt.Sprintf("flushed=%d", flushed), func(b *testing.B) {
			c := newClock()
			opt := testOptions(b.TempDir(), c)
			opt.memTable = 0
			s := openTest(b, opt)
			key := newKey(1)
			mustCreate(b, s, message(s, "alice@example.org", key))
			for n := 0; n < flushed; n += DefaultMaxKeyInits {
				for range DefaultMaxKeyInits / MaxKeyInitsPerCall {
					addAll(b, s, key, keyInits(b, s, key, MaxKeyInitsPerCall)...)
				}
				c.advance(time.Second)
				if err := s.FlushKeyInit(b.Context(), public(key), s.now(), keyinit.SignFlush(s.now(), key)); err != nil {
					b.Fatal(err)
				}
			}
			addAll(b, s, key, keyInit(b, s, key, 1, day, true))
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			s = openTest(b, opt)
			for b.Loop() {
				if _, err := s.FetchKeyInit(b.Context(), uid.SigKeyHash(public(key)), ""); err != nil {
					b.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				b.Error(err)
			}
			b.ReportMetric(float64(s.writer.deciding.Nanoseconds())/float64(b.N), "serial-ns/call")
		})
	}
}

// checkTime is how long one core takes for one check of a signature over a UID message:
// the median of some, since others may use the machine.
func checkTime() time.Duration {
	key, m := newKey(1), make([]byte, 1200)
	signature := ed25519.Sign(key, m)
	var times []time.Duration
	for range 501 {
		start := time.Now()
		ed25519.Verify(public(key), m, signature)
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	return times[len(times)/2]
}

// BenchmarkVerify is what a registration cannot do without: one check of a
// signature over a UID message, on one core.
func BenchmarkVerify(b *testing.B) {
	key, m := newKey(1), make([]byte, 1200)
	signature := ed25519.Sign(key, m)
	for b.Loop() {
		if !ed25519.Verify(public(key), m, signature) {
			b.Fatal("does not verify")
		}
	}
}

// BenchmarkSync is what a group of registrations cannot do without: one write that
// is on disk.
func BenchmarkSync(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "file"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 4096)
	for b.Loop() {
		if _, err := f.Write(block); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
}
