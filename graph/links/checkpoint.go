package links

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/cow"
	"github.com/keytree-bch/keytree/graph/forest"
	"github.com/keytree-bch/keytree/graph/statemap"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// A state in a checkpoint: how many keys, blocks with actions, actions, versions
// of keys, blocks that have some, things that are waited for, and records of the state root there are, none if they are not
// kept; and the secret of the hashes of what is waited for; each key, by number; each block with actions, and with versions; each thing that is waited for; the leaf of each record. Integers are
// big-endian.

// checkpointKeySize and the next two are what each takes, in bytes.
const (
	checkpointKeySize   = len(protocol.KeyHash{}) + chainhash.HashSize + 10*4 + 2
	checkpointBlockSize = 4 + 4
	checkpointWaitSize  = 8 + 4
	checkpointHeadSize  = 7*4 + len(waiting{}.secret)
)

// CheckpointSize is how many bytes WriteCheckpoint writes.
func (s *State) CheckpointSize() int {
	return checkpointHeadSize + checkpointKeySize*int(s.keys.Len()) +
		checkpointBlockSize*int(s.blocks.Len()+s.versions.blocks.Len()) + checkpointWaitSize*int(s.waiting.counts.Len()) +
		statemap.LeafSize*s.Records()
}

// WriteCheckpoint writes the state.
func (s *State) WriteCheckpoint(w *bufio.Writer) error {
	b := make([]byte, 0, checkpointKeySize)
	write := func() error {
		_, err := w.Write(b)
		b = b[:0]
		return err
	}
	records := none
	if s.records != nil {
		records = int32(s.records.Len())
	}
	for _, n := range []int32{s.keys.Len(), s.blocks.Len(), s.actions, s.versions.blocks.Len(), s.versions.count, s.waiting.counts.Len(), records} {
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	b = append(b, s.waiting.secret[:]...)
	if err := write(); err != nil {
		return err
	}
	for n := range s.keys.Len() {
		b = s.appendKey(b, n)
		if err := write(); err != nil {
			return err
		}
	}
	for _, blocks := range [...]*cow.Array[blockSpan]{&s.blocks, &s.versions.blocks} {
		for i := range blocks.Len() {
			block := blocks.Ref(i)
			b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, block.height), uint32(block.first))
			if err := write(); err != nil {
				return err
			}
		}
	}
	for hash, count := range s.waiting.counts.All() {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(b, hash), uint32(count))
		if err := write(); err != nil {
			return err
		}
	}
	if s.records == nil {
		return nil
	}
	for leaf := range s.records.Leaves() {
		if _, err := w.Write(leaf); err != nil {
			return err
		}
	}
	return nil
}

// appendKey appends where a key stands.
func (s *State) appendKey(b []byte, n int32) []byte {
	p, name := s.places.Ref(n), s.namedBy.Ref(n)
	b = append(append(b, s.keys.Ref(n)[:]...), name.tx[:]...)
	for _, v := range [...]int32{
		name.number, p.request, int32(p.stands), p.first, p.last, p.next, p.previous, p.version, p.mentioned, s.forest.Parent(n),
	} {
		b = binary.BigEndian.AppendUint32(b, uint32(v))
	}
	return append(b, p.since, p.nth)
}

// ReadCheckpoint reads what WriteCheckpoint wrote into a state that was new. It is as sound as the
// bytes are: whether the rules give the same is for package fsck to see. store.ErrMemory if there
// is no room for all; store.ErrDamaged if it refers to what there is not, or has other
// counts than its block. The state keeps the records of the state root afterwards if the one that was written did;
// txn reads the store, which has what they are of.
func (s *State) ReadCheckpoint(r *bufio.Reader, txn *store.Txn, counts store.Counts, room Room) error {
	head, err := fields(r, checkpointHeadSize)
	if err != nil {
		return err
	}
	keys, blocks := head.Action(), head.Action()
	s.actions = head.Action()
	blocksOfKeys := head.Action()
	s.versions.count = head.Action()
	waits, records := head.Action(), int32(head.Uint32())
	copy(s.waiting.secret[:], head.Take(len(s.waiting.secret)))
	switch {
	case head.Short():
		return head.Finish("head of a checkpoint")
	case int(keys) > room.Keys:
		return fmt.Errorf("%w: there is room for %d keys in links, there are %d", store.ErrMemory, room.Keys, keys)
	case int(records) > room.Records:
		return fmt.Errorf("%w: there is room for %d records of the state root, there are %d", store.ErrMemory, room.Records, records)
	}
	if err := s.readKeys(r, keys); err != nil {
		return err
	}
	if err := readSpans(r, &s.blocks, blocks, s.actions); err != nil {
		return err
	}
	if err := readSpans(r, &s.versions.blocks, blocksOfKeys, s.versions.count); err != nil {
		return err
	}
	waiting := uint32(0)
	for range waits {
		d, err := fields(r, checkpointWaitSize)
		if err != nil {
			return err
		}
		hash, count := d.Uint64(), d.Action()
		s.waiting.counts.Set(hash, count)
		waiting += uint32(count)
	}
	if links := s.links(); links != counts.Links || waiting != counts.Waiting {
		return fmt.Errorf("%w: a checkpoint has %d links and %d actions that wait, its block %d and %d",
			store.ErrDamaged, links, waiting, counts.Links, counts.Waiting)
	}
	return s.readRecords(r, txn, records)
}

