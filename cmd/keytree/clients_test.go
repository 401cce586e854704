package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// clientsEnv is the variable that says that no program is missing that tests need beside Go:
// .ci/run has installed them.
const clientsEnv = "KEYTREE_CLIENTS"

// installed returns the path of a program, and skips the test where there is none.
func installed(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil && os.Getenv(clientsEnv) != "" {
		t.Fatalf("%s is set, but: %v", clientsEnv, err)
	}
	if err != nil {
		t.Skipf("%s is not installed; .ci/run installs it", program)
	}
	return path
}

// execute runs a program and returns what it printed, and its exit code.
func execute(t *testing.T, name string, args ...string) (output string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// startSecure starts an index without a node and a keyserver, all with TLS, and returns
// where they answer, and the file of the certificate.
func startSecure(t *testing.T) (p *keyserverProgram, grpc, certFile, keyFile string) {
	t.Helper()
	certFile, keyFile, _ = certificateFiles(t)
	p = startKeyserver(t, "serve", "--network", "regtest", "--node", goodURL, "--data-dir", t.TempDir(),
		"--keyserver-tokens", "open", "--anchor-chain", "none", "--tls-cert", certFile, "--tls-key", keyFile)
	p.url = "https" + strings.TrimPrefix(p.url, "http")
	grpc, _ = p.awaitServing()
	return p, grpc, certFile, keyFile
}

const capabilitiesCall = `{"jsonrpc":"2.0","method":"KeyRepository.Capabilities","params":{},"id":1}`

func TestCurl(t *testing.T) {
	curl := installed(t, "curl")
	p, _, certFile, keyFile := startSecure(t)
	rest := "https://" + p.rest
	for _, test := range []struct {
		name string
		args []string
		want string // in the output
		code int    // exit code
	}{
		{"REST", []string{"--cacert", certFile, rest + "/v1/status", "-w", " over %{http_version}"}, ` over 2`, 0},
		{"a header alone", []string{"--cacert", certFile, "--head", rest + "/v1/status"}, "HTTP/2 200", 0},
		{"a certificate that nobody vouches for", []string{rest + "/v1/status"}, "certificate", 60},
		{"no TLS", []string{"http://" + p.rest + "/v1/status"}, "HTTP request to an HTTPS server", 0},
		{"JSON-RPC", []string{"--cacert", certFile, "--json", capabilitiesCall, p.url}, `"METHODS":[`, 0},
		{"JSON-RPC as a form", []string{"--cacert", certFile, "--data", capabilitiesCall, p.url}, "expected the Content-Type application/json", 0},
		{"REST as a form", []string{"--cacert", certFile, "--data", "{}", rest + "/v1/addresses:batchResolve"}, "expected application/json", 0},
		{"JSON-RPC under a wrong name", []string{"--cacert", certFile, "--json", capabilitiesCall, "-H", "Host: page.example", p.url}, "--http-host", 0},
		{"JSON-RPC for a page", []string{"--cacert", certFile, "--json", capabilitiesCall, "-H", "Origin: https://page.example", p.url}, "another origin", 0},
		{"JSON-RPC under the domain", []string{"--cacert", certFile, "--json", capabilitiesCall, "-H", "Host: example.org", p.url}, `"METHODS":[`, 0},
	} {
		out, code := execute(t, curl, append([]string{"--silent", "--show-error", "--max-time", "60"}, test.args...)...)
		if code != test.code || !strings.Contains(out, test.want) {
			t.Errorf("%s: exit code %d, want %d: %s, want %q", test.name, code, test.code, out, test.want)
		}
	}

	freshCert, freshKey, _ := certificateFiles(t)
	for from, to := range map[string]string{freshKey: keyFile, freshCert: certFile} {
		content, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, url := range []string{rest + "/healthz", p.url} {
		if out, code := execute(t, curl, "--silent", "--show-error", "--cacert", freshCert, url); code != 0 {
			t.Errorf("%s with a certificate that was replaced: exit code %d: %s", url, code, out)
		}
	}
}

func TestGRPCurl(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	grpcurl := installed(t, "grpcurl")
	_, grpc, certFile, _ := startSecure(t)
	for _, test := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"-cacert", certFile, grpc, "list"}, "keytree.v1.IdentityService", 0},
		{[]string{"-cacert", certFile, grpc, "keytree.v1.IdentityService/GetStatus"}, `"network": "regtest"`, 0},
		{[]string{"-cacert", certFile, grpc, "keytree.v1.KeyserverService/GetCapabilities"}, "KeyHashchain.FetchHashChain", 0},
		{[]string{"-cacert", certFile, grpc, "grpc.health.v1.Health/Check"}, "NOT_SERVING", 0},
		{[]string{"-max-time", "5", grpc, "list"}, "certificate", 1},
		{[]string{"-max-time", "5", "-plaintext", grpc, "list"}, "", 1},
	} {
		if out, code := execute(t, grpcurl, test.args...); code != test.code || !strings.Contains(out, test.want) {
			t.Errorf("grpcurl %q: exit code %d, want %d: %s, want %q", test.args, code, test.code, out, test.want)
		}
	}
	wantParts(t, mustKeytree(t, "status", "--server", "https://"+grpc, "--server-ca", certFile), "regtest")
	keytree(t, "status", "--server", "https://"+grpc).wantError(t, exitFailed, "certificate")
	keytree(t, "status", "--server", "https://"+grpc, "--server-ca", "/nonexistent").wantError(t, exitFailed, "--server-ca: open /nonexistent")
}

