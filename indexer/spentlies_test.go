package indexer_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
)

// said is what a node says that acts spend, where that is not what they spend.
type said map[*act][]protocol.Output

// spentLie is a lie about what acts of a block spend.
type spentLie struct {
	name string
	tell func(t *rapid.T, acts []*act) said
}

// about is a lie about one act of which is is true. Change gets a copy of the truth.
func about(is func(*act) bool, change func(t *rapid.T, a *act, truth []protocol.Output) []protocol.Output) func(*rapid.T, []*act) said {
	return func(t *rapid.T, acts []*act) said {
		a := rapid.SampledFrom(those(acts, is)).Draw(t, "about")
		return said{a: change(t, a, slices.Clone(a.covered()))}
	}
}

// those returns the acts whose author takes a coin to know, and of which is is true.
func those(acts []*act, is func(*act) bool) []*act {
	return slices.DeleteFunc(slices.Clone(acts), func(a *act) bool { return !a.claims() || !is(a) })
}

// script is a lie about the script of the coin that input 0 spends.
func script(is func(*act) bool, lie func(t *rapid.T, a *act) []byte) func(*rapid.T, []*act) said {
	return about(is, func(t *rapid.T, a *act, truth []protocol.Output) []protocol.Output {
		truth[0].Script = lie(t, a)
		return truth
	})
}

// value is a lie about the value of the coin that an input spends.
func value(is func(*act) bool, input int, lie func(int64) int64) func(*rapid.T, []*act) said {
	return about(is, func(_ *rapid.T, _ *act, truth []protocol.Output) []protocol.Output {
		truth[input].Value = lie(truth[input].Value)
		return truth
	})
}

// token is a lie about the token of the coin that an input spends. Lie gets the prefix
// that there is, which may be empty.
func token(is func(*act) bool, input int, lie func(t *rapid.T, prefix []byte) []byte) func(*rapid.T, []*act) said {
	return about(is, func(t *rapid.T, _ *act, truth []protocol.Output) []protocol.Output {
		field := truth[input].Script
		bare := protocol.StripTokenPrefix(field)
		truth[input].Script = slices.Concat(lie(t, field[:len(field)-len(bare)]), bare)
		return truth
	})
}

// addOrLeaveOut is a token where there is none, and none where there is one.
func addOrLeaveOut(t *rapid.T, prefix []byte) []byte {
	if len(prefix) > 0 {
		return nil
	}
	return drawPrefix(t)
}

func drawPrefix(t *rapid.T) []byte {
	token := drawToken(t)
	prefix := token.TokenDataBuffer()
	return prefix.Bytes()
}

// other is a token that is not that which there is.
func other(t *rapid.T, prefix []byte) []byte {
	return rapid.Custom(drawPrefix).Filter(func(drawn []byte) bool { return string(drawn) != string(prefix) }).Draw(t, "prefix")
}

// hasToken reports whether the coin that input 0 spends has a token.
func hasToken(a *act) bool { return protocol.HasTokenPrefix(a.spends[0].Script) }

// signsSeveral reports whether the author has signed what several inputs spend. Of a
// false claim, nobody looks at any input but the first.
func signsSeveral(a *act) bool { return a.isAuthored() && len(a.covered()) > 1 }

// everything is every act.
func everything(*act) bool { return true }

