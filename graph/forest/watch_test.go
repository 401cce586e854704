package forest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// below lists the watched keys in branches by walking up from each.
func below(f *Forest, watched map[int32]bool, tops []int32) (found []int32) {
	for n := range watched {
		for at := n; at != None; at = f.Parent(at) {
			if slices.Contains(tops, at) {
				found = append(found, n)
				break
			}
		}
	}
	slices.Sort(found)
	return found
}

// checkCounts compares the count of each node, and that a free one has none, with its keys.
func checkCounts(t *testing.T, w *Watch) {
	t.Helper()
	want := make([]int32, len(w.under))
	for n := range w.forest.Len() {
		if w.Watches(n) {
			for x := w.forest.places.At(n).leaf; x >= 0; x = w.forest.node(x).up {
				want[x]++
			}
		}
	}
	if !slices.Equal(w.under, want) {
		t.Fatalf("counts %v, want %v", w.under, want)
	}
}

// TestWatch lets keys be watched, and branches cut, linked and moved, in shapes that an attacker could choose; the
// watch follows from version to version, forwards and back. Narrow nodes give few keys many levels.
func TestWatch(t *testing.T) {
	for _, c := range []struct {
		width, keys, rounds, steps int // steps: of a version at most
	}{
		{4, 12, 400, 4},
		{4, 300, 150, 20},
		{8, 1_000, 60, 200},
		{maxWidth, 3_000, 40, 30},
	} {
		for name, s := range shapes {
			t.Run(fmt.Sprintf("%s/width=%d,keys=%d", name, c.width, c.keys), func(t *testing.T) {
				r := rand.New(rand.NewPCG(2, uint64(c.keys)))
				f := newOf(c.width, 1<<28)
				for n := range c.keys / 2 {
					if f.Add(); n > 0 {
						f.Link(int32(n), int32(s(n)), 0)
					}
				}
				versions := []*Forest{f}
				w, watched := NewWatch(f), make(map[int32]bool)
				for range c.rounds {
					f := versions[r.IntN(len(versions))]
					next := f.Fork()
					for range r.IntN(c.steps) {
						if r.IntN(4) == 0 && int(next.Len()) < c.keys {
							next.Add()
						}
						n := int32(r.IntN(int(next.Len())))
						if r.IntN(3) == 0 {
							n = min(n, int32(r.IntN(4))) // near the top
						}
						if next.Parent(n) != None {
							next.Cut(n)
						}
						if to := int32(r.IntN(int(next.Len()))); r.IntN(3) > 0 && next.Root(to) != n {
							next.Link(n, to, 0)
						}
					}
					// Whoever makes another version of f changes what is new in f.
					versions = slices.DeleteFunc(versions, func(v *Forest) bool { return v.Len() > next.Len() })
					versions = append(versions, next)
					if len(versions) > 5 {
						versions = versions[1:]
					}
					// No key is watched that the version does not have.
					for n := range watched {
						if n >= next.Len() {
							w.Remove(n)
							delete(watched, n)
						}
					}
					w.Follow(next)
					checkCounts(t, w)
					for range r.IntN(c.keys) {
						n := int32(r.IntN(int(next.Len())))
						switch {
						case !watched[n]:
							w.Add(n)
							watched[n] = true
						case r.IntN(2) == 0:
							w.Remove(n)
							delete(watched, n)
						}
					}
					checkCounts(t, w)
					var tops []int32
					for range 1 + r.IntN(5) {
						if n := int32(r.IntN(int(next.Len()))); !slices.Contains(tops, n) {
							tops = append(tops, n)
						}
					}
					got := w.Below(tops)
					slices.Sort(got)
					if want := below(next, watched, tops); !slices.Equal(got, want) {
						t.Fatalf("below %v: %v, want %v", tops, got, want)
					}
				}
			})
		}
	}
}
