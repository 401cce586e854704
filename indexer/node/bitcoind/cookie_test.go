package bitcoind_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
)

// badCookies are what a cookie file may be for a while, and what that is to the
// adapter.
var badCookies = map[string]struct {
	make func(file string) error
	want error
	says string
}{
	"missing":    {func(string) error { return nil }, node.ErrUnavailable, "is the node running"},
	"empty":      {holding(""), node.ErrUnsuitable, "one line USER:PASSWORD"},
	"torn early": {holding("__cook"), node.ErrUnsuitable, "one line USER:PASSWORD"},
	"torn":       {holding("__cookie__:hus"), node.ErrUnsuitable, "its present cookie in"},
	"stale":      {holding("__cookie__:hush before"), node.ErrUnsuitable, "its present cookie in"},
	"no user":    {holding(":hush"), node.ErrUnsuitable, "one line USER:PASSWORD"},
	"two lines":  {holding("a:hush\nb:hush"), node.ErrUnsuitable, "one line USER:PASSWORD"},
	"large":      {holding("a:" + strings.Repeat("hush", 2000)), node.ErrUnsuitable, "one line USER:PASSWORD"},
	"a folder":   {func(file string) error { return os.Mkdir(file, 0o700) }, node.ErrUnsuitable, "is a directory"},
	"unreadable": {func(file string) error { return os.Symlink(file, file) }, node.ErrUnsuitable, "node's cookie"}, // also for root
}

func holding(content string) func(string) error {
	return func(file string) error { return os.WriteFile(file, []byte(content), 0o600) }
}

// TestBadCookieAtStart is refused, or waited for while there is no file.
func TestBadCookieAtStart(t *testing.T) {
	for name, bad := range badCookies {
		n := newBCHN(t)
		cfg := n.config()
		cfg.User, cfg.Password, cfg.CookieFile = "", "", filepath.Join(t.TempDir(), ".cookie")
		check(t, bad.make(cfg.CookieFile))
		log := make(lines, 1)
		cfg.Log = zerolog.New(log)
		ctx, cancel := context.WithCancel(t.Context())
		if bad.want == node.ErrUnavailable {
			go func() { <-log; cancel() }()
		}
		_, err := bitcoind.Dial(ctx, cfg)
		cancel()
		wantError(t, err, bad.want, bad.says)
		if strings.Contains(err.Error(), "hus") {
			t.Errorf("%s: the error gives the cookie away: %v", name, err)
		}
	}
}

// TestBadCookieWhileRunning starts the node anew, with a cookie file that is bad for
// a while: it is looked at for each question, until it is good.
func TestBadCookieWhileRunning(t *testing.T) {
	for name, bad := range badCookies {
		n := newBCHN(t)
		n.password = "hush before"
		file := filepath.Join(t.TempDir(), ".cookie")
		check(t, holding("__cookie__:hush before")(file))
		cfg := n.config()
		cfg.User, cfg.Password, cfg.CookieFile, cfg.RetryFor = "", "", file, time.Millisecond
		c := dial(t, cfg)
		must[node.Tip](t)(c.Tip(t.Context()))

		n.set(func() { n.password = "hush"; clear(n.asked) })
		check(t, os.Remove(file))
		check(t, bad.make(file))
		for i := range 3 {
			_, err := c.BlockHash(t.Context(), 0)
			wantError(t, err, bad.want, bad.says)
			if strings.Contains(err.Error(), "hus") {
				t.Errorf("%s: the error gives the cookie away: %v", name, err)
			}
			// The node is asked once for each cookie, at most.
			if got := n.count("refused"); got > i+2 {
				t.Errorf("%s: the node was asked %d times for %d questions", name, got, i+1)
			}
		}
		_ = os.Remove(file)
		check(t, holding("__cookie__:hush\n")(file))
		if _, err := c.BlockHash(t.Context(), 0); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
	}
}

// TestPasswordRefused has the node, or a proxy before it, refuse what it took.
func TestPasswordRefused(t *testing.T) {
	n := newBCHN(t)
	c := dial(t, n.config())
	ask := func() error { _, err := c.BlockHash(t.Context(), 0); return err }
	n.set(func() { n.password = "another" })
	err := ask()
	wantError(t, err, node.ErrUnsuitable, "rpcuser and rpcpassword")
	if strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "another") {
		t.Errorf("the error gives a password away: %v", err)
	}
	n.set(func() { n.password = "hush" })
	check(t, ask())

	n.set(func() {
		n.instead = func(w http.ResponseWriter, _ string) bool { w.WriteHeader(http.StatusForbidden); return true }
	})
	wantError(t, ask(), node.ErrUnsuitable, "-rpcallowip")
	n.set(func() { n.instead = nil })
	check(t, ask())
}

// TestCookieRefusedForAWhile has a proxy refuse the right cookie.
func TestCookieRefusedForAWhile(t *testing.T) {
	n := newBCHN(t)
	cfg := n.config()
	cfg.User, cfg.Password, cfg.CookieFile = "", "", filepath.Join(t.TempDir(), ".cookie")
	check(t, holding("__cookie__:hush")(cfg.CookieFile))
	c := dial(t, cfg)
	n.set(func() {
		n.instead = func(w http.ResponseWriter, _ string) bool { w.WriteHeader(http.StatusUnauthorized); return true }
	})
	_, err := c.BlockHash(t.Context(), 0)
	wantError(t, err, node.ErrUnsuitable, "refuses the credentials")
	n.set(func() { n.instead = nil })
	if _, err := c.BlockHash(t.Context(), 0); err != nil {
		t.Error(err)
	}
	if err := os.Remove(cfg.CookieFile); err != nil {
		t.Fatal(err)
	}
	if _, err := c.BlockHash(t.Context(), 0); errors.Is(err, node.ErrUnavailable) {
		t.Errorf("a cookie that the node takes was read again: %v", err)
	}
}
