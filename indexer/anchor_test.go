package indexer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// anchorScript is the record of the domain's entry at position.
func anchorScript(t *testing.T, domain string, position uint64) []byte {
	t.Helper()
	a := protocol.Anchor{Domain: domain, Position: position, Head: sha256.Sum256(fmt.Append(nil, "head", position)), Root: sha256.Sum256(fmt.Append(nil, "root", position))}
	return must(a.Script())(t)
}

// anchor spends the key's coin, which is the baton if that comes from an anchor,
// on an anchor, whose baton is the key's next coin.
func (w *world) anchor(name string, position uint64) *wire.MsgTx {
	w.t.Helper()
	return w.act(name, anchorScript(w.t, "example.org", position), nil)
}

// spend spends the key's coin on nothing in particular.
func (w *world) spend(name string) *wire.MsgTx {
	w.t.Helper()
	tx, change, err := regtest.Spend(w.keys[name], w.coins[name])
	if err != nil {
		w.t.Fatal(err)
	}
	w.coins[name] = change
	return tx
}

// inOrder makes an anchor, and a transaction that spends its baton, at one position
// after the other until their order in a block is as wanted: above height 1000 they
// stand by txid.
func (w *world) inOrder(name string, makerFirst bool, makes func(position uint64) *wire.MsgTx, spends func() *wire.MsgTx) (maker, spender *wire.MsgTx) {
	coin := w.coins[name]
	for position := range uint64(100) {
		w.coins[name] = coin
		maker = makes(position)
		spender = spends()
		first, second := maker.TxHash(), spender.TxHash()
		slices.Reverse(first[:])
		slices.Reverse(second[:])
		if (bytes.Compare(first[:], second[:]) < 0) == makerFirst {
			return maker, spender
		}
	}
	w.t.Fatal("no such order")
	return nil, nil
}

func (w *world) wantChain(genesis *wire.MsgTx, anchors uint32, last *wire.MsgTx, how protocol.Break, by *wire.MsgTx) {
	w.t.Helper()
	got := must(w.view(nil).AnchorChain(genesis.TxHash()))(w.t)
	broken := chainhash.Hash{}
	if by != nil {
		broken = by.TxHash()
	}
	if got.Anchors != anchors || got.Last.TxID != last.TxHash() || got.Break != how || got.BrokenBy != broken {
		w.t.Errorf("chain %+v\nexpected %d anchors, the last one %v, %v, broken by %v", got, anchors, last.TxHash(), how, broken)
	}
	if author := got.Last.Author; author == nil {
		w.t.Errorf("anchor %v has no author", got.Last.TxID)
	}
}