// spentLies are lies of every kind about what acts spend.
func spentLies() []spentLie {
	anyKey := rapid.Custom(func(t *rapid.T) (key protocol.KeyHash) {
		copy(key[:], rapid.SliceOfN(rapid.Byte(), 20, 20).Draw(t, "hash"))
		return key
	})
	names := func(_ *rapid.T, a *act) []byte { return protocol.P2PKHScript(a.actor.hash()) }
	return []spentLie{
		// Somebody has not acted who has.
		{"another key's coin", script((*act).isAuthored, func(t *rapid.T, _ *act) []byte { return protocol.P2PKHScript(anyKey.Draw(t, "key")) })},
		{"a script's coin", script((*act).isAuthored, func(t *rapid.T, _ *act) []byte {
			key := anyKey.Draw(t, "script hash")
			return slices.Concat([]byte{txscript.OP_HASH160, txscript.OP_DATA_20}, key[:], []byte{txscript.OP_EQUAL})
		})},
		{"anybody's coin", script((*act).isAuthored, func(*rapid.T, *act) []byte { return []byte{txscript.OP_2DROP, txscript.OP_1} })},
		{"no script", script((*act).isAuthored, func(*rapid.T, *act) []byte { return nil })},
		{"a longer script", script((*act).isAuthored, func(t *rapid.T, a *act) []byte { return append(names(t, a), txscript.OP_NOP) })},
		{"a token that cannot be", token((*act).isAuthored, 0, func(*rapid.T, []byte) []byte { return make([]byte, 34) })},

		// Somebody has acted who has not.
		{"the victim's coin", script((*act).isFalse, names)},
		{"the victim's coin with a token", script((*act).isFalse, func(t *rapid.T, a *act) []byte { return append(drawPrefix(t), names(t, a)...) })},
		{"the victim's coin of another value", about((*act).isFalse, func(t *rapid.T, a *act, truth []protocol.Output) []protocol.Output {
			truth[0] = protocol.Output{Value: rapid.Int64().Draw(t, "value"), Script: names(t, a)}
			return truth
		})},
		{"another coin that is not the victim's", script((*act).isFalse, func(*rapid.T, *act) []byte { return []byte{txscript.OP_NOP, txscript.OP_1} })},

		{"more", value(everything, 0, func(v int64) int64 { return v + 1 })},
		{"less", value(everything, 0, func(v int64) int64 { return v - 1 })},
		{"a negative value", value(everything, 0, func(v int64) int64 { return -v })},
		{"a token more or less", token(everything, 0, addOrLeaveOut)},
		{"another token", token(hasToken, 0, other)},

		// Of another input, which the signature covers.
		{"another input: another script", about(signsSeveral, func(t *rapid.T, _ *act, truth []protocol.Output) []protocol.Output {
			last := &truth[len(truth)-1]
			last.Script = append(slices.Clone(last.Script), txscript.OP_NOP)
			return truth
		})},
		{"another input: more", value(signsSeveral, 1, func(v int64) int64 { return v + 1 })},
		{"another input: a token more or less", token(signsSeveral, 1, addOrLeaveOut)},
		{"another input: another token", token(signsSeveral, 1, other)},
		{"inputs in another order", about(signsSeveral, func(t *rapid.T, _ *act, truth []protocol.Output) []protocol.Output {
			i := rapid.IntRange(1, len(truth)-1).Draw(t, "input")
			truth[i-1], truth[i] = truth[i], truth[i-1]
			return truth
		})},
		{"two acts in each other's place", func(t *rapid.T, acts []*act) said {
			two := rapid.Permutation(those(acts, everything)).Draw(t, "acts")[:2]
			return said{two[0]: two[1].covered(), two[1]: two[0].covered()}
		}},

		{"an output too few", about(everything, func(_ *rapid.T, _ *act, truth []protocol.Output) []protocol.Output { return truth[:len(truth)-1] })},
		{"an output too many", about(everything, func(_ *rapid.T, _ *act, truth []protocol.Output) []protocol.Output { return append(truth, truth[0]) })},
	}
}

// tellOn has a lie told about some of the last block's acts.
func (lie spentLie) tellOn(t *rapid.T, s *stage) said {
	said := lie.tell(t, s.in(s.last()))
	for a, outputs := range said {
		if reflect.DeepEqual(outputs, a.covered()) {
			t.Fatalf("%s: that is no lie about %v", lie.name, a)
		}
	}
	return said
}

// backing is what a node gives for the previous transactions of what it lies about, in
// place of the true one.
type backing func(spender chainhash.Hash, out wire.OutPoint, tx protocol.Tx) (protocol.Tx, error)

// told has a node tell the lie, and back it.
func (s said) told(n node.Node, back backing) *liar {
	acts := make(map[chainhash.Hash]*act)
	for a := range s {
		acts[a.tx.TxHash()] = a
	}
	return &liar{
		Node: n,
		onSpent: func(by []node.Spender, spent []node.Spent) ([]node.Spent, error) {
			for i := range by {
				if a, ok := acts[by[i].TxID]; ok && i < len(spent) {
					spent[i].Outputs = s[a]
				}
			}
			return spent, nil
		},
		onPrevious: func(spender chainhash.Hash, out wire.OutPoint, tx protocol.Tx) (protocol.Tx, error) {
			if acts[spender] == nil {
				return tx, nil
			}
			return back(spender, out, tx)
		},
	}
}

// theTruth backs no lie.
func theTruth(_ chainhash.Hash, _ wire.OutPoint, tx protocol.Tx) (protocol.Tx, error) { return tx, nil }

// madeUp is a transaction that has the outputs which the act is said to spend, in
// place of the one that it names.
func (s said) madeUp(spender chainhash.Hash, out wire.OutPoint, _ protocol.Tx) (protocol.Tx, error) {
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(&wire.TxIn{PreviousOutPoint: out})
	for a, outputs := range s {
		for i, in := range a.tx.TxIn {
			if a.tx.TxHash() != spender || in.PreviousOutPoint != out || i >= len(outputs) {
				continue
			}
			for range out.Index + 1 {
				tx.AddTxOut(wire.NewTxOut(outputs[i].Value, outputs[i].Script, wire.TokenData{}))
			}
		}
	}
	return serializedTx(tx), nil
}

