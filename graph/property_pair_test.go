package graph_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"reflect"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// pair is a graph and a model that are given the same blocks.
type pair struct {
	start uint32
	dir   string
	opt   graph.Options
	graph *graph.Graph
	model *model
	stale []graph.Disconnected // in the order in which they were taken off
	held  []heldView
}

// heldView is a view that stays open while the chain changes, and what was true
// when it was opened.
type heldView struct {
	*graph.View
	state *modelState
}

// newPair opens a graph, which is closed and removed when the test ends.
func newPair(t rapid.TB, start uint32) *pair { return newPairWith(t, start, graph.Options{}) }

// newPairWith is newPair with options, but for what small tests want of the store.
func newPairWith(t rapid.TB, start uint32, opt graph.Options) *pair {
	dir, err := os.MkdirTemp("", "keytree-graph-")
	if err != nil {
		t.Fatal(err)
	}
	opt.MemTable, opt.BlockCache = 8<<20, 4<<20
	p := &pair{start: start, dir: dir, opt: opt, model: &model{}}
	t.(interface{ Cleanup(func()) }).Cleanup(func() {
		p.letGo()
		if p.graph != nil {
			if err := p.graph.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	p.open(t)
	return p
}

func (p *pair) open(t rapid.TB) {
	g, err := graph.Open(p.dir, graph.Params{Network: "regtest", StartHeight: p.start}, p.opt)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	p.graph = g
}

// hold opens a view as of a height and keeps it.
func (p *pair) hold(t *rapid.T) {
	i := pick(t, "back", len(p.model.states))
	state := p.model.states[len(p.model.states)-1-i]
	var height *uint32
	if i > 0 {
		height = &state.block.Height
	}
	p.held = append(p.held, heldView{p.view(t, height), state})
}

// letGo closes the views that are held.
func (p *pair) letGo() {
	for _, h := range p.held {
		h.Close()
	}
	p.held = nil
}

func (p *pair) restart(t rapid.TB) {
	p.letGo()
	err := p.graph.Close()
	p.graph = nil
	if err != nil {
		t.Fatalf("Close: %v", err)
	}
	p.open(t)
}

func (p *pair) connect(t rapid.TB, blocks ...graph.Block) {
	if err := p.graph.Connect(blocks...); err != nil {
		t.Fatalf("Connect: %v", err)
	}
	p.model.connect(blocks...)
}

// disconnect takes the tip back and returns it.
func (p *pair) disconnect(t rapid.TB) graph.Block {
	b := p.model.tip().block
	if err := p.graph.Disconnect(); err != nil {
		t.Fatalf("Disconnect of block %d: %v", b.Height, err)
	}
	p.model.disconnect()
	stale, err := p.graph.DisconnectedBlock(b.Height, b.Hash)
	want := graph.Disconnected{Height: b.Height, Hash: b.Hash, PrevHash: b.PrevHash}
	p.stale = slices.DeleteFunc(p.stale, func(d graph.Disconnected) bool { return d == want })
	p.stale = append(p.stale, want)
	if err != nil || stale != want {
		t.Fatalf("DisconnectedBlock(%d): %v, %v", b.Height, stale, err)
	}
	return b
}

// forkDepth draws how many blocks to disconnect: few, as forks do, or any number.
func (p *pair) forkDepth(t *rapid.T) int {
	n := len(p.model.states)
	if coin(t, "deep") {
		return pick(t, "depth", n+1)
	}
	return min(n, 1+pick(t, "depth", 3))
}

// next is where the next block goes: the state that it finds and its height.
func (p *pair) next() place {
	return place{before: p.model.tip(), height: p.start + uint32(len(p.model.states))}
}

func (p *pair) tipHash() [32]byte {
	tip, _ := p.graph.Tip()
	return tip.StateHash
}

func (p *pair) view(t rapid.TB, height *uint32) *graph.View {
	v, err := p.graph.At(height)
	if err != nil {
		t.Fatalf("At(%s): %v", show(nil, height), err)
	}
	return v
}

// agree asks graph and model everything there is to ask, as of every height.
// Lists are read in pages of limit entries.
func (p *pair) agree(t rapid.TB, w *world, limit int) {
	for _, h := range p.held {
		if !slices.ContainsFunc(p.model.states, func(s *modelState) bool { return s.block.Hash == h.state.block.Hash }) {
			h.wantReorganised(t, w)
			continue
		}
		h.state.agree(t, h.View, w, limit)
	}
	same(t, w, "Disconnects", must(p.graph.Disconnects(0, math.MaxUint32))(t), p.stale)
	tip, ok := p.graph.Tip()
	if len(p.model.states) == 0 {
		_, err := p.graph.At(nil)
		if ok || !errors.Is(err, graph.ErrEmpty) {
			t.Fatalf("without a block: Tip %t, At(nil): %v", ok, err)
		}
		return
	}
	last := p.model.tip()
	same(t, w, "Tip", tip, graph.Tip{
		Height:    last.block.Height,
		Hash:      last.block.Hash,
		StateHash: last.stateHash,
		StateRoot: last.stateRoot(),
		Counts:    last.counts(),
	})
	outside := []uint32{last.block.Height + 1}
	if p.start > 0 {
		outside = append(outside, p.start-1)
	}
	for _, h := range outside {
		if _, err := p.graph.At(&h); !errors.Is(err, graph.ErrHeight) {
			t.Fatalf("At(%d): %v", h, err)
		}
	}
	for _, s := range p.model.states {
		h := s.block.Height
		same(t, w, "BlockHeader", must(p.graph.BlockHeader(h))(t), protocol.Header{Hash: s.block.Hash, PrevBlock: s.block.PrevHash, Time: s.block.Time, Bits: s.block.Bits})
		events := must(p.graph.Events(h, 0, len(s.effects)))(t)
		same(t, w, "Events", events, graph.BlockEvents{
			Height:    h,
			Hash:      s.block.Hash,
			PrevHash:  s.block.PrevHash,
			StateHash: s.stateHash,
			StateRoot: s.stateRoot(),
			Time:      s.block.Time,
			Effects:   s.effects,
		})
		v := p.view(t, &h)
		s.agree(t, v, w, limit)
		s.changes(t, v, w, last)
		if s == last {
			p.agreeOnVersions(t, v, w, limit)
		}
		v.Close()
	}
}

// agreeOnVersions asks a view of the tip how each identity stood over time.
func (p *pair) agreeOnVersions(t rapid.TB, v *graph.View, w *world, limit int) {
	for _, tx := range w.txs {
		versions := allVersions(t, v, tx.TxID, limit)
		if again, more, err := v.IdentityVersions(tx.TxID, v.Height(), 100); len(versions) > 0 && (err != nil || more || !slices.Equal(again, versions)) {
			t.Fatalf("versions of %s: in one page %v, %t, %v; in pages %v", show(w, tx.TxID), again, more, err, versions)
		}
		for i := len(p.model.states) - 1; i >= 0; i-- {
			s := p.model.states[i]
			var want, got *links.IdentityVersion
			if identity := s.identity(tx.TxID); identity != nil && identity.MergedInto != nil {
				want = &links.IdentityVersion{Merged: true}
			} else if identity != nil {
				want = &links.IdentityVersion{Root: identity.Root, Keys: identity.Keys}
			}
			if len(versions) > 0 {
				got = ptr(versions[0])
				got.Since = 0
			}
			same(t, w, fmt.Sprintf("version of %s as of %d", show(w, tx.TxID), s.block.Height), got, want)
			if len(versions) > 0 && versions[0].Since == s.block.Height {
				versions = versions[1:]
			}
		}
		if len(versions) > 0 {
			t.Fatalf("versions of %s are left: %v", show(w, tx.TxID), versions)
		}
	}
}

// allVersions reads the versions of an identity page by page; nil if there is none.
func allVersions(t rapid.TB, v *graph.View, id chainhash.Hash, limit int) (all []links.IdentityVersion) {
	upTo := v.Height()
	for {
		page, more, err := v.IdentityVersions(id, upTo, limit)
		if errors.Is(err, graph.ErrNotFound) && upTo == v.Height() {
			return nil
		}
		if err != nil || len(page) > limit || len(page) == 0 {
			t.Fatalf("a page of %d versions, limit %d, %v", len(page), limit, err)
		}
		if all = append(all, page...); !more {
			return all
		}
		upTo = page[len(page)-1].Since - 1
	}
}

// wantReorganised asks what is not to be answered any more.
func (h heldView) wantReorganised(t rapid.TB, w *world) {
	id := sum("tx", 0)
	_, resolve := h.Resolve(context.Background(), w.keys[0])
	_, _, since := h.Since(context.Background(), w.keys[0])
	_, action := h.Action(id)
	_, _, actions := h.ActionsOf(context.Background(), w.keys[0], nil, 10)
	_, _, requests := h.Requests(context.Background(), w.keys[0], links.AnyRequest, nil, 10)
	_, _, below := h.LinksBelow(context.Background(), w.keys[0], nil, 10)
	_, _, versions := h.IdentityVersions(id, h.Height(), 10)
	for question, err := range map[string]error{"Resolve": resolve, "Since": since, "Action": action, "ActionsOf": actions, "Requests": requests, "LinksBelow": below, "IdentityVersions": versions} {
		if !errors.Is(err, graph.ErrReorganised) {
			t.Fatalf("%s of a view whose block was taken back: %v", question, err)
		}
	}
}

// questions are what views of blocks and of what is pending are asked alike.
type questions interface {
	Resolve(context.Context, protocol.KeyHash) (links.Resolution, error)
	ActionsOf(context.Context, protocol.KeyHash, *store.Position, int) ([]links.ActionStatus, *store.Position, error)
	Requests(context.Context, protocol.KeyHash, links.RequestState, *store.Position, int) ([]links.Request, *store.Position, error)
	LinksBelow(context.Context, protocol.KeyHash, *protocol.KeyHash, int) ([]links.Link, *protocol.KeyHash, error)
	Action(chainhash.Hash) (links.ActionStatus, error)
	Identity(chainhash.Hash) (links.Identity, error)
	Members(context.Context, chainhash.Hash, *links.MemberCursor, int) ([]links.Member, *links.MemberCursor, error)
}

// agree asks everything there is to ask of a view.
func (s *modelState) agree(t rapid.TB, v *graph.View, w *world, limit int) {
	same(t, w, "View.Height", v.Height(), s.block.Height)
	same(t, w, "View.Hash", v.Hash(), s.block.Hash)
	s.answers(t, v, w, limit)
}

// changes asks which keys resolve otherwise as of the tip than as of a view.
func (s *modelState) changes(t rapid.TB, v *graph.View, w *world, tip *modelState) {
	same(t, w, "View.Tip", v.Tip().Hash, tip.block.Hash)
	for _, key := range w.keys {
		now, differs, err := v.Since(context.Background(), key)
		want := tip.resolve(key)
		if changed := !reflect.DeepEqual(s.resolve(key), want); err != nil || differs != changed || differs && !reflect.DeepEqual(now, want) {
			t.Fatalf("Since(%s) from %d to %d: %s, %t, %v; want %s, %t", show(w, key), s.block.Height, tip.block.Height, show(w, now), differs, err, show(w, want), changed)
		}
	}
}

// answers asks everything about links and actions.
func (s *modelState) answers(t rapid.TB, v questions, w *world, limit int) {
	// A question is put together only if it gets a wrong answer.
	check := func(question string, of, got, want any) {
		if !reflect.DeepEqual(got, want) {
			same(t, w, fmt.Sprintf("%s(%s) as of %d", question, show(w, of), s.block.Height), got, want)
		}
	}
	for i, key := range w.keys {
		r := must(v.Resolve(context.Background(), key))(t)
		check("Resolve", key, r, s.resolve(key))
		check("ActionsOf", key, allActions(t, v, key, limit), s.actionsOf(key))
		asked := s.requestsOf(key)
		check("Requests", key, allRequests(t, v, key, links.AnyRequest, limit), asked)
		state := links.OpenRequest << ((int(s.block.Height) + i) % 4)
		asked = slices.DeleteFunc(asked, func(r links.Request) bool { return r.Link != state })
		check(fmt.Sprint("Requests in state ", state), key, allRequests(t, v, key, state, limit), slices.Clip(asked))
		check("LinksBelow", key, allLinks(t, v, key, limit), s.linksBelow(key))
	}
	for _, tx := range w.txs {
		var status *links.ActionStatus
		if a := s.action(tx.TxID); a != nil {
			status = ptr(a.status())
		}
		check("Action", tx.TxID, found(v.Action(tx.TxID))(t), status)
		check("Identity", tx.TxID, found(v.Identity(tx.TxID))(t), s.identity(tx.TxID))
		check("Members", tx.TxID, allMembers(t, v, tx.TxID, limit), s.members(tx.TxID))
	}
	check("Identity", chainhash.Hash{}, found(v.Identity(chainhash.Hash{}))(t), nil)
}

// allMembers reads an identity's members page by page; nil if there is none.
func allMembers(t rapid.TB, v questions, id chainhash.Hash, limit int) []links.Member {
	var all []links.Member
	var cursor *links.MemberCursor
	for {
		page, next, err := v.Members(context.Background(), id, cursor, limit)
		if errors.Is(err, graph.ErrNotFound) && cursor == nil {
			return nil
		}
		if err != nil {
			t.Fatalf("Members: %v", err)
		}
		all = append(all, page...)
		if len(page) > limit || len(page) == 0 && cursor == nil {
			t.Fatalf("a page of %d members, limit %d", len(page), limit)
		}
		if next == nil {
			return all
		}
		cursor = next
	}
}

// allActions reads a key's actions page by page.
func allActions(t rapid.TB, v questions, key protocol.KeyHash, limit int) []links.ActionStatus {
	var all []links.ActionStatus
	var cursor *store.Position
	for {
		page, next, err := v.ActionsOf(context.Background(), key, cursor, limit)
		if err != nil {
			t.Fatalf("ActionsOf: %v", err)
		}
		all = append(all, page...)
		if len(page) > limit || len(page) == 0 && cursor != nil {
			t.Fatalf("a page of %d actions, limit %d", len(page), limit)
		}
		if next == nil {
			return all
		}
		cursor = next
	}
}

// allRequests reads the requests asked of a key page by page.
func allRequests(t rapid.TB, v questions, key protocol.KeyHash, states links.RequestState, limit int) (all []links.Request) {
	var from *store.Position
	for {
		page, next, err := v.Requests(context.Background(), key, states, from, limit)
		if err != nil || len(page) > limit {
			t.Fatalf("a page of %d requests, limit %d, %v", len(page), limit, err)
		}
		if all = append(all, page...); next == nil {
			return all
		}
		from = next
	}
}

// allLinks reads the links below a key page by page.
func allLinks(t rapid.TB, v questions, key protocol.KeyHash, limit int) (all []links.Link) {
	var after *protocol.KeyHash
	for {
		page, next, err := v.LinksBelow(context.Background(), key, after, limit)
		if err != nil || len(page) > limit || len(page) == 0 && after != nil {
			t.Fatalf("a page of %d links, limit %d, %v", len(page), limit, err)
		}
		if all = append(all, page...); next == nil {
			return all
		}
		after = next
	}
}

func pageSize(t *rapid.T) int { return []int{100, 1, 2, 3}[pick(t, "page size", 4)] }

// must returns a function that fails the test if there is an error.
func must[T any](v T, err error) func(rapid.TB) T {
	return func(t rapid.TB) T {
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// found returns a function that gives nil for ErrNotFound and fails the test for
// other errors.
func found[T any](v T, err error) func(rapid.TB) *T {
	return func(t rapid.TB) *T {
		if errors.Is(err, graph.ErrNotFound) {
			return nil
		}
		return ptr(must(v, err)(t))
	}
}

// same fails the test unless got and want show the same. No list and an empty one
// do, and so do a missing and an empty message.
func same(t rapid.TB, w *world, what string, got, want any) {
	if reflect.DeepEqual(got, want) {
		return
	}
	if g, m := show(w, got), show(w, want); g != m {
		t.Fatalf("%s\n got %s\nwant %s", what, g, m)
	}
}
