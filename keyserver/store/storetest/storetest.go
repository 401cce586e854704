// Package storetest is the conformance suite of keyserver/store: what every engine must do,
// whatever it keeps data in. An engine's tests call Run.
//
//	storetest.go  the suite: what is written, read, and moved
//	fate.go       the suite: crashes, damage, somebody else
//
// What never belongs here: what only one engine does.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/store"
)

// Place is where an engine keeps one store.
type Place interface {
	store.Place
	// Crashed is the place as it is found if all who have the store open are killed now.
	Crashed(t *testing.T) Place
	// Damage changes a byte of what is stored, in a store that nobody has open.
	Damage(t *testing.T)
}

// Run runs the suite. place returns a place where nothing is yet, and cleans up after the test
// that it is for.
func Run(t *testing.T, place func(t *testing.T) Place) {
	for name, test := range map[string]func(*testing.T, Place){
		"Values":    values,
		"Order":     order,
		"Views":     views,
		"WholeOnes": wholeCommits,
		"Limit":     limit,
		"Backup":    backup,
		"Create":    create,
		"Crash":     crash,
		"Locked":    locked,
		"ReadOnly":  readOnly,
		"Damage":    damage,
		"Closed":    closed,
		"Room":      room,
	} {
		t.Run(name, func(t *testing.T) { test(t, place(t)) })
	}
}

