package indexer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// world is a private chain with an indexer on it. Keys are named; each has coins
// of its own, so that actions of one key follow each other and those of
// different keys do not depend on each other.
type world struct {
	t      *testing.T
	node   *regtest.Node
	client *bchd.Client
	keys   map[string]*regtest.Key
	coins  map[string]regtest.Coin

	dir     string
	graph   *graph.Graph
	indexer *indexer.Indexer // of graph
	stop    func() error
}

var testParams = graph.Params{Network: regtest.Params.Name}

// newWorld mines blocks and funds the named keys.
func newWorld(t *testing.T, blocks uint32, names ...string) *world {
	t.Helper()
	w := &world{
		t: t, node: regtest.ForTest(t, regtest.Options{Blocks: blocks}), dir: t.TempDir(),
		keys: make(map[string]*regtest.Key), coins: make(map[string]regtest.Coin),
	}
	var outputs []*wire.TxOut
	for _, name := range names {
		w.keys[name] = regtest.KeyFromSeed(name)
		outputs = append(outputs, w.keys[name].Output(1_000_000))
	}
	coins := must(w.node.Fund(t.Context(), outputs...))(t)
	for i, name := range names {
		w.coins[name] = coins[i]
	}
	must(w.node.Mine(t.Context(), 1))(t)

	config := must(bchd.ParseURL(w.node.URL()))(t)
	config.Network = regtest.Params
	w.client = must(bchd.Dial(t.Context(), config))(t)
	t.Cleanup(func() { w.client.Close() })
	t.Cleanup(func() { w.halt() })
	w.start()
	return w
}

func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// start opens the graph and runs an indexer on it until halt.
func (w *world) start() {
	w.t.Helper()
	w.graph = must(graph.Open(w.dir, testParams, testOptions()))(w.t)
	w.indexer, w.stop = w.run(w.graph)
}

func testOptions() graph.Options {
	return graph.Options{MemTable: 8 << 20, BlockCache: 4 << 20}
}

// run runs an indexer; the returned function ends it and returns Run's error.
func (w *world) run(g *graph.Graph) (*indexer.Indexer, func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ix := indexer.New(w.client, g, indexer.Options{Poll: 100 * time.Millisecond, Log: zerolog.New(zerolog.NewTestWriter(w.t))})
	done := make(chan error, 1)
	go func() { done <- ix.Run(ctx) }()
	return ix, func() error {
		cancel()
		err := <-done
		done <- err
		return err
	}
}

func (w *world) halt() {
	if w.stop == nil {
		return
	}
	if err := w.stop(); err != nil {
		w.t.Errorf("indexer: %v", err)
	}
	if err := w.graph.Close(); err != nil {
		w.t.Errorf("closing the graph: %v", err)
	}
	w.stop = nil
}

// follow waits until g ends with the node's tip and returns the tip.
func (w *world) follow(g *graph.Graph) graph.Tip {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	for {
		changed := g.Changed()
		want := must(w.client.Tip(ctx))(w.t)
		if tip, ok := g.Tip(); ok && tip.Hash == want.Hash {
			return tip
		}
		select {
		case <-changed:
		case <-time.After(time.Second):
		case <-ctx.Done():
			tip, _ := g.Tip()
			w.t.Fatalf("the graph stays at %d, the node is at %d", tip.Height, want.Height)
		}
	}
}

func (w *world) hash(name string) protocol.KeyHash {
	w.t.Helper()
	if w.keys[name] == nil {
		w.t.Fatalf("no key is named %q", name)
	}
	return w.keys[name].Hash()
}

// act spends the key's coin on an action.
func (w *world) act(name string, script []byte, err error) *wire.MsgTx {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	tx, change, err := regtest.Spend(w.keys[name], w.coins[name], wire.NewTxOut(0, script, wire.TokenData{}))
	if err != nil {
		w.t.Fatal(err)
	}
	w.coins[name] = change
	return tx
}

func (w *world) request(child, parent string) *wire.MsgTx {
	script, err := protocol.RequestScript(w.hash(parent), []byte(child+" asks "+parent))
	return w.act(child, script, err)
}

func (w *world) accept(parent string, request *wire.MsgTx) *wire.MsgTx {
	script, err := protocol.AcceptScript(request.TxHash(), nil)
	return w.act(parent, script, err)
}

func (w *world) revoke(parent string, accept *wire.MsgTx) *wire.MsgTx {
	script, err := protocol.RevokeScript(accept.TxHash(), nil)
	return w.act(parent, script, err)
}

