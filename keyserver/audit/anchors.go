package audit

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
)

// Anchored is an anchor that was shown to be in a block.
type Anchored struct {
	Number uint32 // in its chain; 0 is the genesis anchor
	TxID   chainhash.Hash
	Height uint32
	Block  chainhash.Hash
	Time   time.Time // in the block's header, as the miner says
	protocol.Anchor
}

// anchoredText is an Anchored as JSON has it: hashes of the chain as they are
// displayed, the keyserver's in hex.
type anchoredText struct {
	Number   uint32    `json:"number"`
	TxID     string    `json:"txid"`
	Height   uint32    `json:"height"`
	Block    string    `json:"block"`
	Time     time.Time `json:"time"`
	Domain   string    `json:"domain"`
	Position uint64    `json:"position"`
	Head     string    `json:"head"`
	Root     string    `json:"root"`
}

// MarshalJSON implements json.Marshaler.
func (a *Anchored) MarshalJSON() ([]byte, error) {
	return json.Marshal(anchoredText{
		a.Number, a.TxID.String(), a.Height, a.Block.String(), a.Time,
		a.Domain, a.Position, hex.EncodeToString(a.Head[:]), hex.EncodeToString(a.Root[:]),
	})
}

// UnmarshalJSON implements json.Unmarshaler.
func (a *Anchored) UnmarshalJSON(b []byte) error {
	var t anchoredText
	if err := json.Unmarshal(b, &t); err != nil {
		return err
	}
	head, err1 := hex.DecodeString(t.Head)
	root, err2 := hex.DecodeString(t.Root)
	if err := errors.Join(err1, err2, chainhash.Decode(&a.TxID, t.TxID), chainhash.Decode(&a.Block, t.Block)); err != nil {
		return err
	}
	if len(head) != len(a.Head) || len(root) != len(a.Root) {
		return fmt.Errorf("head and root of %d and %d bytes, expected %d", len(head), len(root), len(a.Head))
	}
	a.Number, a.Height, a.Time, a.Domain, a.Position = t.Number, t.Height, t.Time, t.Domain, t.Position
	a.Head, a.Root = [32]byte(head), [32]byte(root)
	return nil
}

// anchorOf reads an item, which was verified, as the anchor with a number.
func anchorOf(it *proof.BundleItem, number uint32) (*Anchored, error) {
	h, err := protocol.ParseHeader(it.Header[:])
	if err != nil {
		return nil, err
	}
	tx, err := protocol.ParseTx(it.Raw)
	if err != nil {
		return nil, err
	}
	record, ok := tx.Anchor()
	if !ok {
		return nil, fmt.Errorf("tx %v carries no anchor record", tx.TxID())
	}
	return &Anchored{
		Number: number, TxID: tx.TxID(), Height: it.Height, Block: h.Hash,
		Time: time.Unix(int64(h.Time), 0).UTC(), Anchor: record,
	}, nil
}

// Closed is how a chain of anchors was broken.
type Closed struct {
	Break  protocol.Break
	TxID   chainhash.Hash // of the tx that spent the baton
	Height uint32
	Record *protocol.Anchor // that it carries; nil for none
}

// breakKinds names the breaks.
var breakKinds = map[protocol.Break]Kind{
	protocol.NoRecord:      SpentWithoutRecord,
	protocol.OtherDomain:   SpentForOther,
	protocol.NotFirstInput: SpentByOtherInput,
	protocol.LowerPosition: LowerPosition,
	protocol.OtherHead:     OtherHead,
}

// text says how a chain whose last anchor is last was broken.
func (c *Closed) text(last *Anchored) string {
	s := fmt.Sprintf("tx %v, block %d, closes the chain of anchors: %v", c.TxID, c.Height, c.Break)
	if r := c.Record; r != nil && c.Break.BelongsToChain() {
		s += fmt.Sprintf(": anchor %d commits to position %d with head %x, this one to position %d with head %x and root %x",
			last.Number, last.Position, last.Head, r.Position, r.Head, r.Root)
	}
	return s
}

// Headers says which blocks are on the best chain.
type Headers interface {
	// OnBestChain returns nil if the block with this hash is the best chain's at
	// height. ErrNotOnBestChain if another one is, ErrNoHeader if that is not known;
	// any other error says why there was no answer.
	OnBestChain(ctx context.Context, height uint32, block chainhash.Hash) error
}

var (
	// ErrNotOnBestChain says that another block is at a height.
	ErrNotOnBestChain = errors.New("the block is not on the best chain")
	// ErrNoHeader says that it is not known which block is at a height: take more
	// headers, or another node.
	ErrNoHeader = errors.New("no header is known at this height")
)

// follower follows a chain of anchors from its genesis anchor, or from any that
// was verified before: checks 2 and 3.
type follower struct {
	net     *chaincfg.Params
	genesis chainhash.Hash
	headers Headers // nil: nobody is asked whether blocks are on the best chain

	last   *Anchored // nil before the genesis anchor
	closed *Closed   // nil while the chain is not broken

	block  *protocol.Header // of the last item
	height uint32
	blocks int      // how many different ones
	work   *big.Int // in them
}

