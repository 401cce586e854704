package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// A KeyInit that is not what it should be is not taken, whatever the keyserver says.
func TestLyingKeyInits(t *testing.T) {
	s := newServer(t, token.Open{})
	c, bob := s.mustInit(t.TempDir()), s.mustInit(t.TempDir())
	id := must(c.Create(t.Context(), alice, testPassphrase, Registration{ForwardSec: uid.Mandatory, Paper: new(paper).show}))(t)
	other := must(c.Create(t.Context(), "bert@example.org", testPassphrase, Registration{ForwardSec: uid.Mandatory, Paper: new(paper).show}))(t)
	must(bob.Sync(t.Context()))(t)
	contact := must(bob.Lookup(t.Context(), alice))(t)
	anchor := Anchor{MixAddress: "mix@example.net"}
	good := must(c.AddKeyInits(t.Context(), id, make([]string, 1), anchor, day, true))(t)[0]
	others := must(c.AddKeyInits(t.Context(), other, make([]string, 1), anchor, day, true))(t)[0]
	signed := func(change func(*keyinit.Contents)) *keyinit.KeyInit {
		k := *good
		change(&k.Contents)
		k.Sign(id.sigKey())
		return &k
	}
	unsigned := *good
	unsigned.Contents.NotAfter++
	now := uint64(s.clock.now().Unix())
	for name, test := range map[string]struct {
		lie  any
		want error
	}{
		"another's":        {string(others.Canonical()), uid.ErrInvalid},
		"changed":          {string(unsigned.Canonical()), uid.ErrSignature},
		"other repository": {string(signed(func(c *keyinit.Contents) { c.RepoURI = "example.net" }).Canonical()), uid.ErrInvalid},
		"other profile":    {string(signed(func(c *keyinit.Contents) { c.Version, c.MsgCount = uid.Version10, 0 }).Canonical()), uid.ErrInvalid},
		"expired":          {string(signed(func(c *keyinit.Contents) { c.NotAfter = now }).Canonical()), uid.ErrExpired},
		"for later":        {string(signed(func(c *keyinit.Contents) { c.NotBefore = now + 1000 }).Canonical()), uid.ErrExpired},
		"no KeyInit":       {"{}", ErrAnswer},
		"an object":        {map[string]any{}, ErrAnswer},
	} {
		s.changing("FetchKeyInit", func(_ []byte, r map[string]any) { r["KeyInit"] = test.lie })
		if _, _, err := bob.FetchKeyInit(t.Context(), contact, Payment{}); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
	s.put(nil)
	if k, _, err := bob.FetchKeyInit(t.Context(), contact, Payment{}); err != nil || !bytes.Equal(k.Canonical(), good.Canonical()) {
		t.Errorf("the good one: %v", err)
	}

	for name, test := range map[string]struct {
		lie  func(params []byte, r map[string]any)
		want error
	}{
		"a receipt for another": {func(_ []byte, r map[string]any) {
			l := r["Signatures"].([]any)
			l[0], l[1] = l[1], l[0]
		}, uid.ErrSignature},
		"a receipt by another": {func(params []byte, r map[string]any) {
			var p struct{ KeyInits []json.RawMessage }
			if err := json.Unmarshal(params, &p); err != nil {
				t.Error(err)
			}
			k := must(keyinit.Parse(p.KeyInits[1]))(t)
			r["Signatures"].([]any)[1] = k.SignServer(newKey(77))
		}, uid.ErrSignature},
		"no receipts": {func(_ []byte, r map[string]any) { r["Signatures"] = nil }, ErrAnswer},
	} {
		s.changing("AddKeyInit", test.lie)
		if _, err := c.AddKeyInits(t.Context(), id, make([]string, 2), anchor, day, false); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
	s.put(nil)

	// The keyserver has rotated its key since the copy was brought up to date.
	s.put(func(method string, _ []byte, pass func() (map[string]any, error)) (map[string]any, error) {
		if method == "KeyInitRepository.AddKeyInit" {
			if _, err := s.service.RotateKey(t.Context()); err != nil {
				t.Error(err)
			}
		}
		_, err := pass()
		return nil, err
	})
	must(c.AddKeyInits(t.Context(), id, make([]string, 2), anchor, day, false))(t)
	s.put(nil)

	for _, test := range []struct {
		n     int
		valid time.Duration
	}{{0, day}, {MaxKeyInits + 1, day}, {1, 0}, {1, MaxKeyInitValidity + 1}} {
		if _, err := c.AddKeyInits(t.Context(), id, make([]string, test.n), anchor, test.valid, false); !errors.Is(err, uid.ErrInvalid) {
			t.Errorf("%d for %v: %v", test.n, test.valid, err)
		}
	}

	// Private keys go when nothing can come any more.
	kept := len(id.record.KeyInits)
	s.clock.advance(20 * day)
	must(c.AddKeyInits(t.Context(), id, make([]string, 1), anchor, day, false))(t)
	if n := len(id.record.KeyInits); n != 1 || kept < 5 {
		t.Errorf("%d of %d private keys are kept", n, kept)
	}
	if _, _, err := id.KeyInit(good.Digest()); !errors.Is(err, ErrUnknown) {
		t.Errorf("an expired one: %v", err)
	}
}
