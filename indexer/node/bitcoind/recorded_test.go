package bitcoind_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
	"github.com/keytree-bch/keytree/protocol"
)

// spendsOf asks for outputs that a transaction in the block spends.
func spendsOf(ctx context.Context, c *bitcoind.Client, block, spender chainhash.Hash, outs ...wire.OutPoint) (node.Spent, error) {
	spent, err := c.Spent(ctx, block, []node.Spender{{TxID: spender, Inputs: outs}})
	if err != nil {
		return node.Spent{}, err
	}
	return spent[0], nil
}

// wantSpent checks what the transaction spends: all of it, or where that proves
// itself what input 0 does.
func wantSpent(t *testing.T, c *bitcoind.Client, block chainhash.Hash, tx *wire.MsgTx, spent []*wire.TxOut) {
	t.Helper()
	var outs []wire.OutPoint
	var want []protocol.Output
	for i, in := range tx.TxIn {
		outs = append(outs, in.PreviousOutPoint)
		want = append(want, protocol.Output{Value: spent[i].Value, Script: scriptOf(spent[i])})
	}
	got := must[node.Spent](t)(spendsOf(t.Context(), c, block, tx.TxHash(), outs...))
	if got.Proven {
		want = want[:1]
	}
	if !reflect.DeepEqual(got.Outputs, want) {
		t.Errorf("it spends %+v, want %+v", got.Outputs, want)
	}
	for i, out := range outs {
		previous := must[protocol.Tx](t)(c.Previous(t.Context(), block, tx.TxHash(), out))
		if output := must[protocol.Output](t)(protocol.SpentOutput(previous, out)); output.Value != spent[i].Value || !bytes.Equal(output.Script, scriptOf(spent[i])) {
			t.Errorf("by the previous transaction, input %d spends %+v, want %+v", i, output, spent[i])
		}
	}
}

// TestWays takes blocks and spent outputs in every way in which a node may have
// them.
func TestWays(t *testing.T) {
	for name, test := range map[string]struct {
		undo          undo
		txIndex, rest bool
	}{
		"undo data of transactions":             {undo: inTx},
		"undo data of transactions, in prevout": {undo: inPrevout, rest: true},
		"undo data of blocks":                   {undo: inBlock},
		"transaction index":                     {txIndex: true, rest: true},
		"both":                                  {undo: inTx, txIndex: true},
	} {
		t.Run(name, func(t *testing.T) {
			n := newBCHN(t)
			n.undo, n.txIndex, n.rest = test.undo, test.txIndex, test.rest
			block, tx, spent := n.mineSpending()
			c := dial(t, n.config())
			n.set(func() { clear(n.asked) })
			wantSpent(t, c, block, tx, spent)
			if test.txIndex && n.count("getblock") > 0 {
				t.Error("undo data was asked for, although there is an index, whose answers prove themselves")
			}

			var want bytes.Buffer
			check(t, n.find(block.String()).Serialize(&want))
			must[[]byte](t)(c.Block(t.Context(), block)) // finds out about REST
			n.set(func() { clear(n.asked) })
			if got := must[[]byte](t)(c.Block(t.Context(), block)); !bytes.Equal(got, want.Bytes()) {
				t.Errorf("block is %x, want %x", got, want.Bytes())
			}
			if viaREST, viaRPC := n.count("REST"), n.count("getblock"); viaREST+viaRPC != 1 || (viaREST == 1) != test.rest {
				t.Errorf("%d blocks by REST, %d by JSON-RPC", viaREST, viaRPC)
			}
			_, err := c.Block(t.Context(), chainhash.Hash{1})
			wantError(t, err, node.ErrNotFound)
			_, err = c.BlockHash(t.Context(), 99)
			wantError(t, err, node.ErrNotFound)
			_, err = spendsOf(t.Context(), c, block, chainhash.Hash{1}, wire.OutPoint{Hash: chainhash.Hash{2}})
			wantError(t, err, node.ErrNotFound)

			// A node that was started anew without REST.
			n.set(func() { n.rest = false })
			if got := must[[]byte](t)(c.Block(t.Context(), block)); !bytes.Equal(got, want.Bytes()) {
				t.Errorf("without REST, block is %x, want %x", got, want.Bytes())
			}
		})
	}
}

func hexOf(tx *wire.MsgTx) string {
	var raw bytes.Buffer
	_ = tx.Serialize(&raw)
	return fmt.Sprintf("%x", raw.Bytes())
}

