// Package vectors is the conformance corpus of the rules (protocol/SPEC.md), for whoever writes an
// indexer: README.md says how to use it. Its tests run the corpus through keytree, as far as
// possible as a node's blocks would go, and through a second implementation in another language
// (second/). No program uses the package.
package vectors

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// Case is a file of the corpus. README.md tells what its fields mean.
type Case struct {
	About       string `json:"about"`
	Network     string `json:"network"`
	StartHeight uint32 `json:"start_height"`
	Steps       []Step `json:"steps"`
}

// Step connects a block, or takes the last one back, and tells what is so afterwards.
type Step struct {
	About      string `json:"about,omitempty"`
	Connect    Hex    `json:"connect,omitempty"`
	Disconnect bool   `json:"disconnect,omitempty"`
	Height     uint32 `json:"height"`
	Block      Hash   `json:"block"`
	Txs        []Tx   `json:"txs,omitempty"`
	Effects    []Hex  `json:"effects,omitempty"`
	StateHash  Hex    `json:"state_hash"`
	StateRoot  Hex    `json:"state_root,omitempty"`
}

// Tx says for people what a transaction of a block is there for.
type Tx struct {
	TxID  Hash   `json:"txid"`
	About string `json:"about"`
}

// Hash is the hash of a block or a transaction, written in display order.
type Hash chainhash.Hash

func (h Hash) String() string { return chainhash.Hash(h).String() }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(text []byte) error {
	return chainhash.Decode((*chainhash.Hash)(h), string(text))
}

// Hex is bytes, written in hexadecimal.
type Hex []byte

func (h Hex) String() string { return hex.EncodeToString(h) }

// MarshalText implements encoding.TextMarshaler.
func (h Hex) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hex) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// files returns the names of the corpus, in ascending order.
func files(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("no corpus here: %v %v", names, err)
	}
	return names
}

func load(t *testing.T, name string) *Case {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	c := new(Case)
	if err := json.Unmarshal(text, c); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return c
}

// seen is what keytree makes of a step.
type seen struct {
	height    uint32
	block     Hash
	effects   []Hex
	stateHash Hex
	stateRoot Hex
}

// compare returns in what a run of the case differs from what the case says.
func (c *Case) compare(run []seen) error {
	if len(run) != len(c.Steps) {
		return fmt.Errorf("%d steps of %d were run", len(run), len(c.Steps))
	}
	var wrong []error
	for i, want := range c.Steps {
		got := run[i]
		differs := func(field string, is, should any) {
			wrong = append(wrong, fmt.Errorf("step %d (height %d): %s is %v, and should be %v", i, got.height, field, is, should))
		}
		if got.height != want.Height {
			differs("height", got.height, want.Height)
		}
		if got.block != want.Block {
			differs("block", got.block, want.Block)
		}
		if got.stateHash.String() != want.StateHash.String() {
			differs("state_hash", got.stateHash, want.StateHash)
		}
		if got.stateRoot.String() != want.StateRoot.String() {
			differs("state_root", got.stateRoot, want.StateRoot)
		}
		for n := range max(len(got.effects), len(want.Effects)) {
			var is, should Hex
			if n < len(got.effects) {
				is = got.effects[n]
			}
			if n < len(want.Effects) {
				should = want.Effects[n]
			}
			if is.String() != should.String() {
				differs(fmt.Sprintf("effect %d", n), is, should)
			}
		}
	}
	return errors.Join(wrong...)
}

// TestCorpus runs each case step by step, as a node's blocks, and then what is left of its chain
// into a fresh graph, which ends with the same state hash and root.
func TestCorpus(t *testing.T) {
	if testing.Short() {
		t.Skip("opens one database after the other")
	}
	for _, name := range files(t) {
		t.Run(name, func(t *testing.T) {
			c := load(t, name)
			run := play(t, c)
			if err := c.compare(run); err != nil {
				t.Error(err)
			}
			follow(t, c)
			last := run[len(run)-1]
			if got := playFresh(t, c); got.stateHash.String() != last.stateHash.String() || got.stateRoot.String() != last.stateRoot.String() {
				t.Errorf("a fresh index of the same chain has state hash %v and root %v, not %v and %v", got.stateHash, got.stateRoot, last.stateHash, last.stateRoot)
			}
		})
	}
}