// mine puts exactly the transactions into a block and returns its height once
// the graph has it.
func (w *world) mine(txs ...*wire.MsgTx) uint32 {
	w.t.Helper()
	must(w.node.MineBlock(w.t.Context(), txs...))(w.t)
	return w.follow(w.graph).Height
}

// link makes child a child of parent, in two blocks.
func (w *world) link(child, parent string) (request, accept *wire.MsgTx) {
	w.t.Helper()
	request = w.request(child, parent)
	w.mine(request)
	accept = w.accept(parent, request)
	w.mine(accept)
	return request, accept
}

// view returns a view as of height, nil for the tip.
func (w *world) view(height *uint32) *graph.View {
	w.t.Helper()
	v := must(w.graph.At(height))(w.t)
	w.t.Cleanup(v.Close)
	return v
}

// tree is what is expected of one identity: its id and the path of each key up
// to the root, as names.
type tree struct {
	id    chainhash.Hash
	paths []string
}

// wantTrees checks every key of the trees as of height.
func (w *world) wantTrees(height uint32, trees ...tree) {
	w.t.Helper()
	v := w.view(&height)
	for _, want := range trees {
		var members []string
		for _, path := range want.paths {
			members = append(members, path[:1])
			r := must(v.Resolve(w.t.Context(), w.hash(path[:1])))(w.t)
			got := ""
			for _, k := range r.Path {
				got += w.nameOf(k)
			}
			if got != path || r.ID != want.id || int(r.Depth) != len(path)-1 || w.nameOf(r.Root) != path[len(path)-1:] {
				w.t.Errorf("%s as of %d: path %s, id %v, root %s; want path %s, id %v",
					path[:1], height, got, r.ID, w.nameOf(r.Root), path, want.id)
			}
		}
		if want.id == (chainhash.Hash{}) {
			continue
		}
		identity := must(v.Identity(want.id))(w.t)
		if int(identity.Keys) != len(members) || identity.MergedInto != nil {
			w.t.Errorf("identity %v as of %d: %+v, want %d keys", want.id, height, identity, len(members))
		}
		listed, _, err := v.Members(w.t.Context(), want.id, nil, 100)
		if err != nil {
			w.t.Fatal(err)
		}
		var got []string
		for _, m := range listed {
			got = append(got, w.nameOf(m.Key))
		}
		slices.Sort(got)
		slices.Sort(members)
		if !slices.Equal(got, members) {
			w.t.Errorf("keys of %v as of %d: %v, want %v", want.id, height, got, members)
		}
	}
}

func (w *world) nameOf(k protocol.KeyHash) string {
	for name, candidate := range w.keys {
		if candidate.Hash() == k {
			return name
		}
	}
	return "?"
}

func (w *world) wantState(tx *wire.MsgTx, state links.ActionState, reason links.Reason) links.ActionStatus {
	w.t.Helper()
	a := must(w.view(nil).Action(tx.TxHash()))(w.t)
	if a.State != state || a.Reason != reason {
		w.t.Errorf("%v %v: state %d, reason %d; want %d, %d", a.Kind, tx.TxHash(), a.State, a.Reason, state, reason)
	}
	return a
}

// wantFresh checks that a fresh index of the node's chain has the same state
// hash and counts.
func (w *world) wantFresh() {
	w.t.Helper()
	fresh := must(graph.Open(w.t.TempDir(), testParams, testOptions()))(w.t)
	defer fresh.Close()
	_, stop := w.run(fresh)
	want := w.follow(fresh)
	if err := stop(); err != nil {
		w.t.Fatal(err)
	}
	if got := w.follow(w.graph); got != want {
		w.t.Errorf("tip %+v, a fresh index has %+v", got, want)
	}
}

