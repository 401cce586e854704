package admission

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// client returns the n-th of some clients.
func client(n int) Client {
	return Client{prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 32)}
}

func TestPlacesOfOne(t *testing.T) {
	p := newPlaces("things", Budget{All: 10, One: 2}, time.Hour, 0, 1)
	enter := func(c Client) (*place, *Refusal) {
		l, refusal := p.enter(c, func() { t.Error("a place was taken away that is kept") })
		if l != nil {
			l.keep()
		}
		return l, refusal
	}
	first, _ := enter(client(1))
	enter(client(1))
	if _, refusal := enter(client(1)); refusal == nil || !refusal.Yours || refusal.Budget != "things" {
		t.Errorf("a third place: %v", refusal)
	}
	first.leave()
	first.leave() // counts once
	if _, refusal := enter(client(1)); refusal != nil {
		t.Errorf("when one is free: %v", refusal)
	}
	if _, refusal := enter(client(1)); refusal == nil {
		t.Error("one that was left twice counted twice")
	}
	for _, standing := range []standing{manifold, unlimited} {
		many := client(2)
		many.standing = standing
		for range 3 {
			if _, refusal := enter(many); refusal != nil {
				t.Errorf("standing %d: %v", standing, refusal)
			}
		}
	}
	if _, refusal := enter(client(1)); refusal == nil {
		t.Error("one of the last quarter went to who has others")
	}
	for n := range 3 {
		if _, refusal := enter(client(10 + n)); (refusal != nil) != (n == 2) || refusal != nil && refusal.Yours {
			t.Errorf("client %d of the last quarter, which is 2 places: %v", n+1, refusal)
		}
	}
}

// TestPlacesMakeRoom fills a house by a client with many places and one with a single one.
func TestPlacesMakeRoom(t *testing.T) {
	p := newPlaces("things", Budget{All: 4, One: 2}, 0, 0, 1)
	var vacated []string
	enter := func(name string, c Client) *place {
		l, refusal := p.enter(c, func() { vacated = append(vacated, name) })
		if refusal != nil {
			vacated = append(vacated, "refused "+name)
		}
		return l
	}
	single := enter("single", client(1))
	a1 := enter("a1", client(2))
	enter("a2", client(2))
	enter("a3", client(2)) // its own oldest makes room
	enter("b1", client(3))
	enter("c1", client(4)) // the oldest of who has most
	if got, want := fmt.Sprint(vacated), "[a1 a2]"; got != want {
		t.Errorf("%s made room, want %s", got, want)
	}
	if a1.keep() {
		t.Error("a place that was taken away can be kept")
	}
	// All have one now. The oldest makes room, unless it is kept.
	if !single.keep() {
		t.Fatal("the single one is gone")
	}
	enter("d1", client(5))
	single.free()
	enter("b2", client(3)) // nobody has more than it asks for
	if got, want := fmt.Sprint(vacated), "[a1 a2 a3 refused b2]"; got != want {
		t.Errorf("%s made room, want %s", got, want)
	}
	if p.inUse() != 4 || len(p.of) != 4 {
		t.Errorf("%d places are taken, by %d clients", p.inUse(), len(p.of))
	}
}

// TestFewPlacesAreAlike has a client with few places come into a house that is full of
// clients with fewer. Who has been there for longest makes room.
func TestFewPlacesAreAlike(t *testing.T) {
	p := newPlaces("things", Budget{All: 8, One: 8}, 0, 0, 4)
	var vacated []int
	for i, n := range []int{1, 2, 3, 3, 4, 5, 6, 7, 3, 3, 3} {
		_, refusal := p.enter(client(n), func() { vacated = append(vacated, n) })
		if (refusal != nil) != (i == 10) { // with four it has no fewer than anybody
			t.Errorf("client %d: %v", n, refusal)
		}
	}
	if got := fmt.Sprint(vacated); got != "[1 2]" {
		t.Errorf("%s made room", got)
	}
}

// TestPlacesAddUp has random clients come, stay and go.
func TestPlacesAddUp(t *testing.T) {
	p := newPlaces("things", Budget{All: 20, One: 5}, 0, 0, 1)
	random := rand.New(rand.NewPCG(1, 2))
	in := make(map[*place]bool)
	for range 20_000 {
		var some *place
		for some = range in {
			break
		}
		switch n := random.IntN(10); {
		case some == nil || n < 5:
			var l *place
			l, refusal := p.enter(client(random.IntN(10)), func() { delete(in, l) })
			if refusal == nil {
				in[l] = true
			}
		case n < 7:
			if !some.keep() {
				t.Fatal("one that is in is gone")
			}
		case n < 9:
			some.free()
		default:
			some.leave()
			delete(in, some)
		}
		count := make(map[Client]int)
		for l := range in {
			if count[l.client]++; count[l.client] > 5 {
				t.Fatalf("client %v has more than it may", l.client)
			}
		}
		if len(in) > 20 || p.inUse() != len(in) || len(p.of) != len(count) {
			t.Fatalf("%d are in, counted as %d, of %d clients, counted as %d", len(in), p.inUse(), len(count), len(p.of))
		}
	}
}

