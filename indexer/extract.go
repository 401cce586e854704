package indexer

import (
	"bytes"
	"fmt"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
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
	Claims []claim // in the order of the block
	Coins  []coin  // in the order of the block, maxCoins at most
	// Serialized is the header, and Merkle what leads to the merkle root in it from the
	// transactions for chains of anchors; only if there are some.
	Serialized [protocol.HeaderSize]byte
	Merkle     protocol.PartialMerkleTree

	batons int // how many batons had been found when the walk began
}

// claim is a transaction with an action or an anchor, or one that spends a baton,
// and what it takes to establish its author (protocol/SPEC.md §2).
type claim struct {
	Index  uint32 // in the block
	TxID   chainhash.Hash
	Action protocol.Action   // Kind is 0 if there is none
	Author *protocol.KeyHash // nil until settle
	// By is who the scriptSig names, nil if nobody can have acted, or nothing has been
	// done that takes an author, and the spent output need not be looked at.
	By *protocol.Claim

	anchor *anchorHalf // nil if it neither carries an anchor nor spends a baton
}

// anchorHalf is what is kept of a transaction for the chains of anchors.
type anchorHalf struct {
	carries bool // an anchor
	raw     protocol.Tx
}

// settle sets the author, given the script field of the output that input 0
// spends, which is believed.
func (c *claim) settle(spentScript []byte) {
	if c.By.HeldBy(spentScript) {
		c.Author = &c.By.Key
	}
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
		if carrier.Anchor == nil && !carrier.SpendsBaton && carrier.Action.Kind == 0 {
			x.takeCoins(&carrier, nil, actors)
			continue
		}
		c := claim{Index: carrier.Index, TxID: carrier.TxID, Action: carrier.Action}
		if carrier.Anchor != nil || carrier.SpendsBaton {
			c.anchor = &anchorHalf{carries: carrier.Anchor != nil, raw: bytes.Clone(carrier.Raw)}
		}
		if carrier.Anchor != nil || carrier.Action.Kind != 0 {
			if by, ok := carrier.Raw.Claim(); ok {
				c.By = by
				x.takeCoins(&carrier, by, actors)
			}
		}
		x.Claims = append(x.Claims, c)
	}
}

// prove adds what leads from the transactions for chains of anchors to the merkle root,
// in one pass over the block.
func (x *extracted) prove(block *protocol.Block, raw []byte) {
	var indices []uint32
	for i := range x.Claims {
		if x.Claims[i].anchor != nil {
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
		if c := &x.Claims[i]; c.anchor != nil && c.anchor.carries {
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
		if c.Action.Kind != 0 {
			b.Actions = append(b.Actions, links.Action{Action: c.Action, Index: c.Index, TxID: c.TxID, Author: c.Author})
		}
		if c.anchor != nil {
			b.Anchors.Txs = append(b.Anchors.Txs, anchors.Tx{Index: c.Index, Author: c.Author, Raw: c.anchor.raw})
		}
	}
}

// What a block and a claim take in memory at most, in bytes, besides their
// messages, transactions, and the outputs that they spend and make.
const (
	blockMemory  = 1 << 10
	claimMemory  = 512 // with the action or the anchor that the graph is given
	actorMemory  = 512 // of claim.By
	coinMemory   = 256 // with a token's prefix
	outPointSize = 36
	nodeMemory   = 40 // of a merkle tree
)

// memory is about how many bytes the block takes until the graph has it.
func (x *extracted) memory() int64 {
	n := blockMemory + claimMemory*len(x.Claims) + coinMemory*len(x.Coins) + nodeMemory*len(x.Merkle)
	for i := range x.Claims {
		c := &x.Claims[i]
		n += len(c.Action.Message)
		if c.By != nil {
			n += actorMemory + outPointSize*len(c.By.Inputs)
		}
		if c.anchor != nil {
			n += len(c.anchor.raw)
		}
	}
	return int64(n)
}
