package coins

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
	"github.com/keytree-bch/keytree/protocol"
)

const (
	// mostBlocks is how many blocks are read to see what they change of the outputs that a
	// scan has found, before another scan is cheaper.
	mostBlocks = 100
	// mostUnconfirmed is how many transactions of the mempool are looked at. Whoever fills
	// it decides how many there are; coins of those beyond are found once they are mined.
	mostUnconfirmed = 100_000
	// questions to a node at a time
	questions = 4
)

// Bitcoind is a Source and Sender that asks a BCHN or one of its kin, which has no index of
// addresses: it has the node scan its unspent outputs once for a key, and reads each block
// and each transaction of the mempool that comes after. Where a scan costs somebody else
// than who asks for coins, it must not be asked for any. Its methods may be called
// concurrently. Errors are those of package node.
type Bitcoind struct {
	client  *bitcoind.Client
	network *chaincfg.Params
	scans   func(address string)

	mu   sync.Mutex // held while Coins asks
	keys map[protocol.KeyHash]*outputs
}

// NewBitcoind returns a source that asks a node of a network. The caller closes the client.
// Scans hears of each scan when it begins: it takes seconds on a large chain.
func NewBitcoind(client *bitcoind.Client, network *chaincfg.Params, scans func(address string)) *Bitcoind {
	return &Bitcoind{client: client, network: network, scans: scans, keys: make(map[protocol.KeyHash]*outputs)}
}

// outputs are those to one key. All of it is read and written under Bitcoind.mu.
type outputs struct {
	key   protocol.KeyHash
	tip   node.Tip // up to which chain goes
	chain map[wire.OutPoint]claimed
	// mempool has the outputs to the key of each transaction that was looked at.
	mempool map[chainhash.Hash][]claimed
	// coins are the outputs that were read from their transactions.
	coins map[wire.OutPoint]protocol.UTXO
}

// claimed is an output to a key by the node's word.
type claimed struct {
	out    wire.OutPoint
	value  int64  // satoshi
	height uint32 // 0 in the mempool
}

// Coins implements Source. The first call for a key has the node scan. node.ErrUnsuitable
// of a node that cannot.
func (b *Bitcoind) Coins(ctx context.Context, key protocol.KeyHash) ([]Coin, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.keys[key]
	if o == nil {
		o = &outputs{key: key}
	}
	if err := b.follow(ctx, o); err != nil {
		return nil, err
	}
	b.keys[key] = o
	if err := b.look(ctx, o); err != nil {
		return nil, err
	}
	return b.unspent(ctx, o)
}

// follow brings what is known of the chain to the node's tip.
func (b *Bitcoind) follow(ctx context.Context, o *outputs) error {
	tip, err := b.client.Tip(ctx)
	if err != nil || tip.Hash == o.tip.Hash {
		return err
	}
	behind := o.chain != nil && tip.Height > o.tip.Height && tip.Height-o.tip.Height <= mostBlocks
	if behind {
		hash, err := b.client.BlockHash(ctx, o.tip.Height)
		if err != nil {
			return err
		}
		behind = hash == o.tip.Hash // else it was reorganised away
	}
	if !behind {
		return b.scan(ctx, o, tip)
	}
	for height := o.tip.Height + 1; height <= tip.Height; height++ {
		hash, err := b.client.BlockHash(ctx, height)
		if err != nil {
			return err
		}
		raw, err := b.client.Block(ctx, hash)
		if err != nil {
			return err
		}
		block, err := protocol.ReadBlock(raw)
		if err != nil {
			return err
		}
		if block.Header.PrevBlock != o.tip.Hash {
			return b.scan(ctx, o, tip)
		}
		o.connect(block, height)
		o.tip = node.Tip{Height: height, Hash: hash}
	}
	return nil
}

// scan has the node look through everything. What blocks have changed since tip, follow
// will see: to see it twice changes nothing.
func (b *Bitcoind) scan(ctx context.Context, o *outputs, tip node.Tip) error {
	address := protocol.FormatAddress(o.key, b.network)
	b.scans(address)
	found, err := b.client.ScanOutputs(ctx, address)
	if err != nil {
		return err
	}
	o.tip, o.chain = tip, make(map[wire.OutPoint]claimed, len(found))
	for _, f := range found {
		o.chain[f.OutPoint] = claimed{f.OutPoint, f.Value, f.Height}
	}
	return nil
}

