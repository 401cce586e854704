package links_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// The tests of this file ask what costs most, of identities that somebody has made for that. They
// count the work. The processor time that it takes is logged: at full size with
//
//	KEYTREE_EXHAUSTIVE=1 go test ./graph/links -run Adversary -v

// limit is how much work a question is allowed: less than in earnest, so that a small identity
// reaches it.
func limit() int {
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		return links.MaxWork
	}
	return 4000
}

// chain makes blocks for a graph.
type chain struct {
	t       *testing.T
	g       *graph.Graph
	height  uint32 // of the next block
	prev    chainhash.Hash
	actions []links.Action // of the next block
	accepts map[int]chainhash.Hash
	count   int // of actions
}

func newChain(t *testing.T) *chain {
	g, err := graph.Open(t.TempDir(), graph.Params{Network: "regtest"}, graph.Options{Memory: 4 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	runtime.LockOSThread()
	return &chain{t: t, g: g, accepts: make(map[int]chainhash.Hash)}
}

func key(n int) protocol.KeyHash {
	sum := sha256.Sum256(fmt.Append(nil, "key ", n))
	return protocol.KeyHash(sum[:20])
}

func (c *chain) add(author int, a protocol.Action) chainhash.Hash {
	k := key(author)
	txid := chainhash.Hash(sha256.Sum256(fmt.Append(nil, "tx ", c.count)))
	c.count++
	c.actions = append(c.actions, links.Action{Index: uint32(len(c.actions)), TxID: txid, Author: &k, Action: a})
	return txid
}

// link links a key to a parent, and returns the request.
func (c *chain) link(child, parent int) chainhash.Hash {
	request := c.add(child, protocol.Action{Kind: protocol.MLR, Parent: key(parent)})
	c.accepts[child] = c.add(parent, protocol.Action{Kind: protocol.MLA, Ref: protocol.RefersTo(request)})
	if len(c.actions) >= 10_000 {
		c.block()
	}
	return request
}

// cut cuts a key from its parent.
func (c *chain) cut(child, parent int) {
	c.add(parent, protocol.Action{Kind: protocol.MCR, Ref: protocol.RefersTo(c.accepts[child])})
}

// block connects the next block, and returns its height.
func (c *chain) block() uint32 {
	c.t.Helper()
	b := graph.Block{Height: c.height, PrevHash: c.prev, Hash: sha256.Sum256(fmt.Append(nil, "block ", c.height)), Actions: c.actions}
	if err := c.g.Connect(b); err != nil {
		c.t.Fatal(err)
	}
	c.height, c.prev, c.actions = c.height+1, b.Hash, nil
	return b.Height
}

// path links so many keys to a path, key 0 being its root, and returns its id and the height from which on it is there.
func (c *chain) path(keys int) (id chainhash.Hash, height uint32) {
	for n := range keys - 1 {
		if request := c.link(n+1, n); n == 0 {
			id = request
		}
	}
	return id, c.block()
}

// at returns a view, whose questions are allowed limit().
func (c *chain) at(height uint32) *graph.View {
	c.t.Helper()
	v, err := c.g.At(&height)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(v.Close)
	v.Limit(limit())
	return v
}

// processorTime returns what this thread has taken: the test is locked to it.
func processorTime() time.Duration {
	const ofThread = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	if err := syscall.Getrusage(ofThread, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// spent checks what a question has taken, and logs it.
func (c *chain) spent(v *graph.View, question string, start time.Duration, most int) {
	c.t.Helper()
	c.t.Logf("%s: %d steps in %v", question, v.Work(), (processorTime() - start).Round(time.Microsecond))
	if v.Work() > most {
		c.t.Errorf("%s: %d steps, expected %d at most", question, v.Work(), most)
	}
}

// TestAdversaryChangedLinks cuts every link of a path after the block that is asked about: each has
// to be read.
func TestAdversaryChangedLinks(t *testing.T) {
	c := newChain(t)
	most := limit()/links.RecordWork + 1 // keys, more or less, that can be read
	id, then := c.path(most + 100)
	for n := range most + 99 {
		c.cut(n+1, n)
	}
	c.block()

	v := c.at(then)
	deep := most * 9 / 10
	start := processorTime()
	r, err := v.Resolve(t.Context(), key(deep))
	if err != nil || r.ID != id || r.Root != key(0) || int(r.Depth) != deep || len(r.Path) != links.MaxPath {
		t.Fatalf("key %d: %v below %x, %v", deep, r.Depth, r.Root, err)
	}
	c.spent(v, "Resolve", start, limit())
	if v.Work() < deep*links.RecordWork {
		t.Errorf("%d steps for %d links that have changed: this shows nothing", v.Work(), deep)
	}
	// Of another question of the same view, all but the path is known.
	start = processorTime()
	if r, err = v.Resolve(t.Context(), key(deep-1)); err != nil || int(r.Depth) != deep-1 {
		t.Fatalf("key %d: %v, %v", deep-1, r.Depth, err)
	}
	c.spent(v, "Resolve, again", start, (links.MaxPath+1)*(links.RecordWork+1))

	v = c.at(then)
	for question, ask := range map[string]func() error{
		"Resolve of too deep a key": func() error { _, err := v.Resolve(t.Context(), key(most+99)); return err },
		"Members from too deep a key on": func() error {
			_, _, err := v.Members(t.Context(), id, &links.MemberCursor{Key: key(most + 99)}, 10)
			return err
		},
	} {
		start := processorTime()
		if err := ask(); !errors.Is(err, links.ErrWork) {
			t.Errorf("%s: %v, expected ErrWork", question, err)
		}
		c.spent(v, question, start, limit()+links.RecordWork)
	}
	start = processorTime()
	members, next, err := v.Members(t.Context(), id, nil, 1000)
	if err != nil || len(members) == 0 || next == nil {
		t.Fatalf("%d members, next %v, %v", len(members), next, err)
	}
	c.spent(v, fmt.Sprintf("Members, %d of 1000", len(members)), start, limit())
}

// TestAdversaryVersions links a key again and again, below one key and another: as of each block, few versions of its
// record are read.
func TestAdversaryVersions(t *testing.T) {
	c := newChain(t)
	c.link(1, 0)
	c.link(2, 0)
	first := c.block()
	c.link(3, 1)
	c.block()
	const most = 4
	for n := range 50 {
		c.cut(3, 1+n%2)
		c.link(3, 2-n%2)
		c.block()
	}
	for height := first; height < c.height; height++ {
		v := c.at(height)
		r, err := v.Resolve(t.Context(), key(3))
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case height == first && r.Parent == nil && r.Root == key(3):
		case height > first && r.Parent != nil && *r.Parent == key(1+int(height-first-1)%2) && r.Root == key(0):
		default:
			t.Errorf("as of block %d: %+v", height, r)
		}
		// Key 0 may be read as well.
		if asked := v.VersionsAsked(); asked > 2*most {
			t.Errorf("as of block %d: %d versions were read", height, asked)
		}
	}
}

// TestAdversaryLinksBeside adds keys beside a path after the block that is asked about: nodes of the
// forest that hold the path hold newer links as well.
func TestAdversaryLinksBeside(t *testing.T) {
	c := newChain(t)
	keys := 3 * limit()
	id, then := c.path(keys)
	for n := 0; n < keys; n += 8 {
		c.link(keys+n, n)
	}
	c.block()
	v := c.at(then)
	start := processorTime()
	r, err := v.Resolve(t.Context(), key(keys-1))
	if err != nil || r.ID != id || int(r.Depth) != keys-1 {
		t.Fatalf("depth %d, %v", r.Depth, err)
	}
	c.spent(v, "Resolve", start, limit())
	if v.Work() < keys/32 {
		t.Errorf("%d steps for a path of %d keys: this shows nothing", v.Work(), keys)
	}
	v.Limit(v.Work() - links.RecordWork - 1)
	if _, err := v.Resolve(t.Context(), key(keys-2)); !errors.Is(err, links.ErrWork) {
		t.Errorf("%v, expected ErrWork", err)
	}
}

// TestAdversaryWayUp lists keys from the end of a path longer than a page may climb: pages without a
// key, each with where to go on, lead to the next.
func TestAdversaryWayUp(t *testing.T) {
	c := newChain(t)
	keys := 2*limit() + limit()/2
	id, then := c.path(keys)
	c.link(keys, 0)
	with := c.block()
	c.cut(1, 0)
	c.block()
	for _, test := range []struct {
		height uint32
		rest   int // keys behind the path
	}{{then, 0}, {with, 1}} {
		v := c.at(test.height)
		cursor := &links.MemberCursor{Key: key(keys - 1)}
		pages, found := 0, 0
		for ; cursor != nil; pages++ {
			if pages > keys {
				t.Fatal("the list does not end")
			}
			start := processorTime()
			members, next, err := v.Members(t.Context(), id, cursor, 10)
			if err != nil {
				t.Fatal(err)
			}
			c.spent(v, fmt.Sprintf("Members as of %d", test.height), start, limit())
			found, cursor = found+len(members), next
		}
		if found != test.rest || pages < 3 {
			t.Errorf("as of %d: %d keys in %d pages, want %d", test.height, found, pages, test.rest)
		}
	}
}

// TestAdversaryMerges merges identities in pairs, then pairs of these, and so on: the way from a name to the one that
// survives becomes as long as it can.
func TestAdversaryMerges(t *testing.T) {
	const rounds = 9
	const identities = 1 << rounds
	c := newChain(t)
	var ids []chainhash.Hash
	for n := range identities {
		ids = append(ids, c.link(2*n+1, 2*n))
	}
	c.block()
	for size := 1; size < identities; size *= 2 {
		for n := 0; n < identities; n += 2 * size {
			c.link(2*(n+size), 2*n+1)
		}
	}
	then := c.block()
	c.cut(2*identities/2, 1)
	c.block()
	v := c.at(then)
	most := 0
	for n, id := range ids {
		identity, err := v.Identity(id)
		if err != nil || identity.Keys != 2*identities || n > 0 && *identity.MergedInto != ids[0] {
			t.Fatalf("identity %d: %+v, %v", n, identity, err)
		}
		most = max(most, v.Work()/links.RecordWork)
	}
	if most != 2+rounds+1 {
		t.Errorf("%d records to find which one survives of %d, expected %d", most, identities, 2+rounds+1)
	}
}

// TestAdversaryRequests asks for the inbox of keys to which strangers have sent as many requests as they like to pay
// for, before they were in an identity or afterwards: a page costs what its entries do, and what it may pass over. The few
// that were accepted are found behind them, page by page.
func TestAdversaryRequests(t *testing.T) {
	spam := 5000
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		spam = 100_000
	}
	const page, passed, coming = 100, 4096, 64
	for _, linked := range []bool{false, true} {
		c := newChain(t)
		accepted := 0
		if linked {
			c.link(spam+1, 0)
			c.block()
			accepted++
		}
		for n := range spam {
			c.add(n+1, protocol.Action{Kind: protocol.MLR, Parent: key(0)})
			if len(c.actions) == 10_000 {
				c.block()
			}
		}
		v := c.at(c.block())
		for _, test := range []struct {
			states links.RequestState
			most   int // records of a page
			want   int
		}{
			{links.OpenRequest, coming + 14*page, spam},
			{links.AcceptedRequest, coming + 2*passed, accepted},
		} {
			listed, pages, start := 0, 0, processorTime()
			for from, first := (*store.Position)(nil), true; first || from != nil; first = false {
				before := v.Asked()
				requests, next, err := v.Requests(t.Context(), key(0), test.states, from, page)
				if err != nil {
					t.Fatal(err)
				}
				// To find where a page begins takes some reads more, one for each bit of the number of a block's actions.
				if asked := v.Asked() - before; asked > test.most+14+20 {
					t.Errorf("page %d of requests in state %d took %d records, expected %d at most", pages, test.states, asked, test.most)
				}
				listed, pages, from = listed+len(requests), pages+1, next
			}
			if listed != test.want || test.states == links.AcceptedRequest && pages < spam/passed {
				t.Errorf("%d requests in state %d on %d pages, expected %d", listed, test.states, pages, test.want)
			}
			t.Logf("linked %t, state %d: %d pages, each %v of processor time", linked, test.states, pages, (processorTime()-start)/time.Duration(pages))
		}
	}
}

// TestAdversaryCutStar lists the keys of a star, and the links below its middle, as of a block after which all of them
// were cut: each has to be read, wherever a page begins.
func TestAdversaryCutStar(t *testing.T) {
	c := newChain(t)
	children := 2 * limit() / links.RecordWork
	for n := range children {
		c.link(n+1, 0)
	}
	then := c.block()
	for n := range children {
		if c.cut(n+1, 0); len(c.actions) == 10_000 {
			c.block()
		}
	}
	c.block()
	v := c.at(then)
	r, err := v.Resolve(t.Context(), key(1))
	if err != nil {
		t.Fatal(err)
	}
	seen, pages := 0, 0
	for cursor, first := (*links.MemberCursor)(nil), true; cursor != nil || first; pages++ {
		start := processorTime()
		members, next, err := v.Members(t.Context(), r.ID, cursor, 1000)
		if err != nil {
			t.Fatal(err)
		}
		c.spent(v, fmt.Sprintf("Members, page %d", pages), start, limit())
		seen, cursor, first = seen+len(members), next, false
	}
	if seen != children+1 || pages < 3 {
		t.Errorf("%d keys on %d pages, expected %d on three or more", seen, pages, children+1)
	}
	page, seen := min(1000, limit()/links.RecordWork-3), 0
	for after, first := (*protocol.KeyHash)(nil), true; after != nil || first; {
		start := processorTime()
		below, next, err := v.LinksBelow(t.Context(), key(0), after, page)
		if err != nil {
			t.Fatal(err)
		}
		c.spent(v, fmt.Sprintf("LinksBelow, %d", len(below)), start, (page+3)*links.RecordWork)
		seen, after, first = seen+len(below), next, false
	}
	if seen != children {
		t.Errorf("%d links below the middle, expected %d", seen, children)
	}
}

// many is how many actions somebody pays for.
func many(exhaustive int) int {
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		return exhaustive
	}
	return 10_000
}

// TestAdversaryActions lists the actions of a key about which strangers have made as many as they like to pay for,
// from the beginning, the middle and the end.
func TestAdversaryActions(t *testing.T) {
	c := newChain(t)
	count := many(1_000_000)
	const page, coming = 1000, 64
	perBlock := count / 10
	for n := range count {
		if c.add(n+1, protocol.Action{Kind: protocol.MLR, Parent: key(0)}); len(c.actions) == perBlock {
			c.block()
		}
	}
	v := c.at(c.height - 1)
	for _, deep := range []int{0, count / 2, count - page} {
		after := &store.Position{Height: uint32(deep / perBlock), Index: uint32(deep % perBlock)}
		if deep == 0 {
			after = nil
		}
		before, start := v.Asked(), processorTime()
		found, _, err := v.ActionsOf(t.Context(), key(0), after, page)
		if err != nil || len(found) < page-1 {
			t.Fatalf("from %d: %d actions, %v", deep, len(found), err)
		}
		asked, took := v.Asked()-before, processorTime()-start
		t.Logf("%d of %d actions from %d: %d records in %v", len(found), count, deep, asked, took)
		// To find where a page begins takes some reads more, one for each bit of the number of a block's actions.
		if most := coming + 14*page + 2*20; asked > most {
			t.Errorf("from %d: %d records, expected %d at most", deep, asked, most)
		}
	}
}

// TestAdversaryEffects reads pages of the effects of one block that has as many as fit into it.
func TestAdversaryEffects(t *testing.T) {
	c := newChain(t)
	count := many(200_000)
	for n := range count {
		request := c.add(n+1, protocol.Action{Kind: protocol.MLR, Parent: key(0)})
		c.add(0, protocol.Action{Kind: protocol.MLA, Ref: protocol.RefersTo(request)})
	}
	v := c.at(c.block())
	for _, page := range []int{1, 100, 1000} {
		for _, first := range []int{0, 4095, count, 2*count - page} {
			before, start := v.Asked(), processorTime()
			effects, passed, err := v.Effects(first, page)
			if err != nil || len(effects) != page || passed != first {
				t.Fatalf("from %d: %d effects behind %d, %v", first, len(effects), passed, err)
			}
			asked, took := v.Asked()-before, processorTime()-start
			t.Logf("%d of %d effects from %d: %d records in %v", page, 2*count, first, asked, took)
			if asked > 7*page {
				t.Errorf("%d effects from %d took %d records, expected %d at most", page, first, asked, 7*page)
			}
		}
	}
}

// TestAdversaryChanges lists how an identity changed that somebody changes in every block: pages, and an overview of as
// many parts as there may be.
func TestAdversaryChanges(t *testing.T) {
	c := newChain(t)
	blocks := 600
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		blocks = 20_000
	}
	id := c.link(1, 0)
	c.block()
	for n := range blocks {
		c.link(n+2, n+1)
		c.block()
	}
	tip := c.height - 1
	v := c.at(tip)
	const page = 500
	for _, upTo := range []uint32{tip, page} {
		start := processorTime()
		versions, more, err := v.IdentityVersions(id, upTo, page)
		if err != nil || len(versions) != page || versions[0].Since != upTo || !more {
			t.Fatalf("up to %d: %d versions, more: %t, %v", upTo, len(versions), more, err)
		}
		t.Logf("%d of %d versions up to %d in %v", page, blocks, upTo, processorTime()-start)
	}
	start := processorTime()
	for part := range uint32(page) {
		upTo := tip * (part + 1) / page
		if versions, _, err := v.IdentityVersions(id, upTo, 1); err != nil || len(versions) != 1 || versions[0].Since != upTo {
			t.Fatalf("up to %d: %v, %v", upTo, versions, err)
		}
	}
	t.Logf("an overview of %d parts in %v", page, processorTime()-start)
}
