package bitcoind_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/go-zeromq/zmq4"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer/mempool"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
	"github.com/keytree-bch/keytree/indexer/node/nodetest"
	"github.com/keytree-bch/keytree/protocol"
)

// unconfirmed is how many transactions a mempool is filled with.
const unconfirmed = 40 // more than a batch

// fillMempool fills the mempool of a real BCHN, and spends what its first transaction spends.
func fillMempool(t *testing.T, p *process, chain *nodetest.Chain) []*wire.MsgTx {
	t.Helper()
	txs := chain.Unconfirmed(unconfirmed)
	for _, tx := range txs {
		check(t, p.SubmitTransaction(t.Context(), tx))
	}
	if err := p.SubmitTransaction(t.Context(), chain.SpentTwice(txs[0])); err == nil {
		t.Fatal("it takes what is spent already")
	}
	return txs
}

// TestMempoolBCHN asks the imitation of BCHN about its mempool.
func TestMempoolBCHN(t *testing.T) {
	chain, _ := nodetest.NewChain()
	for _, index := range []bool{false, true} {
		n := newBCHN(t)
		n.txIndex = index
		n.take(chain)
		c := dial(t, n.config())
		nodetest.RunMempool(t, chain, nil, false, c)
		txs := chain.Unconfirmed(unconfirmed)
		n.set(func() { n.mempool = txs })
		nodetest.RunMempool(t, chain, txs, false, c)
		n.set(func() { n.doubted = txs[0] })
		nodetest.RunMempool(t, chain, txs, true, c)
	}
}

// TestMempoolBCHD asks a bchd by JSON-RPC about its mempool.
func TestMempoolBCHD(t *testing.T) {
	chain, _ := nodetest.NewChain()
	chain = chain.To(nodetest.TokensFrom - 3) // it does not tell of tokens
	n := regtest.ForTest(t, regtest.Options{NoAddrIndex: true})
	chain.SubmitTo(t, n)
	txs := chain.Unconfirmed(5)
	for _, tx := range txs {
		check(t, n.SubmitTransaction(t.Context(), tx))
	}
	nodetest.RunMempool(t, chain, txs, false, dial(t, config(t, n)))
}

// mempoolRecording is what a BCHN answered about its mempool.
const mempoolRecording = "mempool"

// TestRecordMempool has a BCHN answer what TestReplayMempool asks, and writes it down.
func TestRecordMempool(t *testing.T) {
	if !*record {
		t.Skip("without -record")
	}
	chain, _ := nodetest.NewChain()
	p := startBCHN(t, chain, false)
	txs := fillMempool(t, p, chain)
	r := &recording{t: t, of: p.cfg.Address, answers: make(map[string]answer)}
	c := dial(t, r.serve())
	nodetest.RunMempool(t, chain, txs, true, c)
	checkFollowed(t, chain, txs, c)
	r.save(mempoolRecording)
}

// TestReplayMempool asks a BCHN about its mempool, as it was recorded.
func TestReplayMempool(t *testing.T) {
	chain, _ := nodetest.NewChain()
	txs, c := chain.Unconfirmed(unconfirmed), dial(t, replay(t, mempoolRecording).serve())
	nodetest.RunMempool(t, chain, txs, true, c)
	checkFollowed(t, chain, txs, c)
}

