package explorer_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// clientsEnv is the variable that says that no program is missing that tests need beside Go:
// .ci/run has installed them.
const clientsEnv = "KEYTREE_CLIENTS"

// browser is a real one, for one goroutine.
type browser struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
	url string
}

// startBrowser skips the test where there is no Chromium or no Node, or npm ci was not run.
func startBrowser(t *testing.T, url string) *browser {
	t.Helper()
	if testing.Short() {
		t.Skip("a browser takes long, and has nothing to do with races")
	}
	node, err := exec.LookPath("node")
	var chromium string
	if err == nil {
		chromium, err = exec.LookPath("chromium")
	}
	if err == nil {
		_, err = os.Stat("browser/node_modules/playwright-core")
	}
	if err != nil && os.Getenv(clientsEnv) != "" {
		t.Fatalf("%s is set, but: %v", clientsEnv, err)
	}
	if err != nil {
		t.Skipf("%v; .ci/run installs Node and Chromium, and runs npm ci in browser", err)
	}
	cmd := exec.CommandContext(t.Context(), node, "browser.mjs", chromium)
	cmd.Dir, cmd.Stderr = "browser", os.Stderr
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	for _, err := range []error{inErr, outErr, cmd.Start()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	return &browser{t, in, lines, url}
}

// answer is what the browser says after an order.
type answer struct {
	Failed     string
	Status     int
	Problems   []string
	Violations []string
	Overflow   int
	Text, URL  string
	Count      int
	Value      any
	Tab        struct {
		Private, Share, Resident, Scripts uint64 // bytes
		Nodes                             int
		Seconds                           float64
	}
}

// order is an order with its fields.
type order map[string]any

// do gives an order, which has to succeed.
func (b *browser) do(what string, fields order) answer {
	b.t.Helper()
	all := order{"do": what}
	for name, value := range fields {
		all[name] = value
	}
	line, err := json.Marshal(all)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.in.Write(append(line, '\n')); err != nil {
		b.t.Fatal(err)
	}
	if !b.out.Scan() {
		b.t.Fatalf("the browser ended: %v", b.out.Err())
	}
	var a answer
	if err := json.Unmarshal(b.out.Bytes(), &a); err != nil {
		b.t.Fatal(err)
	}
	if a.Failed != "" {
		b.t.Fatalf("%v: %s", all, a.Failed)
	}
	return a
}

func (b *browser) open(path string, fields order) answer {
	b.t.Helper()
	all := order{"url": b.url + path}
	for name, value := range fields {
		all[name] = value
	}
	return b.do("open", all)
}

// sound fails the test if something is wrong with the page as it is.
func (b *browser) sound(what string, accessibility bool) {
	b.t.Helper()
	a := b.do("check", order{"accessibility": accessibility})
	if len(a.Problems)+len(a.Violations) > 0 || a.Overflow > 0 {
		b.t.Errorf("%s: problems %q, violations %q, %d pixels too wide", what, a.Problems, a.Violations, a.Overflow)
	}
}

// paths are those of every page in every state.
func (w *world) paths() map[string]string {
	return map[string]string{
		"home": "/", "blocks": "/blocks", "block": "/block/6", "empty-block": "/block/0", "mempool": "/mempool", "keyservers": "/keyservers",
		"keyserver": "/keyserver/" + rpctest.Domain, "chain": "/chain/" + w.genesis, "anchor": "/anchor/" + w.genesis, "breaker": "/anchor/" + w.breaker, "status": "/status",
		"identity": "/identity/" + txid("mlr1"), "identity-past": "/identity/" + txid("mlr1") + "?at=5", "merged": "/identity/" + txid("mcr1"), "coming": "/identity/" + txid("cut"),
		"main-key": "/key/" + rpctest.Address("parent"), "key": "/key/" + rpctest.Address("grandchild"), "cut-pending": "/key/" + rpctest.Address("child"), "never-linked": "/key/" + rpctest.Address("nobody"),
		"request": "/action/" + txid("mlr1"), "hostile": "/action/" + txid("hostile"), "refused": "/action/" + txid("bad"), "waiting": "/action/" + txid("early"), "pending": "/action/" + txid("pending"),
		"not-found": "/search?q=nonsense", "gone": "/key/" + rpctest.Address("child") + "?at=99",
	}
}

// TestBrowser looks at every page in every state: narrow and dark; and, with KEYTREE_EXHAUSTIVE, wide and light, and without
// scripts, too. With KEYTREE_PICTURES, the name of a folder, it leaves pictures of all that there.
func TestBrowser(t *testing.T) {
	w := newWorld(t)
	b := startBrowser(t, w.URL)
	pictures := os.Getenv("KEYTREE_PICTURES")
	for name, path := range w.paths() {
		views := []order{{"width": 360, "dark": true}, {"width": 1200}, {"width": 360, "scripts": false}}
		if pictures == "" && os.Getenv("KEYTREE_EXHAUSTIVE") == "" {
			views = views[:1]
		}
		for i, view := range views {
			a := b.open(path, view)
			failing := name == "not-found" || name == "gone"
			if failing != (a.Status >= 400) {
				t.Errorf("%s: status %d", name, a.Status)
			}
			if scripts, _ := view["scripts"].(bool); !failing && (scripts || view["scripts"] == nil) {
				b.sound(fmt.Sprint(name, " ", view), true)
			} else if !failing && b.do("text", nil).Text == "" {
				t.Errorf("%s is empty without scripts", name)
			}
			if pictures != "" {
				b.do("picture", order{"file": filepath.Join(pictures, fmt.Sprint(name, "-", i, ".png"))})
			}
		}
	}
}

// TestBrowserTree opens a branch of a large tree in place, closes it, and does both by keyboard.
func TestBrowserTree(t *testing.T) {
	w := grown(t)
	b := startBrowser(t, w.URL)
	b.open("/identity/"+w.id(t, "k0"), nil)
	before := b.do("count", order{"selector": ".tree li"}).Count
	b.do("click", order{"selector": ".tree a.open"})
	b.do("wait", order{"selector": ".tree ul ul li"})
	after := b.do("count", order{"selector": ".tree li"}).Count
	if after <= before {
		t.Errorf("%d keys are drawn after a branch was opened, %d before", after, before)
	}
	if focused := b.do("focused", nil).Text; !strings.Contains(focused, `aria-expanded="true"`) {
		t.Errorf("after opening, the focus is on %s", focused)
	}
	b.do("press", order{"keys": []string{"Enter"}})
	if visible := b.do("count", order{"selector": ".tree ul ul li:visible"}).Count; visible != 0 {
		t.Errorf("%d keys are to be seen below what is closed", visible)
	}
	b.sound("tree", true)
}

// TestBrowserTime moves the slider, and expects the page as of that block, an address that can be shared, and
// the same page at that address.
func TestBrowserTime(t *testing.T) {
	w := newWorld(t)
	b := startBrowser(t, w.URL)
	b.open("/identity/"+txid("mlr1"), nil)
	b.do("wait", order{"text": "3 keys."})
	b.do("fill", order{"selector": "input[type=range]", "text": "5"})
	b.do("wait", order{"text": "1 key."})
	b.do("wait", order{"text": "You look at what was so after block 5"})
	got := b.do("text", nil)
	if !strings.HasSuffix(got.URL, "?at=5") {
		t.Errorf("the address is %s", got.URL)
	}
	b.sound("slider", true)
	b.open(strings.TrimPrefix(got.URL, w.URL), nil)
	if again := b.do("text", nil); again.Text != got.Text {
		t.Errorf("shared, the page says\n%s\nfirst it said\n%s", again.Text, got.Text)
	}
	b.do("click", order{"selector": "a[rel=next]"})
	b.do("wait", order{"text": "after block 6"})
}

// TestBrowserLive follows an identity's page while blocks come and go, and something is pending.
func TestBrowserLive(t *testing.T) {
	w := newWorld(t)
	b := startBrowser(t, w.URL)
	b.open("/identity/"+txid("mlr1"), nil)
	b.do("wait", order{"selector": "main", "text": "3 keys."})
	b.do("wait", order{"selector": "html[data-following]"})

	w.Connect(t, w.chain.Block(rpctest.MCR("cut", "parent", "mla3")))
	b.do("wait", order{"selector": "main", "text": "1 key."})
	b.do("wait", order{"selector": "#news", "text": "Block 10 has come."})

	w.Disconnect(t, 1)
	b.do("wait", order{"selector": "#news", "text": "taken off the chain"})
	b.do("wait", order{"selector": "main", "text": "3 keys."})

	w.Suppose(t, "", nil, rpctest.MCR("another cut", "parent", "mla3"))
	b.do("wait", order{"selector": "main", "text": "would leave"})
	b.sound("live", true)

	// What is looked at as of a block stays as it is.
	b.open("/identity/"+txid("mlr1")+"?at=5", nil)
	if n := b.do("count", order{"selector": "main[data-live]"}).Count; n != 0 {
		t.Error("a page of the past follows the chain")
	}
}
