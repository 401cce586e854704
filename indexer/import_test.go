package indexer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/blockfile"
	"github.com/keytree-bch/keytree/protocol"
)

// ledger is a made-up chain whose outputs come from its own transactions, in
// files and at a node that serves the same blocks.
type ledger struct {
	t     *testing.T
	node  *fakeNode
	coins map[string]regtest.Coin // by key; to the key unless a test put in something else
	next  []*wire.MsgTx           // of the block in the making
}

func newLedger(t *testing.T, names ...string) *ledger {
	l := &ledger{t: t, node: newFakeNode(), coins: make(map[string]regtest.Coin)}
	var outputs []*wire.TxOut
	for _, name := range names {
		outputs = append(outputs, regtest.KeyFromSeed(name).Output(10_000_000))
	}
	for i, coin := range l.fund(outputs...) {
		l.coins[names[i]] = coin
	}
	l.mine()
	return l
}

// fund makes a transaction with the outputs.
func (l *ledger) fund(outputs ...*wire.TxOut) (coins []regtest.Coin) {
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Hash: chainhash.HashH(fmt.Append(nil, len(l.node.chain), len(l.next)))}})
	for _, output := range outputs {
		tx.AddTxOut(output)
	}
	l.next = append(l.next, tx)
	for i := range outputs {
		coins = append(coins, l.knows(regtest.CoinOf(tx, uint32(i))))
	}
	return coins
}

// knows tells the node of a coin.
func (l *ledger) knows(coin regtest.Coin) regtest.Coin {
	l.node.spent[coin.OutPoint] = outputOf(&coin.Output)
	return coin
}

// outputOf is an output as it is on chain.
func outputOf(out *wire.TxOut) protocol.Output {
	script := bytes.Clone(out.PkScript)
	if !out.TokenData.IsEmpty() {
		prefix := out.TokenData.TokenDataBuffer()
		script = append(prefix.Bytes(), script...)
	}
	return protocol.Output{Value: out.Value, Script: script}
}

// act spends the key's coin on an action.
func (l *ledger) act(name string, script []byte, err error) *wire.MsgTx {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
	tx, change, err := regtest.Spend(regtest.KeyFromSeed(name), l.coins[name], wire.NewTxOut(0, script, wire.TokenData{}))
	if err != nil {
		l.t.Fatal(err)
	}
	l.coins[name] = l.knows(change)
	l.next = append(l.next, tx)
	return tx
}

func (l *ledger) request(child, parent string) *wire.MsgTx {
	l.t.Helper()
	script, err := protocol.RequestScript(regtest.KeyFromSeed(parent).Hash(), nil)
	return l.act(child, script, err)
}

func (l *ledger) accept(parent string, request *wire.MsgTx) *wire.MsgTx {
	l.t.Helper()
	script, err := protocol.AcceptScript(request.TxHash(), nil)
	return l.act(parent, script, err)
}

func (l *ledger) revoke(parent string, accept *wire.MsgTx) {
	l.t.Helper()
	script, err := protocol.RevokeScript(accept.TxHash(), nil)
	l.act(parent, script, err)
}

// mine puts what has been made since the last block into one.
func (l *ledger) mine() {
	l.node.extend(l.next...)
	l.next = nil
}

// raw returns the blocks of the chain.
func (l *ledger) raw() (blocks [][]byte) {
	for _, hash := range l.node.chain {
		blocks = append(blocks, l.node.blocks[hash].raw)
	}
	return blocks
}

// mineLinks mines a chain of so many blocks with links that come and go, and with
// actions that are refused.
func mineLinks(t *testing.T, blocks int) *ledger {
	l := newLedger(t, "A", "B", "C", "D", "E")
	var requests, accepts []*wire.MsgTx
	children, parents := []string{"B", "C", "D"}, []string{"A", "B", "A"}
	for len(l.node.chain) < blocks {
		switch i := len(l.node.chain); i % 5 {
		case 0:
			requests = append(requests, l.request(children[i/5%3], parents[i/5%3]))
		case 1:
			if len(requests) > 0 {
				accepts = append(accepts, l.accept(parents[(i/5)%3], requests[len(requests)-1]))
			}
		case 2: // several in one block, one on top of the other
			l.accept("E", l.request("E", "D"))
		case 3:
			if len(accepts) > 0 && i%3 == 0 {
				l.revoke("A", accepts[len(accepts)-1])
			}
		}
		l.mine()
	}
	return l
}

