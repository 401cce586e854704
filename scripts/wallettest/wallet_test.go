package wallettest

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signing"
)

// clientsEnv is the variable that says that no program is missing that tests need beside Go:
// .ci/run has installed them.
const clientsEnv = "KEYTREE_CLIENTS"

// wallet is wallet.mjs, for one goroutine.
type wallet struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Scanner
}

// startWallet skips the test where there is no Node, or npm ci was not run.
func startWallet(t *testing.T) *wallet {
	t.Helper()
	node, err := exec.LookPath("node")
	if err == nil {
		_, err = os.Stat("node_modules/@bitauth/libauth")
	}
	if err != nil && os.Getenv(clientsEnv) != "" {
		t.Fatalf("%s is set, but: %v", clientsEnv, err)
	}
	if err != nil {
		t.Skipf("%v; .ci/run installs Node, and runs npm ci here", err)
	}
	cmd := exec.CommandContext(t.Context(), node, "wallet.mjs")
	cmd.Stderr = os.Stderr
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	for _, err := range []error{inErr, outErr, cmd.Start()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	return &wallet{t, in, lines}
}

// sign has a wallet sign a request. The error is the wallet's.
func (w *wallet) sign(name string, key *regtest.Key, request any) (protocol.Tx, error) {
	w.t.Helper()
	params, err := signing.JSON(request)
	if err != nil {
		w.t.Fatal(err)
	}
	line, err := json.Marshal(map[string]any{
		"wallet": name, "privateKey": hex.EncodeToString(key.PrivateKey().Serialize()), "params": json.RawMessage(params),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(w.in, "%s\n", line); err != nil {
		w.t.Fatal(err)
	}
	if !w.out.Scan() {
		w.t.Fatalf("the wallet has ended: %v", w.out.Err())
	}
	var answer struct{ Error string }
	if err := json.Unmarshal(w.out.Bytes(), &answer); err != nil {
		w.t.Fatal(err)
	}
	if answer.Error != "" {
		return nil, fmt.Errorf("%s: %s", name, answer.Error)
	}
	return signing.ParseSigned(w.out.Bytes())
}

// request is what is asked of a wallet, by its name.
func request(name string, tx *protocol.RecordTx) any {
	const prompt = `Accept bitcoincash:q… into your identity. It calls itself "<b>&" (unverified).`
	if name == "cashonize-wizard" || name == "paytaca-wizard" {
		return signing.WizardConnect(tx, prompt, signing.KeyPath{Name: "receive", Index: 5})
	}
	return signing.WalletConnect(tx, prompt)
}

// coinsOf pays a key outputs of some values, and returns them.
func coinsOf(t *testing.T, n *regtest.Node, key *regtest.Key, values ...int64) (coins []protocol.UTXO) {
	t.Helper()
	var outputs []*wire.TxOut
	for _, value := range values {
		outputs = append(outputs, key.Output(value))
	}
	paid, err := n.Fund(t.Context(), outputs...)
	if err != nil {
		t.Fatal(err)
	}
	for i, coin := range paid {
		coins = append(coins, protocol.UTXO{OutPoint: coin.OutPoint, Value: values[i], Script: key.Script()})
	}
	return coins
}

// TestWallets has each wallet sign a request, an accept and a revoke, with one and with
// several inputs, with and without a message. A real node mines what they sign with hash
// type 0x41. The other, 0x61, it does not know on regtest: BCHN has mined such transactions
// of this test, which are in package signing.
func TestWallets(t *testing.T) {
	w := startWallet(t)
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	parent, child := regtest.NewKey(), regtest.NewKey()
	want := make(map[chainhash.Hash]bool)
	for _, name := range []string{"cashonize", "paytaca", "cashonize-wizard", "paytaca-wizard"} {
		for _, values := range [][]int64{{10_000}, {500, 500, 500}} {
			for _, message := range []string{"", "memo.cash \"\\ héllo"} {
				publish := func(key *regtest.Key, kind protocol.Kind, script []byte, err error) chainhash.Hash {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
					coins := coinsOf(t, n, key, values...)
					tx, err := protocol.NewLinkTx(script, protocol.Funding{Author: key.Hash(), UTXOs: coins, Schnorr: true})
					if err != nil {
						t.Fatal(err)
					}
					if (len(tx.Spends) > 1) != (len(values) > 1) {
						t.Fatalf("%d inputs, of coins of %v", len(tx.Spends), values)
					}
					signed, err := w.sign(name, key, request(name, tx))
					if err != nil {
						t.Fatal(err)
					}
					checkSigned(t, signed, tx, kind)
					if name != "cashonize-wizard" {
						parsed := new(wire.MsgTx)
						if err := parsed.Deserialize(bytes.NewReader(signed)); err != nil {
							t.Fatal(err)
						}
						if err := n.SubmitTransaction(t.Context(), parsed); err != nil {
							t.Fatalf("%s, %v: %v", name, kind, err)
						}
						want[signed.TxID()] = true
					}
					return signed.TxID()
				}
				script, err := protocol.RequestScript(parent.Hash(), []byte(message))
				request := publish(child, protocol.MLR, script, err)
				script, err = protocol.AcceptScript(request, []byte(message))
				accept := publish(parent, protocol.MLA, script, err)
				script, err = protocol.RevokeScript(accept, []byte(message))
				publish(parent, protocol.MCR, script, err)
			}
		}
	}
	hashes, err := n.Mine(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	block, err := n.Block(t.Context(), hashes[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, tx := range block.Transactions {
		delete(want, tx.TxHash())
	}
	if len(want) > 0 {
		t.Errorf("%d transactions were not mined: %v", len(want), want)
	}
}

// checkSigned checks what a wallet has signed as keytree does before it sends it.
func checkSigned(t *testing.T, signed protocol.Tx, prepared *protocol.RecordTx, kind protocol.Kind) {
	t.Helper()
	var spent []protocol.Output
	for _, u := range prepared.Spends {
		spent = append(spent, protocol.Output{Value: u.Value, Script: u.Script})
	}
	author, err := signing.Verify(signed, spent)
	if err != nil {
		t.Fatal(err)
	}
	action, err := signing.Action(signed)
	if err != nil {
		t.Fatal(err)
	}
	if author != prepared.Author() || action.Kind != kind {
		t.Errorf("%v by %x, want %v by %x", action.Kind, author, kind, prepared.Author())
	}
	if err := signing.Matches(signed, prepared.Tx); err != nil {
		t.Error(err)
	}
	// By Schnorr, every signature has the same size, and the fee is one satoshi per byte.
	if got := int64(len(signed)); got != prepared.Fee {
		t.Errorf("the fee of %d bytes is %d satoshi", got, prepared.Fee)
	}
}

// TestWalletsRefuse has wallets read what they must not sign, which shows that they would
// find a mistake.
func TestWalletsRefuse(t *testing.T) {
	w := startWallet(t)
	key := regtest.NewKey()
	script, err := protocol.RequestScript(protocol.KeyHash{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	coin := protocol.UTXO{OutPoint: wire.OutPoint{Hash: chainhash.Hash{1}}, Value: 10_000, Script: key.Script()}
	tx, err := protocol.NewLinkTx(script, protocol.Funding{Author: key.Hash(), UTXOs: []protocol.UTXO{coin}, Schnorr: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, request := range map[string]any{
		"paytaca":        signing.WizardConnect(tx, "prompt", signing.KeyPath{Name: "receive"}).Transaction, // hex
		"paytaca-wizard": map[string]any{"transaction": signing.WalletConnect(tx, "prompt"), "inputPaths": []any{}},
		"cashonize":      signing.WalletConnect(tx, ""),
	} {
		if signed, err := w.sign(name, key, request); err == nil {
			t.Errorf("%s has signed %x", name, signed)
		}
	}
	// It signs nothing of another key.
	signed, err := w.sign("cashonize", regtest.NewKey(), signing.WalletConnect(tx, "prompt"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signing.Verify(signed, []protocol.Output{{Value: coin.Value, Script: coin.Script}}); err == nil {
		t.Error("what another key has signed is taken")
	}
}
