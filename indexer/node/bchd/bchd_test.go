package bchd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// must returns its function's first result, or ends the test.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantError fails the test unless err is target and says all of says.
func wantError(t *testing.T, err, target error, says ...string) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got %v, want %v", err, target)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error %q does not say %q", err, s)
		}
	}
}

func config(t *testing.T, n *regtest.Node) bchd.Config {
	t.Helper()
	cfg := must[bchd.Config](t)(bchd.ParseURL(n.URL()))
	cfg.Network = regtest.Params
	return cfg
}

func dial(t *testing.T, cfg bchd.Config) *bchd.Client {
	t.Helper()
	c := must[*bchd.Client](t)(bchd.Dial(t.Context(), cfg))
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

func serialized(t *testing.T, tx interface{ Serialize(io.Writer) error }) []byte {
	t.Helper()
	var raw bytes.Buffer
	check(t, tx.Serialize(&raw))
	return raw.Bytes()
}

func TestChain(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	c := dial(t, config(t, n))

	height, hash, err := n.Tip(ctx)
	check(t, err)
	if got := must[node.Tip](t)(c.Tip(ctx)); got != (node.Tip{Height: height, Hash: hash, Headers: height, Peers: node.Untold}) {
		t.Errorf("tip is %+v, want %d %v", got, height, hash)
	}
	if got := must[chainhash.Hash](t)(c.BlockHash(ctx, 0)); got != *regtest.Params.GenesisHash {
		t.Errorf("block 0 is %v, want %v", got, regtest.Params.GenesisHash)
	}
	if got := must[chainhash.Hash](t)(c.BlockHash(ctx, height)); got != hash {
		t.Errorf("block %d is %v, want %v", height, got, hash)
	}
	for _, beyond := range []uint32{height + 1, 1 << 31, 1<<32 - 1} {
		_, err = c.BlockHash(ctx, beyond)
		wantError(t, err, node.ErrNotFound, fmt.Sprint(beyond))
	}

	want := must[*wire.MsgBlock](t)(n.Block(ctx, hash))
	if got := must[[]byte](t)(c.Block(ctx, hash)); !bytes.Equal(got, serialized(t, want)) {
		t.Errorf("block %v differs from JSON-RPC's", hash)
	}
	_, err = c.Block(ctx, chainhash.Hash{1})
	wantError(t, err, node.ErrNotFound)

	// After a reorganisation the old block is not found any more.
	branch := must[[]chainhash.Hash](t)(n.Reorg(ctx, 1, nil, nil))
	_, err = c.Block(ctx, hash)
	wantError(t, err, node.ErrNotFound)
	if got := must[chainhash.Hash](t)(c.BlockHash(ctx, height)); got != branch[0] {
		t.Errorf("block %d is %v, want %v of the new branch", height, got, branch[0])
	}
}

// spentScript returns the script of the output that a transaction in the block spends
// by its input 0.
func spentScript(ctx context.Context, c *bchd.Client, block, spender chainhash.Hash, out wire.OutPoint) ([]byte, error) {
	spent, err := c.Spent(ctx, block, []node.Spender{{TxID: spender, Inputs: []wire.OutPoint{out}}})
	if err != nil {
		return nil, err
	}
	if len(spent) != 1 || !spent[0].Proven || len(spent[0].Outputs) != 1 {
		return nil, fmt.Errorf("expected one output, proven, got %+v", spent)
	}
	tx, err := c.Previous(ctx, block, spender, out)
	if err != nil {
		return nil, err
	}
	if output, err := protocol.SpentOutput(tx, out); err != nil || !reflect.DeepEqual(output, spent[0].Outputs[0]) {
		return nil, fmt.Errorf("output is %+v, by the previous transaction %+v, %v", spent[0].Outputs[0], output, err)
	}
	return spent[0].Outputs[0].Script, nil
}

func TestHeaders(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 2100})
	c := dial(t, config(t, n))
	all := []chainhash.Hash{*regtest.Params.GenesisHash}
	for len(all) < 2101 {
		headers := must[[]protocol.Header](t)(c.Headers(ctx, all[len(all)-1], uint32(len(all)-1), 5000))
		for _, h := range headers {
			if h.PrevBlock != all[len(all)-1] {
				t.Fatalf("block %v follows %v, want %v", h.Hash, h.PrevBlock, all[len(all)-1])
			}
			all = append(all, h.Hash)
		}
	}
	tip := must[node.Tip](t)(c.Tip(ctx))
	if tip.Hash != all[len(all)-1] || tip.Headers != tip.Height || tip.Peers != node.Untold {
		t.Errorf("tip is %+v, headers lead to %v", tip, all[len(all)-1])
	}
	for name, after := range map[string]chainhash.Hash{"nothing behind the tip": tip.Hash, "an unknown block": {1}} {
		if headers, err := c.Headers(ctx, after, 2100, 1); !errors.Is(err, node.ErrNotFound) {
			t.Errorf("%s: %d headers, %v", name, len(headers), err)
		}
	}
}

