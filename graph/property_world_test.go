package graph_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"
	"reflect"
	"slices"
	"strings"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
)

// world makes up chains: few keys, so that they get into each other's way, and
// actions that mostly make sense. An action that is not confirmed, because it was
// held back or its block was disconnected, may get into any later block.
type world struct {
	keys []protocol.KeyHash
	txs  []links.Action // all that were ever made, confirmed or not; Index unset
	made uint32         // blocks made, for their hashes
}

// mostTxs is how many actions a world makes up. From then on its blocks hold only
// such as are not confirmed.
const mostTxs = 96

func newWorld(keys int) *world {
	w := &world{}
	for i := range keys {
		hash := sum("key", i)
		w.keys = append(w.keys, protocol.KeyHash(hash[:20]))
	}
	return w
}

func sum(what string, i int) chainhash.Hash {
	return sha256.Sum256(fmt.Appendf(nil, "%s %d", what, i))
}

// place is where a block goes.
type place struct {
	before *modelState
	height uint32
}

// blocks makes up n blocks in a row.
func (w *world) blocks(t *rapid.T, at place, n int) []graph.Block {
	var blocks []graph.Block
	for range n {
		b := w.block(t, at)
		blocks = append(blocks, b)
		at = place{before: at.before.next(b), height: at.height + 1}
	}
	return blocks
}

// block makes up a block of up to seven actions, or some more. They are in any order in it.
func (w *world) block(t *rapid.T, at place) graph.Block {
	b := w.emptyBlock(at)
	var pending []links.Action
	for _, tx := range w.txs {
		if at.before.action(tx.TxID) == nil {
			pending = append(pending, tx)
		}
	}
	for range pick(t, "actions", 8) {
		full := len(w.txs) >= mostTxs
		if len(pending) > 0 && (full || oneIn(t, "pending", 4)) {
			i := pick(t, "which", len(pending))
			b.Actions = append(b.Actions, pending[i])
			pending = slices.Delete(pending, i, i+1)
			continue
		}
		if full {
			break
		}
		made := len(w.txs)
		w.act(t, at.before)
		for _, tx := range w.txs[made:] {
			if oneIn(t, "held back", 4) {
				pending = append(pending, tx)
			} else {
				b.Actions = append(b.Actions, tx)
			}
		}
	}
	ranks := make([]uint32, len(b.Actions))
	for i := range ranks {
		ranks[i] = uint32(i)
	}
	spread := uint32(1 + 400*pick(t, "indexes far apart", 2))
	for i, rank := range rapid.Permutation(ranks).Draw(t, "order") {
		b.Actions[i].Index = 1 + rank*spread
	}
	t.Logf("block %s", show(w, b))
	return b
}

func (w *world) emptyBlock(at place) graph.Block {
	w.made++
	return graph.Block{Height: at.height, Hash: sum("block", int(w.made)), PrevHash: at.before.block.Hash, Time: uint32(w.made), Bits: ^uint32(w.made)}
}

// act makes up an action on top of the state s, or two that belong together.
func (w *world) act(t *rapid.T, s *modelState) {
	switch what := pick(t, "what", 16); {
	case what < 3:
		w.request(w.child(t, s), w.key(t, "parent"))
	case what < 6: // a whole link
		request := w.request(w.child(t, s), w.key(t, "parent"))
		w.refer(t, protocol.MLA, request.Parent, request.TxID)
	case what < 9:
		w.answer(t, s, protocol.MLA)
	case what < 13:
		w.answer(t, s, protocol.MCR)
	case what == 13: // refers to anything or nothing
		w.refer(t, w.kind(t, protocol.MLA, protocol.MCR), w.key(t, "author"), w.anyTxID(t))
	case what == 14:
		a := links.Action{}
		a.Kind = w.kind(t, protocol.MLR, protocol.MLA, protocol.MCR)
		a.Malformed = errors.New("no parameters")
		if coin(t, "with author") {
			a.Author = ptr(w.key(t, "author"))
		}
		w.add(a)
	default:
		if kind := w.kind(t, protocol.MLR, protocol.MLA, protocol.MCR); kind == protocol.MLR {
			w.request(w.keys[0], w.key(t, "parent"))
		} else {
			w.refer(t, kind, w.keys[0], w.anyTxID(t))
		}
		w.txs[len(w.txs)-1].Author = nil
	}
}

// child draws a key that asks for a parent: half the time one that has none.
func (w *world) child(t *rapid.T, s *modelState) protocol.KeyHash {
	key := w.key(t, "child")
	if coin(t, "its root") {
		return s.root(key)
	}
	return key
}

// answer makes up an MLA to some MLR, or an MCR to some MLA, mostly to one that
// nothing was decided about yet, mostly by who may.
func (w *world) answer(t *rapid.T, s *modelState, kind protocol.Kind) {
	var all, ripe []links.Action
	for _, tx := range w.txs {
		if tx.Kind != kind-1 { // MLR, MLA, MCR
			continue
		}
		all = append(all, tx)
		if a := s.action(tx.TxID); a == nil || a.state != links.StateUsed && a.state != links.StateCut && a.state != links.StateRefused {
			ripe = append(ripe, tx)
		}
	}
	if len(ripe) > 0 && !oneIn(t, "unripe", 8) {
		all = ripe
	}
	if len(all) == 0 {
		w.request(w.child(t, s), w.key(t, "parent"))
		return
	}
	to := all[pick(t, "to", len(all))]
	author := to.Author
	if kind == protocol.MLA {
		author = &to.Parent
	}
	if author == nil || oneIn(t, "by somebody", 8) {
		author = ptr(w.key(t, "author"))
	}
	w.refer(t, kind, *author, to.TxID)
}

