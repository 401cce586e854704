package graph

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// anchorBlock puts transactions into the block, and the block's header and hash to
// them. The first transaction is a coinbase that it makes.
func anchorBlock(t testing.TB, b *Block, salt uint64, txs ...*wire.MsgTx) {
	t.Helper()
	coinbase := wire.NewMsgTx(1)
	coinbase.AddTxIn(wire.NewTxIn(wire.NewOutPoint(&chainhash.Hash{}, wire.MaxPrevOutIndex), fmt.Appendf(nil, "block %d %d", b.Height, salt)))
	coinbase.AddTxOut(wire.NewTxOut(0, bytes.Repeat([]byte{0x51}, 30), wire.TokenData{}))
	block := wire.NewMsgBlock(&wire.BlockHeader{PrevBlock: b.PrevHash, Timestamp: time.Unix(int64(b.Height), 0), Nonce: uint32(salt)})
	level := []chainhash.Hash{coinbase.TxHash()}
	block.Transactions = append([]*wire.MsgTx{coinbase}, txs...)
	for _, tx := range txs {
		level = append(level, tx.TxHash())
	}
	for len(level) > 1 {
		if len(level)%2 == 1 {
			level = append(level, level[len(level)-1])
		}
		for i := range len(level) / 2 {
			level[i] = chainhash.DoubleHashH(append(bytes.Clone(level[2*i][:]), level[2*i+1][:]...))
		}
		level = level[:len(level)/2]
	}
	block.Header.MerkleRoot = level[0]
	var raw bytes.Buffer
	if err := block.Serialize(&raw); err != nil {
		t.Fatal(err)
	}
	read, err := protocol.ReadBlock(raw.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	b.Hash, b.Anchors.Header = read.Hash, [protocol.HeaderSize]byte(raw.Bytes())
	var indices []uint32
	for index, tx := range read.Txs() {
		if index > 0 {
			b.Anchors.Txs = append(b.Anchors.Txs, anchors.Tx{Index: index, Raw: tx})
			indices = append(indices, index)
		}
	}
	b.Anchors.Merkle = read.PartialMerkleTree(indices...)
}

// anchorTxOf makes a transaction that spends outputs and carries an anchor, if
// there is one.
func anchorTxOf(t testing.TB, a *protocol.Anchor, serial int, spends ...wire.OutPoint) *wire.MsgTx {
	t.Helper()
	tx := wire.NewMsgTx(2)
	for _, out := range spends {
		tx.AddTxIn(wire.NewTxIn(&out, nil))
	}
	if len(spends) == 0 {
		out := wire.OutPoint{Hash: sha256.Sum256(fmt.Append(nil, "coin", serial)), Index: 1}
		tx.AddTxIn(wire.NewTxIn(&out, nil))
	}
	tx.AddTxOut(wire.NewTxOut(int64(serial), bytes.Repeat([]byte{0x51}, 25), wire.TokenData{}))
	if a != nil {
		script, err := a.Script()
		if err != nil {
			t.Fatal(err)
		}
		tx.AddTxOut(wire.NewTxOut(0, script, wire.TokenData{}))
	}
	return tx
}

func anchor(domain string, position uint64, head byte) *protocol.Anchor {
	return &protocol.Anchor{Domain: domain, Position: position, Head: [32]byte{head}, Root: [32]byte{head, 1}}
}

func batonOf(tx *wire.MsgTx) wire.OutPoint { return wire.OutPoint{Hash: tx.TxHash()} }

// anchorGraph connects blocks of anchor transactions.
type anchorGraph struct {
	t *testing.T
	g *Graph
}

func newAnchorGraph(t *testing.T) anchorGraph { return anchorGraph{t, openTest(t, t.TempDir())} }

func (c anchorGraph) connect(txs ...*wire.MsgTx) {
	c.t.Helper()
	var b Block
	if tip, ok := c.g.Tip(); ok {
		b.Height, b.PrevHash = tip.Height+1, tip.Hash
	}
	anchorBlock(c.t, &b, 0, txs...)
	if err := c.g.Connect(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c anchorGraph) view() *View {
	c.t.Helper()
	v, err := c.g.At(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(v.Close)
	return v
}

func (c anchorGraph) want(chain *wire.MsgTx, anchors uint32, last *wire.MsgTx, how protocol.Break, by *wire.MsgTx) {
	c.t.Helper()
	got, err := c.view().AnchorChain(chain.TxHash())
	if err != nil {
		c.t.Fatal(err)
	}
	var breaker chainhash.Hash
	if by != nil {
		breaker = by.TxHash()
	}
	if got.Anchors != anchors || got.Last.TxID != last.TxHash() || got.Break != how || got.BrokenBy != breaker || got.Genesis.TxID != chain.TxHash() {
		c.t.Errorf("chain is %+v, expected %d anchors, last %v, %v by %v", got, anchors, last.TxHash(), how, breaker)
	}
}

// TestAnchorRules tells one case of each rule.
func TestAnchorRules(t *testing.T) {
	const here, there = "example.org", "example.net"
	begin := func(c anchorGraph) *wire.MsgTx {
		genesis := anchorTxOf(c.t, anchor(here, 5, 1), 1)
		c.connect(genesis)
		c.want(genesis, 1, genesis, protocol.Unbroken, nil)
		return genesis
	}
	for name, c := range map[string]struct {
		next    *protocol.Anchor
		input   int // that spends the baton
		how     protocol.Break
		anchors uint32
		own     bool // the tx begins a chain of its own
	}{
		"goes on":       {next: anchor(here, 6, 2), anchors: 2},
		"same again":    {next: anchor(here, 5, 1), anchors: 2},
		"no record":     {how: protocol.NoRecord, anchors: 1},
		"other domain":  {next: anchor(there, 6, 2), how: protocol.OtherDomain, anchors: 1, own: true},
		"other input":   {next: anchor(here, 6, 2), input: 1, how: protocol.NotFirstInput, anchors: 1, own: true},
		"lower":         {next: anchor(here, 4, 2), how: protocol.LowerPosition, anchors: 2},
		"contradiction": {next: anchor(here, 5, 2), how: protocol.OtherHead, anchors: 2},
	} {
		t.Run(name, func(t *testing.T) {
			g := newAnchorGraph(t)
			genesis := begin(g)
			spends := []wire.OutPoint{batonOf(genesis)}
			if c.input == 1 {
				spends = []wire.OutPoint{{Hash: tx("coin"), Index: 0}, batonOf(genesis)}
			}
			next := anchorTxOf(t, c.next, 2, spends...)
			g.connect(next)
			last, by := genesis, (*wire.MsgTx)(nil)
			if c.anchors == 2 {
				last = next
			}
			if c.how != protocol.Unbroken {
				by = next
			}
			g.want(genesis, c.anchors, last, c.how, by)
			if c.own {
				g.want(next, 1, next, protocol.Unbroken, nil)
			} else if _, err := g.view().AnchorChain(next.TxHash()); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("the transaction began a chain: %v", err)
			}
			// Whatever spends output 0 of a chain that is broken begins anew.
			after := anchorTxOf(t, anchor(here, 9, 9), 3, batonOf(next))
			g.connect(after)
			if c.how != protocol.Unbroken && !c.own {
				g.want(after, 1, after, protocol.Unbroken, nil)
				g.want(genesis, c.anchors, last, c.how, by)
			}
			for back := range 2 {
				if err := g.g.Disconnect(); err != nil {
					t.Fatal(err)
				}
				g.g.checkMemory(t)
				g.g.wantSound(t)
				if back == 1 {
					g.want(genesis, 1, genesis, protocol.Unbroken, nil)
				}
			}
		})
	}
}

// TestAnchorsInOneBlock has a chain's anchors in one block, in an order that says
// nothing, as a block's order is that of the txids.
func TestAnchorsInOneBlock(t *testing.T) {
	c := newAnchorGraph(t)
	genesis := anchorTxOf(t, anchor("example.org", 0, 1), 1)
	txs := []*wire.MsgTx{genesis}
	for i := range 300 {
		txs = append(txs, anchorTxOf(t, anchor("example.org", uint64(i), 1), 2+i, batonOf(txs[len(txs)-1])))
	}
	last := txs[len(txs)-1]
	end := anchorTxOf(t, nil, 0, batonOf(last))
	shuffled := append(slices.Clone(txs), end)
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	c.connect(shuffled...)
	c.want(genesis, 301, last, protocol.NoRecord, end)
	anchors, err := c.view().Anchors(t.Context(), genesis.TxHash(), 0, 1000)
	if err != nil || len(anchors) != len(txs) {
		t.Fatalf("%d anchors, %v", len(anchors), err)
	}
	for i, a := range anchors {
		if a.TxID != txs[i].TxHash() || a.Number != uint32(i) || a.Chain != genesis.TxHash() {
			t.Errorf("anchor %d is %+v", i, a)
		}
	}
	c.g.wantSound(t)
}

// TestAnchorOrder has the effects of a block in the one order that its state hash
// knows: in order of Position, but before an anchor those whose output 0 it spends.
func TestAnchorOrder(t *testing.T) {
	c := newAnchorGraph(t)
	const here = "example.org"
	root := anchorTxOf(t, anchor(here, 1, 1), 1)
	left, right := anchorTxOf(t, anchor(here, 2, 1), 2, batonOf(root)), anchorTxOf(t, anchor(here, 3, 1), 3)
	last := anchorTxOf(t, anchor(here, 4, 1), 4, batonOf(right), batonOf(left))
	change := wire.OutPoint{Hash: root.TxHash(), Index: 1} // no baton
	other, plain := anchorTxOf(t, anchor(here, 5, 1), 5, change), anchorTxOf(t, nil, 6, batonOf(last))
	c.connect(plain, other, last, left, right, root)

	var got []chainhash.Hash
	events, err := c.g.Events(0, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Anchors {
		if e.Type == anchors.AnchorAdded {
			got = append(got, e.Tx)
		}
	}
	want := []chainhash.Hash{other.TxHash(), right.TxHash(), root.TxHash(), left.TxHash(), last.TxHash()}
	if !slices.Equal(got, want) {
		t.Errorf("anchors were added in the order %v, expected %v", got, want)
	}
	c.want(right, 2, last, protocol.NoRecord, plain)
	c.want(root, 2, left, protocol.NotFirstInput, last)
}

func TestConnectRefusesAnchors(t *testing.T) {
	fresh := func() Block {
		var b Block
		anchorBlock(t, &b, 0, anchorTxOf(t, anchor("example.org", 1, 1), 1), anchorTxOf(t, anchor("example.org", 1, 1), 2))
		return b
	}
	for name, change := range map[string]func(*Block){
		"header of another block": func(b *Block) { b.Anchors.Header[79]++ },
		"wrong node":              func(b *Block) { b.Anchors.Merkle[0].Hash[0]++ },
		"missing node":            func(b *Block) { b.Anchors.Merkle = b.Anchors.Merkle[1:] },
		"no tree":                 func(b *Block) { b.Anchors.Merkle = nil },
		"a node too many":         func(b *Block) { b.Anchors.Merkle = append(b.Anchors.Merkle, protocol.MerkleNode{Level: 7}) },
		"a transaction fewer":     func(b *Block) { b.Anchors.Txs = b.Anchors.Txs[1:] },
		"wrong index":             func(b *Block) { b.Anchors.Txs[0].Index = 3 },
		"another transaction":     func(b *Block) { b.Anchors.Txs[0].Raw = b.Anchors.Txs[1].Raw },
		"no transaction":          func(b *Block) { b.Anchors.Txs[0].Raw = []byte{1, 2, 3} },
		"twice":                   func(b *Block) { b.Anchors.Txs[1] = b.Anchors.Txs[0] },
	} {
		g := openTest(t, t.TempDir())
		b := fresh()
		change(&b)
		if err := g.Connect(b); !errors.Is(err, store.ErrBlock) {
			t.Errorf("%s: %v", name, err)
		}
		if _, ok := g.Tip(); ok {
			t.Errorf("%s: the block was connected", name)
		}
	}
	g := openTest(t, t.TempDir())
	first := fresh()
	second := Block{Height: 1, PrevHash: first.Hash}
	anchorBlock(t, &second, 0, anchorTxOf(t, anchor("example.org", 1, 1), 1))
	if err := g.Connect(first, second); !errors.Is(err, store.ErrBlock) {
		t.Errorf("a transaction in two blocks of one step: %v", err)
	}
	if err := g.Connect(first); err != nil {
		t.Fatal(err)
	}
	if err := g.Connect(second); !errors.Is(err, store.ErrBlock) {
		t.Errorf("a transaction in two blocks: %v", err)
	}
}

// randomAnchors makes anchor transactions that go on with, break and begin chains
// of few domains, and others that do nothing.
type randomAnchors struct {
	*rand.Rand
	serial int
	made   []*wire.MsgTx
	spent  map[wire.OutPoint]bool
}

func newRandomAnchors(seed uint64) *randomAnchors {
	return &randomAnchors{Rand: rand.New(rand.NewPCG(seed, 3)), spent: make(map[wire.OutPoint]bool)}
}

// next returns count transactions, in an order of their own.
func (r *randomAnchors) next(t testing.TB, count int) (txs []*wire.MsgTx) {
	t.Helper()
	for range count {
		r.serial++
		var spends []wire.OutPoint
		for range 1 + r.IntN(3) {
			if len(r.made) == 0 || r.IntN(5) == 0 {
				spends = append(spends, wire.OutPoint{Hash: sha256.Sum256(fmt.Append(nil, "coin", r.serial, len(spends))), Index: uint32(r.IntN(2))})
				continue
			}
			out := batonOf(r.made[max(0, len(r.made)-1-r.IntN(8))])
			out.Index = uint32(r.IntN(8) / 7)
			if !r.spent[out] {
				r.spent[out] = true
				spends = append(spends, out)
			}
		}
		var a *protocol.Anchor
		if r.IntN(6) > 0 {
			a = anchor([]string{"a.org", "a.org", "a.org.net"}[r.IntN(3)], uint64(r.serial/4), byte(r.serial/4+r.IntN(8)/7))
			if r.IntN(9) == 0 {
				a.Position -= min(a.Position, 3)
			}
		}
		tx := anchorTxOf(t, a, r.serial, spends...)
		r.made = append(r.made, tx)
		txs = append(txs, tx)
	}
	r.Shuffle(len(txs), func(i, j int) { txs[i], txs[j] = txs[j], txs[i] })
	return txs
}

// plainChain is a chain of anchors as the plain model has it.
type plainChain struct {
	anchors []*wire.MsgTx
	how     protocol.Break
	by      chainhash.Hash
}

// plainAnchors applies the rules to all transactions of a chain of blocks, as
// plainly as they are written.
func plainAnchors(blocks [][]*wire.MsgTx) map[chainhash.Hash]*plainChain {
	chains := make(map[chainhash.Hash]*plainChain)
	at := make(map[wire.OutPoint]*plainChain) // batons
	record := func(tx *wire.MsgTx) (protocol.Anchor, bool) {
		for _, out := range tx.TxOut {
			if a, ok := protocol.DecodeAnchor(out.PkScript); ok {
				return a, true
			}
		}
		return protocol.Anchor{}, false
	}
	for _, txs := range blocks {
		left := slices.Clone(txs)
		for len(left) > 0 {
			// The first that spends nothing of those that are left.
			i := slices.IndexFunc(left, func(tx *wire.MsgTx) bool {
				return !slices.ContainsFunc(tx.TxIn, func(in *wire.TxIn) bool {
					return slices.ContainsFunc(left, func(other *wire.MsgTx) bool { return other.TxHash() == in.PreviousOutPoint.Hash })
				})
			})
			tx := left[i]
			left = slices.Delete(left, i, i+1)
			a, ok := record(tx)
			mine := (*plainChain)(nil)
			for n, in := range tx.TxIn {
				c := at[in.PreviousOutPoint]
				if c == nil {
					continue
				}
				delete(at, in.PreviousOutPoint)
				last, _ := record(c.anchors[len(c.anchors)-1])
				switch {
				case !ok:
					c.how = protocol.NoRecord
				case a.Domain != last.Domain:
					c.how = protocol.OtherDomain
				case n != 0:
					c.how = protocol.NotFirstInput
				default:
					mine = c
					c.anchors = append(c.anchors, tx)
					if a.Position < last.Position {
						c.how = protocol.LowerPosition
					} else if a.Position == last.Position && (a.Head != last.Head || a.Root != last.Root) {
						c.how = protocol.OtherHead
					}
				}
				if c.how != protocol.Unbroken {
					c.by = tx.TxHash()
				}
			}
			if ok && mine == nil {
				mine = &plainChain{anchors: []*wire.MsgTx{tx}}
				chains[tx.TxHash()] = mine
			}
			if mine != nil && mine.how == protocol.Unbroken {
				at[batonOf(tx)] = mine
			}
		}
	}
	return chains
}

// TestAnchorsLikePlainModel holds random chains of blocks, some of which are taken
// back, against the plain model, as of every height.
func TestAnchorsLikePlainModel(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	runs := 6
	if exhaustive() {
		runs = 300
	}
	breaks := make(map[protocol.Break]int)
	for seed := range uint64(runs) {
		r := newRandomAnchors(seed)
		dir := t.TempDir()
		g := openTest(t, dir)
		var blocks []Block
		var txs [][]*wire.MsgTx
		for step := range 25 {
			switch r.IntN(6) {
			case 0:
				for range min(len(blocks), 1+r.IntN(3)) {
					if err := g.Disconnect(); err != nil {
						t.Fatal(err)
					}
					blocks, txs = blocks[:len(blocks)-1], txs[:len(txs)-1]
				}
				r.made, r.spent = nil, make(map[wire.OutPoint]bool)
				for _, block := range txs {
					for _, tx := range block {
						r.made = append(r.made, tx)
						for _, in := range tx.TxIn {
							r.spent[in.PreviousOutPoint] = true
						}
					}
				}
			case 1:
				if err := g.Close(); err != nil {
					t.Fatal(err)
				}
				g = openTest(t, dir)
			default:
				var fresh []Block
				for range 1 + r.IntN(2) {
					b := Block{Height: uint32(len(blocks))}
					if len(blocks) > 0 {
						b.PrevHash = blocks[len(blocks)-1].Hash
					}
					made := r.next(t, r.IntN(12))
					anchorBlock(t, &b, uint64(step), made...)
					fresh, blocks, txs = append(fresh, b), append(blocks, b), append(txs, made)
				}
				if err := g.Connect(fresh...); err != nil {
					t.Fatal(err)
				}
			}
			g.checkMemory(t)
		}
		for height := range blocks {
			for _, c := range g.wantAnchors(t, uint32(height), plainAnchors(txs[:height+1])) {
				breaks[c.Break]++
			}
		}
		g.wantSound(t)
		if len(blocks) > 0 {
			once := openTest(t, t.TempDir())
			if err := once.Connect(blocks...); err != nil {
				t.Fatal(err)
			}
			if a, _ := once.Tip(); a.StateHash != func() [32]byte { b, _ := g.Tip(); return b.StateHash }() || once.digest(t) != g.digest(t) {
				t.Error("another state than that of the same chain without forks")
			}
		}
	}
	for how := protocol.Unbroken; how <= protocol.OtherHead; how++ {
		if breaks[how] == 0 {
			t.Errorf("no chain came to %v", how)
		}
	}
}

// wantAnchors compares what the graph says as of a height with the model.
func (g *Graph) wantAnchors(t *testing.T, height uint32, chains map[chainhash.Hash]*plainChain) (got []anchors.Chain) {
	t.Helper()
	v, err := g.At(&height)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	total := 0
	for id, want := range chains {
		c, err := v.AnchorChain(id)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, c)
		if int(c.Anchors) != len(want.anchors) || c.Last.TxID != want.anchors[len(want.anchors)-1].TxHash() || c.Break != want.how || c.BrokenBy != want.by {
			t.Errorf("as of %d: %+v, expected %d anchors, %v by %v", height, c, len(want.anchors), want.how, want.by)
		}
		var listed []anchors.Status
		for {
			page, err := v.Anchors(t.Context(), id, uint32(len(listed)), 3)
			if err != nil {
				t.Fatal(err)
			}
			if listed = append(listed, page...); len(page) < 3 {
				break
			}
		}
		if len(listed) != len(want.anchors) {
			t.Errorf("as of %d: %d anchors of %v are listed, expected %d", height, len(listed), id, len(want.anchors))
		}
		for i, a := range listed {
			if a.TxID != want.anchors[i].TxHash() || int(a.Number) != i || a.Height > height {
				t.Errorf("as of %d: anchor %d is %+v", height, i, a)
			}
			proof, err := v.AnchorProof(a.TxID)
			if err != nil {
				t.Fatal(err)
			}
			header, _ := protocol.ParseHeader(proof.Header[:])
			if stored, _ := g.BlockHeader(proof.Height); header.Hash != stored.Hash || proof.Raw.TxID() != a.TxID {
				t.Errorf("anchor %v is proven by block %v and transaction %v", a.TxID, header.Hash, proof.Raw.TxID())
			}
			if err := protocol.CheckMerkleBranch(proof.Raw, proof.Index, proof.Branch, header.MerkleRoot); err != nil {
				t.Error(err)
			}
		}
		total += len(listed)
	}
	chainsListed, anchorsListed := 0, 0
	for _, domain := range []string{"a.org", "a.org.net"} {
		var after *store.Position
		for {
			page, next, err := v.AnchorChainsOf(t.Context(), domain, after, 2)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range page {
				if chains[c.ID] == nil || c.Domain != domain {
					t.Errorf("as of %d: a chain of %s is %+v", height, domain, c)
				}
			}
			chainsListed += len(page)
			if after = next; next == nil {
				break
			}
		}
		for {
			page, next, err := v.AnchorsOf(t.Context(), domain, after, 5)
			if err != nil {
				t.Fatal(err)
			}
			anchorsListed += len(page)
			if after = next; next == nil {
				break
			}
		}
	}
	if chainsListed != len(chains) || anchorsListed != total {
		t.Errorf("as of %d: %d chains and %d anchors by domain, expected %d and %d", height, chainsListed, anchorsListed, len(chains), total)
	}
	return got
}

// TestAnchorsHaveIdentities compares the identity that an anchor was stored with, with that of its
// author as of its block, also when later blocks have changed it.
func TestAnchorsHaveIdentities(t *testing.T) {
	g := openTest(t, t.TempDir())
	connectRandom(t, g, newRandomBlocks(17), 40, 21)
	tip, _ := g.Tip()
	last, err := g.At(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	linked, alone, changed := 0, 0, 0
	for height := range tip.Height + 1 {
		events, err := g.Events(height, 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		then, err := g.At(&height)
		if err != nil {
			t.Fatal(err)
		}
		defer then.Close()
		for _, e := range events.Anchors {
			if e.Author == nil {
				continue
			}
			a, err := last.Anchor(e.Tx)
			if err != nil {
				t.Fatal(err)
			}
			was, err := then.Resolve(t.Context(), *e.Author)
			if err != nil {
				t.Fatal(err)
			}
			is, err := last.Resolve(t.Context(), *e.Author)
			if err != nil {
				t.Fatal(err)
			}
			var want anchors.Identity
			if was.ID != (chainhash.Hash{}) {
				want = anchors.Identity{ID: was.ID, Root: was.Root}
				linked++
			} else {
				alone++
			}
			if is.ID != was.ID {
				changed++
			}
			if a.Identity != want {
				t.Errorf("anchor %v of %d: identity %+v, want %+v", e.Tx, height, a.Identity, want)
			}
		}
	}
	if linked == 0 || alone == 0 || changed == 0 {
		t.Errorf("the chain is too dull: %d authors in identities, %d in none, %d in others since", linked, alone, changed)
	}
}
