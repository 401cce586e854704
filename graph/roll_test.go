package graph

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestRoll lets many follow few names, and leave, and compares who follows each with a map.
func TestRoll(t *testing.T) {
	type who struct{ following, at int }
	r := rand.New(rand.NewPCG(3, 4))
	roll := newRoll[int]()
	all := make(map[int]map[int32]who) // by name, by the number of the entry
	for step := range 8_000 {
		name := r.IntN(1 + r.IntN(40))
		growing := step/1_000%2 == 0
		if of := all[name]; len(of) > 0 && r.IntN(10) < 7 != growing {
			var number int32
			for number = range of {
				break
			}
			delete(of, number)
			if r.IntN(4) > 0 {
				if last := roll.remove(number); last != (len(of) == 0) {
					t.Fatalf("step %d: the last of name %d: %t, %d are left", step, name, last, len(of))
				}
			} else if len(of) > 0 { // to another name, and back
				e := roll.entries.At(number)
				roll.delist(number)
				roll.enlist(-1, number)
				roll.delist(number)
				roll.enlist(name, number)
				of[number] = who{int(e.following), int(e.at)}
			} else {
				roll.remove(number)
			}
		} else {
			w := who{r.IntN(100), r.IntN(100)}
			number, first := roll.add(name, int32(w.following), w.at)
			if first != (len(of) == 0) {
				t.Fatalf("step %d: the first of name %d: %t, there are %d", step, name, first, len(of))
			}
			if of == nil {
				of = make(map[int32]who)
				all[name] = of
			}
			of[number] = w
		}
		if step%50 > 0 {
			continue
		}
		names := roll.all()
		for name, want := range all {
			if slices.Contains(names, name) != (len(want) > 0) || roll.has(name) != (len(want) > 0) {
				t.Fatalf("step %d: names %v; %d follow %d", step, names, len(want), name)
			}
			got := make(map[int32]who)
			for number, e := range roll.of(name) {
				got[number] = who{int(e.following), int(e.at)}
			}
			if len(got) != len(want) {
				t.Fatalf("step %d: %d follow name %d, want %d", step, len(got), name, len(want))
			}
			for number, w := range want {
				if got[number] != w {
					t.Fatalf("step %d: entry %d of name %d is %v, want %v", step, number, name, got[number], w)
				}
			}
		}
	}
}