// TestCovers finds that the corpus has each effect, each reason to refuse each kind of action, and each
// way to break a chain of anchors; and that what is said of a transaction is what becomes of it.
func TestCovers(t *testing.T) {
	missing := map[string]string{ // by how an effect begins, without its txid
		"01": "a request opened", "02": "a link in force", "03": "a link cut", "06": "an identity named", "07": "an identity merged",
		"0502": "an accept that waits", "0503": "a revoke that waits", "08": "an anchor",
	}
	for kind, reasons := range map[int][]int{1: {1, 2, 3}, 2: {1, 2, 4, 5, 6, 7, 8, 9}, 3: {1, 2, 4, 10, 6, 11}} {
		for _, reason := range reasons {
			missing[fmt.Sprintf("04%02x%02x", kind, reason)] = fmt.Sprintf("an action of kind %d refused for reason %d", kind, reason)
		}
	}
	for how := 1; how <= 5; how++ {
		missing[fmt.Sprintf("09%02x", how)] = fmt.Sprintf("a chain of anchors broken, %02d", how)
	}
	disconnects := 0
	for _, name := range files(t) {
		for _, step := range load(t, name).Steps {
			if step.Disconnect {
				disconnects++
			}
			begins := make(map[chainhash.Hash]string) // by transaction, the begins of its effects
			for _, e := range step.Effects {
				begin := e[:1].String()
				switch e[0] {
				case 4:
					begin += e[33:35].String()
				case 5:
					begin += e[33:34].String()
				case 9:
					begin += e[65:].String()
				}
				begins[chainhash.Hash(e[1:33])] += begin + " "
				delete(missing, begin)
			}
			for _, tx := range step.Txs {
				if want, ok := foretold(tx.About); ok && !strings.HasPrefix(begins[chainhash.Hash(tx.TxID)], want) || want == "" && ok && begins[chainhash.Hash(tx.TxID)] != "" {
					t.Errorf("%s, height %d: of %q the effects begin with %q", name, step.Height, tx.About, begins[chainhash.Hash(tx.TxID)])
				}
			}
		}
	}
	for _, what := range missing {
		t.Errorf("there is no case of %s", what)
	}
	if disconnects < 20 {
		t.Errorf("%d blocks only are taken back", disconnects)
	}
}

// TestSignatures finds that signatures are right unless it is said that they are not: so the corpus
// serves those as well who have to check them.
func TestSignatures(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	checked := 0
	for _, name := range files(t) {
		txs := make(map[chainhash.Hash]protocol.Tx)
		for i, step := range load(t, name).Steps {
			if step.Disconnect {
				continue
			}
			block, err := protocol.ReadBlock(step.Connect)
			if err != nil {
				t.Fatal(err)
			}
			for _, tx := range block.Txs() {
				txs[chainhash.DoubleHashH(tx)] = tx
			}
			for _, said := range step.Txs {
				claim, ok := txs[chainhash.Hash(said.TxID)].Claim()
				if !ok || !claim.Checkable() || strings.Contains(said.About, "no author") || strings.Contains(said.About, "without an author") {
					continue
				}
				var spent []protocol.Output
				for _, out := range claim.Inputs {
					output, err := protocol.SpentOutput(txs[out.Hash], out)
					if err != nil {
						t.Fatal(err)
					}
					spent = append(spent, output)
				}
				err := claim.Verify(regtest.Params, step.Height, spent)
				if right := err == nil; right == strings.Contains(said.About, "made-up") {
					t.Errorf("%s, step %d, %q: %v", name, i, said.About, err)
				}
				checked++
			}
		}
	}
	if checked < 500 {
		t.Errorf("%d signatures were checked only", checked)
	}
}

// foretold is how the first effect of a transaction begins, by what is said of it; ok is false if
// that depends. It is "" if there is none.
func foretold(about string) (begins string, ok bool) {
	kind := map[string]string{"MLR": "01", "MLA": "02", "MCR": "03"}
	word, rest, _ := strings.Cut(about, " ")
	_, authorship, _ := strings.Cut(about, "MLR: ")
	switch {
	case strings.HasPrefix(about, "no action"), strings.HasPrefix(about, "no anchor"):
		return "", true
	case word == "malformed" && len(rest) >= 3:
		return "04" + kind[rest[:3]] + "01", true
	case strings.HasPrefix(authorship, "no author"), strings.HasPrefix(about, "MLR without an author"):
		return "040102", true
	case strings.HasPrefix(authorship, "author"):
		return "01", true
	case word == "anchor:":
		return "08", true
	}
	return "", false
}

// TestMutations finds that no value of a case can be another without being noticed.
func TestMutations(t *testing.T) {
	if testing.Short() {
		t.Skip("opens a database")
	}
	const name = "cuts.json"
	run := play(t, load(t, name))
	mutated := 0
	for what, change := range mutations(t, name) {
		c := load(t, name)
		change(c)
		if c.compare(run) == nil {
			t.Errorf("another %s was not noticed", what)
		}
		mutated++
	}
	if mutated < 50 {
		t.Errorf("%d values were changed only", mutated)
	}
}

// mutations yields a change of each expected value of a case.
func mutations(t *testing.T, name string) func(yield func(what string, change func(*Case)) bool) {
	flip := func(h Hex) { h[len(h)/2] ^= 1 }
	return func(yield func(string, func(*Case)) bool) {
		for i, step := range load(t, name).Steps {
			ok := yield("height", func(c *Case) { c.Steps[i].Height++ }) &&
				yield("block", func(c *Case) { c.Steps[i].Block[0] ^= 1 }) &&
				yield("state_hash", func(c *Case) { flip(c.Steps[i].StateHash) }) &&
				yield("state_root", func(c *Case) { flip(c.Steps[i].StateRoot) }) &&
				yield("number of effects", func(c *Case) { c.Steps[i].Effects = append(c.Steps[i].Effects, Hex{1}) })
			for n := range step.Effects {
				ok = ok && yield("effect", func(c *Case) { flip(c.Steps[i].Effects[n]) }) &&
					yield("number of effects", func(c *Case) { c.Steps[i].Effects = c.Steps[i].Effects[:n] })
			}
			if !ok {
				return
			}
		}
	}
}
