package keyserver

import (
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/uid"
)

// BenchmarkCreateUID registers identities from 64 callers at once, on the disk of
// the folder for temporary files.
func BenchmarkCreateUID(b *testing.B) {
	s := openTest(b, Options{Domain: testDomain, Dir: filepath.Join(b.TempDir(), "db"), KeyFile: filepath.Join(b.TempDir(), "key"), Tokens: testOptions("", newClock()).Tokens})
	messages := make([]*uid.Message, b.N)
	for n := range messages {
		messages[n] = message(s, fmt.Sprintf("n%s@example.org", letters(uint64(n))), newKey(uint64(n)))
	}
	var next atomic.Int64
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.CreateUID(b.Context(), messages[next.Add(1)-1], ""); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
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