func TestBytes(t *testing.T) {
	b := newBytes("bytes", Budget{All: 100, One: 60}, time.Second)
	free := client(9)
	free.standing = unlimited
	for i, step := range []struct {
		client Client
		n      int
		want   string // "", yours or all
	}{
		{client(1), 60, ""},
		{client(1), 1, "yours"},
		{client(2), 41, "all"},
		{client(2), 40, ""},
		{client(3), 0, ""},
		{client(3), 1, "all"},
		{free, 1000, ""},
	} {
		got := ""
		if refusal := b.take(step.client, step.n); refusal != nil {
			if got = "all"; refusal.Yours {
				got = "yours"
			}
		}
		if got != step.want {
			t.Errorf("step %d: refused %q, want %q", i, got, step.want)
		}
	}
	b.give(free, 1000)
	b.give(client(1), 60)
	b.give(client(2), 40)
	if b.inUse() != 0 || len(b.of) != 0 {
		t.Errorf("%d bytes are left, of %d clients", b.inUse(), len(b.of))
	}
}

// TestRatesForget sees more clients than are remembered.
func TestRatesForget(t *testing.T) {
	const burst = 10
	r := NewRates("calls", 1<<62, burst) // nothing comes back during the test
	busy := client(1 << 23)
	for n := range 3 * maxKnown {
		if err := r.Take(client(n), 1); err != nil {
			t.Fatalf("the first call of client %d: %v", n, err)
		}
		if n%(maxKnown/2) == 0 && n < burst*maxKnown/2 {
			if err := r.Take(busy, 1); err != nil {
				t.Fatalf("the busy client's at %d: %v", n, err)
			}
		}
		if got := r.remembered(); got > 2*maxKnown {
			t.Fatalf("%d clients are remembered", got)
		}
	}
	for range burst {
		r.Take(busy, 1)
	}
	if r.Take(busy, 1) == nil {
		t.Error("who calls all the time was forgotten")
	}
}

// TestRatesOfANetwork has all subscribers of a /48 call at once.
func TestRatesOfANetwork(t *testing.T) {
	g := gateWith("", "")
	r := NewRates("calls", 1<<62, 10)
	allowed := 0
	for n := range 1000 {
		if r.Take(g.newClient(netip.MustParseAddr(fmt.Sprintf("2001:db8:1:%x::1", n))), 1) == nil {
			allowed++
		}
	}
	if allowed != networkShare*10 {
		t.Errorf("%d of 1000 were allowed, want %d", allowed, networkShare*10)
	}
	if err := r.Take(g.newClient(netip.MustParseAddr("2001:db8:2::1")), 1); err != nil {
		t.Errorf("another network: %v", err)
	}
	if err := r.Take(client(1), 1000); err != nil {
		t.Errorf("more than there ever is: %v", err)
	}
}

// TestWorkLeavesRoomForTheQuiet uses up what all may do.
func TestWorkLeavesRoomForTheQuiet(t *testing.T) {
	busy, clients := false, 100
	crowd := func() int { return clients }
	w := newWork(Budget{All: 1, One: 1000}, func() bool { return busy }, crowd)
	loud := client(1)
	for range 1000 {
		w.take(loud, 1)
	}
	if refusal := w.take(loud, 100); refusal == nil || refusal.Yours {
		t.Errorf("who is loud: %v", refusal)
	}
	if refusal := w.take(client(2), 1); refusal != nil {
		t.Errorf("who is quiet: %v", refusal)
	}
	w = newWork(Budget{All: 1000, One: 1000}, func() bool { return busy }, crowd)
	for range 800 { // more than is quiet, less than all
		w.take(loud, 1)
	}
	if refusal := w.take(loud, 1); refusal != nil {
		t.Errorf("who is loud where there is room: %v", refusal)
	}
	busy = true
	if refusal := w.take(loud, 1); refusal == nil || refusal.Yours {
		t.Errorf("who is loud where there is more to do than is done: %v", refusal)
	}
	if refusal := w.take(client(2), 1); refusal != nil {
		t.Errorf("who is quiet there: %v", refusal)
	}
	clients = 5
	w = newWork(Budget{All: 20_000, One: 1000}, func() bool { return true }, crowd)
	for range 10_000 {
		if refusal := w.take(client(2), 1); refusal != nil {
			t.Fatalf("one of few: %v", refusal)
		}
	}
	own := client(3)
	own.standing = unlimited
	if refusal := w.take(own, 1_000_000); refusal != nil {
		t.Errorf("the operator's own: %v", refusal)
	}
}