// opened opens the store of a place until the test ends.
func opened(t *testing.T, p Place) store.Store {
	t.Helper()
	s, err := p.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func commit(t *testing.T, s store.Store, writes ...store.Write) {
	t.Helper()
	if err := s.Commit(writes); err != nil {
		t.Fatal(err)
	}
}

func set(key, value string) store.Write {
	return store.Write{Key: []byte(key), Value: []byte(value)}
}

func del(key string) store.Write { return store.Write{Key: []byte(key), Delete: true} }

// view reads a store.
func view(t *testing.T, s store.Store, read func(store.Reader)) {
	t.Helper()
	if err := s.View(t.Context(), func(r store.Reader) error { read(r); return nil }); err != nil {
		t.Error(err)
	}
}

// want compares all that is stored with a map.
func want(t *testing.T, s store.Store, all map[string]string) {
	t.Helper()
	got := make(map[string]string)
	view(t, s, func(r store.Reader) {
		for pair, err := range r.Pairs(nil, nil) {
			if err != nil {
				t.Error(err)
			}
			got[string(pair.Key)] = string(pair.Value)
		}
	})
	if !maps.Equal(got, all) {
		t.Errorf("stored are %d pairs, want %d: %.300q", len(got), len(all), got)
	}
}

// wantGet checks the value of one key; nil is for none.
func wantGet(t *testing.T, r store.Reader, key string, want []byte) {
	t.Helper()
	value, ok, err := r.Get([]byte(key))
	if err != nil || ok != (want != nil) || !bytes.Equal(value, want) {
		t.Errorf("%q: got %q, %v, %v; want %q", key, value, ok, err, want)
	}
}

// values: what a commit writes is there, and nothing else.
func values(t *testing.T, p Place) {
	s := opened(t, p)
	want(t, s, map[string]string{})
	long := strings.Repeat("x", 100_000)
	commit(t, s, set("a", "1"), set("b", ""), set("\x00", "zero"), set("\xff\xff", long), set("gone", "x"))
	commit(t, s, del("gone"), set("a", "2"), del("never there"))
	commit(t, s, set("a", "3"), set("a", "4"), set("c", "x"), del("c"), del("d"), set("d", "")) // the last one counts
	commit(t, s)
	view(t, s, func(r store.Reader) {
		wantGet(t, r, "a", []byte("4"))
		wantGet(t, r, "b", []byte{})
		wantGet(t, r, "d", []byte{})
		wantGet(t, r, "c", nil)
		wantGet(t, r, "gone", nil)
		wantGet(t, r, "a\x00", nil)
	})
	want(t, s, map[string]string{"a": "4", "b": "", "d": "", "\x00": "zero", "\xff\xff": long})
}

// order has a store do what a map does, and reads both in every way.
func order(t *testing.T, p Place) {
	s := opened(t, p)
	random := rand.New(rand.NewPCG(1, 2))
	key := func() string { // of few bytes, so that there are prefixes, and the ends of the order
		k := []byte("kkkk")[:random.IntN(4)]
		return string(append(k, "\x00\x01kz\xfe\xff"[random.IntN(6)]))
	}
	all := make(map[string]string)
	for step := range 200 {
		var writes []store.Write
		for range random.IntN(4) {
			if k := key(); random.IntN(3) == 0 {
				delete(all, k)
				writes = append(writes, del(k))
			} else {
				all[k] = fmt.Sprint(step)
				writes = append(writes, set(k, all[k]))
			}
		}
		commit(t, s, writes...)
		prefix, from := key(), key()
		for _, span := range [][2]string{{"", ""}, {prefix, ""}, {prefix, from}, {prefix, prefix + from}, {"", from}} {
			var keys []string
			for _, k := range slices.Sorted(maps.Keys(all)) {
				if strings.HasPrefix(k, span[0]) && k >= span[1] {
					keys = append(keys, k)
				}
			}
			wantSpan(t, s, span[0], span[1], keys, all)
		}
	}
}

// wantSpan compares what is under a prefix, from a key on, in every way to read it.
func wantSpan(t *testing.T, s store.Store, prefix, from string, keys []string, all map[string]string) {
	t.Helper()
	view(t, s, func(r store.Reader) {
		var got, paired []string
		for k, err := range r.Keys([]byte(prefix), []byte(from)) {
			if err != nil {
				t.Error(err)
			}
			got = append(got, string(k))
		}
		for pair, err := range r.Pairs([]byte(prefix), []byte(from)) {
			if err != nil || string(pair.Value) != all[string(pair.Key)] {
				t.Errorf("%q: got %q, %v", pair.Key, pair.Value, err)
			}
			paired = append(paired, string(pair.Key))
		}
		if !slices.Equal(got, keys) || !slices.Equal(paired, keys) {
			t.Errorf("under %q from %q: got keys %q and pairs of %q, want %q", prefix, from, got, paired, keys)
		}
		if before := from; strings.HasPrefix(before, prefix) {
			var backward, want []string
			for k, err := range r.KeysBackward([]byte(prefix), []byte(before)) {
				if err != nil {
					t.Error(err)
				}
				backward = append(backward, string(k))
			}
			for _, k := range slices.Backward(slices.Sorted(maps.Keys(all))) {
				if strings.HasPrefix(k, prefix) && k < before {
					want = append(want, k)
				}
			}
			if !slices.Equal(backward, want) {
				t.Errorf("under %q before %q, backward: got %q, want %q", prefix, before, backward, want)
			}
		}
		if from == "" {
			has, err1 := store.Has(r, []byte(prefix))
			n, err2 := store.Count(r, []byte(prefix))
			if has != (len(keys) > 0) || n != uint64(len(keys)) || err1 != nil || err2 != nil {
				t.Errorf("under %q: %v, %d, %v, %v; want %d", prefix, has, n, err1, err2, len(keys))
			}
		}
	})
}

// views: a View reads one state, whatever is committed meanwhile, and may be in another one.
func views(t *testing.T, p Place) {
	s := opened(t, p)
	commit(t, s, set("a", "1"), set("b", "1"), set("c", "1"))
	view(t, s, func(before store.Reader) {
		commit(t, s, set("a", "2"), del("b"), set("bb", "2"))
		wantGet(t, before, "a", []byte("1"))
		wantGet(t, before, "b", []byte("1"))
		wantGet(t, before, "bb", nil)
		if n, err := store.Count(before, nil); n != 3 || err != nil {
			t.Errorf("%d keys, %v", n, err)
		}
		view(t, s, func(after store.Reader) {
			wantGet(t, after, "a", []byte("2"))
			wantGet(t, after, "b", nil)
			wantGet(t, after, "bb", []byte("2"))
		})
		for outer, err := range before.Keys(nil, nil) { // one sequence in another, and ended early
			if err != nil {
				t.Error(err)
			}
			for inner, err := range before.Pairs(outer, nil) {
				if err != nil || !bytes.Equal(inner.Key, outer) || string(inner.Value) != "1" {
					t.Errorf("%q in %q: %q, %v", inner.Key, outer, inner.Value, err)
				}
				break
			}
			if string(outer) == "b" {
				break
			}
		}
	})
	failed := errors.New("what was read")
	if err := s.View(t.Context(), func(store.Reader) error { return failed }); err != failed {
		t.Errorf("got %v, want what the function returns", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.View(ended, func(store.Reader) error { return nil }); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	want(t, s, map[string]string{"a": "2", "bb": "2", "c": "1"})
}

// wholeCommits has many read while one commits: nobody sees a part of a commit, or less than
// had been committed when he began.
func wholeCommits(t *testing.T, p Place) {
	s := opened(t, p)
	const commits = 50
	var committed atomic.Int64
	commit(t, s, set("a", "0"), set("b", "0"))
	var reading sync.WaitGroup
	for range 4 {
		reading.Go(func() {
			for n := 0; n < 3*commits && committed.Load() < commits; n++ {
				least := committed.Load()
				view(t, s, func(r store.Reader) {
					a, _, err1 := r.Get([]byte("a"))
					b, _, err2 := r.Get([]byte("b"))
					var n int64
					fmt.Sscan(string(a), &n)
					if err1 != nil || err2 != nil || !bytes.Equal(a, b) || n < least {
						t.Errorf("after %d commits: %q and %q, %v, %v", least, a, b, err1, err2)
					}
				})
			}
		})
	}
	for n := range commits {
		text := fmt.Sprint(n + 1)
		commit(t, s, set("a", text), set("b", text))
		committed.Add(1)
	}
	reading.Wait()
}

// limit: what is within the limit is committed, of many small writes and of few large ones.
func limit(t *testing.T, p Place) {
	s := opened(t, p)
	most := s.Limit()
	sizes := []int{0, 1, 20, 60, 90, 100, 1000, 100_000, store.MaxRecord - 1}
	if testing.Short() {
		sizes = []int{0, 1000, store.MaxRecord - 1}
	}
	for _, size := range sizes {
		var writes []store.Write
		var weight store.Weight
		for n := 0; n < 200_000; n++ { // where there is no limit to speak of
			w := store.Write{Key: fmt.Appendf(nil, "%08d", n), Value: make([]byte, size)}
			if !weight.Plus(w.Weight()).Within(most) || weight.Bytes > 64<<20 {
				break
			}
			writes, weight = append(writes, w), weight.Plus(w.Weight())
		}
		if len(writes) == 0 {
			t.Fatalf("the limit, %+v, has no room for one value of %d bytes", most, size)
		}
		commit(t, s, writes...)
		view(t, s, func(r store.Reader) {
			wantGet(t, r, string(writes[len(writes)-1].Key), make([]byte, size))
		})
	}
}

// backup: a backup has what one View reads, and nothing but a whole one is restored.
func backup(t *testing.T, p Place) {
	s := opened(t, p)
	all := make(map[string]string)
	var writes []store.Write
	for n := range 300 {
		k, v := fmt.Sprintf("%c%d", 'a'+n%3, n), strings.Repeat(fmt.Sprint(n), n)
		all[k] = v
		writes = append(writes, set(k, v))
	}
	commit(t, s, append(writes, set("b", ""))...)
	all["b"] = ""
	backup := func(s store.Store, except string) (whole []byte) {
		t.Helper()
		var out bytes.Buffer
		err := s.View(t.Context(), func(r store.Reader) error { return store.Backup(t.Context(), &out, r, []byte(except)) })
		if err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	whole := backup(s, "")
	other := p.Crashed(t) // anywhere else
	restore := func(s store.Store, content []byte, except string) error {
		s.Commit([]store.Write{set("a0", "other")})
		return store.Restore(t.Context(), s, bytes.NewReader(content), []byte(except))
	}
	to := opened(t, other)
	for k := range all {
		commit(t, to, del(k))
	}
	if err := restore(to, whole, ""); err != nil {
		t.Fatal(err)
	}
	want(t, to, all)
	if again := backup(to, ""); !bytes.Equal(again, whole) {
		t.Errorf("a backup of what was restored has %d bytes, the first %d", len(again), len(whole))
	}
	without := maps.Clone(all)
	maps.DeleteFunc(without, func(k, _ string) bool { return strings.ContainsAny(k[:1], "bc") })
	for k := range all {
		commit(t, to, del(k))
	}
	if err := restore(to, backup(s, "b"), "c"); err != nil {
		t.Error(err)
	}
	want(t, to, without)

	changed := bytes.Clone(whole)
	changed[len(changed)/2] ^= 1
	for name, bad := range map[string][]byte{
		"nothing": nil,
		"no mark": whole[1:],
		"half":    whole[:len(whole)/2],
		"no sum":  whole[:len(whole)-32],
		"cut":     whole[:len(whole)-1],
		"changed": changed,
	} {
		if err := restore(to, bad, ""); !errors.Is(err, store.ErrBackup) {
			t.Errorf("%s: got %v, want %v", name, err, store.ErrBackup)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	view(t, s, func(r store.Reader) {
		if err := store.Backup(ended, new(bytes.Buffer), r, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("a backup that is given up: %v", err)
		}
	})
	if err := store.Restore(ended, to, bytes.NewReader(whole), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("restoring one that is given up: %v", err)
	}
}
