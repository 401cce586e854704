package graph_test

import (
	"context"
	"slices"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// follower is a Following with what it was given.
type follower struct {
	*graph.Following
	keys []protocol.KeyHash
	ids  []chainhash.Hash
}

// follow lets somebody follow some of the keys and of the names that there are or will be.
func (p *pair) follow(t *rapid.T, w *world) follower {
	var f follower
	for _, key := range w.keys {
		if coin(t, "follow key") {
			f.keys = append(f.keys, key)
		}
	}
	for i := range mostTxs {
		if id := sum("tx", i); coin(t, "follow identity") {
			f.ids = append(f.ids, id)
		}
	}
	f.keys = append(f.keys, protocol.KeyHash{1}) // which is never linked
	given := slices.Concat(f.keys, f.keys[:1])   // one twice
	slices.Reverse(given)
	var err error
	if f.Following, err = p.graph.Follow(given, f.ids); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(f.ids, store.CompareHashes)
	slices.SortFunc(f.keys, func(a, b protocol.KeyHash) int { return slices.Compare(a[:], b[:]) })
	return f
}

// changes is what a follower has to be told of a block that makes one state of another.
func (f *follower) changes(before, after *modelState) (c graph.Changes) {
	for _, key := range f.keys {
		was, is := before.resolve(key), after.resolve(key)
		if was.Root != is.Root || was.ID != is.ID || !slices.Equal(parentOf(was), parentOf(is)) {
			c.Keys = append(c.Keys, key)
		}
	}
	touched := make(map[chainhash.Hash]bool)
	for _, e := range after.effects {
		switch e.Type {
		case links.LinkFormed, links.LinkCut, links.IdentityNamed, links.IdentityMerged:
			touched[e.ID] = true
		}
	}
	for _, id := range f.ids {
		if touched[id] || touched[before.survivor(id)] || touched[after.survivor(id)] {
			c.IDs = append(c.IDs, id)
		}
	}
	return c
}

func parentOf(r links.Resolution) (parent []protocol.KeyHash) {
	if r.Parent != nil {
		parent = []protocol.KeyHash{*r.Parent}
	}
	return parent
}

// survivor returns the identity that a name stands for.
func (s *modelState) survivor(id chainhash.Hash) chainhash.Hash {
	for into, ok := s.merged[id]; ok; into, ok = s.merged[id] {
		id = into
	}
	return id
}

// wantConnected asks for what the block of a state changed.
func (f *follower) wantConnected(t *rapid.T, w *world, before, after *modelState) {
	got, err := f.Connected(context.Background(), after.block.Height, after.block.Hash)
	if err != nil {
		t.Fatalf("Connected(%d): %v", after.block.Height, err)
	}
	got.Compared = 0
	same(t, w, "Connected", got, f.changes(before, after))
}

// wantDisconnected asks for what a block changed that was taken off. What is Unsure may be more.
func (f *follower) wantDisconnected(t *rapid.T, w *world, before, after *modelState) {
	got, err := f.Disconnected(context.Background(), after.block.Height, after.block.Hash)
	if err != nil {
		t.Fatalf("Disconnected(%d): %v", after.block.Height, err)
	}
	want := f.changes(before, after)
	if got.Unsure {
		got.Keys = slices.DeleteFunc(slices.Clone(got.Keys), func(key protocol.KeyHash) bool { return !slices.Contains(want.Keys, key) })
		got.IDs = slices.DeleteFunc(slices.Clone(got.IDs), func(id chainhash.Hash) bool { return !slices.Contains(want.IDs, id) })
		got.Unsure = false
		if len(got.Keys) == 0 {
			got.Keys = nil
		}
		if len(got.IDs) == 0 {
			got.IDs = nil
		}
	}
	same(t, w, "Disconnected", got, want)
}

// TestPropertyFollowing: whoever follows some keys and identities is told just what each block and what is pending
// changes of them, whenever he has begun to follow, and however far behind he is.
func TestPropertyFollowing(t *testing.T) {
	checks(t, 10, 14, 300)
	rapid.Check(t, func(t *rapid.T) {
		p := newPair(t, rapid.SampledFrom([]uint32{0, 547000}).Draw(t, "start height"))
		w := newWorld(4 + pick(t, "keys beyond four", 9))
		var followers []follower
		defer func() {
			for _, f := range followers {
				f.Close()
			}
		}()
		before := func(n int) *modelState { return (&model{states: p.model.states[:n]}).tip() }
		all := func(t *rapid.T) { // what each block of the chain changed
			for i, s := range p.model.states {
				for _, f := range followers {
					f.wantConnected(t, w, before(i), s)
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"follow": func(t *rapid.T) {
				if len(followers) == 4 {
					t.Skip("enough")
				}
				followers = append(followers, p.follow(t, w))
			},
			"unfollow": func(t *rapid.T) {
				if len(followers) == 0 {
					t.Skip("nobody follows")
				}
				i := pick(t, "who", len(followers))
				followers[i].Close()
				followers[i].Close()
				followers = slices.Delete(followers, i, i+1)
			},
			"connect": func(t *rapid.T) {
				if len(p.model.states) >= mostBlocks {
					t.Skip("long enough")
				}
				p.connect(t, w.blocks(t, p.next(), 1+pick(t, "more blocks", 3))...)
				for _, f := range followers {
					f.wantConnected(t, w, before(len(p.model.states)-1), p.model.tip())
				}
			},
			"fork": func(t *rapid.T) {
				var off []*modelState
				for range p.forkDepth(t) {
					off = append(off, p.model.tip())
					p.disconnect(t)
					if last := off[len(off)-1]; coin(t, "look at once") {
						for _, f := range followers {
							f.wantDisconnected(t, w, p.model.tip(), last)
						}
					}
				}
				fork := p.model.tip()
				p.connect(t, w.blocks(t, p.next(), pick(t, "blocks", len(off)+2))...)
				for i, s := range off {
					parent := fork
					if i+1 < len(off) {
						parent = off[i+1]
					}
					for _, f := range followers {
						f.wantDisconnected(t, w, parent, s)
					}
				}
			},
			"suppose": func(t *rapid.T) {
				if len(p.model.states) == 0 {
					t.Skip("nothing to follow")
				}
				m := p.suppose(t, w.block(t, p.next()).Actions)
				for _, f := range followers {
					v, ok := p.graph.Pending()
					if !ok {
						t.Fatal("nothing is pending")
					}
					got, err := f.Pending(context.Background(), v)
					v.Close()
					if err != nil {
						t.Fatalf("Pending: %v", err)
					}
					same(t, w, "Pending", got, f.changes(p.model.tip(), m.state))
				}
			},
			"restart": func(t *rapid.T) {
				for i := range followers {
					followers[i].Close()
				}
				followers = nil
				p.restart(t)
			},
			"all": all,
		})
		all(t)
	})
}
