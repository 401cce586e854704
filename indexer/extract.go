package indexer

import (
	"fmt"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/claims"
	"github.com/keytree-bch/keytree/protocol"
)

// Verify says of which blocks all transactions are hashed, to compare them with
// the merkle root in the header.
type Verify uint8

const (
	// VerifyFull means all blocks, so that nothing can be added to one or left out.
	// It costs a double SHA-256 of every transaction.
	VerifyFull Verify = iota
	// VerifyActions means the blocks from which an action is taken, or a transaction
	// for a chain of anchors. Whoever made the others can have left out what should
	// be in them, a revoke say, so it is for the files of one's own node alone.
	VerifyActions
)

// extracted is what is kept of a block after the walk over its transactions.
// Nothing in it aliases the block.
type extracted struct {
	Header protocol.Header
	Claims []claims.Claim // in the order of the block
	Coins  []coin         // in the order of the block, maxCoins at most
	// Serialized is the header, and Merkle what leads to the merkle root in it from the
	// transactions for chains of anchors; only if there are some.
	Serialized [protocol.HeaderSize]byte
	Merkle     protocol.PartialMerkleTree

	batons int // how many batons had been found when the walk began
}

// extract walks over the serialized block of net at height and takes out what
// matters; the batons that it makes are added to the others. It checks what can be
// checked of a block alone: its form, that it begins with a coinbase, the work that its
// header claims, and, as verify says, its merkle root. The error wraps that of protocol, and means that
// whoever sent the block lies or is broken; whether the header links to the block
// before is for the caller to check.
//
// What recent wants to remember is taken along; nil wants nothing.
func extract(height int64, raw []byte, net *chaincfg.Params, verify Verify, batons *batons, recent *recent) (*extracted, error) {
	walk := protocol.Walk{Root: protocol.RootAlways}
	var actors *protocol.KeyFilter
	if recent != nil {
		actors = &recent.actors
		walk.Payees = actors
		if p := recent.payments.Load(); p != nil {
			walk.Hashed = p.hashed
		}
	}
	if verify == VerifyActions {
		walk.Root = protocol.RootIfFound
	}
	x := new(extracted)
	walk.Batons, x.batons = batons.now()
	block, err := walk.Read(raw)
	if err != nil {
		return nil, err
	}
	x.Header = block.Header
	if !block.HasCoinbase() {
		return nil, fmt.Errorf("%w: block %v: expected a coinbase first, got what may be hashes of the merkle tree", protocol.ErrMerkleRoot, x.Header.Hash)
	}
	if err := x.Header.CheckWork(net.PowLimit); err != nil {
		return nil, err
	}
	x.take(block, actors)
	if anchors := x.anchors(); len(anchors) > 0 {
		// A transaction that spends the baton of another in its block may stand before
		// it.
		batons.add(height, anchors)
		walk.Root, walk.Hashed = protocol.RootNever, nil // it has been checked
		walk.Batons, x.batons = batons.now()
		if block, err = walk.Read(raw); err != nil {
			return nil, err
		}
		x.take(block, actors)
	}
	x.prove(block, raw)
	return x, nil
}

// take takes what matters out of the block.
func (x *extracted) take(block *protocol.Block, actors *protocol.KeyFilter) {
	x.Claims, x.Coins = nil, nil
	for carrier := range block.Carriers() {
		c, ok := claims.Of(&carrier)
		x.takeCoins(&carrier, c.By, actors)
		if ok {
			x.Claims = append(x.Claims, c)
		}
	}
}

// prove adds what leads from the transactions for chains of anchors to the merkle root,
// in one pass over the block.
func (x *extracted) prove(block *protocol.Block, raw []byte) {
	var indices []uint32
	for i := range x.Claims {
		if x.Claims[i].Anchor != nil {
			indices = append(indices, x.Claims[i].Index)
		}
	}
	if len(indices) == 0 {
		return
	}
	x.Serialized = [protocol.HeaderSize]byte(raw)
	x.Merkle = block.PartialMerkleTree(indices...)
}

// anchors returns the txids of the transactions that carry an anchor: their outputs
// 0 are batons.
func (x *extracted) anchors() (txids []chainhash.Hash) {
	for i := range x.Claims {
		if c := &x.Claims[i]; c.Anchor != nil && c.Anchor.Carries {
			txids = append(txids, c.TxID)
		}
	}
	return txids
}

// addTo adds what was found to the block, when all authors are settled.
func (x *extracted) addTo(b *graph.Block) {
	b.Anchors.Header, b.Anchors.Merkle = x.Serialized, x.Merkle
	for i := range x.Claims {
		c := &x.Claims[i]
		if action, ok := c.Link(); ok {
			b.Actions = append(b.Actions, action)
		}
		if tx, ok := c.AnchorTx(); ok {
			b.Anchors.Txs = append(b.Anchors.Txs, tx)
		}
	}
}

// What a block takes in memory at most, in bytes, besides its claims and the outputs that
// they make.
const (
	blockMemory = 1 << 10
	coinMemory  = 256 // with a token's prefix
	nodeMemory  = 40  // of a merkle tree
)

// memory is about how many bytes the block takes until the graph has it.
func (x *extracted) memory() int64 {
	n := blockMemory + coinMemory*len(x.Coins) + nodeMemory*len(x.Merkle)
	for i := range x.Claims {
		n += x.Claims[i].Memory()
	}
	return int64(n)
}
