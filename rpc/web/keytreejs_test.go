package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// clientsEnv is the variable that says that no program is missing that tests need beside Go:
// .ci/run has installed them.
const clientsEnv = "KEYTREE_CLIENTS"

// installed returns the path of a program, and skips the test where there is none.
func installed(t *testing.T, program string) string {
	t.Helper()
	if testing.Short() {
		t.Skipf("starts %s", program)
	}
	path, err := exec.LookPath(program)
	if err != nil && os.Getenv(clientsEnv) != "" {
		t.Fatalf("%s is set, but: %v", clientsEnv, err)
	}
	if err != nil {
		t.Skipf("%s is not installed; .ci/run installs it", program)
	}
	return path
}

// jsWorld is a server with a Family, what stands before it, and a home for pages of another origin.
type jsWorld struct {
	*stand
	home   *httptest.Server
	ended  chan map[string]string // by case, what a page says of it
	family uint32                 // the last block of the Family, and the newest one that is proven
}

func newJSWorld(t *testing.T) *jsWorld {
	t.Helper()
	c, blocks := rpctest.Family()
	family := blocks[len(blocks)-1].Height // ten blocks are on top of what is published
	for range 10 {
		blocks = append(blocks, c.Block())
	}
	w := &jsWorld{ended: make(chan map[string]string, 1), family: family}
	states := new(rpctest.StateLog)
	rig := rpctest.NewOf(t, rpc.Config{StateLog: states, Origins: []string{"*"}, Hosts: []string{plainHost}, Version: "test", DialLinks: purse{someLink(t).Raw()}.dial, SignInKey: signInKey()}, blocks...)
	states.Follow(t, rig.Graph)
	states.Publish(t, family)
	w.stand = newStand(t, rig, c)
	w.stand.statePolicy = fmt.Sprintf("log %v\nquorum none\n", states.Policy(t).Logs[0].Key)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /control/{what}", w.control)
	mux.HandleFunc("POST /control/note", func(rw http.ResponseWriter, r *http.Request) {
		var note struct{ Text string }
		if err := json.NewDecoder(r.Body).Decode(&note); err != nil {
			t.Error(err)
		}
		t.Log(note.Text)
		rw.Write([]byte("{}"))
	})
	mux.HandleFunc("GET /keytree.js", func(rw http.ResponseWriter, r *http.Request) { http.ServeFile(rw, r, "keytree.js") }) // of what makes state proofs
	mux.HandleFunc("POST /ended", func(_ http.ResponseWriter, r *http.Request) {
		ends := make(map[string]string)
		if err := json.NewDecoder(r.Body).Decode(&ends); err != nil {
			t.Error(err)
		}
		select {
		case w.ended <- ends:
		default: // the page was loaded twice
		}
	})
	mux.Handle("GET /", http.FileServer(http.Dir("testdata")))
	w.home = httptest.NewServer(mux)
	t.Cleanup(w.home.Close)
	return w
}

// TestNode runs the cases in Node.
func TestNode(t *testing.T) {
	node := installed(t, "node")
	w := newJSWorld(t)
	cmd := exec.CommandContext(t.Context(), node, "--test", "--test-force-exit", "testdata/node.test.mjs")
	cmd.Env = append(os.Environ(), "SERVER="+w.URL, "HOME_URL="+w.home.URL)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, said)
	}
}

// TestProofCorpus has keytree.js verify the corpus of state proofs: each has to be refused because of the check that it is
// there for, or to show what it says.
func TestProofCorpus(t *testing.T) {
	said, err := exec.CommandContext(t.Context(), installed(t, "node"), "testdata/corpus.mjs", "../../protocol/testdata/stateproofs.json").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	var counts struct{ Proofs, Refused int }
	if err := json.Unmarshal(said, &counts); err != nil || counts.Refused < 50 || counts.Proofs-counts.Refused < 20 {
		t.Errorf("%v: %s", err, said)
	}
}

// plainHost is a name that is none of the loopback interface for a browser: a page of it on plain http
// has no WebCrypto and no locks.
const plainHost = "plain.example"

