package witness_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/keyserver/tlog/tlogtest"
	"github.com/keytree-bch/keytree/keyserver/witness"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

const origin = "example.org/keytree"

func newKey(t *testing.T, name string) *format.Key {
	t.Helper()
	k, err := format.GenerateKey(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func options(t *testing.T, dir string, logs ...*format.Key) witness.Options {
	t.Helper()
	text := "quorum none\n"
	for _, l := range logs {
		text += "log " + l.Log().String() + "\n"
	}
	policy, err := format.ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return witness.Options{
		KeyFile: filepath.Join(dir, "key"), StateFile: filepath.Join(dir, "state"), Name: "witness.example/w", Policy: policy,
		Now: func() time.Time { return time.Unix(1000, 0) },
	}
}

func open(t *testing.T, opt witness.Options) *witness.Witness {
	t.Helper()
	w, err := witness.Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// submission submits a chain's first size entries, from old on.
func submission(t *testing.T, key *format.Key, chain *tlogtest.Chain, old, size uint64) []byte {
	t.Helper()
	c := format.Checkpoint{Origin: key.Name(), Root: format.EmptyRoot}
	if size > 0 {
		state, err := chain.ChainAt(t.Context(), size)
		if err != nil {
			t.Fatal(err)
		}
		c.Size, c.Root = size, format.Hash(state.Root())
	}
	s := &format.Submission{Old: old, Checkpoint: key.Sign(c)}
	if old > 0 && old < size {
		proof, err := chain.ConsistencyProof(t.Context(), old, size)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range proof {
			s.Proof = append(s.Proof, format.Hash(h))
		}
	}
	return s.Marshal()
}

// TestAdd shows a witness a log, its fork, and what is neither, and begins it anew in between.
func TestAdd(t *testing.T) {
	dir := t.TempDir()
	key, other := newKey(t, origin), newKey(t, "example.net/keytree")
	opt := options(t, dir, key, other)
	chain := tlogtest.New(t, 1).Grow(100)
	fork := chain.Fork(40, 2).Grow(60)
	stranger := newKey(t, origin)
	for i, step := range []struct {
		by       *format.Key
		chain    *tlogtest.Chain
		old, new uint64
		want     error
		has      uint64 // of a conflict
		restart  bool
	}{
		{by: key, chain: chain, new: 0},
		{by: key, chain: chain, new: 30},
		{by: key, chain: chain, old: 30, new: 30},
		{by: key, chain: chain, old: 0, new: 50, has: 30},
		{by: key, chain: chain, old: 20, new: 50, has: 30, restart: true},
		{by: key, chain: chain, old: 30, new: 50, restart: true},
		{by: key, chain: chain, old: 30, new: 50, has: 50},
		{by: key, chain: chain, old: 30, new: 40, has: 50},
		{by: key, chain: chain, old: 50, new: 40, want: format.ErrFormat},
		{by: key, chain: fork, old: 50, new: 60, want: format.ErrProof, restart: true},
		{by: key, chain: fork, old: 50, new: 50, has: 50},
		{by: key, chain: fork, old: 30, new: 60, has: 50},
		{by: stranger, chain: chain, old: 50, new: 60, want: format.ErrSignature},
		{by: newKey(t, "example.com/keytree"), chain: chain, new: 60, want: witness.ErrUnknown},
		{by: other, chain: fork, new: 7},
		{by: key, chain: chain, old: 50, new: 100, restart: true},
		{by: other, chain: fork, old: 7, new: 8},
	} {
		w := open(t, opt)
		body := submission(t, step.by, step.chain, step.old, step.new)
		line, err := w.Add(body)
		var conflict *witness.ConflictError
		switch {
		case step.has > 0:
			if !errors.As(err, &conflict) || conflict.Size != step.has {
				t.Errorf("step %d: got %v, want a conflict with %d", i, err, step.has)
			}
		case !errors.Is(err, step.want):
			t.Errorf("step %d: got %v, want %v", i, err, step.want)
		}
		s, parseErr := format.ParseSubmission(body)
		if parseErr != nil {
			t.Fatal(parseErr)
		}
		if err == nil {
			if _, at, err := format.ParseCosignatures(s.Checkpoint, line, w.Key()); err != nil || at != 1000 {
				t.Errorf("step %d: the cosignature %q, at %d: %v", i, line, at, err)
			}
		} else if line != nil {
			t.Errorf("step %d: refused with a signature", i)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
	w := open(t, opt)
	for _, body := range []string{"", "old 0\n\n", "old 0\n\n" + origin + "\n", "old 0\n\n\xff"} {
		if _, err := w.Add([]byte(body)); err == nil {
			t.Errorf("%q was cosigned", body)
		}
	}
}

// TestNotStored cannot write what it cosigns: it does not.
func TestNotStored(t *testing.T) {
	dir := t.TempDir()
	key := newKey(t, origin)
	opt := options(t, dir, key)
	chain := tlogtest.New(t, 1).Grow(10)
	w := open(t, opt)
	if err := os.MkdirAll(filepath.Join(opt.StateFile+".tmp", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if line, err := w.Add(submission(t, key, chain, 0, 5)); err == nil || line != nil {
		t.Errorf("it was cosigned: %q", line)
	}
	if err := os.RemoveAll(opt.StateFile + ".tmp"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Add(submission(t, key, chain, 0, 6)); err != nil {
		t.Error(err)
	}
}

// TestFiles has key and state that do not belong together.
func TestFiles(t *testing.T) {
	key := newKey(t, origin)
	for name, test := range map[string]struct {
		change func(opt *witness.Options) error
		want   error
	}{
		"nothing":              {func(*witness.Options) error { return nil }, nil},
		"without a name":       {func(opt *witness.Options) error { opt.Name = ""; return nil }, nil},
		"another name":         {func(opt *witness.Options) error { opt.Name = "x"; return nil }, witness.ErrMismatch},
		"no key":               {func(opt *witness.Options) error { return os.Remove(opt.KeyFile) }, witness.ErrMismatch},
		"no state":             {func(opt *witness.Options) error { return os.Remove(opt.StateFile) }, witness.ErrMismatch},
		"a state that is none": {func(opt *witness.Options) error { return os.WriteFile(opt.StateFile, []byte("{}"), 0o600) }, witness.ErrMismatch},
		"a wrong root": {func(opt *witness.Options) error {
			return os.WriteFile(opt.StateFile, []byte(`{"version":1,"logs":{"a":{"size":1,"root":"x"}}}`), 0o600)
		}, witness.ErrMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			opt := options(t, t.TempDir(), key)
			w := open(t, opt)
			if _, err := w.Add(submission(t, key, tlogtest.New(t, 1).Grow(3), 0, 3)); err != nil {
				t.Fatal(err)
			}
			if _, err := witness.Open(opt); !errors.Is(err, tlog.ErrLocked) {
				t.Errorf("opened twice: %v", err)
			}
			w.Close()
			if err := test.change(&opt); err != nil {
				t.Fatal(err)
			}
			again, err := witness.Open(opt)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if err == nil {
				again.Close()
			}
		})
	}
	opt := options(t, t.TempDir(), key)
	opt.Name = ""
	if _, err := witness.Open(opt); !errors.Is(err, format.ErrFormat) {
		t.Errorf("a first start without a name: %v", err)
	}
}
