package explorer_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	stdlog "log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/protocol/tlog"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/explorer/browser"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// notary stands before a server with a state log, whose checkpoints it cosigns as two witnesses do; and spoils the proofs,
// or the answers beside them, as a test wants it.
type notary struct {
	URL      string
	log      *rpctest.StateLog
	one, two *tlog.Key         // witnesses
	policies map[string]string // by the names of who is believed

	mu       sync.Mutex
	cosigned time.Time // mu; when its witnesses have
	broken   bool      // mu; its proofs are of another index
	lies     bool      // mu; the server says that every key is its own root
}

// newNotary stands before a server that publishes the blocks of a world, of which ten are empty at the end.
func newNotary(t *testing.T) (*notary, *world) {
	t.Helper()
	key := func(name string) *tlog.Key {
		k, err := tlog.GenerateKey(name)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	n := &notary{log: new(rpctest.StateLog), one: key("one.example"), two: key("two.example"), cosigned: time.Now(), policies: make(map[string]string)}
	w := newWorldOf(t, rpc.Config{StateLog: n.log, StatePolicy: func() string { return n.policies["both"] }})
	for range 10 {
		w.Connect(t, w.chain.Block())
	}
	n.log.Follow(t, w.Graph)
	n.log.Publish(t, 9)
	log := n.log.Policy(t).Logs[0].Key
	n.policies["both"] = fmt.Sprintf("log %v\nwitness Alice %v\nwitness Bob %v\ngroup both all Alice Bob\nquorum both\n", log, n.one.Witness(), n.two.Witness())
	n.policies["log"] = fmt.Sprintf("log %v\nquorum none\n", log)
	n.policies["stranger"] = fmt.Sprintf("log %v\nquorum none\n", key("other.example/state/regtest/1/1").Log())

	to, err := url.Parse(w.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Header.Set("Accept-Encoding", "identity") }, FlushInterval: -1, ModifyResponse: n.change,
		ErrorLog: stdlog.New(io.Discard, "", 0), // streams end when a page does
	}
	front := httptest.NewServer(proxy)
	t.Cleanup(front.Close)
	n.URL = front.URL
	return n, w
}

// change changes what the server answers.
func (n *notary) change(response *http.Response) error {
	path := response.Request.URL.Path
	n.mu.Lock()
	defer n.mu.Unlock()
	resolves := path == "/v1/addresses:batchResolve" && n.lies
	if response.StatusCode != http.StatusOK || !strings.HasSuffix(path, "/proof") && !resolves {
		return nil
	}
	var answer map[string]any
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return err
	}
	response.Body.Close()
	if resolves {
		one := answer["resolutions"].([]any)[0].(map[string]any)
		one["main_address"] = one["address"]
	} else {
		answer["proof"] = n.cosign(answer["proof"].(string))
	}
	text, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	response.Body, response.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
	response.Header.Set("Content-Length", strconv.Itoa(len(text)))
	response.Header.Del("Etag")
	return nil
}

// cosign adds the lines of the two witnesses to a proof. The mutex is held.
func (n *notary) cosign(file string) string {
	_, checkpoint, _ := strings.Cut(file, "\n\n")
	file += string(n.one.Cosign([]byte(checkpoint), n.cosigned)) + string(n.two.Cosign([]byte(checkpoint), n.cosigned))
	if n.broken {
		file = strings.Replace(file, "\nindex 9\n", "\nindex 8\n", 1)
	}
	return file
}

// set changes what it does.
func (n *notary) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

