package links

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"golang.org/x/sync/errgroup"

	"github.com/keytree-bch/keytree/graph/cow"
	"github.com/keytree-bch/keytree/graph/forest"
	"github.com/keytree-bch/keytree/graph/statemap"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// A state in a checkpoint: its head; each key, by number; each block with actions, and with versions; each thing that
// is waited for; the leaf of each record of the state root, if they are kept. Integers are big-endian.

// checkpointHead says how many there are of what follows it, and some more.
type checkpointHead struct {
	keys, blocks, actions, versionBlocks, versions, waits int32
	records                                               int32                       // none if they are not kept
	secret                                                [len(waiting{}.secret)]byte // of the hashes of what is waited for
}

// checkpointHeadSize and the next ones are what each takes, in bytes.
const (
	checkpointHeadSize  = 7*4 + len(checkpointHead{}.secret)
	checkpointKeySize   = len(protocol.KeyHash{}) + chainhash.HashSize + 10*4 + 2
	checkpointBlockSize = 4 + 4
	checkpointWaitSize  = 8 + 4
)

func (s *State) checkpointHead() checkpointHead {
	h := checkpointHead{s.keys.Len(), s.blocks.Len(), s.actions, s.versions.blocks.Len(), s.versions.count, s.waiting.counts.Len(), none, s.waiting.secret}
	if s.records != nil {
		h.records = int32(s.records.Len())
	}
	return h
}

func (h *checkpointHead) appendTo(b []byte) []byte {
	for _, n := range [...]int32{h.keys, h.blocks, h.actions, h.versionBlocks, h.versions, h.waits, h.records} {
		b = binary.BigEndian.AppendUint32(b, uint32(n))
	}
	return append(b, h.secret[:]...)
}

// readHead reads what appendTo wrote. store.ErrDamaged if there is less behind it than it says.
func readHead(from *io.SectionReader) (h checkpointHead, err error) {
	b := make([]byte, checkpointHeadSize)
	if _, err := io.ReadFull(io.NewSectionReader(from, 0, int64(len(b))), b); err != nil {
		return h, err
	}
	d := store.Decoder{Rest: b}
	h = checkpointHead{d.Action(), d.Action(), d.Action(), d.Action(), d.Action(), d.Action(), int32(d.Uint32()), [len(h.secret)]byte(d.Take(len(h.secret)))}
	if err := d.Finish("head of a checkpoint"); err != nil {
		return h, err
	}
	if _, _, size := h.ends(); size > from.Size() {
		return h, fmt.Errorf("%w: a checkpoint has %d bytes, its head says %d", store.ErrDamaged, from.Size(), size)
	}
	return h, nil
}

// ends returns where the keys end, what is read after them, and the records.
func (h *checkpointHead) ends() (keys, waits, records int64) {
	keys = int64(checkpointHeadSize) + int64(checkpointKeySize)*int64(h.keys)
	waits = keys + checkpointBlockSize*(int64(h.blocks)+int64(h.versionBlocks)) + checkpointWaitSize*int64(h.waits)
	return keys, waits, waits + statemap.LeafSize*max(0, int64(h.records))
}

// CheckpointSize is how many bytes WriteCheckpoint writes.
func (s *State) CheckpointSize() int {
	h := s.checkpointHead()
	_, _, size := h.ends()
	return int(size)
}

// WriteCheckpoint writes the state.
func (s *State) WriteCheckpoint(w *bufio.Writer) error {
	b := make([]byte, 0, checkpointKeySize)
	write := func() error {
		_, err := w.Write(b)
		b = b[:0]
		return err
	}
	h := s.checkpointHead()
	b = h.appendTo(b)
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

// ReadCheckpoint reads what WriteCheckpoint wrote, with which from begins, into a state that was new, and returns how
// many bytes that has. The state is as sound as the bytes are: whether the rules give the same is for package fsck to
// see. store.ErrMemory if there is no room for all; store.ErrDamaged if it refers to what there is not, or has other
// counts than its block. The state keeps the records of the state root afterwards if the one that was written did;
// txn reads the store, which has what they are of.
//
// What follows from its parts is made at the same time. Whatever the bytes are, they take memory in proportion to their
// number.
func (s *State) ReadCheckpoint(ctx context.Context, from *io.SectionReader, txn *store.Txn, counts store.Counts, room Room) (size int64, err error) {
	h, err := readHead(from)
	switch {
	case err != nil:
		return 0, err
	case int(h.keys) > room.Keys:
		return 0, fmt.Errorf("%w: there is room for %d keys in links, there are %d", store.ErrMemory, room.Keys, h.keys)
	case int(h.records) > room.Records:
		return 0, fmt.Errorf("%w: there is room for %d records of the state root, there are %d", store.ErrMemory, room.Records, h.records)
	}
	s.actions, s.versions.count, s.waiting.secret = h.actions, h.versions, h.secret
	keysEnd, waitsEnd, size := h.ends()
	part := func(ctx context.Context, at, end int64) *io.SectionReader {
		return io.NewSectionReader(during{ctx, from}, at, end-at)
	}
	keys, links, err := s.readKeys(part(ctx, int64(checkpointHeadSize), keysEnd), &h)
	if err != nil {
		return 0, err
	}
	waiting, err := s.readBlocks(part(ctx, keysEnd, waitsEnd), &h)
	if err != nil {
		return 0, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if !s.forest.Build(links) {
			return fmt.Errorf("%w: the links of a checkpoint form a cycle", store.ErrDamaged)
		}
		return nil
	})
	group.Go(func() error {
		if !s.keys.Fill(keys) {
			return fmt.Errorf("%w: a checkpoint has a key twice", store.ErrDamaged)
		}
		return nil
	})
	group.Go(func() error {
		l := s.ledger(txn, never)
		return s.readRecords(part(ctx, waitsEnd, size), h.records, func(ref int32) (key protocol.MapKey, err error) {
			switch {
			case ref < 0:
				return s.keyByRef(&l)(ref)
			case ref < keys.Len(): // those of s are being filled
				return protocol.MapKeyOf(keys.At(ref)), nil
			}
			return key, fmt.Errorf("%w: a checkpoint refers to key %d, there are %d", store.ErrDamaged, ref, keys.Len())
		})
	})
	if err := group.Wait(); err != nil {
		return 0, err
	}
	if links := s.links(); links != counts.Links || waiting != counts.Waiting {
		return 0, fmt.Errorf("%w: a checkpoint has %d links and %d actions that wait, its block %d and %d",
			store.ErrDamaged, links, waiting, counts.Links, counts.Waiting)
	}
	return size, nil
}

