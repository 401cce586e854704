package graph_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
)

// The tests named TestProperty drive the graph and the model (model_test.go) with
// the same random chains and hold their answers against each other. A run without
// further ado takes some seconds. The long one, with more and longer chains, takes
// some ten minutes, and tells which outcomes it met:
//
//	KEYTREE_EXHAUSTIVE=1 go test ./graph -run TestProperty -v -timeout 1h
//
// and with -rapid.checks=N as long as you like. A chain on which they disagree is
// shrunk, shown, and stored below testdata/rapid, from where the next run tries it
// first. Once understood it becomes a test with a name in property_cases_test.go.

// mostBlocks is where chains stop to grow other than by forks, since every block
// is compared again after every step.
const mostBlocks = 32

// checks sets how many random chains the test tries, and how many steps each
// takes on average, unless the command line says so.
func checks(t *testing.T, n, steps, long int) {
	if exhaustive() {
		n, steps = long, 2*steps
	}
	for name, value := range map[string]int{"rapid.checks": n, "rapid.steps": steps} {
		f := flag.Lookup(name)
		if f.Value.String() != f.DefValue {
			continue
		}
		set := func(s string) {
			if err := flag.Set(name, s); err != nil {
				t.Fatal(err)
			}
		}
		set(strconv.Itoa(value))
		t.Cleanup(func() { set(f.DefValue) })
	}
}

func exhaustive() bool { return os.Getenv("KEYTREE_EXHAUSTIVE") != "" }

// TestPropertyAnswers: after any sequence of connects, disconnects and restarts
// the graph answers like the model, as of every height, and so does a fresh index
// of the chain that is left (protocol/SPEC.md §8). A view that is held meanwhile
// sticks to what was true when it was opened.
func TestPropertyAnswers(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	checks(t, 10, 14, 300)
	met := tally{}
	rapid.Check(t, func(t *rapid.T) {
		p := newPair(t, rapid.SampledFrom([]uint32{0, 1, 547000}).Draw(t, "start height"))
		w := newWorld(4 + pick(t, "keys beyond four", 9))
		t.Repeat(map[string]func(*rapid.T){
			"connect": func(t *rapid.T) {
				if len(p.model.states) >= mostBlocks {
					t.Skip("long enough")
				}
				p.connect(t, w.block(t, p.next()))
			},
			"connect several": func(t *rapid.T) {
				if len(p.model.states) >= mostBlocks {
					t.Skip("long enough")
				}
				p.connect(t, w.blocks(t, p.next(), 2+pick(t, "blocks beyond two", 3))...)
			},
			"fork": func(t *rapid.T) {
				n := p.forkDepth(t)
				for range n {
					p.disconnect(t)
				}
				p.connect(t, w.blocks(t, p.next(), pick(t, "blocks", n+2))...)
			},
			"hold a view": func(t *rapid.T) {
				if len(p.model.states) == 0 {
					t.Skip("nothing to view")
				}
				if len(p.held) == 3 {
					p.letGo()
				}
				p.hold(t)
			},
			"refuse": func(t *rapid.T) {
				blocks := w.blocks(t, p.next(), 1+pick(t, "blocks", 2))
				spoil(t, &blocks[len(blocks)-1], p.model.tip(), len(p.model.states) == 0 && len(blocks) == 1)
				if err := p.graph.Connect(blocks...); !errors.Is(err, graph.ErrBlock) {
					t.Fatalf("Connect of a bad block: %v", err)
				}
			},
			"restart": func(t *rapid.T) {
				p.restart(t)
			},
			"return": func(t *rapid.T) { // to blocks that were disconnected
				var blocks []graph.Block
				for range p.forkDepth(t) {
					blocks = append(blocks, p.disconnect(t))
				}
				slices.Reverse(blocks)
				if coin(t, "one by one") {
					for _, b := range blocks {
						p.connect(t, b)
					}
				} else {
					p.connect(t, blocks...)
				}
			},
			"": func(t *rapid.T) {
				p.agree(t, w, pageSize(t))
			},
		})

		met.state(p.model.tip())
		fresh := newPair(t, p.start)
		for _, s := range p.model.states {
			fresh.connect(t, s.block)
		}
		fresh.agree(t, w, pageSize(t))
		if got, want := fresh.tipHash(), p.tipHash(); got != want {
			t.Fatalf("state hash of a fresh index: %x, want %x", got, want)
		}
	})
	met.report(t, everyOutcome()...)
}

// tally counts what random chains led to.
type tally map[string]int

// state counts what has become of the actions of a chain.
func (c tally) state(s *modelState) {
	for _, a := range s.actions {
		outcome := fmt.Sprintf("%v state %d reason %d", a.Kind, a.state, a.reason)
		c[outcome]++
		if a.reason != 0 && a.decided > a.height {
			c[outcome+" after waiting"]++
		}
	}
	c["identity current"] += len(s.ids)
	c["identity merged"] += len(s.merged)
}

// everyOutcome lists what can become of an action.
func everyOutcome() []string {
	list := []string{"identity current", "identity merged"}
	add := func(kind protocol.Kind, state links.ActionState, reasons ...links.Reason) {
		for _, reason := range reasons {
			list = append(list, fmt.Sprintf("%v state %d reason %d", kind, state, reason))
			if reason >= links.WrongKind {
				list = append(list, list[len(list)-1]+" after waiting")
			}
		}
	}
	add(protocol.MLR, links.StateOpen, links.NoReason)
	add(protocol.MLR, links.StateUsed, links.NoReason)
	add(protocol.MLR, links.StateRefused, links.Malformed, links.NoAuthor, links.SelfLink)
	add(protocol.MLA, links.StateWaiting, links.NoReason)
	add(protocol.MLA, links.StateInForce, links.NoReason)
	add(protocol.MLA, links.StateCut, links.NoReason)
	add(protocol.MLA, links.StateRefused, links.Malformed, links.NoAuthor, links.WrongKind, links.RequestRefused,
		links.NotTheParent, links.RequestUsed, links.ChildHasParent, links.Loop)
	add(protocol.MCR, links.StateWaiting, links.NoReason)
	add(protocol.MCR, links.StateDone, links.NoReason)
	add(protocol.MCR, links.StateRefused, links.Malformed, links.NoAuthor, links.WrongKind, links.AcceptRefused,
		links.NotTheParent, links.AlreadyRevoked)
	return list
}

// report logs the tally. In a long run everything wanted has to be in it: random
// chains that do not lead there prove nothing about it.
func (c tally) report(t *testing.T, wanted ...string) {
	for _, what := range slices.Sorted(maps.Keys(c)) {
		t.Logf("%6d %s", c[what], what)
	}
	for _, what := range wanted {
		if c[what] == 0 && exhaustive() {
			t.Errorf("never: %s", what)
		}
	}
}
