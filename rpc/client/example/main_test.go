package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is the app, a keytree server, and an identity of two keys.
type world struct {
	*testing.T
	*rpctest.Rig
	chain       rpctest.Chain
	app         *httptest.Server
	root, child rpctest.Person
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, root: rpctest.NewPerson(t, rpctest.Net), child: rpctest.NewPerson(t, rpctest.Net)}
	w.Rig = rpctest.New(t, w.chain.Block(w.child.Asks("mlr", w.root), w.root.Accepts("mla", "mlr")))
	w.Suppose(t, "", nil)
	a := newApp(w.Conn, "memo.cash", "https://memo.cash/login")
	w.app = httptest.NewTLSServer(a.handler()) // browsers keep the cookie for TLS
	t.Cleanup(w.app.Close)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { a.watch(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

// block is the next one, after which nothing is pending.
func (w *world) block(actions ...links.Action) {
	w.Connect(w, w.chain.Block(actions...))
	w.Suppose(w, "", nil)
}

// browser is one person's.
type browser struct {
	*world
	*http.Client
}

func (w *world) browser() browser {
	jar, err := cookiejar.New(nil)
	if err != nil {
		w.Fatal(err)
	}
	client := *w.app.Client()
	client.Jar = jar
	return browser{w, &client}
}

// ask sends a form, or gets what is shown if there is none.
func (b browser) ask(path string, form url.Values) string {
	b.Helper()
	method := http.MethodGet
	if form != nil {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(b.Context(), method, b.app.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := b.Do(request)
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		b.Fatal(err)
	}
	return fmt.Sprint(response.StatusCode, " ", string(text))
}

// signIn signs in, and returns what the browser has sent.
func (b browser) signIn(p rpctest.Person) (answer string, sent url.Values) {
	b.Helper()
	text, ok := strings.CutPrefix(b.ask("/challenge", url.Values{"address": {p.Address}}), "200 ")
	if !ok {
		b.Fatal(text)
	}
	sent = url.Values{"signature": {p.Sign(b, text)}}
	return b.ask("/login", sent), sent
}

// await waits until a browser is shown something.
func (b browser) await(want string) {
	b.Helper()
	regtest.Await(b, func() string {
		if got := b.ask("/", nil); !strings.HasPrefix(got, want) {
			return fmt.Sprintf("expected %q, got %q", want, got)
		}
		return ""
	})
}

// TestSessionEnds signs in by a delegated key. Its parent revokes it, which is pending and goes
// again, and then is confirmed, and taken back by a reorganisation.
func TestSessionEnds(t *testing.T) {
	w := newWorld(t)
	child, root, stranger := w.browser(), w.browser(), w.browser()
	for who, b := range map[rpctest.Person]browser{w.child: child, w.root: root} {
		if answer, _ := b.signIn(who); answer != "200 signed in as "+w.root.Address+"\n" {
			t.Fatal(answer)
		}
		b.await("200 " + who.Address + " of account " + rpctest.HashOf("mlr").String())
	}
	stranger.await("401 nobody is signed in")

	w.Suppose(t, "", nil, w.root.Revokes("mcr", "mla"))
	child.await("403 suspended: the key is being revoked")
	if answer, _ := w.browser().signIn(w.child); answer != "401 this key is being revoked\n" {
		t.Errorf("signing in meanwhile: %s", answer)
	}
	w.Suppose(t, "", nil)
	child.await("200 ")

	w.Suppose(t, "", nil, w.root.Revokes("mcr", "mla"))
	child.await("403 ")
	w.block(w.root.Revokes("mcr", "mla"))
	child.await("401 nobody is signed in")
	root.await("200 ")

	// The block is taken back, and another comes in its place, without the revocation.
	w.Disconnect(t, 1)
	tip, _ := w.Graph.Tip()
	w.chain = rpctest.Chain{Next: tip.Height + 1, Prev: tip.Hash, Salt: "another "}
	w.block()
	child.await("401 nobody is signed in")
	if answer, _ := child.signIn(w.child); answer != "200 signed in as "+w.root.Address+"\n" {
		t.Errorf("signing in again: %s", answer)
	}
	child.await("200 ")

	w.Follower.Set(indexer.Status{Checked: true, Reason: "the node is away"})
	w.block(w.child.Asks("mlr2", w.root)) // which the app hears of
	child.await("503 ")
	w.Follower.Set(indexer.Status{Checked: true, Synced: true})
	w.block(w.child.Asks("mlr3", w.root))
	child.await("200 ")
}

// TestLogin has one try for a text, and takes it in the browser alone that it was given to.
func TestLogin(t *testing.T) {
	w := newWorld(t)
	one, other := w.browser(), w.browser()
	if answer := one.ask("/login", url.Values{"signature": {"x"}}); !strings.HasPrefix(answer, "401 ") {
		t.Errorf("without a text: %s", answer)
	}
	answer, sent := one.signIn(w.child)
	if !strings.HasPrefix(answer, "200 ") {
		t.Error(answer)
	}
	for name, b := range map[string]browser{"a second time": one, "in another browser": other} {
		if answer := b.ask("/login", sent); !strings.HasPrefix(answer, "401 ") {
			t.Errorf("%s: %s", name, answer)
		}
	}
	text, _ := strings.CutPrefix(other.ask("/challenge", url.Values{"address": {w.child.Address}}), "200 ")
	if answer := one.ask("/login", url.Values{"signature": {w.child.Sign(t, text)}}); !strings.HasPrefix(answer, "401 ") {
		t.Errorf("the other browser's text: %s", answer)
	}
	if answer := one.ask("/challenge", url.Values{"address": {"x"}}); !strings.HasPrefix(answer, "400 ") {
		t.Errorf("no address: %s", answer)
	}
}
