package indexer_test

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
)

// play is a made-up chain of which it is known who acts in it: whoever wrote it
// knows, and nobody has to look at a script. Nothing in it changes.
type play struct {
	start   uint32           // from which height on it may be indexed
	blocks  []*wire.MsgBlock // by height, from the genesis block on
	acts    []*act           // by height; in no order within a block
	byTxID  map[chainhash.Hash]*act
	outputs map[wire.OutPoint]protocol.Output // of all transactions
}

// person is a key with the public key to which its coins are locked.
type person struct {
	private *bchec.PrivateKey
	public  []byte
}

func (p *person) hash() protocol.KeyHash { return protocol.KeyHash(bchutil.Hash160(p.public)) }

// unlocking is how input 0 of an act comes by its coin, which is all that decides who
// acts.
type unlocking int

const (
	// Of a coin that is P2PKH of the actor's key, who signs by a hash type that covers
	// all: the actor is the author.
	signs       unlocking = iota + 1 // with FORKID
	signsOld                         // without FORKID
	signsWrong                       // with FORKID, and something else: such a block is not valid
	signsLoose                       // by a hash type that leaves something open: nobody is the author
	unlocksElse                      // the scriptSig has another form: nobody is the author
	// The coin is one that anybody can spend, and the scriptSig says that the actor
	// does: nobody is the author.
	makesUp // with a made-up signature
	steals  // with a signature that the actor has made for another transaction
)

// String implements fmt.Stringer.
func (u unlocking) String() string {
	return [...]string{"drawn", "signing", "signing without FORKID", "signing wrong", "signing loosely", "other means", "a made-up signature", "a stolen signature"}[u]
}

// honest are the ways that there are in valid blocks.
func honest() []unlocking {
	return []unlocking{signs, signs, signs, signsOld, signsLoose, unlocksElse, makesUp, steals}
}

// hashTypes are those that there may be.
func (u unlocking) hashTypes() []txscript.SigHashType {
	switch u {
	case signsOld:
		return []txscript.SigHashType{0x01, 0x21}
	case signsLoose:
		return []txscript.SigHashType{0xc1, 0xe1, 0x42, 0x43, 0x62, 0x63, 0xc2, 0xc3, 0x81}
	case makesUp:
		return []txscript.SigHashType{0x41, 0x61, 0x01, 0x21}
	}
	return []txscript.SigHashType{0x41, 0x61}
}

// signed reports whether the coin is the actor's.
func (u unlocking) signed() bool { return u <= signsLoose }

// act is a transaction with an action or an anchor.
type act struct {
	tx       *wire.MsgTx
	height   uint32
	action   protocol.Action   // Kind is 0 if it is an anchor
	spends   []protocol.Output // by input
	actor    *person           // who signs, or whose name is taken
	unlocks  unlocking
	hashType txscript.SigHashType
}

// String names the act for people.
func (a *act) String() string {
	return fmt.Sprintf("transaction %v at height %d, which unlocks its coin by %v with type %#x", a.tx.TxHash(), a.height, a.unlocks, a.hashType)
}

// author is who acted, nil if that is nobody.
func (a *act) author() *protocol.KeyHash {
	switch a.unlocks {
	case signs, signsOld, signsWrong:
		key := a.actor.hash()
		return &key
	}
	return nil
}

// claims reports whether its scriptSig is of an author's form, so that it takes the
// coin to know who acted.
func (a *act) claims() bool { return a.unlocks != signsLoose && a.unlocks != unlocksElse }

// isAuthored reports whether there is an author.
func (a *act) isAuthored() bool { return a.author() != nil }

// isFalse reports whether the scriptSig claims an author who there is not.
func (a *act) isFalse() bool { return a.unlocks == makesUp || a.unlocks == steals }

// covered are the outputs that a node is asked for: those that the signature covers.
func (a *act) covered() []protocol.Output {
	if a.hashType&txscript.SigHashUTXO == 0 {
		return a.spends[:1]
	}
	return a.spends
}

