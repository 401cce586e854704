package identity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/statelog"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/rpc/admission"
)

// Blocks is where blocks of the graph's chain are read again: the node. It is called concurrently, and returns errors of package
// node.
type Blocks interface {
	// Block returns the serialized block.
	Block(ctx context.Context, hash chainhash.Hash) ([]byte, error)
}

const (
	// maxTransactionBytes is how many bytes all transactions of a proof have at most: whoever pays for them decides how long
	// each is.
	maxTransactionBytes = 8 << 20
	// blockTimeout is how long the node may take for a block, blocksTimeout for all of a proof.
	blockTimeout  = 5 * time.Second
	blocksTimeout = 30 * time.Second
	// unitBlock is as how many calls a block counts that the node is asked for.
	unitBlock = 100
	// readersAtOnce is how many proofs read blocks at a time, of which each has one in memory. Others wait.
	readersAtOnce = 2
)

// wanted is a transaction that a proof is to have, and where it is.
type wanted struct {
	txid          chainhash.Hash
	height, index uint32
}

// pair are the transactions of a link.
type pair struct{ accept, request wanted }

// addTransactions adds to a proof the MLA and MLR of the links that it shows, as far as they have room, and returns how many links
// are left without. No more than one block is in memory at a time, and each is read once.
func (s *identityService) addTransactions(ctx context.Context, p *proof.StateProof, served *statelog.Served, shown []proof.ProvenSubject, held *admission.Making) (without uint32, err error) {
	pairs, without, err := s.pairs(p.Entry.Height, shown)
	if err != nil || len(pairs) == 0 {
		return without, err
	}
	var all []wanted
	for _, of := range pairs {
		all = append(all, of.accept, of.request)
	}
	slices.SortFunc(all, func(a, b wanted) int { return cmp.Or(cmp.Compare(a.height, b.height), cmp.Compare(a.index, b.index)) })
	all = slices.Compact(all)
	blocks := 0
	for i := range all {
		if i == 0 || all[i].height != all[i-1].height {
			blocks++
		}
	}
	if err := admission.Work(ctx, blocks*unitBlock); err != nil {
		return 0, err
	}
	admission.EndTurn(ctx) // the rest is waiting for the node
	ctx, cancel := context.WithTimeout(ctx, blocksTimeout)
	defer cancel()
	select {
	case s.readers <- struct{}{}:
		defer func() { <-s.readers }()
	case <-ctx.Done():
		return 0, s.blockFault(ctx, 0, ctx.Err())
	}
	items, room := make(map[chainhash.Hash]proof.StateTransaction, len(all)), maxTransactionBytes
	for len(all) > 0 && room > 0 {
		n := 1
		for n < len(all) && all[n].height == all[0].height {
			n++
		}
		found, err := s.readBlock(ctx, served, all[:n])
		if err != nil {
			return 0, err
		}
		for i := range found {
			if room -= len(found[i].Raw); room < 0 {
				break
			}
			if err := held.Grow(len(found[i].Raw)); err != nil {
				return 0, err
			}
			items[all[i].txid] = found[i]
		}
		all = all[n:]
	}
	for _, of := range pairs {
		accept, accepted := items[of.accept.txid]
		request, requested := items[of.request.txid]
		if !accepted || !requested {
			without++
			continue
		}
		p.Transactions = append(p.Transactions, accept, request)
	}
	return without, nil
}

// pairs finds where the transactions of the links are that a proof as of a height shows: of as many links as it may have, those next to the
// subjects first. It returns how many links are left out.
func (s *identityService) pairs(height uint32, shown []proof.ProvenSubject) (pairs []pair, without uint32, err error) {
	view, err := s.viewAt(&height)
	if err != nil {
		return nil, 0, err
	}
	defer view.Close()
	seen := make(map[protocol.KeyHash]bool)
	for step := 0; ; step++ {
		longer := false
		for i := range shown {
			if step >= len(shown[i].Keys) {
				continue
			}
			longer = true
			r := shown[i].Keys[step]
			if seen[r.Key] || !r.HasParent() {
				continue
			}
			seen[r.Key] = true
			if len(pairs) == proof.MaxStateTransactions/2 {
				without++
				continue
			}
			of, err := linkOf(view, r.Accept)
			if err != nil {
				return nil, 0, s.fault(err)
			}
			pairs = append(pairs, of)
		}
		if !longer {
			return pairs, without, nil
		}
	}
}

