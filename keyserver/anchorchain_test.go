package keyserver

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

func TestChainAt(t *testing.T) {
	s, _ := newTest(t)
	states := []hashchain.Chain{s.Chain()}
	for range 12 {
		grow(t, s, 1)
		states = append(states, s.Chain())
	}
	for _, want := range states {
		got, err := s.ChainAt(t.Context(), want.Size)
		if err != nil || got.Size != want.Size || got.Head != want.Head || got.Root() != want.Root() {
			t.Errorf("after %d entries: %+v, %v; want %+v", want.Size, got, err, want)
		}
	}
	for _, size := range []uint64{0, 14, 1 << 63} {
		if _, err := s.ChainAt(t.Context(), size); !errors.Is(err, ErrRange) {
			t.Errorf("after %d entries: %v", size, err)
		}
	}
}

func TestSetAnchorChain(t *testing.T) {
	opt := testOptions(t.TempDir(), newClock())
	s := openTest(t, opt)
	for _, name := range []string{"", "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"} {
		if name != "" {
			if err := s.SetAnchorChain(t.Context(), name); err != nil {
				t.Fatal(err)
			}
			var backup bytes.Buffer
			if err := errors.Join(s.Backup(t.Context(), &backup), s.Close()); err != nil {
				t.Fatal(err)
			}
			wipe(t, opt)
			if err := Restore(t.Context(), opt, &backup); err != nil {
				t.Fatal(err)
			}
			s = openTest(t, opt)
		}
		c, err := s.Capabilities(t.Context())
		if err != nil || c.AnchorChain != name {
			t.Errorf("Capabilities name %q (%v), want %q", c.AnchorChain, err, name)
		}
		h, err := s.SignedHead(t.Context())
		if err != nil || h.Head.AnchorChain != name {
			t.Errorf("the head names %q (%v), want %q", h.Head.AnchorChain, err, name)
		}
		if _, _, err := h.Verify(s.writer.state.Load().keys.public()); err != nil {
			t.Error(err)
		}
	}
}

// TestSetUnanchored has the answer outlast a restart, and not a backup: what was anchored
// after it was made is not known to who restores it.
func TestSetUnanchored(t *testing.T) {
	opt := testOptions(t.TempDir(), newClock())
	s := openTest(t, opt)
	if s.Unanchored() {
		t.Error("nobody has said so")
	}
	var backup bytes.Buffer
	if err := errors.Join(s.SetUnanchored(t.Context()), s.Backup(t.Context(), &backup), s.Close()); err != nil {
		t.Fatal(err)
	}
	if s = openTest(t, opt); !s.Unanchored() || s.AnchorChain() != "" {
		t.Errorf("after a restart: %v, chain %q", s.Unanchored(), s.AnchorChain())
	}
	if err := errors.Join(s.Check(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
	wipe(t, opt)
	if err := Restore(t.Context(), opt, &backup); err != nil {
		t.Fatal(err)
	}
	if openTest(t, opt).Unanchored() {
		t.Error("a backup says so")
	}
}