// TestAnchors plays chains of anchors on a real node whose blocks are ordered by
// txid.
func TestAnchors(t *testing.T) {
	w := newWorld(t, 1005, "K", "L", "M", "N", "A")

	genesis := w.anchor("K", 0)
	w.mine(genesis)
	second := w.anchor("K", 7)
	w.mine(second)
	w.wantChain(genesis, 2, second, protocol.Unbroken, nil)
	third, fourth := w.anchor("K", 7), w.anchor("K", 9) // one block
	w.mine(third, fourth)
	w.wantChain(genesis, 4, fourth, protocol.Unbroken, nil)

	// The baton goes without a record, and as an action.
	gone := w.spend("K")
	w.mine(gone)
	w.wantChain(genesis, 4, fourth, protocol.NoRecord, gone)
	other := w.anchor("L", 1)
	w.mine(other)
	request := w.request("L", "A")
	w.mine(request)
	w.wantChain(other, 1, other, protocol.NoRecord, request)
	w.wantState(request, links.StateOpen, 0)

	// It goes in the block that made it, whichever comes first there.
	for _, name := range []string{"M", "N"} {
		maker, spender := w.inOrder(name, name == "M",
			func(position uint64) *wire.MsgTx { return w.anchor(name, position) },
			func() *wire.MsgTx { return w.spend(name) })
		w.mine(maker, spender)
		w.wantChain(maker, 1, maker, protocol.NoRecord, spender)
		again, next := w.inOrder(name, name == "N",
			func(position uint64) *wire.MsgTx { return w.anchor(name, position) },
			func() *wire.MsgTx { return w.anchor(name, 1000) })
		w.mine(again, next)
		w.wantChain(again, 2, next, protocol.Unbroken, nil)
	}
	w.wantFresh()

	// Blocks are taken back: what had been spent is a baton again.
	begin := w.anchor("K", 1)
	baton := w.coins["K"]
	w.mine(begin)
	stale := w.spend("K")
	w.mine(stale)
	w.mine()
	w.wantChain(begin, 1, begin, protocol.NoRecord, stale)
	w.coins["K"] = baton
	instead := w.anchor("K", 5)
	must(w.node.Reorg(t.Context(), 2, nil, nil, []*wire.MsgTx{instead}))(t)
	w.follow(w.graph)
	w.wantChain(begin, 2, instead, protocol.Unbroken, nil)
	end := w.spend("K")
	w.mine(end)
	w.wantChain(begin, 2, instead, protocol.NoRecord, end)
	w.wantFresh()

	// From files.
	want := w.follow(w.graph)
	files := must(filepath.Glob(filepath.Join(w.node.Dir(), "data", "regtest", "blocks_ffldb")))(t)
	for _, verify := range []indexer.Verify{indexer.VerifyActions, indexer.VerifyFull} {
		g := newGraph(t)
		opt := indexer.ImportOptions{Verify: verify}
		if verify == indexer.VerifyFull {
			opt.SetRangeMemory(1)
		}
		if err := indexer.Import(t.Context(), openChain(t, files[0]), g, opt); err != nil {
			t.Fatal(err)
		}
		wantTip(t, g, want)
	}
}

// anchorStory mines blocks most of which have anchors: chains that go on, several
// steps in one block and in any order there, that break in every way, and begin
// anew.
func anchorStory(t *testing.T, blocks int) *ledger {
	names := []string{"A", "B", "C", "D", "E", "F"}
	l := newLedger(t, append(names, "Q")...)
	rng := rand.New(rand.NewPCG(1, 1))
	position := uint64(100)
	for len(l.node.chain) < blocks {
		for _, name := range names {
			lower := strings.ToLower(name)
			for rng.IntN(2) == 0 {
				position++
				switch rng.IntN(8) {
				case 0:
					l.request(name, "B")
				case 1:
					l.act(name, []byte{0x6a}, nil)
				case 2:
					l.act(name, anchorScript(t, lower+".example", position-50), nil)
				case 3:
					l.act(name, anchorScript(t, "other.example", position), nil)
				case 4: // by another input than the first
					first := l.fund(regtest.KeyFromSeed(name).Output(1000))[0]
					key := regtest.KeyFromSeed(name)
					tx := must(regtest.NewTx([]regtest.Input{{Coin: first, Key: key}, {Coin: l.coins[name], Key: key}},
						key.Output(10_000_000), wire.NewTxOut(0, anchorScript(t, lower+".example", position), wire.TokenData{})))(t)
					l.coins[name] = l.knows(regtest.CoinOf(tx, 0))
					l.next = append(l.next, tx)
				default:
					l.act(name, anchorScript(t, lower+".example", position), nil)
				}
			}
		}
		if at := len(l.node.chain); at == 20 || at == 130 { // a baton that lies for long
			l.act("Q", anchorScript(t, "q.example", uint64(at)), nil)
		}
		rng.Shuffle(len(l.next), func(i, j int) { l.next[i], l.next[j] = l.next[j], l.next[i] })
		l.mine()
	}
	return l
}

