package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/keyserver/audit"
	keyclient "github.com/keytree-bch/keytree/keyserver/client"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
)

func TestAuditUsage(t *testing.T) {
	good := []string{"--genesis", someTxID, "--state", t.TempDir()}
	with := func(args []string, more ...string) []string { return append(append([]string{}, args...), more...) }
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "no genesis anchor given: expected --genesis TXID"},
		{[]string{"now"}, `"now"`},
		{[]string{"--genesis", txid31}, "--genesis: expected 64 hex characters, got 62"},
		{good, "expected what to audit from one of --keyserver URL and --entries FILE"},
		{with(good, "--keyserver", "http://"+nowhere+"/", "--entries", "x"), "expected what to audit from one of"},
		{with(good, "--entries", "x", "--keyserver-grpc", nowhere), "--keyserver-grpc goes with --keyserver"},
		{with(good, "--keyserver", "ftp://example.org/"), "--keyserver: expected a keyserver's URL"},
		{with(good, "--entries", "x", "--headers", "x"), "--headers and --checkpoint go together"},
		{with(good, "--entries", "x", "--checkpoint", "1:"+someTxID), "--headers and --checkpoint go together"},
		{with(good, "--entries", "x", "--headers", "x", "--checkpoint", "1:"+someTxID, "--node", goodURL), "expected one of --node and --headers, got both"},
		{with(good, "--entries", "x", "--checkpoint", "800000"), "--checkpoint: expected a block as HEIGHT:HASH"},
		{with(good, "--entries", "x", "--max-age", "-1h"), "--max-age: expected a duration such as 90m"},
		{with(good, "--entries", "x", "--max-age", "3"), "--max-age: expected a duration such as 90m"},
		{with(good, "--entries", "x", "--metrics-listen", nowhere), "--metrics-listen goes with --watch"},
		{with(good, "--entries", "x", "--watch", "--every", "1ms"), "--every: expected a second at least"},
		{with(good, "--entries", "x", "--policy", "x"), "--policy goes with --keyserver"},
		{with(good, "--entries", "x", "--network", "main"), "--network: unknown network"},
		{[]string{"bundle"}, "no chain of anchors given: expected --genesis TXID"},
		{[]string{"bundle", "--genesis", someTxID}, "no file given: expected --out FILE"},
		{[]string{"headers"}, "no node given: expected --node URL"},
		{[]string{"headers", "--node", goodURL}, "no height given: expected --from HEIGHT"},
		{[]string{"headers", "--node", goodURL, "--from", "0"}, "no file given: expected --out FILE"},
		{[]string{"verify-evidence"}, "expected FILE, got nothing"},
		{[]string{"verify-evidence", "x", "--fingerprint", "xyz"}, "--fingerprint: expected 64 hex characters"},
		{[]string{"verify-evidence", "x", "--rotation", "-1"}, "--rotation"},
		{[]string{"verify-evidence", "x", "--headers", "x"}, "--headers and --checkpoint go together"},
	} {
		keytree(t, append([]string{"audit"}, test.args...)...).wantError(t, exitUsage, test.want)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{with(good, "--entries", "x", "--headers", "/nonexistent", "--checkpoint", "1:"+someTxID), "--headers: open /nonexistent"},
		{with(good, "--entries", "x", "--headers", secretFile(t, "x"), "--checkpoint", "1:"+someTxID), "expected a multiple of 80 bytes"},
		{[]string{"verify-evidence", "/nonexistent"}, "open /nonexistent"},
		{[]string{"verify-evidence", secretFile(t, "{}")}, "not evidence of misbehaviour"},
		{[]string{"bundle", "--genesis", someTxID, "--out", filepath.Join(t.TempDir(), "x"), "--server", nowhere}, "is keytree serve running there?"},
	} {
		keytree(t, append([]string{"audit"}, test.args...)...).wantError(t, exitFailed, test.want)
	}
	for _, command := range []string{"bundle", "headers", "verify-evidence"} {
		wantParts(t, mustKeytree(t, "audit", command, "--help"), "Examples:", "keytree audit "+command)
	}
	wantParts(t, mustKeytree(t, "audit", "--help"), "Examples:", "keytree audit --genesis")
}

// anchorer anchors a keyserver on a node by hand.
type anchorer struct {
	t     *testing.T
	node  *regtest.Node
	key   *regtest.Key
	coin  regtest.Coin // the baton
	chain chainhash.Hash
	items []*proof.BundleItem
}