// during reads until a context ends.
type during struct {
	ctx  context.Context
	from io.ReaderAt
}

func (d during) ReadAt(b []byte, at int64) (int, error) {
	if err := d.ctx.Err(); err != nil {
		return 0, err
	}
	return d.from.ReadAt(b, at)
}

// checkpointBuffer is how much of a part of a checkpoint is read at once, in bytes.
const checkpointBuffer = 256 << 10

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

// readKeys reads where the keys stand. It returns them, and their links.
func (s *State) readKeys(from io.Reader, h *checkpointHead) (keys cow.Array[protocol.KeyHash], links []forest.Link, err error) {
	r := bufio.NewReaderSize(from, checkpointBuffer)
	links = make([]forest.Link, 0, h.keys)
	for range h.keys {
		d, err := fields(r, checkpointKeySize)
		if err != nil {
			return keys, nil, err
		}
		number := func() int32 { return int32(d.Uint32()) }
		keys.Append(d.Key())
		name := naming{tx: d.Hash(), number: number()}
		p := keyPlace{request: number(), stands: d.Uint32(), named: !name.none()}
		p.first, p.last, p.next, p.previous = number(), number(), number(), number()
		p.version, p.mentioned = number(), number()
		link := forest.Link{Parent: number(), Since: p.stands}
		p.since, p.nth = d.Byte(), d.Byte()
		for _, key := range [...]int32{p.first, p.last, p.next, p.previous, link.Parent} {
			if key < none || key >= h.keys {
				return keys, nil, fmt.Errorf("%w: a checkpoint refers to key %d, there are %d", store.ErrDamaged, key, h.keys)
			}
		}
		if p.version < none || p.version >= h.versions {
			return keys, nil, fmt.Errorf("%w: a checkpoint refers to version %d of keys, there are %d", store.ErrDamaged, p.version, h.versions)
		}
		for _, action := range [...]int32{name.number, p.request, p.mentioned} {
			if action < none || action >= h.actions {
				return keys, nil, fmt.Errorf("%w: a checkpoint refers to action %d, there are %d", store.ErrDamaged, action, h.actions)
			}
		}
		s.places.Append(p)
		s.namedBy.Append(name)
		links = append(links, link)
	}
	return keys, links, nil
}

// readBlocks reads the blocks with actions, and with versions, and what is waited for. It returns how many wait.
func (s *State) readBlocks(from io.Reader, h *checkpointHead) (waiting uint32, err error) {
	r := bufio.NewReaderSize(from, checkpointBuffer)
	if err := readSpans(r, &s.blocks, h.blocks, h.actions); err != nil {
		return 0, err
	}
	if err := readSpans(r, &s.versions.blocks, h.versionBlocks, h.versions); err != nil {
		return 0, err
	}
	for range h.waits {
		d, err := fields(r, checkpointWaitSize)
		if err != nil {
			return 0, err
		}
		hash, count := d.Uint64(), d.Action()
		s.waiting.counts.Set(hash, count)
		waiting += uint32(count)
	}
	return waiting, nil
}

// readSpans reads so many blocks, which have so many things together.
func readSpans(r *bufio.Reader, spans *cow.Array[blockSpan], blocks, count int32) error {
	if blocks == 0 && count > 0 {
		return fmt.Errorf("%w: a checkpoint has no block of %d actions or versions", store.ErrDamaged, count)
	}
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
func (s *State) readRecords(from io.ReaderAt, records int32, keyOf statemap.KeyByRef) error {
	if s.records = nil; records < 0 {
		return nil
	}
	m, err := statemap.Read(from, int(records), keyOf)
	if s.records = &m; errors.Is(err, statemap.ErrLeaves) {
		err = fmt.Errorf("%w: a checkpoint: %w", store.ErrDamaged, err)
	}
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
