package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/protocol"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// TestStateLog runs a server that publishes its states and cosigns those of others, as a program. Two hours pass while it
// is ended. It cosigns what is its own, and refuses and keeps what is not.
func TestStateLog(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts processes")
	}
	n := regtest.ForTest(t, regtest.Options{Blocks: 30})
	data := t.TempDir()
	file := func(name string) string { return filepath.Join(data, name) }
	args := append(serveArgs(n.URL(), data), "--state-log-key", file("state.key"), "--state-log-host", "keys.example.org")
	s := startProgram(t, nil, args...)
	server, _ := s.awaitServing()
	awaitTip(t, server, n)
	if code := s.signal(syscall.SIGTERM); code != exitDone {
		t.Fatalf("ended with %d: %s", code, s.errors())
	}
	height, tip, err := n.Tip(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	write(t, file("state-log/known.json"), fmt.Sprintf(`[{"time":%d,"height":%d,"block":"%v"}]`, time.Now().Add(-2*time.Hour).Unix(), height, tip))
	secret, err := os.ReadFile(file("state.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := format.ParseKey(strings.TrimSpace(string(secret)))
	if err != nil {
		t.Fatal(err)
	}
	write(t, file("logs"), "log "+key.Log().String()+"\nquorum none\n")
	s = startProgram(t, nil, append(args, "--cosign-key", file("witness.key"), "--cosign-name", "witness.example/w", "--cosign-logs", file("logs"))...)
	_, rest := s.awaitServing()
	prefix := "http://" + rest + "/state/"
	get := func(path string) (int, []byte) {
		t.Helper()
		response, err := http.Get(prefix + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, body
	}
	var signed []byte
	var c format.Checkpoint
	regtest.Await(t, func() string {
		var code int
		if code, signed = get("regtest/1/1/checkpoint"); code != http.StatusOK {
			return fmt.Sprintf("%d: %s", code, signed)
		}
		if c, err = format.Open(signed, key.Log()); err != nil {
			t.Fatal(err)
		}
		return ""
	})
	if c.Size != 21 || c.Origin != "keys.example.org/state/regtest/1/1" {
		t.Errorf("checkpoint %+v", c)
	}
	code, bundle := get("regtest/1/1/tile/entries/000.p/21")
	entries, err := format.ParseBundle(bundle, 21)
	if err != nil || code != http.StatusOK {
		t.Fatalf("%d, %v: %s", code, err, bundle)
	}
	e, err := protocol.DecodeStateEntry(entries[20])
	hash, hashErr := n.BlockHash(t.Context(), 20)
	if err != nil || hashErr != nil || e.Height != 20 || e.Block != hash {
		t.Errorf("%+v, %v, %v", e, err, hashErr)
	}
	for _, path := range []string{"regtest/1/2/checkpoint", "regtest/1/01/checkpoint", "mainnet/1/1/checkpoint", "regtest/1/1", "regtest/1/1/tile/0/001", ""} {
		if code, body := get(path); code != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	submit := func(signed []byte) (int, string) {
		t.Helper()
		submission := format.Submission{Checkpoint: signed}
		response, err := http.Post(prefix+"add-checkpoint", "text/plain", bytes.NewReader(submission.Marshal()))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	if code, body := submit(signed); code != http.StatusOK || !strings.HasPrefix(body, "— witness.example/w ") {
		t.Errorf("its own: %d %s", code, body)
	}
	lie := c
	lie.Root[0] ^= 1
	if code, body := submit(key.Sign(lie)); code != http.StatusForbidden {
		t.Errorf("another root: %d %s", code, body)
	}
	lie = c
	lie.Size = 1000
	if code, body := submit(key.Sign(lie)); code != http.StatusServiceUnavailable {
		t.Errorf("more than is computed: %d %s", code, body)
	}
	kept, err := os.ReadDir(file("state-evidence"))
	if err != nil || len(kept) != 1 {
		t.Fatalf("kept %v, %v", kept, err)
	}
	o := keytree(t, "audit", "verify-evidence", filepath.Join(file("state-evidence"), kept[0].Name()), "--log-key", key.Log().String())
	if o.code != exitFailed {
		t.Errorf("evidence without an entry: %+v", o)
	}
	wantParts(t, o.stdout, "convicts nobody", "not found out")
	if code := s.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("ended with %d: %s", code, s.errors())
	}
	keytree(t, append(args, "--state-root", "off")...).wantError(t, exitUsage, "expected --state-root on")
}

func TestStateLogFlags(t *testing.T) {
	serve := []string{"serve", "--node", "http://me:password@127.0.0.1:1", "--data-dir", t.TempDir()}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--state-log-host", "a.example"}, "go with --state-log-key"},
		{[]string{"--state-log-key", "k"}, "needs --state-log-host"},
		{[]string{"--anchor-state", "k"}, "go with --state-log-key"},
		{[]string{"--anchor-state", "k", "--state-log-key", "k", "--state-log-host", strings.Repeat("a", 50) + ".example"}, "expected a shorter --state-log-host"},
		{[]string{"--state-log-key", "k", "--state-log-host", "A/b"}, "--state-log-host: "},
		{[]string{"--state-log-key", "k", "--state-log-host", "a.example", "--state-root", "off"}, "expected --state-root on"},
		{[]string{"--cosign-logs", "l"}, "go with --cosign-key"},
		{[]string{"--cosign-key", "k"}, "needs --cosign-logs"},
		{[]string{"--cosign-key", filepath.Join(t.TempDir(), "k"), "--cosign-logs", "l"}, "expected --cosign-name"},
	} {
		keytree(t, append(serve, test.args...)...).wantError(t, exitUsage, test.want)
	}
}

// TestVerifyStateEvidence convicts a state log of a block's state for who knows the log and the state.
func TestVerifyStateEvidence(t *testing.T) {
	key, err := format.GenerateKey("keys.example.org/state/regtest/1/1")
	if err != nil {
		t.Fatal(err)
	}
	truth := protocol.StateEntry{Block: chainhash.Hash{1}, StateHash: [32]byte{2}, StateRoot: [32]byte{3}}
	lie := truth
	lie.StateRoot = [32]byte{4}
	entry, computed := lie.Bytes(), truth.Bytes()
	root := format.Hash(sha256.Sum256(append([]byte{0}, entry[:]...)))
	s := audit.StateLog{
		Key: key.Log().String(), Checkpoint: string(key.Sign(format.Checkpoint{Origin: key.Name(), Size: 1, Root: root})),
		Entry: entry[:], Computed: computed[:],
	}
	path := filepath.Join(t.TempDir(), "evidence.json")
	if err := audit.NewStateEvidence("keys.example.org", s, 1).Write(path); err != nil {
		t.Fatal(err)
	}
	states := func(e protocol.StateEntry) string { return fmt.Sprintf("%v:%x:%x", e.Block, e.StateHash, e.StateRoot) }
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--log-key", key.Log().String(), "--state", states(truth)}, exitMisbehaviour, "verdict   misbehaviour\nevidence  by state entry, of a state log of keys.example.org"},
		{[]string{"--log-key", key.Log().String()}, exitFailed, "which state is the block's?"},
		{[]string{"--state", states(truth)}, exitFailed, "about whom?"},
		{[]string{"--log-key", key.Log().String(), "--state", states(lie)}, exitFailed, "convicts nobody"},
	} {
		o := keytree(t, append([]string{"audit", "verify-evidence", path}, test.args...)...)
		if o.code != test.code {
			t.Errorf("%v: %+v", test.args, o)
		}
		wantParts(t, o.stdout, test.want, truth.Block.String())
	}
	keytree(t, "audit", "verify-evidence", path, "--state", "1:2:3").wantError(t, exitUsage, "expected a block's hash")
	keytree(t, "audit", "verify-evidence", path, "--log-key", "x").wantError(t, exitUsage, "expected an Ed25519 key")
}

// TestAnchorState anchors a state log on a real chain, and compares the anchor with the log.
func TestAnchorState(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a process")
	}
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	dir := t.TempDir()
	ownStateLog(t, dir)
	s := startProgram(t, nil, append(serveArgs(n.URL(), dir), "--state-log-key", filepath.Join(dir, "state.key"), "--state-log-host", "example.org",
		"--anchor-state", filepath.Join(dir, "anchor.key"))...)
	server, rest := s.awaitServing()
	awaitTip(t, server, n)
	uri := field(t, s.await(&s.stderr, "pay for the first anchors"), "uri")
	address, _, _ := strings.Cut(uri, "?")
	payTo(t, n, address, 100_000)
	mine(t, server, n)
	s.await(&s.stderr, "the node has the anchor")
	mine(t, server, n)
	var answer struct {
		Anchors []struct {
			Position   string
			Head, Root []byte
		}
	}
	regtest.Await(t, func() string {
		text := mustGet(t, s, "/v1/anchors?domain=state.regtest.example.org")
		if err := json.Unmarshal(text, &answer); err != nil {
			t.Fatal(err)
		}
		if len(answer.Anchors) != 1 {
			return string(text)
		}
		return ""
	})
	response, err := http.Get("http://" + rest + "/state/regtest/1/1/tile/entries/000.p/1")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	bundle, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := format.ParseBundle(bundle, 1)
	if err != nil {
		t.Fatal(err)
	}
	head, root := sha256.Sum256(entries[0]), sha256.Sum256(append([]byte{0}, entries[0]...))
	if a := answer.Anchors[0]; a.Position != "0" || !bytes.Equal(a.Head, head[:]) || !bytes.Equal(a.Root, root[:]) {
		t.Errorf("anchor %+v; want head %x and root %x", a, head, root)
	}
	if code := s.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("ended with %d: %s", code, s.errors())
	}
}

// TestPolicyOfStateLog makes the policy by which pages check the proofs of a server of what its operator has: it names
// that server's log alone, and the operator's witnesses.
func TestPolicyOfStateLog(t *testing.T) {
	key := func(name string) *format.Key {
		k, err := format.GenerateKey(name)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	log, other, witness := key("log.example/state/regtest/1/1").Log(), key("other.example/state/regtest/1/1").Log(), key("witness.example").Witness()
	for _, witnesses := range []string{
		"", fmt.Sprintf("# ours\n log %v https://other.example\nlog %v\nwitness w %v https://witness.example\nquorum w", other, log, witness),
	} {
		text := policyOf(log, witnesses)
		p, err := format.ParsePolicy([]byte(text))
		if err != nil {
			t.Errorf("%v:\n%s", err, text)
			continue
		}
		if len(p.Logs) != 1 || p.Log(log.Name()) == nil || p.Demands() != (witnesses != "") {
			t.Errorf("of the witnesses %q a policy is made that says\n%s", witnesses, text)
		}
	}
}
