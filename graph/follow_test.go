package graph

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

func keysOf(names ...string) (keys []protocol.KeyHash) {
	for _, name := range names {
		keys = append(keys, key(name))
	}
	slices.SortFunc(keys, compareKeys)
	return keys
}

func (c *chain) follow(keys []protocol.KeyHash, ids ...chainhash.Hash) *Following {
	c.t.Helper()
	f, err := c.g.Follow(keys, ids)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(f.Close)
	return f
}

// TestFollowFarAbove moves a branch of three keys, which all are told, and a client that follows others is not.
func TestFollowFarAbove(t *testing.T) {
	c := newChain(t)
	c.link("b", "B", "A")
	c.link("c", "C", "B")
	c.link("e", "E", "D")
	f := c.follow(keysOf("A", "B", "C", "D", "E", "nobody"), tx("b request"), tx("e request"))
	others := c.follow(keysOf("D", "E", "nobody"))
	c.link("top", "A", "F")
	for _, want := range []struct {
		*Following
		keys []protocol.KeyHash
		ids  []chainhash.Hash
	}{
		{f, keysOf("A", "B", "C"), []chainhash.Hash{tx("b request")}},
		{others, nil, nil},
	} {
		got, err := want.Connected(t.Context(), c.next-1, c.tip)
		if err != nil || got.Unsure || !slices.Equal(got.Keys, want.keys) || !slices.Equal(got.IDs, want.ids) {
			t.Errorf("%v, %v", got, err)
		}
	}
}

// TestFollowStale takes two blocks off the chain, of which those are told later that follow what is below what these had
// changed; also after a restart, and of blocks whose change was forgotten everybody is told.
func TestFollowStale(t *testing.T) {
	dir := t.TempDir()
	c := &chain{t: t, g: openTest(t, dir)}
	c.link("b", "B", "A")
	c.link("c", "C", "B")
	c.link("e", "E", "D")
	fork, parent := c.next, c.tip
	c.link("top", "A", "F")
	first := c.tip
	c.link("g", "G", "H") // a new identity of new keys
	second := c.tip
	for range 2 {
		if err := c.g.Disconnect(); err != nil {
			t.Fatal(err)
		}
	}
	c.next, c.tip = fork, parent
	c.link("i", "I", "D")
	all := keysOf("A", "B", "C", "D", "E", "F", "G", "H", "nobody")
	ids := []chainhash.Hash{tx("b request"), tx("e request"), tx("g request")}
	want := func(height uint32, hash chainhash.Hash, keys []protocol.KeyHash, wantIDs ...chainhash.Hash) {
		t.Helper()
		f := c.follow(all, ids...)
		defer f.Close()
		got, err := f.Disconnected(t.Context(), height, hash)
		slices.SortFunc(wantIDs, func(a, b chainhash.Hash) int { return slices.Compare(a[:], b[:]) })
		if err != nil || !got.Unsure || !slices.Equal(got.Keys, keys) || !slices.Equal(got.IDs, wantIDs) {
			t.Errorf("block %d: %v, %v, want %v %v", height, got, err, keys, wantIDs)
		}
	}
	for range 2 {
		want(fork, first, keysOf("A", "B", "C", "F"), tx("b request"))
		want(fork+1, second, keysOf("A", "B", "C", "F", "G", "H"), tx("b request"), tx("g request"))
		if err := c.g.Close(); err != nil {
			t.Fatal(err)
		}
		c.g = openTest(t, dir)
	}
	f := c.follow(all, ids...)
	if _, err := f.Disconnected(t.Context(), fork, parent); !errors.Is(err, ErrNotFound) {
		t.Errorf("a block that was not taken off: %v", err)
	}
}