// plainly is the tip of a graph that is given every transaction of the ledger's
// blocks, one block after the other, and has to see by itself which ones matter.
func (l *ledger) plainly() graph.Tip {
	l.t.Helper()
	g := newGraph(l.t)
	for height, raw := range l.raw() {
		read := must(protocol.ReadBlock(raw))(l.t)
		b := graph.Block{Height: uint32(height), Hash: read.Hash, PrevHash: read.Header.PrevBlock, Time: read.Header.Time, Bits: read.Header.Bits}
		b.Anchors.Header = [protocol.HeaderSize]byte(raw)
		var indices []uint32
		for i, tx := range read.Txs() {
			var author *protocol.KeyHash
			spends, unlock := tx.Input0()
			if key, ok := protocol.Author(unlock, l.node.spent[spends].Script); ok {
				author = &key
			}
			if action, ok := tx.Action(); ok {
				b.Actions = append(b.Actions, links.Action{Action: action, Index: i, TxID: tx.TxID(), Author: author})
			}
			b.Anchors.Txs = append(b.Anchors.Txs, anchors.Tx{Index: i, Author: author, Raw: tx})
			indices = append(indices, i)
		}
		b.Anchors.Merkle = read.PartialMerkleTree(indices...)
		if err := g.Connect(b); err != nil {
			l.t.Fatal(err)
		}
	}
	tip, _ := g.Tip()
	return tip
}

// TestAnchorsInFlight has blocks walked over before those on which they depend.
func TestAnchorsInFlight(t *testing.T) {
	noLeaks(t)
	l := anchorStory(t, 150)
	want := l.plainly()

	// Of each four blocks the last one comes first. After some the graph gets what has
	// come, so that batons can be forgotten.
	const group, early = 4, 36
	var g *graph.Graph
	var mu sync.Mutex
	came := make(map[uint32]chan struct{}) // mu
	channel := func(height uint32) chan struct{} {
		mu.Lock()
		defer mu.Unlock()
		if came[height] == nil {
			came[height] = make(chan struct{})
		}
		return came[height]
	}
	l.node.onBlock = func(height uint32) error {
		defer close(channel(height))
		if next := height + 1; next%group != 0 && int(next) < len(l.node.chain) {
			<-channel(next)
			time.Sleep(time.Millisecond) // so that it is being walked over
		}
		for height >= early {
			changed := g.Changed()
			if tip, _ := g.Tip(); tip.Height >= early-1 {
				break
			}
			<-changed
		}
		return nil
	}
	for i := range 2 {
		clear(came)
		opt := indexer.Options{Log: zerolog.Nop(), Memory: 1 << 30} // four large blocks at once
		if i == 0 {
			opt.SetBatonsKept(1)
		}
		g = newGraph(t)
		if got := must(catchUp(t.Context(), l.node, g, opt))(t); got != want {
			t.Errorf("tip %+v, expected %+v", got, want)
		}
	}
	l.node.onBlock = nil

	chain := openChain(t, write(t, l.raw()))
	memories := []int64{30_000, 300_000, 1 << 30, 1 << 30, 1 << 30}
	if testing.Short() {
		memories = memories[1:3]
	}
	for _, memory := range memories {
		g := newGraph(t)
		opt := indexer.ImportOptions{Log: zerolog.Nop()}
		opt.SetRangeMemory(memory)
		if err := indexer.Import(t.Context(), chain, g, opt); err != nil {
			t.Fatal(err)
		}
		wantTip(t, g, want)
	}
}

// TestAnchorDamaged has a node and files change a transaction that only spends a
// baton, behind the back of the header.
func TestAnchorDamaged(t *testing.T) {
	l := newLedger(t, "A")
	l.act("A", anchorScript(t, "example.org", 1), nil)
	l.mine()
	l.act("A", []byte{0x6a}, nil)
	l.mine()
	height := len(l.node.chain) - 1
	hash := l.node.chain[height]
	raw := bytes.Clone(l.node.blocks[hash].raw)
	raw[len(raw)-1]++ // the lock time
	l.node.add(uint32(height), hash, raw)

	g := newGraph(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := catchUp(ctx, l.node, g, indexer.Options{Log: zerolog.Nop()})
	imported := newGraph(t)
	importErr := indexer.Import(ctx, openChain(t, write(t, l.raw())), imported, indexer.ImportOptions{})
	for g, err := range map[*graph.Graph]error{g: err, imported: importErr} {
		if tip, _ := g.Tip(); err == nil || !strings.Contains(err.Error(), "merkle root") || int(tip.Height) != height-1 {
			t.Errorf("error %v, tip %d; expected one about the merkle root at height %d", err, tip.Height, height)
		}
	}
}
