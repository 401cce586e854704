package regtest_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"go.uber.org/goleak"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// orphanEnv makes the test binary the parent that TestNodeDiesWithItsParent
// kills.
const orphanEnv = "KEYTREE_REGTEST_ORPHAN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(orphanEnv); dir != "" {
		n, err := regtest.Start(context.Background(), regtest.Options{Dir: dir})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(n.GRPCAddress())
		select {}
	}
	goleak.VerifyTestMain(m)
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

func wantTip(t *testing.T, n *regtest.Node, height uint32, hash chainhash.Hash) {
	t.Helper()
	gotHeight, gotHash, err := n.Tip(t.Context())
	check(t, err)
	if gotHeight != height || gotHash != hash {
		t.Fatalf("tip is %d %v, want %d %v", gotHeight, gotHash, height, hash)
	}
}

func TestRestartKeepsTheChain(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{AuthToken: "open sesame", Blocks: 3})
	mined := must[[]chainhash.Hash](t)(n.Mine(ctx, 2))
	before := n.URL()
	check(t, n.Restart(ctx))
	wantTip(t, n, 5, mined[1])
	if n.URL() != before {
		t.Errorf("the node moved from %s to %s", before, n.URL())
	}
	check(t, n.Stop())
	if _, err := os.Stat(n.Dir()); !os.IsNotExist(err) {
		t.Errorf("the folder is still there after Stop: %v", err)
	}
	check(t, n.Stop())
}

func TestKeep(t *testing.T) {
	n := regtest.ForTest(t, regtest.Options{Keep: true})
	check(t, n.Stop())
	if _, err := os.Stat(filepath.Join(n.Dir(), "data")); err != nil {
		t.Errorf("the data is gone although it was to be kept: %v", err)
	}
}

func TestStartFailsClearly(t *testing.T) {
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		ctx  context.Context
		opts regtest.Options
		want string
	}{
		"no such binary":   {t.Context(), regtest.Options{Binary: filepath.Join(t.TempDir(), "bchd")}, "bchd executable"},
		"unknown argument": {t.Context(), regtest.Options{Args: []string{"--frobnicate"}}, "unknown flag `frobnicate'"},
		"context ended":    {canceled, regtest.Options{}, context.Canceled.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			test.opts.Dir = t.TempDir()
			n, err := regtest.Start(test.ctx, test.opts)
			if err == nil {
				check(t, n.Stop())
				t.Fatal("Start succeeded")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %q does not say %q", err, test.want)
			}
			if left := must[[]os.DirEntry](t)(os.ReadDir(test.opts.Dir)); len(left) > 0 {
				t.Errorf("Start left %v behind", left)
			}
		})
	}
}

func TestBuildingNeedsTheModule(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	n, err := regtest.Start(t.Context(), regtest.Options{Dir: dir})
	if err == nil {
		check(t, n.Stop())
		t.Fatal("Start found bchd outside the module")
	}
	if !strings.Contains(err.Error(), "--bchd PATH") {
		t.Errorf("error %q does not say what to do", err)
	}
}

func TestNodeDiesWithItsParent(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux kills a child with its parent")
	}
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), orphanEnv+"="+t.TempDir())
	out := must[interface{ Read([]byte) (int, error) }](t)(parent.StdoutPipe())
	check(t, parent.Start())
	line := make([]byte, 1000)
	read, err := out.Read(line)
	killed := parent.Process.Signal(syscall.SIGKILL)
	_ = parent.Wait() // reports the kill
	check(t, err)
	check(t, killed)
	address := strings.TrimSpace(string(line[:read]))

	// The kernel kills bchd at once; its listening port goes with it.
	for listening(t, address) {
		time.Sleep(20 * time.Millisecond)
	}
}

func listening(t *testing.T, address string) bool {
	t.Helper()
	table := string(must[[]byte](t)(os.ReadFile("/proc/net/tcp")))
	var port int
	if _, err := fmt.Sscanf(address, "127.0.0.1:%d", &port); err != nil {
		t.Fatalf("the parent printed %q: %v", address, err)
	}
	return strings.Contains(table, fmt.Sprintf("0100007F:%04X 00000000:0000 0A", port))
}

