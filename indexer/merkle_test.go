package indexer_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/blockchain"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// TestHashesForTransactions has a node send, in place of a coinbase and an action, one
// transaction without inputs whose 64 bytes are the txids of the two. It hashes to the
// block's merkle root. A miner who helps the node has varied the coinbase until the
// bytes had the form of a transaction.
func TestHashesForTransactions(t *testing.T) {
	f := newFakeNode()
	b := fakeBlock(f.chain[0], 1, f.action(t, "child", "parent", 1))
	b.Transactions[0].TxOut[0].Value = 13_612_465
	tree := blockchain.BuildMerkleTreeStore(bchutil.NewBlock(b).Transactions())
	b.Header.MerkleRoot = *tree[len(tree)-1]
	regtest.Solve(&b.Header)
	first, second := b.Transactions[0].TxHash(), b.Transactions[1].TxHash()
	hashes := slices.Concat(first[:], second[:])
	if tx, err := protocol.ParseTx(hashes); err != nil || tx.TxID() != b.Header.MerkleRoot {
		t.Fatalf("the hashes do not pass for a transaction: %v", err)
	}
	raw := serialized(b)
	f.add(1, b.BlockHash(), raw)
	g := newGraph(t)
	honest := must(catchUp(t.Context(), f, g, indexer.Options{}))(t)
	if err := g.Disconnect(); err != nil {
		t.Fatal(err)
	}

	f.add(1, b.BlockHash(), slices.Concat(raw[:protocol.HeaderSize], []byte{1}, hashes))
	_, err := catchUp(t.Context(), f, g, indexer.Options{NodeName: nodeName, Poll: time.Millisecond})
	if !errors.Is(err, node.ErrInvalid) || !errors.Is(err, protocol.ErrMerkleRoot) || !strings.Contains(err.Error(), honest.Hash.String()) {
		t.Errorf("got %v, expected that block %v is refused", err, honest.Hash)
	}
}
