// Package admission decides what a server takes on: whose connections, requests and work,
// how many bytes of them, and for how long. One Gate stands in front of all that a server
// listens on, so that what is full for one wire is full for the others.
//
// A client is an IPv4 address or the /64 of an IPv6 address, behind the proxies that are
// trusted. Each budget has a size for all clients together and one for a single client. A
// client that comes when a budget is full takes a place of the client that has most, if that
// place only waits for its client: an idle connection, a request that does not arrive, an
// answer that is not taken. Else it is refused, and told when to come back. So nobody keeps
// others out by being there first.
//
// What is computed for clients takes turns, from the first byte of a connection on: budgets keep a server from more than
// it can do in the long run, turns have it do first what is for those who have had little of it, when everybody wants something
// at once.
//
// An attacker with many addresses can fill every budget, so that others are refused or put
// off in turn with him. A network that has a whole /48 of IPv6 counts for its rate as sixteen
// clients. Memory stays within the sum of the budgets. Clients with neither a connection nor a
// request are remembered for their rate only, in a table of a bounded size that forgets those
// that came first. An attacker with more addresses than the table gets the burst of each
// forgotten one again.
//
// What never belongs here: what a request is about, and how an answer looks on a wire.
package admission

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/mem"
)

// Budget is how much of something there may be at once, or in a second.
type Budget struct {
	All int // of all clients together
	One int // of one client
}

// Limits are the sizes of all budgets. None of them is a promise of the API.
type Limits struct {
	// Connections is how many are open. One without a request is closed for a new one, so
	// there have to be more than Requests and Streams together.
	Connections Budget
	// Requests is how many are being received or answered, long-lived streams apart.
	Requests Budget
	// Streams is how many calls are open that have no end of their own, as gRPC's Watch.
	Streams Budget
	// Long is how many long answers are made or sent: bundles, batches, whole hashchains.
	Long Budget
	// BytesIn is how many bytes have arrived of requests that are not answered.
	BytesIn Budget
	// BytesOut is how many bytes are held of answers that were not taken yet.
	BytesOut Budget
	// Work is how many units may be asked for in a second, and ten times that at once.
	// A call is one unit, some 50 µs of a processor; what is long counts as more.
	Work Budget
	// Arrive is how long a request may take to arrive whole.
	Arrive time.Duration
	// Take is how long a client may take to accept each piece of an answer.
	Take time.Duration
	// Patience is how long anything may take while others wait for its place.
	Patience time.Duration
}

// DefaultLimits returns limits for a server that anybody reaches, with 512 MiB of memory.
func DefaultLimits() Limits {
	return Limits{
		Connections: Budget{2048, 128},
		Requests:    Budget{512, 64},
		Streams:     Budget{512, 32},
		Long:        Budget{32, 8},
		BytesIn:     Budget{64 << 20, 16 << 20},
		BytesOut:    Budget{64 << 20, 32 << 20},
		Work:        Budget{20_000, 1000},
		Arrive:      10 * time.Second,
		Take:        30 * time.Second,
		Patience:    10 * time.Second,
	}
}

// What holds for single calls on every wire. None of it is a promise of the API.
const (
	// MaxRequest is how many bytes a request may have: a gRPC message, or the body of a
	// request over HTTP. 10,000 addresses need about a quarter of it.
	MaxRequest = 2 << 20
	// RequestTimeout ends a call other than a Watch, and the sending of a REST answer.
	RequestTimeout = 60 * time.Second
	// Piece is how many bytes of a long answer are made and sent at once.
	Piece = 64 << 10
)

// These are not settings: they follow from what a connection and an answer are.
const (
	// small is how many bytes a connection may hold in each direction that count for
	// nothing: connections are counted. Who sends and takes little is never refused for
	// the bytes of others.
	small = 16 << 10
	// window is how many bytes of a request's body HTTP/2 has a client send before the
	// first were read.
	window = 64 << 10
	// slowest is the rate in bytes per second below which nobody may take an answer that
	// is held as a whole.
	slowest = 256 << 10
	// sendWindow is how much the system may hold of what is sent to one connection, in
	// bytes. Left to itself it may take megabytes, and wakes the sender only when a third
	// has been taken: a slow client would seem to take nothing.
	sendWindow = 512 << 10
	// receiveWindow is about how many bytes of a connection the system keeps that were not read yet. What a client has sent before it
	// went is read and paid for nevertheless, small requests by thousands.
	receiveWindow = 128 << 10
	// mostRefused is how many more calls are refused on a connection than are answered before it is
	// closed: refusing costs something, too. mostRefusedFramed is the same over HTTP/2, where many come at once; over HTTP/1 each waits
	// until the one before was told, and for so long nobody sees that their client has gone.
	mostRefused, mostRefusedFramed = 20, 100
	// mostTelling is how many calls over HTTP/2 are being told that they are refused, before connections with several of them are closed.
	mostTelling = 1024
	// mostIdle is how long a connection is kept without a call.
	mostIdle = 2 * time.Minute
	// holdRefused is for how long the first refusal is held back, and nothing else of its connection read, and each further one twice
	// as long as the one before, up to mostHoldRefused; a call that is answered goes one step back. Who asks on without heeding what he
	// is told would keep a processor busy, and have others wait behind him.
	holdRefused, mostHoldRefused = 5 * time.Millisecond, time.Second
	// mostReset is how many calls a client may take back on a connection before
	// they were answered until it is closed, less forgiven for each that it waits for: beginning calls costs the client almost nothing.
	mostReset, forgiven = 100, 10
)

