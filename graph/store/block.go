package store

import (
	"cmp"
	"encoding/binary"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

// Tip is the last block applied, with what the graph adds up to there.
type Tip struct {
	Height    uint32
	Hash      chainhash.Hash
	StateHash [32]byte // protocol/SPEC.md §9
	StateRoot [32]byte // protocol/SPEC.md §12; zero if none was kept when the block came
	Counts    Counts
}

// Counts are totals as of a block.
type Counts struct {
	Links      uint32 // links in force
	Identities uint32 // identities that are CURRENT
	Refused    uint32 // actions refused, ever
	Waiting    uint32 // actions waiting for what they refer to
}

// Block is the value under 'b': what matters of a block's header, and what the graph
// adds up to with it.
type Block struct {
	Hash      chainhash.Hash
	Prev      chainhash.Hash
	Time      uint32
	Bits      uint32
	StateHash [32]byte
	StateRoot [32]byte // zero: none was kept
	Counts    Counts
}

// Encode returns the record.
func (r *Block) Encode() []byte {
	b := make([]byte, 0, 4*32+6*4)
	b = append(b, r.Hash[:]...)
	b = append(b, r.Prev[:]...)
	b = binary.BigEndian.AppendUint32(b, r.Time)
	b = binary.BigEndian.AppendUint32(b, r.Bits)
	b = append(b, r.StateHash[:]...)
	b = append(b, r.StateRoot[:]...)
	for _, n := range []uint32{r.Counts.Links, r.Counts.Identities, r.Counts.Refused, r.Counts.Waiting} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

// DecodeBlock reads what Encode returned. ErrDamaged.
func DecodeBlock(b []byte) (Block, error) {
	d := Decoder{Rest: b}
	r := Block{Hash: d.Hash(), Prev: d.Hash(), Time: d.Uint32(), Bits: d.Uint32(), StateHash: d.Hash(), StateRoot: d.Hash()}
	r.Counts = Counts{Links: d.Uint32(), Identities: d.Uint32(), Refused: d.Uint32(), Waiting: d.Uint32()}
	return r, d.Finish("block record")
}

// Tip returns the tip that the block at a height is.
func (r *Block) Tip(height uint32) *Tip {
	return &Tip{Height: height, Hash: r.Hash, StateHash: r.StateHash, StateRoot: r.StateRoot, Counts: r.Counts}
}

// ReadBlock reads the record of the block at height. ErrDamaged if there is none.
func ReadBlock(txn *Txn, height uint32) (Block, error) {
	value, err := Read(txn, HeightKey(PrefixBlock, height))
	if err != nil {
		return Block{}, err
	}
	if value == nil {
		return Block{}, fmt.Errorf("%w: no record of block %d", ErrDamaged, height)
	}
	return DecodeBlock(value)
}

// TipHeight reads the height of the tip, nil if there is no block. ErrDamaged if
// the tip is not a block that is there: then nothing can be said to lie above it.
func TipHeight(txn *Txn) (*uint32, error) {
	value, err := Read(txn, []byte{PrefixTip})
	if err != nil {
		return nil, err
	}
	if value == nil {
		return nil, fmt.Errorf("%w: no record of the tip", ErrDamaged)
	}
	if len(value) == 0 {
		return nil, nil
	}
	d := Decoder{Rest: value}
	height, hash := d.Uint32(), d.Hash()
	if err := d.Finish("tip"); err != nil {
		return nil, err
	}
	record, err := ReadBlock(txn, height)
	if err == nil && record.Hash != hash {
		err = fmt.Errorf("%w: the tip is block %v, at its height %d is %v", ErrDamaged, hash, height, record.Hash)
	}
	return &height, err
}

// ReadTip reads the tip, nil if there is no block. Errors are those of TipHeight.
func ReadTip(txn *Txn) (*Tip, error) {
	height, err := TipHeight(txn)
	if err != nil || height == nil {
		return nil, err
	}
	record, err := ReadBlock(txn, *height)
	if err != nil {
		return nil, err
	}
	return record.Tip(*height), nil
}

// BlockAbove returns the height of a block record above the tip, nil if there is
// none, as it should be once what was not finished has been swept.
func BlockAbove(txn *Txn, tip *uint32) *uint32 {
	it := NewIterator(txn, []byte{PrefixBlock})
	defer it.Close()
	from := []byte{PrefixBlock}
	if tip != nil {
		from = append(HeightKey(PrefixBlock, *tip), 0)
	}
	if it.Seek(from); !it.Valid() || len(it.Item().Key()) != 5 {
		return nil
	}
	height := binary.BigEndian.Uint32(it.Item().Key()[1:])
	return &height
}

// UndoAbove tells whether there is something above the tip, which is at a height: what a step has
// left behind that failed.
func UndoAbove(txn *Txn, tip uint32) bool {
	it := NewIterator(txn, []byte{PrefixUndo})
	defer it.Close()
	it.Seek(HeightKey(PrefixUndo, tip+1))
	return it.Valid()
}

// Stale is a block that was taken off the best chain.
type Stale struct {
	Height   uint32
	Hash     chainhash.Hash
	PrevHash chainhash.Hash
}

// Encode returns the record under 'd', key and value, of a block that was the seq-th to
// be taken off the chain.
func (s *Stale) Encode(seq uint64) (key, value []byte) {
	return StaleKey(s.Height, s.Hash), append(binary.BigEndian.AppendUint64(nil, seq), s.PrevHash[:]...)
}

// ReadStale reads a record under 'd'.
func ReadStale(item *Item) (s Stale, seq uint64, err error) {
	value, err := Value(item)
	if err != nil {
		return s, 0, err
	}
	return DecodeStale(item.Key(), value)
}

// DecodeStale reads what Encode returned. ErrDamaged.
func DecodeStale(key, value []byte) (s Stale, seq uint64, err error) {
	k, d := Decoder{Rest: key[1:]}, Decoder{Rest: value}
	s.Height, s.Hash = k.Uint32(), k.Hash()
	seq, s.PrevHash = d.Uint64(), d.Hash()
	return s, seq, cmp.Or(k.Finish("stale block's key"), d.Finish("stale block"))
}

// UndoFrom reads the lowest height that can be taken back; ok is false if the store does not say:
// then all can.
func UndoFrom(txn *Txn) (height uint32, ok bool, err error) {
	value, err := Read(txn, []byte{PrefixUndoFrom})
	if err != nil || value == nil {
		return 0, false, err
	}
	d := Decoder{Rest: value}
	height = d.Uint32()
	return height, true, d.Finish("undo horizon")
}