// TestSourceChanges has a node started anew with other indexes: what transactions
// spend comes from where it can come from.
func TestSourceChanges(t *testing.T) {
	n := newBCHN(t)
	n.txIndex = true
	block, tx, spent := n.mineSpending()
	c := dial(t, n.config())
	proven := func() bool {
		t.Helper()
		wantSpent(t, c, block, tx, spent)
		return must[node.Spent](t)(spendsOf(t.Context(), c, block, tx.TxHash(), tx.TxIn[0].PreviousOutPoint)).Proven
	}
	if !proven() {
		t.Error("the index was not asked")
	}
	for _, undo := range []undo{inTx, inBlock} {
		n.set(func() { n.txIndex, n.undo = false, undo })
		if proven() {
			t.Errorf("it is said to be proven without an index, with undo data %v", undo)
		}
	}
	n.set(func() { n.txIndex, n.undo = true, noUndo })
	if !proven() {
		t.Error("the index was not asked again")
	}
	// Neither: waited for, as the node may be on its way back.
	n.set(func() { n.txIndex = false })
	_, err := spendsOf(t.Context(), c, block, tx.TxHash(), tx.TxIn[0].PreviousOutPoint)
	wantError(t, err, node.ErrNotFound, "-txindex=1")
	n.set(func() { n.undo = inTx })
	proven()
	// A proxy in front of the node tells nothing about its index.
	n.set(func() {
		n.txIndex = true
		n.instead = func(w http.ResponseWriter, _ string) bool { _, _ = w.Write([]byte("<html>")); return true }
	})
	_, err = spendsOf(t.Context(), c, block, tx.TxHash(), tx.TxIn[0].PreviousOutPoint)
	wantError(t, err, node.ErrUnsuitable)
	if errors.Is(err, node.ErrNotFound) {
		t.Errorf("a web page is taken for the node's word: %v", err)
	}
}

// TestPrevious asks for the transactions that have what is spent.
func TestPrevious(t *testing.T) {
	n := newBCHN(t)
	block, tx, _ := n.mineSpending()
	c := dial(t, n.config())
	n.set(func() { clear(n.asked) })
	for range 3 {
		for _, in := range tx.TxIn {
			got := must[protocol.Tx](t)(c.Previous(t.Context(), block, tx.TxHash(), in.PreviousOutPoint))
			if got.TxID() != in.PreviousOutPoint.Hash {
				t.Errorf("got transaction %v, want %v", got.TxID(), in.PreviousOutPoint.Hash)
			}
		}
	}
	if asked := n.count("getblock"); asked != 1 {
		t.Errorf("the block was read %d times for the heights of what it spends", asked)
	}
	out := tx.TxIn[0].PreviousOutPoint
	_, err := c.Previous(t.Context(), block, tx.TxHash(), wire.OutPoint{Hash: chainhash.Hash{9}})
	wantError(t, err, node.ErrNotFound)

	// A web page is not the node's word that it has pruned the block away.
	n.set(func() { n.instead = say("getrawtransaction", "<html>") })
	_, err = c.Previous(t.Context(), block, tx.TxHash(), out)
	wantError(t, err, node.ErrUnsuitable)
	if errors.Is(err, node.ErrNotFound) {
		t.Errorf("a web page is taken for the node's word: %v", err)
	}
	other := hexOf(regtest.Params.GenesisBlock.Transactions[0])
	n.set(func() { n.instead = say("getrawtransaction", `{"result":"`+other+`","id":1}`) })
	_, err = c.Previous(t.Context(), block, tx.TxHash(), out)
	wantError(t, err, node.ErrInvalid, "it sent transaction")

	n.set(func() { n.instead, n.pruned = nil, 2 })
	_, err = c.Previous(t.Context(), block, tx.TxHash(), out)
	wantError(t, err, node.ErrNotFound, "Block not available")
}