// TestFlows plays the flows of MIP-0003 and asks for every state on the way, as
// of its block, at the end.
func TestFlows(t *testing.T) {
	w := newWorld(t, 110, "A", "B", "C", "D", "E", "F", "G")
	lone := chainhash.Hash{}
	type state struct {
		height uint32
		trees  []tree
	}
	var states []state
	expect := func(trees ...tree) {
		t.Helper()
		s := state{w.follow(w.graph).Height, trees}
		w.wantTrees(s.height, s.trees...)
		states = append(states, s)
	}
	expect(tree{lone, []string{"A"}}, tree{lone, []string{"B"}})

	// Service signup: A's new service makes B and asks.
	requestBA, acceptBA := w.link("B", "A")
	id := requestBA.TxHash()
	expect(tree{id, []string{"A", "BA"}}, tree{lone, []string{"C"}})

	// Key rotation: D and E replace B and C.
	w.link("C", "B")
	expect(tree{id, []string{"A", "BA", "CBA"}})
	w.link("D", "A")
	w.link("E", "D")
	expect(tree{id, []string{"A", "BA", "CBA", "DA", "EDA"}})
	cutB := w.revoke("A", acceptBA)
	w.mine(cutB)
	expect(tree{id, []string{"A", "DA", "EDA"}}, tree{cutB.TxHash(), []string{"B", "CB"}})

	// Master key replacement: F takes over above A, and lets A go.
	_, acceptAF := w.link("A", "F")
	expect(tree{id, []string{"F", "AF", "DAF", "EDAF"}})
	w.link("G", "F")
	cutA := w.revoke("F", acceptAF)
	w.mine(cutA)
	expect(tree{id, []string{"F", "GF"}}, tree{cutA.TxHash(), []string{"A", "DA", "EDA"}})

	// Merging two identities, and a branch that comes back: the older id stays.
	w.link("B", "E")
	expect(tree{cutB.TxHash(), []string{"A", "DA", "EDA", "BEDA", "CBEDA"}}, tree{id, []string{"F", "GF"}})
	_, acceptAG := w.link("A", "G")
	expect(tree{id, []string{"F", "GF", "AGF", "DAGF", "EDAGF", "BEDAGF", "CBEDAGF"}})

	// A compromised child leaves alone, with a new id of its own.
	cutAgain := w.revoke("G", acceptAG)
	w.mine(cutAgain)
	expect(tree{id, []string{"F", "GF"}}, tree{cutAgain.TxHash(), []string{"A", "DA", "EDA", "BEDA", "CBEDA"}})

	for _, s := range states {
		w.wantTrees(s.height, s.trees...)
	}
	for _, name := range []chainhash.Hash{cutA.TxHash(), cutB.TxHash()} {
		identity := must(w.view(nil).Identity(name))(t)
		if identity.MergedInto == nil || *identity.MergedInto != id {
			t.Errorf("%v merged into %v, want %v", name, identity.MergedInto, id)
		}
	}
	w.wantFresh()
}

// TestForgeries tries to act in a victim's name (protocol/SPEC.md §2).
func TestForgeries(t *testing.T) {
	w := newWorld(t, 110, "V", "C", "M")
	victim := w.keys["V"]
	request := w.request("C", "V")
	w.mine(request)
	acceptScript := must(protocol.AcceptScript(request.TxHash(), nil))(t)
	accept := func() *wire.TxOut { return wire.NewTxOut(0, acceptScript, wire.TokenData{}) }

	// Anyone can fund OP_2DROP OP_1 and unlock it with the victim's public key.
	coins := must(w.node.Fund(t.Context(),
		wire.NewTxOut(100_000, []byte{txscript.OP_2DROP, txscript.OP_1}, wire.TokenData{}),
		victim.Output(100_000), victim.Output(100_000)))(t)
	must(w.node.Mine(t.Context(), 1))(t)
	fake := append(bytes.Repeat([]byte{0x30}, 70), byte(txscript.SigHashAll|txscript.SigHashForkID))
	unlock := must(txscript.NewScriptBuilder().AddData(fake).AddData(victim.PublicKey()).Script())(t)
	p2s := must(regtest.NewTx([]regtest.Input{{Coin: coins[0], ScriptSig: unlock}}, accept()))(t)

	// The victim signs with NONE and SINGLE, say to offer a token; the signatures
	// are moved to a transaction with another OP_RETURN.
	moved := func(coin regtest.Coin, hashType txscript.SigHashType) *wire.MsgTx {
		offer := must(regtest.NewTx([]regtest.Input{{Coin: coin, Key: victim, HashType: hashType}}, victim.Output(90_000)))(t)
		forged := must(regtest.NewTx([]regtest.Input{{Coin: coin, ScriptSig: offer.TxIn[0].SignatureScript}}, victim.Output(90_000), accept()))(t)
		if forged.TxIn[0].Sequence != offer.TxIn[0].Sequence {
			t.Fatal("the signature would not hold")
		}
		return forged
	}
	none := moved(coins[1], txscript.SigHashNone)
	single := moved(coins[2], txscript.SigHashSingle)

	for _, forged := range []*wire.MsgTx{p2s, none, single} {
		w.mine(forged)
		a := w.wantState(forged, links.StateRefused, links.NoAuthor)
		if a.Author != nil {
			t.Errorf("%v has author %x", forged.TxHash(), *a.Author)
		}
	}
	w.wantTrees(w.follow(w.graph).Height, tree{chainhash.Hash{}, []string{"C"}})

	proper := w.accept("V", request)
	w.mine(proper)
	w.wantState(proper, links.StateInForce, links.NoReason)
	w.wantTrees(w.follow(w.graph).Height, tree{request.TxHash(), []string{"V", "CV"}})
}

