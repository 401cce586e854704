package graph

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// proofFile returns the file of a proof, in a log that has its entry alone, and the policy that accepts it.
func proofFile(t testing.TB, p *proof.StateProof) ([]byte, *tlog.Policy) {
	t.Helper()
	key, err := tlog.GenerateKey(protocol.StateOrigin("log.example", "regtest", 1))
	if err != nil {
		t.Fatal(err)
	}
	policy, err := tlog.ParsePolicy(fmt.Appendf(nil, "log %s\nquorum none\n", key.Log()))
	if err != nil {
		t.Fatal(err)
	}
	extra, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	entry := p.Entry.Bytes()
	file := tlog.Proof{Extra: extra, Checkpoint: key.Sign(tlog.Checkpoint{Origin: key.Name(), Size: 1, Root: sha256.Sum256(append([]byte{0}, entry[:]...))})}
	return file.Marshal(), policy
}

// proven makes a proof and verifies it.
func (g *Graph) proven(t testing.TB, height uint32, subjects ...proof.StateSubject) *proof.ProvenState {
	t.Helper()
	p, err := g.ProveState(t.Context(), height, subjects)
	if err != nil {
		t.Fatal(err)
	}
	file, policy := proofFile(t, p)
	proven, err := proof.VerifyState(file, policy)
	if err != nil {
		t.Fatal(err)
	}
	return proven
}

