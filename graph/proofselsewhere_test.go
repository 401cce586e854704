package graph_test

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
)

var proofLinesFile = flag.String("prooflines", "", "write proofs and what they show into this file, a line of JSON each")

// verifiers are programs that read lines of JSON (proofLine) and fail if they think otherwise of one: that of keytree.js
// was written from protocol/SPEC.md §13 alone.
var verifiers = []string{"../rpc/web/testdata/corpus.mjs"}

// proofLine is a proof, and what a verifier has to make of it.
type proofLine struct {
	File       string             `json:"file"`
	Policy     string             `json:"policy"`
	OK         bool               `json:"ok"`
	AsOfHeight uint32             `json:"as_of_height"`
	Subjects   []proofLineSubject `json:"subjects,omitempty"`
}

// proofLineSubject is what is shown of a subject, in hexadecimal: an id in internal byte order, records as in the map.
type proofLineSubject struct {
	Key  string   `json:"key,omitempty"`
	ID   string   `json:"id,omitempty"`
	Cut  bool     `json:"cut"`
	Keys []string `json:"keys,omitempty"`
	IDs  []string `json:"ids,omitempty"`
}

func newProofLineSubject(s proof.StateSubject, cut bool, records []string) proofLineSubject {
	of := proofLineSubject{Cut: cut}
	for i := range records {
		records[i] = hex.EncodeToString([]byte(records[i]))
	}
	if s.IsID {
		of.ID, of.IDs = hex.EncodeToString(s.ID[:]), records
	} else {
		of.Key, of.Keys = hex.EncodeToString(s.Key[:]), records
	}
	return of
}

// TestProofsElsewhere has other implementations verify proofs as of random heights of random chains with reorganisations,
// of which the model says what they show: 10,000 and more if KEYTREE_EXHAUSTIVE is set. Some are changed, and have to be
// refused.
func TestProofsElsewhere(t *testing.T) {
	if testing.Short() {
		t.Skip("opens databases, and starts node")
	}
	out, end := elsewhere(t)
	const each = 40
	lines, wanted := 0, 200
	if exhaustive() {
		wanted = 12_000
	}
	checks(t, wanted/each, 1, wanted/each)
	l := newTestLog(t)
	w := bufio.NewWriterSize(out, 1<<20)
	write := func(line *proofLine) {
		text, err := json.Marshal(line)
		if err != nil {
			t.Fatal(err)
		}
		lines++
		// Who has ended says why, at the end.
		_, _ = w.Write(append(text, '\n'))
	}
	rapid.Check(t, func(t *rapid.T) {
		p := newPair(t, 0)
		world := newWorld(4 + pick(t, "keys beyond four", 9))
		p.connect(t, world.blocks(t, p.next(), 4+pick(t, "blocks beyond four", 20))...)
		for n := range each {
			if n%10 == 9 { // a reorganisation
				back := p.forkDepth(t)
				for range back {
					p.disconnect(t)
				}
				p.connect(t, world.blocks(t, p.next(), back+1)...)
			}
			s := rapid.SampledFrom(p.model.states).Draw(t, "height")
			subjects := world.subjects(t, s)
			made := must(p.graph.ProveState(t.Context(), s.block.Height, subjects))(t)
			line := &proofLine{File: string(l.file(t, made)), Policy: l.text, OK: true, AsOfHeight: s.block.Height}
			records := s.records()
			for _, subject := range subjects {
				line.Subjects = append(line.Subjects, newProofLineSubject(subject, false, modelWalk(records, subject)))
			}
			write(line)
			if n%5 == 0 && len(records) > 0 {
				made.Tree[pick(t, "byte", len(made.Tree))] ^= 1 << pick(t, "bit", 8)
				write(&proofLine{File: string(l.file(t, made)), Policy: l.text})
			}
		}
	})
	if exhaustive() || *proofLinesFile != "" {
		for _, line := range cutLines(t, l) {
			write(line)
		}
	}
	_ = w.Flush()
	end()
	t.Logf("%d proofs", lines)
}

// elsewhere starts the verifiers; end waits for them.
func elsewhere(t *testing.T) (out io.Writer, end func()) {
	t.Helper()
	if *proofLinesFile != "" {
		f, err := os.Create(*proofLinesFile)
		if err != nil {
			t.Fatal(err)
		}
		return f, func() {
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	node, err := exec.LookPath("node")
	if err != nil && os.Getenv("KEYTREE_CLIENTS") != "" {
		t.Fatalf("KEYTREE_CLIENTS is set, but: %v", err)
	}
	if err != nil {
		t.Skip("node is not installed; .ci/run installs it")
	}
	var all []io.Writer
	var ends []func()
	for _, program := range verifiers {
		cmd := exec.CommandContext(t.Context(), node, filepath.Base(program))
		cmd.Dir = filepath.Dir(program)
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		in, err := cmd.StdinPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, alive{in})
		ends = append(ends, func() {
			_ = in.Close()
			if err := cmd.Wait(); err != nil {
				t.Errorf("%s: %v\n%.4000s", program, err, said.String())
			} else {
				t.Logf("%s: %s", program, said.String())
			}
		})
	}
	return io.MultiWriter(all...), func() {
		for _, end := range ends {
			end()
		}
	}
}

// alive lets writing go on for the others when a program has ended.
type alive struct{ io.Writer }

func (a alive) Write(b []byte) (int, error) {
	_, _ = a.Writer.Write(b)
	return len(b), nil
}

// cutLines are proofs of keys of a path that is longer than one may show.
func cutLines(t *testing.T, l *testLog) (lines []*proofLine) {
	t.Helper()
	g, err := graph.Open(t.TempDir(), graph.Params{Network: "regtest"}, graph.Options{MemTable: 8 << 20, BlockCache: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	const keys = proof.MaxStateRecords + 10
	of := func(n int) protocol.KeyHash {
		hash := sum("key of a path", n)
		return protocol.KeyHash(hash[:20])
	}
	block := graph.Block{Hash: sum("block of a path", 0)}
	for n := 1; n < keys; n++ {
		child, parent := of(n), of(n-1)
		request := sum("request", n)
		block.Actions = append(block.Actions,
			links.Action{Index: uint32(2 * n), TxID: request, Author: &child, Action: protocol.Action{Kind: protocol.MLR, Parent: parent}},
			links.Action{Index: uint32(2*n + 1), TxID: sum("accept", n), Author: &parent, Action: protocol.Action{Kind: protocol.MLA, Ref: protocol.RefersTo(request)}})
	}
	if err := g.Connect(block, graph.Block{Height: 1, PrevHash: block.Hash, Hash: chainhash.Hash{1}}); err != nil {
		t.Fatal(err)
	}
	for _, subjects := range [][]proof.StateSubject{
		{{Key: of(keys - 1)}},
		{{Key: of(3)}, {Key: of(keys - 1)}, {Key: of(keys - 4)}, {Key: protocol.KeyHash{1}}},
		{{Key: of(proof.MaxStateRecords - 1)}},
	} {
		made, err := g.ProveState(t.Context(), 1, subjects)
		if err != nil {
			t.Fatal(err)
		}
		line := &proofLine{File: string(l.file(t, made)), Policy: l.text, OK: true, AsOfHeight: 1}
		walked, err := made.Walk()
		if err != nil {
			t.Fatal(err)
		}
		for i := range walked {
			line.Subjects = append(line.Subjects, newProofLineSubject(subjects[i], walked[i].Cut, shownRecords(&walked[i])))
		}
		lines = append(lines, line)
	}
	return lines
}
