package wallettest

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
	"github.com/keytree-bch/keytree/protocol"
)

// bchnEnv is the variable that names a bitcoind of BCHN, for TestBCHN.
const bchnEnv = "KEYTREE_BCHN"

var record = flag.Bool("record", false, "write what TestBCHN has had mined to "+recordingFile)

var recordingFile = filepath.Join("..", "..", "protocol", "signing", "testdata", "bchn-28.0.1.json")

// mined is a transaction that a BCHN has mined.
type mined struct {
	Kind   string  `json:"kind"`
	Author string  `json:"author"` // hash160 in hex
	Tx     string  `json:"tx"`
	Spent  []spent `json:"spent"`
}

// spent is what an input spends.
type spent struct {
	Value  int64  `json:"value"`
	Script string `json:"script"`
}

// TestBCHN has a BCHN mine what each wallet signs, with hash type 0x61 too, of a key that
// has a token beside its coins.
func TestBCHN(t *testing.T) {
	binary := os.Getenv(bchnEnv)
	if binary == "" {
		t.Skip(bchnEnv + " names no bitcoind of BCHN")
	}
	w := startWallet(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.Command(binary, "-regtest", "-datadir="+t.TempDir(), "-listen=0", "-printtoconsole=0", "-rpcport="+port,
		"-rpcuser=keytree", "-rpcpassword=hush", "-expire=0", "-txindex=1") // releases refuse to serve after a while
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Signal(os.Interrupt)
	faucet := regtest.NewKey()
	mine := func(blocks string) error {
		return exec.CommandContext(t.Context(), filepath.Join(filepath.Dir(binary), "bitcoin-cli"), "-regtest", "-rpcwait", "-rpcport="+port,
			"-rpcuser=keytree", "-rpcpassword=hush", "generatetoaddress", blocks, faucet.Address()).Run()
	}
	if err := mine("110"); err != nil {
		t.Fatal(err)
	}
	client, err := bitcoind.Dial(t.Context(), bitcoind.Config{Address: address, User: "keytree", Password: "hush", Network: regtest.Params, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	from := coins.NewBitcoind(client, regtest.Params, func(string) {})
	send := func(tx *wire.MsgTx) {
		t.Helper()
		var raw bytes.Buffer
		if err := errors.Join(tx.Serialize(&raw), client.Submit(t.Context(), raw.Bytes())); err != nil {
			t.Fatal(err)
		}
	}
	// pay spends the faucet's largest coin.
	pay := func(outputs ...*wire.TxOut) *wire.MsgTx {
		t.Helper()
		utxos, _, err := coins.Spendable(t.Context(), from, faucet.Hash())
		if err != nil {
			t.Fatal(err)
		}
		tx := wire.NewMsgTx(2)
		tx.AddTxIn(wire.NewTxIn(&utxos[0].OutPoint, nil))
		left := utxos[0].Value - 2000
		for _, output := range outputs {
			tx.AddTxOut(output)
			left -= output.Value
		}
		tx.AddTxOut(faucet.Output(left))
		coin := regtest.Coin{OutPoint: utxos[0].OutPoint, Output: *faucet.Output(utxos[0].Value)}
		if tx.TxIn[0].SignatureScript, err = faucet.Sign(tx, 0, coin, 0); err != nil {
			t.Fatal(err)
		}
		send(tx)
		return tx
	}
	parent, child := regtest.NewKey(), regtest.NewKey()
	for _, key := range []*regtest.Key{parent, child} { // a token beside the coins
		made := regtest.CoinOf(pay(faucet.Output(100_000)), 0)
		tx := wire.NewMsgTx(2)
		tx.AddTxIn(wire.NewTxIn(&made.OutPoint, nil))
		output := key.Output(50_000)
		output.TokenData = wire.TokenData{CategoryID: made.OutPoint.Hash, BitField: wire.HAS_AMOUNT, Amount: 7}
		tx.AddTxOut(output)
		if tx.TxIn[0].SignatureScript, err = faucet.Sign(tx, 0, made, 0); err != nil {
			t.Fatal(err)
		}
		send(tx)
	}
	var recorded []mined
	want := make(map[chainhash.Hash]bool)
	for _, name := range []string{"cashonize", "paytaca", "cashonize-wizard", "paytaca-wizard"} {
		for _, values := range [][]int64{{10_000}, {600, 600, 600}} {
			for _, message := range []string{"", "hello"} {
				publish := func(key *regtest.Key, kind protocol.Kind, script []byte, err error) chainhash.Hash {
					t.Helper()
					if err != nil {
						t.Fatal(err)
					}
					var outputs []*wire.TxOut
					for _, value := range values {
						outputs = append(outputs, key.Output(value))
					}
					paid := pay(outputs...)
					var named []protocol.UTXO
					for i, value := range values {
						named = append(named, protocol.UTXO{OutPoint: wire.OutPoint{Hash: paid.TxHash(), Index: uint32(i)}, Value: value})
					}
					utxos, err := coins.Named(t.Context(), from, key.Hash(), named)
					if err != nil {
						t.Fatal(err)
					}
					tx, err := protocol.NewLinkTx(script, protocol.Funding{Author: key.Hash(), UTXOs: utxos, Schnorr: true})
					if err != nil {
						t.Fatal(err)
					}
					signed, err := w.sign(name, key, request(name, tx))
					if err != nil {
						t.Fatal(err)
					}
					checkSigned(t, signed, tx, kind)
					for range 2 {
						if err := client.Submit(t.Context(), signed); err != nil {
							t.Fatalf("%s, %v: %v", name, kind, err)
						}
					}
					want[signed.TxID()] = true
					if name == "cashonize-wizard" {
						author := key.Hash()
						m := mined{Kind: kind.String(), Author: hex.EncodeToString(author[:]), Tx: hex.EncodeToString(signed)}
						for _, u := range tx.Spends {
							m.Spent = append(m.Spent, spent{u.Value, hex.EncodeToString(u.Script)})
						}
						recorded = append(recorded, m)
					}
					return signed.TxID()
				}
				script, err := protocol.RequestScript(parent.Hash(), []byte(message))
				request := publish(child, protocol.MLR, script, err)
				script, err = protocol.AcceptScript(request, []byte(message))
				accept := publish(parent, protocol.MLA, script, err)
				script, err = protocol.RevokeScript(accept, []byte(message))
				publish(parent, protocol.MCR, script, err)
				// Of unconfirmed transactions that follow each other, few are taken.
				if err := mine("1"); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if err := client.Mempool(t.Context(), len(want), func(txid chainhash.Hash) {
		if want[txid] {
			t.Errorf("%v was not mined", txid)
		}
	}); err != nil {
		t.Fatal(err)
	}
	for txid := range want {
		if _, err := client.Transaction(t.Context(), txid); err != nil {
			t.Error(err)
		}
	}
	if !*record || t.Failed() {
		return
	}
	text, err := json.MarshalIndent(recorded, "", "\t")
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(recordingFile), 0o777), os.WriteFile(recordingFile, append(text, '\n'), 0o666))
	}
	if err != nil {
		t.Fatal(err)
	}
}