// TestRefusal reads a refusal as each wire has it.
func TestRefusal(t *testing.T) {
	for _, test := range []struct {
		refusal *Refusal
		http    int
		grpc    codes.Code
		seconds int
	}{
		{refused("things", true, 1500*time.Millisecond), 429, codes.ResourceExhausted, 2},
		{refused("things", false, 0), 503, codes.Unavailable, 1},
	} {
		err := fmt.Errorf("asked for too much: %w", test.refusal)
		if r := new(Refusal); !errors.As(err, &r) || r.HTTPStatus() != test.http || r.Seconds() != test.seconds {
			t.Errorf("HTTP: %+v", r)
		}
		st := status.Convert(test.refusal)
		info, _ := st.Details()[0].(*errdetails.RetryInfo)
		if st.Code() != test.grpc || info.GetRetryDelay().AsDuration() != test.refusal.After {
			t.Errorf("gRPC: %v, %v", st, info)
		}
	}
}

// idleConn is a connection on which nothing happens.
type idleConn struct {
	net.Conn
	from net.Addr
}

func (c idleConn) RemoteAddr() net.Addr { return c.from }
func (c idleConn) Close() error         { return nil }

// TestClosedConnectionOwesNothing has answers made for a connection that has just been closed: what they would
// have held is never given back, since nobody says that it was let go of.
func TestClosedConnectionOwesNothing(t *testing.T) {
	g := New(Config{Limits: DefaultLimits()})
	c, refusal := g.connect(idleConn{from: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}})
	if refusal != nil {
		t.Fatal(refusal)
	}
	before, refusal := c.owe(1 << 20)
	if refusal != nil || g.Usage().BytesOut == 0 {
		t.Fatalf("%v, in use: %+v", refusal, g.Usage())
	}
	c.Close()
	after, refusal := c.owe(1 << 20)
	if refusal != nil {
		t.Error(refusal)
	}
	for range 2 {
		if n := g.Usage().BytesOut; n != 0 {
			t.Errorf("%d bytes are held for a connection that is closed", n)
		}
		before.taken()
		after.taken()
	}
}

// TestConnectHoldsUpNobody has a connection take the place of another one, whose end it has
// to wait for. Whoever looks through the open connections meanwhile, as relieve does, need
// not wait for it: they would for each other.
func TestConnectHoldsUpNobody(t *testing.T) {
	limits := DefaultLimits()
	limits.Connections = Budget{All: 1, One: 1}
	g := New(Config{Limits: limits})
	connect := func() *conn {
		c, refusal := g.connect(idleConn{from: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}})
		if refusal != nil {
			t.Error(refusal)
		}
		return c
	}
	old := connect()
	old.mu.Lock()
	fresh := make(chan *conn)
	go func() { fresh <- connect() }()
	left := func() bool { // the old one has lost its place, and so will be closed
		old.place.in.mu.Lock()
		defer old.place.in.mu.Unlock()
		return old.place.gone
	}
	for !left() {
		time.Sleep(time.Millisecond)
	}
	g.mu.Lock()
	for c := range g.open {
		if c == old {
			continue
		}
		if !c.mu.TryLock() {
			t.Error("a connection is open, and locked until another one is closed")
			continue
		}
		c.mu.Unlock()
	}
	g.mu.Unlock()
	old.mu.Unlock()
	if c := <-fresh; !old.closed || c.closed {
		t.Errorf("the old connection is closed: %v, the fresh one: %v", old.closed, c.closed)
	}
	if _, open := g.open[old]; open || len(g.open) != 1 {
		t.Errorf("%d connections are open, the old one: %v", len(g.open), open)
	}
}

// TestBuffers checks that a message is counted as what its buffer has.
func TestBuffers(t *testing.T) {
	pool := newBuffers()
	for _, size := range []int{0, 1, 1024, 2048, 2049, 4096, 4097, 33_000, 1 << 20, 1<<20 + 1, 7 << 20} {
		buffer := pool.Get(max(size, leastBuffer))
		if got := cap(*buffer); got != bufferFor(size) || got < size || got > max(leastBuffer, 2*size) {
			t.Errorf("a message of %d bytes has a buffer of %d, counted as %d", size, got, bufferFor(size))
		}
		pool.Put(buffer)
	}
}
