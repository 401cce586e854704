package main

import (
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// TestServeJSONRPC has one server that follows a real node over its JSON-RPC and
// one over gRPC, and compares them, through a reorganisation and a restart.
func TestServeJSONRPC(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	child, parent := regtest.NewKey(), regtest.NewKey()
	fund(t.Context(), t, n, child, parent)
	byGRPC := startProgram(t, nil, serveArgs(n.URL(), t.TempDir())...)
	reference, rest := byGRPC.awaitServing()
	awaitTip(t, reference, n)
	w := &linkWorld{t: t, node: n, server: reference, rest: rest}

	parsed, err := url.Parse(n.RPCURL())
	if err != nil {
		t.Fatal(err)
	}
	password, _ := parsed.User.Password()
	dataDir := t.TempDir()
	start := func() (p *program, server string) {
		t.Helper()
		// The environment is where a password may be.
		args := serveArgs("", dataDir)
		for i, arg := range args {
			if arg == "--node" {
				args = append(args[:i:i], args[i+2:]...)
				break
			}
		}
		p = startProgram(t, []string{"KEYTREE_NODE=" + n.RPCURL()}, append(args, "--log-level", "debug")...)
		server, _ = p.awaitServing()
		return p, server
	}
	wantEqual := func(p *program, server string) {
		t.Helper()
		awaitTip(t, server, n)
		awaitTip(t, reference, n)
		got := field(t, mustKeytree(t, "status", "--json", "--server", server), "state_hash")
		if want := field(t, mustKeytree(t, "status", "--json", "--server", reference), "state_hash"); got != want {
			t.Errorf("state hash %s over JSON-RPC, %s over gRPC", got, want)
		}
		if strings.Contains(p.errors(), password) {
			t.Errorf("the log gives the password away:\n%s", p.errors())
		}
	}

	request := w.link(child, "request", "--parent", parent.Address())
	byJSON, server := start()
	wantEqual(byJSON, server)
	w.link(parent, "accept", request)
	wantEqual(byJSON, server)
	wantParts(t, mustKeytree(t, "resolve", child.Address(), "--server", server), "identity      "+request, "child of      "+parent.Address())

	// The accept goes back to the mempool.
	if _, err := n.Reorg(t.Context(), 1, nil, nil); err != nil {
		t.Fatal(err)
	}
	wantEqual(byJSON, server)
	wantParts(t, mustKeytree(t, "resolve", child.Address(), "--server", server), "never linked")
	if code := byJSON.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("exit code %d after SIGTERM; standard error:\n%s", code, byJSON.errors())
	}
	mine(t, reference, n)
	byJSON, server = start()
	wantEqual(byJSON, server)
	wantParts(t, mustKeytree(t, "resolve", child.Address(), "--server", server), "child of      "+parent.Address())
	if code := byJSON.signal(os.Interrupt); code != exitDone {
		t.Errorf("exit code %d after SIGINT", code)
	}

	t.Run("refused", func(t *testing.T) {
		o := keytree(t, append(serveArgs(strings.Replace(n.RPCURL(), password, "wrong", 1), t.TempDir()), "--log-level", "error")...)
		o.wantError(t, exitFailed, "refuses the credentials")
	})
}

// TestNodeFlagShowsNoPassword looks at what the flag says of itself.
func TestNodeFlagShowsNoPassword(t *testing.T) {
	var f nodeFlag
	if f.String() != "" {
		t.Errorf("an unset flag shows %q", f)
	}
	f = nodeFlag{newParsed("URL", "", parseNodeURL)}
	if err := f.Set("http://me:secret@127.0.0.1:8332"); err != nil {
		t.Fatal(err)
	}
	if got := f.String(); got != "127.0.0.1:8332" {
		t.Errorf("the flag shows %q", got)
	}
}
