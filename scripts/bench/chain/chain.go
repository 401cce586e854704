package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
)

// Params are the network's.
var Params = &chaincfg.RegressionNetParams

// Shape says what the transactions beside the actions are.
type Shape int

// The shapes.
const (
	Mixed    Shape = iota // payments, tokens, other protocols, many in- and outputs
	Payments              // payments
)

// Limits of Options.
const (
	MinBlockSize = 20_000
	MaxBlockSize = 32_000_000
	MaxActions   = 0.1
)

// Options say which chain to make. Equal options give equal chains.
type Options struct {
	Seed uint64
	// Blocks is how many blocks of BlockSize there are to be. About 105 small ones
	// come before them.
	Blocks int
	// BlockSize is what a block has at most, in bytes; it has a percent or two
	// less.
	BlockSize int
	// Actions is the share of transactions that carry an action, 0 to MaxActions.
	Actions float64
	Shape   Shape
}

// Stats count what the blocks made so far hold.
type Stats struct {
	Blocks       int   // with the genesis block
	Bytes        int64 // of the blocks
	Transactions int64
	Requests     int // MLR, like the next two including what gets refused
	Accepts      int // MLA
	Revokes      int // MCR
	Refused      int // of these three, actions that the rules refuse
	Links        int // in force at the end
	Height       uint32
	Tip          chainhash.Hash
}

// Actions returns how many actions there are.
func (s Stats) Actions() int { return s.Requests + s.Accepts + s.Revokes }

// Chain makes one chain, block by block, in the memory that a block takes some
// times over. It is for one goroutine.
type Chain struct {
	opt    Options
	rng    *rand.Rand
	signer *signer
	miner  *key
	wallet wallet
	forest forest
	stats  Stats

	recruits int     // actors made so far
	due      float64 // actions that the share asks for and that are not made yet
	full     int     // blocks of the wanted size
	prev     chainhash.Hash
	immature []coin // coinbases, oldest first
}

// Block times: minutes apart, the same in each run, and in the past for long.
const (
	firstTime   = 1704067200 // 2024-01-01
	secondsEach = 60
)

// maxActorTx is the size in bytes that no transaction of an actor exceeds. As
// the actor is taken to have acted when it is made up, it has to fit.
const maxActorTx = 600

// walletKeys is how many keys the coins are spread over.
const walletKeys = 500

// New returns a chain of which nothing is made yet. The error says which option
// is out of range.
func New(opt Options) (*Chain, error) {
	switch {
	case opt.Blocks < 0:
		return nil, fmt.Errorf("expected 0 or more blocks, got %d", opt.Blocks)
	case opt.BlockSize < MinBlockSize || opt.BlockSize > MaxBlockSize:
		return nil, fmt.Errorf("expected a block size of %d to %d bytes, got %d", MinBlockSize, MaxBlockSize, opt.BlockSize)
	case math.IsNaN(opt.Actions) || opt.Actions < 0 || opt.Actions > MaxActions:
		return nil, fmt.Errorf("expected 0 to %g %% of transactions to be actions, got %g %%", 100*MaxActions, 100*opt.Actions)
	}
	c := &Chain{opt: opt, rng: rand.New(rand.NewPCG(opt.Seed, 0)), signer: newSigner(opt.Seed), miner: newKey(opt.Seed, "miner", 0)}
	c.wallet = wallet{rng: c.rng, want: opt.BlockSize / 150}
	c.forest = forest{rng: c.rng, stats: &c.stats}
	for i := range walletKeys {
		c.wallet.keys = append(c.wallet.keys, newKey(opt.Seed, "wallet", i))
	}
	return c, nil
}

// Stats counts what has been made so far.
func (c *Chain) Stats() Stats {
	s := c.stats
	s.Links = len(c.forest.links)
	return s
}

