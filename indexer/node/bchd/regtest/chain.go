package regtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/gcash/bchd/bchrpc/pb"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
)

// medianBlocks is the number of headers behind a median time past.
const medianBlocks = 11

// block is what building on a block takes; it never changes.
type block struct {
	height uint32
	header wire.BlockHeader
}

// Tip returns the height and hash of the end of the node's best chain.
func (n *Node) Tip(ctx context.Context) (uint32, chainhash.Hash, error) {
	var best struct {
		Hash   string
		Height uint32
	}
	if err := n.Call(ctx, &best, "getbestblock"); err != nil {
		return 0, chainhash.Hash{}, err
	}
	hash, err := parseHash(best.Hash)
	return best.Height, hash, err
}

// BlockHash returns the hash of the best chain's block at height.
func (n *Node) BlockHash(ctx context.Context, height uint32) (chainhash.Hash, error) {
	var s string
	if err := n.Call(ctx, &s, "getblockhash", height); err != nil {
		return chainhash.Hash{}, err
	}
	return parseHash(s)
}

// Block returns a block by its hash, also one that is not on the best chain.
func (n *Node) Block(ctx context.Context, hash chainhash.Hash) (*wire.MsgBlock, error) {
	var s string
	if err := n.Call(ctx, &s, "getblock", hash.String(), 0); err != nil {
		return nil, err
	}
	raw, err := hex.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("block %v: %w", hash, err)
	}
	var b wire.MsgBlock
	if err := b.Deserialize(bytes.NewReader(raw)); err != nil {
		return nil, fmt.Errorf("block %v: %w", hash, err)
	}
	return &b, nil
}

// Mine lets bchd mine count blocks, each with the whole mempool in it, paying
// the faucet. It returns their hashes, oldest first. Mining hundreds of blocks
// in a second lets header times run ahead of the clock, which does no harm
// below some 7,000 blocks.
func (n *Node) Mine(ctx context.Context, count uint32) ([]chainhash.Hash, error) {
	var mined []string
	if err := n.Call(ctx, &mined, "generate", count); err != nil {
		return nil, err
	}
	hashes := make([]chainhash.Hash, len(mined))
	for i, s := range mined {
		hash, err := parseHash(s)
		if err != nil {
			return nil, err
		}
		hashes[i] = hash
	}
	return hashes, nil
}

// MineBlock mines one block with exactly txs on the tip, whatever the mempool
// holds, and returns its hash: Build and SubmitBlock.
func (n *Node) MineBlock(ctx context.Context, txs ...*wire.MsgTx) (chainhash.Hash, error) {
	_, tip, err := n.Tip(ctx)
	if err != nil {
		return chainhash.Hash{}, err
	}
	return n.MineOn(ctx, tip, txs...)
}

// MineOn mines one block with exactly txs on any block that the node knows.
// If the parent is not the tip the block makes or lengthens a side branch, and
// the node switches to that branch when it is longer than the best chain.
func (n *Node) MineOn(ctx context.Context, parent chainhash.Hash, txs ...*wire.MsgTx) (chainhash.Hash, error) {
	b, err := n.Build(ctx, parent, nil, txs...)
	if err != nil {
		return chainhash.Hash{}, err
	}
	return b.BlockHash(), n.SubmitBlock(ctx, b)
}

// Reorg replaces the last depth blocks of the best chain by new ones, which
// hold exactly the given transactions, one list a block. There must be more new
// blocks than old ones. It returns the new blocks' hashes, oldest first.
//
// Transactions of the replaced blocks go back to the mempool, unless the new
// blocks hold or conflict with them: Mine would confirm them again, MineBlock
// does not.
func (n *Node) Reorg(ctx context.Context, depth uint32, blocks ...[]*wire.MsgTx) ([]chainhash.Hash, error) {
	height, _, err := n.Tip(ctx)
	if err != nil {
		return nil, err
	}
	if depth > height || uint64(len(blocks)) <= uint64(depth) {
		return nil, fmt.Errorf("a reorganisation of %d blocks at height %d needs at least %d new blocks, got %d",
			depth, height, depth+1, len(blocks))
	}
	parent, err := n.BlockHash(ctx, height-depth)
	if err != nil {
		return nil, err
	}
	hashes := make([]chainhash.Hash, len(blocks))
	for i, txs := range blocks {
		if parent, err = n.MineOn(ctx, parent, txs...); err != nil {
			return nil, err
		}
		hashes[i] = parent
	}
	if _, tip, err := n.Tip(ctx); err != nil || tip != parent {
		return nil, fmt.Errorf("the node did not switch to %v, its tip is %v (%w)", parent, tip, err)
	}
	return hashes, nil
}

