package fsck_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/fsck"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

var params = graph.Params{Network: "regtest"}

// makeGraph makes a graph of a path of keys in a folder, a link a block.
func makeGraph(t *testing.T, dir string, blocks uint32) {
	t.Helper()
	g, err := graph.Open(dir, params, graph.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var prev chainhash.Hash
	for height := range blocks {
		parent, child := protocol.KeyHash{byte(height)}, protocol.KeyHash{byte(height + 1)}
		request, accept := chainhash.Hash{1, byte(height)}, chainhash.Hash{2, byte(height)}
		b := graph.Block{Height: height, PrevHash: prev, Hash: chainhash.Hash{3, byte(height)}, Actions: []links.Action{
			{TxID: request, Index: 1, Author: &child, Action: protocol.Action{Kind: protocol.MLR, Parent: parent}},
			{TxID: accept, Index: 2, Author: &parent, Action: protocol.Action{Kind: protocol.MLA, Ref: protocol.RefersTo(request)}},
		}}
		prev = b.Hash
		if err := g.Connect(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
}

func check(t *testing.T, dir string) *fsck.Report {
	t.Helper()
	report, err := fsck.Check(t.Context(), dir, params, fsck.Options{Memory: graph.DefaultMemory, Log: zerolog.Nop()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// TestCheck changes records of a graph by Badger itself, stamped as keytree would, so that
// the files are sound, and finds each.
func TestCheck(t *testing.T) {
	for name, test := range map[string]struct {
		key    []byte
		value  []byte // nil: it is removed
		report string // what one finding says
	}{
		"nothing":                 {},
		"no list of runs":         {[]byte{store.PrefixRuns}, nil, "list of runs"},
		"another list of runs":    {[]byte{store.PrefixRuns}, []byte{1}, "list of runs"},
		"a chunk of no run":       {append(store.RunKey(1, 0), 0), []byte{0, 0, 0, 7}, "nothing in the chain accounts for it"},
		"versions of keys":        {store.ChunkKey(store.PrefixKey, 2, 0), []byte{0}, "versions of keys record"},
		"no versions of keys":     {store.ChunkKey(store.PrefixKey, 2, 0), nil, "versions of keys record"},
		"a version of a key":      {store.NumberedKey(store.PrefixVersion, protocol.KeyHash{3}, 1), []byte{}, "nothing in the chain accounts for it"},
		"effects are missing":     {store.ChunkKey(store.PrefixEffects, 3, 0), nil, "effects"},
		"the tip":                 {[]byte{store.PrefixTip}, []byte{1}, "tip"},
		"a record of no kind":     {[]byte("?"), []byte{1}, "there are no records of this kind"},
		"an identity's record":    {store.Version(store.IdentityStem(chainhash.Hash{1, 0}), 0), []byte{}, "identity record"},
		"a waiting action of one": {append([]byte{store.PrefixWaiting}, make([]byte, 37)...), []byte{}, "waiting action record"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "graph")
			makeGraph(t, dir, 8)
			if test.key != nil {
				db, err := badger.Open(badger.LSMOnlyOptions(dir).WithLogger(nil))
				if err != nil {
					t.Fatal(err)
				}
				err = db.Update(func(txn *badger.Txn) error {
					if err := txn.Set([]byte{store.PrefixStamp}, []byte{}); err != nil {
						return err
					}
					if test.value == nil {
						return txn.Delete(test.key)
					}
					return txn.Set(test.key, test.value)
				})
				if err != nil {
					t.Fatal(err)
				}
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
			}
			report := check(t, dir)
			var lines []string
			for _, f := range report.Findings {
				lines = append(lines, f.String())
			}
			all := strings.Join(lines, "\n")
			if (test.report == "") != (all == "") || !strings.Contains(all, test.report) {
				t.Errorf("found:\n%s\nwant: %q", all, test.report)
			}
		})
	}
}
