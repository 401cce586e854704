package admission

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// conn is a connection that has a place until it is closed. Calls on it have the place
// kept; without any, it makes room for others.
type conn struct {
	net.Conn
	gate    *Gate
	address netip.Addr
	client  Client // at the other end
	place   *place

	mu      sync.Mutex
	closed  bool        // mu
	calls   int         // mu; on it now
	idle    *time.Timer // mu; closes it when it was without any for mostIdle
	ended   time.Time   // mu; since when it is without, if so
	telling int         // mu; calls over HTTP/2 that are being told that they are refused
	refused int         // mu; more calls than were answered since
	resets  int         // mu; calls that the client took back, less forgiven for each that was answered since

	framed bool      // mu; it speaks HTTP/2
	held   time.Time // mu; until when nothing more is read from it

	short     turn        // mu; of what it computes since something was read
	left      bool        // mu; to a call
	answering bool        // mu; a call over HTTP/1, which has turns of its own
	resting   *time.Timer // mu; gives the turn back; nil before it first did something else with one

	arriving int // mu; gRPC calls whose message is not there yet
	in       tally
	out      tally

	oldest, newest *message    // mu; what was not taken yet
	watchdog       *time.Timer // mu; closes it if the oldest is not taken in time; nil before the first
	watching       bool        // mu; whether watchdog will fire
}

// tally is how many bytes a connection holds in one direction. The connection's mu owns it.
type tally struct {
	held    int
	counted int // of the budget: what is above small
}

// change makes the tally so many bytes longer, or shorter. If the budget has no room, it is left
// as it was.
func (t *tally) change(b *bytes, c Client, n int) *Refusal {
	counted := max(0, t.held+n-small)
	switch more := counted - t.counted; {
	case more > 0:
		if refusal := b.take(c, more); refusal != nil {
			return refusal
		}
	case more < 0:
		b.give(c, -more)
	}
	t.held, t.counted = t.held+n, counted
	return nil
}

// remote is the address of a connection, and leads to it where only the address is passed on.
type remote struct {
	net.Addr
	conn *conn
}

// connect gives a connection a place.
func (g *Gate) connect(accepted net.Conn) (*conn, *Refusal) {
	address := addressOf(accepted.RemoteAddr())
	c := &conn{Conn: accepted, gate: g, address: address, client: g.peer(address)}
	var refusal *Refusal
	// Until its place is known, nobody may close it. Entering may close another connection,
	// which takes the gate's mu: nobody who has that may wait for this connection, so it is
	// not among the open ones yet.
	c.mu.Lock()
	c.place, refusal = g.connections.enter(c.client, func() { c.Close() })
	c.mu.Unlock()
	if refusal != nil {
		return nil, refusal
	}
	c.mu.Lock()
	if !c.closed {
		c.ended, c.idle = time.Now(), time.AfterFunc(mostIdle, c.closeIdle)
	}
	c.mu.Unlock()
	g.mu.Lock()
	g.open[c] = struct{}{}
	g.mu.Unlock()
	c.mu.Lock()
	closed := c.closed // its place was taken away already
	c.mu.Unlock()
	if closed {
		g.forget(c)
	}
	if tcp, ok := accepted.(*net.TCPConn); ok {
		tcp.SetWriteBuffer(sendWindow) // without, it only works less well, here and below
		tcp.SetReadBuffer(receiveWindow)
	}
	return c, nil
}

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return remote{c.Conn.RemoteAddr(), c} }

// Read implements net.Conn. What comes for gRPC calls whose message is not whole counts as
// received; over HTTP each body counts for itself. What was read is returned when there is a processor for it, which the connection
// has until it reads again, or has written: what was read may be many requests of HTTP/2, and not all of them are answered when
// it writes, but soon after that it waits for something else.
func (c *conn) Read(b []byte) (int, error) {
	watching := len(b) == 1 // net/http looks whether the client goes, beside what it computes
	if !watching {
		c.restUnlessLeft()
	}
	n, err := c.Conn.Read(b)
	if n == 0 {
		return n, err
	}
	c.mu.Lock()
	var refusal *Refusal
	if c.arriving > 0 {
		refusal = c.in.change(c.gate.in, c.client, n)
	}
	framed := c.framed // which looks first at what it is
	c.mu.Unlock()
	if !watching && !framed {
		c.compute()
	}
	if refusal != nil {
		// It is in the middle of a message. There is no way to refuse that but this one.
		c.Close()
		return 0, refusal
	}
	return n, err
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.restSoon()
	c.mu.Unlock()
	return c.Conn.Write(b)
}