// Build returns a solved block on parent, which may be any block that the node
// knows. Its coinbase has the given outputs; nil pays the subsidy to the faucet.
// Fees are not claimed. Above height 1000 the transactions are put in CTOR
// order (by txid), up to there they stay as given, parents before children.
// Two blocks are never equal, even with equal arguments.
func (n *Node) Build(ctx context.Context, parent chainhash.Hash, coinbase []*wire.TxOut, txs ...*wire.MsgTx) (*wire.MsgBlock, error) {
	prev, err := n.block(ctx, parent)
	if err != nil {
		return nil, err
	}
	timestamp, err := n.nextTime(ctx, prev)
	if err != nil {
		return nil, err
	}
	height := prev.height + 1
	if coinbase == nil {
		subsidy := int64(50e8) >> (height / uint32(Params.SubsidyReductionInterval))
		coinbase = []*wire.TxOut{n.faucet.Output(subsidy)}
	}
	first, err := coinbaseTx(height, coinbase)
	if err != nil {
		return nil, err
	}
	ordered := slices.Clone(txs)
	if height > uint32(Params.MagneticAnonomalyForkHeight) {
		slices.SortFunc(ordered, func(a, b *wire.MsgTx) int {
			x, y := a.TxHash(), b.TxHash()
			return x.Compare(&y)
		})
	}
	b := &wire.MsgBlock{
		Header: wire.BlockHeader{
			Version:   0x20000000,
			PrevBlock: parent,
			Timestamp: timestamp,
			Bits:      prev.header.Bits,
		},
		Transactions: append([]*wire.MsgTx{first}, ordered...),
	}
	b.Header.MerkleRoot = merkleRoot(b.Transactions)
	Solve(&b.Header)

	n.mu.Lock()
	defer n.mu.Unlock()
	n.headers[b.BlockHash()] = block{height: height, header: b.Header}
	return b, nil
}

// Solve finds a nonce that gives the header regtest's proof of work, two tries
// on average. Use it after a change to a block that Build returned.
func Solve(header *wire.BlockHeader) {
	// Regtest's target is 7fffff…: all that counts is the highest bit.
	for header.Nonce = 0; ; header.Nonce++ {
		if hash := header.BlockHash(); hash[31] < 0x7f {
			return
		}
	}
}

// SubmitBlock hands a block to the node by JSON-RPC. A block that breaks a rule
// is an error that gives the node's reason; one that only makes a side branch is
// not.
//
// What the block confirms leaves the mempool, and so does what conflicts with
// it. The rest of the mempool stays.
func (n *Node) SubmitBlock(ctx context.Context, b *wire.MsgBlock) error {
	var raw bytes.Buffer
	if err := b.Serialize(&raw); err != nil {
		return fmt.Errorf("block %v: %w", b.BlockHash(), err)
	}
	var rejected *string
	if err := n.Call(ctx, &rejected, "submitblock", hex.EncodeToString(raw.Bytes())); err != nil {
		return err
	}
	if rejected != nil {
		return fmt.Errorf("block %v %s", b.BlockHash(), *rejected)
	}
	return nil
}

// Invalidate makes the node treat the block and all after it as invalid, so its
// best chain ends before it or becomes another branch.
func (n *Node) Invalidate(ctx context.Context, hash chainhash.Hash) error {
	return n.Call(ctx, nil, "invalidateblock", hash.String())
}

// Reconsider takes Invalidate back for one block; blocks after it have to be
// reconsidered each.
func (n *Node) Reconsider(ctx context.Context, hash chainhash.Hash) error {
	return n.Call(ctx, nil, "reconsiderblock", hash.String())
}

// SendRawTransaction puts a transaction into the mempool by JSON-RPC. Such
// transactions never reach gRPC's stream of unconfirmed ones.
func (n *Node) SendRawTransaction(ctx context.Context, tx *wire.MsgTx) error {
	raw, err := serialize(tx)
	if err != nil {
		return err
	}
	return n.Call(ctx, nil, "sendrawtransaction", hex.EncodeToString(raw))
}

// SubmitTransaction puts a transaction into the mempool by gRPC, which is
// quicker and announces it to gRPC's subscribers.
func (n *Node) SubmitTransaction(ctx context.Context, tx *wire.MsgTx) error {
	raw, err := serialize(tx)
	if err != nil {
		return err
	}
	if _, err := n.grpc.SubmitTransaction(ctx, &pb.SubmitTransactionRequest{Transaction: raw}); err != nil {
		return fmt.Errorf("transaction %v: %w", tx.TxHash(), err)
	}
	return nil
}

