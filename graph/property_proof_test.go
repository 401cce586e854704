package graph_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// TestPropertyProofs: after any sequence of connects, disconnects and restarts a proof as of any height verifies, and shows
// of each subject what the model says, whether maps as of older blocks are kept or made again.
func TestPropertyProofs(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	checks(t, 15, 14, 600)
	l := newTestLog(t)
	rapid.Check(t, func(t *rapid.T) {
		p := newPairWith(t, 0, graph.Options{ProofMemory: rapid.SampledFrom([]int64{1, 4 << 10, 0}).Draw(t, "memory for maps")})
		w := newWorld(4 + pick(t, "keys beyond four", 9))
		t.Repeat(map[string]func(*rapid.T){
			"connect": func(t *rapid.T) {
				if len(p.model.states) >= mostBlocks {
					t.Skip("long enough")
				}
				p.connect(t, w.blocks(t, p.next(), 1+pick(t, "blocks beyond one", 3))...)
			},
			"fork": func(t *rapid.T) {
				n := p.forkDepth(t)
				for range n {
					p.disconnect(t)
				}
				p.connect(t, w.blocks(t, p.next(), pick(t, "blocks", n+2))...)
			},
			"restart": func(t *rapid.T) { p.restart(t) },
			"": func(t *rapid.T) {
				for range min(len(p.model.states), 6) {
					s := rapid.SampledFrom(p.model.states).Draw(t, "height")
					p.prove(t, w, l, s)
				}
			},
		})
	})
}

// prove has the graph prove something as of a block, and compares what is shown with the model.
func (p *pair) prove(t *rapid.T, w *world, l *testLog, s *modelState) {
	subjects := w.subjects(t, s)
	made, err := p.graph.ProveState(context.Background(), s.block.Height, subjects)
	if err != nil {
		t.Fatalf("ProveState as of %d: %v", s.block.Height, err)
	}
	want := protocol.StateEntry{Height: s.block.Height, Block: s.block.Hash, StateHash: s.stateHash, StateRoot: s.stateRoot()}
	if made.Entry != want {
		t.Fatalf("the entry is %+v, expected %+v", made.Entry, want)
	}
	proven, err := proof.VerifyState(l.file(t, made), l.policy)
	if err != nil {
		t.Fatalf("proof of %v as of %d: %v", subjects, s.block.Height, err)
	}
	walked, err := made.Walk()
	if err != nil || len(walked) != len(subjects) {
		t.Fatalf("walk: %v", err)
	}
	records := s.records()
	for i, subject := range subjects {
		got := proven.Subjects[i]
		if got.StateSubject != subject || got.Cut || walked[i].Cut {
			t.Fatalf("subject %d is %+v, expected %v", i, got, subject)
		}
		if have, want := shownRecords(&got), modelWalk(records, subject); !slices.Equal(have, want) || !slices.Equal(shownRecords(&walked[i]), want) {
			t.Fatalf("as of %d the proof shows of %v\n%q, expected\n%q", s.block.Height, subject, have, want)
		}
	}
}

// subjects draws what a proof is about: keys, and ids that there are as of a block, may be, or are none.
func (w *world) subjects(t *rapid.T, s *modelState) []proof.StateSubject {
	var all []proof.StateSubject
	for _, key := range w.keys {
		all = append(all, proof.StateSubject{Key: key})
	}
	for i, tx := range w.txs {
		_, merged := s.merged[tx.TxID]
		if merged || i%8 == 0 || s.identity(tx.TxID) != nil {
			all = append(all, proof.StateSubject{IsID: true, ID: tx.TxID})
		}
	}
	none := sum("nobody", len(w.txs))
	all = append(all, proof.StateSubject{Key: protocol.KeyHash(none[:20])}, proof.StateSubject{IsID: true, ID: none})
	all = rapid.Permutation(all).Draw(t, "subjects")
	return all[:1+pick(t, "subjects beyond one", min(len(all), 12))]
}

// shownRecords are the records that are shown of a subject, in the order of its walk.
func shownRecords(s *proof.ProvenSubject) (records []string) {
	for _, r := range s.Keys {
		records = append(records, string(r.AppendTo(nil)))
	}
	for _, r := range s.IDs {
		records = append(records, string(r.AppendTo(nil)))
	}
	return records
}