// TestBrowserProof looks at what pages say of proofs: what is proven, and never more than that.
func TestBrowserProof(t *testing.T) {
	n, w := newNotary(t)
	b := browser.Start(t, "browser", n.URL)
	child, parent := "/key/"+rpctest.Address("child"), rpctest.Address("parent")
	looked, shown := make(map[string]bool), 0
	proven, unproven, refuted := ".proof.proven", ".proof.unproven", ".proof.refuted"
	see := func(path, selector string, texts ...string) {
		t.Helper()
		if path != "" {
			b.Open(path, browser.Order{"width": 360, "dark": true})
		}
		for _, text := range texts {
			b.Do("wait", browser.Order{"selector": selector, "text": text})
		}
		b.Sound(path+selector, !looked[selector])
		looked[selector] = true
		if pictures := os.Getenv("KEYTREE_PICTURES"); pictures != "" {
			shown++
			b.Do("picture", browser.Order{"file": filepath.Join(pictures, fmt.Sprint("proof-", shown, ".png"))})
		}
	}
	see(child, proven, "Proven as of block 9, 10 blocks ago", "cosigned by Alice and Bob", "the key is directly below "+short(parent)+", the main key of identity "+short(txid("mlr1")),
		"This page is as of 10 blocks later. What those have brought is not proven", "No such proof shows who the key was before", "By this server's own word of whom to believe")
	see("/key/"+rpctest.Address("grandchild"), proven, "directly below "+short(rpctest.Address("child"))+" and 2 links below "+short(parent))
	see("/key/"+parent, proven, "the key has no key above it, and is the main key of identity "+short(txid("mlr1")))
	see("/key/"+rpctest.Address("nobody"), proven, "the key was in no link")
	see("/identity/"+txid("mlr1"), proven, "the main key of the identity is "+short(parent), "No such proof shows how many keys")
	see("/identity/"+txid("mcr1"), proven, "the identity has merged into "+short(txid("mlr1")))
	see(child+"?at=5", proven, "Proven as of block 5", "is the main key of identity "+short(txid("mcr1")))
	see(child+"?at=12", unproven, "Not proven", "(the newest that the state log's checkpoint covers), got 12")

	// An old cosignature, a broken file, and a server that says otherwise than it has proven.
	n.set(func() { n.cosigned = time.Now().Add(-50 * time.Hour) })
	see(child, unproven, "An old proof as of block 9", "2 days ago", "That is old")
	n.set(func() { n.cosigned, n.broken = time.Now(), true })
	see(child, unproven, "Not proven", "Check 3 of a state proof")
	n.set(func() { n.broken, n.lies = false, true })
	see(child, refuted, "Refuted: this server contradicts what it has proven", "another main_address as of block 9")
	n.set(func() { n.lies = false })

	// The reader's own policy is kept, and what it does not bear is not proven.
	see(child, proven, "Proven as of block 9")
	believe := func(policy, button string) {
		t.Helper()
		b.Do("click", browser.Order{"selector": ".proof details:not([open]) summary"})
		if policy != "" {
			b.Do("fill", browser.Order{"selector": "#policy", "text": policy})
		}
		b.Do("click", browser.Order{"selector": ".proof button:has-text('" + button + "')"})
	}
	believe(n.policies["stranger"], "Believe these")
	see("", unproven, "Not proven to those whom your policy names", "no log that the policy names has signed", "By your policy")
	see("/identity/"+txid("mlr1"), unproven, "Not proven to those whom your policy names")
	believe("nonsense", "Believe these")
	see("", unproven, "there is no policy by which it could be", "Line 1 of the policy")
	b.Do("fill", browser.Order{"selector": "#policy", "text": n.policies["log"]})
	b.Do("click", browser.Order{"selector": ".proof button:has-text('Believe these')"})
	see("", unproven, "Signed by its log alone as of block 9", "cosigned by nobody")
	b.Do("click", browser.Order{"selector": ".proof button:has-text(\"Believe this server's\")"})
	see("", proven, "Proven as of block 9", "By this server's own word")

	// A block comes, and the page follows. What the reader is writing stays.
	see(child, proven, "Proven as of block 9")
	b.Do("wait", browser.Order{"selector": "html[data-following]"})
	b.Do("click", browser.Order{"selector": ".proof summary"})
	b.Do("fill", browser.Order{"selector": "#policy", "text": "half of a pol"})
	w.Connect(t, w.chain.Block(rpctest.MCR("cut", "parent", "mla3")))
	see("", unproven, "Not proven: this page shows what has changed since", "the key is directly below "+short(parent))
	if same := b.Do("evaluate", browser.Order{"script": `document.activeElement?.id === "policy" && document.activeElement.value === "half of a pol"`}); same.Value != true {
		t.Error("what the reader was writing is gone")
	}
	see("/identity/"+txid("cut"), unproven, "Not proven: this page shows what has changed since", "there is no such identity")
	for range 10 {
		w.Connect(t, w.chain.Block())
	}
	n.log.Publish(t, 20)
	see(child, proven, "Proven as of block 20, 10 blocks ago", "is the main key of identity "+short(txid("cut")))

	// Without scripts a page says that nothing of it is proven.
	b.Open(child, browser.Order{"scripts": false})
	if text := b.Do("text", browser.Order{"selector": ".proof"}).Text; !strings.HasPrefix(text, "Not proven: this page is this server's word It has a proof of some of that") {
		t.Errorf("without scripts a page says %q", text)
	}
}

// TestStatePolicy fetches by what policy a server's proofs can be checked, where it has proofs.
func TestStatePolicy(t *testing.T) {
	const policy = "log …\nquorum none\n"
	for _, want := range []string{policy, ""} {
		w := newWorldOf(t, rpc.Config{StatePolicy: func() string { return want }})
		response, body := w.Send(t, "GET", "/explorer/state-policy", "")
		if want != "" && (body != want || response.Header.Get("Content-Type") != "text/plain; charset=utf-8") || want == "" && response.StatusCode != http.StatusNotFound {
			t.Errorf("%d %q, want %q", response.StatusCode, body, want)
		}
		for _, path := range []string{"/key/" + rpctest.Address("child"), "/identity/" + txid("mlr1")} {
			if _, page := w.Send(t, "GET", path, ""); strings.Contains(page, "data-proof") != (want != "") {
				t.Errorf("%s with policy %q speaks of proofs: %t", path, want, want == "")
			}
		}
	}
}
