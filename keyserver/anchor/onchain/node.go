package onchain

import (
	"context"
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/keyserver/anchor"
	"github.com/keytree-bch/keytree/protocol"
)

// Source is what a Node asks, coins.Bchd for example.
type Source interface {
	coins.Source
	coins.Sender
}

// Node is an anchor.Node.
type Node struct {
	// Source is set before the publisher asks, and not changed then.
	Source Source
}

var _ anchor.Node = (*Node)(nil)

// translated gives an error of the node's the meaning that it has for the publisher.
func translated(err error) error {
	for _, kind := range []struct{ from, to error }{
		{node.ErrUnsuitable, anchor.ErrUnsuitable},
		{node.ErrNotFound, anchor.ErrUnknown},
		{node.ErrFee, anchor.ErrFee},
		{node.ErrRejected, anchor.ErrRefused},
	} {
		if errors.Is(err, kind.from) {
			return fmt.Errorf("%w: %w", kind.to, err)
		}
	}
	return err
}

// Coins implements anchor.Node.
func (n *Node) Coins(ctx context.Context, key protocol.KeyHash) ([]anchor.Coin, error) {
	all, err := n.Source.Coins(ctx, key)
	if err != nil {
		return nil, translated(err)
	}
	found := make([]anchor.Coin, len(all))
	for i, c := range all {
		found[i] = anchor.Coin{UTXO: c.UTXO, Confirmed: c.Height > 0 && !c.Immature}
	}
	return found, nil
}

// Unspent implements anchor.Node.
func (n *Node) Unspent(ctx context.Context, out wire.OutPoint) (bool, error) {
	unspent, err := n.Source.Unspent(ctx, out)
	return unspent, translated(err)
}

// Transaction implements anchor.Node.
func (n *Node) Transaction(ctx context.Context, txid chainhash.Hash) ([]byte, error) {
	raw, err := n.Source.Transaction(ctx, txid)
	return raw, translated(err)
}

// Submit implements anchor.Node.
func (n *Node) Submit(ctx context.Context, raw []byte) error {
	return translated(n.Source.Submit(ctx, raw))
}
