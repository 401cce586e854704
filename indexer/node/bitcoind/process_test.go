package bitcoind_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
	"github.com/keytree-bch/keytree/indexer/node/nodetest"
)

// bchnEnv is the variable that names a bitcoind of BCHN, for the tests that need one.
const bchnEnv = "KEYTREE_BCHN"

// process is a BCHN on a network of its own, for one goroutine, and a
// nodetest.Control.
type process struct {
	branches
	command []string
	cfg     bitcoind.Config
	ended   chan error // has a value when the process has ended
}

// startBCHN starts a BCHN, with an index of transactions or without, that ends with the
// test, and gives it a chain. Where there is no BCHN it skips the test.
func startBCHN(t *testing.T, chain *nodetest.Chain, index bool) *process {
	t.Helper()
	binary := os.Getenv(bchnEnv)
	if binary == "" {
		t.Skip(bchnEnv + " names no bitcoind of BCHN")
	}
	rpc, zmq := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0")), must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	_, port, err := net.SplitHostPort(rpc.Addr().String())
	check(t, errors.Join(err, rpc.Close(), zmq.Close()))
	p := &process{branches: branches{best: chain}, cfg: bitcoind.Config{
		Address: rpc.Addr().String(), User: "keytree", Password: "hush", ZMQ: zmq.Addr().String(), Network: regtest.Params, RetryFor: time.Minute,
	}}
	p.command = []string{
		binary, "-regtest", "-datadir=" + t.TempDir(), "-listen=0", "-printtoconsole=0", "-rest=1", "-zmqpubhashblock=tcp://" + p.cfg.ZMQ, "-zmqpubrawtx=tcp://" + p.cfg.ZMQ,
		"-rpcport=" + port, "-rpcuser=" + p.cfg.User, "-rpcpassword=" + string(p.cfg.Password),
		"-expire=0",        // releases refuse to serve after a while
		"-parkdeepreorg=0", // it does not cling to its branch
		// Of a chain that is old it would announce nothing.
		"-maxtipage=" + fmt.Sprint(100*365*24*3600),
	}
	if index {
		p.command = append(p.command, "-txindex=1")
	}
	check(t, p.Resume(t.Context()))
	t.Cleanup(func() { check(t, p.Halt()) })
	chain.SubmitTo(t, p)
	for index { // which is made behind the chain
		info := must[any](t)(p.call(t.Context(), "getindexinfo"))
		index = info.(map[string]any)["txindex"].(map[string]any)["synced"] != true
	}
	return p
}

// call calls a method and returns its result.
func (p *process) call(ctx context.Context, method string, params ...any) (any, error) {
	question, err := json.Marshal(map[string]any{"id": 1, "method": method, "params": params})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.cfg.Address, bytes.NewReader(question))
	if err != nil {
		return nil, err
	}
	req.Close = true
	req.SetBasicAuth(p.cfg.User, string(p.cfg.Password))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct{ Result, Error any }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, fmt.Errorf("%s: HTTP %s: %w", method, resp.Status, err)
	}
	if answer.Error != nil {
		return nil, fmt.Errorf("%s: %v", method, answer.Error)
	}
	return answer.Result, nil
}

// SubmitBlock hands a block to the node.
func (p *process) SubmitBlock(ctx context.Context, b *wire.MsgBlock) error {
	var raw bytes.Buffer
	if err := b.Serialize(&raw); err != nil {
		return err
	}
	refused, err := p.call(ctx, "submitblock", hex.EncodeToString(raw.Bytes()))
	if refused != nil {
		err = fmt.Errorf("block %v: %v", b.BlockHash(), refused)
	}
	return err
}

// SubmitTransaction puts a transaction into the mempool.
func (p *process) SubmitTransaction(ctx context.Context, tx *wire.MsgTx) error {
	_, err := p.call(ctx, "sendrawtransaction", hexOf(tx))
	return err
}

// Mine implements nodetest.Control.
func (p *process) Mine(ctx context.Context, count uint32) ([]chainhash.Hash, error) {
	return p.Reorg(ctx, 0, make([][]*wire.MsgTx, count)...)
}

// Reorg implements nodetest.Control.
func (p *process) Reorg(ctx context.Context, depth uint32, blocks ...[]*wire.MsgTx) ([]chainhash.Hash, error) {
	mined := p.reorg(depth, blocks...)
	for height := p.best.Height() + 1 - uint32(len(mined)); height <= p.best.Height(); height++ {
		if err := p.SubmitBlock(ctx, p.best.Block(height)); err != nil && !strings.Contains(err.Error(), "inconclusive") {
			return nil, err
		}
	}
	return mined, nil
}

// Invalidate implements nodetest.Control.
func (p *process) Invalidate(ctx context.Context, hash chainhash.Hash) error {
	p.invalidate(hash)
	_, err := p.call(ctx, "invalidateblock", hash.String())
	return err
}

// Reconsider implements nodetest.Control.
func (p *process) Reconsider(ctx context.Context, hash chainhash.Hash) error {
	p.reconsider()
	_, err := p.call(ctx, "reconsiderblock", hash.String())
	return err
}

// Resume implements nodetest.Control.
func (p *process) Resume(ctx context.Context) error {
	cmd := exec.Command(p.command[0], p.command[1:]...)
	var output bytes.Buffer
	cmd.Stderr = &output
	if err := cmd.Start(); err != nil {
		return err
	}
	p.ended = make(chan error, 1)
	go func() { p.ended <- cmd.Wait() }()
	for {
		if _, err := p.call(ctx, "getblockcount"); err == nil {
			return nil
		}
		select {
		case err := <-p.ended:
			return fmt.Errorf("BCHN did not start: %w: %s", err, &output)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Halt implements nodetest.Control.
func (p *process) Halt() error {
	if _, err := p.call(context.Background(), "stop"); err != nil {
		return err
	}
	return <-p.ended
}

// TestSuiteRealBCHN runs the suite on a real BCHN.
func TestSuiteRealBCHN(t *testing.T) {
	chain, _ := nodetest.NewChain()
	for name, index := range map[string]bool{"undo data": false, "transaction index": true} {
		t.Run(name, func(t *testing.T) {
			p := startBCHN(t, chain, index)
			runSuite(t, p.cfg, chain, index, 0)
			nodetest.RunCoins(t, chain, dial(t, p.cfg))
			txs := fillMempool(t, p, chain)
			nodetest.RunMempool(t, chain, txs, true, dial(t, p.cfg))
			nodetest.RunAnnounced(t, chain.Unconfirmed(2 * len(txs))[len(txs):], p.SubmitTransaction, dial(t, p.cfg))
			runLiveSuite(t, p.cfg, chain, p)
		})
	}
}
