package rpc

import (
	"net"
	"net/netip"
	"sync"

	"golang.org/x/time/rate"
)

// client is where calls and connections come from, as far as they are limited: an
// IPv4 address, or the /64 of an IPv6 address, which is what one subscriber has.
type client = netip.Prefix

// clientOf returns the client at a remote address, HOST:PORT. All whose address
// cannot be read are one.
func clientOf(remote string) client {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return client{}
	}
	address := at.Addr().Unmap()
	bits := 64
	if address.Is4() || address.IsLoopback() {
		bits = address.BitLen()
	}
	prefix, _ := address.Prefix(bits) // never too long
	return prefix
}

// ClientLimits are the limits on single clients of a keyserver. A client is an IPv4
// address or the /64 of an IPv6 address.
type ClientLimits struct {
	// CallRate is how many calls per second a client may make on average; it may make
	// ten seconds' worth at once. A batch counts as many as it has calls. 0 means that
	// clients are not told apart, neither in their calls nor in their connections.
	CallRate int
	// Local has them apply on the loopback interface, too. Whoever comes from there is
	// the machine's own, or a proxy that stands for everybody.
	Local bool
}

// maxKnown is how many clients are remembered at least and, twice, at most.
const maxKnown = 1 << 15

// callLimits bounds how fast each client may make calls. It remembers the clients
// that called last, in two generations: so that its memory is bounded, it forgets
// an old one as a whole. Whoever has more addresses than that is not held up.
type callLimits struct {
	every rate.Limit // calls per second; rate.Inf for no limits
	burst int
	local bool // whether those on the loopback interface are limited

	mu         sync.Mutex
	young, old map[client]*rate.Limiter // mu
}

// newCallLimits allows each client so many calls per second, and ten seconds' worth
// at once.
func newCallLimits(c ClientLimits) *callLimits {
	if c.CallRate == 0 {
		return &callLimits{every: rate.Inf}
	}
	return &callLimits{every: rate.Limit(c.CallRate), burst: 10 * c.CallRate, local: c.Local, young: make(map[client]*rate.Limiter)}
}

// allow takes one call out of a client's allowance.
func (l *callLimits) allow(remote string) bool {
	if l.every == rate.Inf {
		return true
	}
	from := clientOf(remote)
	if from.Addr().IsLoopback() && !l.local {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	limiter := l.young[from]
	if limiter == nil {
		if len(l.young) == maxKnown {
			l.young, l.old = make(map[client]*rate.Limiter), l.young
		}
		if limiter = l.old[from]; limiter == nil {
			limiter = rate.NewLimiter(l.every, l.burst)
		}
		l.young[from] = limiter
	}
	return limiter.Allow()
}

// sendWindow is how much the system may hold of what is sent to one client, in
// bytes. Left to itself it may take megabytes, and wakes the sender only when a third
// has been taken: a slow client would seem to take nothing.
const sendWindow = 512 << 10

// limitedListener bounds how many connections are open, and how many of one
// client. One too many is closed at once.
type limitedListener struct {
	net.Listener
	most, mostOfOne int
	local           bool // whether mostOfOne holds on the loopback interface

	mu   sync.Mutex
	open int            // mu
	of   map[client]int // mu; clients with connections
}

func limitConnections(l net.Listener, c ClientLimits) *limitedListener {
	limited := &limitedListener{Listener: l, most: maxConnections, mostOfOne: maxOfClient, local: c.Local, of: make(map[client]int)}
	if c.CallRate == 0 {
		limited.mostOfOne = maxConnections
	}
	return limited
}

// Accept implements net.Listener.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := clientOf(conn.RemoteAddr().String())
		if l.enter(from) {
			if tcp, ok := conn.(*net.TCPConn); ok {
				tcp.SetWriteBuffer(sendWindow) // without, it only works less well
			}
			return &limitedConn{Conn: conn, leave: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		conn.Close() // there is nobody to tell about an error
	}
}

func (l *limitedListener) enter(from client) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	limited := l.local || !from.Addr().IsLoopback()
	if l.open == l.most || limited && l.of[from] == l.mostOfOne {
		return false
	}
	l.open++
	l.of[from]++
	return true
}

func (l *limitedListener) leave(from client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.of[from]--; l.of[from] == 0 {
		delete(l.of, from)
	}
}

// limitedConn is a connection that counts until it is closed.
type limitedConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