func TestSpent(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	c := dial(t, config(t, n))
	key := regtest.NewKey()
	odd := []byte{txscript.OP_2DROP, txscript.OP_1}
	coins := must[[]regtest.Coin](t)(n.Fund(ctx, key.Output(100_000), wire.NewTxOut(5000, odd, wire.TokenData{})))

	wantScripts := func(where string) {
		t.Helper()
		for i, want := range [][]byte{key.Script(), odd} {
			got := must[[]byte](t)(spentScript(ctx, c, chainhash.Hash{}, chainhash.Hash{}, coins[i].OutPoint))
			if !bytes.Equal(got, want) {
				t.Errorf("%s: script of %v is %x, want %x", where, coins[i].OutPoint, got, want)
			}
		}
	}
	wantScripts("in the mempool")
	must[[]chainhash.Hash](t)(n.Mine(ctx, 1))
	wantScripts("in a block")

	parent, change, err := regtest.Spend(key, coins[0])
	check(t, err)
	child, _, err := regtest.Spend(key, change)
	check(t, err)
	block := must[chainhash.Hash](t)(n.MineBlock(ctx, parent, child))
	if got := must[[]byte](t)(spentScript(ctx, c, block, child.TxHash(), change.OutPoint)); !bytes.Equal(got, key.Script()) {
		t.Errorf("script spent in its own block is %x, want %x", got, key.Script())
	}
	wantScripts("spent")

	// The token prefix belongs to the script.
	token := wire.TokenData{CategoryID: child.TxHash(), Amount: 77, BitField: wire.HAS_AMOUNT}
	issue, _, err := regtest.Spend(key, regtest.CoinOf(child, 0), wire.NewTxOut(2000, key.Script(), token))
	check(t, err)
	must[chainhash.Hash](t)(n.MineBlock(ctx, issue))
	category := child.TxHash()
	want := slices.Concat([]byte{0xef}, category[:], []byte{wire.HAS_AMOUNT, 77}, key.Script())
	out := wire.OutPoint{Hash: issue.TxHash(), Index: 1}
	if got := must[[]byte](t)(spentScript(ctx, c, block, child.TxHash(), out)); !bytes.Equal(got, want) {
		t.Errorf("script with a token is %x, want %x", got, want)
	}

	_, err = spentScript(ctx, c, block, child.TxHash(), wire.OutPoint{Hash: chainhash.Hash{1}})
	wantError(t, err, node.ErrNotFound)
	_, err = spentScript(ctx, c, block, child.TxHash(), wire.OutPoint{Hash: parent.TxHash(), Index: 9})
	wantError(t, err, node.ErrInvalid, "1 outputs")

	if got := must[[]byte](t)(c.Transaction(ctx, child.TxHash())); !bytes.Equal(got, serialized(t, child)) {
		t.Errorf("transaction is %x, want %x", got, serialized(t, child))
	}
}