// TestChromium runs the cases in two pages of another origin: one of loopback, which a browser trusts
// like one with TLS, and one on plain http.
func TestChromium(t *testing.T) {
	chromium := installed(t, "chromium")
	hosts := []string{"127.0.0.1", plainHost}
	var worlds []*jsWorld
	pages := url.Values{}
	for _, host := range hosts {
		w := newJSWorld(t)
		as := func(url string) string { return strings.Replace(url, "127.0.0.1", host, 1) }
		worlds = append(worlds, w)
		pages.Add("page", as(w.home.URL)+"/page.html?server="+as(w.URL))
	}
	gone := browse(t, chromium, worlds[0].home.URL+"/open.html?"+pages.Encode())
	for i, w := range worlds {
		select {
		case ends := <-w.ended:
			if len(ends) < 20 {
				t.Errorf("%s: %d cases have ended", hosts[i], len(ends))
			}
			for name, end := range ends {
				if end != "" {
					t.Errorf("%s: %s: %s", hosts[i], name, end)
				}
			}
		case <-gone:
			t.Fatal("the browser has ended")
		case <-time.After(4 * time.Minute):
			t.Fatalf("%s: the page did not tell how the cases have ended", hosts[i])
		}
	}
}

// browse opens a page in a browser that ends with the test. Gone tells if it ends before.
func browse(t *testing.T, chromium, page string) (gone <-chan struct{}) {
	t.Helper()
	profile, err := os.MkdirTemp("", "keytree-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	args := []string{"--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--disable-popup-blocking", "--host-resolver-rules=MAP " + plainHost + " 127.0.0.1",
		"--user-data-dir=" + profile, page}
	cmd := exec.Command(chromium, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second // for what it started and that has its output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(context.Background())
	go func() {
		defer end()
		cmd.Wait() // how it ends does not matter
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) // it ends its children then
		force := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
		<-ended.Done()
		force.Stop()
		os.RemoveAll(profile) // which a child that is not gone yet may hinder
		if t.Failed() {
			t.Logf("the browser said:\n%.4000s", said.String())
		}
	})
	return ended.Done()
}

// TestKeytreeJSIsServed finds that a page of another origin can import the file, and keep it.
func TestKeytreeJSIsServed(t *testing.T) {
	want, err := os.ReadFile("keytree.js")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t)
	response, body := w.Send(t, "GET", "/keytree.js", "", "Origin: https://page.example")
	if response.StatusCode != http.StatusOK || body != string(want) {
		t.Errorf("%s with %d bytes, want the file's %d", response.Status, len(body), len(want))
	}
	for name, want := range map[string]string{"Content-Type": "text/javascript; charset=utf-8", "Access-Control-Allow-Origin": "*", "Cache-Control": "no-cache"} {
		if got := response.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	again, body := w.Send(t, "GET", "/keytree.js", "", "Origin: https://page.example", "If-None-Match: "+response.Header.Get("Etag"))
	if again.StatusCode != http.StatusNotModified || body != "" {
		t.Errorf("%s with %d bytes for who has it", again.Status, len(body))
	}
}

// TestReadme runs the examples of README.md, one after the other, on a server of this chain.
func TestReadme(t *testing.T) {
	node := installed(t, "node")
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	for _, match := range regexp.MustCompile("(?s)```js\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		script.WriteString(match[1])
	}
	library, err := filepath.Abs("keytree.js")
	if err != nil {
		t.Fatal(err)
	}
	w := newJSWorld(t)
	for _, change := range [][2]string{
		{`"@keytree-bch/keytree"`, `"file://` + library + `"`},
		{`"https://keytree.example"`, `"` + w.URL + `"`},
		{`log keytree.example/state/mainnet/1/1+…
witness alice alice.example/witness+…
witness bob bob.example/witness+…
group both all alice bob
quorum both`, w.statePolicy},
		{`"bitcoincash:qpm2qsznhks23z7629mms6s4cwef74vcwvy22gdx6a"`, `"` + rpctest.Address("child") + `"`},
	} {
		if !strings.Contains(script.String(), change[0]) {
			t.Fatalf("the examples have no %s", change[0])
		}
		changed := strings.ReplaceAll(script.String(), change[0], change[1])
		script.Reset()
		script.WriteString(changed)
	}
	cmd := exec.CommandContext(t.Context(), node, "--input-type=module", "-")
	cmd.Stdin = strings.NewReader(script.String())
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	parent := rpctest.Address("parent")
	for _, line := range []string{"resolved " + parent, "history MLR USED", "told open " + parent, fmt.Sprintf("proven as of block %d true %s", w.family, parent), "proven offline 2", "verified true"} {
		if !strings.Contains(string(said), line+"\n") {
			t.Errorf("they say %q, want %q", said, line)
		}
	}
}