// TestLargeSpender asks about a transaction whose answer is larger than any other may
// be: somebody has made it spend large scripts.
func TestLargeSpender(t *testing.T) {
	n := newBCHN(t)
	block, tx, spent := n.mineSpending()
	c := dial(t, n.config())
	asm := strings.Repeat("OP_NOP ", 10_000)
	inputs := 1000 // 70 MB, over any limit
	if underRace {
		inputs = 50 // or a busy machine takes longer to read it than a question may
	}
	n.set(func() {
		n.instead = func(w http.ResponseWriter, question string) bool {
			if !strings.HasPrefix(question, "getrawtransaction") {
				return false
			}
			fmt.Fprintf(w, `{"result":{"txid":"%v","vin":[`, tx.TxHash())
			for i, in := range tx.TxIn {
				fmt.Fprintf(w, `{"txid":"%v","vout":%d,"value":0.00001,"scriptPubKey":{"hex":"%x"}},`,
					in.PreviousOutPoint.Hash, in.PreviousOutPoint.Index, spent[i].PkScript)
			}
			for range inputs {
				fmt.Fprintf(w, `{"txid":"%v","vout":0,"value":1,"scriptPubKey":{"asm":"%s","hex":""}},`, chainhash.Hash{1}, asm)
			}
			_, _ = w.Write([]byte(`{}],"vout":[{},{}]},"error":null,"id":1}`))
			return true
		}
	})
	got := must[node.Spent](t)(spendsOf(t.Context(), c, block, tx.TxHash(), tx.TxIn[0].PreviousOutPoint))
	if len(got.Outputs) != 1 || got.Outputs[0].Value != 1000 || !bytes.Equal(got.Outputs[0].Script, spent[0].PkScript) {
		t.Errorf("it spends %+v", got)
	}
}

// TestWholeBlock asks about more transactions of a block than it takes to ask for all
// of it at once.
func TestWholeBlock(t *testing.T) {
	n := newBCHN(t)
	var outputs []*wire.TxOut
	for i := range 40 {
		outputs = append(outputs, wire.NewTxOut(1000+int64(i), []byte{0x51}, wire.TokenData{}))
	}
	funding := payment(outputs, wire.OutPoint{Hash: chainhash.Hash{7}})
	n.set(func() { n.outputs[funding.TxIn[0].PreviousOutPoint] = outputs[0] })
	n.mine(funding)
	var txs []*wire.MsgTx
	var by []node.Spender
	for i := range outputs {
		out := wire.OutPoint{Hash: funding.TxHash(), Index: uint32(i)}
		tx := payment(outputs[:1], out)
		txs = append(txs, tx)
		by = append(by, node.Spender{TxID: tx.TxHash(), Inputs: []wire.OutPoint{out}})
	}
	block := n.mine(txs...)
	c := dial(t, n.config())
	for _, test := range []struct{ by, calls int }{{3, 3}, {40, 1}} {
		n.set(func() { clear(n.asked) })
		spent := must[[]node.Spent](t)(c.Spent(t.Context(), block, by[:test.by]))
		for i, s := range spent {
			if len(s.Outputs) != 1 || s.Outputs[0].Value != 1000+int64(i) || s.Proven {
				t.Errorf("transaction %d spends %+v", i, s)
			}
		}
		if calls := n.count("getblock") + n.count("getrawtransaction"); calls != test.calls {
			t.Errorf("%d questions for %d transactions, want %d", calls, test.by, test.calls)
		}
	}
}

// TestUndecided begins on a chain where nothing was ever spent.
func TestUndecided(t *testing.T) {
	for name, how := range map[string]undo{"with undo data": inTx, "with undo data in blocks": inBlock, "without": noUndo} {
		t.Run(name, func(t *testing.T) {
			n := newBCHN(t)
			n.undo = how
			for range 20 {
				n.mine()
			}
			c := dial(t, n.config())
			block, tx, spent := n.mineSpending()
			if how != noUndo {
				wantSpent(t, c, block, tx, spent)
				return
			}
			_, err := spendsOf(t.Context(), c, block, tx.TxHash(), tx.TxIn[0].PreviousOutPoint)
			wantError(t, err, node.ErrNotFound, "-txindex=1")
			_, err = bitcoind.Dial(t.Context(), n.config())
			wantError(t, err, node.ErrUnsuitable, "getrawtransaction TXID 2 BLOCKHASH", "-txindex=1")
		})
	}
	t.Run("nothing but the genesis block", func(t *testing.T) {
		n := newBCHN(t)
		c := dial(t, n.config())
		if got := must[node.Tip](t)(c.Tip(t.Context())); got != (node.Tip{Hash: *regtest.Params.GenesisHash}) {
			t.Errorf("tip is %+v", got)
		}
	})
}

// say answers a question with a body, by its beginning.
func say(beginning, body string) func(http.ResponseWriter, string) bool {
	return func(w http.ResponseWriter, question string) bool {
		if !strings.HasPrefix(question, beginning) {
			return false
		}
		_, _ = w.Write([]byte(body))
		return true
	}
}