// modelWalk is the walk of a subject, as protocol/SPEC.md §13 says it, over all records.
func modelWalk(records map[[32]byte]string, s proof.StateSubject) (walk []string) {
	at := sha256.Sum256(append([]byte("keytree/key\x00"), s.Key[:]...))
	if s.IsID {
		at = sha256.Sum256(append([]byte("keytree/id\x00"), s.ID[:]...))
	}
	for {
		r, ok := records[at]
		if !ok {
			return walk
		}
		walk = append(walk, r)
		switch {
		case !s.IsID && r[21:41] != string(make([]byte, 20)):
			at = sha256.Sum256([]byte("keytree/key\x00" + r[21:41]))
		case s.IsID && r[33] == 1:
			at = sha256.Sum256([]byte("keytree/id\x00" + r[54:]))
		default:
			return walk
		}
	}
}

// testLog is a state log of one entry.
type testLog struct {
	key    *tlog.Key
	policy *tlog.Policy
	text   string // of the policy
}

func newTestLog(t testing.TB) *testLog {
	key, err := tlog.GenerateKey(protocol.StateOrigin("log.example", "regtest", 1))
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("log %s\nquorum none\n", key.Log())
	policy, err := tlog.ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return &testLog{key, policy, text}
}

// file returns the file of a proof, under a checkpoint that has its entry alone.
func (l *testLog) file(t rapid.TB, p *proof.StateProof) []byte {
	extra, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	entry := p.Entry.Bytes()
	checkpoint := l.key.Sign(tlog.Checkpoint{Origin: l.key.Name(), Size: 1, Root: sha256.Sum256(append([]byte{0}, entry[:]...))})
	file := tlog.Proof{Extra: extra, Checkpoint: checkpoint}
	return file.Marshal()
}

// TestProveStateRefuses: what cannot be proven is told.
func TestProveStateRefuses(t *testing.T) {
	g, err := graph.Open(t.TempDir(), graph.Params{Network: "regtest"}, graph.Options{NoStateRoot: true, MemTable: 8 << 20, BlockCache: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ctx, one := context.Background(), []proof.StateSubject{{Key: protocol.KeyHash{1}}}
	if _, err := g.ProveState(ctx, 0, one); !errors.Is(err, graph.ErrEmpty) {
		t.Errorf("without a block: %v", err)
	}
	if err := g.Connect(graph.Block{Hash: chainhash.Hash{1}, Time: uint32(time.Now().Unix())}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.ProveState(ctx, 0, one); !errors.Is(err, graph.ErrNoStateRoot) {
		t.Errorf("without a state root: %v", err)
	}
	if _, err := g.ProofWork(0); !errors.Is(err, graph.ErrNoStateRoot) {
		t.Errorf("work without a state root: %v", err)
	}
	if _, err := g.ProveState(ctx, 1, one); !errors.Is(err, graph.ErrHeight) {
		t.Errorf("above the tip: %v", err)
	}
	for _, subjects := range [][]proof.StateSubject{nil, {one[0], one[0]}, make([]proof.StateSubject, proof.MaxStateSubjects+1)} {
		if _, err := g.ProveState(ctx, 0, subjects); !errors.Is(err, proof.ErrState) {
			t.Errorf("%d subjects: %v", len(subjects), err)
		}
	}
}

// TestPropertyProofsBeyondHorizon: where there are no undo records any more, the map is made of all that is stored.
func TestPropertyProofsBeyondHorizon(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	checks(t, 3, 14, 100)
	l := newTestLog(t)
	rapid.Check(t, func(t *rapid.T) {
		p := newPairWith(t, 0, graph.Options{UndoBlocks: 1, ProofMemory: rapid.SampledFrom([]int64{1, 0}).Draw(t, "memory for maps")})
		w := newWorld(4 + pick(t, "keys beyond four", 9))
		for range 12 {
			p.connect(t, w.blocks(t, p.next(), 2)...)
		}
		states := slices.Clone(p.model.states)
		for range 2 * 101 { // undo records are dropped 100 at a time
			p.connect(t, w.emptyBlock(p.next()))
		}
		if from := p.graph.UndoFrom(); from < states[len(states)-1].block.Height {
			t.Fatalf("undo records from %d on are there, expected none of those with actions", from)
		}
		for range 2 {
			for range 12 {
				p.prove(t, w, l, rapid.SampledFrom(states).Draw(t, "height"))
			}
			p.restart(t)
		}
	})
}