// soon is how long a connection that has begun to write, or waits for a call to take its processor over, keeps it.
const soon = time.Millisecond

// restSoon gives the processor of compute back a little later, if the connection has one. The caller holds mu.
func (c *conn) restSoon() {
	switch {
	case c.short == (turn{}):
	case c.resting == nil:
		c.resting = time.AfterFunc(soon, c.rest)
	default:
		c.resting.Reset(soon)
	}
}

// leave leaves the processor of compute to the next call on the connection, which has come whole.
func (c *conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left = c.short != (turn{})
	c.restSoon()
}

// restUnlessLeft gives the processor of compute back, unless it is left to a call.
func (c *conn) restUnlessLeft() {
	c.mu.Lock()
	var has turn
	if !c.left {
		has = c.release()
	}
	c.mu.Unlock()
	c.gate.turns.give(has)
}

// takeOver hands over the processor that was left to a call of a client, if there is one.
func (c *conn) takeOver(client Client) turn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.left || client != c.client {
		return turn{}
	}
	return c.release()
}

// SetDeadline implements net.Conn: a little later than it says.
func (c *conn) SetDeadline(t time.Time) error { return c.Conn.SetDeadline(scattered(t)) }

// SetReadDeadline implements net.Conn: a little later than it says.
func (c *conn) SetReadDeadline(t time.Time) error { return c.Conn.SetReadDeadline(scattered(t)) }

// scattered returns a time up to a fifth later than one to come: the connections of those who came together, and do nothing, are not closed
// together, to come again at once.
func scattered(t time.Time) time.Time {
	if left := time.Until(t); left > 0 {
		t = t.Add(rand.N(left/5 + 1))
	}
	return t
}

// compute waits until there is a processor for what was read, unless a call is being answered.
func (c *conn) compute() {
	c.mu.Lock()
	idle := c.closed || c.answering || c.short != (turn{})
	c.mu.Unlock()
	if idle {
		return
	}
	has, _ := c.gate.turns.take(context.Background(), c.client) // it comes soon
	c.mu.Lock()
	if idle = c.closed || c.answering; !idle {
		c.short = has
	}
	c.mu.Unlock()
	if idle {
		c.gate.turns.give(has)
	}
}

// rest gives the processor of compute back, if the connection has one.
func (c *conn) rest() { c.gate.turns.give(c.hand()) }

// hand hands the turn of the connection, if it has one, to the caller.
func (c *conn) hand() turn {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.release()
}

// release returns the turn that the connection had, if it had one. The caller holds mu, and gives it back or hands it on.
func (c *conn) release() turn {
	has := c.short
	c.short, c.left = turn{}, false
	if c.resting != nil {
		c.resting.Stop()
	}
	return has
}

// answers says whether a call over HTTP/1 is being answered.
func (c *conn) answers(now bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answering = now
}

// Close implements net.Conn. All that the connection holds is given back.
func (c *conn) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		c.in.change(c.gate.in, c.client, -c.in.held)
		for c.oldest != nil {
			c.oldest.release()
		}
		if c.watchdog != nil {
			c.watchdog.Stop()
		}
		if c.idle != nil {
			c.idle.Stop()
		}
		c.place.leave()
	}
	c.mu.Unlock()
	c.rest()
	c.gate.forget(c) // without c.mu, for which relieve may wait
	return c.Conn.Close()
}

func (c *conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// closeIdle closes the connection if it is without a call for long enough, and looks again later else.
func (c *conn) closeIdle() {
	c.mu.Lock()
	left := mostIdle
	if c.calls == 0 {
		left = mostIdle - time.Since(c.ended)
	}
	if left > 0 && !c.closed {
		c.idle.Reset(left)
	}
	c.mu.Unlock()
	if left <= 0 {
		c.Close()
	}
}

// forget takes a connection that is closed off the open ones.
func (g *Gate) forget(c *conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, c)
}

