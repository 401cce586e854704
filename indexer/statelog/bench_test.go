package statelog

import (
	"path/filepath"
	"testing"
)

// BenchmarkTree adds entries as while catching up, and opens the files again.
func BenchmarkTree(b *testing.B) {
	const count = 100_000
	dir := filepath.Join(b.TempDir(), "1")
	entries := madeUp(0, count)
	b.Run("append", func(b *testing.B) {
		for b.Loop() {
			tr, err := openTree(filepath.Join(b.TempDir(), "1"))
			if err != nil {
				b.Fatal(err)
			}
			for at := 0; at < count; at += 4096 {
				if err := tr.append(entries[at:min(count, at+4096)]); err != nil {
					b.Fatal(err)
				}
			}
			tr.close()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/entry")
	})
	tr, err := openTree(dir)
	if err == nil {
		err = tr.append(entries)
	}
	if err != nil {
		b.Fatal(err)
	}
	tr.close()
	b.Run("open", func(b *testing.B) {
		for b.Loop() {
			tr, err := openTree(dir)
			if err != nil || tr.Size() != count {
				b.Fatal(err)
			}
			tr.close()
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/count, "ns/entry")
	})
}
