package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"math"
	"os"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

const alice = "alice@example.org"

// However creating an identity is interrupted, doing it again leads to one entry,
// whose escrow key was shown before it was given up.
func TestInterruptedCreate(t *testing.T) {
	hangUpAt := func(method string, after bool) func(s *server) {
		return func(s *server) {
			s.put(func(called string, _ []byte, pass func() (map[string]any, error)) (map[string]any, error) {
				if called != method || method == "KeyRepository.FetchUID" && s.called("KeyRepository.CreateUID") == 0 {
					_, err := pass()
					return nil, err
				}
				if after {
					pass()
				}
				return nil, errHangUp
			})
		}
	}
	for name, test := range map[string]struct {
		interrupt func(s *server)
		paper     func(cancel func()) error // how showing the paper fails at first
		later     time.Duration             // when it is called again
		sent      int                       // messages at the first time
		shown     int                       // papers in the end
	}{
		"before the keyserver has it":             {hangUpAt("KeyRepository.CreateUID", false), nil, 0, 1, 1},
		"before the keyserver has it, for days":   {hangUpAt("KeyRepository.CreateUID", false), nil, 3 * day, 1, 1},
		"after the keyserver has it":              {hangUpAt("KeyRepository.CreateUID", true), nil, 0, 1, 1},
		"after the keyserver has it, for days":    {hangUpAt("KeyRepository.CreateUID", true), nil, 3 * day, 1, 1},
		"when its message is fetched":             {hangUpAt("KeyRepository.FetchUID", false), nil, 0, 1, 1},
		"the paper jams":                          {nil, func(func()) error { return errors.New("jam") }, 0, 0, 2},
		"the user leaves when the paper is there": {nil, func(cancel func()) error { cancel(); return nil }, 0, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, token.Open{})
			dir := t.TempDir()
			c := s.mustInit(dir)
			s.fill(2)
			if test.interrupt != nil {
				test.interrupt(s)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var printed paper
			_, err := c.Create(ctx, alice, testPassphrase, Registration{Paper: func(key string) error {
				printed.show(key)
				if test.paper != nil {
					return test.paper(cancel)
				}
				return nil
			}})
			cancel()
			if err == nil {
				t.Fatal("it was not interrupted")
			}
			if n := s.called("KeyRepository.CreateUID"); n != test.sent {
				t.Errorf("%d messages were sent, want %d", n, test.sent)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			c = must(Open(dir, s.options()))(t)
			defer c.Close()
			id := must(c.OpenIdentity(alice, testPassphrase))(t)
			if id.Stage() != Pending || id.record.Pending.Escrow == nil {
				t.Fatalf("%s", id.Stage())
			}
			if test.sent == 0 {
				if err := c.Confirm(t.Context(), id, 0, 1); !errors.Is(err, ErrPending) {
					t.Errorf("confirmed what was never sent: %v", err)
				}
			}

			s.put(nil)
			s.clock.advance(test.later)
			s.fill(1)
			s.clock.advance(test.later)
			id, err = c.Create(t.Context(), alice, testPassphrase, Registration{Paper: printed.show})
			if err != nil {
				t.Fatal(err)
			}
			positions, _, err := s.service.LookupUID(t.Context(), alice, math.MaxUint64)
			if err != nil || len(positions) != 1 || positions[0] != id.Position() || id.Stage() != Registered {
				t.Errorf("entries at %d, it is %s at %d", positions, id.Stage(), id.Position())
			}
			if len(printed.keys) != test.shown {
				t.Errorf("the paper was shown %d times", len(printed.keys))
			}
			for _, key := range printed.keys {
				if escrow := must(ParsePaperKey(key))(t); !bytes.Equal(public(escrow), id.Message().Content.SigEscrow.Public()) {
					t.Error("another key is on the paper")
				}
			}
			if id = must(c.OpenIdentity(alice, testPassphrase))(t); id.record.Pending != nil {
				t.Error("the escrow key is still there")
			}
			if _, err := c.Recover(t.Context(), alice, testPassphrase, must(ParsePaperKey(printed.keys[0]))(t), false, Registration{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestInterruptedUpdateAndRecovery(t *testing.T) {
	s := newServer(t, token.Open{})
	c := s.mustInit(t.TempDir())
	var printed paper
	id := must(c.Create(t.Context(), alice, testPassphrase, Registration{Paper: printed.show}))(t)
	escrow := must(ParsePaperKey(printed.keys[0]))(t)
	for i, lost := range []bool{false, true} {
		cut := func(method string, _ []byte, pass func() (map[string]any, error)) (map[string]any, error) {
			if method == "KeyRepository.UpdateUID" {
				if lost {
					pass()
				}
				return nil, errHangUp
			}
			_, err := pass()
			return nil, err
		}
		s.put(cut)
		if err := c.Update(t.Context(), id, Registration{}); err == nil || id.Stage() != Pending {
			t.Fatalf("%s, %v", id.Stage(), err)
		}
		id = must(c.OpenIdentity(alice, testPassphrase))(t)
		s.put(nil)
		if err := c.Update(t.Context(), id, Registration{}); err != nil {
			t.Fatal(err)
		}
		s.put(cut)
		if _, err := c.Recover(t.Context(), alice, testPassphrase, escrow, false, Registration{}); err == nil {
			t.Fatal("not interrupted")
		}
		s.put(nil)
		id = must(c.Recover(t.Context(), alice, testPassphrase, escrow, false, Registration{}))(t)
		if got, want := id.Message().Content.MsgCount, uint64(2*i+2); got != want {
			t.Errorf("message %d, want %d", got, want)
		}
	}
	if err := c.Update(t.Context(), id, Registration{}); err != nil {
		t.Error(err)
	}
}

// Who has the keys on two machines, or lost them to somebody, is told.
func TestOvertaken(t *testing.T) {
	s := newServer(t, token.Open{})
	c, other := s.mustInit(t.TempDir()), s.mustInit(t.TempDir())
	var printed paper
	id := must(c.Create(t.Context(), alice, testPassphrase, Registration{Paper: printed.show}))(t)
	escrow := must(ParsePaperKey(printed.keys[0]))(t)
	must(other.Recover(t.Context(), alice, testPassphrase, escrow, false, Registration{}))(t)

	if err := c.Confirm(t.Context(), id, 0, 1); !errors.Is(err, ErrOvertaken) {
		t.Errorf("Confirm: %v", err)
	}
	if err := c.Update(t.Context(), id, Registration{}); !errors.Is(err, ErrOvertaken) {
		t.Errorf("Update: %v", err)
	}
	if _, err := c.AddKeyInits(t.Context(), id, make([]string, 1), Anchor{MixAddress: "mix@example.net"}, day, false); !errors.Is(err, ErrOvertaken) {
		t.Errorf("AddKeyInits: %v", err)
	}
	must(c.Recover(t.Context(), alice, testPassphrase, escrow, false, Registration{}))(t)

	// An update that was on its way can never be taken any more.
	s.put(func(method string, _ []byte, pass func() (map[string]any, error)) (map[string]any, error) {
		if method == "KeyRepository.UpdateUID" {
			return nil, errHangUp
		}
		_, err := pass()
		return nil, err
	})
	id = must(c.OpenIdentity(alice, testPassphrase))(t)
	if err := c.Update(t.Context(), id, Registration{}); err == nil {
		t.Fatal("not interrupted")
	}
	s.put(nil)
	must(other.Recover(t.Context(), alice, testPassphrase, escrow, false, Registration{}))(t)
	if err := c.Update(t.Context(), id, Registration{}); !errors.Is(err, ErrOvertaken) {
		t.Errorf("Update on its way: %v", err)
	}
	must(c.Recover(t.Context(), alice, testPassphrase, escrow, false, Registration{}))(t)
}

func TestCreateRefuses(t *testing.T) {
	s := newServer(t, token.Open{})
	c := s.mustInit(t.TempDir())
	s.register("bert@example.org")
	create := func(name string, passphrase []byte, w Registration) error {
		_, err := c.Create(t.Context(), name, passphrase, w)
		return err
	}
	for name, test := range map[string]struct {
		err  error
		want error
	}{
		"taken":              {create("bert@example.org", testPassphrase, Registration{}), ErrTaken},
		"foreign domain":     {create("alice@example.net", testPassphrase, Registration{}), ErrUnsupported},
		"no name":            {create("a@b@c", testPassphrase, Registration{}), uid.ErrInvalid},
		"short passphrase":   {create(alice, []byte("short"), Registration{}), ErrPassphrase},
		"wrong registration": {create(alice, testPassphrase, Registration{ForwardSec: uid.Strict, MixAddress: "mix@example.net"}), uid.ErrInvalid},
	} {
		if !errors.Is(test.err, test.want) {
			t.Errorf("%s: %v", name, test.err)
		}
	}
	if names := must(c.Names())(t); len(names) != 0 || s.called("KeyRepository.CreateUID") != 0 {
		t.Errorf("%q are left, %d messages were sent", names, s.called("KeyRepository.CreateUID"))
	}

	// A name that somebody else gets while it is on its way.
	jam := errors.New("jam")
	if err := create(alice, testPassphrase, Registration{Paper: func(string) error { return jam }}); !errors.Is(err, jam) {
		t.Fatal(err)
	}
	s.register(alice)
	if err := create(alice, testPassphrase, Registration{}); !errors.Is(err, ErrTaken) {
		t.Errorf("taken meanwhile: %v", err)
	}

	// One that expired long ago is free.
	s.clock.advance(time.Duration(3*366) * day)
	if _, err := s.service.RotateKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	id, err := c.Create(t.Context(), "bert@example.org", testPassphrase, Registration{Paper: new(paper).show})
	if err != nil {
		t.Fatal(err)
	}
	contact := must(c.Lookup(t.Context(), "bert@example.org"))(t)
	if len(contact.History) != 2 || len(contact.Keys) != 1 || contact.Position() != id.Position() {
		t.Errorf("%d messages, %d keys", len(contact.History), len(contact.Keys))
	}
}

func TestPassphrase(t *testing.T) {
	s := newServer(t, token.Open{})
	c := s.mustInit(t.TempDir())
	id := must(c.Create(t.Context(), alice, testPassphrase, Registration{Paper: new(paper).show}))(t)
	wrong := []byte("incorrect horse battery staple")
	if _, err := c.OpenIdentity(alice, wrong); !errors.Is(err, ErrPassphrase) {
		t.Error(err)
	}
	if _, err := c.Create(t.Context(), alice, wrong, Registration{}); !errors.Is(err, ErrPassphrase) {
		t.Error(err)
	}
	if _, err := c.OpenIdentity("bert@example.org", testPassphrase); !errors.Is(err, ErrNoIdentity) {
		t.Error(err)
	}
	content, err := os.ReadFile(id.vault.path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(id.vault.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	var f vaultFile
	if err := readJSON(id.vault.path, &f); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*vaultFile){
		"another's file":  func(f *vaultFile) { f.Identity = "bert@example.org" },
		"changed content": func(f *vaultFile) { f.Sealed[7] ^= 1 },
		"changed nonce":   func(f *vaultFile) { f.Nonce[0] ^= 1 },
		"short nonce":     func(f *vaultFile) { f.Nonce = f.Nonce[1:] },
		"much memory":     func(f *vaultFile) { f.Memory = 1 << 30 },
		"much time":       func(f *vaultFile) { f.Time = 1 << 30 },
		"no time":         func(f *vaultFile) { f.Time = 0 },
		"no threads":      func(f *vaultFile) { f.Threads = 0 },
		"other cipher":    func(f *vaultFile) { f.Cipher = "rot13" },
	} {
		changed := f
		changed.Nonce, changed.Sealed = bytes.Clone(f.Nonce), bytes.Clone(f.Sealed)
		change(&changed)
		if err := writeJSON(id.vault.path, changed); err != nil {
			t.Fatal(err)
		}
		if _, err := c.OpenIdentity(alice, testPassphrase); !errors.Is(err, ErrPassphrase) && !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := durable.Write(id.vault.path, content); err != nil {
		t.Fatal(err)
	}
	must(c.OpenIdentity(alice, testPassphrase))(t)
}

func TestPaperKey(t *testing.T) {
	s := newServer(t, token.Open{})
	c := s.mustInit(t.TempDir())
	var printed paper
	must(c.Create(t.Context(), alice, testPassphrase, Registration{Paper: printed.show}))(t)
	key := must(ParsePaperKey(printed.keys[0]))(t)
	if PaperKey(key) != printed.keys[0] {
		t.Error("the paper does not say what it was read as")
	}
	text := []byte(printed.keys[0])
	for i := range text { // every single wrong character is noticed
		if text[i] == ' ' {
			continue
		}
		wrong := bytes.Clone(text)
		if wrong[i] = 'A'; text[i] == 'A' {
			wrong[i] = 'B'
		}
		if _, err := ParsePaperKey(string(wrong)); !errors.Is(err, ErrPaperKey) {
			t.Errorf("character %d: %v", i, err)
		}
	}
	for _, wrong := range []string{"", "AAAA", printed.keys[0][:60], printed.keys[0] + " AAAA", "0" + printed.keys[0][1:]} {
		if _, err := ParsePaperKey(wrong); !errors.Is(err, ErrPaperKey) {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	for name, other := range map[string]ed25519.PrivateKey{"another's": newKey(99), "the signature key": must(c.OpenIdentity(alice, testPassphrase))(t).sigKey()} {
		if _, err := c.Recover(t.Context(), alice, testPassphrase, other, false, Registration{}); !errors.Is(err, ErrPaperKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.register("bert@example.org") // in profile 1.0, without escrow key
	if _, err := c.Recover(t.Context(), "bert@example.org", testPassphrase, key, false, Registration{}); !errors.Is(err, ErrPaperKey) {
		t.Errorf("without escrow key: %v", err)
	}
	if n := s.called("KeyRepository.UpdateUID"); n != 0 {
		t.Errorf("%d updates were sent", n)
	}
	s.clock.advance(800 * day)
	if _, err := c.Recover(t.Context(), alice, testPassphrase, key, false, Registration{}); !errors.Is(err, uid.ErrExpired) {
		t.Errorf("too late: %v", err)
	}
}
