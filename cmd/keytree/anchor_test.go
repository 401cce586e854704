package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/keyserver/anchor"
	"github.com/keytree-bch/keytree/protocol"
)

func TestAnchorUsage(t *testing.T) {
	anchored := func(more ...string) []string {
		return append([]string{"serve", "--node", goodURL, "--data-dir", filepath.Join(t.TempDir(), "none"),
			"--keyserver-domain", "example.org", "--anchor-key-file", "x"}, more...)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"anchor"}, "expected one of: anchor status, anchor list, anchor rotate"},
		{[]string{"anchor", "status"}, "no domain given"},
		{[]string{"serve", "--node", goodURL, "--anchor-key-file", "x"}, "--anchor-key-file goes with --keyserver-domain"},
		{[]string{"serve", "--node", goodURL, "--keyserver-domain", "example.org", "--anchor-interval", "2h"}, "--anchor-interval goes with --anchor-key-file"},
		{[]string{"keyserver", "serve", "--keyserver-domain", "example.org", "--anchor-key-file", "x"}, "--anchor-key-file needs an index of the chain"},
		{anchored("--anchor-interval", "1ms"), "--anchor-interval: expected at least 1s, got 1ms"},
		{anchored("--anchor-heartbeat", "1m"), "heartbeat: expected the interval, 1h0m0s, to 168h0m0s, got 1m0s"},
		{anchored("--anchor-chain", "x"), "--anchor-chain: expected none, or the txid of a genesis anchor"},
		{[]string{"serve", "--node", goodURL, "--keyserver-domain", "example.org", "--data-dir", filepath.Join(t.TempDir(), "none"), "--anchor-chain", strings.Repeat("0", 64)},
			"--anchor-chain goes with --anchor-key-file"},
		{anchored("--anchor-interval", "soon"), "--anchor-interval: expected a duration"},
		{anchored("--anchor-max-entries", "0"), "--anchor-max-entries: expected a whole number from 1"},
		{anchored("--anchor-fee-rate", "101"), "--anchor-fee-rate: expected a whole number from 1 to 100"},
	} {
		keytree(t, test.args...).wantError(t, exitUsage, test.want)
	}
	keytree(t, "anchor", "status", "--keyserver-domain", "example.org", "--data-dir", t.TempDir()).
		wantError(t, exitFailed, "no server is running on this data folder")
	for _, command := range []string{"status", "list", "rotate"} {
		wantParts(t, mustKeytree(t, "anchor", command, "--help"), "Examples:", "keytree anchor "+command)
	}
	if code := qrCode("bchreg:q"); strings.Count(code, "\n") < 10 || !strings.Contains(code, "▄") {
		t.Errorf("not a QR code:\n%s", code)
	}
}

// anchoredServer is a server process whose keyserver anchors.
type anchoredServer struct {
	*keyserverProgram
	node *regtest.Node
	grpc string
	dir  string
}

func startAnchored(t *testing.T, n *regtest.Node, dir string, more ...string) *anchoredServer {
	t.Helper()
	return startBeside(t, n, dir, append(more,
		"--anchor-key-file", filepath.Join(dir, "anchor.key"), "--anchor-interval", "1s", "--anchor-fee-rate", "1")...)
}

// startBeside starts a server with an index and a keyserver beside it.
func startBeside(t *testing.T, n *regtest.Node, dir string, more ...string) *anchoredServer {
	t.Helper()
	args := append(append(serveArgs(n.URL(), dir), "--keyserver-tokens", "open"), more...)
	s := &anchoredServer{keyserverProgram: startKeyserver(t, args...), node: n, dir: dir}
	s.grpc, _ = s.awaitServing()
	return s
}

func (s *anchoredServer) command(args ...string) outcome {
	s.t.Helper()
	return keytree(s.t, append(args, "--keyserver-domain", "example.org", "--data-dir", s.dir)...)
}

func (s *anchoredServer) must(args ...string) string {
	s.t.Helper()
	o := s.command(args...)
	if o.code != exitDone {
		s.t.Fatalf("%q: exit code %d: %s", args, o.code, o.stderr)
	}
	return o.stdout
}

func (s *anchoredServer) status() (status anchor.Status) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(s.must("anchor", "status", "--json")), &status); err != nil {
		s.t.Fatal(err)
	}
	return status
}

// awaitAnchor mines until so many anchors are confirmed.
func (s *anchoredServer) awaitAnchor(count uint32) anchor.Status {
	s.t.Helper()
	var status anchor.Status
	regtest.Await(s.t, func() string {
		if status = s.status(); status.Last != nil && status.Last.Number+1 >= count {
			return ""
		}
		if len(status.Pending) > 0 {
			mine(s.t, s.grpc, s.node)
		}
		return fmt.Sprintf("there are no %d anchors: %+v; standard error:\n%s", count, status, s.errors())
	})
	return status
}