func newAnchorer(t *testing.T, node *regtest.Node) *anchorer {
	t.Helper()
	a := &anchorer{t: t, node: node, key: regtest.NewKey()}
	var err error
	if a.coin, err = node.FundKey(t.Context(), a.key, 1_000_000); err == nil {
		_, err = node.Mine(t.Context(), 1)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// spend spends the baton with a record, or nil, in the next block.
func (a *anchorer) spend(record *protocol.Anchor) {
	a.t.Helper()
	var outputs []*wire.TxOut
	if record != nil {
		script, err := record.Script()
		if err != nil {
			a.t.Fatal(err)
		}
		outputs = append(outputs, wire.NewTxOut(0, script, wire.TokenData{}))
	}
	tx, coin, err := regtest.Spend(a.key, a.coin, outputs...)
	if err != nil {
		a.t.Fatal(err)
	}
	if _, err := a.node.MineBlock(a.t.Context(), tx); err != nil {
		a.t.Fatal(err)
	}
	if len(a.items) == 0 {
		a.chain = coin.OutPoint.Hash
	}
	a.coin = coin
	a.takeUp(tx)
}

// takeUp adds a transaction of the last block to the bundle.
func (a *anchorer) takeUp(tx *wire.MsgTx) {
	a.t.Helper()
	height, hash, err := a.node.Tip(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	block, err := a.node.Block(a.t.Context(), hash)
	if err != nil {
		a.t.Fatal(err)
	}
	var raw bytes.Buffer
	if err := block.Serialize(&raw); err != nil {
		a.t.Fatal(err)
	}
	read, err := protocol.ReadBlock(raw.Bytes())
	if err != nil {
		a.t.Fatal(err)
	}
	for i, in := range read.Txs() {
		if in.TxID() == tx.TxHash() {
			branch, err := read.PartialMerkleTree(i).Branch(i)
			if err != nil {
				a.t.Fatal(err)
			}
			a.items = append(a.items, &proof.BundleItem{
				Height: height, Header: [protocol.HeaderSize]byte(raw.Bytes()), Index: i, Branch: branch, Raw: in,
			})
		}
	}
}

// anchor anchors what a keyserver shows.
func (a *anchorer) anchor(url string) {
	a.t.Helper()
	var c hashchain.Chain
	for entries, err := range keyclient.NewReader(url, nil).Entries(a.t.Context(), 0) {
		if err == nil {
			err = c.Append(entries, nil)
		}
		if err != nil {
			a.t.Fatal(err)
		}
	}
	a.spend(&protocol.Anchor{Domain: "example.org", Position: c.Size - 1, Head: c.Head, Root: c.Root()})
}

// bundle writes the proof bundle.
func (a *anchorer) bundle() string {
	a.t.Helper()
	path := filepath.Join(a.t.TempDir(), "bundle")
	file, err := os.Create(path)
	if err != nil {
		a.t.Fatal(err)
	}
	defer file.Close()
	w, err := proof.NewBundleWriter(file, proof.BundleHeader{Network: regtest.Params.Name, Chain: a.chain})
	if err != nil {
		a.t.Fatal(err)
	}
	for _, it := range a.items {
		if err := w.Write(it); err != nil {
			a.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// TestAudit audits a real keyserver that is anchored on a real chain, and a twin of
// it that shows another history.
func TestAudit(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	withPassphrase(t)
	defer http.DefaultClient.CloseIdleConnections()
	node := regtest.ForTest(t, regtest.Options{Blocks: 101})
	anchors := newAnchorer(t, node)
	serve := func(dir string) (p *keyserverProgram, grpc string) {
		p = startKeyserver(t, "keyserver", "serve", "--data-dir", dir, "--keyserver-tokens", "open")
		grpc, _ = p.awaitServing()
		return p, grpc
	}
	create := func(p *keyserverProgram, name string) {
		dir := t.TempDir()
		mustKeytree(t, "user", "init", "--keyserver", p.url, "--user-dir", dir)
		mustKeytree(t, "user", "create", name+"@example.org", "--user-dir", dir)
	}
	honestDir, twinDir, state := t.TempDir(), t.TempDir(), t.TempDir()
	honest, _ := serve(honestDir)
	anchors.anchor(honest.url)
	create(honest, "alice")
	honest.signal(syscall.SIGTERM)
	if err := os.CopyFS(twinDir, os.DirFS(honestDir)); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{honestDir, twinDir} { // CopyFS keeps no modes
		for _, name := range []string{"keyserver.key", "keyserver-log.key"} {
			if err := os.Chmod(filepath.Join(dir, name), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	honest, grpc := serve(honestDir)
	create(honest, "bert")
	anchors.anchor(honest.url)
	file := anchors.bundle()
	args := func(p *keyserverProgram, more ...string) []string {
		return append([]string{"audit", "--network", "regtest", "--genesis", anchors.chain.String(), "--keyserver", p.url, "--bundle", file}, more...)
	}
	attached := []string{"--node", node.URL()}

	out := mustKeytree(t, args(honest, append(attached, "--state", state, "--keyserver-grpc", grpc)...)...)
	wantParts(t, out, "verdict       sound up to position 2; every entry shown is covered\n", "example.org", "3, the last anchor covers 3", "a history of 3 entries, which is the one shown")
	report := decoded[audit.Report](t, args(honest, append(attached, "--state", state)...)...)
	if report.Verdict != audit.Sound || report.NewEntries != 0 || report.Entries != 3 || report.Anchors != 2 || report.Last.Number != 1 {
		t.Errorf("%+v", report)
	}

	// On a machine without network.
	headers := filepath.Join(t.TempDir(), "headers")
	saved := mustKeytree(t, "audit", "headers", "--network", "regtest", "--node", node.URL(), "--from", "50", "--out", headers)
	_, checkpoint, _ := strings.Cut(strings.TrimSpace(saved), "--checkpoint ")
	offline := []string{"--headers", headers, "--checkpoint", checkpoint}
	chain := filepath.Join(state, "entries")
	known, err := os.ReadFile(chain)
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := hex.EncodeToString(known[:32])
	entries := []string{"audit", "--network", "regtest", "--genesis", anchors.chain.String(), "--entries", chain, "--bundle", file, "--state", t.TempDir()}
	wantParts(t, mustKeytree(t, append(entries, offline...)...), "verdict", "sound", "a file of entries has nothing that is signed")

	// All from a server that has indexed the chain.
	address, _ := startProgram(t, nil, serveArgs(node.URL(), t.TempDir())...).awaitServing()
	awaitTip(t, address, node)
	byServer := []string{"audit", "--network", "regtest", "--genesis", anchors.chain.String(), "--keyserver", honest.url, "--server", address, "--state", t.TempDir()}
	wantParts(t, mustKeytree(t, byServer...), "verdict       sound up to position 2", "2 anchors", "not covered   whether the baton")
	copied := filepath.Join(t.TempDir(), "bundle")
	wantParts(t, mustKeytree(t, "audit", "bundle", "--genesis", anchors.chain.String(), "--server", address, "--out", copied), "2 transactions")
	one, err1 := os.ReadFile(copied)
	two, err2 := os.ReadFile(file)
	if !bytes.Equal(one, two) || err1 != nil || err2 != nil {
		t.Errorf("the server's bundle has %d bytes, expected %d; %v, %v", len(one), len(two), err1, err2)
	}

	// The twin, to an auditor that has seen the other history, and to one that has not.
	twin, twinGRPC := serve(twinDir)
	create(twin, "carol")
	seen := t.TempDir()
	if err := os.CopyFS(seen, os.DirFS(state)); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{seen, t.TempDir()} {
		for _, heads := range [][]string{nil, {"--keyserver-grpc", twinGRPC}} {
			caught := keytree(t, args(twin, append(append(attached, "--state", dir, "--json"), heads...)...)...)
			var report audit.Report
			if err := json.Unmarshal([]byte(caught.stdout), &report); err != nil || caught.code != exitMisbehaviour || len(report.Findings) != 1 || report.Findings[0].Kind != audit.RewrittenEntry {
				t.Fatalf("%+v, %v", caught, err)
			}
			evidence := report.Findings[0].Evidence
			verify := func(more ...string) outcome {
				return keytree(t, append([]string{"audit", "verify-evidence", evidence, "--network", "regtest"}, more...)...)
			}
			pinned := []string{"--fingerprint", fingerprint, "--genesis", anchors.chain.String()}
			for _, headers := range [][]string{attached, offline} {
				shown := verify(append(pinned, headers...)...)
				if wantParts(t, shown.stdout, "verdict   misbehaviour", "a keyserver of example.org", "both cannot be true", "the pinned fingerprint"); shown.code != exitMisbehaviour || strings.Contains(shown.stdout, "compare ") {
					t.Errorf("%+v", shown)
				}
			}
			unknown := verify(attached...)
			if wantParts(t, unknown.stdout, "verdict   consistent, but about whom?", "compare   the fingerprint of the keyserver of example.org is "+fingerprint); unknown.code != exitFailed {
				t.Errorf("%+v", unknown)
			}
			for _, asked := range []struct {
				whom []string
				want string
			}{{nil, "assumes  "}, {[]string{"--keyserver", honest.url}, ""}, {[]string{"--keyserver", twin.url}, ""}} {
				shown := verify(slices.Concat(pinned, attached, asked.whom)...)
				if shown.code != exitMisbehaviour || strings.Contains(shown.stdout, "assumes  ") != (asked.want != "") {
					t.Errorf("asked %v: %+v", asked.whom, shown)
				}
			}
			verify(append(pinned, "--keyserver", "http://127.0.0.1:1/")...).wantError(t, exitFailed, "where it has replaced its key")
			verify(append(attached, "--fingerprint", strings.Repeat("ab", 32))...).wantError(t, exitFailed, "expected the pinned")
			var conviction audit.Conviction
			shown := verify(append(pinned, "--json", "--rotation", "0")...)
			if err := json.Unmarshal([]byte(shown.stdout), &conviction); err != nil || (conviction.Verdict == audit.Misbehaviour) != (shown.code == exitMisbehaviour) {
				t.Errorf("%+v, %v", shown, err)
			}
		}
	}
	auditLogs(t, honest, twin, args, attached, append([]string{"--fingerprint", fingerprint}, "--network", "regtest"))

	// Who goes back to the history from before is not sound again.
	relapsed := keytree(t, args(honest, append(attached, "--state", seen)...)...)
	if relapsed.code != exitMisbehaviour || !strings.Contains(relapsed.stdout, "found by an earlier audit") {
		t.Errorf("%+v", relapsed)
	}
	// To who has not seen the twin it stays sound, until its last anchor is too far behind.
	create(honest, "dora")
	create(honest, "emil")
	wantParts(t, mustKeytree(t, args(honest, append(attached, "--state", state)...)...), "2 entries after the last anchor, from position 3 on")
	stale := keytree(t, args(honest, append(attached, "--state", state, "--max-entries", "1")...)...)
	if stale.code != exitFailed || !strings.Contains(stale.stdout, "verdict       not sound\n") || !strings.Contains(stale.stdout, "too many entries not anchored") {
		t.Errorf("%+v", stale)
	}

	// The node knows more than the bundle.
	next, _, err := regtest.Spend(anchors.key, anchors.coin, anchors.key.Output(1000))
	if err == nil {
		err = node.SubmitTransaction(t.Context(), next)
	}
	if err != nil {
		t.Fatal(err)
	}
	underWay := mustKeytree(t, args(honest, append(attached, "--state", state)...)...)
	if wantParts(t, underWay, "verdict       sound up to position 2; 2 entries after it", "the next anchor is on its way"); strings.Contains(underWay, "whether the baton") {
		t.Errorf("%s", underWay)
	}
	if _, err := node.Mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	withheld := keytree(t, args(honest, append(attached, "--state", state)...)...)
	if wantParts(t, withheld.stdout, "verdict       not sound\n", "baton: failed", "next anchor withheld", "whoever gives it leaves the next one out"); withheld.code != exitFailed {
		t.Errorf("%+v", withheld)
	}
	anchors.takeUp(next)
	file = anchors.bundle()
	broken := keytree(t, args(honest, append(attached, "--state", state)...)...)
	if broken.code != exitMisbehaviour || !strings.Contains(broken.stdout, "baton spent without a record") || !strings.Contains(broken.stdout, "evidence      ") {
		t.Errorf("%+v", broken)
	}
}

// TestAuditReset damages what an audit keeps, and begins again.
// auditLogs has an auditor who knows the honest log see the twin's, which has the same key: that is
// evidence to whoever has pinned the keyserver, without anchors and headers.
func auditLogs(t *testing.T, honest, twin *keyserverProgram, args func(*keyserverProgram, ...string) []string, attached, pinned []string) {
	t.Helper()
	policy := filepath.Join(t.TempDir(), "policy")
	write(t, policy, "quorum none\n")
	for _, p := range []*keyserverProgram{honest, twin} {
		regtest.Await(t, func() string {
			signed, err := keyclient.NewReader(p.url, nil).Checkpoint(t.Context())
			if err != nil || !strings.HasPrefix(string(signed), "example.org/keytree\n3\n") {
				return fmt.Sprintf("the checkpoint is %q (%v)", signed, err)
			}
			return ""
		})
	}
	state := append(attached, "--state", t.TempDir(), "--policy", policy)
	wantParts(t, mustKeytree(t, args(honest, state...)...), "checkpoint: passed: of 3 entries, cosigned by no witness")
	caught := keytree(t, args(twin, append(state, "--json")...)...)
	var report audit.Report
	if err := json.Unmarshal([]byte(caught.stdout), &report); err != nil || caught.code != exitMisbehaviour {
		t.Fatalf("%+v, %v", caught, err)
	}
	i := slices.IndexFunc(report.Findings, func(f audit.Finding) bool { return f.Kind == audit.OtherCheckpoint })
	if i < 0 || report.Findings[i].Evidence == "" {
		t.Fatalf("%+v", report.Findings)
	}
	verify := []string{"audit", "verify-evidence", report.Findings[i].Evidence}
	shown := keytree(t, append(verify, pinned...)...)
	if wantParts(t, shown.stdout, "verdict   misbehaviour", "by two checkpoints", "both cannot be true"); shown.code != exitMisbehaviour {
		t.Errorf("%+v", shown)
	}
	if unknown := keytree(t, verify...); unknown.code != exitFailed || !strings.Contains(unknown.stdout, "about whom?") {
		t.Errorf("%+v", unknown)
	}
}

func TestAuditReset(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "no genesis anchor given: expected --genesis TXID"},
		{[]string{"--genesis", txid31}, "--genesis: expected 64 hex characters, got 62"},
		{[]string{"--genesis", someTxID, "--data-dir", ""}, "expected --state DIR"},
		{[]string{"now", "--genesis", someTxID}, `unexpected argument "now"`},
	} {
		keytree(t, append([]string{"audit", "reset"}, test.args...)...).wantError(t, exitUsage, test.want)
	}
	keytree(t, "audit", "reset", "--genesis", someTxID, "--state", t.TempDir()).wantError(t, exitFailed, "nothing of an audit is kept there")
	wantParts(t, mustKeytree(t, "audit", "reset", "--help"), "Examples:", "keytree audit reset --genesis")

	defer http.DefaultClient.CloseIdleConnections()
	node := regtest.ForTest(t, regtest.Options{Blocks: 101})
	anchors := newAnchorer(t, node)
	p := startKeyserver(t, "keyserver", "serve", "--data-dir", t.TempDir(), "--keyserver-tokens", "open")
	anchors.anchor(p.url)
	state := t.TempDir()
	pinned := []string{"--network", "regtest", "--genesis", anchors.chain.String(), "--state", state}
	once := append([]string{"audit", "--keyserver", p.url, "--bundle", anchors.bundle(), "--node", node.URL()}, pinned...)
	reset := append([]string{"audit", "reset"}, pinned...)
	mustKeytree(t, once...)
	if err := os.Truncate(filepath.Join(state, "entries"), 10); err != nil {
		t.Fatal(err)
	}
	keytree(t, once...).wantError(t, exitFailed, "local file damaged: "+filepath.Join(state, "entries")+" ends before position 0: keytree audit reset has the next audit get it again")
	keytree(t, append([]string{"audit", "reset", "--genesis", someTxID}, "--network", "regtest", "--state", state)...).wantError(t, exitFailed, "belongs to another chain of anchors")
	wantParts(t, mustKeytree(t, reset...), "kept     genesis anchor "+anchors.chain.String(), "kept     first entry of the hashchain ", "kept     evidence in "+state, "dropped  the copy")
	wantParts(t, mustKeytree(t, once...), "sound")
}

// TestWatchedAudit watches a keyserver until it is interrupted, and scrapes the metrics.
func TestWatchedAudit(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	defer http.DefaultClient.CloseIdleConnections()
	node := regtest.ForTest(t, regtest.Options{Blocks: 101})
	anchors := newAnchorer(t, node)
	p := startKeyserver(t, "keyserver", "serve", "--data-dir", t.TempDir(), "--keyserver-tokens", "open")
	anchors.anchor(p.url)
	watch := startProgram(t, nil, "audit", "--network", "regtest", "--genesis", anchors.chain.String(), "--keyserver", p.url,
		"--bundle", anchors.bundle(), "--node", node.URL(), "--state", t.TempDir(), "--watch", "--every", "1s", "--metrics-listen", "127.0.0.1:0")
	_, url, _ := strings.Cut(strings.TrimSpace(watch.await(&watch.stderr, "keytree: metrics on ")), "metrics on ")
	watch.await(&watch.stdout, "sound up to position 0; every entry shown is covered, 1 entries, 1 anchors")
	response, err := p.client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	metrics, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	wantParts(t, string(metrics), `keytree_audit_verdict{genesis="`+anchors.chain.String()+`",verdict="sound"} 1`, `verdict="not_sound"} 0`, "keytree_audit_sound_up_to_position{", "keytree_audit_entries_not_covered{", "keytree_audit_entries{", "keytree_audit_last_sound_time_seconds{")
	anchors.spend(nil)
	if code := watch.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("exit code %d, standard error %s", code, watch.errors())
	}
}