// TestOrderWithinABlock has parents and children of one flow in one block above
// height 1000, where blocks are sorted by txid, in both orders; and an MLA that
// confirms before its MLR.
func TestOrderWithinABlock(t *testing.T) {
	w := newWorld(t, 1010, "A", "B", "C", "D", "E", "F")
	lower := func(a, b *wire.MsgTx) bool {
		return a.TxHash().String() < b.TxHash().String() // CTOR compares the display order
	}
	// acceptInOrder varies the message until the accept stands before or after the
	// request in the block.
	acceptInOrder := func(parent string, request *wire.MsgTx, first bool) *wire.MsgTx {
		coin := w.coins[parent]
		for i := range 1000 {
			w.coins[parent] = coin
			script, err := protocol.AcceptScript(request.TxHash(), fmt.Append(nil, i))
			if tx := w.act(parent, script, err); lower(tx, request) == first {
				return tx
			}
		}
		t.Fatal("no such txid was found")
		return nil
	}
	for _, test := range []struct {
		child, parent string
		acceptFirst   bool
	}{{"B", "A", true}, {"C", "D", false}} {
		request := w.request(test.child, test.parent)
		accept := acceptInOrder(test.parent, request, test.acceptFirst)
		height := w.mine(request, accept)
		if a, b := w.wantState(accept, links.StateInForce, 0), w.wantState(request, links.StateUsed, 0); (a.Index < b.Index) != test.acceptFirst {
			t.Fatalf("accept at index %d, request at %d", a.Index, b.Index)
		}
		w.wantTrees(height, tree{request.TxHash(), []string{test.parent, test.child + test.parent}})
	}

	request := w.request("E", "F")
	early := w.accept("F", request)
	cut := w.revoke("F", early)
	w.mine(early, cut)
	w.wantState(early, links.StateWaiting, 0)
	w.wantState(cut, links.StateWaiting, 0)
	height := w.mine(request)
	w.wantState(early, links.StateCut, 0)
	w.wantState(cut, links.StateDone, 0)
	w.wantTrees(height, tree{request.TxHash(), []string{"F"}}, tree{cut.TxHash(), []string{"E"}})
	w.wantTrees(height-1, tree{chainhash.Hash{}, []string{"E"}})
	w.wantFresh()
}

// TestReorganisation replaces a branch that has an MLA by one that revokes
// another link, once while the indexer runs and once while it does not.
func TestReorganisation(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			w := newWorld(t, 110, "A", "B", "C", "D")
			first, acceptFirst := w.link("B", "A")
			request := w.request("C", "A")
			w.mine(request)
			coin := w.coins["A"]
			accept := w.accept("A", request)
			w.mine(accept)
			other := w.request("D", "A")
			height := w.mine(other)
			w.wantTrees(height, tree{first.TxHash(), []string{"A", "BA", "CA"}})

			w.coins["A"] = coin
			cut := w.revoke("A", acceptFirst)
			if restart {
				w.halt()
			}
			must(w.node.Reorg(t.Context(), 2, nil, []*wire.MsgTx{cut}, nil))(t)
			if restart {
				w.start()
			}
			height = w.follow(w.graph).Height
			w.wantTrees(height, tree{first.TxHash(), []string{"A"}}, tree{cut.TxHash(), []string{"B"}}, tree{chainhash.Hash{}, []string{"C"}})
			w.wantState(request, links.StateOpen, 0)
			for _, gone := range []*wire.MsgTx{accept, other} {
				if _, err := w.view(nil).Action(gone.TxHash()); !errors.Is(err, graph.ErrNotFound) {
					t.Errorf("%v: got %v, want ErrNotFound", gone.TxHash(), err)
				}
			}
			stale := must(w.graph.Disconnects(0, height))(t)
			if len(stale) != 2 || stale[0].Height != stale[1].Height+1 {
				t.Errorf("disconnects: %+v", stale)
			}
			w.wantFresh()
		})
	}
}

