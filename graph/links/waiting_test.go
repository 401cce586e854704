package links

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// TestWaiting compares what somebody waits for with plain counts, also those of a version
// before.
func TestWaiting(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	want := func(to int, kind protocol.Kind) wanted {
		ref := protocol.RefersTo(chainhash.Hash{byte(to), 1})
		if r.IntN(2) == 0 {
			slices.Reverse(ref[:]) // it is the same whichever way it is written
		}
		return (&storedAction{kind: kind, reference: ref}).wants()
	}
	w, plain := newWaiting(), make(map[wanted]int)
	check := func(w *waiting, plain map[wanted]int) {
		t.Helper()
		some := int32(0)
		for what, n := range plain {
			if w.any(what) != (n > 0) {
				t.Fatalf("%d wait for %v", n, what)
			}
			if n > 0 {
				some++
			}
		}
		if w.counts.Len() != some {
			t.Fatalf("%d things are waited for, want %d", w.counts.Len(), some)
		}
	}
	for range 60 {
		before, was := w, maps.Clone(plain)
		w = before.fork()
		for range 30 {
			what := want(r.IntN(4), protocol.MLA+protocol.Kind(r.IntN(2)))
			if plain[what] > 0 && r.IntN(2) == 0 {
				w.remove(what)
				plain[what]--
			} else {
				w.add(what)
				plain[what]++
			}
		}
		check(&w, plain)
		check(&before, was)
	}
}
