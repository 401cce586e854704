package explorer_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/rpc/explorer/browser"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

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
	b := browser.Start(t, "browser", w.URL)
	look(t, b, w.paths())
	deep, paths := steep(t, 120)
	b.URL = deep.URL
	look(t, b, paths)
	none := rpctest.New(t)
	b.URL = none.URL
	look(t, b, []path{{"nothing-home", "/", false}, {"nothing-blocks", "/blocks", false}, {"nothing-mempool", "/mempool", true}, {"nothing-status", "/status", false}, {"nothing-block", "/block/0", true}})
}

func look(t *testing.T, b *browser.Browser, paths []path) {
	t.Helper()
	pictures := os.Getenv("KEYTREE_PICTURES")
	views := []browser.Order{{"width": 360, "dark": true}, {"width": 1280}, {"width": 1280, "dark": true}, {"width": 360, "scripts": false}}
	if pictures == "" && os.Getenv("KEYTREE_EXHAUSTIVE") == "" {
		views = views[:1]
	}
	read := make(map[string]string)
	for i, view := range views { // one after the other: another view is another window
		for _, p := range paths {
			a := b.Open(p.path, view)
			if p.failing != (a.Status >= 400) {
				t.Errorf("%s: status %d", p.name, a.Status)
			}
			text := strings.ReplaceAll(b.Do("text", nil).Text, "−", "") // what closes a branch
			if read[p.name] == "" {
				read[p.name] = text
			}
			if view["scripts"] == nil {
				b.Sound(fmt.Sprint(p.name, " ", view), true)
			} else if read[p.name] != text || text == "" {
				t.Errorf("%s is without scripts\n%s\nand with them\n%s", p.name, text, read[p.name])
			}
			if pictures != "" {
				b.Do("picture", browser.Order{"file": filepath.Join(pictures, fmt.Sprint(p.name, "-", i, ".png"))})
			}
		}
	}
}

// TestBrowserNoScripts goes through time and down a tree with links and forms alone.
func TestBrowserNoScripts(t *testing.T) {
	w := newWorld(t)
	b := browser.Start(t, "browser", w.URL)
	b.Open("/identity/"+txid("mlr1"), browser.Order{"scripts": false})
	b.Do("fill", browser.Order{"selector": "form.slider input", "text": "5"})
	b.Do("click", browser.Order{"selector": "form.slider button"})
	b.Do("wait", browser.Order{"selector": "main", "text": "1 key."})
	b.Do("click", browser.Order{"selector": "a[rel=next]"})
	b.Do("wait", browser.Order{"selector": "main", "text": "You look at what was so after block 6"})
	b.Do("click", browser.Order{"selector": ".notice.past a"})
	b.Do("wait", browser.Order{"selector": "main:not(:has(.past))", "text": "3 keys."})
	b.Do("fill", browser.Order{"selector": "#q", "text": rpctest.Address("grandchild")})
	b.Do("click", browser.Order{"selector": "header button"})
	b.Do("wait", browser.Order{"selector": "main", "text": "2 links below its main key"})
	b.Do("fill", browser.Order{"selector": "#at", "text": "3"})
	b.Do("click", browser.Order{"selector": "main form button"})
	b.Do("wait", browser.Order{"selector": "main", "text": "You look at what was so after block 3"})

	w = grown(t)
	b.URL = w.URL
	b.Open("/identity/"+w.id(t, "k0"), browser.Order{"scripts": false})
	b.Do("click", browser.Order{"selector": ".tree a.open"})
	b.Do("wait", browser.Order{"selector": "#tree .way"})
}

// TestBrowserTree opens a branch of a large tree in place, closes it, and does both by keyboard.
func TestBrowserTree(t *testing.T) {
	w := grown(t)
	b := browser.Start(t, "browser", w.URL)
	b.Open("/identity/"+w.id(t, "k0"), nil)
	before := b.Do("count", browser.Order{"selector": ".tree li"}).Count
	b.Do("click", browser.Order{"selector": ".tree a.open"})
	b.Do("wait", browser.Order{"selector": ".tree ul ul li"})
	after := b.Do("count", browser.Order{"selector": ".tree li"}).Count
	if after <= before {
		t.Errorf("%d keys are drawn after a branch was opened, %d before", after, before)
	}
	if focused := b.Do("focused", nil).Text; !strings.Contains(focused, `aria-expanded="true"`) {
		t.Errorf("after opening, the focus is on %s", focused)
	}
	b.Do("press", browser.Order{"keys": []string{"Enter"}})
	if visible := b.Do("count", browser.Order{"selector": ".tree ul ul li:visible"}).Count; visible != 0 {
		t.Errorf("%d keys are to be seen below what is closed", visible)
	}
	b.Sound("tree", true)

	// The link that is in the address bar now opens the same branches elsewhere, and as of another block.
	at := b.Do("text", nil).URL
	if !strings.Contains(at, "#open="+rpctest.Address("k")[:7]) {
		t.Errorf("the address is %s", at)
	}
	b.Open(strings.TrimPrefix(at, w.URL), browser.Order{"fresh": true})
	b.Do("wait", browser.Order{"selector": ".tree ul ul li"})
	if again := b.Do("count", browser.Order{"selector": ".tree li"}).Count; again != after {
		t.Errorf("%d keys are drawn where the link leads, %d where it was taken", again, after)
	}
	b.Open("/identity/"+w.id(t, "k0")+"#open=%,</script>,,", browser.Order{"fresh": true})
	b.Sound("a link with nonsense", true)
}