// TestFollowRefuses follows too much, more than there is memory for, on a graph without blocks, and on a closed one.
func TestFollowRefuses(t *testing.T) {
	g, err := Open(t.TempDir(), testParams, Options{Memory: 128 << 20, MemTable: 1 << 20, BlockCache: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	c := &chain{t: t, g: g}
	many := make([]protocol.KeyHash, MaxFollowed+1)
	for i := range many {
		many[i] = key(fmt.Sprint(i))
	}
	if _, err := c.g.Follow(many, nil); !errors.Is(err, ErrFollowed) {
		t.Errorf("too many keys: %v", err)
	}
	if _, err := c.g.Follow(append(many[:0:0], many[0], many[0]), nil); err != nil {
		t.Errorf("a key twice: %v", err)
	}
	f := c.follow(many[1:])
	c.link("b", "1", "2")
	if got, err := f.Connected(t.Context(), 0, c.tip); err != nil || !slices.Equal(got.Keys, keysOf("1", "2")) {
		t.Errorf("the first block: %v, %v", got, err)
	}
	if _, err := f.Connected(t.Context(), 0, tx("other")); !errors.Is(err, ErrReorganised) {
		t.Errorf("another block: %v", err)
	}
	if _, err := f.Connected(t.Context(), 1, c.tip); !errors.Is(err, ErrHeight) {
		t.Errorf("no block: %v", err)
	}
	before := c.g.Memory()
	var all []*Following
	for err == nil {
		if f, err = c.g.Follow(many[1:], nil); err == nil {
			all = append(all, f)
		}
	}
	if full := c.g.Memory(); !errors.Is(err, ErrMemory) || full.Followed <= before.Followed || full.Followed > full.Most/followedShare {
		t.Errorf("%d clients: %v; %+v", len(all), err, full)
	}
	c.link("c", "3", "1") // blocks have room nevertheless
	for _, f := range all {
		f.Close()
	}
	if after := c.g.Memory(); after.Followed != before.Followed {
		t.Errorf("%d bytes are followed, want %d", after.Followed, before.Followed)
	}
	if err := c.g.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.g.Follow(many[1:], nil); err == nil {
		t.Error("a closed graph is followed")
	}
}

// TestFollowTogether has clients come, ask and leave while blocks come and go, which the race detector watches: each
// is told the same of a block whenever he asks, and nothing is held when all have left.
func TestFollowTogether(t *testing.T) {
	c := newChain(t)
	c.link("b", "B", "A")
	c.link("c", "C", "B")
	done := make(chan struct{})
	var clients sync.WaitGroup
	for n := range 4 {
		clients.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				f, err := c.g.Follow(keysOf("A", "B", "C", fmt.Sprint(n)), []chainhash.Hash{tx("b request")})
				if err != nil {
					t.Error(err)
					return
				}
				for range 3 {
					tip, _ := c.g.Tip()
					got, err := f.Connected(context.Background(), tip.Height, tip.Hash)
					if errors.Is(err, ErrReorganised) || errors.Is(err, ErrHeight) {
						continue
					}
					if err != nil || tip.Height > 1 && (len(got.Keys) != 3 || len(got.IDs) != 1) {
						t.Errorf("block %d: %v, %v", tip.Height, got, err)
					}
				}
				f.Close()
			}
		})
	}
	for n := range 10 {
		c.link(fmt.Sprint("top", n), "A", "D")
		if n%3 == 0 {
			last, hash := c.next-1, c.tip
			if err := c.g.Disconnect(); err != nil {
				t.Error(err)
			}
			d, err := c.g.DisconnectedBlock(last, hash)
			if err != nil {
				t.Error(err)
			}
			c.next, c.tip = last, d.PrevHash
			c.link(fmt.Sprint("again", n), "A", "D")
			c.revoke(fmt.Sprint("cut", n), "D", fmt.Sprint("again", n))
		} else {
			c.revoke(fmt.Sprint("cut", n), "D", fmt.Sprint("top", n))
		}
		c.block()
	}
	close(done)
	clients.Wait()
	if m := c.g.Memory(); m.Followed != 0 || c.g.followers.watch != nil {
		t.Errorf("%d bytes are followed by nobody", m.Followed)
	}
}

// TestFollowShapes moves branches of identities in shapes that an attacker could choose, also many within each other in one
// block, and what waits for the next block, and compares what clients are told with all answers before and after.
func TestFollowShapes(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	const keys = 400
	for name, s := range shapes {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(7, 8))
			c := newChain(t)
			first := grow(0, chainhash.Hash{}, s, 1, keys)
			if err := c.g.Connect(first); err != nil {
				t.Fatal(err)
			}
			c.next, c.tip = 1, first.Hash
			accepts := make(map[int]string) // of the links in force, by child
			for n := 1; n < keys; n++ {
				accepts[n] = fmt.Sprint("accept", n)
			}
			parents := make(map[int]int)
			for n := range accepts {
				parents[n] = s(n)
			}
			var clients []*Following
			for range 3 {
				var filter []protocol.KeyHash
				for n := range keys {
					if r.IntN(3) == 0 {
						filter = append(filter, key(fmt.Sprint(n)))
					}
				}
				clients = append(clients, c.follow(filter, tx("request1")))
			}
			want := func(f *Following, before, after asked, got Changes, err error) {
				t.Helper()
				var changed []protocol.KeyHash
				for _, key := range f.keys {
					if same, err := sameAnswer(t.Context(), before, after, key); err != nil {
						t.Fatal(err)
					} else if !same {
						changed = append(changed, key)
					}
				}
				if err != nil || got.Unsure || !slices.Equal(got.Keys, changed) {
					t.Fatalf("block %d: told of %d keys, want %d; %v", c.next, len(got.Keys), len(changed), err)
				}
			}
			for round := range 12 {
				for range 1 + r.IntN(20) { // cut and join, near the top as often as anywhere
					n := 1 + r.IntN(1+r.IntN(keys-1))
					tag := fmt.Sprint(round, " ", len(c.queue))
					if accept, ok := accepts[n]; ok {
						c.revoke("cut "+tag, fmt.Sprint(parents[n]), accept)
						delete(accepts, n)
						continue
					}
					parents[n] = r.IntN(n) // of lower number: no loops
					c.request("request "+tag, fmt.Sprint(n), fmt.Sprint(parents[n]))
					c.accept("accepted "+tag, fmt.Sprint(parents[n]), "request "+tag)
					accepts[n] = "accepted " + tag
				}
				if round%2 == 0 {
					actions := slices.Clone(c.queue)
					c.suppose()
					c.queue = actions
					for _, f := range clients {
						v, ok := c.g.Pending()
						if !ok {
							t.Fatal("nothing is pending")
						}
						got, err := f.Pending(t.Context(), v)
						want(f, v.tip, v, got, err)
						v.Close()
					}
				}
				c.block()
				for _, f := range clients {
					got, err := f.Connected(t.Context(), c.next-1, c.tip)
					want(f, c.at(1), c.at(0), got, err)
					late := c.follow(f.keys)
					again, err := late.Connected(t.Context(), c.next-1, c.tip)
					late.Close()
					want(f, c.at(1), c.at(0), again, err)
				}
			}
		})
	}
}
