package client

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

// benchEntries is the length of the chain in benchmarks.
const benchEntries = 1_000_000

// longChain is a keyserver with a chain of that length, made without a service.
func longChain(b *testing.B) *forger {
	b.Helper()
	f := newForger(b)
	f.fill(benchEntries - len(f.entries))
	return f
}

// report adds what a benchmark that handled the chain b.N times has to tell. cores is
// how many it used, 0 if that makes no sense.
func report(b *testing.B, cores int) {
	entries := float64(b.N) * benchEntries
	b.ReportMetric(entries/b.Elapsed().Seconds(), "entries/s")
	if cores > 0 {
		b.ReportMetric(entries/b.Elapsed().Seconds()/float64(cores), "entries/s/core")
	}
	b.ReportMetric(entries*hashchain.EntrySize/1e6/b.Elapsed().Seconds(), "MB/s")
	b.ReportMetric(0, "ns/op")
}

// peak samples the heap while something runs: the most that was in use, above what
// was before.
type peak struct{ before, most uint64 }

func newPeak() *peak {
	runtime.GC()
	p := new(peak)
	p.sample()
	p.before = p.most
	return p
}

func (p *peak) sample() {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	p.most = max(p.most, m.HeapInuse)
}

func (p *peak) report(b *testing.B) {
	b.ReportMetric(float64(p.most-p.before)/1e6, "peak-MB")
}

// BenchmarkSync downloads a chain of a million entries from loopback into a new
// folder, verifying it, its Merkle tree, and following the keyserver's keys: the
// client's part of it all, and the server's, on the same cores.
func BenchmarkSync(b *testing.B) {
	f := longChain(b)
	// The chain is in this process, where it would let the collector leave as much
	// garbage again.
	defer debug.SetGCPercent(debug.SetGCPercent(5))
	p := newPeak()
	b.ResetTimer()
	for range b.N {
		opt := f.options()
		pieces := 0
		opt.Progress = func(string, uint64, uint64) {
			if pieces++; pieces%8 == 0 {
				p.sample()
			}
		}
		c, err := Init(b.Context(), b.TempDir(), f.http.URL+"/", "", nil, opt)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		c.Close()
		b.StartTimer()
	}
	report(b, 0)
	p.report(b)
}

// BenchmarkDownload sends and receives the same bytes without looking at them.
func BenchmarkDownload(b *testing.B) {
	f := longChain(b)
	b.ResetTimer()
	for range b.N {
		for from := 0; from < benchEntries; from += entriesAtOnce {
			body := fmt.Sprintf(`{"method":"KeyHashchain.FetchHashChain","params":{"StartPosition":%d,"EndPosition":%d}}`,
				from, min(from+entriesAtOnce, benchEntries)-1)
			answer, err := http.Post(f.http.URL, "application/json", strings.NewReader(body))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, answer.Body); err != nil {
				b.Fatal(err)
			}
			answer.Body.Close()
		}
	}
	report(b, 0)
}

// BenchmarkVerify verifies the entries alone, on one core.
func BenchmarkVerify(b *testing.B) {
	f := longChain(b)
	b.ResetTimer()
	for range b.N {
		var head hashchain.Hash
		for i := range f.entries {
			if !f.entries[i].Follows(head) {
				b.Fatal(i)
			}
			head = f.entries[i].Hash()
		}
	}
	report(b, 1)
}

// BenchmarkSHA256 hashes the bytes of the entries, on one core.
func BenchmarkSHA256(b *testing.B) {
	entries := make([]hashchain.Entry, 1000)
	rand.Read(entries[0][:])
	b.ResetTimer()
	for range b.N {
		for range benchEntries / len(entries) {
			for i := range entries {
				sum := sha256.Sum256(entries[i][:])
				entries[i][0] ^= sum[0]
			}
		}
	}
	report(b, 1)
}

// BenchmarkSearch looks for a name in a copy of a million entries: reading and
// verifying the file, trying each entry on all cores, keeping what is known.
func BenchmarkSearch(b *testing.B) {
	f := longChain(b)
	c, err := f.init()
	if err != nil {
		b.Fatal(err)
	}
	f.entries = nil
	for _, cores := range []int{1, runtime.GOMAXPROCS(0)} {
		b.Run(fmt.Sprintf("cores=%d", cores), func(b *testing.B) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(cores))
			p := newPeak()
			pieces := 0
			c.opt.Progress = func(string, uint64, uint64) {
				if pieces++; pieces%8 == 0 {
					p.sample()
				}
			}
			b.ResetTimer()
			for range b.N {
				s := &search{Identity: alice, path: b.TempDir() + "/search"}
				if err := c.forward(b.Context(), s); err != nil || len(s.Found) != 0 {
					b.Fatal(s.Found, err)
				}
			}
			report(b, cores)
			p.report(b)
		})
	}
}

// BenchmarkHashes is what trying one entry cannot do without, on one core: the three
// SHA-512 of the CKDF and the SHA-256 of key and identity.
func BenchmarkHashes(b *testing.B) {
	var nonce [8]byte
	var inner [64]byte
	var outer [128]byte
	var keyed [64 + len(alice)]byte
	for range b.N {
		for range benchEntries {
			a := sha512.Sum512(nonce[:])
			copy(inner[:], a[:])
			copy(outer[64:], inner[:])
			i := sha512.Sum512(inner[:])
			copy(outer[:], i[:])
			k := sha512.Sum512(outer[:])
			copy(keyed[:], k[:])
			sum := sha256.Sum256(keyed[:])
			nonce[0] ^= sum[0]
		}
	}
	report(b, 1)
}