// begin has a call keep the connection's place. It fails if that was just taken away.
func (c *conn) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.calls == 0 && !c.place.keep() {
		return false
	}
	c.calls++
	return true
}

// end is the end of a call. answered tells whether the client waited for it.
func (c *conn) end(answered bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.calls--; c.calls == 0 {
		c.place.free()
		c.ended = time.Now()
	}
	if answered {
		c.resets, c.refused = max(0, c.resets-forgiven), max(0, c.refused-1)
	}
}

// tookBack counts a call that the client took back over HTTP/2, and reports whether it may go on. Else its connection is to be closed,
// and the client is let in again some time later. A proxy takes back what its clients do.
func (c *conn) tookBack() bool {
	c.mu.Lock()
	c.resets++
	tooMany := c.resets > mostReset && c.client.Single()
	c.mu.Unlock()
	if tooMany {
		c.gate.banish(c.client)
	}
	return !tooMany
}

// banish has a client wait until it is let in again. Where the server is busy, its connections are closed, on which it
// may do the same.
func (g *Gate) banish(c Client) {
	g.work.one.banish(c)
	if !c.bounded() || !g.turns.isBusy() {
		return
	}
	g.mu.Lock()
	var its []*conn
	for other := range g.open {
		if other.client == c {
			its = append(its, other)
		}
	}
	g.mu.Unlock()
	for _, other := range its {
		other.Close()
	}
}

// refuse counts a call that was refused, and reports whether to say so, or the connection was closed, since there were too many. Nothing more
// is read from the connection for a while: over HTTP/1, it returns only then. What comes through a proxy is not held back, for its others.
func (c *conn) refuse(ctx context.Context) bool {
	c.rest()
	c.gate.turns.forfeit(c.client)
	c.mu.Lock()
	c.refused++
	n, most, framed := c.refused, mostRefused, c.framed
	c.mu.Unlock()
	if framed {
		most = mostRefusedFramed
	}
	after := about(min(holdRefused<<min(n-1, 10), mostHoldRefused))
	switch {
	case !c.client.Single():
	case n > most:
		c.Close()
		return false
	case framed:
		c.hold(after)
	default:
		wait(ctx, after)
	}
	return true
}

// tell says over HTTP/2 that a call was refused. A client that takes nothing leaves what says so waiting: when there are mostTelling of
// these, its connection is closed.
func (c *conn) tell(answer *http.ResponseController, say func()) {
	c.mu.Lock()
	c.telling++
	its := c.telling
	c.mu.Unlock()
	all := c.gate.telling.Add(1)
	defer func() {
		c.gate.telling.Add(-1)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.telling--
	}()
	if all > mostTelling && its > 1 {
		c.Close()
		return
	}
	answer.SetWriteDeadline(time.Now().Add(partingTime)) // which works unless the client has gone, as what follows
	say()
	answer.Flush()
}

// refuseFrames has a client wait that has sent more frames of HTTP/2 than it may, as often as calls that are refused, ten at a time,
// and reports whether it may go on.
func (c *conn) refuseFrames() bool {
	c.gate.turns.forfeit(c.client)
	c.mu.Lock()
	c.refused += 10
	tooMany := c.refused > mostRefusedFramed && c.client.Single()
	c.mu.Unlock()
	c.hold(holdFrames)
	return !tooMany
}

// speaksHTTP2 says that the connection is read as framed, in which many calls may be on their way.
func (c *conn) speaksHTTP2() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.framed = true
}