func TestBlocksHoldExactlyWhatIsGiven(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	a, b := regtest.KeyFromSeed("a"), regtest.KeyFromSeed("b")
	coins := must[[]regtest.Coin](t)(n.Fund(ctx, a.Output(100_000), b.Output(50_000)))
	funding := coins[0].OutPoint.Hash
	if got := must[[]chainhash.Hash](t)(n.Mempool(ctx)); !slices.Equal(got, []chainhash.Hash{funding}) {
		t.Fatalf("mempool is %v, want the funding %v", got, funding)
	}

	empty := must[chainhash.Hash](t)(n.MineBlock(ctx))
	wantTip(t, n, 111, empty)
	if got := must[*wire.MsgBlock](t)(n.Block(ctx, empty)); len(got.Transactions) != 1 {
		t.Errorf("the block has %d transactions, want the coinbase alone", len(got.Transactions))
	}
	if got := must[[]chainhash.Hash](t)(n.Mempool(ctx)); len(got) != 1 {
		t.Errorf("mempool is %v, want the funding still there", got)
	}
	must[[]chainhash.Hash](t)(n.Mine(ctx, 1))

	// A chain of unconfirmed transactions, never in the mempool.
	first, change, err := regtest.Spend(a, coins[0], b.Output(10_000))
	check(t, err)
	second, _, err := regtest.Spend(a, change, b.Output(10_000))
	check(t, err)
	tip := must[chainhash.Hash](t)(n.MineBlock(ctx, first, second))
	block := must[*wire.MsgBlock](t)(n.Block(ctx, tip))
	if got := block.Transactions[2].TxHash(); len(block.Transactions) != 3 || got != second.TxHash() {
		t.Errorf("the third of %d transactions is %v, want %v", len(block.Transactions), got, second.TxHash())
	}

	// A coinbase that pays and says what the test wants.
	built := must[*wire.MsgBlock](t)(n.Build(ctx, tip, []*wire.TxOut{
		wire.NewTxOut(0, []byte{txscript.OP_RETURN, txscript.OP_DATA_1, 7}, wire.TokenData{}), b.Output(1000),
	}))
	check(t, n.SubmitBlock(ctx, built))
	tip = built.BlockHash()
	wantTip(t, n, 114, tip)

	// What breaks a rule is refused with bchd's reason.
	_, err = n.MineBlock(ctx, first)
	if err == nil || !strings.Contains(err.Error(), "rejected") {
		t.Errorf("a block that spends a spent coin: got %v, want a rejection", err)
	}
	wantTip(t, n, 114, tip)
}

func TestReorg(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	key := regtest.NewKey()
	coin := must[regtest.Coin](t)(n.FundKey(ctx, key, 100_000))
	base := must[[]chainhash.Hash](t)(n.Mine(ctx, 1))[0]
	left, _, err := regtest.Spend(key, coin, regtest.NewKey().Output(10_000))
	check(t, err)
	right, _, err := regtest.Spend(key, coin, regtest.NewKey().Output(20_000))
	check(t, err)

	old := must[chainhash.Hash](t)(n.MineBlock(ctx, left))
	must[chainhash.Hash](t)(n.MineBlock(ctx))
	if _, err := n.Reorg(ctx, 2, nil, nil); err == nil {
		t.Error("Reorg took two blocks for two")
	}
	branch := must[[]chainhash.Hash](t)(n.Reorg(ctx, 2, nil, []*wire.MsgTx{right}, nil))
	wantTip(t, n, 114, branch[2])
	if got := must[*wire.MsgBlock](t)(n.Block(ctx, branch[0])); got.Header.PrevBlock != base {
		t.Errorf("the branch leaves at %v, want %v", got.Header.PrevBlock, base)
	}
	if got := must[[]chainhash.Hash](t)(n.Mempool(ctx)); len(got) != 0 {
		t.Errorf("mempool is %v, want it without the conflicting transaction", got)
	}

	// Back again, block by block on the branch that lost.
	parent := old
	for range 4 {
		parent = must[chainhash.Hash](t)(n.MineOn(ctx, parent))
	}
	wantTip(t, n, 116, parent)

	check(t, n.Invalidate(ctx, parent))
	height, tip, err := n.Tip(ctx)
	check(t, err)
	if height != 115 || tip == parent {
		t.Errorf("tip after Invalidate is %d %v", height, tip)
	}
	check(t, n.Reconsider(ctx, parent))
	wantTip(t, n, 116, parent)
}

func TestOrderAboveHeight1000(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 999})
	key := regtest.KeyFromSeed("order")
	coin := must[regtest.Coin](t)(n.FundKey(ctx, key, 10_000_000))
	must[[]chainhash.Hash](t)(n.Mine(ctx, 1))

	var txs []*wire.MsgTx
	for range 12 {
		tx, change, err := regtest.Spend(key, coin, key.Output(2000))
		check(t, err)
		txs, coin = append(txs, tx), change
	}
	hash := must[chainhash.Hash](t)(n.MineBlock(ctx, txs...))
	wantTip(t, n, 1001, hash)
	block := must[*wire.MsgBlock](t)(n.Block(ctx, hash))
	if len(block.Transactions) != 1+len(txs) {
		t.Fatalf("the block has %d transactions, want %d", len(block.Transactions), 1+len(txs))
	}
	if !slices.IsSortedFunc(block.Transactions[1:], func(a, b *wire.MsgTx) int {
		x, y := a.TxHash(), b.TxHash()
		return x.Compare(&y)
	}) {
		t.Error("the transactions are not in CTOR order")
	}
}