func TestLies(t *testing.T) {
	long := chainhash.Hash{1}.String()
	info := func(blocks, best string) string {
		return fmt.Sprintf(`{"result":{"chain":"regtest","blocks":%s,"bestblockhash":"%s"},"error":null,"id":1}`, blocks, best)
	}
	getTip := func(ctx context.Context, c *bitcoind.Client) error { _, err := c.Tip(ctx); return err }
	getHash := func(ctx context.Context, c *bitcoind.Client) error { _, err := c.BlockHash(ctx, 1); return err }
	getBlock := func(ctx context.Context, c *bitcoind.Client) error {
		_, err := c.Block(ctx, *regtest.Params.GenesisHash)
		return err
	}
	var tx *wire.MsgTx // the spender, set below
	var block chainhash.Hash
	getScript := func(ctx context.Context, c *bitcoind.Client) error {
		_, err := spendsOf(ctx, c, block, tx.TxHash(), tx.TxIn[0].PreviousOutPoint)
		return err
	}
	var raw bytes.Buffer
	check(t, regtest.Params.GenesisBlock.Serialize(&raw))
	genesisHex := fmt.Sprintf("%x", raw.Bytes())
	decoded := func(hex, input string) string {
		return fmt.Sprintf(`{"result":{"txid":"x","hex":"%s","vin":[%s]},"error":null,"id":1}`, hex, input)
	}

	for name, test := range map[string]struct {
		question string
		body     func() string
		txIndex  bool
		call     func(context.Context, *bitcoind.Client) error
		says     string
		want     error // nil: node.ErrInvalid
	}{
		"height -1":            {question: "getblockchaininfo", body: func() string { return info("-1", long) }, call: getTip},
		"height 1.5":           {question: "getblockchaininfo", body: func() string { return info("1.5", long) }, call: getTip},
		"height 2^31":          {question: "getblockchaininfo", body: func() string { return info("2147483648", long) }, call: getTip},
		"height 2^70":          {question: "getblockchaininfo", body: func() string { return info("1180591620717411303424", long) }, call: getTip},
		"height in words":      {question: "getblockchaininfo", body: func() string { return info(`"1"`, long) }, call: getTip},
		"no height":            {question: "getblockchaininfo", body: func() string { return info("null", long) }, call: getTip},
		"short hash":           {question: "getblockchaininfo", body: func() string { return info("1", "ab") }, call: getTip, says: "64 hex"},
		"hash with a space":    {question: "getblockhash", body: func() string { return `{"result":"` + long[1:] + ` ","id":1}` }, call: getHash},
		"hash is a number":     {question: "getblockhash", body: func() string { return `{"result":7,"error":null,"id":1}` }, call: getHash},
		"another block":        {question: "getblock", body: func() string { return `{"result":"` + strings.Repeat("00", 80) + `","id":1}` }, call: getBlock, says: "it sent block"},
		"a short block":        {question: "getblock", body: func() string { return `{"result":"00","id":1}` }, call: getBlock, says: "1 bytes"},
		"an empty block":       {question: "getblock", body: func() string { return `{"result":"","id":1}` }, call: getBlock},
		"odd hex":              {question: "getblock", body: func() string { return `{"result":"000","id":1}` }, call: getBlock, says: "hex"},
		"no hex":               {question: "getblock", body: func() string { return `{"result":"zz","id":1}` }, call: getBlock, says: "hex"},
		"two results":          {question: "getblock", body: func() string { return `{"result":"` + genesisHex + `","result":"00","id":1}` }, call: getBlock, says: "more than one result"},
		"a block and an error": {question: "getblock", body: func() string { return `{"result":"` + genesisHex + `","error":{"code":-32602,"message":"no"},"id":1}` }, call: getBlock, want: node.ErrUnsuitable},
		"index: another transaction": {question: "getrawtransaction", body: func() string { return `{"result":"` + hexOf(tx) + `","id":1}` }, txIndex: true,
			call: getScript, says: "it sent transaction"},
		"index: no transaction": {question: "getrawtransaction", body: func() string { return `{"result":"00","id":1}` }, txIndex: true, call: getScript},
		"undo: no inputs": {question: "getrawtransaction", body: func() string { return decoded(hexOf(tx), "") },
			call: getScript, says: "does not spend"},
		"undo: no such input": {question: "getrawtransaction", body: func() string {
			return decoded(hexOf(tx), `{"txid":"`+long+`","vout":0,"value":1,"scriptPubKey":{"hex":""}}`)
		},
			call: getScript, says: "does not spend output"},
		"undo: no script": {question: "getrawtransaction", body: func() string {
			return decoded(hexOf(tx), fmt.Sprintf(`{"txid":"%v","vout":0,"prevout":{"value":1,"scriptPubKey":{}}}`, tx.TxIn[0].PreviousOutPoint.Hash))
		}, call: getScript, says: "scriptPubKey.hex"},
		"undo: no hex": {question: "getrawtransaction", body: func() string {
			return decoded(hexOf(tx), fmt.Sprintf(`{"txid":"%v","vout":0,"value":1,"scriptPubKey":{"hex":"zz"}}`, tx.TxIn[0].PreviousOutPoint.Hash))
		}, call: getScript, says: "scriptPubKey.hex"},
		"undo: token without category": {question: "getrawtransaction", body: func() string {
			return decoded(hexOf(tx), fmt.Sprintf(`{"txid":"%v","vout":0,"value":1,"scriptPubKey":{"hex":""},"tokenData":{"amount":"1"}}`, tx.TxIn[0].PreviousOutPoint.Hash))
		}, call: getScript, says: "category"},
		"undo: token of nothing": {question: "getrawtransaction", body: func() string {
			return decoded(hexOf(tx), fmt.Sprintf(`{"txid":"%v","vout":0,"value":1,"scriptPubKey":{"hex":""},"tokenData":{"category":"%s","amount":"0"}}`, tx.TxIn[0].PreviousOutPoint.Hash, long))
		}, call: getScript, says: "neither an amount"},
		"undo: no value": {question: "getrawtransaction", body: func() string {
			return decoded(hexOf(tx), fmt.Sprintf(`{"txid":"%v","vout":0,"scriptPubKey":{"hex":""}}`, tx.TxIn[0].PreviousOutPoint.Hash))
		}, call: getScript, says: "value"},
		"undo: negative value": {question: "getrawtransaction", body: func() string {
			return decoded(hexOf(tx), fmt.Sprintf(`{"txid":"%v","vout":0,"value":-1,"scriptPubKey":{"hex":""}}`, tx.TxIn[0].PreviousOutPoint.Hash))
		}, call: getScript, says: "a value of 0"},
		"undo: more than there is": {question: "getrawtransaction", body: func() string {
			return decoded(hexOf(tx), fmt.Sprintf(`{"txid":"%v","vout":0,"value":21000001,"scriptPubKey":{"hex":""}}`, tx.TxIn[0].PreviousOutPoint.Hash))
		}, call: getScript, says: "a value of 0"},
		"undo: negative amount": {question: "getrawtransaction", body: func() string {
			return decoded(hexOf(tx), fmt.Sprintf(`{"txid":"%v","vout":0,"value":1,"scriptPubKey":{"hex":""},"tokenData":{"category":"%s","amount":"-1"}}`, tx.TxIn[0].PreviousOutPoint.Hash, long))
		}, call: getScript, says: "amount"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newBCHN(t)
			n.txIndex = test.txIndex
			block, tx, _ = n.mineSpending()
			c := dial(t, n.config())
			n.set(func() { n.instead = say(test.question, test.body()) })
			want := node.ErrInvalid
			if test.want != nil {
				want = test.want
			}
			wantError(t, test.call(t.Context(), c), want, test.says)
		})
	}
}

