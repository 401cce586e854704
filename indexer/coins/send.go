package coins

import (
	"context"
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signing"
)

// Signed is a link transaction that somebody has signed.
type Signed struct {
	TxID   chainhash.Hash
	Action protocol.Action
	Author protocol.KeyHash
	Fee    int64 // satoshi
	// Known says that it was there already, in the mempool or the chain: then Author and
	// Fee are not set, since nothing was left to be checked.
	Known bool
}

// Send sends a link transaction that was signed elsewhere, if it is one: it carries exactly
// one action, has at most signing.MaxSize bytes, spends P2PKH outputs without tokens and no
// baton of a chain of anchors, and is signed as wallets sign (signing.Verify). The outputs
// are read from the transactions that have them, one question to the source each. Before it
// is sent, check may refuse it. One that is there already is taken without any of that.
//
// The error for what is not to be sent wraps signing.ErrRefused, ErrCoin, or what check
// returns; that of Submit is one of package node.
func Send(ctx context.Context, through interface {
	Source
	Sender
}, tx protocol.Tx, check func(Signed) error) (Signed, error) {
	s := Signed{TxID: tx.TxID()}
	var err error
	if s.Action, err = signing.Action(tx); err != nil {
		return s, err
	}
	_, err = through.Transaction(ctx, s.TxID)
	if s.Known = err == nil; s.Known {
		return s, nil
	}
	if !errors.Is(err, node.ErrNotFound) {
		return s, err
	}
	spent, err := spentBy(ctx, through, tx)
	if err != nil {
		return s, err
	}
	if s.Author, err = signing.Verify(tx, spent); err != nil {
		return s, err
	}
	for _, output := range spent {
		s.Fee += output.Value
	}
	for _, output := range tx.Outputs() {
		s.Fee -= output.Value
	}
	if err := check(s); err != nil {
		return s, err
	}
	return s, through.Submit(ctx, tx)
}

// spentBy returns what the inputs spend, which must be no batons.
func spentBy(ctx context.Context, from Source, tx protocol.Tx) (spent []protocol.Output, err error) {
	read := make(map[chainhash.Hash]protocol.Tx)
	for _, out := range tx.Inputs() {
		previous, known := read[out.Hash]
		if !known {
			raw, err := from.Transaction(ctx, out.Hash)
			if errors.Is(err, node.ErrNotFound) {
				return nil, fmt.Errorf("%w: %v is spent, or not there", ErrCoin, out)
			}
			if err != nil {
				return nil, err
			}
			if previous, err = protocol.ParseTx(raw); err != nil {
				return nil, err
			}
			read[out.Hash] = previous
		}
		if err := notBaton(previous, out); err != nil {
			return nil, err
		}
		output, err := protocol.SpentOutput(previous, out)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCoin, err)
		}
		spent = append(spent, output)
	}
	return spent, nil
}

// notBaton returns an ErrCoin if a coin, given the transaction that has it, is the baton of
// a chain of anchors.
func notBaton(tx protocol.Tx, out wire.OutPoint) error {
	if _, is := tx.Anchor(); is && out.Index == 0 {
		return fmt.Errorf("%w: %v is the baton of a chain of anchors, which it would break", ErrCoin, out)
	}
	return nil
}