// The forgeries of protocol/SPEC.md §2 have to be possible for tests of them to
// mean anything.
func TestForgeriesAreValidTransactions(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	victim := regtest.NewKey()
	anyone := must[[]byte](t)(txscript.NewScriptBuilder().AddOp(txscript.OP_2DROP).AddOp(txscript.OP_1).Script())
	opReturn := func(data string) *wire.TxOut {
		script := must[[]byte](t)(txscript.NewScriptBuilder().AddOp(txscript.OP_RETURN).AddData([]byte(data)).Script())
		return wire.NewTxOut(0, script, wire.TokenData{})
	}
	coins := must[[]regtest.Coin](t)(n.Fund(ctx, wire.NewTxOut(50_000, anyone, wire.TokenData{}), victim.Output(50_000), victim.Output(50_000)))
	must[[]chainhash.Hash](t)(n.Mine(ctx, 1))

	var forged []*wire.MsgTx
	fake := must[[]byte](t)(txscript.NewScriptBuilder().AddData(bytes.Repeat([]byte{0x30}, 71)).AddData(victim.PublicKey()).Script())
	forged = append(forged, must[*wire.MsgTx](t)(regtest.NewTx(
		[]regtest.Input{{Coin: coins[0], ScriptSig: fake}}, victim.Output(40_000), opReturn("forged"))))

	for i, hashType := range []txscript.SigHashType{txscript.SigHashNone, txscript.SigHashSingle} {
		coin := coins[1+i]
		signed := must[*wire.MsgTx](t)(regtest.NewTx(
			[]regtest.Input{{Coin: coin, Key: victim, HashType: hashType}}, victim.Output(40_000), opReturn("signed")))
		forged = append(forged, must[*wire.MsgTx](t)(regtest.NewTx(
			[]regtest.Input{{Coin: coin, ScriptSig: signed.TxIn[0].SignatureScript}}, victim.Output(40_000), opReturn("forged"))))
	}
	for _, tx := range forged {
		check(t, n.SendRawTransaction(ctx, tx))
	}
	if got := must[[]chainhash.Hash](t)(n.Mempool(ctx)); len(got) != len(forged) {
		t.Errorf("mempool holds %d of %d forgeries", len(got), len(forged))
	}

	// Under SigHashAll the same trick fails.
	coin := must[regtest.Coin](t)(n.FundKey(ctx, victim, 50_000))
	signed := must[*wire.MsgTx](t)(regtest.NewTx(
		[]regtest.Input{{Coin: coin, Key: victim}}, victim.Output(40_000), opReturn("signed")))
	moved := must[*wire.MsgTx](t)(regtest.NewTx(
		[]regtest.Input{{Coin: coin, ScriptSig: signed.TxIn[0].SignatureScript}}, victim.Output(40_000), opReturn("forged")))
	if err := n.SubmitTransaction(ctx, moved); err == nil {
		t.Error("bchd accepted a moved SigHashAll signature")
	}
	check(t, n.SubmitTransaction(ctx, signed))
}

func TestFundManyTimes(t *testing.T) {
	ctx := t.Context()
	n := regtest.ForTest(t, regtest.Options{Blocks: 102})
	// Three mature coinbases, then their change.
	for range 30 {
		must[regtest.Coin](t)(n.FundKey(ctx, regtest.NewKey(), 1_000_000))
	}
	if got := must[[]chainhash.Hash](t)(n.Mempool(ctx)); len(got) != 30 {
		t.Errorf("mempool holds %d fundings, want 30", len(got))
	}
	if _, err := n.FundKey(ctx, regtest.NewKey(), 60e8); err == nil || !strings.Contains(err.Error(), "no coin of") {
		t.Errorf("funding beyond a coinbase: got %v", err)
	}
}

func TestTwoNodesFollowTheLongerChain(t *testing.T) {
	ctx := t.Context()
	a := regtest.ForTest(t, regtest.Options{Blocks: 2})
	b := regtest.ForTest(t, regtest.Options{Blocks: 5})
	height, tip, err := b.Tip(ctx)
	check(t, err)
	check(t, a.Connect(ctx, b))
	for {
		_, got, err := a.Tip(ctx)
		check(t, err)
		if got == tip {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	wantTip(t, a, height, tip)
	check(t, a.Disconnect(ctx, b))
}
