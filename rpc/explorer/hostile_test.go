package explorer_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/rpc/explorer/browser"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// messages are what strangers may write, and what of it has to be seen.
var messages = map[string][2]string{
	"markup":    {`</bdi></q></p><img src=x onerror=alert(1)><script>alert(2)</script><a href="javascript:alert(3)">x</a>`, `<img src=x onerror=alert(1)>`},
	"template":  {`{{.Network}} ${alert(1)} <!--`, `{{.Network}} ${alert(1)} <!--`},
	"turned":    {"\u202eevissop\u202c \u2066a\u2069 \u200f", "⟨202E⟩evissop⟨202C⟩"},
	"unseen":    {"pay\u200b\u2060\ufeffpal \x1b[31m\x00", "pay⟨200B⟩⟨2060⟩⟨FEFF⟩pal ⟨001B⟩"},
	"stacked":   {"z" + strings.Repeat("\u0351", 90), "⟨0351⟩"},
	"not UTF-8": {"\xff\xfe\xc0\x80 end", "end"},
	"wide":      {strings.Repeat("W", 300), "WWW"},
	"long":      {strings.Repeat("spam ", 20_000), "spam"},
	"lines":     {strings.Repeat("\n", 50) + "below\u2028\u2029", "below⟨2028⟩⟨2029⟩"},
}

// TestBrowserHostile reads what strangers wrote wherever a page shows it: nothing of it runs, is fetched, turns
// around what is beside it, or makes the page wider; and it is marked as theirs.
func TestBrowserHostile(t *testing.T) {
	chain := new(rpctest.Chain)
	var requests, pending []links.Action
	for name, message := range messages {
		requests = append(requests, rpctest.MLR(name, name, "victim", message[0]))
		pending = append(pending, rpctest.MLR("pending "+name, name, "victim", message[0]))
	}
	w := &world{Rig: rpctest.New(t, chain.Block(requests...)), chain: chain}
	w.Suppose(t, "", nil, pending...)
	b := browser.Start(t, "browser", w.URL)
	paths := []string{"/key/" + rpctest.Address("victim"), "/mempool"}
	for name := range messages {
		paths = append(paths, "/action/"+txid(name))
	}
	for _, path := range paths {
		b.Open(path, browser.Order{"width": 360})
		b.Sound(path, len(path) < 60) // what is checked of one action is checked of all
		got := b.Do("evaluate", browser.Order{"script": `JSON.stringify({
			strange: document.querySelectorAll("main script, main img, main iframe, main [onerror], a[href^='javascript:']").length,
			marked: [...document.querySelectorAll("q.theirs")].every((q) => q.querySelector("bdi") && q.closest(".says").textContent.startsWith("It says of itself, and nobody checked it")),
			most: Math.max(...[...document.querySelectorAll("q.theirs")].map((q) => q.textContent.length)),
			turned: /[\u202a-\u202e\u2066-\u2069\u200e\u200f\u2028\u2029]/.test(document.documentElement.innerHTML) })`}).Value.(string)
		var strange, most int
		var marked, turned bool
		if _, err := fmt.Sscanf(got, `{"strange":%d,"marked":%t,"most":%d,"turned":%t}`, &strange, &marked, &most, &turned); err != nil || strange > 0 || !marked || turned || most > 1500 {
			t.Errorf("%s: %s, %v", path, got, err)
		}
	}
	for name, message := range messages {
		if _, text := w.get(t, "/action/"+txid(name)); !strings.Contains(text, message[1]) {
			t.Errorf("%s: %q is not to be seen in %s", name, message[1], text)
		}
	}
	for _, domain := range []string{`"><img src=x onerror=alert(1)>`, "\u202emoc.elpmaxe", "a b", "\xff\xfe.example", strings.Repeat("a.", 5000) + "example", "..", "javascript:alert(1)"} {
		for _, path := range []string{"/keyserver/" + url.PathEscape(domain), "/keyservers?domain=" + url.QueryEscape(domain), "/search?q=" + url.QueryEscape(domain)} {
			b.Open(path, browser.Order{"width": 360})
			b.Sound(path, false)
			if n := b.Do("count", browser.Order{"selector": "main script, main img, a[href^='javascript:']"}).Count; n > 0 {
				t.Errorf("%.60q brings %d strange elements", path, n)
			}
		}
	}
}

// TestBrowserOtherOrigin visits a page of another origin that frames pages of ours, opens them in windows, reads them,
// uses them as scripts, and sends them forms: it gets nothing.
func TestBrowserOtherOrigin(t *testing.T) {
	w := newWorld(t)
	b := browser.Start(t, "browser", w.URL)
	evil := http.NewServeMux()
	ours := w.URL + "/identity/" + txid("mlr1")
	evil.HandleFunc("/frames", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(rw, `<title>evil</title><iframe src="%s"></iframe><iframe src="%s/"></iframe><object data="%s/mempool"></object><embed src="%s/explorer/icon.svg">`, ours, w.URL, w.URL, w.URL)
	})
	evil.HandleFunc("/reads", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/html")
		fmt.Fprint(rw, `<title>evil</title><p>reads`)
	})
	evil.HandleFunc("/sends", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(rw, `<title>evil</title><form method="post" action="%s/search"><input name="q" value="x"><button>Send</button></form>`, w.URL)
	})
	server := httptest.NewServer(evil)
	defer server.Close()
	b.URL = server.URL

	b.Open("/frames", browser.Order{"fresh": true})
	frames := b.Do("frames", nil).Frames
	if len(frames) < 2 {
		t.Errorf("only %d frames were tried: %q", len(frames), frames)
	}
	for _, frame := range frames {
		if !strings.HasPrefix(frame, "chrome-error://") || strings.Contains(frame, "key") && strings.Contains(frame, "3 keys") {
			t.Errorf("a page is in a frame of another origin: %s", frame)
		}
	}

	b.Open("/reads", browser.Order{"fresh": true})
	got := b.Do("evaluate", browser.Order{"script": fmt.Sprintf(`(async () => {
		const out = [];
		for (const init of [{}, { credentials: "include" }, { method: "POST", body: "q=x" }, { method: "PUT" }]) out.push(await fetch(%q, init).then((r) => "read " + r.type, () => "refused"));
		out.push(await fetch(%q, { mode: "no-cors" }).then(async (r) => r.type + (await r.text())));
		out.push(await import(%q).then(() => "ran", () => "refused"));
		const opened = window.open(%q);
		await new Promise((done) => setTimeout(done, 0));
		let tries = 0;
		while (opened && !opened.closed && tries++ < 200) await new Promise((done) => setTimeout(done, 50)); // cut off when the page has come
		out.push(opened === null || opened.closed ? "cut off" : "held");
		return out.join(", "); })()`, ours, ours, w.URL+"/explorer/explorer.js", ours)}).Value
	if want := "refused, refused, refused, refused, opaque, refused, cut off"; got != want {
		t.Errorf("a page of another origin got %v, want %s", got, want)
	}

	b.Open("/sends", browser.Order{"fresh": true})
	b.Do("click", browser.Order{"selector": "button"})
	b.Do("until", browser.Order{"script": `document.title !== "evil"`})
	for _, path := range []string{"/", "/search", "/key/" + rpctest.Address("child"), "/identity/" + txid("mlr1"), "/mempool", "/status"} {
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
			if response, _ := w.Send(t, method, path, "q=x"); response.StatusCode < 400 {
				t.Errorf("%s %s: %d", method, path, response.StatusCode)
			}
		}
	}
}