// Config is what a Gate works with.
type Config struct {
	Limits Limits
	// Proxies are trusted to name the clients that they ask for.
	Proxies []netip.Prefix
	// Unlimited are clients that no budget refuses anything, as the operator's own. What
	// they have counts all the same, and times hold for them as for others.
	Unlimited []netip.Prefix
	// Held is how many connections are kept open for a while after they were refused, at most, beside Limits.Connections: who
	// comes again at once keeps others waiting. MostHeld are enough.
	Held int
}

// Loopback returns the addresses of the machine itself.
func Loopback() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// Gate is one admission layer, for any number of listeners. It is safe for concurrent use.
// It has no goroutines of its own, but for one of each listener, until that is closed.
type Gate struct {
	limits    Limits // of which the times hold; Resize changes the budgets
	proxies   []netip.Prefix
	unlimited []netip.Prefix
	mostHeld  int

	connections, requests, streams, long *places
	in, out                              *bytes
	work                                 *work
	buffers                              mem.BufferPool // for gRPC's messages
	waiting                              chan struct{}  // holds one element for each connection that waits for its first turn, and for each listener that accepts
	held                                 atomic.Int64   // refused connections that are not closed yet
	telling                              atomic.Int64   // calls over HTTP/2 that are being told that they are refused
	turns                                *turns         // of all that is computed for clients

	mu       sync.Mutex
	open     map[*conn]struct{} // mu
	relieved time.Time          // mu; when relieve last looked
}

// New returns a gate.
func New(c Config) *Gate {
	l := c.Limits
	turns := turnsOfProcessors()
	return &Gate{
		limits: l, proxies: c.Proxies, unlimited: c.Unlimited, mostHeld: c.Held,
		connections: newPlaces("connections", l.Connections, 0, min(mostSettle, l.Patience), fewConnections(l)),
		requests:    newPlaces("requests", l.Requests, l.Patience, 0, 1),
		streams:     newPlaces("streams", l.Streams, l.Patience, 0, 1),
		long:        newPlaces("long answers", l.Long, l.Patience, 0, 1),
		in:          newBytes("bytes received", l.BytesIn, l.Patience),
		out:         newBytes("bytes not taken", l.BytesOut, l.Patience),
		work:        newWork(l.Work, turns.isBusy, func() int { return int(turns.crowd.Load()) }),
		buffers:     newBuffers(),
		waiting:     make(chan struct{}, mostWaiting(c.Held)),
		turns:       turns,
		open:        make(map[*conn]struct{}),
	}
}

// fewConnections is up to how many connections clients are alike, but for who came first.
func fewConnections(l Limits) int { return max(1, l.Connections.One/8) }

// Resize gives the budgets the sizes of other limits, whose times are left alone. What is
// above a new size stays until it ends, and nothing more is let in meanwhile.
func (g *Gate) Resize(l Limits) {
	g.connections.resize(l.Connections, fewConnections(l))
	g.requests.resize(l.Requests, 1)
	g.streams.resize(l.Streams, 1)
	g.long.resize(l.Long, 1)
	g.in.resize(l.BytesIn)
	g.out.resize(l.BytesOut)
	g.work.resize(l.Work)
}

// Refused returns how often each budget had no room, by its name in a Refusal.
func (g *Gate) Refused() map[string]uint64 {
	counts := make(map[string]uint64)
	for _, r := range []*refusals{
		&g.connections.refusals, &g.requests.refusals, &g.streams.refusals, &g.long.refusals,
		&g.in.refusals, &g.out.refusals, &g.work.one.refusals,
	} {
		counts[r.name] = r.count.Load()
	}
	return counts
}

// DroppedStreams returns how many streams were ended because their client was slow and others
// waited for their places.
func (g *Gate) DroppedStreams() uint64 { return g.streams.vacated.Load() }

// Usage is what is in use of each budget, and how many clients there are to it.
type Usage struct {
	Connections, Requests, Streams, Long int
	BytesIn, BytesOut                    int
	Remembered                           int // clients, for their rate
}

// Usage returns what is in use.
func (g *Gate) Usage() Usage {
	return Usage{
		Connections: g.connections.inUse(), Requests: g.requests.inUse(), Streams: g.streams.inUse(), Long: g.long.inUse(),
		BytesIn: g.in.inUse(), BytesOut: g.out.inUse(), Remembered: g.work.one.remembered(),
	}
}