// holds reports whether an output is P2PKH of the actor's key.
func (a *act) holds(output protocol.Output) bool {
	return bytes.Equal(protocol.StripTokenPrefix(output.Script), protocol.P2PKHScript(a.actor.hash()))
}

// last is the height of the last block.
func (p *play) last() uint32 { return uint32(len(p.blocks) - 1) }

// in returns the acts of the block at a height.
func (p *play) in(height uint32) (acts []*act) {
	for _, a := range p.acts {
		if a.height == height {
			acts = append(acts, a)
		}
	}
	return acts
}

// node serves the play, with an index of its transactions.
func (p *play) node() *fakeNode {
	f := newFakeNode()
	for height, b := range p.blocks[1:] {
		f.add(uint32(height)+1, b.BlockHash(), serialized(b))
	}
	f.spent = maps.Clone(p.outputs)
	return f
}

// wordNode serves the play, without an index of its transactions.
func (p *play) wordNode() *wordNode {
	n := &wordNode{fakeNode: p.node(), txs: make(map[chainhash.Hash]protocol.Tx), proved: make(map[chainhash.Hash]int)}
	for _, b := range p.blocks {
		for _, tx := range b.Transactions {
			n.txs[tx.TxHash()] = serializedTx(tx)
		}
	}
	return n
}

// raw returns the serialized blocks.
func (p *play) raw() (blocks [][]byte) {
	for _, b := range p.blocks {
		blocks = append(blocks, serialized(b))
	}
	return blocks
}

// block is what the graph has to be given of a block: what the play says that there
// is, but for acts without an author as somebody would have it.
func (p *play) block(t rapid.TB, height uint32, erased ...*act) graph.Block {
	block := p.blocks[height]
	raw := serialized(block)
	read := need(protocol.ReadBlock(raw))(t)
	b := graph.Block{
		Height: height, Hash: block.BlockHash(), PrevHash: block.Header.PrevBlock,
		Time: uint32(block.Header.Timestamp.Unix()), Bits: block.Header.Bits,
	}
	b.Anchors.Header = [protocol.HeaderSize]byte(raw)
	var indices []uint32
	for i, tx := range block.Transactions {
		a := p.byTxID[tx.TxHash()]
		if a == nil {
			continue
		}
		index, author := uint32(i), a.author()
		if slices.Contains(erased, a) {
			author = nil
		}
		if a.action.Kind != 0 {
			b.Actions = append(b.Actions, links.Action{Action: a.action, Index: index, TxID: tx.TxHash(), Author: author})
		}
		// All that carry an anchor or spend a baton are among the acts; the graph sees
		// which ones these are.
		b.Anchors.Txs = append(b.Anchors.Txs, anchors.Tx{Index: index, Author: author, Raw: serializedTx(tx)})
		indices = append(indices, index)
	}
	b.Anchors.Merkle = read.PartialMerkleTree(indices...)
	return b
}

// model is a graph that was given the blocks up to a height, and its tips on the way.
func (p *play) model(t rapid.TB, g *graph.Graph, last uint32) (tips map[uint32]graph.Tip) {
	tips = make(map[uint32]graph.Tip)
	for height := g.Params().StartHeight; height <= last; height++ {
		if err := g.Connect(p.block(t, height)); err != nil {
			t.Fatal(err)
		}
		tips[height], _ = g.Tip()
	}
	return tips
}

func serializedTx(tx *wire.MsgTx) protocol.Tx {
	var raw bytes.Buffer
	if err := tx.Serialize(&raw); err != nil {
		panic(err) // a buffer takes everything
	}
	return raw.Bytes()
}

// need is must for both kinds of tests.
func need[T any](value T, err error) func(rapid.TB) T {
	return func(t rapid.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// openIn opens an empty graph in a folder of its own below dir, and closes it when
// the check ends.
func openIn(t *rapid.T, dir string, start uint32) *graph.Graph {
	params := testParams
	params.StartHeight = start
	g := need(graph.Open(need(os.MkdirTemp(dir, ""))(t), params, testOptions()))(t)
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}