// readSpans reads so many blocks, which have so many things together.
func readSpans(r *bufio.Reader, spans *cow.Array[blockSpan], blocks, count int32) error {
	for i := range blocks {
		d, err := fields(r, checkpointBlockSize)
		if err != nil {
			return err
		}
		block := blockSpan{d.Uint32(), d.Action()}
		if i > 0 && (block.height <= spans.Ref(i-1).height || block.first <= spans.Ref(i-1).first) || i == 0 && block.first != 0 || block.first >= count {
			return fmt.Errorf("%w: block %d of a checkpoint is not in order", store.ErrDamaged, block.height)
		}
		spans.Append(block)
	}
	return nil
}

// readRecords reads the leaves of so many records; none: they were not kept.
func (s *State) readRecords(r *bufio.Reader, txn *store.Txn, records int32) error {
	if s.records = nil; records < 0 {
		return nil
	}
	b := statemap.NewBuilder(int(min(records, 2*s.keys.Len()))) // and more if ids have merged
	for range records {
		d, err := fields(r, statemap.LeafSize)
		if err != nil {
			return err
		}
		b.AddEncoded(d.Rest)
	}
	l := s.ledger(txn, never)
	m, err := b.Map(func(ref int32) (protocol.MapKey, error) {
		if ref >= s.keys.Len() {
			return protocol.MapKey{}, fmt.Errorf("%w: a checkpoint refers to key %d, there are %d", store.ErrDamaged, ref, s.keys.Len())
		}
		return s.keyByRef(&l)(ref)
	})
	s.records = &m
	return err
}

// links counts the links in force.
func (s *State) links() (n uint32) {
	for key := range s.forest.Len() {
		if s.forest.Parent(key) != none {
			n++
		}
	}
	return n
}

// fields reads the next n bytes. They are good until the next call.
func fields(r *bufio.Reader, n int) (store.Decoder, error) {
	b, err := r.Peek(n)
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return store.Decoder{}, err
	}
	_, err = r.Discard(n)
	return store.Decoder{Rest: b}, err
}

// readKeys reads where so many keys stand.
func (s *State) readKeys(r *bufio.Reader, keys int32) error {
	s.keys.Reserve(keys)
	parents := make([]int32, 0, keys)
	for n := range keys {
		d, err := fields(r, checkpointKeySize)
		if err != nil {
			return err
		}
		if s.keys.Add(d.Key()) != n {
			return fmt.Errorf("%w: a checkpoint has a key twice", store.ErrDamaged)
		}
		number := func() int32 { return int32(d.Uint32()) }
		name := naming{tx: d.Hash(), number: number()}
		p := keyPlace{request: number(), stands: d.Uint32(), named: !name.none()}
		p.first, p.last, p.next, p.previous = number(), number(), number(), number()
		p.version, p.mentioned = number(), number()
		parent := number()
		p.since, p.nth = d.Byte(), d.Byte()
		for _, key := range [...]int32{p.first, p.last, p.next, p.previous, parent} {
			if key < none || key >= keys {
				return fmt.Errorf("%w: a checkpoint refers to key %d, there are %d", store.ErrDamaged, key, keys)
			}
		}
		if p.version < none || p.version >= s.versions.count {
			return fmt.Errorf("%w: a checkpoint refers to version %d of keys, there are %d", store.ErrDamaged, p.version, s.versions.count)
		}
		for _, action := range [...]int32{name.number, p.request, p.mentioned} {
			if action < none || action >= s.actions {
				return fmt.Errorf("%w: a checkpoint refers to action %d, there are %d", store.ErrDamaged, action, s.actions)
			}
		}
		s.places.Append(p)
		s.namedBy.Append(name)
		parents = append(parents, parent)
	}
	if !forest.Rooted(parents) {
		return fmt.Errorf("%w: the links of a checkpoint form a cycle", store.ErrDamaged)
	}
	s.build(parents)
	return nil
}