// TestAnchoring runs a server whose keyserver anchors on a real node: kills it, undoes
// blocks, changes the key, and restores an old backup.
func TestAnchoring(t *testing.T) {
	n := regtest.ForTest(t, regtest.Options{Blocks: 110, Args: []string{"--minrelaytxfee=0.00003"}})
	dir := t.TempDir()
	if err := n.Halt(); err != nil {
		t.Fatal(err)
	}
	s := startAnchored(t, n, dir)

	// Nobody is answered until the comparison has been made.
	response, err := s.client.Post(s.url, "application/json", strings.NewReader(`{"jsonrpc":"2.0","method":"KeyRepository.Capabilities","params":{},"id":1}`))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("JSON-RPC answers %s before the anchors are compared", response.Status)
	}
	wantParts(t, string(mustGet(t, s.program, "/v1/keyserver/head")), "held back")
	wantParts(t, string(mustGet(t, s.program, "/readyz")), `"ready":false`, "held back")
	s.command("keyserver", "rotate-key").wantError(t, exitFailed, "held back")
	s.command("anchor", "rotate").wantError(t, exitFailed, "held back")
	if err := n.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.await(&s.stderr, "the hashchain agrees with its anchors")
	uri := s.await(&s.stderr, "pay for the first anchors")

	status := s.status()
	wantParts(t, uri, `"uri":"`+status.Address+"?")
	wantParts(t, s.must("anchor", "status", "--qr"), status.Address, "none yet", "not anchored  1 of 1 entries", "▄", status.URI)
	payTo(t, n, status.Address, 1_000_000)
	if _, err := n.Mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	status = s.awaitAnchor(1)
	var capabilities struct {
		Capabilities struct{ AnchorChain string } `json:"CAPABILITIES"`
	}
	regtest.Await(t, func() string {
		if s.call("KeyRepository.Capabilities", &capabilities); capabilities.Capabilities.AnchorChain == status.Chain {
			return ""
		}
		return fmt.Sprintf("ANCHORCHAIN is %q, want %s", capabilities.Capabilities.AnchorChain, status.Chain)
	})
	if got := field(t, string(mustGet(t, s.program, "/v1/keyserver/head")), "anchor_chain"); got != status.Chain {
		t.Errorf("the signed head names %q, want %s", got, status.Chain)
	}
	// A link of the key's is not paid with the baton, which would break the chain.
	link := func() outcome {
		return keytree(t, "link", "request", "--parent", regtest.NewKey().Address(), "--key-file", filepath.Join(dir, "anchor.key"),
			"--network", "regtest", "--node", n.URL(), "--server", s.grpc, "--fee-rate", "3")
	}
	link().wantError(t, exitFailed, "the baton of a chain of anchors ("+status.Chain+":0) is left alone")
	payTo(t, n, status.Address, 10_000)
	if o := link(); o.code != exitDone {
		t.Errorf("exit code %d: %s", o.code, o.stderr)
	}
	backup := filepath.Join(t.TempDir(), "backup")
	s.must("keyserver", "backup", backup)
	oldKey, err := os.ReadFile(filepath.Join(dir, "keyserver.key"))
	if err != nil {
		t.Fatal(err)
	}

	s.must("keyserver", "rotate-key")
	s.awaitAnchor(2)
	if _, err := n.Reorg(t.Context(), 2, nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	s.awaitAnchor(2)
	s.must("keyserver", "rotate-key")
	s.kill()
	s = startAnchored(t, n, dir)
	s.await(&s.stderr, "the hashchain agrees with its anchors")
	s.awaitAnchor(3)
	wantParts(t, s.must("anchor", "rotate"), "the anchor key was replaced by transaction ")
	if after := s.status(); after.Address == status.Address || !after.OldKey {
		t.Errorf("after the change of keys: %+v", after)
	}
	s.awaitAnchor(4)
	s.must("keyserver", "rotate-key")
	last := s.awaitAnchor(5)
	if last.Chain != status.Chain || last.Last.Position != 3 || last.NotAnchored != 0 || last.Problem != "" {
		t.Errorf("the status is %+v of %+v", last, last.Last)
	}
	wantParts(t, s.must("anchor", "status"), "heartbeat ", "with a block of 20", "unless an entry comes before")
	list := strings.Split(strings.TrimSpace(s.must("anchor", "list")), "\n")
	if len(list) != 5 || !strings.HasSuffix(list[0], status.Chain) || !strings.HasPrefix(list[4], "4\t3\t") {
		t.Errorf("listed\n%s", strings.Join(list, "\n"))
	}
	if code := s.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("exit code %d; standard error:\n%s", code, s.errors())
	}
	if strings.Contains(s.errors(), wifIn(t, filepath.Join(dir, "anchor.key"))) {
		t.Error("the key is in the log")
	}

	// Nothing that would go on unchecked is done on this folder.
	s.command("keyserver", "rotate-key").wantError(t, exitFailed, "could fork history")
	s.command("keyserver", "serve").wantError(t, exitFailed, "could fork history")
	s.command("serve", "--node", n.URL(), "--network", "regtest").wantError(t, exitFailed, "could fork history")

	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "keyserver")), os.WriteFile(filepath.Join(dir, "keyserver.key"), oldKey, 0o600)); err != nil {
		t.Fatal(err)
	}
	s.must("keyserver", "restore", backup)
	s = startAnchored(t, n, dir)
	s.wantKeyserverFailed("anchors: the keyserver must not be served: an anchor is ahead of the hashchain", last.Last.TxID,
		fmt.Sprintf("confirmed in block %d", last.Last.Height), "commits to position 3", "the hashchain ends at position 0")
	s.kill()

	// Nor with nothing but the backup and the keyserver's key, as on another machine.
	for _, file := range []string{"anchor.key", "anchor.key.previous", "keyserver-anchor.json"} {
		if err := os.Remove(filepath.Join(dir, file)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	s.command("keyserver", "rotate-key").wantError(t, exitFailed, "could fork history")
	s.command("serve", "--node", n.URL(), "--network", "regtest").wantError(t, exitFailed, "could fork history")
	s = startAnchored(t, n, dir)
	s.wantKeyserverFailed("an anchor is ahead of the hashchain", last.Last.TxID)
}

// TestHeartbeatOfServer has a keyserver at rest repeat its anchor as blocks come.
func TestHeartbeatOfServer(t *testing.T) {
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	s := startAnchored(t, n, t.TempDir(), "--anchor-heartbeat", "5s")
	s.await(&s.stderr, "pay for the first anchors")
	payTo(t, n, s.status().Address, 1_000_000)
	if _, err := n.Mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	first := s.awaitAnchor(1)
	regtest.Await(t, func() string {
		mine(t, s.grpc, s.node)
		if status := s.status(); status.Last.Number < 2 {
			return fmt.Sprintf("it does not repeat its anchor: %+v, due at %v", status, status.Heartbeat)
		}
		return ""
	})
	if last := s.status(); last.Last.Position != first.Last.Position || last.Last.Head != first.Last.Head || last.Chain != first.Chain {
		t.Errorf("it made %+v after %+v", last.Last, first.Last)
	}
}

// restore puts a backup and the server's key that belongs to it in the place of what is
// there.
func (s *anchoredServer) restore(backup string, key []byte) {
	s.t.Helper()
	if err := errors.Join(os.RemoveAll(filepath.Join(s.dir, "keyserver")), os.WriteFile(filepath.Join(s.dir, "keyserver.key"), key, 0o600)); err != nil {
		s.t.Fatal(err)
	}
	s.must("keyserver", "restore", backup)
}

// beginChain begins a chain of anchors for the domain, as anybody can.
func beginChain(t *testing.T, n *regtest.Node, position uint64) {
	t.Helper()
	script, err := (&protocol.Anchor{Domain: "example.org", Position: position}).Script()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Fund(t.Context(), wire.NewTxOut(0, script, wire.TokenData{})); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
}

// TestBackupFromBeforeTheFirstAnchor restores backups that name no chain of anchors.
func TestBackupFromBeforeTheFirstAnchor(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a server for each of many orders of backups and keys")
	}
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	dir := t.TempDir()
	s := startAnchored(t, n, dir)
	s.await(&s.stderr, "the hashchain agrees with its anchors")
	backup := func() (file string, key []byte) {
		file = filepath.Join(t.TempDir(), "backup")
		s.must("keyserver", "backup", file)
		key, err := os.ReadFile(filepath.Join(dir, "keyserver.key"))
		if err != nil {
			t.Fatal(err)
		}
		return file, key
	}
	older, olderKey := backup()
	s.must("keyserver", "rotate-key")
	newer, newerKey := backup()
	payTo(t, n, s.status().Address, 1_000_000)
	if _, err := n.Mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	chain := s.awaitAnchor(1).Chain
	if code := s.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("exit code %d; standard error:\n%s", code, s.errors())
	}
	refused := func(s *anchoredServer, want ...string) {
		t.Helper()
		s.wantKeyserverFailed(want...)
		if code := s.signal(syscall.SIGTERM); code != exitDone {
			t.Errorf("exit code %d; standard error:\n%s", code, s.errors())
		}
	}
	answers := func(s *anchoredServer, why string) {
		t.Helper()
		s.await(&s.stderr, why)
		awaitHead(t, s)
		if code := s.signal(syscall.SIGTERM); code != exitDone {
			t.Errorf("exit code %d; standard error:\n%s", code, s.errors())
		}
	}

	// The anchor key alone tells which chain it is.
	if err := os.Remove(filepath.Join(dir, "keyserver-anchor.json")); err != nil {
		t.Fatal(err)
	}
	s.restore(older, olderKey)
	refused(startAnchored(t, n, dir), "an anchor is ahead of the hashchain", chain)

	// Without it somebody has to say.
	if err := os.Remove(filepath.Join(dir, "anchor.key")); err != nil {
		t.Fatal(err)
	}
	refused(startBeside(t, n, dir), "chains of anchors that may be this keyserver's", "chain "+chain, "is ahead of the hashchain", "--anchor-chain none")
	refused(startAnchored(t, n, dir), "chains of anchors that may be this keyserver's", "chain "+chain)
	refused(startAnchored(t, n, dir, "--anchor-chain", strings.Repeat("1", 64)), "there is no such chain of anchors")
	refused(startAnchored(t, n, dir, "--anchor-chain", chain), "an anchor is ahead of the hashchain", chain)
	s.restore(newer, newerKey)
	refused(startAnchored(t, n, dir), "chain "+chain, "agrees with the hashchain")
	answers(startAnchored(t, n, dir, "--anchor-chain", chain), "the hashchain agrees with its anchors")
	answers(startAnchored(t, n, dir), "the hashchain agrees with its anchors") // its database names it now

	// None of them: said once, whatever strangers do afterwards.
	s.restore(older, olderKey)
	answers(startBeside(t, n, dir, "--anchor-chain", "none"), `"message":"serving"`)
	beginChain(t, n, 7)
	answers(startBeside(t, n, dir), `"message":"serving"`)
	answers(startAnchored(t, n, dir), "the hashchain agrees with its anchors")
}

