package hashchain

import (
	"crypto/rand"
	"fmt"
	"testing"
)

// BenchmarkGuess measures how fast somebody with a copy of the hashchain can try names on one
// entry, on one core. keyserver/README.md warns of it.
func BenchmarkGuess(b *testing.B) {
	e, err := Seal(Hash{}, "alice@example.org", Hash{1}, rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	names := make([]string, 26*26)
	for i := range names {
		names[i] = fmt.Sprintf("name%c%c@example.org", 'a'+i%26, 'a'+i/26)
	}
	k, id := firstKey(e.Nonce()), e.HashID() // once for each entry
	for i := range b.N {
		if keyed(k, names[i%len(names)]) == id {
			b.Fatal("found")
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "guesses/s")
}
