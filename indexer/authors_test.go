package indexer_test

import (
	"context"
	"flag"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/blockfile"
)

// The tests named TestProperty draw chains of which it is known who acted
// (play_test.go), and compare what an indexer makes of them with that. A run without
// further ado takes some seconds. The long one tries more chains:
//
//	KEYTREE_EXHAUSTIVE=1 go test ./indexer -run TestProperty -timeout 1h

// checks sets how many random chains the test tries, unless the command line says so.
func checks(t *testing.T, n, long int) {
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		n = long
	}
	f := flag.Lookup("rapid.checks")
	if f.Value.String() != f.DefValue {
		return
	}
	set := func(s string) {
		if err := flag.Set(f.Name, s); err != nil {
			t.Fatal(err)
		}
	}
	set(strconv.Itoa(n))
	t.Cleanup(func() { set(f.DefValue) })
}

// end is how a run of an indexer ended: with an error, or when the graph had come to
// the node's tip, or when the indexer waited.
type end struct {
	err     error
	status  indexer.Status // just before it was stopped
	tip     graph.Tip
	started bool // the graph has a tip
	log     string
}

const (
	// nodeName is what errors have to name.
	nodeName = "example:8335"
	// waiting is what the log says when the indexer waits.
	waiting = "waiting for the node"
	// wrongSignature is what it says of a signature that does not hold.
	wrongSignature = "a signature does not hold"
	// believed is what it says when a pruned node is believed.
	believed = "it is believed which coins are not a key's"
)

// waits reports whether the indexer waited.
func (e end) waits() bool { return e.err == nil && !e.status.Synced }

// count returns how many log lines have a text.
func (e end) count(text string) int { return strings.Count(e.log, text) }

// check is what tests and their random checks have in common.
type check interface {
	rapid.TB
	Context() context.Context
}

// run runs an indexer until it comes to an end.
func run(t check, n node.Node, g *graph.Graph) (e end) {
	t.Helper()
	log := new(lockedBuffer)
	ix := indexer.New(n, g, indexer.Options{NodeName: nodeName, Poll: time.Millisecond, Log: zerolog.New(log)})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- ix.Run(ctx) }()
	deadline := time.Now().Add(time.Minute)
	for len(done) == 0 && !ix.Status().Synced && !strings.Contains(log.String(), waiting) {
		if time.Now().After(deadline) {
			t.Fatalf("the indexer does nothing: %+v", ix.Status())
		}
		time.Sleep(100 * time.Microsecond)
	}
	e.status = ix.Status()
	cancel()
	e.err = <-done
	e.tip, e.started = g.Tip()
	e.log = log.String()
	return e
}

// TestPropertyAuthors has honest nodes of every kind, and files, tell the same chain:
// all lead to the state that the play says, without a word about a signature. It takes
// a previous transaction only where no signature can show whose the coin is; and only
// a pruned node, which cannot give it, is waited for.
func TestPropertyAuthors(t *testing.T) {
	checks(t, 6, 300)
	outer, dir := t, t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		p := newWriter(t, honest()).play()
		open := func() *graph.Graph { return openIn(t, dir, p.start) }
		tips := p.model(t, open(), p.last())
		want := tips[p.last()]

		wantSynced(t, "a node with an index", run(t, p.node(), open()), want, 0)

		word := p.wordNode()
		wantSynced(t, "a node without an index", run(t, word, open()), want, 0)
		asked := word.asked()
		lies, old := 0, false
		for _, a := range p.acts {
			if a.height < p.start {
				continue
			}
			n := asked[a.tx.TxHash()]
			switch {
			case a.isFalse():
				lies++
				if n != 1 {
					t.Errorf("the coin of a false claim took %d questions: %v", n, a)
				}
			case a.unlocks == signsOld: // the coin may be remembered
				old = true
			case n > 0:
				t.Errorf("a coin took %d questions for the previous transaction: %v", n, a)
			}
		}

		pruned := p.wordNode()
		pruned.pruned = true
		e := run(t, pruned, open())
		if !old || e.status.Synced {
			wantSynced(t, "a pruned node", e, want, min(1, lies))
		} else {
			wantUnsuitable(t, e)
			next := p.start
			if e.started {
				next = e.tip.Height + 1
				wantTips(t, e, tips)
			}
			if !slices.ContainsFunc(p.in(next), func(a *act) bool { return a.unlocks == signsOld }) {
				t.Errorf("it waits for the block at height %d, where nobody signs without FORKID", next)
			}
		}

		imported, log := open(), new(lockedBuffer)
		if err := indexer.Import(t.Context(), filesOf(outer, t, p), imported, indexer.ImportOptions{Log: zerolog.New(log)}); err != nil {
			t.Fatal(err)
		}
		if got, _ := imported.Tip(); got != want || strings.Contains(log.String(), wrongSignature) {
			t.Errorf("from files: tip %+v, expected %+v; log:\n%s", got, want, log)
		}
	})
}