// Blocks makes the chain: the serialized blocks from the genesis block on, in
// order of height. It can be ranged over once. It ends early with the context's
// error, or with one that says that the options allow no further block.
func (c *Chain) Blocks(ctx context.Context) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		var genesis bytes.Buffer
		if err := Params.GenesisBlock.Serialize(&genesis); err != nil {
			yield(nil, fmt.Errorf("genesis block: %w", err))
			return
		}
		c.prev = *Params.GenesisHash
		c.count(genesis.Bytes(), 1)
		for raw := genesis.Bytes(); ; {
			if !yield(raw, nil) || c.full == c.opt.Blocks && c.stats.Height >= uint32(Params.CoinbaseMaturity) {
				return
			}
			err := ctx.Err()
			if err == nil {
				raw, err = c.next(ctx)
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

func (c *Chain) count(raw []byte, transactions int) {
	c.stats.Height = uint32(c.stats.Blocks)
	c.stats.Tip = c.prev
	c.stats.Blocks++
	c.stats.Bytes += int64(len(raw))
	c.stats.Transactions += int64(transactions)
}

// next makes the next block.
func (c *Chain) next(ctx context.Context) ([]byte, error) {
	height := c.stats.Height + 1
	txs, err := c.plan(height)
	if err != nil {
		return nil, err
	}
	if err := c.sign(ctx, txs); err != nil {
		return nil, err
	}
	slices.SortFunc(txs, func(a, b *transaction) int { return a.txid.Compare(&b.txid) })
	coinbase, err := c.coinbase(height, txs)
	if err != nil {
		return nil, err
	}
	raw, err := c.seal(height, append([]*transaction{coinbase}, txs...))
	if err != nil {
		return nil, err
	}
	c.collect(txs)
	c.immature = append(c.immature, coin{out: wire.OutPoint{Hash: coinbase.txid}, value: coinbase.TxOut[0].Value, owner: c.miner})
	c.count(raw, len(txs)+1)
	return raw, nil
}

// plan makes up the transactions of the block at height.
func (c *Chain) plan(height uint32) ([]*transaction, error) {
	var txs []*transaction
	room := int64(c.opt.BlockSize - 80 - 9 - 200) // header, count, coinbase
	// add takes a transaction if it fits. If not, its coins go back.
	add := func(t *transaction) bool {
		if room < t.size {
			c.wallet.pool = append(c.wallet.pool, t.spends...)
			return false
		}
		room -= t.size
		txs = append(txs, t)
		return true
	}
	if len(c.immature) >= int(Params.CoinbaseMaturity) {
		add(c.wallet.spread(c.immature[0], 500))
		c.immature = c.immature[1:]
	}
	switch {
	case height <= uint32(Params.CoinbaseMaturity):
	case len(c.wallet.pool) < c.wallet.want && c.full == 0:
		for missing := c.wallet.want - len(c.wallet.pool); missing > 0 && len(c.wallet.pool) > 0; missing -= 500 {
			spends, _ := c.wallet.take(1)
			if !add(c.wallet.spread(spends[0], 500)) {
				break
			}
		}
	default:
		c.full++
		for fits := true; fits && room >= maxActorTx; {
			t, ok := c.transaction(height)
			if !ok {
				return nil, fmt.Errorf("block %d: no coins are left to fill it with", height)
			}
			fits = add(t)
		}
	}
	return txs, nil
}

// transaction makes up the next transaction of a full block.
func (c *Chain) transaction(height uint32) (*transaction, bool) {
	// There are enough actors for a block's actions to be by different ones, and
	// more join all the time.
	perBlock := c.opt.Actions * float64(c.opt.BlockSize) / 226
	crew := 4 + 4*perBlock
	if c.opt.Actions > 0 && (float64(c.recruits) < crew || c.rng.Float64() < c.opt.Actions/4) {
		a := &actor{key: newKey(c.opt.Seed, "actor", c.recruits), busy: height}
		c.recruits++
		return c.wallet.onboard(a)
	}
	c.due += c.opt.Actions
	if c.due >= 1 && len(c.forest.actors) > 0 {
		if act, ok := c.forest.next(height); ok {
			c.due--
			return publish(act.author, act.script, act.sealed), true
		}
	}
	if c.opt.Shape == Payments {
		return c.wallet.payment()
	}
	if len(c.forest.actors) > 0 && c.rng.Float64() < c.opt.Actions {
		if a := c.forest.someone(height, anyone); a != nil {
			a.busy = height
			return publish(a, memoPost(c.rng), nil), true
		}
	}
	return c.wallet.mixed()
}

// sign signs the transactions on all cores.
func (c *Chain) sign(ctx context.Context, txs []*transaction) error {
	const batch = 64
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, runtime.GOMAXPROCS(0))
	for i := range errs {
		wg.Go(func() {
			for errs[i] == nil {
				from := min(len(txs), int(next.Add(batch))-batch)
				to := min(len(txs), from+batch)
				if from == to {
					return
				}
				for _, t := range txs[from:to] {
					errs[i] = errors.Join(errs[i], t.sign(c.signer))
				}
				errs[i] = errors.Join(errs[i], ctx.Err())
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// coinbase pays the subsidy and the fees to the miner. Its script begins with the
// height (BIP 34).
func (c *Chain) coinbase(height uint32, txs []*transaction) (*transaction, error) {
	value := int64(50e8) >> (height / uint32(Params.SubsidyReductionInterval))
	for _, t := range txs {
		value += t.fee
	}
	script, err := txscript.NewScriptBuilder().AddInt64(int64(height)).AddData(random(c.rng, 40)).Script()
	if err != nil {
		return nil, fmt.Errorf("coinbase: %w", err)
	}
	t := newTransaction()
	t.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Index: math.MaxUint32}, SignatureScript: script, Sequence: math.MaxUint32})
	t.add(c.miner.output(value))
	return t, t.sign(c.signer)
}

// seal makes the block of the transactions, the coinbase first, and solves it.
func (c *Chain) seal(height uint32, txs []*transaction) ([]byte, error) {
	header := wire.BlockHeader{
		Version: 0x20000000, PrevBlock: c.prev, MerkleRoot: merkleRoot(txs), Bits: Params.PowLimitBits,
		Timestamp: time.Unix(firstTime+secondsEach*int64(height), 0),
	}
	// Regtest's target is 7fffff…, two tries on average.
	for header.Nonce = 0; ; header.Nonce++ {
		if c.prev = header.BlockHash(); c.prev[31] < 0x7f {
			break
		}
	}
	size := 80 + 9
	for _, t := range txs {
		size += len(t.raw)
	}
	raw := bytes.NewBuffer(make([]byte, 0, size))
	if err := errors.Join(header.Serialize(raw), wire.WriteVarInt(raw, 0, uint64(len(txs)))); err != nil {
		return nil, fmt.Errorf("block %d: %w", height, err)
	}
	for _, t := range txs {
		raw.Write(t.raw)
	}
	return raw.Bytes(), nil
}

// collect hands out the coins of a block's transactions.
func (c *Chain) collect(txs []*transaction) {
	for _, t := range txs {
		for _, made := range t.coins {
			made.out.Hash = t.txid
			c.wallet.pool = append(c.wallet.pool, made)
		}
		for _, a := range t.actors {
			a.coin.out.Hash = t.txid
			c.forest.actors = append(c.forest.actors, a)
		}
		if t.author != nil {
			t.author.coin.out = wire.OutPoint{Hash: t.txid}
		}
		if t.sealed != nil {
			t.sealed(t.txid)
		}
	}
}

func merkleRoot(txs []*transaction) chainhash.Hash {
	level := make([]chainhash.Hash, len(txs))
	for i, t := range txs {
		level[i] = t.txid
	}
	var pair [2 * chainhash.HashSize]byte
	for len(level) > 1 {
		if len(level)%2 == 1 {
			level = append(level, level[len(level)-1])
		}
		for i := range len(level) / 2 {
			copy(pair[:], level[2*i][:])
			copy(pair[chainhash.HashSize:], level[2*i+1][:])
			level[i] = chainhash.DoubleHashH(pair[:])
		}
		level = level[:len(level)/2]
	}
	return level[0]
}
