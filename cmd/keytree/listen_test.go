package main

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestListenUsage gives settings that contradict each other, and listens where others than
// this machine reach it.
func TestListenUsage(t *testing.T) {
	dir := t.TempDir()
	for _, folder := range []string{"graph", "keyserver"} { // whatever gets further fails
		if err := os.WriteFile(filepath.Join(dir, folder), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	serve := []string{"serve", "--node", goodURL, "--data-dir", dir, "--log-level", "error"}
	keyserver := []string{"keyserver", "serve", "--keyserver-domain", "example.org", "--data-dir", dir, "--log-level", "error"}
	const flags = "others than this machine may reach it, unencrypted: expected --tls-cert and --tls-key, or --acme; or --plaintext"
	for _, test := range []struct {
		command []string
		args    string
		want    string
	}{
		{serve, "--http-listen :0", "--http-listen :0: " + flags},
		{serve, "--http-listen 0.0.0.0:0", "--http-listen 0.0.0.0:0: " + flags},
		{serve, "--http-listen [::]:0", "--http-listen [::]:0: " + flags},
		{serve, "--http-listen 192.0.2.1:0", "--http-listen 192.0.2.1:0: " + flags},
		{serve, "--grpc-listen [2001:db8::1]:0", "--grpc-listen [2001:db8::1]:0: " + flags},
		{serve, "--metrics-listen :0", "--metrics-listen :0: " + flags},
		{serve, "--keyserver-domain example.org --keyserver-listen :0", "--keyserver-listen :0: " + flags},
		{keyserver, "--keyserver-listen :0", "--keyserver-listen :0: " + flags},
		{keyserver, "--http-listen :0 --keyserver-tls-cert x --keyserver-tls-key x", "--http-listen :0: " + flags},
		{serve, "--tls-cert x", "expected both or none of --tls-cert and --tls-key"},
		{serve, "--tls-key x", "expected both or none of --tls-cert and --tls-key"},
		{serve, "--tls-cert x --tls-key x --acme example.org", "expected certificates from one of --acme and --tls-cert"},
		{serve, "--tls-cert x --tls-key x --plaintext", "expected --plaintext or certificates, got both"},
		{serve, "--acme example.org --plaintext", "expected --plaintext or certificates, got both"},
		{serve, "--acme example.org:443", "--acme: expected the name of a host, without a port"},
		{serve, "--acme-cache x", "--acme-cache and --acme-directory go with --acme"},
		{serve, "--acme-directory https://x/dir", "--acme-cache and --acme-directory go with --acme"},
		{serve, "--acme example.org --acme-directory http://x/dir", "--acme-directory: expected an https URL"},
	} {
		t.Run(test.args, func(t *testing.T) {
			keytree(t, append(append([]string{}, test.command...), strings.Fields(test.args)...)...).wantError(t, exitUsage, test.want)
		})
	}
	for _, args := range []string{"--tls-cert /nonexistent --tls-key /nonexistent", "--http-listen :0 --tls-cert /nonexistent --tls-key /nonexistent"} {
		keytree(t, append(append([]string{}, serve...), strings.Fields(args)...)...).wantError(t, exitFailed, "TLS certificate: open /nonexistent")
	}
}

// TestPlaintext listens where others may reach it, since that is said to be meant.
func TestPlaintext(t *testing.T) {
	p := startProgram(t, nil, append(serveArgs(goodURL, t.TempDir()), "--http-listen", ":0", "--plaintext")...)
	_, rest := p.awaitServing()
	_, port, err := net.SplitHostPort(rest)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Get("http://localhost:" + port + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if response.StatusCode != http.StatusOK {
		t.Errorf("/healthz: %s", response.Status)
	}
	if code := p.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("exit code %d after SIGTERM: %s", code, p.errors())
	}
}
