package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/coins/coinstest"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signing"
)

// startBCHN starts a node, and in front of it what answers as a BCHN, and as an Electrum
// server. It returns their URLs.
func startBCHN(t *testing.T) (n *regtest.Node, bchn, electrum string) {
	t.Helper()
	n = regtest.ForTest(t, regtest.Options{Blocks: 110})
	config, err := bchd.ParseURL(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	config.Network, config.Log = regtest.Params, zerolog.Nop()
	client, err := bchd.Dial(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	from := coins.NewBchd(client, regtest.Params)
	server := &coinstest.ElectrumServer{Of: from, Version: "1.5.3", Height: func(ctx context.Context) (uint32, error) {
		tip, err := client.Tip(ctx)
		return tip.Height, err
	}}
	return n, coinstest.ServeBCHN(t, n, from), "electrum://" + server.Serve(t)
}

// TestBCHNAlone runs a server with a keyserver on a BCHN: a link is requested, accepted and
// revoked, anchors are made, the key is changed, and all of it audited.
func TestBCHNAlone(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	n, url, electrum := startBCHN(t)
	dir := t.TempDir()
	s := &anchoredServer{node: n, dir: dir, keyserverProgram: startKeyserver(t, append(serveArgs(url, dir), "--keyserver-tokens", "open",
		"--anchor-key-file", filepath.Join(dir, "anchor.key"), "--anchor-interval", "1s")...)}
	s.grpc, _ = s.awaitServing()
	s.await(&s.stderr, "the hashchain agrees with its anchors")

	parent, child := regtest.NewKey(), regtest.NewKey()
	payTo(t, n, parent.Address(), 20_000)
	payTo(t, n, child.Address(), 10_000)
	payTo(t, n, s.status().Address, 1_000_000)
	mine(t, s.grpc, n)
	link := func(key *regtest.Key, command ...string) string {
		t.Helper()
		o := keytree(t, append(append([]string{"link"}, command...), "--key-file", writeKey(t, key.WIF()), "--network", "regtest", "--node", url, "--server", s.grpc)...)
		if o.code != exitDone {
			t.Fatalf("%q: exit code %d: %s", command, o.code, o.stderr)
		}
		wantParts(t, o.stderr, "the node scans all unspent outputs for those of "+key.Address())
		return strings.TrimSpace(o.stdout)
	}
	state := func(txid string) string {
		t.Helper()
		return field(t, string(mustGet(t, s.program, "/v1/actions/"+txid)), "state")
	}
	// A page of another origin prepares and submits for a wallet, with coins that it names:
	// the node never scans for a stranger.
	post := func(path string, body any) (code int, answer []byte, allowed string) {
		t.Helper()
		text, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.rest+path, bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Origin", "https://app.example")
		resp, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if answer, err = io.ReadAll(resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, answer, resp.Header.Get("Access-Control-Allow-Origin")
	}
	page := regtest.NewKey()
	payTo(t, n, page.Address(), 10_000)
	coin := coinOf(t, n, page)
	asked := map[string]any{"kind": "MLR", "author_address": page.Address(), "parent_address": parent.Address()}
	if code, answer, _ := post("/v1/links:prepare", asked); code != http.StatusBadRequest || !strings.Contains(string(answer), "name the coins") {
		t.Errorf("without coins: %d, %s", code, answer)
	}
	asked["coins"] = []any{map[string]any{"tx_hash": coin.OutPoint.Hash.String(), "output_index": coin.OutPoint.Index, "value_satoshi": fmt.Sprint(coin.Value)}}
	code, answer, allowed := post("/v1/links:prepare", asked)
	var prepared struct{ Params, Facts json.RawMessage }
	if err := json.Unmarshal(answer, &prepared); err != nil || code != http.StatusOK || allowed != "*" {
		t.Fatalf("prepare: %d, for %s: %s", code, allowed, answer)
	}
	wantParts(t, string(prepared.Facts), `"expected":"OPEN"`, `"fee_satoshi":"219"`)
	var signed signing.Signed
	if err := json.Unmarshal([]byte(walletAnswer(t, string(prepared.Params), page, coin)), &signed); err != nil {
		t.Fatal(err)
	}
	for _, known := range []string{"false", "true"} {
		code, answer, _ := post("/v1/links:submit", map[string]any{"signed_transaction": signed.Transaction})
		wantParts(t, string(answer), signed.Hash, `"known":`+known)
		if code != http.StatusOK {
			t.Errorf("submit: %d", code)
		}
	}
	request := link(child, "request", "--parent", parent.Address(), "--message", "memo.cash")
	accept := link(parent, "accept", request) // which is not confirmed yet
	revoke := link(parent, "revoke", accept)
	status := s.awaitAnchor(1)
	if got := state(accept) + " " + state(revoke); got != "CUT DONE" {
		t.Errorf("accept and revoke are %s", got)
	}
	s.must("keyserver", "rotate-key")
	wantParts(t, s.must("anchor", "rotate"), "the anchor key was replaced by transaction ")
	last := s.awaitAnchor(2)
	if last.Chain != status.Chain || last.Problem != "" {
		t.Errorf("the status is %+v", last)
	}
	// The baton is refused in every way in which coins come in.
	wantRefused := func(why string, more ...string) {
		t.Helper()
		wif := wifIn(t, filepath.Join(dir, "anchor.key"))
		o := keytreeWith(t, wif, append([]string{"link", "accept", request, "--key-stdin", "--network", "regtest", "--server", s.grpc}, more...)...)
		if o.code != exitFailed || !strings.Contains(o.stderr, "the baton of a chain of anchors") || !strings.Contains(o.stderr, why) {
			t.Errorf("%q: exit code %d: %s", more, o.code, o.stderr)
		}
	}
	s.awaitAnchor(last.Last.Number + 1)
	baton := s.status().Last.TxID + ":0:" + fmt.Sprint(s.status().Balance)
	for _, node := range [][]string{{"--node", url}, {"--coins", electrum}, {"--node", n.URL()}} {
		wantRefused("left alone", append(node, "--force")...)
		wantRefused("coin refused", append(node, "--force", "--utxo", baton)...)
	}
	audit := mustKeytree(t, "audit", "--network", "regtest", "--genesis", status.Chain, "--keyserver", s.url, "--node", url, "--server", s.grpc, "--state", t.TempDir())
	wantParts(t, audit, status.Chain)
	if code := s.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("exit code %d; standard error:\n%s", code, s.errors())
	}
}

// TestWalletSigns has a wallet sign what link prints for it, with coins from an Electrum
// server, and sends what it answers, twice.
func TestWalletSigns(t *testing.T) {
	n, url, electrum := startBCHN(t)
	key, parent := regtest.NewKey(), regtest.NewKey()
	payTo(t, n, key.Address(), 10_000)
	if _, err := n.Mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for _, more := range [][]string{
		{"--format", "walletconnect", "--coins", electrum},
		{"--format", "wizardconnect", "--key-path", "receive/5", "--coins", electrum, "--node", url},
		{"--format", "hex", "--node", n.URL()},
	} {
		o := keytree(t, append([]string{"link", "request", "--parent", parent.Address(), "--unsigned", "--from", key.Address(), "--network", "regtest", "--server", nowhere}, more...)...)
		if o.code != exitDone {
			t.Fatalf("%q: exit code %d: %s", more, o.code, o.stderr)
		}
		lines := strings.Split(strings.TrimSpace(o.stderr), "\n")
		var facts unsignedFacts
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &facts); err != nil {
			t.Fatalf("%q: standard error ends in no facts: %s", more, o.stderr)
		}
		if facts.Kind != "MLR" || facts.AuthorAddress != key.Address() || facts.CounterpartAddress != parent.Address() || facts.FeeSatoshi+facts.ChangeSatoshi != coinOf(t, n, key).Value {
			t.Errorf("%q: the facts are %+v", more, facts)
		}
		asked := secretFile(t, o.stdout)
		answer := secretFile(t, walletAnswer(t, o.stdout, key, coinOf(t, n, key)))
		send := []string{"link", "send", answer, "--network", "regtest", "--server", nowhere, "--node", url}
		if more[1] != "hex" {
			send = append(send, "--prepared", asked)
		}
		first := mustKeytree(t, send...)
		if second := mustKeytree(t, send...); second != first || len(strings.TrimSpace(first)) != 64 {
			t.Errorf("%q: sent as %q, and again as %q", more, first, second)
		}
		if again := mustKeytree(t, append(send, "--coins", electrum, "--json")...); !strings.Contains(again, `"known":true`) {
			t.Errorf("%q: sent once more: %s", more, again)
		}
	}
}

// coinOf returns the one coin of a key.
func coinOf(t *testing.T, n *regtest.Node, key *regtest.Key) protocol.UTXO {
	t.Helper()
	config, err := bchd.ParseURL(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	config.Network, config.Log = regtest.Params, zerolog.Nop()
	client, err := bchd.Dial(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	utxos, _, err := coins.Spendable(t.Context(), coins.NewBchd(client, regtest.Params), key.Hash())
	if err != nil || len(utxos) != 1 {
		t.Fatalf("coins of the key: %v, %v", utxos, err)
	}
	return utxos[0]
}

// walletAnswer signs what a wallet is asked, as it would.
func walletAnswer(t *testing.T, asked string, key *regtest.Key, coin protocol.UTXO) string {
	t.Helper()
	var tx *wire.MsgTx
	raw, err := hex.DecodeString(strings.TrimSpace(asked))
	if err == nil {
		tx = new(wire.MsgTx)
		err = tx.Deserialize(bytes.NewReader(raw))
	} else {
		tx, err = signing.ReadPrepared([]byte(asked))
	}
	if err != nil {
		t.Fatal(err)
	}
	spends := regtest.Coin{OutPoint: coin.OutPoint, Output: *wire.NewTxOut(coin.Value, coin.Script, wire.TokenData{})}
	signature, err := txscript.RawTxInSchnorrSignature(tx, 0, spends.Output.PkScript, txscript.SigHashAll, key.PrivateKey(), spends.Output.Value)
	if err != nil {
		t.Fatal(err)
	}
	if tx.TxIn[0].SignatureScript, err = txscript.NewScriptBuilder().AddData(signature).AddData(key.PublicKey()).Script(); err != nil {
		t.Fatal(err)
	}
	var signed bytes.Buffer
	if err := tx.Serialize(&signed); err != nil {
		t.Fatal(err)
	}
	answer, err := json.Marshal(signing.Signed{Transaction: hex.EncodeToString(signed.Bytes()), Hash: tx.TxHash().String()})
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// TestFits draws for terminals of several sizes.
func TestFits(t *testing.T) {
	drawing := "▄▄▄\n▄▄▄\n"
	for _, test := range []struct {
		columns, rows int
		want          bool
	}{{3, 3, true}, {2, 3, false}, {3, 2, false}} {
		if got := fits(drawing, test.columns, test.rows); got != test.want {
			t.Errorf("on %d columns and %d rows: %v", test.columns, test.rows, got)
		}
	}
	if code := (&app{stderr: new(bytes.Buffer)}).fittingQR("text"); code != "" {
		t.Error("something is drawn into what is no terminal")
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if code := (&app{stderr: f}).fittingQR("text"); code != "" {
		t.Error("something is drawn into a file")
	}
}
