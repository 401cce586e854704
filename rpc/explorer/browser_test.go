package explorer_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer"
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
	Frames     []string
	Value      any
	Tab        struct {
		Private, Share, Resident, Scripts uint64 // bytes
		Nodes                             int
		Worked, From                      float64
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
	a.Problems = slices.DeleteFunc(a.Problems, func(problem string) bool { // an answer that is no 200 is one for the console
		return strings.HasPrefix(problem, "Failed to load resource: the server responded with a status of 4") || strings.HasPrefix(problem, "Failed to load resource: the server responded with a status of 503")
	})
	if len(a.Problems)+len(a.Violations) > 0 || a.Overflow > 0 {
		b.t.Errorf("%s: problems %q, violations %q, %d pixels too wide", what, a.Problems, a.Violations, a.Overflow)
	}
}

// path is a page in a state.
type path struct {
	name, path string
	failing    bool // it says what is wrong
}

// paths are those of every page in every state that a world with something of everything has.
func (w *world) paths() []path {
	identity, key, action := func(name string) string { return "/identity/" + txid(name) }, func(name string) string { return "/key/" + rpctest.Address(name) }, func(name string) string { return "/action/" + txid(name) }
	return []path{
		{"home", "/", false}, {"blocks", "/blocks", false}, {"block", "/block/6", false}, {"empty-block", "/block/0", false}, {"mempool", "/mempool", false}, {"status", "/status", false},
		{"keyservers", "/keyservers", false}, {"keyserver", "/keyserver/" + rpctest.Domain, false}, {"no-keyserver", "/keyserver/nothing.example", false}, {"chain", "/chain/" + w.genesis, false},
		{"anchor", "/anchor/" + w.genesis, false}, {"breaker", "/anchor/" + w.breaker, false},
		{"identity", identity("mlr1"), false}, {"identity-past", identity("mlr1") + "?at=5", false}, {"merged", identity("mcr1"), false}, {"before-merged", identity("mcr1") + "?at=5", false}, {"coming", identity("cut"), false},
		{"main-key", key("parent"), false}, {"key", key("grandchild"), false}, {"cut-key", key("child") + "?at=5", false}, {"cut-pending", key("child"), false}, {"never-linked", key("nobody"), false},
		{"request", action("mlr1"), false}, {"cut", action("mla1"), false}, {"revoke", action("mcr1"), false}, {"in-force", action("mla3"), false}, {"hostile", action("hostile"), false},
		{"refused", action("bad"), false}, {"waiting", action("early"), false}, {"pending", action("pending"), false},
		{"not-found", "/search?q=nonsense", true}, {"gone", "/key/" + rpctest.Address("child") + "?at=99", true},
	}
}

// steep is a server with an identity in which each of so many keys is below the one before, on an index that is behind,
// and with a keyserver whose domain is as long as can be.
func steep(t *testing.T, keys int) (*world, []path) {
	c := new(rpctest.Chain)
	var requests, accepts []links.Action
	for i := 1; i < keys; i++ {
		child, parent := fmt.Sprint("s", i), fmt.Sprint("s", i-1)
		requests, accepts = append(requests, rpctest.MLR("mlr "+child, child, parent, "")), append(accepts, rpctest.MLA("mla "+child, parent, "mlr "+child))
	}
	domain := strings.Repeat("w", 50) + ".xn--mgba"
	anchor := rpctest.AnchorOf(t, "s1", rpctest.Record(domain, 1<<62))
	w := &world{Rig: rpctest.New(t, c.Block(requests...), c.Block(accepts...), c.Anchored(t, nil, anchor)), chain: c}
	w.Follower.Set(indexer.Status{Checked: true, Reason: "the node does not answer"})
	key, id := "/key/"+rpctest.Address(fmt.Sprint("s", keys-1)), "/identity/"+w.id(t, "s0")
	return w, []path{
		{"truncated", key, false}, {"deep-identity", id, false}, {"deep-branch", id + "?below=" + rpctest.Address(fmt.Sprint("s", keys-2)), false},
		{"long-domain", "/keyserver/" + domain, false}, {"long-domain-anchor", "/anchor/" + rpctest.ID(anchor), false}, {"behind-status", "/status", false},
	}
}

// TestBrowser looks at every page in every state: narrow and dark; and, with KEYTREE_EXHAUSTIVE, wide and light, wide and
// dark, and narrow and light, where there are no scripts, but the same to read. With KEYTREE_PICTURES, the name of a
// folder, it leaves pictures of all that there.
func TestBrowser(t *testing.T) {
	w := newWorld(t)
	b := startBrowser(t, w.URL)
	b.look(w.paths())
	deep, paths := steep(t, 120)
	b.url = deep.URL
	b.look(paths)
	none := rpctest.New(t)
	b.url = none.URL
	b.look([]path{{"nothing-home", "/", false}, {"nothing-blocks", "/blocks", false}, {"nothing-mempool", "/mempool", true}, {"nothing-status", "/status", false}, {"nothing-block", "/block/0", true}})
}

