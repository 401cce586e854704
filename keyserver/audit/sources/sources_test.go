package sources_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/keyserver/audit/sources"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/protocol"
)

// TestEntriesFile reads a file from each place that matters.
func TestEntriesFile(t *testing.T) {
	const count = 1<<14 + 2 // more than are read at once
	content := make([]byte, count*hashchain.EntrySize)
	for i := range count {
		content[i*hashchain.EntrySize] = byte(i)
	}
	path := filepath.Join(t.TempDir(), "entries")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f := sources.EntriesFile{Path: path}
	for _, from := range []uint64{0, 1, count - 1, count, count + 1, 1 << 30} {
		at := from
		for entries, err := range f.Entries(t.Context(), from) {
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if e[0] != byte(at) {
					t.Fatalf("from %d: entry %d is another", from, at)
				}
				at++
			}
		}
		if want := max(from, count); at != want {
			t.Errorf("from %d: it ends at %d, expected %d", from, at, want)
		}
	}
	if err := os.Truncate(path, 2*hashchain.EntrySize-1); err != nil {
		t.Fatal(err)
	}
	failed := func() (last error) {
		for _, err := range f.Entries(t.Context(), 0) {
			last = err
		}
		return last
	}
	if err := failed(); err == nil || !strings.Contains(err.Error(), "cut short") {
		t.Errorf("a torn file: got %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := failed(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: got %v", err)
	}
}

// chain is a node's best chain, and what is spent there.
type chain struct {
	headers       [][protocol.HeaderSize]byte // from height 0 on
	spent, pooled bool                        // in the chain, in the mempool
	err           error
}

// newChain makes headers that follow each other, a minute apart.
func newChain(blocks int) *chain {
	c := new(chain)
	var previous chainhash.Hash
	for i := range blocks {
		h := wire.BlockHeader{PrevBlock: previous, Timestamp: time.Unix(int64(60*i), 0), Bits: chaincfg.RegressionNetParams.PowLimitBits}
		var b bytes.Buffer
		_ = h.Serialize(&b) // to memory
		c.headers = append(c.headers, [protocol.HeaderSize]byte(b.Bytes()))
		previous = h.BlockHash()
	}
	return c
}

func (c *chain) hash(height uint32) chainhash.Hash {
	return chainhash.DoubleHashH(c.headers[height][:])
}

func (c *chain) Tip(context.Context) (node.Tip, error) {
	last := uint32(len(c.headers) - 1)
	return node.Tip{Height: last, Hash: c.hash(last)}, c.err
}

func (c *chain) BlockHash(_ context.Context, height uint32) (chainhash.Hash, error) {
	if int(height) >= len(c.headers) {
		return chainhash.Hash{}, node.ErrNotFound
	}
	return c.hash(height), c.err
}

func (c *chain) Header(_ context.Context, height uint32) ([protocol.HeaderSize]byte, error) {
	return c.headers[height], c.err
}

func (c *chain) Unspent(_ context.Context, _ wire.OutPoint, mempool bool) (bool, error) {
	return !c.spent && !(mempool && c.pooled), c.err
}

// TestNode asks a node for all that an auditor asks.
func TestNode(t *testing.T) {
	ctx := t.Context()
	c := newChain(4)
	n := sources.Node{NodeClient: c}
	for _, test := range []struct {
		height uint32
		block  chainhash.Hash
		want   error
	}{
		{2, c.hash(2), nil},
		{2, c.hash(1), audit.ErrNotOnBestChain},
		{4, c.hash(3), audit.ErrNoHeader},
	} {
		if err := n.OnBestChain(ctx, test.height, test.block); !errors.Is(err, test.want) {
			t.Errorf("block %v at height %d: got %v, want %v", test.block, test.height, err, test.want)
		}
	}
	if at, err := n.Newest(ctx); err != nil || at.Unix() != 180 {
		t.Errorf("the newest block is of %v, want 180 s (%v)", at, err)
	}
	for _, test := range []struct {
		spent, pooled bool
		want          audit.Spending
	}{{false, false, audit.Unspent}, {false, true, audit.SpentInMempool}, {true, false, audit.SpentInBlock}} {
		c.spent, c.pooled = test.spent, test.pooled
		if got, err := n.Spending(ctx, wire.OutPoint{}); err != nil || got != test.want {
			t.Errorf("%+v: got %v (%v)", test, got, err)
		}
	}
	c.err = node.ErrUnavailable
	if _, err := n.Spending(ctx, wire.OutPoint{}); !errors.Is(err, node.ErrUnavailable) {
		t.Errorf("spending: got %v", err)
	}
	if _, err := n.Newest(ctx); !errors.Is(err, node.ErrUnavailable) {
		t.Errorf("newest: got %v", err)
	}
	if err := n.OnBestChain(ctx, 1, c.hash(1)); !errors.Is(err, node.ErrUnavailable) {
		t.Errorf("on the best chain: got %v", err)
	}
}

// TestWriteHeaders writes what audit.ReadHeaders reads.
func TestWriteHeaders(t *testing.T) {
	c := newChain(5)
	n := sources.Node{NodeClient: c}
	var out bytes.Buffer
	var heard []uint32
	begin, count, err := n.WriteHeaders(t.Context(), &out, 2, func(height, _ uint32) { heard = append(heard, height) })
	if err != nil || begin != c.hash(2) || count != 3 || len(heard) != 3 {
		t.Fatalf("%d headers from %v on, progress %v (%v)", count, begin, heard, err)
	}
	if want := append(append(c.headers[2][:], c.headers[3][:]...), c.headers[4][:]...); !bytes.Equal(out.Bytes(), want) {
		t.Error("others were written")
	}
	progress := func(uint32, uint32) {}
	if _, _, err := n.WriteHeaders(t.Context(), &out, 5, progress); err == nil || !strings.Contains(err.Error(), "ends with block 4") {
		t.Errorf("from behind the tip: got %v", err)
	}
	c.headers[3][80-1]++ // another block is there
	if _, _, err := n.WriteHeaders(t.Context(), &out, 2, progress); err == nil || !strings.Contains(err.Error(), "reorganised") {
		t.Errorf("reorganised meanwhile: got %v", err)
	}
}