// page asks as a script on a web page does, and sends home what it could read: the status
// and the beginning of each answer, or the error.
const page = `<!DOCTYPE html><title>a page of another origin</title><script>
async function ask([name, url, options]) {
	try {
		const answer = await fetch(url, options);
		return [name, answer.type + " " + answer.status + " " + (await answer.text()).slice(0, 200)];
	} catch (error) {
		return [name, String(error)];
	}
}
Promise.all(%s.map(ask)).then(all => fetch("/read", {method: "POST", body: JSON.stringify(Object.fromEntries(all))}));
</script>`

// TestBrowser has a page of another origin ask, in a real browser.
func TestBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	chromium := installed(t, "chromium")
	p, _, _, _ := startSecure(t)
	rest := "https://" + p.rest
	_, port, err := net.SplitHostPort(p.rest)
	if err != nil {
		t.Fatal(err)
	}
	type options map[string]any
	asJSON := options{"method": "POST", "headers": options{"Content-Type": "application/json"}, "body": `{"addresses": ["x"]}`}
	call := options{"method": "POST", "headers": options{"Content-Type": "application/json"}, "body": capabilitiesCall}
	form := options{"method": "POST", "mode": "no-cors", "body": capabilitiesCall}
	const denied = "TypeError: Failed to fetch"
	questions, want := [][]any{}, map[string]string{}
	for _, q := range []struct {
		name, url string
		options   options
		want      string // in what the page could read
	}{
		{"status", rest + "/v1/status", nil, `cors 200 {"network":"regtest"`},
		{"batch", rest + "/v1/addresses:batchResolve", asJSON, "addresses[0]: invalid address"},
		{"ready", rest + "/readyz", nil, `cors 503 {"ready":false`},
		{"keyserver over REST", rest + "/v1/keyserver/head", nil, denied},
		{"keyserver over JSON-RPC", p.url, call, denied},
		{"keyserver over JSON-RPC as text", p.url, form, "opaque 0 "},
		{"a name that was made to mean this machine", "https://rebound.example:" + port + "/v1/status", nil, denied},
	} {
		questions, want[q.name] = append(questions, []any{q.name, q.url, q.options}), q.want
	}
	script, err := json.Marshal(questions)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan map[string]string, 1)
	home := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprintf(w, page, script)
			return
		}
		var answers map[string]string
		if err := json.NewDecoder(r.Body).Decode(&answers); err != nil {
			t.Error(err)
		}
		select {
		case read <- answers:
		default: // the page was loaded twice
		}
	}))
	defer home.Close()
	browse(t, chromium, home.URL)
	select {
	case answers := <-read:
		for name, part := range want {
			if !strings.Contains(answers[name], part) {
				t.Errorf("%s: the page read %q, want %q", name, answers[name], part)
			}
		}
	case <-time.After(2 * time.Minute):
		t.Fatal("the page did not say what it could read")
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
		"--disable-background-networking", "--ignore-certificate-errors", "--host-resolver-rules=MAP rebound.example 127.0.0.1",
		"--user-data-dir="+profile, url)
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = &said, &said, dieWithParent()
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