func newFollower(net *chaincfg.Params, genesis chainhash.Hash, headers Headers, last *Anchored) *follower {
	return &follower{net: net, genesis: genesis, headers: headers, last: last, work: new(big.Int)}
}

// count is how many anchors there were.
func (f *follower) count() uint32 {
	if f.last == nil {
		return 0
	}
	return f.last.Number + 1
}

// next takes the next item of the chain. After an error the follower is as it was
// before; the error is a problem.
func (f *follower) next(ctx context.Context, it *proof.BundleItem) error {
	h, err := f.checkBlock(ctx, it)
	if err != nil {
		return err
	}
	tx := protocol.Tx(it.Raw) // whose form has been checked
	txid := tx.TxID()
	var record *protocol.Anchor
	if a, ok := tx.Anchor(); ok {
		record = &a
	}
	switch {
	case f.closed != nil:
		return problemf(Gap, "tx %v follows tx %v, which closed the chain of anchors: nothing can", txid, f.closed.TxID)
	case f.last == nil && txid != f.genesis:
		return problemf(Unrelated, "these anchors begin with tx %v: they do not descend from the pinned genesis anchor %v and say nothing about it", txid, f.genesis)
	case f.last == nil && record == nil:
		return problemf(Unrelated, "the pinned genesis anchor %v carries no anchor record: is this its txid?", txid)
	case f.last == nil:
		return f.accept(it, h)
	}
	baton := wire.OutPoint{Hash: f.last.TxID, Index: 0}
	input, spends := uint32(0), false
	for i, out := range tx.Inputs() {
		if out == baton {
			input, spends = i, true
			break
		}
	}
	if !spends && record != nil {
		return problemf(Unrelated, "tx %v carries a record of %s, but does not spend the baton %v: it does not descend from the pinned genesis anchor through anchor %d", txid, record.Domain, baton, f.last.Number)
	}
	if !spends {
		return problemf(Gap, "tx %v does not spend the baton %v of anchor %d: it is not the next of this chain", txid, baton, f.last.Number)
	}
	if it.Height < f.last.Height {
		return problemf(Gap, "tx %v in block %d spends the baton of block %d: the heights cannot be right", txid, it.Height, f.last.Height)
	}
	if b := f.last.Follow(record, input); b != protocol.Unbroken {
		f.seen(it.Height, h)
		f.closed = &Closed{Break: b, TxID: txid, Height: it.Height, Record: record}
		return nil
	}
	return f.accept(it, h)
}

func (f *follower) accept(it *proof.BundleItem, h *protocol.Header) error {
	last, err := anchorOf(it, f.count())
	if err != nil {
		return err
	}
	f.last = last
	f.seen(it.Height, h)
	return nil
}

// checkBlock checks that the item's transaction is in a block with work that, if
// somebody can be asked, is on the best chain.
func (f *follower) checkBlock(ctx context.Context, it *proof.BundleItem) (*protocol.Header, error) {
	what := fmt.Sprintf("anchor %d, block %d", f.count(), it.Height)
	h, err := protocol.ParseHeader(it.Header[:])
	if err == nil {
		err = protocol.CheckMerkleBranch(it.Raw, it.Index, it.Branch, h.MerkleRoot)
	}
	if err != nil {
		return nil, problemf(WrongBranch, "%s: %w", what, err)
	}
	known := f.block != nil && it.Height == f.height
	if known && f.block.Hash != h.Hash {
		return nil, problemf(NotOnChain, "%s: %w: two blocks, %v and %v, are said to be at this height", what, ErrNotOnBestChain, f.block.Hash, h.Hash)
	}
	if known {
		return &h, nil
	}
	if err := h.CheckWork(f.net.PowLimit); err != nil {
		return nil, problemf(NoWork, "%s: %w", what, err)
	}
	if f.headers == nil {
		return &h, nil
	}
	switch err := f.headers.OnBestChain(ctx, it.Height, h.Hash); {
	case err == nil:
		return &h, nil
	case errors.Is(err, ErrNotOnBestChain):
		return nil, problemf(NotOnChain, "%s: %w", what, err)
	case errors.Is(err, ErrNoHeader):
		return nil, problemf(StaleHeaders, "%s: %w", what, err)
	default:
		return nil, unavailable(ctx, what+": asking for its header", err)
	}
}

// unavailable is a source's error, unless the auditor itself was told to stop.
func unavailable(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return problemf(Unavailable, "%s: %w", what, err)
}

// seen adds up the work.
func (f *follower) seen(height uint32, h *protocol.Header) {
	if f.block != nil && f.block.Hash == h.Hash {
		return
	}
	f.block, f.height = h, height
	f.blocks++
	if w, err := h.Work(); err == nil { // CheckWork has seen the target
		f.work.Add(f.work, w)
	}
}
