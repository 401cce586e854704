package client

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// TestBetween has somebody stand between an honest keyserver and its user, in every
// place, while the user does each thing. Afterwards all goes on, and nobody is convicted.
func TestBetween(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	// What stands between when the hashchain has entries, of which the user has the
	// first known.
	places := map[string]func(s *server, truth []hashchain.Entry, known int){
		"appends an entry": func(s *server, truth []hashchain.Entry, _ int) { s.show(appended(s, truth, "bert@example.org")) },
		"appends an entry of the keyserver's": func(s *server, truth []hashchain.Entry, _ int) {
			s.show(appended(s, truth, "keyserver@"+testDomain))
		},
		"changes a new entry":    func(s *server, truth []hashchain.Entry, known int) { s.show(flipped(truth, known, 60)) },
		"replaces a new entry":   func(s *server, truth []hashchain.Entry, known int) { s.show(rehashed(truth, known)) },
		"replaces a known one":   func(s *server, truth []hashchain.Entry, known int) { s.show(rehashed(truth, known-1)) },
		"replaces the first":     func(s *server, truth []hashchain.Entry, _ int) { s.show(rehashed(truth, 0)) },
		"removes the last":       func(s *server, truth []hashchain.Entry, _ int) { s.show(truth[:len(truth)-1]) },
		"shows an older state":   func(s *server, truth []hashchain.Entry, known int) { s.show(truth[:known-1]) },
		"answers for another":    func(s *server, truth []hashchain.Entry, _ int) { s.answering("FetchUID", truth[1]) },
		"acknowledges another's": func(s *server, truth []hashchain.Entry, _ int) { s.answering("CreateUID", truth[1]) },
		"signs messages itself":  func(s *server, _ []hashchain.Entry, _ int) { s.changing("FetchUID", resigned) },
		"signs the answer itself": func(s *server, _ []hashchain.Entry, _ int) {
			s.changing("CreateUID", resigned)
		},
		"swaps the capabilities": func(s *server, truth []hashchain.Entry, _ int) {
			s.changing("Capabilities", func(_ []byte, r map[string]any) {
				c := r["CAPABILITIES"].(map[string]any)
				c["KEYHASHCHAINENTRY"] = rehashed(truth, 1)[3].String()
				c["SIGPUBKEYS"] = []string{canonical.Encode(public(newKey(7)))}
			})
		},
		"refuses all":         func(s *server, _ []hashchain.Entry, _ int) { s.refusing("") },
		"refuses messages":    func(s *server, _ []hashchain.Entry, _ int) { s.refusing("FetchUID") },
		"cuts the connection": func(s *server, _ []hashchain.Entry, _ int) { s.put(hangUp) },
		"cuts at messages": func(s *server, _ []hashchain.Entry, _ int) {
			s.put(func(method string, _ []byte, pass func() (map[string]any, error)) (map[string]any, error) {
				if method == "KeyRepository.FetchUID" {
					return nil, errHangUp
				}
				_, err := pass()
				return nil, err
			})
		},
	}
	things := map[string]func(c *Client) error{
		"sync":    func(c *Client) error { _, err := c.Sync(context.Background()); return err },
		"recheck": func(c *Client) error { return c.Recheck(context.Background()) },
		"lookup": func(c *Client) error {
			if _, err := c.Lookup(context.Background(), "carl@example.org"); err != nil {
				return err
			}
			if _, err := c.Sync(context.Background()); err != nil {
				return err
			}
			_, err := c.Lookup(context.Background(), "dora@example.org")
			return err
		},
		"register": func(c *Client) error {
			_, err := c.Create(context.Background(), alice, testPassphrase, Registration{Paper: new(paper).show})
			if errors.Is(err, ErrExists) {
				return nil
			}
			return err
		},
	}
	for name, stand := range places {
		for thing, do := range things {
			t.Run(name+"/"+thing, func(t *testing.T) {
				s := newServer(t, token.Open{})
				s.register("bert@example.org")
				s.register("carl@example.org")
				dir := t.TempDir()
				c := s.mustInit(dir)
				known := int(c.Size())
				s.fill(2)
				s.register("dora@example.org")
				stand(s, s.entries(), known)
				c.caps = nil
				wantNoConviction(t, do(c))
				s.put(nil)
				for _, again := range []string{thing, "sync", "lookup", "register", "recheck"} {
					if err := things[again](c); err != nil {
						t.Fatalf("%s, afterwards: %v", again, err)
					}
				}
				truth := s.entries()
				if c.Size() != uint64(len(truth)) || c.Head() != truth[len(truth)-1].Hash() {
					t.Errorf("%d entries afterwards", c.Size())
				}
				wantNoEvidence(t, dir)
			})
		}
		t.Run(name+"/init", func(t *testing.T) {
			s := newServer(t, token.Open{})
			s.fill(4)
			stand(s, s.entries(), 2)
			first := s.entries()[0].Hash()
			dir := t.TempDir()
			c, err := Init(t.Context(), dir, s.url, "", &first, s.options())
			if c != nil {
				err = errors.Join(err, c.Close())
			}
			wantNoConviction(t, err)
			s.put(nil)
			c = must(s.init(dir))(t)
			if err := c.Close(); err != nil || c.Size() != 5 {
				t.Errorf("%d entries, %v", c.Size(), err)
			}
			wantNoEvidence(t, dir)
		})
	}
}

func wantNoConviction(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, ErrMisbehaviour) || errors.Is(err, ErrDamaged) {
		t.Errorf("got %v", err)
	}
}

