package graph_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
)

// Example connects two blocks and resolves a key as of each. A child asks for a link in the
// first block, and a parent accepts in the second. A server has its blocks from package indexer.
func Example() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	g, err := graph.Open(dir, graph.Params{Network: "regtest"}, graph.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer g.Close()

	parent, child := protocol.KeyHash{1}, protocol.KeyHash{2}
	request := links.Action{TxID: chainhash.Hash{0xaa}, Index: 1, Author: &child,
		Action: protocol.Action{Kind: protocol.MLR, Parent: parent}}
	accept := links.Action{TxID: chainhash.Hash{0xbb}, Index: 1, Author: &parent,
		Action: protocol.Action{Kind: protocol.MLA, Ref: protocol.RefersTo(request.TxID)}}
	first := graph.Block{Height: 0, Hash: chainhash.Hash{10}, Actions: []links.Action{request}}
	second := graph.Block{Height: 1, Hash: chainhash.Hash{11}, PrevHash: first.Hash, Actions: []links.Action{accept}}
	if err := g.Connect(first, second); err != nil {
		log.Fatal(err)
	}

	for height := range uint32(2) {
		view, err := g.At(&height) // nil for the tip
		if err != nil {
			log.Fatal(err)
		}
		who, err := view.Resolve(context.Background(), child)
		view.Close()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("as of block %d: below the parent: %v, named by the request: %v\n",
			height, who.Root == parent, who.ID == request.TxID)
	}
	// Output:
	// as of block 0: below the parent: false, named by the request: false
	// as of block 1: below the parent: true, named by the request: true
}