// checkFollowed follows the mempool, for a graph that has the chain's last block alone, and
// checks that all transactions are by the one who signed them, and doubted.
func checkFollowed(t *testing.T, chain *nodetest.Chain, txs []*wire.MsgTx, c *bitcoind.Client) {
	t.Helper()
	height := chain.Height()
	header := chain.Block(height).Header
	g := must[*graph.Graph](t)(graph.Open(t.TempDir(), graph.Params{Network: regtest.Params.Name, StartHeight: height}, graph.Options{MemTable: 8 << 20, BlockCache: 4 << 20}))
	defer func() { check(t, g.Close()) }()
	check(t, g.Connect(graph.Block{Height: height, Hash: header.BlockHash(), PrevHash: header.PrevBlock, Time: uint32(header.Timestamp.Unix()), Bits: header.Bits}))
	f := mempool.New(c, g, regtest.Params, mempool.Options{Poll: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	changed := g.PendingChanged()
	<-changed
	view, ok := g.Pending()
	if !ok {
		t.Fatalf("nothing is pending: %+v", f.Status())
	}
	for _, tx := range txs {
		a := must[links.ActionStatus](t)(view.Action(tx.TxHash()))
		author, _ := protocol.P2PKHKey(tx.TxOut[0].PkScript) // who gets the change
		if pending, ok := view.Tx(tx.TxHash()); a.Author == nil || *a.Author != author || !ok || !pending.DoubleSpend {
			t.Errorf("action %v is by %v, doubted is %+v", tx.TxHash(), a.Author, pending)
		}
	}
	view.Close()
	cancel()
	check(t, <-done)
}

// TestBatchLies has a node answer to a batch what is no answer to it.
func TestBatchLies(t *testing.T) {
	for name, test := range map[string]struct {
		answer string
		want   error
	}{
		"one answer":             {`{"result":"00","error":null,"id":0}`, node.ErrUnsuitable},
		"an error":               {`{"result":null,"error":{"code":-28,"message":"Loading"},"id":null}`, node.ErrUnavailable},
		"none":                   {`[]`, node.ErrUnsuitable},
		"one missing":            {`[{"result":"00","error":null,"id":0}]`, node.ErrUnsuitable},
		"one twice":              {`[{"result":"00","error":null,"id":0},{"result":"00","error":null,"id":0}]`, node.ErrUnsuitable},
		"one of another":         {`[{"result":"00","error":null,"id":0},{"result":"00","error":null,"id":7}]`, node.ErrUnsuitable},
		"without an id":          {`[{"result":"00","error":null},{"result":"00","error":null,"id":1}]`, node.ErrUnsuitable},
		"no hex":                 {`[{"result":"zz","error":null,"id":0},{"result":"00","error":null,"id":1}]`, node.ErrInvalid},
		"no text":                {`[{"result":5,"error":null,"id":0},{"result":"00","error":null,"id":1}]`, node.ErrInvalid},
		"breaks off":             {`[{"result":"00","error":null,"id":0},{"res`, node.ErrUnavailable},
		"no JSON":                {`<html>`, node.ErrUnsuitable},
		"one fails":              {`[{"result":"00","error":null,"id":0},{"result":null,"error":{"code":-1,"message":"x"},"id":1}]`, node.ErrUnavailable},
		"larger than any may be": {`["` + strings.Repeat("0", 5_000_000) + `"]`, node.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			n := newBCHN(t)
			cfg := n.config()
			cfg.RetryFor = time.Millisecond
			c := dial(t, cfg)
			n.set(func() {
				n.instead = func(w http.ResponseWriter, question string) bool {
					if question == "batch" {
						fmt.Fprint(w, test.answer)
					}
					return question == "batch"
				}
			})
			if raws, err := c.MempoolTxs(t.Context(), []chainhash.Hash{{1}, {2}}); !errors.Is(err, test.want) {
				t.Errorf("got %x, %v; want %v", raws, err, test.want)
			}
		})
	}
}

// TestAnnounced has transactions announced by ZeroMQ, others not, and a node that is started
// anew.
func TestAnnounced(t *testing.T) {
	n := newBCHN(t)
	p := publish(t, "127.0.0.1:0")
	cfg := n.config()
	cfg.ZMQ, cfg.StallAfter = p.address(), 50*time.Millisecond
	log := make(lines, 100)
	cfg.Log = zerolog.New(log)
	c := dial(t, cfg)
	txs := c.Announced()
	raw := make([]byte, 300) // in a long frame
	announceUntil := func() {
		t.Helper()
		for {
			check(t, p.socket.Send(zmq4.NewMsgFrom([]byte("rawtx"), raw, []byte{1, 0, 0, 0})))
			select {
			case got := <-txs:
				if len(got) != len(raw) {
					t.Errorf("%d bytes were announced", len(got))
				}
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	await := func(announces string) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); c.Announces() != announces; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("transactions are announced by %q, want %q", c.Announces(), announces)
			}
		}
	}
	announceUntil()
	await("zmq")
	c.Missed()
	for line := range log {
		if strings.Contains(line, "does the node publish rawtx there?") {
			break
		}
	}
	await("") // over the new connection too, as long as nothing comes
	announceUntil()
	await("zmq")
	p.close()
	await("")
	p = publish(t, cfg.ZMQ)
	announceUntil()
	await("zmq")
}
