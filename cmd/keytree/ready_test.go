package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// TestReady asks servers that are ready and that are not, found by flags and by the settings
// that they share.
func TestReady(t *testing.T) {
	n := regtest.ForTest(t, regtest.Options{Blocks: 5})
	synced := startProgram(t, nil, serveArgs(n.URL(), t.TempDir())...)
	server, rest := synced.awaitServing()
	awaitTip(t, server, n)
	if got := mustKeytree(t, "status", "--ready", "--http-listen", rest); got != "ready\n" {
		t.Errorf("printed %q", got)
	}
	dir := t.TempDir()
	writeConfig(t, dir, "http-listen: "+rest+"\nnode: "+goodURL+"\n")
	mustKeytree(t, "status", "--ready", "--data-dir", dir)
	_, port, _ := strings.Cut(rest, ":")
	mustKeytree(t, "status", "--ready", "--http-listen", "0.0.0.0:"+port)

	certFile, keyFile, _ := certificateFiles(t)
	waiting := startProgram(t, nil, append(serveArgs(goodURL, t.TempDir()), "--tls-cert", certFile, "--tls-key", keyFile)...)
	_, rest = waiting.awaitServing()
	keytree(t, "status", "--ready", "--http-listen", rest, "--tls-cert", certFile).wantError(t, exitFailed, "not ready: no block is indexed yet")
	keytree(t, "status", "--ready", "--http-listen", rest).wantError(t, exitFailed, "400 Bad Request")
	keytree(t, "status", "--ready", "--http-listen", nowhere).wantError(t, exitFailed, "is keytree serve running here?")

	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "welcome") }))
	defer other.Close()
	keytree(t, "status", "--ready", "--http-listen", strings.TrimPrefix(other.URL, "http://")).wantError(t, exitFailed, `"welcome"`)
}
