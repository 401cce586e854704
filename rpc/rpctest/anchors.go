package rpctest

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
)

// AnchorTx is a transaction for a block: whose it is, and what is in it.
type AnchorTx struct {
	*wire.MsgTx
	Author string // "" for none
}

// AnchorOf makes a transaction that spends output 0 of others and carries a record,
// if there is one.
func AnchorOf(t testing.TB, author string, record *protocol.Anchor, spends ...AnchorTx) AnchorTx {
	t.Helper()
	tx := wire.NewMsgTx(2)
	for _, before := range spends {
		hash := before.TxHash()
		tx.AddTxIn(wire.NewTxIn(wire.NewOutPoint(&hash, 0), nil))
	}
	if len(spends) == 0 {
		coin := HashOf(fmt.Sprint("coin of ", author, record))
		tx.AddTxIn(wire.NewTxIn(wire.NewOutPoint(&coin, 1), nil))
	}
	tx.AddTxOut(wire.NewTxOut(1000, bytes.Repeat([]byte{0x51}, 25), wire.TokenData{}))
	if record != nil {
		script, err := record.Script()
		if err != nil {
			t.Fatal(err)
		}
		tx.AddTxOut(wire.NewTxOut(0, script, wire.TokenData{}))
	}
	return AnchorTx{tx, author}
}

// Record is the record of an anchor, whose position is all that it is about.
func Record(domain string, position uint64) *protocol.Anchor {
	return &protocol.Anchor{Domain: domain, Position: position, Head: HashOf(fmt.Sprint("head ", position)), Root: HashOf(fmt.Sprint("root ", position))}
}

// Anchored makes the next block, with actions and with the transactions behind its
// coinbase.
func (c *Chain) Anchored(t testing.TB, actions []links.Action, txs ...AnchorTx) graph.Block {
	t.Helper()
	coinbase := wire.NewMsgTx(1)
	coinbase.AddTxIn(wire.NewTxIn(wire.NewOutPoint(&chainhash.Hash{}, wire.MaxPrevOutIndex), fmt.Append(nil, c.Salt, c.Next)))
	coinbase.AddTxOut(wire.NewTxOut(0, bytes.Repeat([]byte{0x51}, 30), wire.TokenData{}))
	level := []chainhash.Hash{coinbase.TxHash()}
	block := wire.NewMsgBlock(&wire.BlockHeader{PrevBlock: c.Prev, Timestamp: time.Unix(int64(c.Next), 0)})
	block.Transactions = []*wire.MsgTx{coinbase}
	for _, tx := range txs {
		block.Transactions = append(block.Transactions, tx.MsgTx)
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
	mine(t, &block.Header)
	var raw bytes.Buffer
	if err := block.Serialize(&raw); err != nil {
		t.Fatal(err)
	}
	parsed, err := protocol.ReadBlock(raw.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	b := c.Block(actions...)
	b.Hash, b.Anchors.Header = parsed.Hash, [protocol.HeaderSize]byte(raw.Bytes())
	c.Prev = b.Hash
	var indices []uint32
	for index, tx := range parsed.Txs() {
		if index == 0 {
			continue
		}
		a := anchors.Tx{Index: index, Raw: tx}
		indices = append(indices, index)
		if author := txs[index-1].Author; author != "" {
			hash := Key(author)
			a.Author = &hash
		}
		b.Anchors.Txs = append(b.Anchors.Txs, a)
	}
	b.Anchors.Merkle = parsed.PartialMerkleTree(indices...)
	return b
}

// mine finds a nonce with which a header has the work that Net asks for.
func mine(t testing.TB, h *wire.BlockHeader) {
	t.Helper()
	for h.Bits = Net.PowLimitBits; ; h.Nonce++ {
		var raw bytes.Buffer
		if err := h.Serialize(&raw); err != nil {
			t.Fatal(err)
		}
		header, err := protocol.ParseHeader(raw.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if header.CheckWork(Net.PowLimit) == nil {
			return
		}
	}
}

// Long makes a chain of n anchors, in blocks of 50, with a chain of one anchor
// before each block's.
func Long(t testing.TB, c *Chain, n int) (blocks []graph.Block, genesis AnchorTx) {
	t.Helper()
	var last AnchorTx
	var txs []AnchorTx
	for i := range n {
		if i == 0 {
			last = AnchorOf(t, "child", Record("example.org", 0))
			genesis = last
		} else {
			last = AnchorOf(t, "child", Record("example.org", uint64(i)), last)
		}
		if i%50 == 0 {
			txs = append(txs, AnchorOf(t, "lone", Record("example.org", uint64(1_000_000+i))))
		}
		if txs = append(txs, last); i%50 == 49 || i == n-1 {
			blocks, txs = append(blocks, c.Anchored(t, nil, txs...)), nil
		}
	}
	return blocks, genesis
}

// ID is the txid of a transaction, in hex.
func ID(tx AnchorTx) string { return tx.TxHash().String() }