// Mempool returns the txids of the node's mempool, in no order.
func (n *Node) Mempool(ctx context.Context) ([]chainhash.Hash, error) {
	var list []string
	if err := n.Call(ctx, &list, "getrawmempool"); err != nil {
		return nil, err
	}
	txids := make([]chainhash.Hash, len(list))
	for i, s := range list {
		txid, err := parseHash(s)
		if err != nil {
			return nil, err
		}
		txids[i] = txid
	}
	return txids, nil
}

// Connect makes n and other peers, which then follow the longer of their
// chains.
func (n *Node) Connect(ctx context.Context, other *Node) error {
	return n.Call(ctx, nil, "node", "connect", other.p2pAddress, "perm")
}

// Disconnect takes Connect back, from the node that connected. The connection
// is closed some moments after it returns.
func (n *Node) Disconnect(ctx context.Context, other *Node) error {
	return n.Call(ctx, nil, "node", "remove", other.p2pAddress)
}

// block returns the height and header of a block, also of one on a side branch,
// for which bchd tells the header alone.
func (n *Node) block(ctx context.Context, hash chainhash.Hash) (block, error) {
	n.mu.Lock()
	known, ok := n.headers[hash]
	n.mu.Unlock()
	if ok {
		return known, nil
	}
	var encoded string
	if err := n.Call(ctx, &encoded, "getblockheader", hash.String(), false); err != nil {
		return block{}, err
	}
	var b block
	if err := b.header.Deserialize(hex.NewDecoder(strings.NewReader(encoded))); err != nil {
		return block{}, fmt.Errorf("header %v: %w", hash, err)
	}
	var verbose struct{ Height uint32 }
	if err := n.Call(ctx, &verbose, "getblockheader", hash.String(), true); err == nil {
		b.height = verbose.Height
	} else {
		parent, err := n.block(ctx, b.header.PrevBlock)
		if err != nil {
			return block{}, err
		}
		b.height = parent.height + 1
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.headers[hash] = b
	return b, nil
}

// nextTime returns a time for a block after prev: now, but later than the median
// of the last eleven.
func (n *Node) nextTime(ctx context.Context, prev block) (time.Time, error) {
	var times []int64
	for b := prev; ; {
		times = append(times, b.header.Timestamp.Unix())
		if len(times) == medianBlocks || b.height == 0 {
			break
		}
		var err error
		if b, err = n.block(ctx, b.header.PrevBlock); err != nil {
			return time.Time{}, err
		}
	}
	slices.Sort(times)
	return time.Unix(max(time.Now().Unix(), times[len(times)/2]+1), 0), nil
}

// coinbaseTx returns a coinbase that no other equals. Its script is long enough
// for the 100 bytes that a transaction needs above height 1000.
func coinbaseTx(height uint32, outputs []*wire.TxOut) (*wire.MsgTx, error) {
	unique := make([]byte, 32)
	rand.Read(unique)
	script, err := txscript.NewScriptBuilder().AddInt64(int64(height)).AddData(unique).Script()
	if err != nil {
		return nil, fmt.Errorf("coinbase: %w", err)
	}
	tx := wire.NewMsgTx(1)
	tx.AddTxIn(&wire.TxIn{
		PreviousOutPoint: wire.OutPoint{Index: math.MaxUint32},
		SignatureScript:  script,
		Sequence:         math.MaxUint32,
	})
	for _, out := range outputs {
		tx.AddTxOut(out)
	}
	return tx, nil
}

func merkleRoot(txs []*wire.MsgTx) chainhash.Hash {
	level := make([]chainhash.Hash, len(txs))
	for i, tx := range txs {
		level[i] = tx.TxHash()
	}
	for len(level) > 1 {
		if len(level)%2 == 1 {
			level = append(level, level[len(level)-1])
		}
		for i := range len(level) / 2 {
			level[i] = chainhash.DoubleHashH(slices.Concat(level[2*i][:], level[2*i+1][:]))
		}
		level = level[:len(level)/2]
	}
	return level[0]
}

func serialize(tx *wire.MsgTx) ([]byte, error) {
	var raw bytes.Buffer
	if err := tx.Serialize(&raw); err != nil {
		return nil, fmt.Errorf("transaction: %w", err)
	}
	return raw.Bytes(), nil
}

func parseHash(s string) (chainhash.Hash, error) {
	hash, err := chainhash.NewHashFromStr(s)
	if err != nil {
		return chainhash.Hash{}, fmt.Errorf("bchd answered with %q for a hash: %w", s, err)
	}
	return *hash, nil
}