// linkOf finds the transactions of the link that an MLA has made.
func linkOf(view *graph.View, accept chainhash.Hash) (pair, error) {
	mla, err := view.Action(accept)
	if err != nil {
		return pair{}, err
	}
	if mla.RefTx == nil {
		return pair{}, fmt.Errorf("action %v has made a link and refers to nothing", accept)
	}
	mlr, err := view.Action(*mla.RefTx)
	return pair{wanted{accept, mla.Height, mla.Index}, wanted{mlr.TxID, mlr.Height, mlr.Index}}, err
}

// readBlock reads transactions of one block, in their order, with what shows that the state log has it.
func (s *identityService) readBlock(ctx context.Context, served *statelog.Served, txs []wanted) ([]proof.StateTransaction, error) {
	height := txs[0].height
	entry, inLog, err := served.Entry(ctx, height)
	if err != nil {
		return nil, s.fault(err)
	}
	header, err := s.graph.BlockHeader(height)
	switch {
	case graph.OffChain(err), err == nil && header.Hash != entry.Block:
		return nil, errMoved
	case err != nil:
		return nil, s.fault(err)
	}
	if s.blocks == nil {
		return nil, s.blockFault(ctx, height, node.ErrUnavailable)
	}
	within, cancel := context.WithTimeout(ctx, blockTimeout)
	defer cancel()
	raw, err := s.blocks.Block(within, header.Hash)
	if err != nil && within.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: no answer within %v", node.ErrUnavailable, blockTimeout)
	}
	if err != nil {
		return nil, s.blockFault(ctx, height, err)
	}
	items, err := inBlock(raw, txs)
	if err != nil {
		return nil, s.blockFault(ctx, height, fmt.Errorf("%w: %w", node.ErrInvalid, err))
	}
	found := make([]proof.StateTransaction, len(items))
	for i := range items {
		found[i] = proof.StateTransaction{BundleItem: items[i], StateHash: entry.StateHash, StateRoot: entry.StateRoot, Inclusion: inLog.Hashes}
	}
	return found, nil
}

// inBlock shows of transactions that they are in a block: what is made is checked as who gets the proof does.
func inBlock(raw []byte, txs []wanted) (items []proof.BundleItem, err error) {
	b, err := protocol.ReadBlock(raw)
	if err != nil {
		return nil, err
	}
	var indices []uint32
	for _, w := range txs {
		if int64(w.index) >= int64(b.TxCount) {
			return nil, fmt.Errorf("block %v has %d transactions, expected transaction %d", b.Hash, b.TxCount, w.index)
		}
		indices = append(indices, w.index)
	}
	tree := b.PartialMerkleTree(indices...)
	for index, tx := range b.Txs() {
		if len(items) == len(txs) {
			break
		}
		w := txs[len(items)]
		if index != w.index {
			continue
		}
		if id := tx.TxID(); id != w.txid {
			return nil, fmt.Errorf("transaction %d of block %v is %v, expected %v", index, b.Hash, id, w.txid)
		}
		branch, err := tree.Branch(index)
		if err == nil {
			err = protocol.CheckMerkleBranch(tx, index, branch, b.Header.MerkleRoot)
		}
		if err != nil {
			return nil, err
		}
		items = append(items, proof.BundleItem{Height: w.height, Header: [protocol.HeaderSize]byte(raw), Index: index, Branch: branch, Raw: slices.Clone(tx)})
	}
	return items, nil
}

// blockFault is what a client is told of a block that could not be read, 0 for none in particular. Addresses of the operator's machines
// are not for strangers.
func (s *identityService) blockFault(ctx context.Context, height uint32, err error) error {
	if ctx.Err() != nil && context.Cause(ctx) == context.DeadlineExceeded {
		return status.Errorf(codes.Unavailable, "the node has not given the blocks with the transactions within %v; ask for fewer addresses, or without transactions", blocksTimeout)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return s.fault(err)
	}
	s.log.Warn().Err(err).Uint32("height", height).Msg("a block for a proof could not be read from the node")
	why := "the node does not answer"
	switch {
	case errors.Is(err, node.ErrNotFound):
		why = "the node does not have it any more: is it pruned?"
	case errors.Is(err, node.ErrInvalid):
		why = "the node has answered with something else"
	}
	return status.Errorf(codes.Unavailable, "block %d, with transactions of the proof: %s; try again later, or ask without transactions", height, why)
}