func TestTooLong(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	n := newBCHN(t)
	n.mine()
	c := dial(t, n.config())
	n.set(func() {
		n.instead = func(w http.ResponseWriter, question string) bool {
			_, _ = w.Write([]byte(`{"result":"`))
			garbage(w, 66<<20)
			return true
		}
	})
	_, err := c.BlockHash(t.Context(), 1)
	wantError(t, err, node.ErrUnsuitable, "longer than any answer may be")
}

func TestWrongNetwork(t *testing.T) {
	for name, test := range map[string]struct {
		chain   string
		network *chaincfg.Params
		says    string
	}{
		"other chain":               {"main", regtest.Params, "mainnet"},
		"other genesis block":       {"main", &chaincfg.MainNetParams, "its chain starts with block"},
		"same genesis, other chain": {"test4", &chaincfg.ChipNetParams, `"testnet4", expected chipnet`},
		"unknown chain":             {"signet", regtest.Params, "signet"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newBCHN(t)
			n.chain = test.chain
			cfg := n.config()
			cfg.Network = test.network
			_, err := bitcoind.Dial(t.Context(), cfg)
			wantError(t, err, node.ErrUnsuitable, test.says)
		})
	}
}

// TestNetworkChanges starts a node of another network in the place of the one that
// was suitable.
func TestNetworkChanges(t *testing.T) {
	n := newBCHN(t)
	c := dial(t, n.config())
	n.set(func() { n.chain = "main" })
	_, err := c.Tip(t.Context())
	wantError(t, err, node.ErrUnsuitable, `it is on network "mainnet", expected regtest`)
	n.set(func() { n.chain = "regtest" })
	must[node.Tip](t)(c.Tip(t.Context()))
}