// write writes blocks as a node does that got them in a bad order.
func write(t *testing.T, blocks [][]byte) (dir string) {
	t.Helper()
	dir = t.TempDir()
	var content []byte
	file := 0
	flush := func() {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("blk%05d.dat", file)), content, 0o600); err != nil {
			t.Fatal(err)
		}
		file, content = file+1, nil
	}
	for i := range blocks {
		raw := blocks[i]
		if other := i ^ 1; other < len(blocks) {
			raw = blocks[other] // each two change places
		}
		content = append(content, "\xfa\xbf\xb5\xda"...)
		content = append(binary.LittleEndian.AppendUint32(content, uint32(len(raw))), raw...)
		if len(content) > 20_000 {
			flush()
		}
	}
	content = append(content, make([]byte, 1000)...)
	flush()
	return dir
}

func openChain(t *testing.T, dir string) *blockfile.Chain {
	t.Helper()
	chain, err := blockfile.Open(t.Context(), dir, regtest.Params, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := chain.Close(); err != nil {
			t.Error(err)
		}
	})
	return chain
}

// fromNode is the tip of a graph that is fed from the ledger's node.
func (l *ledger) fromNode() graph.Tip {
	l.t.Helper()
	return must(catchUp(l.t.Context(), l.node, newGraph(l.t), indexer.Options{Log: zerolog.Nop()}))(l.t)
}

func wantTip(t *testing.T, g *graph.Graph, want graph.Tip) {
	t.Helper()
	if got, _ := g.Tip(); got != want {
		t.Errorf("tip %+v, expected %+v", got, want)
	}
}

// TestImport imports a chain in one range and in many, and compares the state
// hash with that of a graph fed from a node.
func TestImport(t *testing.T) {
	noLeaks(t)
	l := mineLinks(t, 120)
	want := l.fromNode()
	if want.Counts.Links == 0 || want.Counts.Refused == 0 {
		t.Fatalf("too little happened: %+v", want.Counts)
	}
	chain := openChain(t, write(t, l.raw()))
	for _, verify := range []indexer.Verify{indexer.VerifyActions, indexer.VerifyFull} {
		for _, memory := range []int64{0, 1, 20_000} {
			g := newGraph(t)
			opt := indexer.ImportOptions{Log: zerolog.Nop(), Verify: verify}
			opt.SetRangeMemory(memory)
			if err := indexer.Import(t.Context(), chain, g, opt); err != nil {
				t.Fatal(err)
			}
			wantTip(t, g, want)
			// Again, with nothing to do.
			if err := indexer.Import(t.Context(), chain, g, opt); err != nil {
				t.Fatal(err)
			}
			wantTip(t, g, want)
		}
	}
}

