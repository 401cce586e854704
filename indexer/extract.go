package indexer

import (
	"bytes"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/protocol"
)

// Verify says of which blocks all transactions are hashed, to compare them with
// the merkle root in the header.
type Verify uint8

const (
	// VerifyActions is enough to trust what the graph is told: the blocks from
	// which an action is taken.
	VerifyActions Verify = iota
	// VerifyFull means all blocks, so that none can hide an action either. It
	// costs a double SHA-256 of every transaction.
	VerifyFull
)

// extracted is what is kept of a block after the walk over its transactions.
// Nothing in it aliases the block.
type extracted struct {
	Header  protocol.Header
	Actions []claim // in the order of the block
}

// claim is an action, and what it takes to establish its author (identity-rules
// §2).
type claim struct {
	graph.Action // its Author is nil until settle
	// Claimed is who the scriptSig names, nil if nobody can have acted and the
	// spent output need not be looked at. It proves nothing.
	Claimed *protocol.KeyHash
	Spends  wire.OutPoint // by input 0

	unlock []byte // scriptSig of input 0; nil if Claimed is
}

// settle sets the author, given the script field of the output that input 0
// spends, from a source that was checked against Spends.
func (c *claim) settle(spentScript []byte) {
	if author, ok := protocol.Author(c.unlock, spentScript); ok {
		c.Author = &author
	}
}

// extract walks over a serialized block of net and takes out its actions. It
// checks what can be checked of a block alone: its form, the work that its header
// claims, and, as verify says, its merkle root. The error wraps that of protocol,
// and means that whoever sent the block lies or is broken; whether the header
// links to the block before is for the caller to check.
func extract(raw []byte, net *chaincfg.Params, verify Verify) (*extracted, error) {
	block, err := protocol.ReadBlock(raw)
	if err != nil {
		return nil, err
	}
	if err := block.Header.CheckWork(net.PowLimit); err != nil {
		return nil, err
	}
	x := &extracted{Header: block.Header}
	for carrier := range block.Carriers() {
		c := claim{Action: graph.Action{Action: carrier.Action, Index: carrier.Index, TxID: carrier.TxID}, Spends: carrier.Spends}
		if claimed, ok := carrier.ClaimedAuthor(); ok {
			c.Claimed, c.unlock = &claimed, bytes.Clone(carrier.Unlock)
		}
		x.Actions = append(x.Actions, c)
	}
	if verify == VerifyFull || len(x.Actions) > 0 {
		if err := block.CheckMerkleRoot(); err != nil {
			return nil, err
		}
	}
	return x, nil
}

// What a block and an action take in memory at most, in bytes, besides their
// messages and scriptSigs.
const (
	blockMemory  = 1 << 10
	actionMemory = 1 << 10
)

// memory is about how many bytes the block takes until the graph has it.
func (x *extracted) memory() int64 {
	n := blockMemory + actionMemory*len(x.Actions)
	for i := range x.Actions {
		n += len(x.Actions[i].Message) + len(x.Actions[i].unlock)
	}
	return int64(n)
}