// filesOf opens files with the blocks of a play, in a folder of the test.
func filesOf(test *testing.T, t *rapid.T, p *play) *blockfile.Chain {
	files := need(blockfile.Open(t.Context(), write(test, p.raw()), regtest.Params, nil))(t)
	t.Cleanup(func() {
		if err := files.Close(); err != nil {
			t.Error(err)
		}
	})
	return files
}

// wantSynced checks that a run came to a tip, that no signature was found wrong, and
// how often the log says that the node is believed.
func wantSynced(t check, what string, e end, want graph.Tip, beliefs int) {
	t.Helper()
	if e.err != nil || !e.status.Synced || e.tip != want {
		t.Fatalf("%s: %v, %+v, tip %+v, expected %+v", what, e.err, e.status, e.tip, want)
	}
	if e.count(wrongSignature) != 0 || e.count(believed) != beliefs {
		t.Fatalf("%s: the log is\n%s", what, e.log)
	}
}

// wantUnsuitable checks that the indexer waits for a node that cannot show who acted.
func wantUnsuitable(t check, e end) {
	t.Helper()
	if !e.waits() || !strings.Contains(e.log, node.ErrUnsuitable.Error()) || e.status.Reason == "" {
		t.Fatalf("%v, %+v, expected it to wait for a node that is suitable; log:\n%s", e.err, e.status, e.log)
	}
}

// wantTips checks that the graph ends with one of the tips.
func wantTips(t check, e end, tips map[uint32]graph.Tip) {
	t.Helper()
	if e.started && e.tip != tips[e.tip.Height] {
		t.Fatalf("tip %+v, expected %+v at this height", e.tip, tips[e.tip.Height])
	}
}

// TestPropertyWrongSignature has an author whose signature does not hold, of a coin that
// is the author's: as if the check were wrong. The author stands, wherever the coin can
// be shown, and the log names block and transaction.
func TestPropertyWrongSignature(t *testing.T) {
	checks(t, 3, 100)
	outer, dir := t, t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		w := newWriter(t, []unlocking{signs, signsLoose, unlocksElse, makesUp, steals})
		w.txs = append(w.txs, nil)
		a := w.act(scene{unlocks: signsWrong, paid: true})
		p := w.play()
		g := openIn(t, dir, 0)
		tips := p.model(t, g, p.last())
		want := tips[p.last()]
		// Only the last block is fetched, so that no coin is remembered.
		back := func() {
			if err := g.Disconnect(); err != nil {
				t.Fatal(err)
			}
		}
		logged := func(what, log string, lines int) {
			t.Helper()
			if n := strings.Count(log, wrongSignature); n != lines || strings.Count(log, `"level":"error"`) != lines {
				t.Fatalf("%s: expected %d errors, got %d:\n%s", what, lines, n, log)
			}
			for _, name := range []string{a.tx.TxHash().String(), p.blocks[p.last()].BlockHash().String()} {
				if lines > 0 && !strings.Contains(log, name) {
					t.Fatalf("%s: no line names %s:\n%s", what, name, log)
				}
			}
		}

		for lines, n := range []node.Node{p.node(), p.wordNode()} {
			back()
			e := run(t, n, g)
			if e.err != nil || !e.status.Synced || e.tip != want {
				t.Fatalf("%v, %+v, tip %+v, expected %+v", e.err, e.status, e.tip, want)
			}
			logged("node", e.log, lines)
		}

		back()
		log := new(lockedBuffer)
		if err := indexer.Import(t.Context(), filesOf(outer, t, p), g, indexer.ImportOptions{Log: zerolog.New(log)}); err != nil {
			t.Fatal(err)
		}
		if got, _ := g.Tip(); got != want {
			t.Fatalf("from files: tip %+v, expected %+v", got, want)
		}
		if a.hashType == 0x41 { // otherwise the other coins need not have been seen
			logged("files", log.String(), 1)
		}

		back()
		pruned := p.wordNode()
		pruned.pruned = true
		e := run(t, pruned, g)
		wantUnsuitable(t, e)
		if e.tip != tips[p.last()-1] {
			t.Fatalf("tip %+v, expected that the block is not taken", e.tip)
		}
	})
}