// TestStrangersChain runs a keyserver that was never anchored, on a chain where others
// begin chains of anchors for its domain.
func TestStrangersChain(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a server for each of many chains")
	}
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	dir := t.TempDir()
	beginChain(t, n, 0) // of another entry 0: of another keyserver for sure
	if err := n.Halt(); err != nil {
		t.Fatal(err)
	}
	s := startBeside(t, n, dir)
	s.await(&s.stderr, "is held back until the index has caught up")
	wantParts(t, string(mustGet(t, s.program, "/v1/keyserver/head")), "held back")
	if err := n.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.await(&s.stderr, "no chain of anchors is the keyserver's: the keyserver answers")
	beginChain(t, n, 7) // while it runs
	regtest.Await(t, func() string {
		if body := string(mustGet(t, s.program, "/v1/anchors/chains?domain=example.org")); strings.Count(body, `"chain_tx_hash"`) < 2 {
			return body
		}
		return ""
	})
	wantParts(t, string(mustGet(t, s.program, "/v1/keyserver/head")), `"size":`)
	s.kill()
	s = startBeside(t, n, dir)
	s.wantKeyserverFailed("its first anchor, at position 7, is ahead of the hashchain", "--anchor-chain none")
	s.kill()
	for range 2 {
		s = startBeside(t, n, dir, "--anchor-chain", "none")
		beginChain(t, n, 8)
		s.kill()
	}
	s = startBeside(t, n, dir)
	awaitHead(t, s)
}

// awaitHead waits until a keyserver answers: it serves before it has compared its hashchain
// with what was anchored.
func awaitHead(t *testing.T, s *anchoredServer) {
	t.Helper()
	regtest.Await(t, func() string {
		if body := string(mustGet(t, s.program, "/v1/keyserver/head")); !strings.Contains(body, `"size":`) {
			return body
		}
		return ""
	})
}

func wifIn(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimSpace(content))
}

// payTo makes a payment to an address.
func payTo(t *testing.T, n *regtest.Node, address string, value int64) {
	t.Helper()
	to, err := bchutil.DecodeAddress(address, regtest.Params)
	if err != nil {
		t.Fatal(err)
	}
	script, err := txscript.PayToAddrScript(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Fund(t.Context(), wire.NewTxOut(value, script, wire.TokenData{})); err != nil {
		t.Fatal(err)
	}
}
