package rpctest

import (
	"crypto/sha256"
	"fmt"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
)

// Net is the network of every graph in these tests.
var Net = &chaincfg.RegressionNetParams

// Chain makes blocks that follow each other, without a node: what the indexer
// would hand to the graph.
type Chain struct {
	Next uint32
	Prev chainhash.Hash
	Salt string // told apart, so are the hashes
}

// Block makes the next block.
func (c *Chain) Block(actions ...links.Action) graph.Block {
	b := graph.Block{Height: c.Next, Hash: HashOf(fmt.Sprint(c.Salt, c.Next)), PrevHash: c.Prev, Actions: actions}
	for i := range b.Actions {
		b.Actions[i].Index = uint32(i + 1)
	}
	c.Next, c.Prev = c.Next+1, b.Hash
	return b
}

// HashOf returns the test hash of a name, as that of a transaction.
func HashOf(name string) chainhash.Hash { return sha256.Sum256([]byte(name)) }

// Key returns the test key of a name.
func Key(name string) (k protocol.KeyHash) {
	h := HashOf(name)
	copy(k[:], h[:])
	return k
}

// Address returns the address of the test key of a name.
func Address(name string) string { return protocol.FormatAddress(Key(name), Net) }

// MLR is a request of a child for a link, in the transaction tx.
func MLR(tx, child, parent, message string) links.Action {
	author := Key(child)
	return links.Action{TxID: HashOf(tx), Author: &author,
		Action: protocol.Action{Kind: protocol.MLR, Parent: Key(parent), Message: []byte(message)}}
}

// MLA is a parent's accept of the request in a transaction, in the transaction tx.
func MLA(tx, parent, request string) links.Action {
	author := Key(parent)
	return links.Action{TxID: HashOf(tx), Author: &author,
		Action: protocol.Action{Kind: protocol.MLA, Ref: protocol.RefersTo(HashOf(request))}}
}

// MCR is a parent's revocation of the accept in a transaction, in the transaction tx.
func MCR(tx, parent, accept string) links.Action {
	author := Key(parent)
	return links.Action{TxID: HashOf(tx), Author: &author,
		Action: protocol.Action{Kind: protocol.MCR, Ref: protocol.RefersTo(HashOf(accept))}}
}

// Family is a short chain with something of everything:
//
//	0  nothing
//	1  child asks parent (mlr1, with a message that is not UTF-8)
//	2  parent accepts (mla1): identity mlr1
//	3  grandchild asks child (mlr2), child accepts (mla2)
//	4  a request without an author (bad), an accept of something unknown (early)
//	5  parent revokes child (mcr1): identity mcr1 is child and grandchild
//	6  child asks parent again (mlr3), parent accepts (mla3): mcr1 merges into mlr1
func Family() (*Chain, []graph.Block) {
	c := &Chain{}
	bad := MLR("bad", "stranger", "parent", "")
	bad.Author = nil
	return c, []graph.Block{
		c.Block(),
		c.Block(MLR("mlr1", "child", "parent", "hi \xff!")),
		c.Block(MLA("mla1", "parent", "mlr1")),
		c.Block(MLR("mlr2", "grandchild", "child", ""), MLA("mla2", "child", "mlr2")),
		c.Block(bad, MLA("early", "parent", "nowhere")),
		c.Block(MCR("mcr1", "parent", "mla1")),
		c.Block(MLR("mlr3", "child", "parent", ""), MLA("mla3", "parent", "mlr3")),
	}
}

// RequestsOf returns a block of so many link requests.
func RequestsOf(c *Chain, n int) graph.Block {
	var requests []links.Action
	for i := range n {
		requests = append(requests, MLR(fmt.Sprint("r", c.Next, ".", i), fmt.Sprint("c", i), "parent", ""))
	}
	return c.Block(requests...)
}
