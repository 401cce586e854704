// Package coins tells what a key can spend, and passes transactions on: what a wallet and
// a publisher of anchors ask of a node, beside the chain.
//
// A Source is not trusted with more than that: signatures commit to the value, the script
// and the tokens of what they spend, so a transaction built on a lie is invalid. What never
// belongs here: keys, which transaction to make, and following the chain.
package coins

import (
	"context"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
)

// Coin is an unspent output to a key, P2PKH.
type Coin struct {
	protocol.UTXO
	// Height is that of its block; 0 while it is unconfirmed.
	Height uint32
	// Immature says that it is of a coinbase that the next block cannot spend yet.
	Immature bool
}

// Source is what Spendable asks.
type Source interface {
	// Coins returns the outputs to a key that neither chain nor mempool spends, in no
	// order.
	Coins(ctx context.Context, key protocol.KeyHash) ([]Coin, error)
	// Transaction returns a transaction of the chain or the mempool, whose txid has been
	// checked. node.ErrNotFound if there is none.
	Transaction(ctx context.Context, txid chainhash.Hash) ([]byte, error)
}

// Spendable returns what a key can spend in the next block: unconfirmed outputs too, but no
// immature coinbase. Batons are those of chains of anchors. They are left out, since to
// spend one without a record breaks its chain. The list is as long as who pays the key
// makes it; each coin that is an output 0 costs one question to the source.
func Spendable(ctx context.Context, from Source, key protocol.KeyHash) (utxos, batons []protocol.UTXO, err error) {
	all, err := from.Coins(ctx, key)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range all {
		if c.Immature {
			continue
		}
		baton, err := isBaton(ctx, from, c.OutPoint)
		if err != nil {
			return nil, nil, err
		}
		if baton {
			batons = append(batons, c.UTXO)
			continue
		}
		utxos = append(utxos, c.UTXO)
	}
	return utxos, batons, nil
}

// isBaton reports whether a coin is the baton of a chain of anchors.
func isBaton(ctx context.Context, from Source, out wire.OutPoint) (bool, error) {
	if out.Index != 0 {
		return false, nil
	}
	raw, err := from.Transaction(ctx, out.Hash)
	if err != nil {
		return false, err
	}
	tx, err := protocol.ParseTx(raw)
	if err != nil {
		return false, err
	}
	_, is := tx.Anchor()
	return is, nil
}