func (b *browser) look(paths []path) {
	b.t.Helper()
	pictures := os.Getenv("KEYTREE_PICTURES")
	views := []order{{"width": 360, "dark": true}, {"width": 1280}, {"width": 1280, "dark": true}, {"width": 360, "scripts": false}}
	if pictures == "" && os.Getenv("KEYTREE_EXHAUSTIVE") == "" {
		views = views[:1]
	}
	read := make(map[string]string)
	for i, view := range views { // one after the other: another view is another window
		for _, p := range paths {
			a := b.open(p.path, view)
			if p.failing != (a.Status >= 400) {
				b.t.Errorf("%s: status %d", p.name, a.Status)
			}
			text := strings.ReplaceAll(b.do("text", nil).Text, "−", "") // what closes a branch
			if read[p.name] == "" {
				read[p.name] = text
			}
			if view["scripts"] == nil {
				b.sound(fmt.Sprint(p.name, " ", view), true)
			} else if read[p.name] != text || text == "" {
				b.t.Errorf("%s is without scripts\n%s\nand with them\n%s", p.name, text, read[p.name])
			}
			if pictures != "" {
				b.do("picture", order{"file": filepath.Join(pictures, fmt.Sprint(p.name, "-", i, ".png"))})
			}
		}
	}
}

// TestBrowserNoScripts goes through time and down a tree with links and forms alone.
func TestBrowserNoScripts(t *testing.T) {
	w := newWorld(t)
	b := startBrowser(t, w.URL)
	b.open("/identity/"+txid("mlr1"), order{"scripts": false})
	b.do("fill", order{"selector": "form.slider input", "text": "5"})
	b.do("click", order{"selector": "form.slider button"})
	b.do("wait", order{"selector": "main", "text": "1 key."})
	b.do("click", order{"selector": "a[rel=next]"})
	b.do("wait", order{"selector": "main", "text": "You look at what was so after block 6"})
	b.do("click", order{"selector": ".notice.past a"})
	b.do("wait", order{"selector": "main:not(:has(.past))", "text": "3 keys."})
	b.do("fill", order{"selector": "#q", "text": rpctest.Address("grandchild")})
	b.do("click", order{"selector": "header button"})
	b.do("wait", order{"selector": "main", "text": "2 links below its main key"})
	b.do("fill", order{"selector": "#at", "text": "3"})
	b.do("click", order{"selector": "main form button"})
	b.do("wait", order{"selector": "main", "text": "You look at what was so after block 3"})

	w = grown(t)
	b.url = w.URL
	b.open("/identity/"+w.id(t, "k0"), order{"scripts": false})
	b.do("click", order{"selector": ".tree a.open"})
	b.do("wait", order{"selector": "#tree .way"})
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

	// The link that is in the address bar now opens the same branches elsewhere, and as of another block.
	at := b.do("text", nil).URL
	if !strings.Contains(at, "#open="+rpctest.Address("k")[:7]) {
		t.Errorf("the address is %s", at)
	}
	b.open(strings.TrimPrefix(at, w.URL), order{"fresh": true})
	b.do("wait", order{"selector": ".tree ul ul li"})
	if again := b.do("count", order{"selector": ".tree li"}).Count; again != after {
		t.Errorf("%d keys are drawn where the link leads, %d where it was taken", again, after)
	}
	b.open("/identity/"+w.id(t, "k0")+"#open=%,</script>,,", order{"fresh": true})
	b.sound("a link with nonsense", true)
}

// TestBrowserTime moves the slider, and expects the page as of that block, an address that can be shared, and
// the same page at that address.
func TestBrowserTime(t *testing.T) {
	w := newWorld(t)
	b := startBrowser(t, w.URL)
	b.open("/identity/"+txid("mlr1"), nil)
	b.do("wait", order{"text": "3 keys."})
	b.do("evaluate", order{"script": `(document.querySelector("#slide").focus(), window.slider = document.querySelector("#slide"), 0)`})
	b.do("press", order{"keys": []string{"ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft"}})
	b.do("wait", order{"text": "1 key."})
	b.do("wait", order{"text": "You look at what was so after block 5"})
	b.do("wait", order{"selector": `#slide[aria-valuetext="Block 5. From block 5 on: 1 key"]`})
	if same := b.do("evaluate", order{"script": `document.querySelector("#slide") === window.slider && document.activeElement === window.slider`}); same.Value != true {
		t.Error("the slider was taken away from who moves it")
	}
	b.do("press", order{"keys": []string{"End"}})
	b.do("wait", order{"text": "3 keys."})
	b.do("fill", order{"selector": "input[type=range]", "text": "5"})
	b.do("wait", order{"text": "1 key."})
	b.do("wait", order{"text": "You look at what was so after block 5"})
	b.do("until", order{"script": `location.search === "?at=5"`})
	got := b.do("text", nil)
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

// TestBrowserTakenOff looks at what the last block brought, while that is taken off the chain and comes back.
func TestBrowserTakenOff(t *testing.T) {
	w := newWorld(t)
	b := startBrowser(t, w.URL)
	block := w.chain.Block(rpctest.MLR("new", "newcomer", "host", ""), rpctest.MLA("take", "host", "new"))
	for path, before := range map[string]string{"/action/" + txid("take"): "The link is in force", "/identity/" + txid("new"): "2 keys.", "/key/" + rpctest.Address("newcomer"): "directly below its main key", "/block/10": "is named identity"} {
		w.Connect(t, block)
		b.open(path, order{"fresh": true})
		b.do("wait", order{"selector": "main", "text": before})
		b.do("wait", order{"selector": "html[data-following]"})
		w.Disconnect(t, 1)
		b.do("wait", order{"selector": "#news", "text": "taken off the chain"})
		if after := "Nothing found"; strings.HasPrefix(path, "/key") {
			b.do("wait", order{"selector": "main", "text": "never in a link"})
		} else {
			b.do("wait", order{"selector": "main", "text": after})
		}
		w.Connect(t, block)
		b.do("wait", order{"selector": "#news", "text": "has come"})
		b.do("wait", order{"selector": "main", "text": before})
		w.Disconnect(t, 1)
	}
}