// answering answers one method with the reply about an entry.
func (s *server) answering(method string, e hashchain.Entry) {
	raw, err := s.service.FetchUID(s.t.Context(), e.UIDIndex())
	if err != nil {
		s.t.Fatal(err)
	}
	s.changing(method, func(_ []byte, r map[string]any) { r["UIDMessageReply"] = json.RawMessage(raw) })
}

// refusing refuses one method, or all.
func (s *server) refusing(method string) {
	s.put(func(called string, _ []byte, pass func() (map[string]any, error)) (map[string]any, error) {
		if method == "" || called == "KeyRepository."+method {
			return nil, errRefused
		}
		_, err := pass()
		return nil, err
	})
}

// TestSignedLies has a keyserver sign two histories. Whatever its user does, who asks
// for what it has signed convicts it.
func TestSignedLies(t *testing.T) {
	sync := func(c *Client) error { _, err := c.Sync(context.Background()); return err }
	for name, test := range map[string]struct {
		lie      func(f *forger) // of 8 entries, of which the user has 6
		do       func(c *Client) error
		position uint64
	}{
		"rewritten, longer":   {func(f *forger) { f.rewrite(3, 9) }, sync, 3},
		"rewritten, as long":  {func(f *forger) { f.rewrite(3, 6) }, sync, 3},
		"rewritten, shorter":  {func(f *forger) { f.rewrite(3, 5) }, sync, 3},
		"rewritten, the last": {func(f *forger) { f.rewrite(5, 9) }, sync, 5},
		"rewritten, the first that differs withheld": {func(f *forger) {
			f.rewrite(3, 6)
			f.withheld = []uint64{3}
		}, sync, 5},
		"rewritten, seen by who compares all": {func(f *forger) { f.rewrite(3, 6) }, func(c *Client) error { return c.Recheck(context.Background()) }, 3},
		"does not follow": {func(f *forger) {
			f.entries[6][60] ^= 1
			f.reply("", 6, f.key)
		}, sync, 6},
		"does not follow a new one": {func(f *forger) {
			f.entries[7][60] ^= 1
			f.reply("", 7, f.key)
		}, sync, 7},
		"another last entry": {func(f *forger) {
			old := f.entries
			f.rewrite(5, 8)
			f.lastEntry = &f.entries[7]
			f.entries = old
			f.replies[indexOf(f.lastEntry)] = uid.NewReply("", f.lastEntry, 7, f.key)
		}, sync, 7},
		"another entry in the capabilities": {func(f *forger) {
			old := f.entries
			f.rewrite(5, 8)
			f.capabilityEntry = &f.entries[7]
			f.entries = old
			f.replies[indexOf(f.capabilityEntry)] = uid.NewReply("", f.capabilityEntry, 7, f.key)
		}, sync, 7},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForger(t)
			f.fill(5)
			c, err := f.init()
			if err != nil {
				t.Fatal(err)
			}
			f.fill(2)
			f.entries = slices.Clone(f.entries)
			test.lie(f)
			c.caps, c.compared = nil, false
			err = test.do(c)
			e := wantMisbehaviour(t, err, test.position, "")
			if len(e.Reply) == 0 || len(e.Covers) == 0 {
				t.Errorf("evidence by reply %q, covered by %q", e.Reply, e.Covers)
			}
			again := wantMisbehaviour(t, test.do(c), test.position, "")
			if again.Time != e.Time {
				t.Error("it is kept twice")
			}
		})
	}
}

// TestTroubles: each kind of trouble says what it is.
func TestTroubles(t *testing.T) {
	s := newServer(t, token.Open{})
	s.fill(3)
	dir := t.TempDir()
	if err := s.mustInit(dir).Close(); err != nil {
		t.Fatal(err)
	}
	s.fill(2)
	truth := s.entries()
	for name, test := range map[string]struct {
		trouble func()
		want    error // nil: none of the sentinel errors
		words   string
	}{
		"another history": {func() { s.show(rehashed(truth, 2)) }, ErrContradiction, "position 2: another entry is shown there than the copy has"},
		"an old state":    {func() { s.show(truth[:2]) }, ErrContradiction, "position 2: the hashchain ends before it, the copy has 4 entries"},
		"made up":         {func() { s.show(appended(s, truth, alice)) }, ErrUnsigned, "position 6: no signed message of the entry is to be had"},
		"does not follow": {func() { s.show(dropped(truth, 4)) }, ErrUnsigned, "position 4: the entry does not follow"},
		"a refusal":       {func() { s.refusing("") }, nil, `keyserver refuses: "no"`},
		"a cut":           {func() { s.put(hangUp) }, nil, "keyserver " + s.url},
		"no sense":        {func() { s.changing("FetchLastHashChain", func(_ []byte, r map[string]any) { r["HCPos"] = nil }) }, ErrAnswer, "expected HCEntry and HCPos"},
	} {
		c := must(Open(dir, s.options()))(t)
		test.trouble()
		_, err := c.Sync(t.Context())
		for _, sentinel := range []error{ErrContradiction, ErrUnsigned, ErrMisbehaviour, ErrAnswer, ErrDamaged} {
			if errors.Is(err, sentinel) != (sentinel == test.want) {
				t.Errorf("%s: got %v, want %v", name, err, test.want)
			}
		}
		if err == nil || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: got %v, want %q", name, err, test.words)
		}
		s.put(nil)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	wantNoEvidence(t, dir)
}
