package web_test

import (
	"bufio"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// browser is a browser of somebody's, at the example service.
type browser struct {
	*testing.T
	http.Client
	url string
}

func newBrowser(t *testing.T, url string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &browser{t, http.Client{Jar: jar, Transport: transport}, url}
}

// get and post ask the service.
func (b *browser) get(path string) (status int, text string) {
	b.Helper()
	return b.answer(b.Get(b.url + path))
}

func (b *browser) post(path string, form url.Values) (status int, text string) {
	b.Helper()
	return b.answer(b.PostForm(b.url+path, form))
}

func (b *browser) answer(response *http.Response, err error) (status int, text string) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		b.Fatal(err)
	}
	return response.StatusCode, strings.TrimSuffix(string(body), "\n")
}

// until waits until the service shows who is signed in, or that nobody is. The test as a whole has a limit.
func (b *browser) until(status int) {
	b.Helper()
	for got := 0; got != status; got, _ = b.get("/") {
		time.Sleep(20 * time.Millisecond)
	}
}

// TestExampleService signs the person in at the example service, and cuts the key off.
func TestExampleService(t *testing.T) {
	node := installed(t, "node")
	w := newJSWorld(t)
	control := func(what string, o order) map[string]any {
		t.Helper()
		answer, err := w.obey(what, o)
		if err != nil {
			t.Fatal(err)
		}
		fields, _ := answer.(map[string]any)
		return fields
	}
	control("link", order{Children: []string{"person"}, Parent: "service"})
	b := newBrowser(t, startService(t, node, w.URL))
	person := protocol.FormatAddress(w.key("person"), rpctest.Net)
	signIn := func() (status int, text string) {
		t.Helper()
		_, message := b.post("/challenge", url.Values{"address": {person}})
		return b.post("/login", url.Values{"signature": {control("sign", order{Message: message})["signature"].(string)}})
	}
	if status, _ := b.get("/"); status != http.StatusUnauthorized {
		t.Errorf("before: %d", status)
	}
	if status, text := b.post("/challenge", url.Values{"address": {"x"}}); status != http.StatusBadRequest {
		t.Errorf("no address: %d %s", status, text)
	}
	if status, text := b.post("/login", url.Values{"signature": {"x"}}); status != http.StatusUnauthorized {
		t.Errorf("without a challenge: %d %s", status, text)
	}
	// A server takes no challenge from the second in which it began.
	status, text := signIn()
	for ; status == http.StatusBadRequest && strings.Contains(text, "older"); status, text = signIn() {
		time.Sleep(100 * time.Millisecond)
	}
	if status != http.StatusOK {
		t.Fatalf("signing in: %d %s", status, text)
	}
	if status, text := b.get("/"); status != http.StatusOK || !strings.HasPrefix(text, person+" of account ") {
		t.Errorf("signed in: %d %s", status, text)
	}
	stranger := newBrowser(t, b.url)
	if status, _ := stranger.get("/"); status != http.StatusUnauthorized {
		t.Errorf("a stranger: %d", status)
	}
	foreign, err := http.NewRequest(http.MethodPost, b.url+"/logout", nil)
	if err != nil {
		t.Fatal(err)
	}
	foreign.Header.Set("Sec-Fetch-Site", "cross-site")
	if status, _ := b.answer(b.Do(foreign)); status != http.StatusForbidden {
		t.Errorf("a page of another site: %d", status)
	}

	cut := order{Child: "person", Parent: "service"}
	control("pend", cut)
	b.until(http.StatusForbidden)
	control("drop", order{})
	b.until(http.StatusOK)
	control("pend", cut)
	b.until(http.StatusForbidden)
	control("cut", cut)
	b.until(http.StatusUnauthorized)
	if status, text := signIn(); status != http.StatusOK {
		t.Errorf("as its own identity: %d %s", status, text)
	}
	if status, _ := b.post("/logout", nil); status != http.StatusOK {
		t.Errorf("signing out: %d", status)
	}
	b.until(http.StatusUnauthorized)
}

// startService starts the example service until the test ends, and returns its URL.
func startService(t *testing.T, node, keytree string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), node, "example/service.mjs")
	cmd.Env = append(os.Environ(), "KEYTREE="+keytree, "LISTEN=0", "DOMAIN=localhost:8081", "URI=http://localhost:8081/login")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait() // it was killed
	})
	said := bufio.NewScanner(out)
	if !said.Scan() {
		t.Fatal("the service does not say where it is")
	}
	return strings.Replace(said.Text(), "localhost", "127.0.0.1", 1)
}
