package keyserver

import (
	"context"
	"errors"
	"io"
	"math"
	"reflect"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
)

// TestHeld calls every exported method of a service that is held. A new one has to be
// added here: to those that are refused, or with a reason to those that are not.
func TestHeld(t *testing.T) {
	inMemory(t)
	opt := testOptions(t.TempDir(), newClock())
	s := openTest(t, opt)
	sigKey := newKey(7)
	alice := message(s, "alice@example.org", sigKey)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	opt.Held = true
	s = openTest(t, opt)
	before, nonce := s.Chain(), s.now()

	type refused func(ctx context.Context) error
	answered := refused(nil)
	methods := map[string]refused{
		// What the comparison needs.
		"Chain": answered, "ChainAt": answered, "AnchorChain": answered, "SetAnchorChain": answered,
		"Unanchored": answered, "SetUnanchored": answered,
		// What the operator needs.
		"Backup": answered, "Check": answered, "Ready": answered, "Err": answered, "Failed": answered,
		"Release": answered, "Close": answered, "KeyInits": answered, "Domain": answered, "Standby": answered, "TakeOver": answered,
		// What the wire needs.
		"PaidFetch": answered,

		"Capabilities": func(ctx context.Context) error { _, err := s.Capabilities(ctx); return err },
		"SignedHead":   func(ctx context.Context) error { _, err := s.SignedHead(ctx); return err },
		"LastEntry":    func(ctx context.Context) error { _, _, err := s.LastEntry(ctx); return err },
		"Entries":      func(ctx context.Context) error { _, _, err := s.Entries(ctx, 0, 0); return err },
		"LookupUID": func(ctx context.Context) error {
			_, _, err := s.LookupUID(ctx, s.identity(), math.MaxUint64)
			return err
		},
		"FetchUID": func(ctx context.Context) error { _, err := s.FetchUID(ctx, hashchain.Hash{}); return err },
		"GetLink":  func(ctx context.Context) error { _, _, err := s.GetLink(ctx, testDomain); return err },
		"InclusionProof": func(ctx context.Context) error {
			_, err := s.InclusionProof(ctx, 0, 1)
			return err
		},
		"ConsistencyProof": func(ctx context.Context) error {
			_, err := s.ConsistencyProof(ctx, 1, 1)
			return err
		},
		"CreateUID": func(ctx context.Context) error {
			_, err := s.CreateUID(ctx, alice, "")
			return err
		},
		"UpdateUID": func(ctx context.Context) error {
			_, err := s.UpdateUID(ctx, alice, "")
			return err
		},
		"AddKeyInit": func(ctx context.Context) error {
			_, err := s.AddKeyInit(ctx, public(sigKey), keyInits(t, s, sigKey, 1), free(1))
			return err
		},
		"FetchKeyInit": func(ctx context.Context) error { _, err := s.FetchKeyInit(ctx, [64]byte{}, ""); return err },
		"FlushKeyInit": func(ctx context.Context) error {
			return s.FlushKeyInit(ctx, public(sigKey), nonce, keyinit.SignFlush(nonce, sigKey))
		},
		"CountKeyInit": func(ctx context.Context) error {
			_, err := s.CountKeyInit(ctx, public(sigKey), nonce, keyinit.SignCount(nonce, sigKey))
			return err
		},
		"FetchFallback": func(ctx context.Context) error {
			_, err := s.FetchFallback(ctx, [64]byte{})
			return err
		},
		"RotateKey":   func(ctx context.Context) error { _, err := s.RotateKey(ctx); return err },
		"TreeHashes":  func(ctx context.Context) error { _, err := s.TreeHashes(ctx, 0, 0, 1); return err },
		"AnnounceLog": nil, // shows nothing until Capabilities does
	}
	for m := range reflect.TypeFor[*Service]().Methods() {
		call, listed := methods[m.Name]
		if !listed {
			t.Errorf("%s: what does it do while the service is held?", m.Name)
		} else if call != nil {
			if err := call(t.Context()); !errors.Is(err, ErrHeld) {
				t.Errorf("%s: %v", m.Name, err)
			}
		}
	}
	if after := s.Chain(); after.Size != before.Size || after.Head != before.Head {
		t.Errorf("the hashchain went from %d to %d entries", before.Size, after.Size)
	}
	if err := errors.Join(s.Backup(t.Context(), io.Discard), s.Check(t.Context()), s.SetAnchorChain(t.Context(), "x")); err != nil {
		t.Error(err)
	}
	if err := s.Ready(); !errors.Is(err, ErrHeld) {
		t.Errorf("ready while held: %v", err)
	}
	s.Release()
	if err := s.Ready(); err != nil {
		t.Error(err)
	}
	for name, call := range methods {
		if call != nil {
			if err := call(t.Context()); errors.Is(err, ErrHeld) {
				t.Errorf("%s after the release: %v", name, err)
			}
		}
	}
}
