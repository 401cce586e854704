package client

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// wedged opens a folder in which the version before PendingMessage has made a new identity,
// carl, and an update of alice, with a clock that was three days ahead.
func wedged(t *testing.T) (*forger, *Client) {
	t.Helper()
	f, dir := keyserverFrom(t, "wedged-keyserver.json", 0), earlierFolder(t, "wedged")
	c := must(Open(dir, f.options()))(t)
	t.Cleanup(func() { c.Close() })
	c.wire = newWire(f.http.URL, f.options())
	return f, c
}

const carl = "carl@example.org"

// TestWedged goes on where a wrong clock has made messages that no keyserver takes.
func TestWedged(t *testing.T) {
	_, c := wedged(t)
	for _, name := range []string{carl, alice} {
		id := must(c.OpenIdentity(name, testPassphrase))(t)
		p := id.Pending()
		if p == nil || p.Made != c.now()+3*24*60*60 || !p.Sent || p.Unfit == nil || !strings.Contains(p.Unfit.Error(), "clock was wrong when it was made, at "+uid.Date(p.Made)) {
			t.Fatalf("%s: %+v", name, p)
		}
		var err error
		if name == carl {
			id, err = c.Create(t.Context(), name, testPassphrase, Registration{Paper: new(paper).show})
		} else {
			err = c.Update(t.Context(), id, Registration{})
		}
		if err != nil || id.Stage() != Registered || id.Pending() != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRemakeAndCancel does by hand what Create and Update do.
func TestRemakeAndCancel(t *testing.T) {
	_, c := wedged(t)
	for _, name := range []string{carl, alice} {
		id := must(c.OpenIdentity(name, testPassphrase))(t)
		before := len(id.record.Pending.Hashes)
		if done, err := c.Remake(t.Context(), id); done || err != nil {
			t.Fatalf("%s: %v, %v", name, done, err)
		}
		if p := must(c.OpenIdentity(name, testPassphrase))(t).Pending(); p == nil || p.Unfit != nil || p.Made != c.now() || len(id.record.Pending.Hashes) != before+1 {
			t.Errorf("%s, made again: %+v", name, p)
		}
		if done, err := c.Cancel(t.Context(), id); done || err != nil {
			t.Fatalf("%s: %v, %v", name, done, err)
		}
		if _, err := c.Remake(t.Context(), must(c.OpenIdentity(alice, testPassphrase))(t)); name == alice && !errors.Is(err, ErrNothingPending) {
			t.Errorf("nothing is left, but: %v", err)
		}
	}
	if names := must(c.Names())(t); len(names) != 1 || names[0] != alice {
		t.Errorf("left: %q", names)
	}
	if id := must(c.OpenIdentity(alice, testPassphrase))(t); id.Stage() == Pending {
		t.Error("the update is still there")
	}
}

// TestWedgedRecovery is made again with the paper key.
func TestWedgedRecovery(t *testing.T) {
	s := newServer(t, token.Open{})
	c := s.mustInit(t.TempDir())
	var printed paper
	must(c.Create(t.Context(), alice, testPassphrase, Registration{Paper: printed.show}))(t)
	escrow := must(ParsePaperKey(printed.keys[0]))(t)
	s.clock.advance(72 * time.Hour)
	s.put(func(method string, _ []byte, pass func() (map[string]any, error)) (map[string]any, error) {
		if method == "KeyRepository.UpdateUID" {
			return nil, errHangUp
		}
		_, err := pass()
		return nil, err
	})
	if _, err := c.Recover(t.Context(), alice, testPassphrase, escrow, false, Registration{}); err == nil {
		t.Fatal("not interrupted")
	}
	s.put(nil)
	s.clock.advance(-72 * time.Hour)
	id := must(c.OpenIdentity(alice, testPassphrase))(t)
	if p := id.Pending(); p.Call != "recover" || p.Unfit == nil {
		t.Errorf("%+v", p)
	}
	if err := c.Update(t.Context(), id, Registration{}); !errors.Is(err, ErrPaperKey) {
		t.Errorf("without the paper: %v", err)
	}
	before := id.record.Pending.SigKey
	id = must(c.Recover(t.Context(), alice, testPassphrase, escrow, false, Registration{}))(t)
	if id.Stage() != Registered || string(id.record.SigKey) != string(before) || id.Message().Content.CheckTime(c.now()) != nil {
		t.Errorf("%s", id.Stage())
	}
}

// TestCancelTooLate finds that the keyserver has the message.
func TestCancelTooLate(t *testing.T) {
	s := newServer(t, token.Open{})
	c := s.mustInit(t.TempDir())
	s.put(func(method string, _ []byte, pass func() (map[string]any, error)) (map[string]any, error) {
		result, err := pass()
		if method == "KeyRepository.CreateUID" {
			err = errHangUp
		}
		return result, err
	})
	if _, err := c.Create(t.Context(), alice, testPassphrase, Registration{Paper: new(paper).show}); err == nil {
		t.Fatal("not interrupted")
	}
	s.put(nil)
	id := must(c.OpenIdentity(alice, testPassphrase))(t)
	if done, err := c.Cancel(t.Context(), id); !done || err != nil || id.Stage() != Registered {
		t.Errorf("%v, %v, %s", done, err, id.Stage())
	}
}

// TestCancelUnsent needs no keyserver.
func TestCancelUnsent(t *testing.T) {
	s := newServer(t, token.Open{})
	c := s.mustInit(t.TempDir())
	jam := errors.New("jam")
	if _, err := c.Create(t.Context(), alice, testPassphrase, Registration{Paper: func(string) error { return jam }}); !errors.Is(err, jam) {
		t.Fatal(err)
	}
	s.put(hangUp)
	id := must(c.OpenIdentity(alice, testPassphrase))(t)
	if p := id.Pending(); p.Sent || p.Call != "create" {
		t.Errorf("%+v", p)
	}
	if done, err := c.Cancel(t.Context(), id); done || err != nil {
		t.Errorf("%v, %v", done, err)
	}
	if files := must(filepath.Glob(filepath.Join(c.dir, identitiesDir, "*")))(t); len(files) > 0 {
		t.Errorf("left: %q", files)
	}
}

// TestWrongClock has nothing made, and told which clock says what, where this machine's is
// off by more than the keyserver takes.
func TestWrongClock(t *testing.T) {
	s := newServer(t, token.Open{})
	c := s.mustInit(t.TempDir())
	id := must(c.Create(t.Context(), alice, testPassphrase, Registration{Paper: new(paper).show}))(t)
	for off, most := range map[time.Duration]int{72 * time.Hour: 0, -72 * time.Hour: 0, time.Hour: 1, 100 * time.Second: 2} {
		var notices []string
		c.opt.Now = func() time.Time { return s.clock.now().Add(off) }
		c.opt.Notice = func(text string) { notices = append(notices, text) }
		c.wire, c.caps = newWire(s.url, c.opt), nil
		for i, do := range []func() error{
			func() error { return c.FlushKeyInits(t.Context(), id) },
			func() error {
				_, err := c.AddKeyInits(t.Context(), id, make([]string, 1), Anchor{MixAddress: "mix@example.net"}, day, false)
				return err
			},
		} {
			err := do()
			if good := i > 2-1-most || most == 2; good != (err == nil) || !good && (!errors.Is(err, ErrClock) || !strings.Contains(err.Error(), uid.Date(c.now()))) {
				t.Errorf("%v: call %d: %v", off, i, err)
			}
		}
		if told := len(notices) > 0; told != (most < 2) {
			t.Errorf("%v: told %q", off, notices)
		}
	}
	c.opt.Now = func() time.Time { return s.clock.now().Add(72 * time.Hour) }
	c.wire, c.caps = newWire(s.url, c.opt), nil
	never := func(string) error { t.Error("a paper key was shown"); return nil }
	if _, err := c.Create(t.Context(), carl, testPassphrase, Registration{Paper: never}); !errors.Is(err, ErrClock) {
		t.Errorf("Create: %v", err)
	}
	if err := c.Update(t.Context(), id, Registration{}); !errors.Is(err, ErrClock) || id.Pending() != nil {
		t.Errorf("Update: %v", err)
	}
	if names := must(c.Names())(t); len(names) != 1 {
		t.Errorf("left: %q", names)
	}
}

// TestRefusedName is forgotten when the keyserver gives it to nobody, or to another.
func TestRefusedName(t *testing.T) {
	for name, refusal := range map[string]error{
		"reserved": &ServerError{codeReserved, "not this one"}, "domain": &ServerError{codeDomain, "not here"},
		"token": &ServerError{codeSpent, "spent"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, token.Open{})
			c := s.mustInit(t.TempDir())
			s.put(func(method string, _ []byte, pass func() (map[string]any, error)) (map[string]any, error) {
				if method == "KeyRepository.CreateUID" {
					return nil, refusal
				}
				_, err := pass()
				return nil, err
			})
			_, err := c.Create(t.Context(), alice, testPassphrase, Registration{Paper: new(paper).show})
			if !errors.As(err, new(*ServerError)) {
				t.Fatal(err)
			}
			if has := must(c.Has(alice))(t); has != (name == "token") {
				t.Errorf("kept: %v", has)
			}
		})
	}
	s := newServer(t, token.Open{})
	c := s.mustInit(t.TempDir())
	if _, err := c.Create(t.Context(), "root@example.org", testPassphrase, Registration{}); !errors.Is(err, uid.ErrReserved) {
		t.Error(err)
	}
	if files, err := os.ReadDir(filepath.Join(c.dir, identitiesDir)); err != nil || len(files) > 0 {
		t.Errorf("%d files, %v", len(files), err)
	}
}