// TestHeadersReorganised has the best chain change between the questions for its
// headers: that is no lie.
func TestHeadersReorganised(t *testing.T) {
	n := newBCHN(t)
	first := n.mine()
	n.mine()
	c := dial(t, n.config())
	n.set(func() {
		n.instead = say("getblockhash 2", fmt.Sprintf(`{"result":"%v","error":null,"id":1}`, regtest.Params.GenesisHash))
	})
	headers := must[[]protocol.Header](t)(c.Headers(t.Context(), *regtest.Params.GenesisHash, 0, 10))
	if len(headers) != 1 || headers[0].Hash != first {
		t.Errorf("got headers %v, want the one of block 1, %v", headers, first)
	}
}

func TestPruned(t *testing.T) {
	n := newBCHN(t)
	n.rest = true
	for range 5 {
		n.mineSpending()
	}
	n.pruned = 4
	cfg := n.config()
	cfg.From = 3
	_, err := bitcoind.Dial(t.Context(), cfg)
	wantError(t, err, node.ErrUnsuitable, "below 4", "from 3 on", "-prune")
	cfg.From = 4
	c := dial(t, cfg)
	must[[]byte](t)(c.Block(t.Context(), must[chainhash.Hash](t)(c.BlockHash(t.Context(), 4))))
	n.set(func() { n.pruned = 5 })
	_, err = c.Block(t.Context(), must[chainhash.Hash](t)(c.BlockHash(t.Context(), 4)))
	wantError(t, err, node.ErrUnsuitable, "pruned data")
}

func TestInitialDownload(t *testing.T) {
	n := newBCHN(t)
	n.mine()
	n.download, n.ahead = true, 6
	log := make(lines, 10)
	cfg := n.config()
	cfg.Log = zerolog.New(log)
	c := dial(t, cfg)
	drain := func() (all string) {
		for {
			select {
			case line := <-log:
				all += line
			default:
				return all
			}
		}
	}
	drain()
	for range 3 {
		if got := must[node.Tip](t)(c.Tip(t.Context())); got.Height != 1 || !got.Downloading {
			t.Errorf("tip is %+v, want height 1, downloading", got)
		}
	}
	if said := drain(); strings.Count(said, "behind the network") != 1 {
		t.Errorf("it logged %q", said)
	}
	// It says so until its tip is of today, but there is nothing left to download.
	n.set(func() { n.ahead = 0 })
	if got := must[node.Tip](t)(c.Tip(t.Context())); got.Downloading {
		t.Errorf("tip is %+v", got)
	}
	if said := drain(); !strings.Contains(said, "has all blocks") {
		t.Errorf("it logged %q", said)
	}
}

// TestPassingTroubles answers each question with a trouble first.
func TestPassingTroubles(t *testing.T) {
	for name, trouble := range map[string]func(http.ResponseWriter){
		"warm-up": func(w http.ResponseWriter) { rpcFailure(w, -28, "Loading block index...") },
		"work queue": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte("Work queue depth exceeded"))
		},
		"hangs up": func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"breaks off": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte(`{"result":"00`))
		},
		"server error": func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait between attempts
			n := newBCHN(t)
			n.rest = true
			block, tx, spent := n.mineSpending()
			troubled := make(map[string]bool)
			n.instead = func(w http.ResponseWriter, question string) bool {
				first := !troubled[question]
				troubled[question] = true
				if first {
					trouble(w)
				}
				return first
			}
			c := dial(t, n.config())
			n.set(func() { clear(troubled) })
			if got := must[node.Tip](t)(c.Tip(t.Context())); got.Hash != block {
				t.Errorf("tip is %+v, want %v", got, block)
			}
			if got := must[chainhash.Hash](t)(c.BlockHash(t.Context(), 2)); got != block {
				t.Errorf("block 2 is %v, want %v", got, block)
			}
			must[[]byte](t)(c.Block(t.Context(), block))
			n.set(func() { n.rest = false })
			must[[]byte](t)(c.Block(t.Context(), block))
			wantSpent(t, c, block, tx, spent)
		})
	}
}