// TestBrowserTime moves the slider, and expects the page as of that block, an address that can be shared, and
// the same page at that address.
func TestBrowserTime(t *testing.T) {
	w := newWorld(t)
	b := browser.Start(t, "browser", w.URL)
	b.Open("/identity/"+txid("mlr1"), nil)
	b.Do("wait", browser.Order{"text": "3 keys."})
	b.Do("evaluate", browser.Order{"script": `(document.querySelector("#slide").focus(), window.slider = document.querySelector("#slide"), 0)`})
	b.Do("press", browser.Order{"keys": []string{"ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowLeft"}})
	b.Do("wait", browser.Order{"text": "1 key."})
	b.Do("wait", browser.Order{"text": "You look at what was so after block 5"})
	b.Do("wait", browser.Order{"selector": `#slide[aria-valuetext="Block 5. From block 5 on: 1 key"]`})
	if same := b.Do("evaluate", browser.Order{"script": `document.querySelector("#slide") === window.slider && document.activeElement === window.slider`}); same.Value != true {
		t.Error("the slider was taken away from who moves it")
	}
	b.Do("press", browser.Order{"keys": []string{"End"}})
	b.Do("wait", browser.Order{"text": "3 keys."})
	b.Do("fill", browser.Order{"selector": "input[type=range]", "text": "5"})
	b.Do("wait", browser.Order{"text": "1 key."})
	b.Do("wait", browser.Order{"text": "You look at what was so after block 5"})
	b.Do("until", browser.Order{"script": `location.search === "?at=5"`})
	got := b.Do("text", nil)
	b.Sound("slider", true)
	b.Open(strings.TrimPrefix(got.URL, w.URL), nil)
	if again := b.Do("text", nil); again.Text != got.Text {
		t.Errorf("shared, the page says\n%s\nfirst it said\n%s", again.Text, got.Text)
	}
	b.Do("click", browser.Order{"selector": "a[rel=next]"})
	b.Do("wait", browser.Order{"text": "after block 6"})
}

// TestBrowserLive follows an identity's page while blocks come and go, and something is pending.
func TestBrowserLive(t *testing.T) {
	w := newWorld(t)
	b := browser.Start(t, "browser", w.URL)
	b.Open("/identity/"+txid("mlr1"), nil)
	b.Do("wait", browser.Order{"selector": "main", "text": "3 keys."})
	b.Do("wait", browser.Order{"selector": "html[data-following]"})

	w.Connect(t, w.chain.Block(rpctest.MCR("cut", "parent", "mla3")))
	b.Do("wait", browser.Order{"selector": "main", "text": "1 key."})
	b.Do("wait", browser.Order{"selector": "#news", "text": "Block 10 has come."})

	w.Disconnect(t, 1)
	b.Do("wait", browser.Order{"selector": "#news", "text": "taken off the chain"})
	b.Do("wait", browser.Order{"selector": "main", "text": "3 keys."})

	w.Suppose(t, "", nil, rpctest.MCR("another cut", "parent", "mla3"))
	b.Do("wait", browser.Order{"selector": "main", "text": "would leave"})
	b.Sound("live", true)

	// What is looked at as of a block stays as it is.
	b.Open("/identity/"+txid("mlr1")+"?at=5", nil)
	if n := b.Do("count", browser.Order{"selector": "main[data-live]"}).Count; n != 0 {
		t.Error("a page of the past follows the chain")
	}
}

// TestBrowserTakenOff looks at what the last block brought, while that is taken off the chain and comes back.
func TestBrowserTakenOff(t *testing.T) {
	w := newWorld(t)
	b := browser.Start(t, "browser", w.URL)
	block := w.chain.Block(rpctest.MLR("new", "newcomer", "host", ""), rpctest.MLA("take", "host", "new"))
	for path, before := range map[string]string{"/action/" + txid("take"): "The link is in force", "/identity/" + txid("new"): "2 keys.", "/key/" + rpctest.Address("newcomer"): "directly below its main key", "/block/10": "is named identity"} {
		w.Connect(t, block)
		b.Open(path, browser.Order{"fresh": true})
		b.Do("wait", browser.Order{"selector": "main", "text": before})
		b.Do("wait", browser.Order{"selector": "html[data-following]"})
		w.Disconnect(t, 1)
		b.Do("wait", browser.Order{"selector": "#news", "text": "taken off the chain"})
		if after := "Nothing found"; strings.HasPrefix(path, "/key") {
			b.Do("wait", browser.Order{"selector": "main", "text": "never in a link"})
		} else {
			b.Do("wait", browser.Order{"selector": "main", "text": after})
		}
		w.Connect(t, block)
		b.Do("wait", browser.Order{"selector": "#news", "text": "has come"})
		b.Do("wait", browser.Order{"selector": "main", "text": before})
		w.Disconnect(t, 1)
	}
}
