package graph

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// chain makes blocks of actions for a graph; names of keys and transactions are
// hashes of strings.
type chain struct {
	t     *testing.T
	g     *Graph
	next  uint32
	tip   chainhash.Hash
	queue []links.Action
}

func key(name string) protocol.KeyHash {
	sum := sha256.Sum256([]byte(name))
	return protocol.KeyHash(sum[:20])
}

func tx(name string) chainhash.Hash { return sha256.Sum256([]byte("tx " + name)) }

var testParams = Params{Network: "regtest"}

func testOptions() Options {
	return Options{MemTable: 8 << 20, BlockCache: 4 << 20, stageBytes: 4 << 10, recentActions: 20}
}

func openTest(t *testing.T, dir string) *Graph {
	t.Helper()
	g, err := Open(dir, testParams, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func newChain(t *testing.T) *chain {
	return &chain{t: t, g: openTest(t, t.TempDir())}
}

func (c *chain) add(txName, author string, a protocol.Action) {
	action := links.Action{Action: a, Index: uint32(len(c.queue)), TxID: tx(txName)}
	if author != "" {
		k := key(author)
		action.Author = &k
	}
	c.queue = append(c.queue, action)
}

func (c *chain) request(txName, child, parent string) {
	c.add(txName, child, protocol.Action{Kind: protocol.MLR, Parent: key(parent)})
}

func (c *chain) accept(txName, parent, request string) {
	c.add(txName, parent, protocol.Action{Kind: protocol.MLA, Ref: protocol.RefersTo(tx(request))})
}

func (c *chain) revoke(txName, parent, accept string) {
	c.add(txName, parent, protocol.Action{Kind: protocol.MCR, Ref: protocol.RefersTo(tx(accept))})
}

// block connects what was queued.
func (c *chain) block() {
	c.t.Helper()
	b := Block{Height: c.next, PrevHash: c.tip, Actions: c.queue}
	b.Hash = sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, c.next), fmt.Sprint(c.queue)...))
	if err := c.g.Connect(b); err != nil {
		c.t.Fatal(err)
	}
	c.next, c.tip, c.queue = c.next+1, b.Hash, nil
}

func (c *chain) link(txName, child, parent string) {
	c.t.Helper()
	c.request(txName+" request", child, parent)
	c.accept(txName, parent, txName+" request")
	c.block()
}

// at returns a view as of the last block but back.
func (c *chain) at(back uint32) *View {
	c.t.Helper()
	height := c.next - 1 - back
	v, err := c.g.At(&height)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(v.Close)
	return v
}

func (c *chain) wantID(v *View, name string, id chainhash.Hash, root string, depth uint32) {
	c.t.Helper()
	ok := v.height == v.snapshot.tip.Height
	inMemory := resolveInMemory(c.t, v, key(name))
	stored, err := storedView(v).Resolve(c.t.Context(), key(name))
	if err != nil {
		c.t.Fatal(err)
	}
	if ok && fmt.Sprintf("%+v", flat(inMemory)) != fmt.Sprintf("%+v", flat(stored)) {
		c.t.Errorf("%s: memory says %+v, store says %+v", name, flat(inMemory), flat(stored))
	}
	if stored.ID != id || stored.Root != key(root) || stored.Depth != depth {
		c.t.Errorf("%s as of %d: id %v, root %x, depth %d; want %v, %x, %d",
			name, v.Height(), stored.ID, stored.Root, stored.Depth, id, key(root), depth)
	}
}