func TestCookie(t *testing.T) {
	n := newBCHN(t)
	n.mine()
	file := filepath.Join(t.TempDir(), ".cookie")
	write := func(content string) { check(t, os.WriteFile(file, []byte(content), 0o600)) }
	cfg := n.config()
	cfg.User, cfg.Password, cfg.CookieFile = "", "", file

	// The node is not running yet.
	log := make(lines, 10)
	cfg.Log = zerolog.New(log)
	dialed := make(chan *bitcoind.Client)
	go func() {
		c, err := bitcoind.Dial(t.Context(), cfg)
		if err != nil {
			t.Error(err)
		}
		dialed <- c
	}()
	if line := <-log; !strings.Contains(line, "waiting for the node") || !strings.Contains(line, file) {
		t.Errorf("it logged %q", line)
	}
	// Not half of it.
	check(t, os.WriteFile(file+".tmp", []byte("__cookie__:hush"), 0o600))
	check(t, os.Rename(file+".tmp", file))
	c := <-dialed
	t.Cleanup(func() { check(t, c.Close()) })

	// The node was started anew.
	n.set(func() { n.password = "hush again" })
	write("__cookie__:hush again\n")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := c.Tip(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// TestNotTheNode asks what is something else.
func TestNotTheNode(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("a redirection was followed, with Authorization %q", r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	for name, test := range map[string]struct {
		handler http.Handler
		says    string
	}{
		"web server":    {http.NotFoundHandler(), "-rpcport"},
		"redirection":   {http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect), "HTTP 307"},
		"not allowed":   {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }), "-rpcallowip"},
		"other methods": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { rpcFailure(w, -32601, "Method not found") }), "Method not found"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(test.handler)
			defer server.Close()
			cfg := newBCHN(t).config()
			cfg.Address = server.Listener.Addr().String()
			_, err := bitcoind.Dial(t.Context(), cfg)
			wantError(t, err, node.ErrUnsuitable, test.says)
		})
	}
	t.Run("not HTTP", func(t *testing.T) {
		l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
		var served sync.WaitGroup
		served.Go(func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte("SSH-2.0-OpenSSH_10.0\r\n\r\n"))
				_ = conn.Close()
			}
		})
		defer served.Wait()
		defer l.Close()
		cfg := newBCHN(t).config()
		cfg.Address = l.Addr().String()
		_, err := bitcoind.Dial(t.Context(), cfg)
		wantError(t, err, node.ErrUnsuitable, "-rpcport")
	})
	t.Run("without TLS", func(t *testing.T) {
		cfg := newBCHN(t).config()
		cfg.TLS = true
		_, err := bitcoind.Dial(t.Context(), cfg)
		wantError(t, err, node.ErrUnsuitable, "does not speak TLS")
	})
}

// TestConnections fetches many blocks at a time over few connections that stay.
func TestConnections(t *testing.T) {
	n := newBCHN(t)
	n.rest = true
	block, _, _ := n.mineSpending()
	c := dial(t, n.config())
	for range 5 {
		var all sync.WaitGroup
		for range 32 {
			all.Go(func() {
				if _, err := c.Block(t.Context(), block); err != nil {
					t.Error(err)
				}
				if _, err := c.BlockHash(t.Context(), 1); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conns == 0 || n.conns > 8 {
		t.Errorf("%d connections for 320 questions, want 1 to 8", n.conns)
	}
}

// TestEndsWithContext ends a call whose answer does not come.
func TestEndsWithContext(t *testing.T) {
	n := newBCHN(t)
	n.mine()
	c := dial(t, n.config())
	asked, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	n.set(func() {
		n.instead = func(http.ResponseWriter, string) bool { asked <- struct{}{}; <-release; return true }
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the user had enough")
	go func() { <-asked; cancel(reason) }()
	_, err := c.Tip(ctx)
	wantError(t, err, node.ErrUnavailable)
	wantError(t, err, reason)
}
