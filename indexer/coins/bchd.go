package coins

import (
	"context"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/protocol"
)

// Bchd is a Source that asks a bchd, which runs with --addrindex. Its methods may be called
// concurrently. Errors are those of package node.
type Bchd struct {
	client  *bchd.Client
	network *chaincfg.Params
}

// NewBchd returns a source that asks a node of a network. The caller closes the client.
func NewBchd(client *bchd.Client, network *chaincfg.Params) *Bchd { return &Bchd{client, network} }

// Coins implements Source. node.ErrUnsuitable without --addrindex.
func (b *Bchd) Coins(ctx context.Context, key protocol.KeyHash) ([]Coin, error) {
	address, err := bchutil.NewAddressPubKeyHash(key[:], b.network)
	if err != nil {
		return nil, err
	}
	tip, err := b.client.Tip(ctx)
	if err != nil {
		return nil, err
	}
	outputs, err := b.client.UnspentOutputs(ctx, address)
	if err != nil {
		return nil, err
	}
	coins := make([]Coin, len(outputs))
	for i, o := range outputs {
		coins[i] = Coin{
			UTXO:   protocol.UTXO{OutPoint: o.OutPoint, Value: o.Value, Script: o.Script, HasToken: o.Token},
			Height: o.Height,
			// A transaction goes into the next block at the earliest.
			Immature: o.Coinbase && tip.Height+1 < o.Height+uint32(b.network.CoinbaseMaturity),
		}
	}
	return coins, nil
}

// Unspent reports whether an output is there, in the chain or the mempool, and spent in
// neither.
func (b *Bchd) Unspent(ctx context.Context, out wire.OutPoint) (bool, error) {
	return b.client.Unspent(ctx, out, true)
}

// Transaction implements Source.
func (b *Bchd) Transaction(ctx context.Context, txid chainhash.Hash) ([]byte, error) {
	return b.client.Transaction(ctx, txid)
}

// Submit hands in a serialized transaction, which the node passes on to the network; one
// that it has already is taken. node.ErrRejected if it does not take it, node.ErrFee if
// that is for its fee.
func (b *Bchd) Submit(ctx context.Context, raw []byte) error {
	_, err := b.client.Submit(ctx, raw)
	return err
}