// add gives an action its txid.
func (w *world) add(a links.Action) links.Action {
	a.TxID = sum("tx", len(w.txs))
	w.txs = append(w.txs, a)
	return a
}

func (w *world) request(child, parent protocol.KeyHash) links.Action {
	return w.add(links.Action{Action: protocol.Action{Kind: protocol.MLR, Parent: parent}, Author: &child})
}

// refer makes up an MLA or MCR, with a reference in either byte order.
func (w *world) refer(t *rapid.T, kind protocol.Kind, author protocol.KeyHash, to chainhash.Hash) {
	a := links.Action{Action: protocol.Action{Kind: kind, Ref: protocol.RefersTo(to)}, Author: &author}
	if oneIn(t, "internal order", 4) {
		a.Ref = protocol.Reference(to)
	}
	if oneIn(t, "with message", 4) {
		a.Message = []byte{0xff, byte(len(w.txs))}
	}
	w.add(a)
}

func (w *world) key(t *rapid.T, label string) protocol.KeyHash {
	return w.keys[pick(t, label, len(w.keys))]
}

func (w *world) kind(t *rapid.T, kinds ...protocol.Kind) protocol.Kind {
	return kinds[pick(t, "kind", len(kinds))]
}

// anyTxID is the txid of any action, or of a tx that carries none.
func (w *world) anyTxID(t *rapid.T) chainhash.Hash {
	if i := pick(t, "to any", len(w.txs)+1); i < len(w.txs) {
		return w.txs[i].TxID
	}
	return sum("tx without action", 0)
}

// spoil makes the block after s one that cannot be connected.
func spoil(t *rapid.T, b *graph.Block, s *modelState, first bool) {
	twin := links.Action{Action: protocol.Action{Kind: protocol.MLR, Malformed: errors.New("no parameters")}}
	switch pick(t, "spoilt", 5) {
	case 0:
		b.Height++
	case 1:
		if first {
			b.Height++
		}
		b.PrevHash = sum("no block", 0)
	case 2:
		if len(b.Actions) == 0 {
			b.Actions = append(b.Actions, twin)
		}
		twin.TxID, twin.Index = b.Actions[0].TxID, 5000
		b.Actions = append(b.Actions, twin)
	case 3:
		if len(b.Actions) == 0 {
			b.Actions = append(b.Actions, twin)
		}
		twin.TxID, twin.Index = sum("twin", 0), b.Actions[0].Index
		b.Actions = append(b.Actions, twin)
	case 4: // confirmed already
		if len(s.actions) == 0 {
			b.Height--
			return
		}
		twin.TxID, twin.Index = s.actions[0].TxID, 5000
		b.Actions = append(b.Actions, twin)
	}
}

// pick draws one of n numbers, all equally likely (rapid's own integers prefer
// small ones). It shrinks to 0.
func pick(t *rapid.T, label string, n int) int {
	if n <= 1 {
		return 0
	}
	return rapid.Custom(func(t *rapid.T) int {
		v := 0
		for range bits.Len(uint(n-1)) + 3 {
			v *= 2
			if rapid.Bool().Draw(t, "bit") {
				v++
			}
		}
		return v % n
	}).Draw(t, label)
}

func coin(t *rapid.T, label string) bool { return pick(t, label, 2) == 1 }

func oneIn(t *rapid.T, label string, n int) bool { return pick(t, label, n) == n-1 }

// show prints a value for people: keys and txs by their numbers in w, pointers by
// what they point to, without what is zero.
func show(w *world, v any) string {
	names := map[string]string{}
	if w != nil {
		for i, key := range w.keys {
			names[string(key[:])] = fmt.Sprint("key", i)
		}
		for i, tx := range w.txs {
			names[string(tx.TxID[:])] = fmt.Sprint("tx", i)
			ref := protocol.RefersTo(tx.TxID)
			names[string(ref[:])] = fmt.Sprint("xt", i)
		}
		for i := range w.made {
			hash := sum("block", int(i+1))
			names[string(hash[:])] = fmt.Sprint("block", i+1)
		}
	}
	var b strings.Builder
	render(&b, names, reflect.ValueOf(v))
	return b.String()
}

func render(b *strings.Builder, names map[string]string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Invalid:
		b.WriteString("none")
	case reflect.Pointer, reflect.Interface:
		if err, ok := v.Interface().(error); ok && err != nil {
			fmt.Fprintf(b, "%q", err)
			return
		}
		render(b, names, v.Elem())
	case reflect.Array, reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			raw := make([]byte, v.Len())
			reflect.Copy(reflect.ValueOf(raw), v)
			if name, ok := names[string(raw)]; ok {
				b.WriteString(name)
			} else {
				fmt.Fprintf(b, "%x", raw)
			}
			return
		}
		b.WriteString("[")
		for i := range v.Len() {
			b.WriteString("\n  ")
			render(b, names, v.Index(i))
		}
		b.WriteString("]")
	case reflect.Struct:
		b.WriteString("{")
		separator := ""
		for i := range v.NumField() {
			if f := v.Field(i); !f.IsZero() && !(f.Kind() == reflect.Slice && f.Len() == 0) {
				b.WriteString(separator + v.Type().Field(i).Name + ":")
				render(b, names, f)
				separator = " "
			}
		}
		b.WriteString("}")
	default:
		fmt.Fprint(b, v.Interface())
	}
}
