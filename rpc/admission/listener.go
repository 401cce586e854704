package admission

import (
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"time"
)

// Listen returns a listener that accepts what the budget of connections has room for.
// farewell, if not nil, is what a connection that is refused is sent before it is closed.
//
// What the system has accepted waits for a turn of its client, as all that is computed: of thousands who come at once, those who ask for little
// come first.
func (g *Gate) Listen(inner net.Listener, farewell func(*Refusal) []byte) net.Listener {
	l := &listener{
		Listener: inner, gate: g, farewell: farewell, parting: make(chan struct{}, mostParting),
		granted: make(chan *arrival, cap(g.waiting)),
		failed:  make(chan error), closing: make(chan struct{}), ended: make(chan struct{}),
		held: make(map[net.Conn]*time.Timer), waiting: make(map[*arrival]struct{}), of: make(map[Client]int),
	}
	go l.run()
	return l
}

// A connection that is refused is closed when it has read why, or after partingTime. If
// there are more at once, or its client is not quiet, it is closed without a word: then after
// partingTime on average, and later if more than closedPerSecond are waiting for that.
const (
	mostParting     = 64
	partingTime     = time.Second
	closedPerSecond = 1024
)

// MostHeld is how many connections it is worth to have open that have no place: half of them are refused, and others wait for
// their turn. Each takes a file, and about a kilobyte.
const MostHeld = 16 << 10

// mostWaiting is how many connections wait for a turn, if so many are held: some in any case. While there are so many, nothing more is accepted.
func mostWaiting(held int) int { return 64 + held/2 }

// listener hands on what it has accepted. Its goroutine run ends with Close.
type listener struct {
	net.Listener
	gate     *Gate
	farewell func(*Refusal) []byte
	parting  chan struct{} // holds one element for each connection that is being told
	granted  chan *arrival // those that have one; has room for all
	failed   chan error    // what accepting ended with
	closing  chan struct{} // closed by Close
	ended    chan struct{} // closed when run has ended

	mu      sync.Mutex
	held    map[net.Conn]*time.Timer // mu; connections that are refused and not closed yet; nil when the listener is closed
	waiting map[*arrival]struct{}    // mu; those that wait for a turn, or have one and were not handed on yet
	of      map[Client]int           // mu; how many of these a client has
}

// arrival is a connection that waits for the turn that it begins with.
type arrival struct {
	net.Conn
	waits waiter
	has   turn // set before it is granted
}

// acceptsAtOnce is how many connections are accepted before those that are there already go on: Go looks at the network, which says what
// these have received, when nobody has anything to do.
const (
	acceptsAtOnce = 32
	acceptPause   = 50 * time.Microsecond
)

// run accepts connections, which wait for their turns, until the listener is closed.
func (l *listener) run() {
	defer close(l.ended)
	for n := 1; ; n++ {
		select {
		case l.gate.waiting <- struct{}{}:
		case <-l.closing:
			return
		}
		accepted, err := l.Listener.Accept()
		if err == nil {
			l.arrive(accepted)
		} else {
			<-l.gate.waiting
			select {
			case l.failed <- explained(err):
			case <-l.closing:
				return
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
		}
		if n%acceptsAtOnce == 0 {
			time.Sleep(acceptPause)
		}
	}
}

// arrive has a connection wait for its turn, unless it is refused. It has room among gate.waiting, which it gives back then.
func (l *listener) arrive(accepted net.Conn) {
	client := l.gate.peer(addressOf(accepted.RemoteAddr()))
	if client.Single() { // a proxy stands for many
		// Who has used up his budget is told on the connection, while there is time for that.
		if refusal := l.gate.work.take(client, connectWork); refusal != nil && l.gate.turns.isBusy() {
			<-l.gate.waiting
			l.gate.turns.forfeit(client)
			l.part(accepted, client, refusal)
			return
		}
	}
	a := &arrival{Conn: accepted}
	a.waits = waiter{client: client, granted: func(has turn) { a.has = has; l.granted <- a }}
	if l.enter(a) {
		return
	}
	<-l.gate.waiting
	l.part(accepted, client, l.gate.connections.refuse(true, time.Second))
}

// enter has an arrival wait, unless the listener is closed, or its client has as many waiting as it may have connected.
func (l *listener) enter(a *arrival) bool {
	client := a.waits.client
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting == nil || client.bounded() && client.Single() && l.of[client] >= l.gate.connections.most().One {
		return false
	}
	l.waiting[a] = struct{}{}
	l.of[client]++
	l.gate.turns.want(&a.waits) // before Close might withdraw it
	return true
}

// leave takes an arrival off those that wait, and reports whether Close has not done so.
func (l *listener) leave(a *arrival) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, waits := l.waiting[a]; !waits {
		return false
	}
	delete(l.waiting, a)
	if l.of[a.waits.client]--; l.of[a.waits.client] == 0 {
		delete(l.of, a.waits.client)
	}
	return true
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		select {
		case a := <-l.granted:
			if !l.leave(a) {
				continue // Close has closed it
			}
			<-l.gate.waiting
			runtime.Gosched() // as in turns.take
			l.gate.turns.begin(a.has)
			c, refusal := l.gate.connect(a.Conn)
			l.gate.turns.give(a.has)
			if refusal == nil {
				return c, nil
			}
			l.part(a.Conn, a.waits.client, refusal)
		case err := <-l.failed:
			return nil, err
		case <-l.closing:
			return nil, net.ErrClosed
		}
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.mu.Lock()
	first := l.held != nil
	for c, timer := range l.held {
		if timer.Stop() {
			c.Close()
			l.gate.held.Add(-1)
		}
	}
	waiting := l.waiting
	l.held, l.waiting = nil, nil
	l.mu.Unlock()
	err := l.Listener.Close()
	if first {
		close(l.closing)
		for a := range waiting {
			if !l.gate.turns.withdraw(&a.waits) {
				l.gate.turns.give(a.has)
			}
			a.Close()
			<-l.gate.waiting
		}
	}
	<-l.ended
	return err
}

func (l *listener) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting == nil
}

// hold closes a connection some time later: who comes again at once, whenever he is refused, comes less often, and those who came
// together come again one by one.
func (l *listener) hold(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		c.Close()
		return
	}
	n := l.gate.held.Add(1)
	if n > int64(l.gate.mostHeld/2) {
		l.gate.held.Add(-1)
		c.Close()
		return
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetReadBuffer(1) // as little as the system has: nobody reads it; without, it only works less well
	}
	l.held[c] = time.AfterFunc(about(partingTime*time.Duration(1+n/closedPerSecond)), func() {
		c.Close()
		l.gate.held.Add(-1)
		l.mu.Lock()
		delete(l.held, c)
		l.mu.Unlock()
	})
}

// part tells why a connection is closed. To be read, it takes what the client has sent: a
// system drops what was not read yet by the other side if something is left unread on this one.
func (l *listener) part(c net.Conn, client Client, why *Refusal) {
	if !l.gate.work.isQuiet(client, connectWork) {
		l.hold(c)
		return
	}
	if l.farewell == nil || l.isClosed() {
		c.Close() // there is nobody to tell about an error, here and below
		return
	}
	select {
	case l.parting <- struct{}{}:
	default:
		c.Close()
		return
	}
	go func() {
		defer func() { <-l.parting }()
		defer c.Close()
		c.SetDeadline(time.Now().Add(partingTime))
		if _, err := c.Write(l.farewell(why)); err != nil {
			return
		}
		if half, ok := c.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
		io.CopyN(io.Discard, c, maxHeader)
	}()
}
