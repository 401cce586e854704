package admission

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Kind is what budgets have to know of a call.
type Kind int

const (
	// Unknown calls are refused by whoever would answer them.
	Unknown Kind = iota
	// Request is a call that is answered and ends.
	Request
	// Stream is a call that goes on for as long as the client wants.
	Stream
)

// bodySmall is how many bytes of a request count for nothing: requests are counted.
const bodySmall = 16 << 10

// bodyUnit is how many bytes of a request in JSON are as much work as another call.
const bodyUnit = 16 << 10

// longAnswer is how many bytes a long answer holds at most while it is sent in pieces: one
// piece, and what compresses it.
const longAnswer = 1 << 20

// call is a call that was let in, until it ends.
type call struct {
	gate   *Gate
	conn   *conn // nil if it did not come through one of the gate's
	client Client
	kind   Kind
	begun  atomic.Bool // of gRPC: it will tell of its end
	place  *place      // movable while the call waits for its client

	// Owned by the goroutine that answers:
	turn      turn            // while it computes
	elsewhere bool            // it has no more of these, but for long work
	work      context.Context // of long work; nil for none
	since     time.Time       // when its turn began
	spent     time.Duration   // in those that have ended
	counts    int             // units of work that were taken for the call

	mu      sync.Mutex
	ended   bool                     // mu
	stopped bool                     // mu; others wait for its place
	cancel  context.CancelCauseFunc  // mu
	answer  *http.ResponseController // mu; nil for gRPC
	arrival *time.Timer              // mu; ends a gRPC call whose message does not come; nil when it has
	in      int                      // mu; bytes of its request
	counted int                      // mu; those of them that are out of the budget
	long    []func()                 // mu; what ends with it
}

// let lets a call in, which must be ended, or refuses it.
func (g *Gate) let(on *conn, client Client, kind Kind) (*call, *Refusal) {
	c := &call{gate: g, conn: on, client: client, kind: kind, counts: 1}
	if refusal := g.work.take(client, 1); refusal != nil {
		return nil, refusal
	}
	if on != nil && !on.begin() {
		return nil, refused(g.connections.name, false, 0)
	}
	places := g.requests
	if kind == Stream {
		places = g.streams
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var refusal *Refusal
	if c.place, refusal = places.enter(client, func() { c.stop(refused(places.name, false, 0)) }); refusal != nil {
		if on != nil {
			on.end(false)
		}
		return nil, refusal
	}
	return c, nil
}

// stop ends a call whose client is too slow.
func (c *call) stop(why *Refusal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.stopped = true
	if c.cancel != nil {
		c.cancel(why)
	}
	if c.answer != nil {
		// A writer that waits for the client is told so. It fails if the connection is gone.
		deadline := time.Now()
		if c.kind == Stream {
			deadline = deadline.Add(partingTime)
		}
		c.answer.SetReadDeadline(deadline)
		c.answer.SetWriteDeadline(deadline)
	}
}

// end gives back all that the call has. reset tells whether the client did not wait for it.
func (c *call) end(reset bool) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.ended = true
	waiting, stopped := c.arrival != nil, c.stopped
	if waiting {
		c.arrival.Stop()
	}
	long, cancel := c.long, c.cancel
	c.gate.in.give(c.client, c.counted)
	c.mu.Unlock()

	for _, end := range long {
		end()
	}
	c.place.leave()
	if cancel != nil {
		cancel(nil)
	}
	if c.conn != nil {
		if waiting {
			c.conn.arrived(0)
		}
		c.conn.end(!reset && !stopped)
	}
}

// received counts n bytes of the request, and the work of reading them.
func (c *call) received(n int) *Refusal {
	c.mu.Lock()
	defer c.mu.Unlock()
	if units := (c.in+n)/bodyUnit - c.in/bodyUnit; units > 0 {
		if refusal := c.gate.work.take(c.client, units); refusal != nil {
			return refusal
		}
	}
	more := max(0, c.in+n-bodySmall) - c.counted
	if refusal := c.gate.in.take(c.client, more); refusal != nil {
		return refusal
	}
	c.in, c.counted = c.in+n, c.counted+more
	return nil
}

// Keep counts n bytes that are held for a request until its call ends, in place of the request
// itself, which has been read: as bytes received.
func Keep(ctx context.Context, n int) error {
	c := callOf(ctx)
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return nil
	}
	if refusal := c.gate.in.take(c.client, n-c.counted); refusal != nil {
		return refusal
	}
	c.gate.in.give(c.client, max(0, c.counted-n))
	c.counted = n
	return nil
}

// Work takes units of work out of the budget of whoever asks. A unit is what a call is; more
// units at once than there ever are count as all that there are. In a context of no call that
// a Gate let in, there is no budget.
func Work(ctx context.Context, units int) error {
	c := callOf(ctx)
	if c == nil || units <= 0 {
		return nil
	}
	if refusal := c.gate.work.take(c.client, units); refusal != nil {
		return refusal
	}
	c.counts += units
	return nil
}

// Long says that the answer is long, before it is begun: it has one of the places for such
// until the call ends. Whoever is slow to take it loses the place to others: the call's
// context is cancelled then, and what it writes fails. Long takes a Turn.
func Long(ctx context.Context) error {
	c := callOf(ctx)
	if c == nil {
		return nil
	}
	inPieces := c.onHTTP()
	if inPieces {
		if refusal := c.gate.out.take(c.client, longAnswer); refusal != nil {
			return refusal
		}
	}
	end := func() {
		if inPieces {
			c.gate.out.give(c.client, longAnswer)
		}
	}
	places := c.gate.long
	place, refusal := places.enter(c.client, func() { c.stop(refused(places.name, false, 0)) })
	if refusal != nil {
		end()
		return refusal
	}
	c.mu.Lock()
	c.long = append(c.long, place.leave, end)
	c.mu.Unlock()
	return Turn(ctx)
}

// onHTTP reports whether the answer is sent in pieces: gRPC sends whole messages, and counts
// each.
func (c *call) onHTTP() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answer != nil
}

// Wait says that the call waits for what it wants to come, and no work is done for it, until the function that it returns is called:
// meanwhile its place may go to others, and its context ends with a Refusal as the cause. It is called by the goroutine
// that answers. In a context of no call that a Gate let in, it does nothing.
func Wait(ctx context.Context) (ended func()) {
	c := callOf(ctx)
	if c == nil {
		return func() {}
	}
	c.rest()
	if !c.place.free() { // that of a stream, or of a request that has not arrived, is movable anyway
		return func() {}
	}
	return func() { c.place.keep() }
}

// Making counts what is held of an answer that is made as a whole.
type Making struct {
	call *call
	size int
}

// Make returns a Making for the call of a context. Its user releases it.
func Make(ctx context.Context) *Making { return &Making{call: callOf(ctx)} }

// Grow counts n bytes more, or refuses them.
func (m *Making) Grow(n int) error {
	if m.call == nil {
		return nil
	}
	if refusal := m.call.gate.out.take(m.call.client, n); refusal != nil {
		return refusal
	}
	m.size += n
	return nil
}

// Release gives all of it back: the answer is on its way, which is counted where it is sent.
func (m *Making) Release() {
	if m.call != nil {
		m.call.gate.out.give(m.call.client, m.size)
		m.size = 0
	}
}
