package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/store"
)

// create: a store that is made at once is there whole, or not at all, and never over another.
func create(t *testing.T, p Place) {
	failed := errors.New("half way")
	err := p.Create(t.Context(), func(s store.Store) error { return errors.Join(s.Commit([]store.Write{set("a", "1")}), failed) })
	if !errors.Is(err, failed) {
		t.Errorf("got %v, want %v", err, failed)
	}
	err = p.Create(t.Context(), func(s store.Store) error {
		return errors.Join(s.Commit([]store.Write{set("b", "2")}), s.Commit([]store.Write{set("c", "3")}))
	})
	if err != nil {
		t.Fatal(err)
	}
	err = p.Create(t.Context(), func(store.Store) error { t.Error("it is filled again"); return nil })
	if !errors.Is(err, store.ErrNotEmpty) {
		t.Errorf("over a store: got %v, want %v", err, store.ErrNotEmpty)
	}
	want(t, opened(t, p), map[string]string{"b": "2", "c": "3"})
}

// crash: what was committed is there after a crash, the whole of it, and after a Close.
func crash(t *testing.T, p Place) {
	s := opened(t, p)
	all := make(map[string]string)
	for n := range 3 {
		k := fmt.Sprint(n % 3)
		all[k] = fmt.Sprint(n)
		commit(t, s, set(k, all[k]), set("last", all[k]))
		all["last"] = all[k]
		after := opened(t, p.Crashed(t))
		want(t, after, all)
		commit(t, after, set("after", "a crash"))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	want(t, opened(t, p), all)
}

// locked: somebody else cannot open a store to write, and does not disturb who has.
func locked(t *testing.T, p Place) {
	s := opened(t, p)
	commit(t, s, set("a", "1"))
	for range 3 {
		if _, err := p.Open(t.Context()); !errors.Is(err, store.ErrLocked) {
			t.Fatalf("opened twice: got %v, want %v", err, store.ErrLocked)
		}
		commit(t, s, set("b", "2"))
	}
	want(t, s, map[string]string{"a": "1", "b": "2"})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	commit(t, opened(t, p), set("c", "3"))
}

// readOnly: who only reads changes nothing.
func readOnly(t *testing.T, p Place) {
	s := opened(t, p)
	commit(t, s, set("a", "1"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := p.OpenReadOnly(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want(t, r, map[string]string{"a": "1"})
	if err := r.Commit([]store.Write{set("a", "2")}); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("a commit: got %v, want %v", err, store.ErrReadOnly)
	}
	want(t, r, map[string]string{"a": "1"})
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	want(t, opened(t, p), map[string]string{"a": "1"})
}

// damage: what is not what was written is found, at the latest by Inspect.
func damage(t *testing.T, p Place) {
	s := opened(t, p)
	for n := range 100 {
		commit(t, s, set(fmt.Sprint(n), fmt.Sprint(n)))
	}
	if err := s.Inspect(t.Context()); err != nil {
		t.Errorf("what is sound: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Inspect(ended); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	p.Damage(t)
	s, err := p.Open(t.Context())
	if err == nil {
		err = errors.Join(s.Inspect(t.Context()), s.Close())
	}
	if !errors.Is(err, store.ErrDamaged) {
		t.Errorf("got %v, want %v", err, store.ErrDamaged)
	}
}

// closed: who comes too late is told so.
func closed(t *testing.T, p Place) {
	s := opened(t, p)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.View(t.Context(), func(store.Reader) error { t.Error("it is read"); return nil }); !errors.Is(err, store.ErrClosed) {
		t.Errorf("View: got %v, want %v", err, store.ErrClosed)
	}
	if err := s.Commit([]store.Write{set("a", "1")}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Commit: got %v, want %v", err, store.ErrClosed)
	}
}

// room: there is room for little, and for more than any disk has there is none, or nobody knows.
func room(t *testing.T, p Place) {
	s := opened(t, p)
	if err := s.Room(1000); err != nil {
		t.Error(err)
	}
	if err := s.Room(1 << 60); err != nil && !errors.Is(err, store.ErrDiskFull) {
		t.Errorf("got %v, want %v", err, store.ErrDiskFull)
	}
}
