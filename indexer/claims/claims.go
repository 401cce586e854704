// Package claims has what is kept of a transaction that matters to the graph, between the
// walk that finds it and the graph: in a block, or in a mempool. A claim is who such a
// transaction says to be by, until it is known what it spends.
//
// What never belongs here: where transactions and what they spend come from, and what an
// action means.
package claims

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
)

// Claim is a transaction with an action or an anchor, or one that spends a baton,
// and what it takes to establish its author (protocol/SPEC.md §2). Nothing of it aliases
// the bytes that it was read from. It belongs to one goroutine at a time.
type Claim struct {
	Index  uint32 // in the block; 0 in a mempool
	TxID   chainhash.Hash
	Action protocol.Action   // Kind is 0 if there is none
	Author *protocol.KeyHash // nil until Settle
	// By is who the scriptSig names, nil if nobody can have acted, or nothing has been
	// done that takes an author, and the spent output need not be looked at.
	By     *protocol.Claim
	Anchor *AnchorHalf // nil if it neither carries an anchor nor spends a baton
}

// AnchorHalf is what is kept of a transaction for the chains of anchors.
type AnchorHalf struct {
	Carries bool // an anchor
	Raw     protocol.Tx
}

// Of returns what is kept of a carrier. ok is false if there is nothing to be kept: it only
// pays somebody.
func Of(carrier *protocol.Carrier) (c Claim, ok bool) {
	if carrier.Anchor == nil && !carrier.SpendsBaton && carrier.Action.Kind == 0 {
		return Claim{}, false
	}
	c = Claim{Index: carrier.Index, TxID: carrier.TxID, Action: carrier.Action}
	if carrier.Anchor != nil || carrier.SpendsBaton {
		c.Anchor = &AnchorHalf{Carries: carrier.Anchor != nil, Raw: bytes.Clone(carrier.Raw)}
	}
	if carrier.Anchor != nil || carrier.Action.Kind != 0 {
		if by, ok := carrier.Raw.Claim(); ok {
			c.By = by
		}
	}
	return c, true
}

// Settle sets the author, given the script field of the output that input 0
// spends, which is believed. By must not be nil.
func (c *Claim) Settle(spentScript []byte) {
	if c.By.HeldBy(spentScript) {
		c.Author = &c.By.Key
	}
}

// ErrOpen says that the signature does not tell whether these outputs are spent: by them the
// key has not acted, or its signature has no FORKID. Only full previous transactions tell.
var ErrOpen = errors.New("the signature leaves open what is spent")

// Check returns nil if the signature bears out that the transaction spends these outputs,
// which By.Inputs name, by the rules of net's block at height. Then they are so, whoever said
// it, and so is the author. The error wraps ErrOpen, or protocol.ErrSignature: then these are
// not the outputs, or the transaction is not valid, or this check is wrong. By must not be nil.
func (c *Claim) Check(net *chaincfg.Params, height uint32, spent []protocol.Output) error {
	switch {
	case len(spent) == 0 || !c.By.HeldBy(spent[0].Script):
		return fmt.Errorf("%w: by these outputs it is not the key's", ErrOpen)
	case !c.By.Checkable():
		return fmt.Errorf("%w: it has no FORKID", ErrOpen)
	}
	return c.By.Verify(net, height, spent)
}

// Link returns the action as the graph takes it; ok is false if there is none.
func (c *Claim) Link() (action links.Action, ok bool) {
	if c.Action.Kind == 0 {
		return links.Action{}, false
	}
	return links.Action{Action: c.Action, Index: c.Index, TxID: c.TxID, Author: c.Author}, true
}

// AnchorTx returns the transaction as chains of anchors take it; ok is false if it does not
// matter to them.
func (c *Claim) AnchorTx() (tx anchors.Tx, ok bool) {
	if c.Anchor == nil {
		return anchors.Tx{}, false
	}
	return anchors.Tx{Index: c.Index, Author: c.Author, Raw: c.Anchor.Raw}, true
}

// What a claim takes in memory at most, in bytes, besides its message, its transaction, and
// the outputs that it spends.
const (
	claimMemory  = 512 // with the action or the anchor that the graph is given
	actorMemory  = 512 // of By
	outPointSize = 36
)

// Memory is about how many bytes the claim takes until the graph has it.
func (c *Claim) Memory() int {
	n := claimMemory + len(c.Action.Message)
	if c.By != nil {
		n += actorMemory + outPointSize*len(c.By.Inputs)
	}
	if c.Anchor != nil {
		n += len(c.Anchor.Raw)
	}
	return n
}