// TestProofCutShort: of a path that is longer than what one proof may show, all is shown that has room; a short path of
// the same proof is shown whole, wherever it stands.
func TestProofCutShort(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	inMemory(t)
	g, err := Open(t.TempDir(), testParams, Options{MemTable: 8 << 20, BlockCache: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	const keys = proof.MaxStateRecords + 20
	long := grow(0, chainhash.Hash{}, shapes["path"], 1, keys)
	short := grow(1, long.Hash, shapes["path"], 1_000_001, 1_000_004)
	if err := g.Connect(long, short); err != nil {
		t.Fatal(err)
	}
	of := func(n int) proof.StateSubject { return proof.StateSubject{Key: key(fmt.Sprint(n))} }
	got := g.proven(t, 1, of(keys-1), of(keys-1-5), of(1_000_003), proof.StateSubject{Key: key("nobody")}, of(3))
	for i, want := range []struct {
		cut     bool
		records int
	}{{true, 9995 - 1}, {true, 9995 - 1 - 5}, {false, 4}, {false, 0}, {false, 4}} {
		s := got.Subjects[i]
		if s.Cut != want.cut || !s.Cut && len(s.Keys) != want.records || s.Cut && (len(s.Keys) < want.records-10 || len(s.Keys) > want.records+10) {
			t.Errorf("subject %d: cut %t, %d records, expected %+v", i, s.Cut, len(s.Keys), want)
		}
	}
	if s := g.proven(t, 1, of(proof.MaxStateRecords-1)).Subjects[0]; s.Cut || len(s.Keys) != proof.MaxStateRecords {
		t.Errorf("a path of %d: cut %t, %d records", proof.MaxStateRecords, s.Cut, len(s.Keys))
	}
	if s := g.proven(t, 1, of(proof.MaxStateRecords)).Subjects[0]; !s.Cut || len(s.Keys) != proof.MaxStateRecords {
		t.Errorf("a path of one more: cut %t, %d records", s.Cut, len(s.Keys))
	}
	var many []proof.StateSubject
	for i := range proof.MaxStateSubjects {
		many = append(many, of(keys-1-i))
	}
	if s := g.proven(t, 1, many...).Subjects; !s[0].Cut || !s[len(s)-1].Cut {
		t.Error("a thousand keys of the path are not cut")
	}
}

// TestProofMergesCutShort: the same of a chain of merges. Each identity merges into the one that is a little older.
func TestProofMergesCutShort(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	inMemory(t)
	g, err := Open(t.TempDir(), testParams, Options{MemTable: 8 << 20, BlockCache: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	const ids = proof.MaxStateRecords + 5
	root := func(n int) int { return 2 * n }
	name := func(n int) chainhash.Hash { return tx(fmt.Sprint("request", root(n)+1)) } // of the link that made it
	made := Block{Hash: tx("made")}
	merged := Block{Height: 1, PrevHash: made.Hash, Hash: tx("merged")}
	join := func(b *Block, child, parent int) {
		link := grow(0, chainhash.Hash{}, func(int) int { return parent }, child, child+1)
		for _, a := range link.Actions {
			a.Index = uint32(len(b.Actions))
			b.Actions = append(b.Actions, a)
		}
	}
	for n := range ids {
		join(&made, root(n)+1, root(n))
	}
	for n := ids - 1; n > 0; n-- {
		join(&merged, root(n), root(n-1))
	}
	if err := g.Connect(made, merged); err != nil {
		t.Fatal(err)
	}
	of := func(n int) proof.StateSubject { return proof.StateSubject{IsID: true, ID: name(n)} }
	got := g.proven(t, 1, of(ids-1), of(3), proof.StateSubject{Key: key("1")})
	if s := got.Subjects[0]; !s.Cut || len(s.IDs) < proof.MaxStateRecords-10 || len(s.IDs) > proof.MaxStateRecords {
		t.Errorf("a chain of %d merges: cut %t, %d records", ids-1, s.Cut, len(s.IDs))
	}
	if s := got.Subjects[1]; s.Cut || len(s.IDs) != 4 || s.IDs[3].Root != key("0") {
		t.Errorf("a chain of 3 merges: cut %t, %d records", s.Cut, len(s.IDs))
	}
	if s := g.proven(t, 0, of(ids-1)).Subjects[0]; s.Cut || len(s.IDs) != 1 || s.IDs[0].Root != key(fmt.Sprint(root(ids-1))) {
		t.Errorf("before the merges: %+v", s)
	}
}

// TestProofsGiveWay: blocks are connected that need the memory which maps for proofs hold, also while one is made.
func TestProofsGiveWay(t *testing.T) {
	inMemory(t)
	opt := testOptions()
	opt.Memory, opt.ProofMemory = 4<<30, 1<<30
	g, err := Open(t.TempDir(), testParams, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	gr := &grower{shape: shapes["tree"]}
	for range 6 {
		if err := g.Connect(gr.next(500)); err != nil {
			t.Fatal(err)
		}
	}
	if err := g.Disconnect(); err != nil {
		t.Fatal(err)
	}
	gr = &grower{shape: shapes["tree"], height: 5, prev: g.current.Load().tip.Hash, keys: 9000}
	held := g.Memory()
	if held.Proofs == 0 {
		t.Fatal("no maps of older blocks are held")
	}
	block := gr.next(100)
	making, end := g.proofMaps.begin(t.Context(), 1<<20)
	defer end(nil)
	// Room for the block, and for nothing else.
	need := stepNeeds([]Block{block}) + copiedRecords(g.current.Load().state, len(block.Actions))
	for g.opt.Memory = 1 << 20; ; g.opt.Memory += 16 << 10 {
		if m := g.Memory(); m.all()-m.Proofs+need <= m.Most {
			break
		}
	}
	if err := g.Connect(block); err != nil {
		t.Fatal(err)
	}
	if making.Err() == nil {
		t.Error("the making of a map goes on")
	}
	if n := len(g.proofMaps.recent); n > 2 { // the one that was the tip's, and the tip's
		t.Errorf("%d maps are held", n)
	}
	g.opt.Memory = 1 << 20
	if _, err := g.ProveState(t.Context(), 1, []proof.StateSubject{{Key: key("1")}}); !errors.Is(err, ErrMemory) {
		t.Errorf("no room for a map: %v", err)
	}
	if _, err := g.ProveState(t.Context(), 5, []proof.StateSubject{{Key: key("1")}}); err != nil {
		t.Errorf("the tip's map needs no room: %v", err)
	}
}

// TestProofWaits: one map is made at a time; who waits for it may give up, and who asks for too much is told.
func TestProofWaits(t *testing.T) {
	inMemory(t)
	opt := testOptions()
	opt.ProofMemory = 1
	g, err := Open(t.TempDir(), testParams, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	gr := &grower{shape: shapes["tree"]}
	for range 4 {
		if err := g.Connect(gr.next(100)); err != nil {
			t.Fatal(err)
		}
	}
	one := []proof.StateSubject{{Key: key("1")}}
	if work, err := g.ProofWork(3); work != 0 || err != nil {
		t.Errorf("as of the tip: %d, %v", work, err)
	}
	if work, err := g.ProofWork(1); work < 400 || work > 900 || err != nil {
		t.Errorf("as of block 1: %d, %v", work, err)
	}
	g.proofMaps.making <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.ProveState(ctx, 1, one); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting: %v", err)
	}
	if _, err := g.ProveState(t.Context(), 3, one); err != nil {
		t.Errorf("as of the tip nobody waits: %v", err)
	}
	<-g.proofMaps.making
	if _, err := g.ProveState(ctx, 1, one); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	g.opt.ProofRebuildKeys = 10
	if _, err := g.ProveState(t.Context(), 1, one); !errors.Is(err, ErrRebuild) || !strings.Contains(err.Error(), "401 keys") {
		t.Errorf("too many keys: %v", err)
	}
	g.opt.ProofRebuildKeys = 1000
	g.proven(t, 1, one...)
	if work, err := g.ProofWork(1); work != 0 || err != nil {
		t.Errorf("block 1 once more: %d, %v", work, err)
	}
	if work, err := g.ProofWork(0); work < 200 || work > 500 || err != nil {
		t.Errorf("block 0, from block 1: %d, %v", work, err)
	}
}

// TestProofsMeanwhile asks for proofs as of all heights from several goroutines while blocks come and go: each one
// verifies, or says that its block was taken back.
func TestProofsMeanwhile(t *testing.T) {
	inMemory(t)
	opt := testOptions()
	opt.ProofMemory = 40 << 10 // few of the maps
	g, err := Open(t.TempDir(), testParams, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	r := newRandomBlocks(28)
	connectRandom(t, g, r, 12, 30)
	done := make(chan struct{})
	var asking sync.WaitGroup
	for i := range 4 {
		asking.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				tip, _ := g.Tip()
				height := uint32((n*7 + i*3) % int(tip.Height+1))
				p, err := g.ProveState(t.Context(), height, []proof.StateSubject{{Key: key(fmt.Sprint("key", n%12))}, {Key: key("nobody")}})
				if OffChain(err) {
					continue
				}
				if err != nil {
					t.Errorf("as of %d: %v", height, err)
					return
				}
				file, policy := proofFile(t, p)
				if _, err := proof.VerifyState(file, policy); err != nil {
					t.Errorf("as of %d: %v", height, err)
					return
				}
			}
		})
	}
	for range 12 {
		for range 3 {
			if err := g.Disconnect(); err != nil {
				t.Fatal(err)
			}
		}
		connectRandom(t, g, r, 4, 30)
	}
	close(done)
	asking.Wait()
}