// connect takes up what a block changes.
func (o *outputs) connect(block *protocol.Block, height uint32) {
	for _, tx := range block.Txs() {
		for _, c := range o.paidBy(tx, height) {
			o.chain[c.out] = c
		}
	}
	for _, tx := range block.Txs() {
		for _, spent := range tx.Inputs() {
			delete(o.chain, spent)
		}
	}
}

// paidBy returns the outputs to the key of a transaction at a height.
func (o *outputs) paidBy(tx protocol.Tx, height uint32) (paid []claimed) {
	for i, output := range tx.Outputs() {
		if owner, ok := protocol.P2PKHKey(protocol.StripTokenPrefix(output.Script)); ok && owner == o.key {
			paid = append(paid, claimed{wire.OutPoint{Hash: tx.TxID(), Index: i}, output.Value, height})
		}
	}
	return paid
}

// look takes up what the mempool has.
func (b *Bitcoind) look(ctx context.Context, o *outputs) error {
	listed := make(map[chainhash.Hash]bool)
	err := b.client.Mempool(ctx, math.MaxInt, func(txid chainhash.Hash) {
		if len(listed) < mostUnconfirmed {
			listed[txid] = true
		}
	})
	if err != nil {
		return err
	}
	txids := slices.Collect(maps.Keys(listed))
	paid := make([][]claimed, len(txids))
	asking, ctx := errgroup.WithContext(ctx)
	asking.SetLimit(questions)
	for i, txid := range txids {
		if known, ok := o.mempool[txid]; ok {
			paid[i] = known
			continue
		}
		asking.Go(func() error {
			raw, err := b.client.Transaction(ctx, txid)
			if errors.Is(err, node.ErrNotFound) {
				return nil // it has left
			}
			if err != nil {
				return err
			}
			tx, err := protocol.ParseTx(raw)
			if err == nil {
				paid[i] = o.paidBy(tx, 0)
			}
			return err
		})
	}
	if err := asking.Wait(); err != nil {
		return err
	}
	o.mempool = make(map[chainhash.Hash][]claimed, len(txids))
	for i, txid := range txids {
		o.mempool[txid] = paid[i]
	}
	return nil
}

// unspent asks about each of the largest outputs again, and reads it from its own
// transaction.
func (b *Bitcoind) unspent(ctx context.Context, o *outputs) ([]Coin, error) {
	once := maps.Clone(o.chain) // what a block has that was undone may be in both
	for _, paid := range o.mempool {
		for _, c := range paid {
			once[c.out] = c
		}
	}
	all := slices.Collect(maps.Values(once))
	slices.SortFunc(all, func(a, b claimed) int { return cmp.Compare(b.value, a.value) })
	all = all[:min(len(all), Most)]
	found := make([]*Coin, len(all))
	asking, asked := errgroup.WithContext(ctx)
	asking.SetLimit(questions)
	for i, c := range all {
		asking.Go(func() (err error) {
			found[i], err = b.coin(asked, o, c)
			return err
		})
	}
	if err := asking.Wait(); err != nil {
		return nil, err
	}
	coins := make([]Coin, 0, len(found))
	o.coins = make(map[wire.OutPoint]protocol.UTXO, len(found))
	for _, c := range found {
		if c != nil {
			coins = append(coins, *c)
			o.coins[c.OutPoint] = c.UTXO
		}
	}
	return coins, nil
}

// coin asks about an output; nil if it is spent, or none of the key's.
func (b *Bitcoind) coin(ctx context.Context, o *outputs, c claimed) (*Coin, error) {
	state, err := b.client.UnspentState(ctx, c.out)
	if err != nil || state == nil {
		return nil, err
	}
	utxo, known := o.coins[c.out]
	if !known {
		raw, err := b.client.Transaction(ctx, c.out.Hash)
		if err != nil {
			return nil, err
		}
		utxo, err = read(raw, c.out, o.key)
		if errors.Is(err, ErrCoin) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return &Coin{
		UTXO: utxo, Height: c.height,
		// A block at the earliest that is one higher than the tip spends it.
		Immature: state.Coinbase && state.Confirmations < uint32(b.network.CoinbaseMaturity),
	}, nil
}

// Unspent implements Source.
func (b *Bitcoind) Unspent(ctx context.Context, out wire.OutPoint) (bool, error) {
	return b.client.Unspent(ctx, out, true)
}

// Transaction implements Source.
func (b *Bitcoind) Transaction(ctx context.Context, txid chainhash.Hash) ([]byte, error) {
	return b.client.Transaction(ctx, txid)
}

// Submit implements Sender.
func (b *Bitcoind) Submit(ctx context.Context, raw []byte) error { return b.client.Submit(ctx, raw) }