// TestShorterChain has a node that has lost blocks, and one on a branch with no more
// work: what is indexed stays, and is not called synced, until the node's chain has
// more work.
func TestShorterChain(t *testing.T) {
	w := newWorld(t, 110, "A", "B")
	request, accept := w.link("B", "A")
	w.mine() // so that two blocks get lost
	tip := w.follow(w.graph)
	linked := tree{request.TxHash(), []string{"A", "BA"}}
	// accepted is the block that is lost first.
	accepted := must(w.graph.BlockHeader(tip.Height - 1))(t)
	if err := w.node.Invalidate(t.Context(), accepted.Hash); err != nil {
		t.Fatal(err)
	}
	for blocks, reason := range []string{
		fmt.Sprintf("at height %d, on the chain that is indexed up to %d", tip.Height-2, tip.Height),
		"branch with less work", // one block
		"branch with less work", // as much work
	} {
		if blocks > 0 {
			must(w.node.MineBlock(t.Context()))(t)
		}
		w.wantUnsynced(reason)
		if now, _ := w.graph.Tip(); now != tip {
			t.Fatalf("after %d blocks of another branch the tip is %+v, want %+v", blocks, now, tip)
		}
		w.wantTrees(tip.Height, linked)
	}
	// The first block with more work.
	w.mine(accept)
	w.wantTrees(tip.Height+1, linked)
	w.wantFresh()
}

// wantUnsynced waits until the indexer says why it is not synced.
func (w *world) wantUnsynced(reason string) {
	w.t.Helper()
	for range 1000 {
		if s := w.indexer.Status(); !s.Synced && s.Checked && strings.Contains(s.Reason, reason) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatalf("status is %+v, want one that is not synced since %q", w.indexer.Status(), reason)
}

// TestBeyondTheHorizon leaves the graph's chain deeper than it can go back.
func TestBeyondTheHorizon(t *testing.T) {
	w := newWorld(t, 110, "A")
	w.halt()
	options := testOptions()
	options.UndoBlocks = 3
	w.graph = must(graph.Open(t.TempDir(), testParams, options))(t)
	defer w.graph.Close()
	_, stop := w.run(w.graph)
	tip := w.follow(w.graph)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	replaced := tip.Height - w.graph.UndoFrom() + 2
	must(w.node.Reorg(t.Context(), replaced, make([][]*wire.MsgTx, replaced+1)...))(t)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := indexer.New(w.client, w.graph, indexer.Options{}).Run(ctx)
	if !errors.Is(err, graph.ErrHorizon) {
		t.Fatalf("got %v, want ErrHorizon", err)
	}
	if now, _ := w.graph.Tip(); now != tip {
		t.Errorf("the graph went from %+v to %+v", tip, now)
	}
}

// TestNodeBehindTheDatabase starts an indexer on a node that has yet to catch up
// with what the database holds: it waits, nothing is taken back, and what is known is
// served.
func TestNodeBehindTheDatabase(t *testing.T) {
	w := newWorld(t, 110, "A", "B")
	w.link("B", "A")
	before := w.follow(w.graph)
	w.halt()
	if err := w.node.Invalidate(t.Context(), before.Hash); err != nil {
		t.Fatal(err)
	}

	w.graph = must(graph.Open(w.dir, testParams, testOptions()))(t)
	defer w.graph.Close()
	ctx, cancel := context.WithCancel(t.Context())
	logged := new(lockedBuffer)
	ix := indexer.New(w.client, w.graph, indexer.Options{Poll: 20 * time.Millisecond, Log: zerolog.New(logged)})
	done := make(chan error, 1)
	go func() { done <- ix.Run(ctx) }()
	waitFor(t, "a word about waiting", func() bool {
		return strings.Contains(logged.String(), fmt.Sprintf("it is at height %d, on the chain that is indexed up to %d", before.Height-1, before.Height))
	})
	if tip, _ := w.graph.Tip(); tip != before {
		t.Errorf("the graph went from %+v to %+v", before, tip)
	}
	if s := ix.Status(); !s.Checked || s.Synced || s.Reason == "" {
		t.Errorf("%+v while the node is behind", s)
	}
	if err := w.node.Reconsider(t.Context(), before.Hash); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the node to catch up", func() bool { return ix.Status().Synced })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
