package anchors

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// ReadBlock reads the anchors of the block at height, which has a hash, as they were given to Apply,
// from what is stored of them. Only the proofs and the authors are believed: the
// rest is checked against them. It calls damaged for each record that is not what it should be; sound
// is false then.
func ReadBlock(txn *store.Txn, height uint32, hash chainhash.Hash, damaged func(key []byte, why error)) (b Block, sound bool, err error) {
	r := rereading{txn: txn, height: height, hash: hash, damaged: damaged, sound: true}
	err = r.read()
	return r.block, r.sound, err
}

// ReadUnproven reads the anchors of the block at height as ReadBlock does, but not what proves that the block
// has them: it is for a block that was connected, and so checked, and whose state hash shows that
// these are still its anchors. Check refuses what it returns. ErrDamaged.
func ReadUnproven(txn *store.Txn, height uint32) (Block, error) {
	var damage error
	r := rereading{txn: txn, height: height, damaged: func(_ []byte, why error) { damage = errors.Join(damage, why) }, sound: true}
	stored, err := readTxs(txn, height)
	if err == nil {
		err = r.readTxs(stored)
	}
	return r.block, errors.Join(err, damage)
}

// rereading is ReadBlock under way.
type rereading struct {
	txn     *store.Txn
	height  uint32
	hash    chainhash.Hash
	damaged func(key []byte, why error)

	block Block
	sound bool
}

// unusable reports damage. Other errors it returns.
func (r *rereading) unusable(key []byte, err error) error {
	if errors.Is(err, store.ErrDamaged) || errors.Is(err, store.ErrBlock) {
		r.sound = false
		r.damaged(key, err)
		return nil
	}
	return err
}

func (r *rereading) read() error {
	stored, err := readTxs(r.txn, r.height)
	if err != nil || len(stored) == 0 {
		return r.unusable(store.ChunkKey(store.PrefixAnchorTxs, r.height, 0), err)
	}
	header, err := readHeader(r.txn, r.height)
	var root chainhash.Hash
	if r.block.Header = header.header; err == nil {
		root, err = r.block.MerkleRoot(r.hash)
	}
	if err != nil {
		return r.unusable(store.HeightKey(store.PrefixHeader, r.height), err)
	}
	if err := r.readTxs(stored); err != nil || !r.sound {
		return err
	}
	if err := r.readMerkleTree(); err != nil || !r.sound {
		return err
	}
	if err := r.block.Check(r.hash); err != nil {
		r.findUnproven(root)
		return r.unusable(store.HeightKey(store.PrefixMerkle, r.height), err)
	}
	return nil
}

// readTxs reads the serialized transactions.
func (r *rereading) readTxs(stored []storedTx) error {
	raws := store.NewReader(r.txn, store.HeightKey(store.PrefixRawTx, r.height))
	defer raws.Close()
	for n := range stored {
		t, at := &stored[n], place{r.height, uint32(n)}
		a := Tx{Index: t.index}
		if t.hasAuthor {
			a.Author = &t.author
		}
		var err error
		if a.Raw, err = readRawTx(raws, at, nil); err == nil && a.Raw.TxID() != t.txid {
			err = fmt.Errorf("%w: it is transaction %v, expected %v", store.ErrDamaged, a.Raw.TxID(), t.txid)
		}
		if err != nil {
			r.damaged(txsKey(at), fmt.Errorf("transaction %v is not the one that is stored", t.txid))
			return r.unusable(store.AppendRawTxKey(nil, at.height, at.number, 0), err)
		}
		r.block.Txs = append(r.block.Txs, a)
	}
	return nil
}

// readMerkleTree reads all merkle nodes of the block, which have to be where they are looked for.
func (r *rereading) readMerkleTree() error {
	it := store.NewReader(r.txn, store.HeightKey(store.PrefixMerkle, r.height))
	defer it.Close()
	for it.Rewind(); it.Valid(); it.Next() {
		key := it.Item().KeyCopy()
		value, err := store.Value(it.Item())
		if err != nil {
			return err
		}
		chunk := merkleChunk(value)
		if err := chunk.check(); err != nil {
			return r.unusable(key, err)
		}
		for n := range chunk.len() {
			r.block.Merkle = append(r.block.Merkle, chunk.at(n))
		}
		last := r.block.Merkle[len(r.block.Merkle)-1]
		if !bytes.Equal(key, store.AppendMerkleKey(nil, r.height, last.Level, last.Index)) {
			return r.unusable(key, fmt.Errorf("%w: the last merkle node is %d of level %d", store.ErrDamaged, last.Index, last.Level))
		}
	}
	return nil
}

// findUnproven reports the first anchor that cannot be shown to be in the block, if
// there is one.
func (r *rereading) findUnproven(root chainhash.Hash) {
	for n := range r.block.Txs {
		t := &r.block.Txs[n]
		branch, err := r.block.Merkle.Branch(t.Index)
		if err == nil {
			err = protocol.CheckMerkleBranch(t.Raw, t.Index, branch, root)
		}
		if err != nil {
			r.damaged(txsKey(place{r.height, uint32(n)}), fmt.Errorf("transaction %v cannot be shown to be in the block: %w", t.Raw.TxID(), err))
			return
		}
	}
}