// gRPC's own limit is 4 MB.
func TestBlockOverTheDefaultMessageLimit(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	c := dial(t, config(t, n))
	key := regtest.NewKey()
	data := append([]byte{txscript.OP_RETURN, txscript.OP_PUSHDATA4, 0x80, 0xbb, 0x0d, 0}, make([]byte, 900_000)...)
	var txs []*wire.MsgTx
	for range 6 {
		coin := must[regtest.Coin](t)(n.FundKey(ctx, key, 5_000_000))
		tx, _, err := regtest.Spend(key, coin, wire.NewTxOut(0, data, wire.TokenData{}))
		check(t, err)
		txs = append(txs, tx)
	}
	must[[]chainhash.Hash](t)(n.Mine(ctx, 1))
	hash := must[chainhash.Hash](t)(n.MineBlock(ctx, txs...))
	block := must[[]byte](t)(c.Block(ctx, hash))
	if len(block) < 5<<20 {
		t.Errorf("the block has %d bytes, want over 5 MiB", len(block))
	}
	spent := txs[5].TxIn[0].PreviousOutPoint
	if got := must[[]byte](t)(spentScript(ctx, c, hash, txs[5].TxHash(), spent)); !bytes.Equal(got, key.Script()) {
		t.Errorf("script is %x, want %x", got, key.Script())
	}
}

func TestWallet(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	c := dial(t, config(t, n))
	key := regtest.NewKey()
	hash := key.Hash()
	address := must[*bchutil.AddressPubKeyHash](t)(bchutil.NewAddressPubKeyHash(hash[:], regtest.Params))
	if got := must[[]bchd.UnspentOutput](t)(c.UnspentOutputs(ctx, address)); len(got) != 0 {
		t.Fatalf("a new key has outputs %+v", got)
	}

	payToPublicKey := must[[]byte](t)(txscript.NewScriptBuilder().AddData(key.PublicKey()).AddOp(txscript.OP_CHECKSIG).Script())
	coins := must[[]regtest.Coin](t)(n.Fund(ctx, key.Output(30_000), key.Output(40_000), wire.NewTxOut(50_000, payToPublicKey, wire.TokenData{})))
	want := func(height uint32, coins ...regtest.Coin) {
		t.Helper()
		wanted := make(map[wire.OutPoint]int64)
		for _, coin := range coins {
			wanted[coin.OutPoint] = coin.Output.Value
		}
		got := must[[]bchd.UnspentOutput](t)(c.UnspentOutputs(ctx, address))
		for _, out := range got {
			if out.Value != wanted[out.OutPoint] || out.Height != height || out.Token || out.Coinbase || !bytes.Equal(out.Script, key.Script()) {
				t.Errorf("got output %+v, want value %d at height %d", out, wanted[out.OutPoint], height)
			}
		}
		if len(got) != len(coins) {
			t.Errorf("got %d outputs, want %d", len(got), len(coins))
		}
	}
	want(0, coins[0], coins[1])
	must[[]chainhash.Hash](t)(n.Mine(ctx, 1))
	want(111, coins[0], coins[1])

	tx, _, err := regtest.Spend(key, coins[0], regtest.NewKey().Output(2000))
	check(t, err)
	for range 2 { // the second time the node has it already
		if txid := must[chainhash.Hash](t)(c.Submit(ctx, serialized(t, tx))); txid != tx.TxHash() {
			t.Errorf("submitted %v, want %v", txid, tx.TxHash())
		}
	}
	conflict, _, err := regtest.Spend(key, coins[0], regtest.NewKey().Output(3000))
	check(t, err)
	_, err = c.Submit(ctx, serialized(t, conflict))
	wantError(t, err, node.ErrRejected, "already spent by transaction "+tx.TxHash().String())
	_, err = c.Submit(ctx, []byte("nonsense"))
	wantError(t, err, node.ErrRejected, "unable to deserialize")

	unpaid, err := regtest.NewTx([]regtest.Input{{Coin: coins[1], Key: key}}, key.Output(40_000))
	check(t, err)
	_, err = c.Submit(ctx, serialized(t, unpaid))
	wantError(t, err, node.ErrRejected)
	wantError(t, err, node.ErrFee)
	for out, want := range map[wire.OutPoint]struct{ chain, mempool bool }{
		coins[1].OutPoint:             {true, true},
		coins[0].OutPoint:             {true, false}, // spent in the mempool
		{Hash: tx.TxHash()}:           {false, true}, // there
		{Hash: tx.TxHash(), Index: 7}: {},
		{Hash: conflict.TxHash()}:     {},
	} {
		chain, mempool := must[bool](t)(c.Unspent(ctx, out, false)), must[bool](t)(c.Unspent(ctx, out, true))
		if chain != want.chain || mempool != want.mempool {
			t.Errorf("output %v is unspent: %v in the chain, %v with the mempool, want %+v", out, chain, mempool, want)
		}
	}

	// A token is flagged.
	issue, _, err := regtest.Spend(key, coins[1], wire.NewTxOut(2000, key.Script(),
		wire.TokenData{CategoryID: coins[1].OutPoint.Hash, Amount: 1, BitField: wire.HAS_AMOUNT}))
	check(t, err)
	must[chainhash.Hash](t)(n.MineBlock(ctx, issue))
	tokens := 0
	for _, out := range must[[]bchd.UnspentOutput](t)(c.UnspentOutputs(ctx, address)) {
		if out.Token != (out.OutPoint == wire.OutPoint{Hash: issue.TxHash(), Index: 1}) {
			t.Errorf("output %v has token %v", out.OutPoint, out.Token)
		}
		if out.Token {
			tokens++
		}
	}
	if tokens != 1 {
		t.Errorf("got %d outputs with a token, want 1", tokens)
	}

	// Coinbases: the faucet's are marked as such.
	faucet := n.Faucet().Hash()
	address = must[*bchutil.AddressPubKeyHash](t)(bchutil.NewAddressPubKeyHash(faucet[:], regtest.Params))
	coinbases := 0
	for _, out := range must[[]bchd.UnspentOutput](t)(c.UnspentOutputs(ctx, address)) {
		if out.Coinbase {
			coinbases++
		}
	}
	if coinbases != 111 { // of 112 blocks one paid for the funding
		t.Errorf("the faucet has %d coinbases, want 111", coinbases)
	}
}