// resolveInMemory asks what a view's snapshot holds in memory, as of its tip.
func resolveInMemory(t testing.TB, v *View, k protocol.KeyHash) links.Resolution {
	t.Helper()
	s := v.snapshot
	r, err := links.NewIdentities(s.state.Links, v.iterators, s.tip.Height, s.tip.Height, v.stillThere).Resolve(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// storedView is a view's questions, answered as if another block had come since.
func storedView(v *View) *links.Identities {
	return links.NewIdentities(v.snapshot.state.Links, v.iterators, v.height, v.height+1, v.stillThere)
}

// flat replaces pointers by what they point to.
func flat(r links.Resolution) any {
	type values struct {
		links.Resolution
		Parent protocol.KeyHash
		Accept chainhash.Hash
	}
	out := values{Resolution: r}
	if r.Parent != nil {
		out.Parent, out.Accept = *r.Parent, *r.Accept
	}
	out.Resolution.Parent, out.Resolution.Accept = nil, nil
	return out
}

func (c *chain) wantState(txName string, state links.ActionState, reason links.Reason) {
	c.t.Helper()
	a, err := c.at(0).Action(tx(txName))
	if err != nil {
		c.t.Fatal(err)
	}
	if a.State != state || a.Reason != reason {
		c.t.Errorf("%s: state %d reason %d, want %d %d", txName, a.State, a.Reason, state, reason)
	}
}

// digest hashes everything in the store that the chain alone decides.
func (g *Graph) digest(t testing.TB) [32]byte {
	t.Helper()
	h := sha256.New()
	err := g.db.View(func(txn *badger.Txn) error {
		for _, prefix := range []byte(store.StatePrefixes) {
			it := store.NewIterator(store.NewTxn(txn), []byte{prefix})
			for it.Rewind(); it.Valid(); it.Next() {
				value, err := store.Value(it.Item())
				if err != nil {
					return err
				}
				fmt.Fprintf(h, "%x=%x;", it.Item().Key(), value)
			}
			it.Close()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

// checkMemory compares what is held in memory with what loading the store gives.
func (g *Graph) checkMemory(t testing.TB) {
	t.Helper()
	err := g.db.View(func(txn *badger.Txn) error {
		what, err := g.current.Load().state.DiffersFromStore(store.NewTxn(txn))
		if what != "" {
			t.Errorf("memory has other %s than the store", what)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestMasterKeyReplacement(t *testing.T) {
	c := newChain(t)
	c.link("b", "B", "A")
	c.link("c", "C", "B")
	main := tx("b request")
	c.wantID(c.at(0), "C", main, "A", 2)
	c.link("a", "A", "D")
	c.link("e", "E", "D")
	c.link("f", "F", "E")
	c.wantID(c.at(0), "C", main, "D", 3)
	c.wantID(c.at(0), "D", main, "D", 0)
	c.revoke("cut A", "D", "a")
	c.block()
	c.wantID(c.at(0), "F", main, "D", 2)
	c.wantID(c.at(0), "C", tx("cut A"), "A", 2)
	c.wantID(c.at(1), "C", main, "D", 3)
	c.wantID(c.at(4), "C", main, "A", 2)
	c.wantID(c.at(4), "D", chainhash.Hash{}, "D", 0)
	// Re-attached, the branch takes the older id again.
	c.link("back", "A", "F")
	c.wantID(c.at(0), "C", main, "D", 5)
	identity, err := c.at(0).Identity(tx("cut A"))
	if err != nil || identity.MergedInto == nil || *identity.MergedInto != main || identity.Keys != 6 {
		t.Errorf("merged identity: %+v, %v", identity, err)
	}
	members, next, err := c.at(0).Members(t.Context(), main, nil, 100)
	if err != nil || next != nil || len(members) != 6 {
		t.Errorf("members: %d, %v, %v", len(members), next, err)
	}
}

func TestRefusals(t *testing.T) {
	c := newChain(t)
	c.request("self", "A", "A")
	c.add("nobody", "", protocol.Action{Kind: protocol.MLR, Parent: key("A")})
	c.add("bad", "A", protocol.Action{Kind: protocol.MLA, Malformed: errors.New("short")})
	c.block()
	c.wantState("self", links.StateRefused, links.SelfLink)
	c.wantState("nobody", links.StateRefused, links.NoAuthor)
	c.wantState("bad", links.StateRefused, links.Malformed)
	c.accept("early", "A", "request B")
	c.revoke("early revoke", "A", "early")
	c.accept("on bad", "A", "bad")
	c.accept("on self", "A", "self")
	c.revoke("revoke bad", "A", "bad")
	c.block()
	c.wantState("early", links.StateWaiting, links.NoReason)
	c.wantState("early revoke", links.StateWaiting, links.NoReason)
	c.wantState("on bad", links.StateRefused, links.WrongKind)
	c.wantState("on self", links.StateRefused, links.RequestRefused)
	c.wantState("revoke bad", links.StateRefused, links.AcceptRefused)
	c.request("request B", "B", "A")
	c.block()
	c.wantState("early", links.StateCut, links.NoReason)
	c.wantState("early revoke", links.StateDone, links.NoReason)
	c.wantID(c.at(0), "B", tx("early revoke"), "B", 0)
	c.wantID(c.at(0), "A", tx("request B"), "A", 0)

	c.request("request B2", "B", "A")
	c.request("request B3", "B", "C")
	c.accept("foreign", "C", "request B2")
	c.accept("used", "A", "request B")
	c.accept("second", "A", "request B2")
	c.accept("third", "C", "request B3")
	c.request("loop request", "A", "B")
	c.accept("loop", "B", "loop request")
	c.revoke("foreign revoke", "C", "second")
	c.block()
	c.wantState("foreign", links.StateRefused, links.NotTheParent)
	c.wantState("used", links.StateRefused, links.RequestUsed)
	c.wantState("second", links.StateInForce, links.NoReason)
	c.wantState("third", links.StateRefused, links.ChildHasParent)
	c.wantState("loop", links.StateRefused, links.Loop)
	c.wantState("foreign revoke", links.StateRefused, links.NotTheParent)
	// A hand-over in one block: the new parent accepts, the old one revokes.
	c.accept("hand-over", "C", "request B3")
	c.revoke("let go", "A", "second")
	c.block()
	c.wantState("hand-over", links.StateInForce, links.NoReason)
	c.wantID(c.at(0), "B", tx("let go"), "C", 1)
	c.revoke("twice", "A", "second")
	c.block()
	c.wantState("twice", links.StateRefused, links.AlreadyRevoked)
}

// TestForksEndInTheFreshState drives random actions through random forks and
// compares with a fresh graph of the surviving chain, and memory with the store.
func TestForksEndInTheFreshState(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			dir := t.TempDir()
			g := openTest(t, dir)
			var blocks []Block
			var txids []chainhash.Hash
			keys := []string{"A", "B", "C", "D", "E", "F", "G"}
			serial := 0
			for range 120 {
				if len(blocks) > 0 && r.IntN(4) == 0 {
					for range 1 + r.IntN(min(6, len(blocks))) {
						if err := g.Disconnect(); err != nil {
							t.Fatal(err)
						}
						g.checkMemory(t)
						blocks = blocks[:len(blocks)-1]
					}
				}
				if r.IntN(10) == 0 {
					if err := g.Close(); err != nil {
						t.Fatal(err)
					}
					g = openTest(t, dir)
				}
				var batch []Block
				for range 1 + r.IntN(3) {
					b := Block{Height: uint32(len(blocks) + len(batch))}
					if n := len(batch); n > 0 {
						b.PrevHash = batch[n-1].Hash
					} else if n := len(blocks); n > 0 {
						b.PrevHash = blocks[n-1].Hash
					}
					for i := range r.IntN(8) {
						serial++
						author := key(keys[r.IntN(len(keys))])
						a := links.Action{Index: uint32(i), TxID: tx(fmt.Sprint(seed, serial)), Author: &author}
						ref := tx(fmt.Sprint(seed, serial+r.IntN(4)))
						if len(txids) > 0 && r.IntN(8) > 0 {
							ref = txids[max(0, len(txids)-1-r.IntN(24))]
						}
						switch a.Kind = protocol.Kind(1 + r.IntN(3)); a.Kind {
						case protocol.MLR:
							a.Parent = key(keys[r.IntN(len(keys))])
						default:
							a.Ref = protocol.RefersTo(ref)
						}
						txids = append(txids, a.TxID)
						b.Actions = append(b.Actions, a)
					}
					b.Hash = sha256.Sum256(fmt.Append(nil, seed, serial, b.Height, b.PrevHash))
					batch = append(batch, b)
				}
				if err := g.Connect(batch...); err != nil {
					t.Fatal(err)
				}
				blocks = append(blocks, batch...)
				g.checkMemory(t)
			}
			fresh := openTest(t, t.TempDir())
			for _, b := range blocks {
				if err := fresh.Connect(b); err != nil {
					t.Fatal(err)
				}
			}
			tip, _ := g.Tip()
			want, _ := fresh.Tip()
			if tip != want {
				t.Errorf("tip %+v, fresh index %+v", tip, want)
			}
			if g.digest(t) != fresh.digest(t) {
				t.Error("the store differs from a fresh index's")
			}
			if tip.Counts.Links == 0 || tip.Counts.Waiting == 0 {
				t.Errorf("the chain is too dull: %+v", tip.Counts)
			}
			c := chain{t: t, g: g, next: uint32(len(blocks))}
			for _, name := range keys {
				v := c.at(0)
				r := resolveInMemory(c.t, v, key(name))
				c.wantID(v, name, r.ID, nameOf(keys, r.Root), r.Depth)
			}
		})
	}
}

func nameOf(names []string, k protocol.KeyHash) string {
	for _, name := range names {
		if key(name) == k {
			return name
		}
	}
	return ""
}
