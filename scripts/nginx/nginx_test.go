// Package nginx_test runs keytree.conf with a real nginx before two servers.
package nginx_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/client"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// clientsEnv is the variable that says that no program is missing that tests need beside Go:
// .ci/run has installed them.
const clientsEnv = "KEYTREE_CLIENTS"

// proxied are two servers behind an nginx.
type proxied struct {
	one, two *rpctest.Rig
	address  string // of nginx
	trust    *tls.Config
}

// start runs nginx until the test ends. It skips the test where there is none.
func start(t *testing.T, one, two *rpctest.Rig) *proxied {
	t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil && os.Getenv(clientsEnv) != "" {
		t.Fatalf("%s is set, but: %v", clientsEnv, err)
	}
	if err != nil {
		t.Skipf("%v; .ci/run installs it", err)
	}
	text, err := os.ReadFile("keytree.conf")
	if err != nil {
		t.Fatal(err)
	}
	listener := rpctest.Listen(t)
	listener.Close() // nginx takes no listener over that is in Go's hands
	certFile, keyFile := rpctest.WriteCertificate(t, time.Now().Add(time.Hour), "localhost", "127.0.0.1")
	p := &proxied{one: one, two: two, address: listener.Addr().String(), trust: &tls.Config{RootCAs: rpctest.PoolOf(t, certFile)}}
	for _, change := range [][2]string{
		{"10.0.0.1:8435", strings.TrimPrefix(one.URL, "http://")}, {"10.0.0.2:8435", strings.TrimPrefix(two.URL, "http://")},
		{"10.0.0.1:8434", one.Conn.Target()}, {"10.0.0.2:8434", two.Conn.Target()},
		{"listen 443", "listen " + p.address}, {"keys.example.org", "localhost"},
		{"/etc/nginx/keytree/cert.pem", certFile}, {"/etc/nginx/keytree/key.pem", keyFile},
	} {
		if !strings.Contains(string(text), change[0]) {
			t.Fatalf("keytree.conf has no %s", change[0])
		}
		text = []byte(strings.ReplaceAll(string(text), change[0], change[1]))
	}
	dir := t.TempDir()
	var temporary strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temporary, "%s_temp_path %s;\n", kind, filepath.Join(dir, kind))
	}
	config := filepath.Join(dir, "nginx.conf")
	whole := fmt.Sprintf("daemon off;\nmaster_process off;\npid %s;\nerror_log stderr warn;\nevents {}\nhttp {\naccess_log off;\n%s%s}\n",
		filepath.Join(dir, "pid"), &temporary, text)
	if err := os.WriteFile(config, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "-e", "stderr", "-p", dir, "-c", config)
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("nginx said:\n%s", &said)
		}
	})
	regtest.Await(t, func() string {
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", p.address, p.trust)
		if err != nil {
			return err.Error()
		}
		conn.Close()
		return ""
	})
	return p
}

// get makes a request from an address of this machine's, on a connection of its own.
func (p *proxied) get(t *testing.T, from, path string, headers ...string) (*http.Response, string) {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(from), 0))}
	transport := &http.Transport{TLSClientConfig: p.trust, DialContext: dialer.DialContext, ForceAttemptHTTP2: true, ResponseHeaderTimeout: time.Minute}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+p.address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Host = "localhost"
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Set(name, value)
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(text)
}

// TestReplicas has one of two servers be behind, be not ready, and go away, which a client that names least heights does not
// notice, over neither transport.
func TestReplicas(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs nginx")
	}
	c, blocks := rpctest.Family()
	limits := admission.DefaultLimits()
	limits.Work = admission.Budget{All: 1000, One: 1} // ten calls at once
	machine := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	gate := func() *admission.Gate {
		return admission.New(admission.Config{Limits: limits, Proxies: machine, Unlimited: machine})
	}
	one, two := rpctest.NewOf(t, rpc.Config{Admission: gate()}, blocks...), rpctest.NewOf(t, rpc.Config{Admission: gate()}, blocks...)
	p := start(t, one, two)
	const local, other, third = "127.0.0.1", "127.0.0.2", "127.0.0.3"

	least := uint32(0)
	asked := func(what string) {
		t.Helper()
		for range 4 {
			response, text := p.get(t, local, "/v1/status", fmt.Sprint("Keytree-Min-Height: ", least))
			var status struct {
				TipHeight uint32 `json:"tip_height"`
			}
			if err := json.Unmarshal([]byte(text), &status); err != nil || response.StatusCode != 200 || status.TipHeight < least {
				t.Fatalf("%s: %s %s, least height %d, %v", what, response.Status, text, least, err)
			}
			least = status.TipHeight
		}
	}
	balanced, err := client.New("https://"+p.address, client.Options{TLS: p.trust, Monotonic: true})
	if err != nil {
		t.Fatal(err)
	}
	defer balanced.Close()
	called := func(what string) {
		t.Helper()
		for range 4 {
			if r, err := balanced.Resolve(t.Context(), rpctest.Address("child")); err != nil || r.AsOfHeight < least {
				t.Errorf("%s, over gRPC: %v, %v, least height %d", what, r, err, least)
			}
		}
	}
	asked("two servers")
	called("two servers")
	if response, _ := p.get(t, local, "/v1/keyserver"); response.StatusCode != 404 {
		t.Errorf("the keyserver: %s", response.Status)
	}

	// Clients are told apart by their addresses, whatever they say.
	refused := 0
	for range 25 { // 20 at once, of two servers
		response, _ := p.get(t, other, "/v1/status", "X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1")
		if response.StatusCode == http.StatusTooManyRequests {
			refused++
		}
	}
	if response, _ := p.get(t, third, "/v1/status"); refused == 0 || response.StatusCode != 200 {
		t.Errorf("of one client's requests %d are refused, another one's: %s", refused, response.Status)
	}

	next := c.Block()
	one.Connect(t, next)
	least = 7
	came := make(chan struct{})
	go func() { // while requests wait for it
		defer close(came)
		two.Connect(t, next)
	}()
	asked("with a block that comes")
	<-came

	two.Follower.Set(indexer.Status{})
	asked("with one that is not ready")
	two.Follower.Set(indexer.Status{Checked: true, Synced: true})

	one.Connect(t, c.Block())
	response, text := p.get(t, local, "/v1/status", "Keytree-Min-Height: 8")
	if again, _ := p.get(t, local, "/v1/status", "Keytree-Min-Height: 8"); response.StatusCode != 200 || again.StatusCode != 200 {
		t.Errorf("with one that is behind: %s %s, and %s", response.Status, text, again.Status)
	}

	two.Stop()
	asked("with one that is away")
	called("with one that is away")
	one.Stop()
	if response, text := p.get(t, local, "/v1/status"); response.StatusCode != 503 || response.Header.Get("Retry-After") == "" || !json.Valid([]byte(text)) {
		t.Errorf("with none: %s %v %s", response.Status, response.Header, text)
	}
}
