package graph_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
)

// clientsEnv is the variable that says that no program is missing that tests need beside Go: .ci/run has installed them.
const clientsEnv = "KEYTREE_CLIENTS"

// TestPropertyProofsInJavaScript: keytree.js, whose verifier was written from protocol/SPEC.md alone, finds in proofs as of any
// height, after any sequence of connects and disconnects, what the model says, and in changed ones what package proof
// does. With KEYTREE_EXHAUSTIVE these are more than 10,000.
func TestPropertyProofsInJavaScript(t *testing.T) {
	if testing.Short() {
		t.Skip("starts node")
	}
	second := startSecond(t)
	checks(t, 8, 14, 120)
	l := newTestLog(t)
	rapid.Check(t, func(t *rapid.T) {
		p := newPairWith(t, 0, graph.Options{})
		w := newWorld(4 + pick(t, "keys beyond four", 9))
		t.Repeat(map[string]func(*rapid.T){
			"connect": func(t *rapid.T) {
				if len(p.model.states) >= mostBlocks {
					t.Skip("long enough")
				}
				p.connect(t, w.blocks(t, p.next(), 3+pick(t, "blocks beyond three", 3))...)
			},
			"fork": func(t *rapid.T) {
				n := p.forkDepth(t)
				for range n {
					p.disconnect(t)
				}
				p.connect(t, w.blocks(t, p.next(), pick(t, "blocks", n+2))...)
			},
			"": func(t *rapid.T) {
				if len(p.model.states) < 8 {
					return // there is little to be shown
				}
				for range 6 {
					s := rapid.SampledFrom(p.model.states).Draw(t, "height")
					subjects := present(t, s.records(), w.subjects(t))
					made, err := p.graph.ProveState(context.Background(), s.block.Height, subjects)
					if err != nil {
						t.Fatalf("ProveState as of %d: %v", s.block.Height, err)
					}
					file := l.file(t, made)
					second.judge(t, file, l, s.block.Height, subjects, func(subject int) []string { return modelWalk(s.records(), subjects[subject]) })
					changed := bytes.Clone(file)
					changed[rapid.IntRange(0, len(file)-1).Draw(t, "byte")] ^= byte(1 << pick(t, "bit", 7))
					proven, err := proof.VerifyState(changed, l.policy)
					if err != nil {
						second.judge(t, changed, l, 0, nil, nil)
						continue
					}
					var of []proof.StateSubject
					for i := range proven.Subjects {
						of = append(of, proven.Subjects[i].StateSubject)
					}
					second.judge(t, changed, l, proven.Entry.Height, of, func(subject int) []string { return shownRecords(&proven.Subjects[subject]) })
				}
			},
		})
	})
	second.end(t)
}

// present adds to what a proof is about keys and ids that have records.
func present(t *rapid.T, records map[[32]byte]string, subjects []proof.StateSubject) []proof.StateSubject {
	for _, record := range slices.Sorted(maps.Values(records)) {
		var s proof.StateSubject
		if s.IsID = record[0] == protocol.RecordOfID; s.IsID {
			copy(s.ID[:], record[1:])
		} else {
			copy(s.Key[:], record[1:])
		}
		if !slices.Contains(subjects, s) && rapid.Bool().Draw(t, "a subject, too") {
			subjects = append(subjects, s)
		}
	}
	return subjects
}

// secondVerifier is rpc/web/testdata/corpus.mjs, which verifies what it is given with keytree.js.
type secondVerifier struct {
	cmd       *exec.Cmd
	in        io.WriteCloser
	out, said bytes.Buffer
	judged    int
}

func startSecond(t *testing.T) *secondVerifier {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil && os.Getenv(clientsEnv) != "" {
		t.Fatalf("%s is set, but: %v", clientsEnv, err)
	}
	if err != nil {
		t.Skip("node is not installed; .ci/run installs it")
	}
	v := new(secondVerifier)
	v.cmd = exec.CommandContext(t.Context(), node, filepath.Join("..", "rpc", "web", "testdata", "corpus.mjs"))
	v.cmd.Stdout, v.cmd.Stderr = &v.out, &v.said
	if v.in, err = v.cmd.StdinPipe(); err == nil {
		err = v.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// judge has a file verified: it has to show the records of the walk of each subject; nothing, without subjects.
func (v *secondVerifier) judge(t rapid.TB, file []byte, l *testLog, height uint32, subjects []proof.StateSubject, walk func(subject int) []string) {
	type shown struct {
		Key  string   `json:"key,omitempty"`
		ID   string   `json:"id,omitempty"`
		Keys []string `json:"keys,omitempty"`
		IDs  []string `json:"ids,omitempty"`
	}
	line := struct {
		File     string  `json:"file"`
		Policy   string  `json:"policy"`
		OK       bool    `json:"ok"`
		Height   uint32  `json:"as_of_height"`
		Subjects []shown `json:"subjects"`
	}{string(file), fmt.Sprintf("log %s\nquorum none\n", l.key.Log()), len(subjects) > 0, height, nil}
	for i, subject := range subjects {
		var records []string
		for _, record := range walk(i) {
			records = append(records, hex.EncodeToString([]byte(record)))
		}
		if subject.IsID {
			line.Subjects = append(line.Subjects, shown{ID: hex.EncodeToString(subject.ID[:]), IDs: records})
		} else {
			line.Subjects = append(line.Subjects, shown{Key: hex.EncodeToString(subject.Key[:]), Keys: records})
		}
	}
	v.judged++
	if err := json.NewEncoder(v.in).Encode(line); err != nil {
		t.Fatalf("proof %d: %v", v.judged, err)
	}
}

// end hears what it made of all.
func (v *secondVerifier) end(t *testing.T) {
	t.Helper()
	v.in.Close()
	if err := v.cmd.Wait(); err != nil {
		t.Fatalf("%v: %.4000s", err, v.said.String())
	}
	var counts struct{ Proofs, Refused, Subjects, Absent, Linked, Merged int }
	if err := json.Unmarshal(v.out.Bytes(), &counts); err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", counts)
	if counts.Proofs != v.judged || counts.Refused*3 < v.judged || counts.Absent == 0 || counts.Linked == 0 || counts.Merged == 0 {
		t.Errorf("of %d proofs it has seen %+v", v.judged, counts)
	}
}