// about returns a time that is half as long to half as long again: those who were refused together do not come together again.
func about(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// hold has nothing more read for some time.
func (c *conn) hold(after time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if until := time.Now().Add(after); until.After(c.held) {
		c.held = until
	}
}

// await waits until more may be read. The goroutine that reads calls it.
func (c *conn) await() {
	c.mu.Lock()
	until := c.held
	c.held = time.Time{}
	c.mu.Unlock()
	if !until.IsZero() {
		wait(context.Background(), time.Until(until)) // mostHoldRefused at most
	}
}

// wait waits for some time, or until ctx ends.
func wait(ctx context.Context, after time.Duration) {
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// arrive counts a gRPC call whose message is yet to come.
func (c *conn) arrive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.arriving++
}

// arrived counts a message of n bytes that is there, or never will be. What calls that have
// come to nothing have left counts until no message is on its way.
func (c *conn) arrived(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.arriving--; c.arriving == 0 {
		n = c.in.held
	}
	c.in.change(c.gate.in, c.client, -min(n, c.in.held))
}

// message is what is held for a connection until it is taken.
type message struct {
	conn       *conn
	size       int
	since      time.Time
	prev, next *message // conn.mu
	released   bool     // conn.mu
}

// owe counts n bytes that the connection is to be sent, until they are released. If they
// are not in time, the connection is closed.
func (c *conn) owe(n int) (*message, *Refusal) {
	m, refusal := c.tryOwe(n)
	if refusal != nil && !refusal.Yours && c.gate.relieve(n) {
		m, refusal = c.tryOwe(n)
	}
	return m, refusal
}

// time is how long the client may take over the message.
func (m *message) time() time.Duration {
	return m.conn.gate.limits.Take + time.Duration(m.size)*time.Second/slowest
}

func (c *conn) tryOwe(n int) (*message, *Refusal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		// It will not be sent, and gRPC need not say that it has let go of it.
		return &message{conn: c, released: true}, nil
	}
	if refusal := c.out.change(c.gate.out, c.client, n); refusal != nil {
		return nil, refusal
	}
	m := &message{conn: c, size: n, since: time.Now(), prev: c.newest}
	if c.newest != nil {
		c.newest.next = m
	} else {
		c.oldest = m
	}
	c.newest = m
	if !c.watching {
		c.watching = true
		if c.watchdog == nil {
			c.watchdog = time.AfterFunc(m.time(), c.watch)
		} else {
			c.watchdog.Reset(m.time())
		}
	}
	return m, nil
}

// watch closes the connection if its oldest message should have been taken by now.
func (c *conn) watch() {
	c.mu.Lock()
	c.watching = false
	late := false
	if c.oldest != nil && !c.closed {
		left := c.oldest.time() - time.Since(c.oldest.since)
		if late = left <= 0; !late {
			c.watching = true
			c.watchdog.Reset(left)
		}
	}
	c.mu.Unlock()
	if late {
		c.Close()
	}
}

// taken gives back what the message held. It may be called again.
func (m *message) taken() {
	m.conn.mu.Lock()
	defer m.conn.mu.Unlock()
	m.release()
}

// release is taken for who holds the connection's mu.
func (m *message) release() {
	if m.released {
		return
	}
	m.released = true
	c := m.conn
	if m.prev != nil {
		m.prev.next = m.next
	} else {
		c.oldest = m.next
	}
	if m.next != nil {
		m.next.prev = m.prev
	} else {
		c.newest = m.prev
	}
	c.out.change(c.gate.out, c.client, -m.size)
}

// relieveEvery is how often relieve looks for a connection to close.
const relieveEvery = 20 * time.Millisecond

// relieve closes the connection that holds most of what was not taken, if that is more than
// n bytes and it has been slow for as long as patience wants. It looks at all connections,
// of which there are no more than places, and few more that are being closed, and so does it
// only now and then.
func (g *Gate) relieve(n int) bool {
	g.mu.Lock()
	if time.Since(g.relieved) < relieveEvery {
		g.mu.Unlock()
		return false
	}
	g.relieved = time.Now()
	var slow *conn
	most := n
	for c := range g.open {
		c.mu.Lock()
		if c.out.counted > most && c.oldest != nil && time.Since(c.oldest.since) > c.gate.limits.Patience {
			slow, most = c, c.out.counted
		}
		c.mu.Unlock()
	}
	g.mu.Unlock()
	if slow != nil {
		slow.Close()
	}
	return slow != nil
}

// connKey is the key of a connection in the context of an HTTP request.
type connKey struct{}

// ConnContext is for http.Server.ConnContext.
func (g *Gate) ConnContext(ctx context.Context, c net.Conn) context.Context {
	if from, ok := c.RemoteAddr().(remote); ok {
		return context.WithValue(ctx, connKey{}, from.conn)
	}
	return ctx
}
