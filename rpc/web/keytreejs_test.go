package web_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
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
	home  *httptest.Server
	ended chan map[string]string // by case, what a page says of it
}

func newJSWorld(t *testing.T) *jsWorld {
	t.Helper()
	c, blocks := rpctest.Family()
	w := &jsWorld{ended: make(chan map[string]string, 1)}
	rig := rpctest.NewOf(t, rpc.Config{Origins: []string{"*"}, Hosts: []string{plainHost}, Version: "test", DialLinks: purse{someLink(t).Raw()}.dial}, blocks...)
	w.stand = newStand(t, rig, c)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /control/{what}", w.control)
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

// plainHost is a name that is none of the loopback interface for a browser: a page of it on plain http
// has no WebCrypto and no locks.
const plainHost = "plain.example"

// TestChromium runs the cases in a page of another origin: one of loopback, which a browser trusts
// like one with TLS, and one on plain http.
func TestChromium(t *testing.T) {
	chromium := installed(t, "chromium")
	for _, host := range []string{"127.0.0.1", plainHost} {
		t.Run(host, func(t *testing.T) {
			w := newJSWorld(t)
			as := func(url string) string { return strings.Replace(url, "127.0.0.1", host, 1) }
			browse(t, chromium, as(w.home.URL)+"/page.html?server="+as(w.URL))
			select {
			case ends := <-w.ended:
				if len(ends) < 10 {
					t.Errorf("%d cases have ended", len(ends))
				}
				for name, end := range ends {
					if end != "" {
						t.Errorf("%s: %s", name, end)
					}
				}
			case <-time.After(2 * time.Minute):
				t.Fatal("the page did not tell how the cases have ended")
			}
		})
	}
}

// browse opens a page in a browser that ends with the test.
func browse(t *testing.T, chromium, url string) {
	t.Helper()
	profile, err := os.MkdirTemp("", "keytree-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	cmd := exec.Command(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-popup-blocking", "--host-resolver-rules=MAP "+plainHost+" 127.0.0.1",
		"--user-data-dir="+profile, url)
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.WaitDelay = time.Second // for what it started and that has its output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) // it ends its children then
		force := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
		cmd.Wait() // how it ends does not matter
		force.Stop()
		os.RemoveAll(profile) // which a child that is not gone yet may hinder
		if t.Failed() {
			t.Logf("the browser said:\n%s", said.String())
		}
	})
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