func TestUnsuitable(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{AuthToken: "open sesame", NoAddrIndex: true})
	other := regtest.ForTest(t, regtest.Options{NoTxIndex: true})
	good := config(t, n)
	if good.AuthToken != "open sesame" {
		t.Fatalf("auth token is %q", good.AuthToken)
	}
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()

	for name, test := range map[string]struct {
		change func(*bchd.Config)
		says   []string
	}{
		"other network":     {func(c *bchd.Config) { c.Network = &chaincfg.MainNetParams }, []string{"regtest", "mainnet"}},
		"no txindex":        {func(c *bchd.Config) { *c = config(t, other) }, []string{"--txindex"}},
		"other certificate": {func(c *bchd.Config) { c.CertFile = other.CertFile() }, []string{"certificate", "cert=FILE"}},
		"system's roots":    {func(c *bchd.Config) { c.CertFile = "" }, []string{"certificate", "cert=FILE"}},
		"no token":          {func(c *bchd.Config) { c.AuthToken, c.TokenFile = "", "" }, []string{"auth token", "token_file=FILE"}},
		"wrong token":       {func(c *bchd.Config) { c.AuthToken, c.TokenFile = "open sesam", "" }, []string{"auth token", "token_file=FILE"}},
		"JSON-RPC port":     {func(c *bchd.Config) { c.Address = n.RPCAddress() }, []string{"--grpclisten"}},
		"port without TLS":  {func(c *bchd.Config) { c.Address = web.Listener.Addr().String() }, []string{"does not speak TLS", "--grpclisten"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			test.change(&cfg)
			_, err := bchd.Dial(ctx, cfg)
			wantError(t, err, node.ErrUnsuitable, test.says...)
			if strings.Contains(err.Error(), "sesam") {
				t.Errorf("the error gives the token away: %v", err)
			}
		})
	}

	for name, cfg := range map[string]bchd.Config{
		"no such certificate file": {Address: good.Address, Network: regtest.Params, CertFile: t.TempDir() + "/none"},
		"not a certificate":        {Address: good.Address, Network: regtest.Params, CertFile: n.TokenFile()},
		"no port":                  {Address: "localhost", Network: regtest.Params},
		"no network":               {Address: good.Address},
	} {
		if _, err := bchd.Dial(ctx, cfg); err == nil {
			t.Errorf("%s: Dial succeeded", name)
		}
	}

	c := dial(t, good)
	must[node.Tip](t)(c.Tip(ctx))
	hash := regtest.NewKey().Hash()
	address := must[*bchutil.AddressPubKeyHash](t)(bchutil.NewAddressPubKeyHash(hash[:], regtest.Params))
	_, err := c.UnspentOutputs(ctx, address)
	wantError(t, err, node.ErrUnsuitable, "--addrindex")
}

