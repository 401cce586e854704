package bitcoind_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
	"github.com/keytree-bch/keytree/protocol"
)

func TestMain(m *testing.M) {
	// A publisher, as only tests have it, leaves this behind when it is closed.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/go-zeromq/zmq4.(*pubMWriter).run"))
}

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

func config(t *testing.T, n *regtest.Node) bitcoind.Config {
	t.Helper()
	cfg := must[bitcoind.Config](t)(bitcoind.ParseURL(n.RPCURL()))
	cfg.Network = regtest.Params
	return cfg
}

func dial(t *testing.T, cfg bitcoind.Config) *bitcoind.Client {
	t.Helper()
	c := must[*bitcoind.Client](t)(bitcoind.Dial(t.Context(), cfg))
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

// TestChain asks a real bchd.
func TestChain(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 110, NoAddrIndex: true})
	c := dial(t, config(t, n))

	height, hash, err := n.Tip(ctx)
	check(t, err)
	if got := must[node.Tip](t)(c.Tip(ctx)); got != (node.Tip{Height: height, Hash: hash, Headers: height, Version: "/bchd:0.22.2(EB32.0)/"}) {
		t.Errorf("tip is %+v, want %d %v", got, height, hash)
	}
	if got := must[chainhash.Hash](t)(c.BlockHash(ctx, 0)); got != *regtest.Params.GenesisHash {
		t.Errorf("block 0 is %v, want %v", got, regtest.Params.GenesisHash)
	}
	for _, beyond := range []uint32{height + 1, 1 << 31, 1<<32 - 1} {
		_, err = c.BlockHash(ctx, beyond)
		wantError(t, err, node.ErrNotFound, fmt.Sprint(beyond))
	}
	want := must[*wire.MsgBlock](t)(n.Block(ctx, hash))
	var raw bytes.Buffer
	check(t, want.Serialize(&raw))
	if got := must[[]byte](t)(c.Block(ctx, hash)); !bytes.Equal(got, raw.Bytes()) {
		t.Errorf("block %v differs from what the node gives to others", hash)
	}
	_, err = c.Block(ctx, chainhash.Hash{1})
	wantError(t, err, node.ErrNotFound)

	branch := must[[]chainhash.Hash](t)(n.Reorg(ctx, 1, nil, nil))
	if got := must[chainhash.Hash](t)(c.BlockHash(ctx, height)); got != branch[0] {
		t.Errorf("block %d is %v, want %v of the new branch", height, got, branch[0])
	}

	// A block of several megabytes, in hex.
	key := regtest.NewKey()
	data := append([]byte{txscript.OP_RETURN, txscript.OP_PUSHDATA4, 0x80, 0xbb, 0x0d, 0}, make([]byte, 900_000)...)
	var txs []*wire.MsgTx
	for range 3 {
		coin := must[regtest.Coin](t)(n.FundKey(ctx, key, 5_000_000))
		tx, _, err := regtest.Spend(key, coin, wire.NewTxOut(0, data, wire.TokenData{}))
		check(t, err)
		txs = append(txs, tx)
	}
	must[[]chainhash.Hash](t)(n.Mine(ctx, 1))
	large := must[chainhash.Hash](t)(n.MineBlock(ctx, txs...))
	if got := len(must[[]byte](t)(c.Block(ctx, large))); got < 2_700_000 {
		t.Errorf("the large block has %d bytes", got)
	}
	spent := txs[2].TxIn[0].PreviousOutPoint
	if got := must[node.Spent](t)(spendsOf(ctx, c, large, txs[2].TxHash(), spent)); !got.Proven || !bytes.Equal(got.Outputs[0].Script, key.Script()) {
		t.Errorf("it spends %+v, want script %x", got, key.Script())
	}

	// The token prefix belongs to the script.
	coin := must[regtest.Coin](t)(n.FundKey(ctx, key, 50_000))
	issue, _, err := regtest.Spend(key, coin, wire.NewTxOut(2000, key.Script(),
		wire.TokenData{CategoryID: coin.OutPoint.Hash, Amount: 77, BitField: wire.HAS_AMOUNT}))
	check(t, err)
	must[[]chainhash.Hash](t)(n.Mine(ctx, 1))
	must[chainhash.Hash](t)(n.MineBlock(ctx, issue))
	prefixed := slices.Concat([]byte{0xef}, coin.OutPoint.Hash[:], []byte{wire.HAS_AMOUNT, 77}, key.Script())
	got := must[node.Spent](t)(spendsOf(ctx, c, chainhash.Hash{}, chainhash.Hash{}, wire.OutPoint{Hash: issue.TxHash(), Index: 1}))
	if !bytes.Equal(got.Outputs[0].Script, prefixed) {
		t.Errorf("script with a token is %x, want %x", got.Outputs[0].Script, prefixed)
	}
	_, err = spendsOf(ctx, c, large, txs[2].TxHash(), wire.OutPoint{Hash: chainhash.Hash{1}})
	wantError(t, err, node.ErrNotFound)
	_, err = spendsOf(ctx, c, large, txs[2].TxHash(), wire.OutPoint{Hash: issue.TxHash(), Index: 9})
	wantError(t, err, node.ErrInvalid)
}

