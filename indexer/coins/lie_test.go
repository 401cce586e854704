package coins_test

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/coins/coinstest"
	"github.com/keytree-bch/keytree/indexer/coins/electrum"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// purse is a key with one coin of each kind in one made-up chain.
type purse struct {
	memory
	key                        *regtest.Key
	plain, token, baton, other wire.OutPoint
}

// Submit implements coins.Sender. It takes everything.
func (p purse) Submit(context.Context, []byte) error { return nil }

func newPurse(t *testing.T) purse {
	t.Helper()
	p := purse{memory: memory{txs: make(map[chainhash.Hash][]byte)}, key: regtest.NewKey()}
	add := func(output *wire.TxOut, record []byte) wire.OutPoint {
		tx := wire.NewMsgTx(2)
		tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash{byte(len(p.txs) + 1)}}, []byte{0x51}))
		tx.AddTxOut(output)
		tx.AddTxOut(wire.NewTxOut(0, record, wire.TokenData{}))
		var raw strings.Builder
		if err := tx.Serialize(&raw); err != nil {
			t.Fatal(err)
		}
		out := wire.OutPoint{Hash: tx.TxHash()}
		p.txs[out.Hash] = []byte(raw.String())
		p.coins = append(p.coins, coins.Coin{UTXO: protocol.UTXO{OutPoint: out, Value: output.Value}, Height: 5})
		return out
	}
	request, err := protocol.RequestScript(protocol.KeyHash{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	anchor, err := (&protocol.Anchor{Domain: "keys.example.org"}).Script()
	if err != nil {
		t.Fatal(err)
	}
	p.plain = add(p.key.Output(10_000), request)
	withToken := p.key.Output(20_000)
	withToken.TokenData = wire.TokenData{CategoryID: chainhash.Hash{7}, BitField: wire.HAS_AMOUNT, Amount: 7}
	p.token = add(withToken, request)
	p.baton = add(p.key.Output(30_000), anchor)
	p.other = add(regtest.NewKey().Output(40_000), request)
	return p
}

// wantHonest makes a transaction of what a source says, which must spend the one plain
// coin, by its true value.
func (p purse) wantHonest(t *testing.T, from coins.Source) {
	t.Helper()
	utxos, batons, err := coins.Spendable(t.Context(), from, p.key.Hash())
	if err != nil {
		t.Fatal(err)
	}
	if len(batons) > 1 || len(batons) == 1 && batons[0].OutPoint != p.baton {
		t.Errorf("batons are %+v", batons)
	}
	script, err := protocol.RequestScript(protocol.KeyHash{1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := protocol.NewLinkTx(script, protocol.Funding{Author: p.key.Hash(), UTXOs: utxos})
	if err != nil {
		t.Fatal(err)
	}
	if len(utxos) != 1 || tx.Spends[0].OutPoint != p.plain || tx.Fee+tx.Change() != 10_000 || tx.Fee > 300 {
		t.Errorf("of %+v it spends %+v, fee %d, change %d", utxos, tx.Spends, tx.Fee, tx.Change())
	}
}

// TestLyingElectrum has an Electrum server lie about coins.
func TestLyingElectrum(t *testing.T) {
	p := newPurse(t)
	for name, test := range map[string]struct {
		instead func(method string, answer any) any
		want    error // nil: the transaction is right all the same
	}{
		"lists everything":   {},
		"more than there is": {instead: listed(func(c map[string]any) { c["value"] = int64(1 << 50) })},
		"less than there is": {instead: listed(func(c map[string]any) { c["value"] = int64(1) })},
		"a coin that is not there": {instead: listed(func(c map[string]any) {
			if c["tx_hash"] != p.plain.Hash.String() {
				c["tx_hash"] = chainhash.Hash{9}.String()
			}
		})},
		"another output": {instead: listed(func(c map[string]any) {
			if c["tx_hash"] != p.plain.Hash.String() {
				c["tx_pos"] = 1
			}
		})},
		"another transaction": {instead: func(method string, answer any) any {
			if method == "blockchain.transaction.get" {
				return hex.EncodeToString(p.txs[p.other.Hash])
			}
			return answer
		}, want: node.ErrInvalid},
		"no hash":        {instead: listed(func(c map[string]any) { c["tx_hash"] = "00" }), want: node.ErrInvalid},
		"no height":      {instead: listed(func(c map[string]any) { c["height"] = 1 << 40 }), want: node.ErrInvalid},
		"another answer": {instead: in("blockchain.address.listunspent", 7), want: node.ErrInvalid},
		"no tip":         {instead: in("blockchain.headers.get_tip", map[string]any{}), want: node.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			server := &coinstest.ElectrumServer{Of: p, Height: heightSeven, Version: "1.5", Instead: test.instead}
			from := coins.NewElectrum(dialElectrum(t, server.Serve(t)), regtest.Params)
			if test.want == nil {
				p.wantHonest(t, from)
			} else if _, err := from.Coins(t.Context(), p.key.Hash()); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func heightSeven(context.Context) (uint32, error) { return 7, nil }

// listed has an Electrum server change each coin that it lists.
func listed(change func(coin map[string]any)) func(string, any) any {
	return func(method string, answer any) any {
		if coins, ok := answer.([]map[string]any); ok && method == "blockchain.address.listunspent" {
			for _, c := range coins {
				change(c)
			}
		}
		return answer
	}
}

// in has an Electrum server give another answer to a method.
func in(method string, answer any) func(string, any) any {
	return func(m string, honest any) any {
		if m == method {
			return answer
		}
		return honest
	}
}

// TestElectrumServers dials what is no Electrum server for this network, and sends to one
// that does not say what it took.
func TestElectrumServers(t *testing.T) {
	p := newPurse(t)
	dial := func(s *coinstest.ElectrumServer) (*electrum.Client, error) {
		s.Of, s.Height = p, heightSeven
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		return electrum.Dial(ctx, electrum.Config{Address: s.Serve(t), Network: regtest.Params, RetryFor: 1, Log: zerolog.Nop()})
	}
	for name, server := range map[string]*coinstest.ElectrumServer{
		"another network": {Version: "1.5", Genesis: chainhash.Hash{1}.String()},
		"an old version":  {Version: "1.4.2"},
		"no version":      {Version: "1.5", Instead: in("server.version", "1.5")},
	} {
		if _, err := dial(server); !errors.Is(err, node.ErrUnsuitable) && !errors.Is(err, node.ErrInvalid) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	client, err := dial(&coinstest.ElectrumServer{Version: "1.5", Instead: in("blockchain.transaction.broadcast", chainhash.Hash{1}.String())})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.Submit(t.Context(), []byte{1}); !errors.Is(err, node.ErrInvalid) {
		t.Errorf("it took something else: got %v, want %v", err, node.ErrInvalid)
	}
}

// TestWitnessed leaves out what the witness does not know.
func TestWitnessed(t *testing.T) {
	p, witness := newPurse(t), memory{txs: make(map[chainhash.Hash][]byte)}
	server := &coinstest.ElectrumServer{Of: p, Height: heightSeven, Version: "1.5"}
	from := coins.Witnessed{Source: coins.NewElectrum(dialElectrum(t, server.Serve(t)), regtest.Params), Witness: witness}
	wants := func(count int) {
		t.Helper()
		found, err := from.Coins(t.Context(), p.key.Hash())
		unspent, unspentErr := from.Unspent(t.Context(), p.plain)
		if err := errors.Join(err, unspentErr); err != nil {
			t.Fatal(err)
		}
		if len(found) != count || unspent != (count > 0) {
			t.Errorf("%d coins, unspent: %v, want %d", len(found), unspent, count)
		}
	}
	wants(0)
	witness.txs[p.plain.Hash] = nil
	wants(1)
}

// TestLyingNode has a BCHN lie about coins.
func TestLyingNode(t *testing.T) {
	p := newPurse(t)
	for name, test := range map[string]struct {
		instead func(method string, params []any) (result any)
		want    error // nil: the transaction is right all the same
	}{
		"everything is the key's": {},
		"another transaction": {instead: func(method string, _ []any) any {
			if method == "getrawtransaction" {
				return hex.EncodeToString(p.txs[p.other.Hash])
			}
			return nil
		}, want: node.ErrInvalid},
		"no transaction": {instead: func(method string, _ []any) any {
			if method == "getrawtransaction" {
				return refused(-5)
			}
			return nil
		}, want: node.ErrNotFound},
		"no scan": {instead: func(method string, _ []any) any {
			if method == "scantxoutset" {
				return refused(-32601)
			}
			return nil
		}, want: node.ErrUnsuitable},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var q struct {
					Method string
					Params []any
				}
				if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				answer := p.nodeAnswer(q.Method, q.Params)
				if test.instead != nil {
					if lie := test.instead(q.Method, q.Params); lie != nil {
						answer = lie
					}
				}
				message := map[string]any{"id": 1, "result": answer}
				if code, ok := answer.(refused); ok {
					message = map[string]any{"id": 1, "error": map[string]any{"code": code, "message": "no"}}
				}
				_ = json.NewEncoder(w).Encode(message)
			}))
			defer server.Close()
			from := coins.NewBitcoind(dialBitcoind(t, "http://u:p@"+server.Listener.Addr().String()), regtest.Params, func(string) {})
			if test.want == nil {
				p.wantHonest(t, from)
			} else if _, err := from.Coins(t.Context(), p.key.Hash()); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

// refused is an error of a node's, by its code.
type refused int

// nodeAnswer answers as a BCHN that has all coins in its mempool or its chain, and says of
// all that they are the key's, and worth a lot.
func (p purse) nodeAnswer(method string, params []any) any {
	genesis := regtest.Params.GenesisHash.String()
	switch method {
	case "getblockchaininfo":
		return map[string]any{"chain": "regtest", "blocks": 0, "headers": 0, "bestblockhash": genesis}
	case "getblockhash":
		return genesis
	case "getblock":
		return map[string]any{"tx": []any{}}
	case "scantxoutset":
		var found []any
		for i, c := range p.coins {
			found = append(found, map[string]any{"txid": c.OutPoint.Hash.String(), "vout": 0, "amount": float64(i), "height": 5})
		}
		return map[string]any{"success": true, "unspents": found}
	case "getrawmempool":
		return []string{p.plain.Hash.String(), p.other.Hash.String()}
	case "gettxout":
		return map[string]any{"confirmations": 200, "value": 1e6, "scriptPubKey": map[string]any{"hex": fmt.Sprintf("%x", p.key.Script())}}
	case "getrawtransaction":
		hash, _ := chainhash.NewHashFromStr(params[0].(string))
		if raw, ok := p.txs[*hash]; ok {
			return hex.EncodeToString(raw)
		}
		return refused(-5)
	}
	return refused(-32601)
}

// TestElectrumTLS reaches a server over TLS whose certificate is given, and no other.
func TestElectrumTLS(t *testing.T) {
	web := httptest.NewTLSServer(nil) // for its certificate
	defer web.Close()
	p := newPurse(t)
	server := &coinstest.ElectrumServer{Of: p, Height: heightSeven, Version: "1.5", TLS: &tls.Config{Certificates: web.TLS.Certificates}}
	address := server.Serve(t)
	file := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]error{
		"electrums://" + address + "?cert=" + file: nil,
		"electrums://" + address:                   node.ErrUnsuitable,
	} {
		config, err := electrum.ParseURL(url)
		if err != nil {
			t.Fatal(err)
		}
		config.Network, config.Log = regtest.Params, zerolog.Nop()
		client, err := electrum.Dial(t.Context(), config)
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", url, err, want)
		}
		if err == nil {
			p.wantHonest(t, coins.NewElectrum(client, regtest.Params))
			client.Close()
		}
	}
}
