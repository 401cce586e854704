package client

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// logged is a keyserver with a log, which shows the checkpoints that the test makes.
type logged struct {
	*server
	key       *tlog.Key
	witnesses []*tlog.Key

	mu     sync.Mutex
	signed []byte // mu; nil: there is none
}

func newLogged(t *testing.T) *logged {
	l := &logged{server: newServer(t, token.Open{})}
	for _, name := range []string{testDomain + "/keytree", "one.example", "two.example"} {
		k, err := tlog.GenerateKey(name)
		if err != nil {
			t.Fatal(err)
		}
		if l.key == nil {
			l.key = k
		} else {
			l.witnesses = append(l.witnesses, k)
		}
	}
	l.service.AnnounceLog(l.key.Name(), l.key.Log().String())
	real := l.url
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/keytree/checkpoint" {
			l.forward(w, r, real)
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.signed == nil {
			http.Error(w, "waiting", http.StatusServiceUnavailable)
			return
		}
		w.Write(l.signed)
	}))
	t.Cleanup(front.Close)
	l.url = front.URL + "/"
	return l
}

// show signs, and has some witnesses cosign, a checkpoint of entries; nil for none.
func (l *logged) showLog(entries []hashchain.Entry, witnesses ...*tlog.Key) {
	l.t.Helper()
	var signed []byte
	if entries != nil {
		var c hashchain.Chain
		if err := c.Append(entries, nil); err != nil {
			l.t.Fatal(err)
		}
		signed = l.key.Sign(tlog.Checkpoint{Origin: l.key.Name(), Size: c.Size, Root: tlog.Hash(c.Root())})
		plain := bytes.Clone(signed)
		for _, w := range witnesses {
			signed = append(signed, w.Cosign(plain, l.clock.now())...)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.signed = signed
}

// policy demands one of the two witnesses.
func (l *logged) policy() []byte {
	return fmt.Appendf(nil, "log %s\nwitness one %s\nwitness two %s\ngroup both any one two\nquorum both\n", l.key.Log(), l.witnesses[0].Witness(), l.witnesses[1].Witness())
}

// otherEntries are the keyserver's, with others from a position on.
func otherEntries(t *testing.T, entries []hashchain.Entry, from int) []hashchain.Entry {
	t.Helper()
	other := bytes.NewReader(bytes.Repeat([]byte{7}, 1<<20))
	list := append([]hashchain.Entry{}, entries[:from]...)
	for range entries[from:] {
		e, err := hashchain.Seal(list[len(list)-1].Hash(), "eve@"+testDomain, hashchain.Hash{1}, other)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

// TestCopyContainsTheCheckpoint: without a pinned policy, too, a copy that the keyserver's own log
// contradicts is refused, and that is evidence. What came is taken back.
func TestCopyContainsTheCheckpoint(t *testing.T) {
	l := newLogged(t)
	l.fill(5)
	c := l.mustInit(t.TempDir()) // there is no checkpoint yet
	l.showLog(l.entries())
	if _, err := c.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if w, err := c.Witnessed(); w != nil || err != nil {
		t.Errorf("witnessed %+v, %v, though no policy is pinned", w, err)
	}
	size := c.Size()
	l.fill(4)
	all := l.entries()
	l.showLog(otherEntries(t, all, 7))
	for range 2 {
		_, err := c.Sync(t.Context())
		var m *Misbehaviour
		if !errors.As(err, &m) {
			t.Fatalf("%v, expected misbehaviour", err)
		}
		content, err := os.ReadFile(m.File)
		if err != nil || !strings.Contains(string(content), `"checkpoint":`) || !strings.Contains(string(content), `"LOGVKEY"`) {
			t.Errorf("evidence %s, %v", content, err)
		}
		if c.Size() != size {
			t.Errorf("%d entries, expected the %d of before", c.Size(), size)
		}
	}
	// One by a key that the keyserver does not vouch for is only somebody's between.
	l.showLog(all)
	l.service.AnnounceLog(l.key.Name(), l.key.Log().String())
	if _, err := c.Sync(t.Context()); err != nil || c.Size() != uint64(len(all)) {
		t.Fatalf("%d entries, %v", c.Size(), err)
	}
	l.mu.Lock()
	l.signed = []byte("nonsense\n")
	l.mu.Unlock()
	if _, err := c.Sync(t.Context()); err != nil {
		t.Errorf("nobody demands a checkpoint: %v", err)
	}
}

// TestPinnedQuorum: with a pinned policy there must be a quorum, not too old. One witness that is
// away locks nobody out, nor does a keyserver that has just no quorum; what is behind the newest is
// marked.
func TestPinnedQuorum(t *testing.T) {
	l := newLogged(t)
	l.fill(5)
	one, two := l.witnesses[0], l.witnesses[1]
	opt := l.options()
	opt.Policy = l.policy()
	var notices []string
	opt.Notice = func(s string) { notices = append(notices, s) }
	l.showLog(l.entries())
	dir := filepath.Join(t.TempDir(), "copy")
	c, err := Init(t.Context(), dir, l.url, "", nil, opt)
	if !errors.Is(err, ErrNoQuorum) || c == nil {
		t.Fatalf("without any: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	sync := func(want error) {
		t.Helper()
		if _, err := c.Sync(t.Context()); !errors.Is(err, want) {
			t.Fatalf("%v, expected %v", err, want)
		}
	}
	witnessed := func(entries uint64, by ...string) {
		t.Helper()
		w, err := c.Witnessed()
		if err != nil || w == nil || w.Entries != entries || strings.Join(w.By, " ") != strings.Join(by, " ") {
			t.Errorf("witnessed %+v, %v, expected %d by %q", w, err, entries, by)
		}
	}
	first := uint64(len(l.entries()))
	l.showLog(l.entries(), two) // one is away
	sync(nil)
	witnessed(first, "two")

	l.fill(3)
	sync(nil) // entries behind the newest quorum are taken
	witnessed(first, "two")
	if c.Size() != first+3 {
		t.Errorf("%d entries, expected %d", c.Size(), first+3)
	}
	notices = nil
	l.showLog(l.entries()) // both are away
	sync(nil)
	witnessed(first, "two")
	if len(notices) == 0 {
		t.Error("nothing was said of it")
	}
	l.showLog(nil)
	sync(nil)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if c, err = Open(dir, opt); err != nil {
		t.Fatal(err)
	}
	witnessed(first, "two")
	l.clock.advance(25 * time.Hour)
	sync(ErrOldQuorum)
	l.showLog(l.entries(), one, two)
	sync(nil)
	witnessed(first+3, "one", "two")

	l.showLog(otherEntries(t, l.entries(), 4), one, two) // witnesses that have been shown something else
	sync(ErrMisbehaviour)
	witnessed(first+3, "one", "two")
	l.showLog(otherEntries(t, append(l.entries(), hashchain.Entry{}), len(l.entries())), one) // one more than is shown
	sync(ErrContradiction)                                                                    // entries are withheld
	l.showLog(l.entries(), one)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if c, err = Resync(t.Context(), dir, opt); err != nil {
		t.Fatal(err)
	}
	witnessed(first+3, "one")
	if err := c.Pin(nil); err != nil {
		t.Fatal(err)
	}
	l.showLog(nil)
	sync(nil)
	if w, err := c.Witnessed(); w != nil || err != nil {
		t.Errorf("witnessed %+v, %v, though no policy is pinned", w, err)
	}
	// What was taken before does not do for a policy that is pinned later.
	l.showLog(l.entries())
	sync(nil)
	if err := c.Pin(l.policy()); err != nil {
		t.Fatal(err)
	}
	witnessed(0)
	sync(ErrNoQuorum)
	l.showLog(l.entries()[:len(l.entries())-1], two)
	sync(nil)
	witnessed(uint64(len(l.entries()))-1, "two")
	if err := c.Pin([]byte("quorum of fools\n")); !errors.Is(err, tlog.ErrFormat) {
		t.Errorf("%v", err)
	}
}