// TestFollow indexes the same chain over bchd's JSON-RPC and over its gRPC,
// through a reorganisation, and compares what comes of it.
func TestFollow(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 110, NoAddrIndex: true})
	child, parent := regtest.NewKey(), regtest.NewKey()
	coins := must[[]regtest.Coin](t)(n.Fund(ctx, child.Output(100_000), parent.Output(100_000)))
	must[[]chainhash.Hash](t)(n.Mine(ctx, 1))

	byJSON := dial(t, config(t, n))
	cfg := must[bchd.Config](t)(bchd.ParseURL(n.URL()))
	cfg.Network = regtest.Params
	byGRPC := must[*bchd.Client](t)(bchd.Dial(ctx, cfg))
	t.Cleanup(func() { check(t, byGRPC.Close()) })
	graphs := []*graph.Graph{follow(t, byJSON), follow(t, byGRPC)}

	act := func(key *regtest.Key, coin regtest.Coin, script []byte, err error) (*wire.MsgTx, regtest.Coin) {
		t.Helper()
		check(t, err)
		tx, change, err := regtest.Spend(key, coin, wire.NewTxOut(0, script, wire.TokenData{}))
		check(t, err)
		return tx, change
	}
	wantEqual := func() [32]byte {
		t.Helper()
		var hashes [2][32]byte
		for i, g := range graphs {
			hashes[i] = awaitTip(t, n, g)
		}
		if hashes[0] != hashes[1] {
			t.Errorf("state hash %x over JSON-RPC, %x over gRPC", hashes[0], hashes[1])
		}
		return hashes[0]
	}
	script, err := protocol.RequestScript(parent.Hash(), nil)
	request, _ := act(child, coins[0], script, err)
	must[chainhash.Hash](t)(n.MineBlock(ctx, request))
	before := wantEqual()
	script, err = protocol.AcceptScript(request.TxHash(), nil)
	accept, _ := act(parent, coins[1], script, err)
	must[chainhash.Hash](t)(n.MineBlock(ctx, accept))
	linked := wantEqual()
	if before == linked {
		t.Error("the accept did not change the state hash")
	}
	for i, g := range graphs {
		v := must[*graph.View](t)(g.At(nil))
		r, err := v.Resolve(ctx, child.Hash())
		v.Close()
		check(t, err)
		if len(r.Path) != 2 {
			t.Errorf("graph %d: the path of the child is %v, want it to end with the parent", i, r.Path)
		}
	}

	// The accept goes, and comes again on the other branch.
	must[[]chainhash.Hash](t)(n.Reorg(ctx, 2, []*wire.MsgTx{request}, nil, nil))
	cut := wantEqual()
	must[chainhash.Hash](t)(n.MineBlock(ctx, accept))
	if again := wantEqual(); again == cut || again == linked {
		t.Errorf("state hashes %x, %x, %x of different chains", linked, cut, again)
	}
}

// follow runs an indexer until the test ends.
func follow(t *testing.T, n node.Node) *graph.Graph {
	t.Helper()
	g := must[*graph.Graph](t)(graph.Open(t.TempDir(), graph.Params{Network: regtest.Params.Name},
		graph.Options{MemTable: 8 << 20, BlockCache: 4 << 20}))
	ctx, cancel := context.WithCancel(context.Background())
	ix := indexer.New(n, g, indexer.Options{Poll: 50 * time.Millisecond, Log: zerolog.New(zerolog.NewTestWriter(t))})
	done := make(chan error)
	go func() { done <- ix.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		check(t, errors.Join(<-done, g.Close()))
	})
	return g
}

