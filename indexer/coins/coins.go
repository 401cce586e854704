// Package coins tells what a key can spend, and passes transactions on: what a wallet and
// a publisher of anchors ask of a node, or of an Electrum server, beside the chain.
//
// A Source is not trusted with more than that: signatures commit to the value, the script
// and the tokens of what they spend, so a transaction built on a lie is invalid. Only
// whether a coin is a baton no signature tells; that is read from the bytes of the
// transaction that has the coin, which hash to its txid. What never belongs here: keys,
// which transaction to make, and following the chain.
package coins

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// Most is how many coins of a key are looked at, the largest first. Their number is up to
// whoever pays the key: to hide a coin behind others takes as many that are larger.
const Most = 1000

// Coin is an unspent output to a key, P2PKH.
type Coin struct {
	protocol.UTXO
	// Height is that of its block; 0 while it is unconfirmed.
	Height uint32
	// Immature says that it is of a coinbase that the next block cannot spend yet.
	Immature bool
}

// Source is what is asked for coins. Errors are those of package node. Methods may be
// called concurrently.
type Source interface {
	// Coins returns the outputs to a key that neither chain nor mempool spends, in no
	// order: all, or Most of the largest.
	Coins(ctx context.Context, key protocol.KeyHash) ([]Coin, error)
	// Transaction returns a transaction of the chain or the mempool, whose txid has been
	// checked. node.ErrNotFound if there is none.
	Transaction(ctx context.Context, txid chainhash.Hash) ([]byte, error)
	// Unspent reports whether an output is there, in the chain or the mempool, and spent
	// in neither.
	Unspent(ctx context.Context, out wire.OutPoint) (bool, error)
}

// Sender takes transactions.
type Sender interface {
	// Submit hands in a serialized transaction, which is passed on to the network; one
	// that is there already, in the mempool or the chain, is taken. node.ErrRejected if
	// it is not taken, node.ErrFee if that is for its fee.
	Submit(ctx context.Context, raw []byte) error
}

// ErrCoin says that a coin must not be spent, or cannot be. The message says why. Name
// another one.
var ErrCoin = errors.New("coin refused")

// Spendable returns what a key can spend in the next block, the largest first: unconfirmed
// outputs too, but no immature coinbase, and none that carries tokens. Batons are those of
// chains of anchors. They are left out, since to spend one without a record breaks its
// chain. Of Most coins each that is an output 0 costs one question to the source.
func Spendable(ctx context.Context, from Source, key protocol.KeyHash) (utxos, batons []protocol.UTXO, err error) {
	all, err := from.Coins(ctx, key)
	if err != nil {
		return nil, nil, err
	}
	for _, c := range largest(all) {
		if c.Immature || c.HasToken {
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

// largest returns Most of the coins, the largest first.
func largest(all []Coin) []Coin {
	slices.SortFunc(all, func(a, b Coin) int {
		return cmp.Or(cmp.Compare(b.Value, a.Value), slices.Compare(a.OutPoint.Hash[:], b.OutPoint.Hash[:]),
			cmp.Compare(a.OutPoint.Index, b.OutPoint.Index))
	})
	return all[:min(len(all), Most)]
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

// Named checks coins that somebody has named by outpoint and value, and returns them with
// their scripts. ErrCoin for one that is not there, is spent, is worth something else, does
// not belong to the key, carries tokens, or is the baton of a chain of anchors. Each costs
// two questions to the source.
func Named(ctx context.Context, from Source, key protocol.KeyHash, named []protocol.UTXO) ([]protocol.UTXO, error) {
	checked := make([]protocol.UTXO, len(named))
	for i, u := range named {
		if slices.ContainsFunc(named[:i], func(other protocol.UTXO) bool { return other.OutPoint == u.OutPoint }) {
			return nil, fmt.Errorf("%w: %v is given twice", ErrCoin, u.OutPoint)
		}
		unspent, err := from.Unspent(ctx, u.OutPoint)
		if err != nil {
			return nil, err
		}
		if !unspent {
			return nil, fmt.Errorf("%w: %v is spent, or not there", ErrCoin, u.OutPoint)
		}
		raw, err := from.Transaction(ctx, u.OutPoint.Hash)
		if errors.Is(err, node.ErrNotFound) {
			return nil, fmt.Errorf("%w: %w", ErrCoin, err)
		}
		if err != nil {
			return nil, err
		}
		if checked[i], err = read(raw, u.OutPoint, key); err != nil {
			return nil, err
		}
		if got := checked[i].Value; got != u.Value {
			return nil, fmt.Errorf("%w: %v holds %d satoshi, expected %d", ErrCoin, u.OutPoint, got, u.Value)
		}
		if checked[i].HasToken {
			return nil, fmt.Errorf("%w: %v carries tokens, which would be burnt", ErrCoin, u.OutPoint)
		}
		if err := notBaton(raw, u.OutPoint); err != nil {
			return nil, err
		}
	}
	return checked, nil
}

// read reads a coin of a key from the transaction that has it: so neither value nor script
// nor tokens are anybody's word. ErrCoin if it is none of the key's.
func read(raw []byte, out wire.OutPoint, key protocol.KeyHash) (protocol.UTXO, error) {
	output, err := protocol.SpentOutput(raw, out)
	if err != nil {
		return protocol.UTXO{}, fmt.Errorf("%w: %w", ErrCoin, err)
	}
	script := protocol.StripTokenPrefix(output.Script)
	if owner, ok := protocol.P2PKHKey(script); !ok || owner != key {
		return protocol.UTXO{}, fmt.Errorf("%w: %v does not belong to the key, or not as P2PKH", ErrCoin, out)
	}
	return protocol.UTXO{
		OutPoint: out, Value: output.Value, Script: protocol.P2PKHScript(key), HasToken: protocol.HasTokenPrefix(output.Script),
	}, nil
}

// Witnessed is a Source of coins whose existence another one is asked about too: what an
// Electrum server shows of a coin proves its value, not that it is on the chain.
type Witnessed struct {
	Source
	Witness interface {
		// Unspent is that of Source.
		Unspent(ctx context.Context, out wire.OutPoint) (bool, error)
	}
}

// Coins implements Source. Coins that the witness does not know are left out.
func (w Witnessed) Coins(ctx context.Context, key protocol.KeyHash) ([]Coin, error) {
	all, err := w.Source.Coins(ctx, key)
	if err != nil {
		return nil, err
	}
	var known []Coin
	for _, c := range largest(all) {
		unspent, err := w.Witness.Unspent(ctx, c.OutPoint)
		if err != nil {
			return nil, err
		}
		if unspent {
			known = append(known, c)
		}
	}
	return known, nil
}

// Unspent implements Source: both must say so.
func (w Witnessed) Unspent(ctx context.Context, out wire.OutPoint) (bool, error) {
	unspent, err := w.Source.Unspent(ctx, out)
	if err != nil || !unspent {
		return false, err
	}
	return w.Witness.Unspent(ctx, out)
}