// TestACME gets a certificate from a real authority, pebble, and has it again without.
func TestACME(t *testing.T) {
	pebble := installed(t, "pebble")
	const domain = "keys.example.org"
	challenges, err := net.Listen("tcp", "127.0.0.1:0") // stands for port 443 of the domain
	if err != nil {
		t.Fatal(err)
	}
	authority := startPebble(t, pebble, challenges.Addr().(*net.TCPAddr).Port)
	dir := t.TempDir()
	args := []string{"--acme", domain, "--acme-directory", authority.directory, "--acme-cache", filepath.Join(dir, "certificates")}
	environment := []string{"SSL_CERT_FILE=" + authority.certFile}
	p := startProgram(t, environment, append(serveArgs(goodURL, dir), args...)...)
	grpc, rest := p.awaitServing()
	forward(t, challenges, rest)

	shown := func(address, name string) (serial string, err error) {
		// That pebble's root is new at each start, and not to be trusted by anybody, is its point.
		conn, err := tls.Dial("tcp", address, &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err != nil {
			return "", err
		}
		defer conn.Close()
		leaf := conn.ConnectionState().PeerCertificates[0]
		if err := leaf.VerifyHostname(name); err != nil || !strings.Contains(leaf.Issuer.CommonName, "Pebble") {
			t.Errorf("%s shows a certificate of %s by %s: %v", address, leaf.DNSNames, leaf.Issuer, err)
		}
		return leaf.SerialNumber.String(), nil
	}
	first, err := shown(rest, domain)
	if err != nil {
		t.Fatalf("%v; standard error:\n%s\nthe authority:\n%s", err, p.errors(), authority.said())
	}
	if again, err := shown(grpc, domain); err != nil || again != first {
		t.Errorf("gRPC shows certificate %s, REST %s: %v", again, first, err)
	}
	if _, err := shown(rest, "other.example.org"); err == nil {
		t.Error("it has a certificate for a name that it was not given")
	}
	files, err := filepath.Glob(filepath.Join(dir, "certificates", "*"))
	if err != nil || len(files) != 2 { // the account's key, and the certificate with its
		t.Errorf("it keeps %q: %v", files, err)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v", file, info.Mode())
		}
	}
	if code := p.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("exit code %d after SIGTERM: %s", code, p.errors())
	}

	authority.stop()
	p = startProgram(t, environment, append(serveArgs(goodURL, dir), args...)...)
	_, rest = p.awaitServing()
	if kept, err := shown(rest, domain); err != nil || kept != first {
		t.Errorf("after a restart it shows certificate %s, want %s: %v", kept, first, err)
	}
}

// pebbleRun is an authority that asks no name server but its own, for which all names are
// this machine.
type pebbleRun struct {
	directory string // URL
	certFile  string // of its own interface
	said      func() string
	stop      func()
}

// startPebble starts an authority that looks for proof at a port of this machine.
func startPebble(t *testing.T, pebble string, port int) *pebbleRun {
	t.Helper()
	certFile, keyFile, pool := certificateFiles(t)
	names := serveNames(t)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	for range 20 {
		// It can only be told a port, which somebody else may take before it does.
		reserved, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := reserved.Addr().String()
		reserved.Close()
		config := fmt.Sprintf(`{"pebble": {"listenAddress": %q, "certificate": %q, "privateKey": %q, "tlsPort": %d, "httpPort": %d}}`,
			address, certFile, keyFile, port, port)
		file := filepath.Join(t.TempDir(), "pebble.json")
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(pebble, "-config", file, "-dnsserver", names)
		cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=0")
		cmd.SysProcAttr = dieWithParent()
		var output syncBuffer
		cmd.Stdout, cmd.Stderr = &output, &output
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			cmd.Wait() // how it ends does not matter
		}()
		run := &pebbleRun{directory: "https://" + address + "/dir", certFile: certFile, said: output.String}
		run.stop = func() {
			cmd.Process.Kill()
			<-ended
		}
		t.Cleanup(run.stop)
		for up := false; !up; {
			select {
			case <-ended:
				t.Logf("pebble ended: %s", output.String())
				up = true
			case <-time.After(20 * time.Millisecond):
				if response, err := client.Get(run.directory); err == nil {
					response.Body.Close()
					return run
				}
			}
		}
	}
	t.Fatal("pebble does not start")
	return nil
}

// syncBuffer is a buffer for several goroutines.
type syncBuffer struct {
	mu   sync.Mutex
	text strings.Builder // mu
}

// Write implements io.Writer.
func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// String returns what was written.
func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// serveNames answers questions for the IPv4 address of any name: it is this machine.
func serveNames(t *testing.T) (address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		packet := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(packet)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(packet[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Authoritative, m.Additionals = true, true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
				}}
			}
			if answer, err := m.Pack(); err == nil {
				conn.WriteTo(answer, from)
			}
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-done
	})
	return conn.LocalAddr().String()
}

// forward passes connections on to an address until the test ends.
func forward(t *testing.T, listener net.Listener, to string) {
	t.Helper()
	var running sync.WaitGroup
	pass := func(a, b net.Conn) {
		io.Copy(a, b)
		a.Close()
		b.Close()
	}
	running.Go(func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			onward, err := net.Dial("tcp", to)
			if err != nil {
				from.Close()
				continue
			}
			running.Go(func() { pass(from, onward) })
			running.Go(func() { pass(onward, from) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		running.Wait()
	})
}