// lines is a log that hands over each line.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	select {
	case l <- string(p):
	default:
	}
	return len(p), nil
}

func TestDialWaitsForTheNode(t *testing.T) {
	n := regtest.ForTest(t, regtest.Options{})
	cfg := config(t, n)
	log := make(lines, 100)
	cfg.Log = zerolog.New(log)
	check(t, n.Halt())

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type dialed struct {
		client *bchd.Client
		err    error
	}
	result := make(chan dialed)
	go func() {
		c, err := bchd.Dial(ctx, cfg)
		result <- dialed{c, err}
	}()
	for line := range log {
		if strings.Contains(line, "waiting for the node") {
			break
		}
	}
	check(t, n.Resume(t.Context()))
	got := <-result
	check(t, got.err)
	check(t, got.client.Close())

	check(t, n.Halt())
	ended, giveUp := context.WithCancelCause(t.Context())
	reason := errors.New("the user had enough")
	go func() {
		_, err := bchd.Dial(ended, cfg)
		result <- dialed{nil, err}
	}()
	for line := range log {
		if strings.Contains(line, "waiting for the node") {
			break
		}
	}
	giveUp(reason)
	got = <-result
	wantError(t, got.err, node.ErrUnavailable)
	wantError(t, got.err, reason)
}

func TestReconnect(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 3})
	cfg := config(t, n)
	c := dial(t, cfg)
	awaitHint := func() {
		t.Helper()
		for {
			// A hint may be lost while the stream is being opened.
			must[[]chainhash.Hash](t)(n.Mine(ctx, 1))
			select {
			case _, open := <-c.Changes():
				if !open {
					t.Fatal("the channel of hints is closed")
				}
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	<-c.Changes() // the stream was opened
	awaitHint()

	before := must[node.Tip](t)(c.Tip(ctx))
	check(t, n.Restart(ctx))
	if after := must[node.Tip](t)(c.Tip(ctx)); after != before {
		t.Errorf("tip after the restart is %+v, want %+v", after, before)
	}
	// One hint may be from before the restart, one says that the stream is open
	// again: the third is about a block.
	for range 3 {
		awaitHint()
	}
	if got := must[node.Tip](t)(c.Tip(ctx)); got.Height <= before.Height {
		t.Errorf("tip is %+v, want it above %d", got, before.Height)
	}
}

func TestUnavailable(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{})
	cfg := config(t, n)
	patient := dial(t, cfg)
	cfg.RetryFor = time.Millisecond
	hasty := dial(t, cfg)
	check(t, n.Halt())

	_, err := hasty.Tip(ctx)
	wantError(t, err, node.ErrUnavailable, n.GRPCAddress())
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	_, err = patient.Tip(short)
	wantError(t, err, node.ErrUnavailable)
	wantError(t, err, context.DeadlineExceeded)
}

func TestClose(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{})
	c := must[*bchd.Client](t)(bchd.Dial(ctx, config(t, n)))
	check(t, n.Halt())
	// A call that is waiting for the node ends with the client.
	waiting := make(chan error)
	go func() {
		_, err := c.Tip(ctx)
		waiting <- err
	}()
	check(t, c.Close())
	wantError(t, <-waiting, node.ErrUnavailable)
	_, err := c.Tip(ctx)
	wantError(t, err, node.ErrUnavailable)
	for range c.Changes() { // ends when the channel is closed
	}
}