// awaitTip waits until g ends with the node's tip, and returns the state hash.
func awaitTip(t *testing.T, n *regtest.Node, g *graph.Graph) [32]byte {
	t.Helper()
	_, want, err := n.Tip(t.Context())
	check(t, err)
	for {
		changed := g.Changed()
		if tip, ok := g.Tip(); ok && tip.Hash == want {
			return tip.StateHash
		}
		<-changed
	}
}

func TestUnsuitableBCHD(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 1, NoTxIndex: true})
	cfg := config(t, n)
	for name, test := range map[string]struct {
		change func(*bitcoind.Config)
		says   []string
	}{
		"other network":     {func(c *bitcoind.Config) { c.Network = &chaincfg.MainNetParams }, []string{"regtest", "mainnet"}},
		"no txindex":        {func(*bitcoind.Config) {}, []string{"-txindex=1", "--txindex"}},
		"system's roots":    {func(c *bitcoind.Config) { c.CertFile = "" }, []string{"certificate", "cert=FILE"}},
		"wrong password":    {func(c *bitcoind.Config) { c.Password = "open sesame" }, []string{"refuses the credentials", "rpcpassword"}},
		"without TLS":       {func(c *bitcoind.Config) { c.TLS, c.CertFile = false, "" }, []string{"https"}},
		"gRPC's port":       {func(c *bitcoind.Config) { c.Address = n.GRPCAddress() }, []string{"-rpcport"}},
		"peer-to-peer port": {func(c *bitcoind.Config) { c.Address, c.TLS, c.CertFile = n.P2PAddress(), false, "" }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := cfg
			test.change(&cfg)
			want := node.ErrUnsuitable
			limited, cancel := context.WithCancelCause(ctx)
			defer cancel(nil)
			if name == "peer-to-peer port" { // it hangs up: what else is it than a node that is starting?
				want = node.ErrUnavailable
				log := make(lines, 100)
				cfg.Log = zerolog.New(log)
				go func() { <-log; cancel(errors.New("seen enough")) }()
			}
			_, err := bitcoind.Dial(limited, cfg)
			wantError(t, err, want, test.says...)
			for _, secret := range []string{"sesame", string(cfg.Password)} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error gives the password away: %v", err)
				}
			}
		})
	}
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

func TestRestart(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 3})
	cfg := config(t, n)
	c := dial(t, cfg)
	cfg.RetryFor = time.Millisecond
	hasty := dial(t, cfg)
	before := must[node.Tip](t)(c.Tip(ctx))
	check(t, n.Restart(ctx))
	if after := must[node.Tip](t)(c.Tip(ctx)); after != before {
		t.Errorf("tip after the restart is %+v, want %+v", after, before)
	}

	check(t, n.Halt())
	_, err := hasty.Tip(ctx)
	wantError(t, err, node.ErrUnavailable, n.RPCAddress())
	ended, giveUp := context.WithCancelCause(ctx)
	reason := errors.New("the user had enough")
	giveUp(reason)
	_, err = c.Tip(ended)
	wantError(t, err, node.ErrUnavailable)
	wantError(t, err, reason)

	// Close ends calls that go on trying.
	other := must[*bitcoind.Client](t)(dialHalted(t, n, cfg))
	result := make(chan error)
	go func() { _, err := other.Tip(ctx); result <- err }()
	check(t, other.Close())
	wantError(t, <-result, node.ErrUnavailable)
	if _, open := <-other.Changes(); open {
		t.Error("a hint from a closed client")
	}
}

// dialHalted returns a client that tries for an hour, on a halted node.
func dialHalted(t *testing.T, n *regtest.Node, cfg bitcoind.Config) (*bitcoind.Client, error) {
	t.Helper()
	check(t, n.Resume(t.Context()))
	cfg.RetryFor = time.Hour
	c, err := bitcoind.Dial(t.Context(), cfg)
	check(t, n.Halt())
	return c, err
}
