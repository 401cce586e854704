package connect_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/rpc/explorer/browser"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// driver is the folder of package browser.
const driver = "../explorer/browser"

// TestBrowser looks at the pages in each state, narrow and dark; with KEYTREE_EXHAUSTIVE wide and light too, and without
// scripts. With KEYTREE_PICTURES, the name of a folder, it leaves pictures of all that there.
func TestBrowser(t *testing.T) {
	r := newWorld(t)
	b := browser.Start(t, driver, r.URL)
	pictures := os.Getenv("KEYTREE_PICTURES")
	views := []browser.Order{{"width": 360, "dark": true}, {"width": 1280}, {"width": 1280, "dark": true}, {"width": 360, "scripts": false}}
	if pictures == "" && os.Getenv("KEYTREE_EXHAUSTIVE") == "" {
		views = views[:1]
	}
	for i, view := range views {
		for name, path := range map[string]string{
			"ask": asking("/connect", "request", txid("open")), "brings": asking("/connect", "request", txid("brings")), "imitates": asking("/connect", "request", txid("imitates")),
			"sent": asking("/connect", "request", txid("quick")), "done": asking("/connect", "request", txid("mlr2")), "over": asking("/connect", "request", txid("mlr1")),
			"refused": asking("/connect", "request", txid("bad")), "unknown": asking("/connect", "request", txid("nothing")), "wrong": "/connect?request=" + txid("open") + "&redirect_uri=https://memo.cash@evil.com/",
			"nowhere": "/connect?request=" + txid("open"), "revoke": asking("/connect/revoke", "accept", txid("mla2")), "revoked": asking("/connect/revoke", "accept", txid("mla1")),
		} {
			b.Open(path, view)
			if b.Sound(fmt.Sprint(name, " ", view), view["scripts"] == nil); pictures != "" {
				b.Do("picture", browser.Order{"file": filepath.Join(pictures, fmt.Sprint("connect-", name, "-", i, ".png"))})
			}
		}
	}
}

// TestBrowserImitation opens a request whose message imitates the page: it stays a text that is marked as a stranger's.
func TestBrowserImitation(t *testing.T) {
	c := new(rpctest.Chain)
	messages := []string{
		`</span></dd></dl><p><a class="button go" href="https://evil.example">Go back to memo.cash</a></p>`,
		`<img src=https://evil.example/x onerror=alert(1)>`, `memo.cash" (verified). Accept it.`, "memo.cash\u202e)deifirev( \u2066",
		"\n\n\n\nThe key speaks in your name", strings.Repeat("memo.cash ", 100), "{{.Problem}}<!--",
	}
	var names []string
	blocks := []graph.Block{c.Block()}
	for i, message := range messages {
		names = append(names, fmt.Sprint("imitation ", i))
		blocks = append(blocks, c.Block(rpctest.MLR(names[i], fmt.Sprint("imitator ", i), "victim", message)))
	}
	r := rpctest.New(t, blocks...)
	b := browser.Start(t, driver, r.URL)
	for _, name := range names {
		b.Open(asking("/connect", "request", txid(name)), browser.Order{"width": 360})
		b.Sound(name, false)
		got := b.Do("evaluate", browser.Order{"script": `JSON.stringify([
			document.querySelectorAll("main img, main script, main a.go, main a[href*=evil]").length,
			document.querySelectorAll("main .button").length,
			[...document.querySelectorAll(".says")].every((one) => /^It calls itself "[ -~]{1,40}" \(unverified\)\. Anybody can write that; nobody has checked it\.$/.test(one.textContent)),
			document.querySelector("h1").textContent])`}).Value
		if want := `[0,1,true,"A key asks to speak in your name"]`; got != want {
			t.Errorf("%s: %v, want %s", name, got, want)
		}
	}
}

// TestBrowserOtherOrigin has a page of another origin frame the pages, read them, open them, and send for others: it gets
// nothing. A page leads nowhere by itself, and what its address says runs nowhere.
func TestBrowserOtherOrigin(t *testing.T) {
	r := newWorld(t)
	ours := r.URL + asking("/connect", "request", txid("mlr2"))
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		if request.URL.Path == "/frames" {
			fmt.Fprintf(w, `<title>evil</title><iframe src="%s"></iframe><iframe sandbox="allow-scripts allow-same-origin" src="%s/connect/revoke?accept=%s"></iframe><object data="%s"></object>`, ours, r.URL, txid("mla2"), ours)
			return
		}
		fmt.Fprint(w, `<title>evil</title>`)
	}))
	t.Cleanup(evil.Close)
	b := browser.Start(t, driver, evil.URL)
	b.Open("/frames", browser.Order{"fresh": true})
	frames := b.Do("frames", nil).Frames
	if len(frames) < 2 {
		t.Errorf("only %d frames were tried: %q", len(frames), frames)
	}
	for _, frame := range frames {
		// A blocked one shows the browser's own page, or nothing.
		if !strings.HasPrefix(frame, "chrome-error://") && strings.TrimSpace(frame) != "" {
			t.Errorf("a page is in a frame of another origin: %s", frame)
		}
	}
	b.Open("/reads", browser.Order{"fresh": true})
	got := b.Do("evaluate", browser.Order{"script": fmt.Sprintf(`(async () => {
		const out = [];
		for (const init of [{}, { credentials: "include" }, { method: "POST", body: "x" }]) out.push(await fetch(%[1]q, init).then((r) => "read " + r.type, () => "refused"));
		out.push(await import(%[2]q).then(() => "ran", () => "refused"));
		const opened = window.open(%[1]q);
		let tries = 0;
		while (opened && !opened.closed && tries++ < 200) await new Promise((done) => setTimeout(done, 50)); // cut off when the page has come
		out.push(opened === null || opened.closed ? "cut off" : "held");
		return out.join(", "); })()`, ours, r.URL+"/connect/files/connect.js")}).Value
	if want := "refused, refused, refused, refused, cut off"; got != want {
		t.Errorf("a page of another origin got %v, want %s", got, want)
	}

	b.URL = r.URL
	for _, target := range []string{"javascript:alert(1)", "https://memo.cash@evil.example/", "//evil.example", `https://memo.cash\.evil.example`, "http://evil.example/", `https://memo.cash/"onclick="alert(1)`, "data:text/html,<script>alert(1)</script>"} {
		b.Open("/connect?request="+txid("mlr2")+"&redirect_uri="+strings.NewReplacer("\\", "%5C", `"`, "%22", "<", "%3C", ">", "%3E", "#", "%23").Replace(target), browser.Order{"fresh": true})
		b.Sound(target, false)
		if n := b.Do("count", browser.Order{"selector": "main a[href*='evil'], main a[href^='javascript'], main a[href^='data'], main [onclick]"}).Count; n > 0 {
			t.Errorf("%s: there are %d links that must not be", target, n)
		}
	}
	b.Open(asking("/connect", "request", txid("mlr2")), browser.Order{"fresh": true})
	b.Do("until", browser.Order{"script": `document.documentElement.dataset.following === ""`})
	if at := b.Do("text", nil).URL; !strings.HasPrefix(at, r.URL) {
		t.Errorf("a page that is done has led to %s by itself", at)
	}
}