// TestCertificateRenewed starts the node anew with another certificate, which
// reaches the file that the client looks at only after a while.
func TestCertificateRenewed(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 1})
	file := filepath.Join(t.TempDir(), "rpc.cert")
	put := func(content []byte) { check(t, os.WriteFile(file, content, 0o600)) }
	read := func() []byte { return must[[]byte](t)(os.ReadFile(n.CertFile())) }
	before := read()
	put(before)
	cfg := config(t, n)
	cfg.CertFile = file
	patient := dial(t, cfg)
	cfg.RetryFor = time.Millisecond
	hasty := dial(t, cfg)
	tip := must[node.Tip](t)(hasty.Tip(ctx))

	check(t, n.Halt())
	check(t, n.Renew())
	check(t, n.Resume(ctx))
	after := read()
	for name, content := range map[string][]byte{
		"before": before, "empty": nil, "torn": after[:len(after)/2], "something else": []byte("not a certificate"),
	} {
		put(content)
		if _, err := hasty.Tip(ctx); !errors.Is(err, node.ErrUnavailable) {
			t.Errorf("with certificate %s: got %v", name, err)
		}
	}
	check(t, os.Remove(file))
	_, err := hasty.Tip(ctx)
	wantError(t, err, node.ErrUnavailable)
	put(after)
	if got := must[node.Tip](t)(patient.Tip(ctx)); got != tip {
		t.Errorf("tip is %+v, want %+v", got, tip)
	}
}

// TestTokenRenewed starts the node anew with another auth token, which reaches the
// client's file only after a while.
func TestTokenRenewed(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 1, AuthToken: "open sesame"})
	file := filepath.Join(t.TempDir(), "token")
	put := func(content []byte) { check(t, os.WriteFile(file, content, 0o600)) }
	read := func() []byte { return must[[]byte](t)(os.ReadFile(n.TokenFile())) }
	before := read()
	put(before)
	cfg := config(t, n)
	cfg.TokenFile = file
	c := dial(t, cfg)
	tip := must[node.Tip](t)(c.Tip(ctx))

	check(t, n.Halt())
	check(t, n.Renew())
	check(t, n.Resume(ctx))
	after := read()
	for _, bad := range []struct {
		content []byte
		says    string
	}{
		{before, "still holds"}, {nil, "is empty"}, {after[:len(after)/2], "token_file=FILE"}, {slices.Concat(after, after), "more than one line"},
	} {
		put(bad.content)
		_, err := c.Tip(ctx)
		wantError(t, err, node.ErrUnsuitable, "refuses the auth token", bad.says)
		if strings.Contains(err.Error(), "sesame") || strings.Contains(err.Error(), string(after[:5])) {
			t.Errorf("the error gives the token away: %v", err)
		}
	}
	check(t, os.Remove(file))
	_, err := c.Tip(ctx)
	wantError(t, err, node.ErrUnsuitable, "no such file")
	put(after)
	for range 2 {
		if got := must[node.Tip](t)(c.Tip(ctx)); got != tip {
			t.Errorf("tip is %+v, want %+v", got, tip)
		}
	}
}
