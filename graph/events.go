package graph

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// BlockHeader returns what the graph keeps of the header of the applied block at
// height: Hash, PrevBlock, Time and Bits; the rest is zero. ErrHeight if there is
// no such block.
func (g *Graph) BlockHeader(height uint32) (protocol.Header, error) {
	v, err := g.At(&height)
	if err != nil {
		return protocol.Header{}, err
	}
	defer v.Close()
	return protocol.Header{Hash: v.block.hash, PrevBlock: v.block.prev, Time: v.block.time, Bits: v.block.bits}, nil
}

// Disconnects returns the stale blocks with a height in [from, to], in the order
// in which they were taken off the chain, also those that have come back to it
// since. Those older than the undo horizon are forgotten; of a block that was
// taken off twice the last time counts.
func (g *Graph) Disconnects(from, to uint32) ([]Disconnected, error) {
	type stale struct {
		Disconnected
		seq uint64
	}
	var found []stale
	err := g.inStore(func(txn *badger.Txn) error {
		it := newIterator(txn, []byte{prefixStale})
		defer it.Close()
		for it.Seek(heightKey(prefixStale, from)); it.Valid(); it.Next() {
			block, seq, err := readStale(it.Item())
			if err != nil {
				return err
			}
			if block.Height > to {
				break
			}
			found = append(found, stale{block, seq})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b stale) int { return cmp.Compare(a.seq, b.seq) })
	blocks := make([]Disconnected, len(found))
	for i := range found {
		blocks[i] = found[i].Disconnected
	}
	return blocks, nil
}

// DisconnectedBlock returns a stale block. ErrNotFound if it is not known to
// have been taken off the chain.
func (g *Graph) DisconnectedBlock(height uint32, hash chainhash.Hash) (block Disconnected, err error) {
	err = g.inStore(func(txn *badger.Txn) error {
		item, err := txn.Get(staleKey(height, hash))
		if err == badger.ErrKeyNotFound {
			return fmt.Errorf("stale block %v at height %d: %w", hash, height, ErrNotFound)
		}
		if err != nil {
			return fmt.Errorf("reading the database: %w", err)
		}
		block, _, err = readStale(item)
		return err
	})
	return block, err
}

func readStale(item *badger.Item) (block Disconnected, seq uint64, err error) {
	key := item.Key()
	value, err := item.ValueCopy(nil)
	if err != nil {
		return block, 0, fmt.Errorf("reading the database: %w", err)
	}
	k, d := decoder{rest: key[1:]}, decoder{rest: value}
	block.Height, block.Hash = k.uint32(), k.hash()
	seq, block.PrevHash = d.uint64(), d.hash()
	return block, seq, cmp.Or(k.finish("stale block's key"), d.finish("stale block"))
}

// nextStale returns the number of the next block to be taken off the chain.
func nextStale(txn *badger.Txn) (uint64, error) {
	it := newIterator(txn, []byte{prefixStale})
	defer it.Close()
	var next uint64
	for it.Rewind(); it.Valid(); it.Next() {
		_, seq, err := readStale(it.Item())
		if err != nil {
			return 0, err
		}
		next = max(next, seq+1)
	}
	return next, nil
}
