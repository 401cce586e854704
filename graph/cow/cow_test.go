package cow

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// items returns what an array holds.
func items(a *Array[int]) []int {
	var all []int
	for i := range a.Len() {
		all = append(all, a.At(i))
	}
	return all
}

// TestArray makes versions of an array, some of them dropped, and compares each with
// a plain slice when it is made and again in the end.
func TestArray(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	type version struct {
		array Array[int]
		plain []int
	}
	versions := []version{{}}
	for n := range 400 {
		from := versions[max(0, len(versions)-1-r.IntN(3))]
		v := version{from.array.Fork(), slices.Clone(from.plain)}
		for range r.IntN(300) {
			switch {
			case len(v.plain) == 0 || r.IntN(3) > 0:
				v.array.Append(n)
				v.plain = append(v.plain, n)
			case r.IntN(100) == 0:
				left := len(v.plain) - r.IntN(1+len(v.plain)/4)
				v.array.Truncate(int32(left))
				v.plain = v.plain[:left]
			default:
				i := r.IntN(len(v.plain))
				*v.array.Edit(int32(i)) += n
				v.plain[i] += n
			}
		}
		if r.IntN(4) > 0 {
			versions = append(versions, v)
		}
	}
	for i, v := range versions {
		if !slices.Equal(items(&v.array), v.plain) {
			t.Fatalf("version %d is another than it was", i)
		}
	}
	if last := versions[len(versions)-1].array.Len(); last < pageLen*4 {
		t.Fatalf("%d items are too few for pages to matter", last)
	}
}

// TestLongArray has several middles.
func TestLongArray(t *testing.T) {
	const long = 5*pageLen*middleLen + 7
	var a Array[int]
	for i := range long {
		a.Append(i)
	}
	b := a.Fork()
	for i := 0; i < long; i += pageLen * middleLen / 2 {
		*b.Edit(int32(i)) = -i
	}
	for i := range long {
		if want := i; a.At(int32(i)) != want {
			t.Fatalf("item %d has become %d", i, a.At(int32(i)))
		}
		want := i
		if i%(pageLen*middleLen/2) == 0 {
			want = -i
		}
		if b.At(int32(i)) != want {
			t.Fatalf("item %d is %d, want %d", i, b.At(int32(i)), want)
		}
	}
}

// TestMap makes versions of a map and compares each with a plain map when it is made
// and again in the end.
func TestMap(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	r := rand.New(rand.NewPCG(2, 2))
	type version struct {
		m     Map[int, string]
		plain map[int]string
	}
	versions := []version{{NewMap[int, string](), map[int]string{}}}
	for n := range 300 {
		from := versions[max(0, len(versions)-1-r.IntN(3))]
		v := version{from.m.Fork(), maps.Clone(from.plain)}
		for range r.IntN(100) {
			key := r.IntN(2000)
			if r.IntN(3) > 0 {
				v.m.Set(key, fmt.Sprint(n))
				v.plain[key] = fmt.Sprint(n)
			} else {
				v.m.Delete(key)
				delete(v.plain, key)
			}
		}
		versions = append(versions, v)
	}
	for i, v := range versions {
		if int(v.m.Len()) != len(v.plain) || !maps.Equal(maps.Collect(v.m.All()), v.plain) {
			t.Fatalf("version %d is another than it was", i)
		}
		for key := range 2000 {
			got, ok := v.m.Get(key)
			if want, has := v.plain[key]; got != want || ok != has {
				t.Fatalf("version %d: key %d has %q, %v; want %q, %v", i, key, got, ok, want, has)
			}
		}
	}
}

// TestIndex takes the last keys out again, after which the others have their
// numbers and the same ones come back.
func TestIndex(t *testing.T) {
	x := NewIndex[int]()
	for n := range int32(10_000) {
		if got := x.Add(int(n) * 7); got != n {
			t.Fatalf("key %d got number %d", n, got)
		}
	}
	for n := int32(9_999); n >= 5_000; n-- {
		x.Remove(n)
	}
	for n := range int32(10_000) {
		want := n
		if n >= 5_000 {
			want = None
		}
		if got := x.Find(int(n) * 7); got != want {
			t.Fatalf("key %d has number %d, want %d", n, got, want)
		}
	}
	if n := x.Add(7 * 9_999); n != 5_000 || x.Key(n) != 7*9_999 || x.Len() != 5_001 {
		t.Errorf("the next one got number %d of %d", n, x.Len())
	}
}

// TestFill gives an index all its keys at once, and one of them twice.
func TestFill(t *testing.T) {
	for _, length := range []int32{0, 1, 9, 1000, 5000} {
		var keys Array[int]
		for n := range length {
			keys.Append(int(n) * 7)
		}
		x := NewIndex[int]()
		if !x.Fill(keys) || x.Len() != length {
			t.Fatalf("%d different keys: there are %d", length, x.Len())
		}
		for n := range length {
			if got := x.Find(int(n) * 7); got != n || x.Key(n) != int(n)*7 {
				t.Fatalf("key %d of %d has number %d", n, length, got)
			}
		}
		if x.Find(1) != None || x.Add(1) != length || x.Find(1) != length {
			t.Errorf("the key after %d cannot be added", length)
		}
		if length == 0 {
			continue
		}
		keys = x.keys.Fork()
		keys.Append(7 * int(length/2))
		if twice := NewIndex[int](); twice.Fill(keys) {
			t.Errorf("one of %d keys is there twice", length)
		}
	}
}

// TestReadWhileChanging is for the race detector.
func TestReadWhileChanging(t *testing.T) {
	m := NewMap[int, int]()
	for n := range 1000 {
		m.Set(n, n)
	}
	var readers sync.WaitGroup
	for range 20 {
		before := m
		m = before.Fork()
		readers.Go(func() {
			for n := range 1000 {
				if got, ok := before.Get(n); !ok || got%1000 != n {
					t.Errorf("%d has %d, %v", n, got, ok)
				}
			}
		})
		for n := range 1000 {
			v, _ := m.Get(n)
			m.Set(n, v+1000)
		}
		m.Set(int(m.Len()), 0)
	}
	readers.Wait()
}

// TestSince compares versions: what has changed between two is visited, in order, and little else.
func TestSince(t *testing.T) {
	const length = 3 * pageLen * middleLen
	var a Array[int]
	for n := range length {
		a.Append(n)
	}
	b := a.Fork()
	changed := []int32{5, pageLen*middleLen - 1, pageLen * middleLen, 2*pageLen*middleLen + 3*pageLen}
	for _, n := range changed {
		*b.Edit(n) = -1
	}
	b.Append(length)
	changed = append(changed, length)
	c := b.Fork()
	c.Truncate(7)
	for _, of := range []struct {
		what      string
		now, then *Array[int]
		want      []int32
	}{
		{"what came", &b, &a, changed},
		{"what was before", &a, &b, changed[:4]},
		{"what is left", &c, &a, changed[:1]},
		{"the same", &b, &b, nil},
		{"all", &c, &Array[int]{}, []int32{0, 6}},
	} {
		visited := slices.Collect(of.now.Since(of.then))
		if !slices.IsSorted(visited) || len(visited) > pageLen*len(of.want) {
			t.Errorf("%s: visited %d items", of.what, len(visited))
		}
		for _, n := range of.want {
			if !slices.Contains(visited, n) {
				t.Errorf("%s: item %d was not visited", of.what, n)
			}
		}
	}
	for n := range b.Since(&a) {
		if n > 0 {
			t.Errorf("it goes on with item %d once it has been stopped", n)
		}
		break
	}
}