// TestImportStartHeight has actions spend outputs from below the start height.
func TestImportStartHeight(t *testing.T) {
	l := mineLinks(t, 60)
	params := testParams
	params.StartHeight = 25
	open := func() *graph.Graph {
		g := must(graph.Open(t.TempDir(), params, testOptions()))(t)
		t.Cleanup(func() { g.Close() })
		return g
	}
	g, fed := open(), open()
	chain := openChain(t, write(t, l.raw()))
	if err := indexer.Import(t.Context(), chain, g, indexer.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	wantTip(t, g, must(catchUp(t.Context(), l.node, fed, indexer.Options{Log: zerolog.Nop()}))(t))

	params.StartHeight = 60
	if err := indexer.Import(t.Context(), chain, open(), indexer.ImportOptions{}); !errors.Is(err, blockfile.ErrNoChain) {
		t.Errorf("files that end below the start height: %v", err)
	}
}

// TestImportUnproven imports files that do not get to their network's last
// checkpoint, until they do.
func TestImportUnproven(t *testing.T) {
	l := mineLinks(t, 60)
	net := *regtest.Params
	net.Checkpoints = []chaincfg.Checkpoint{{Height: 20, Hash: &l.node.chain[20]}, {Height: 59, Hash: &l.node.chain[59]}}
	open := func(blocks [][]byte) *blockfile.Chain {
		t.Helper()
		chain := must(blockfile.Open(t.Context(), write(t, blocks), &net, nil))(t)
		t.Cleanup(func() { chain.Close() })
		return chain
	}
	all := l.raw()
	g := newGraph(t)
	if err := indexer.Import(t.Context(), open(all[:59]), g, indexer.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	if tip, _ := g.Tip(); tip.Height != 20 || tip.Hash != l.node.chain[20] {
		t.Errorf("tip %d, %v, expected the checkpoint at height 20", tip.Height, tip.Hash)
	}
	if err := indexer.Import(t.Context(), open(all), g, indexer.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	wantTip(t, g, l.fromNode())

	params := testParams
	params.StartHeight = 25
	late := must(graph.Open(t.TempDir(), params, testOptions()))(t)
	defer late.Close()
	err := indexer.Import(t.Context(), open(all[:59]), late, indexer.ImportOptions{})
	if !errors.Is(err, blockfile.ErrNoChain) || !strings.Contains(err.Error(), "38 more blocks, up to height 58, may be another coin's") {
		t.Errorf("an index that starts above what is proven: %v", err)
	}
}

// TestImportForgeries acts in a victim's name, and from a coin that carries a
// token (protocol/SPEC.md §2).
func TestImportForgeries(t *testing.T) {
	l := newLedger(t, "V", "C")
	victim := regtest.KeyFromSeed("V")
	request := l.request("C", "V")
	l.mine()
	accept := must(protocol.AcceptScript(request.TxHash(), nil))(t)
	token := victim.Output(1_000_000)
	token.TokenData = wire.TokenData{CategoryID: [32]byte{1}, BitField: wire.HAS_AMOUNT, Amount: 7}
	coins := l.fund(
		wire.NewTxOut(100_000, []byte{txscript.OP_2DROP, txscript.OP_1}, wire.TokenData{}),
		regtest.KeyFromSeed("M").Output(100_000), token)
	l.mine()
	signature := append(bytes.Repeat([]byte{0x30}, 70), byte(txscript.SigHashAll|txscript.SigHashForkID))
	unlock := must(txscript.NewScriptBuilder().AddData(signature).AddData(victim.PublicKey()).Script())(t)
	var forged []*wire.MsgTx
	for _, coin := range coins[:2] {
		forged = append(forged, must(regtest.NewTx([]regtest.Input{{Coin: coin, ScriptSig: unlock}}, wire.NewTxOut(0, accept, wire.TokenData{})))(t))
	}
	l.next = append(l.next, forged...)
	l.mine()
	check := func(count uint64) {
		t.Helper()
		g := newGraph(t)
		if err := indexer.Import(t.Context(), openChain(t, write(t, l.raw())), g, indexer.ImportOptions{}); err != nil {
			t.Fatal(err)
		}
		want := l.fromNode()
		wantTip(t, g, want)
		if uint64(want.Counts.Links) != count || want.Counts.Refused != 2 {
			t.Errorf("%+v, expected %d links and the two forgeries refused", want.Counts, count)
		}
		v := must(g.At(nil))(t)
		defer v.Close()
		for _, tx := range forged {
			if a := must(v.Action(tx.TxHash()))(t); a.Reason != links.NoAuthor || a.Author != nil {
				t.Errorf("%v: %+v, expected no author", tx.TxHash(), a)
			}
		}
	}
	check(0)
	l.next = append(l.next, must(regtest.NewTx([]regtest.Input{{Coin: coins[2], ScriptSig: unlock}}, wire.NewTxOut(0, accept, wire.TokenData{})))(t))
	l.mine()
	check(1)
}

// TestImportInterrupted stops imports at several places and lets them go on.
func TestImportInterrupted(t *testing.T) {
	noLeaks(t)
	l := mineLinks(t, 150)
	want := l.fromNode()
	chain := openChain(t, write(t, l.raw()))
	opt := indexer.ImportOptions{Log: zerolog.Nop()}
	opt.SetRangeMemory(3_000)
	dir := t.TempDir()
	stops := 0
	for tip := uint32(0); tip < chain.Height(); {
		g := must(graph.Open(dir, testParams, testOptions()))(t)
		ctx, cancel := context.WithCancel(t.Context())
		changed := g.Changed()
		go func() { // after the second step
			<-changed
			<-g.Changed()
			cancel()
		}()
		err := indexer.Import(ctx, chain, g, opt)
		cancel()
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			stops++
		}
		now, _ := g.Tip()
		if now.Height <= tip {
			t.Fatalf("stopped at %d, was at %d before", now.Height, tip)
		}
		if tip = now.Height; tip == chain.Height() {
			wantTip(t, g, want)
			l.node.extend() // wakes the goroutine above, if it still waits
			must(catchUp(t.Context(), l.node, g, indexer.Options{Log: zerolog.Nop()}))(t)
			l.node.extend()
			must(catchUp(t.Context(), l.node, g, indexer.Options{Log: zerolog.Nop()}))(t)
		}
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if stops == 0 {
		t.Error("no import was interrupted")
	}

	// One that ends before it has begun.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g := newGraph(t)
	if err := indexer.Import(ctx, chain, g, opt); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, expected that the context ended", err)
	}
}

// TestImportReorganised imports files whose best chain leaves the graph's.
func TestImportReorganised(t *testing.T) {
	l := mineLinks(t, 60)
	g := newGraph(t)
	before := openChain(t, write(t, l.raw()))
	if err := indexer.Import(t.Context(), before, g, indexer.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	old := l.raw()
	l.node.chain = l.node.chain[:50]
	l.coins["A"], l.coins["B"] = l.fund(regtest.KeyFromSeed("A").Output(1_000_000))[0], l.fund(regtest.KeyFromSeed("B").Output(1_000_000))[0]
	l.mine()
	shorter := openChain(t, write(t, l.raw()))
	if err := indexer.Import(t.Context(), shorter, g, indexer.ImportOptions{}); !errors.Is(err, blockfile.ErrNoChain) || !strings.Contains(err.Error(), "after height 49") {
		t.Errorf("files with a shorter branch: %v", err)
	}
	l.accept("A", l.request("B", "A"))
	for len(l.node.chain) < 65 {
		l.mine()
	}
	both := append(old, l.raw()[50:]...)
	chain := openChain(t, write(t, both))
	if chain.Found().Stale != 10 {
		t.Fatalf("found %+v", chain.Found())
	}
	if err := indexer.Import(t.Context(), chain, g, indexer.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	wantTip(t, g, l.fromNode())

	// Files that have yet to grow as far as the graph.
	if err := indexer.Import(t.Context(), openChain(t, write(t, l.raw()[:40])), g, indexer.ImportOptions{}); err != nil {
		t.Error(err)
	}
	wantTip(t, g, l.fromNode())

	// A branch from below the undo horizon.
	short := must(graph.Open(t.TempDir(), testParams, graph.Options{MemTable: 8 << 20, BlockCache: 4 << 20, UndoBlocks: 1}))(t)
	defer short.Close()
	m := newLedger(t)
	for len(m.node.chain) < 150 {
		m.mine()
	}
	if err := indexer.Import(t.Context(), openChain(t, write(t, m.raw())), short, indexer.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
	m.node.chain = m.node.chain[:10]
	m.fund(regtest.KeyFromSeed("A").Output(1))
	for len(m.node.chain) < 151 {
		m.mine()
	}
	if err := indexer.Import(t.Context(), openChain(t, write(t, m.raw())), short, indexer.ImportOptions{}); !errors.Is(err, graph.ErrHorizon) {
		t.Errorf("a branch from below the horizon: %v", err)
	}
}

// TestImportDamaged changes bytes of blocks. All blocks before the damage are
// imported.
func TestImportDamaged(t *testing.T) {
	l := newLedger(t, "A", "B") // block 1 funds
	l.mine()
	l.request("B", "A")
	l.mine() // block 3
	for range 5 {
		l.mine()
	}
	key := regtest.KeyFromSeed("B").Script()
	for _, tt := range []struct {
		name   string
		verify indexer.Verify
		block  int
		change func(raw []byte)
		height int // of the tip then; -1: no error
		say    string
	}{
		{"the key of the spent output", indexer.VerifyActions, 1, func(raw []byte) { raw[bytes.Index(raw, key)+5]++ }, 0, "nobody can tell who acted"},
		{"the value of the spent output", indexer.VerifyActions, 1, func(raw []byte) { raw[bytes.Index(raw, key)-5]++ }, 0, "nobody can tell who acted"},
		{"the spent output, full", indexer.VerifyFull, 1, func(raw []byte) { raw[bytes.Index(raw, key)+5]++ }, 1, "merkle root"},
		{"an action", indexer.VerifyActions, 3, func(raw []byte) { raw[len(raw)-10]++ }, 3, "merkle root"},
		{"a coinbase", indexer.VerifyActions, 5, func(raw []byte) { raw[len(raw)-10]++ }, -1, ""},
		{"a coinbase, full", indexer.VerifyFull, 5, func(raw []byte) { raw[len(raw)-10]++ }, 5, "merkle root"},
		{"a count", indexer.VerifyActions, 5, func(raw []byte) { raw[80] = 2 }, 5, "malformed"},
		{"a length", indexer.VerifyActions, 1, func(raw []byte) { raw[80] = 9 }, 1, "malformed"},
	} {
		blocks := l.raw()
		blocks[tt.block] = bytes.Clone(blocks[tt.block])
		tt.change(blocks[tt.block])
		g := newGraph(t)
		err := indexer.Import(t.Context(), openChain(t, write(t, blocks)), g, indexer.ImportOptions{Verify: tt.verify})
		if tt.height < 0 {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		if !errors.Is(err, blockfile.ErrDamaged) || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("%s: %v, expected ErrDamaged with %q", tt.name, err, tt.say)
		}
		next := 0
		if tip, ok := g.Tip(); ok {
			next = int(tip.Height) + 1
		}
		if next != tt.height {
			t.Errorf("%s: %d blocks imported, expected %d", tt.name, next, tt.height)
		}
	}
}

// TestImportBchd imports the files of a real bchd with real links in them, while
// it runs, and lets an indexer go on from there.
func TestImportBchd(t *testing.T) {
	w := newWorld(t, 110, "A", "B", "C", "D")
	_, accept := w.link("B", "A")
	w.link("C", "B")
	must(w.node.Reorg(t.Context(), 1, nil, nil))(t)
	w.mine(w.revoke("A", accept))
	want := w.follow(w.graph)

	files := must(filepath.Glob(filepath.Join(w.node.Dir(), "data", "regtest", "blocks_ffldb")))(t)
	if len(files) != 1 {
		t.Fatalf("bchd's block files: %v", files)
	}
	g := newGraph(t)
	chain := openChain(t, files[0])
	if found := chain.Found(); found.Stale != 1 || found.Bad != 0 || found.Unlinked != 0 {
		t.Errorf("found %+v", found)
	}
	if err := indexer.Import(t.Context(), chain, g, indexer.ImportOptions{Verify: indexer.VerifyFull}); err != nil {
		t.Fatal(err)
	}
	wantTip(t, g, want)

	w.link("D", "A")
	_, stop := w.run(g)
	if got := w.follow(g); got != w.follow(w.graph) {
		t.Errorf("tip %+v after an import, without one %+v", got, w.follow(w.graph))
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}