// erases reports whether a pruned node gets through with the lie: whether by its word
// nobody whom it lies about has acted.
func (s said) erases() bool {
	for a, outputs := range s {
		if len(outputs) != len(a.covered()) || a.holds(outputs[0]) {
			return false
		}
	}
	return true
}

// miscounts reports whether there are too few outputs or too many.
func (s said) miscounts() bool {
	for a, outputs := range s {
		if len(outputs) != len(a.covered()) {
			return true
		}
	}
	return false
}

// acts returns the acts that it is about.
func (s said) acts() (acts []*act) {
	for a := range s {
		acts = append(acts, a)
	}
	return acts
}

// stage is a graph that ends before the last block of a play, and a model beside it.
type stage struct {
	*play
	tips         map[uint32]graph.Tip // of the blocks before the last one
	model, graph *graph.Graph
}

// newStage writes a play that ends with a block of acts of all kinds, or of all that
// a pruned node can tell.
func newStage(t *rapid.T, dir string, pruned bool) *stage {
	kinds := honest()
	if pruned {
		kinds = slices.DeleteFunc(kinds, func(u unlocking) bool { return u == signsOld })
	}
	w := newWriter(t, kinds)
	w.actAll(pruned)
	s := &stage{play: w.play(), model: openIn(t, dir, 0), graph: openIn(t, dir, 0)}
	before := s.last() - 1
	s.tips = s.play.model(t, s.model, before)
	s.play.model(t, s.graph, before)
	return s
}

// without is the tip if nobody has done the acts.
func (s *stage) without(t *rapid.T, acts []*act) graph.Tip {
	t.Helper()
	if err := s.model.Connect(s.block(t, s.last(), acts...)); err != nil {
		t.Fatal(err)
	}
	tip, _ := s.model.Tip()
	if err := s.model.Disconnect(); err != nil {
		t.Fatal(err)
	}
	return tip
}

// wantRefused checks that the lie was refused by the names of the node, the block, and
// an act that it is about, and that the block has not been taken.
func (s *stage) wantRefused(t *rapid.T, e end, said said) {
	t.Helper()
	if !errors.Is(e.err, node.ErrInvalid) || e.tip != s.tips[s.last()-1] {
		t.Fatalf("%v, %+v, tip %+v, expected that it is refused; log:\n%s", e.err, e.status, e.tip, e.log)
	}
	names := func(what any) bool { return strings.Contains(e.err.Error(), fmt.Sprint(what)) }
	block := s.blocks[s.last()].BlockHash()
	if !names(nodeName) || !names(block) || !slices.ContainsFunc(said.acts(), func(a *act) bool { return names(a.tx.TxHash()) }) {
		t.Fatalf("%q does not name %s, block %v, and the transaction", e.err, nodeName, block)
	}
}

// TestPropertySpentLies has a node lie in every way about what the acts of a block
// spend: it is refused, whatever previous transactions it backs that with.
func TestPropertySpentLies(t *testing.T) {
	checks(t, 2, 100)
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		s := newStage(t, dir, false)
		for _, lie := range spentLies() {
			said := lie.tellOn(t, s)
			for _, by := range []struct {
				name string
				back backing
			}{
				{"the truth", theTruth},
				{"a transaction of another hash", said.madeUp},
				{"what an adapter refuses", func(_ chainhash.Hash, out wire.OutPoint, _ protocol.Tx) (protocol.Tx, error) {
					return nil, fmt.Errorf("node at %s: transaction %v: %w: it sent another", nodeName, out.Hash, node.ErrInvalid)
				}},
			} {
				t.Logf("%s: %v, backed by %s", lie.name, said.acts(), by.name)
				s.wantRefused(t, run(t, said.told(s.wordNode(), by.back), s.graph), said)
			}
		}
	})
}

// TestPropertyPrunedLies has a pruned node do the same. It is believed which coins are
// not a key's, and nothing else.
func TestPropertyPrunedLies(t *testing.T) {
	checks(t, 2, 100)
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		s := newStage(t, dir, true)
		for _, lie := range spentLies() {
			said := lie.tellOn(t, s)
			t.Logf("%s: %v", lie.name, said.acts())
			n := s.wordNode()
			n.pruned = true
			e := run(t, said.told(n, theTruth), s.graph)
			switch {
			case said.miscounts():
				s.wantRefused(t, e, said)
			case said.erases():
				wantSynced(t, "a pruned node", e, s.without(t, said.acts()), 1)
				if err := s.graph.Disconnect(); err != nil {
					t.Fatal(err)
				}
			default:
				wantUnsuitable(t, e)
				wantTips(t, e, s.tips)
			}
		}
	})
}
