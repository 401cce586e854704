package coins

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/coins/electrum"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// Electrum is a Source and Sender that asks an Electrum server. Values, scripts and tokens
// are read from transactions that hash to their txids; that a coin is on the chain is the
// server's word (Witnessed). Its methods may be called concurrently. Errors are those of
// package node.
type Electrum struct {
	client  *electrum.Client
	network *chaincfg.Params

	mu sync.Mutex
	// mu; what was read for the last answer about a key: a publisher asks again and again.
	read map[protocol.KeyHash]map[wire.OutPoint]readCoin
}

// readCoin is a coin as its transaction has it.
type readCoin struct {
	protocol.UTXO
	coinbase bool
}

// NewElectrum returns a source that asks a server of a network. The caller closes the
// client.
func NewElectrum(client *electrum.Client, network *chaincfg.Params) *Electrum {
	return &Electrum{client: client, network: network, read: make(map[protocol.KeyHash]map[wire.OutPoint]readCoin)}
}

// Coins implements Source.
func (e *Electrum) Coins(ctx context.Context, key protocol.KeyHash) ([]Coin, error) {
	height, err := e.client.Height(ctx)
	if err != nil {
		return nil, err
	}
	listed, err := e.client.UnspentOutputs(ctx, protocol.FormatAddress(key, e.network))
	if err != nil {
		return nil, err
	}
	slices.SortFunc(listed, func(a, b electrum.UnspentOutput) int { return cmp.Compare(b.Value, a.Value) })
	e.mu.Lock()
	before := e.read[key] // which nobody writes to
	e.mu.Unlock()
	var coins []Coin
	now := make(map[wire.OutPoint]readCoin)
	for _, l := range listed[:min(len(listed), Most)] {
		c, known := before[l.OutPoint]
		if !known {
			c, err = e.readCoin(ctx, l.OutPoint, key)
			if errors.Is(err, node.ErrNotFound) || errors.Is(err, ErrCoin) { // replaced meanwhile, or invented
				continue
			}
			if err != nil {
				return nil, err
			}
		}
		now[l.OutPoint] = c
		coins = append(coins, Coin{
			UTXO: c.UTXO, Height: l.Height,
			// A transaction goes into the next block at the earliest.
			Immature: c.coinbase && height+1 < l.Height+uint32(e.network.CoinbaseMaturity),
		})
	}
	e.mu.Lock()
	e.read[key] = now
	e.mu.Unlock()
	return coins, nil
}

func (e *Electrum) readCoin(ctx context.Context, out wire.OutPoint, key protocol.KeyHash) (readCoin, error) {
	raw, err := e.client.Transaction(ctx, out.Hash)
	if err != nil {
		return readCoin{}, err
	}
	utxo, err := read(raw, out, key)
	if err != nil {
		return readCoin{}, err
	}
	spends, _ := protocol.Tx(raw).Input0()
	return readCoin{utxo, spends == wire.OutPoint{Index: wire.MaxPrevOutIndex}}, nil
}

// Transaction implements Source.
func (e *Electrum) Transaction(ctx context.Context, txid chainhash.Hash) ([]byte, error) {
	return e.client.Transaction(ctx, txid)
}

// Unspent implements Source.
func (e *Electrum) Unspent(ctx context.Context, out wire.OutPoint) (bool, error) {
	return e.client.Unspent(ctx, out)
}

// Submit implements Sender.
func (e *Electrum) Submit(ctx context.Context, raw []byte) error { return e.client.Submit(ctx, raw) }
