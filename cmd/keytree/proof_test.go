package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/keyserver"
)

// startWitnessed starts a keyserver and a witness of its log, each a program, and returns where the
// policy is that names both.
func startWitnessed(t *testing.T, dir string) (s *keyserverProgram, w *program, policy string) {
	t.Helper()
	file := func(name string) string { return filepath.Join(dir, name) }
	serve := []string{"keyserver", "serve", "--keyserver-tokens", "open", "--data-dir", file("data")}
	s = startKeyserver(t, serve...)
	var answer struct {
		Capabilities keyserver.Capabilities `json:"CAPABILITIES"`
	}
	s.call("KeyRepository.Capabilities", &answer)
	s.kill()
	log := "log " + answer.Capabilities.LogVKey + "\n"
	write(t, file("logs"), log+"quorum none\n")
	w = startProgram(t, nil, "witness", "--key", file("witness.key"), "--logs", file("logs"), "--listen", "127.0.0.1:0", "--log-format", "json", "--name", "witness.example/w")
	var serving struct{ Witness, Key string }
	if err := json.Unmarshal([]byte(w.await(&w.stderr, `"message":"serving"`)), &serving); err != nil {
		t.Fatal(err)
	}
	write(t, file("policy"), fmt.Sprintf("%switness w %s http://%s\nquorum w\n", log, serving.Key, serving.Witness))
	return startKeyserver(t, append(serve, "--witness-policy", file("policy"), "--witness-interval", "1s")...), w, file("policy")
}

// TestProofOfEntry has a user pin a witness, prove an entry, and somebody else verify it without the
// keyserver; and an auditor audit the log.
func TestProofOfEntry(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	withPassphrase(t)
	defer http.DefaultClient.CloseIdleConnections()
	node := regtest.ForTest(t, regtest.Options{Blocks: 101})
	anchors := newAnchorer(t, node)
	dir := t.TempDir()
	s, w, policy := startWitnessed(t, dir)
	user := []string{"--user-dir", filepath.Join(dir, "alice")}
	as := func(args ...string) []string { return append(append([]string{"user"}, args...), user...) }
	anchors.anchor(s.url) // the genesis anchor
	mustKeytree(t, as("init", "--keyserver", s.url)...)
	mustKeytree(t, as("create", "alice@example.org")...)
	keytree(t, as("sync", "--policy", filepath.Join(dir, "logs"))...).wantError(t, exitUsage, "demands no witness")
	witnessed := func(entries uint64) {
		t.Helper()
		regtest.Await(t, func() string {
			o := keytree(t, as("sync", "--json", "--policy", policy)...)
			var status userStatus
			if err := json.Unmarshal([]byte(o.stdout), &status); o.code != exitDone || err != nil {
				return fmt.Sprintf("%+v, %v", o, err)
			}
			if got := status.Witnessed; got == nil || got.Entries < entries {
				return fmt.Sprintf("witnessed: %+v", got)
			}
			return ""
		})
	}
	witnessed(2)
	wantParts(t, mustKeytree(t, as("status")...), "witnessed    2 entries, by w; 0 behind them not yet")

	proofFile := filepath.Join(dir, "alice.tlog-proof")
	prove := as("proof", "alice@example.org", "--network", "regtest", "--genesis", anchors.chain.String(), "--out", proofFile)
	keytree(t, append(prove, "--bundle", anchors.bundle())...).wantError(t, exitFailed, "no anchor covers position 1 yet")
	anchors.anchor(s.url)
	bundle := anchors.bundle()
	said := mustKeytree(t, append(prove, "--bundle", bundle)...)
	_, block, _ := strings.Cut(strings.TrimSpace(said), "anchored in block ")

	// Anybody may ask a witness, too, that is away: who has seen a quorum lately goes on.
	if code := w.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("the witness ended with %d", code)
	}
	mustKeytree(t, as("sync")...)
	audited := mustKeytree(t, "audit", "--network", "regtest", "--genesis", anchors.chain.String(), "--keyserver", s.url, "--bundle", bundle,
		"--node", node.URL(), "--state", filepath.Join(dir, "audit"), "--policy", policy)
	wantParts(t, audited, "verdict       sound up to position 1", "checkpoint: passed: of 2 entries, cosigned by w")
	s.kill()

	verify := func(more ...string) outcome {
		return keytree(t, append([]string{"verify-proof", proofFile, "--network", "regtest"}, more...)...)
	}
	pinned := []string{"--policy", policy, "--genesis", anchors.chain.String()}
	known := append(pinned, "--checkpoint", block)
	for _, more := range [][]string{known, append(pinned, "--node", node.URL())} {
		if o := verify(append(more, "--name", "alice@example.org")...); o.code != exitDone {
			t.Errorf("%+v", o)
		} else {
			wantParts(t, o.stdout, "the entry at position 1, of alice@example.org", "cosigned  by w", "anchor 1, tx", "2 blocks with anchors")
		}
	}
	verify(append(known, "--name", "bert@example.org")...).wantError(t, exitFailed, "is not one of bert@example.org")
	verify("--policy", policy, "--genesis", someTxID, "--checkpoint", block).wantError(t, exitFailed, "not a proof of the entry")
	verify(append(pinned, "--checkpoint", "7:"+someTxID)...).wantError(t, exitFailed, "pin that")
	verify("--genesis", someTxID, "--checkpoint", block).wantError(t, exitUsage, "expected --policy FILE")
	verify("--policy", policy, "--checkpoint", block).wantError(t, exitUsage, "expected --genesis TXID")
	verify(pinned...).wantError(t, exitUsage, "expected a block that is known")
	raw, err := os.ReadFile(proofFile)
	if err != nil {
		t.Fatal(err)
	}
	write(t, proofFile, strings.Replace(string(raw), "index 1\n", "index 0\n", 1))
	verify(known...).wantError(t, exitFailed, "not a proof of the entry")
}
