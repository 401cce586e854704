package admission

import (
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// arrivals is a listener that accepts what is sent to it.
type arrivals struct {
	net.Listener
	come   chan net.Conn
	closed chan struct{}
}

func newArrivals() *arrivals {
	return &arrivals{come: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (a *arrivals) Accept() (net.Conn, error) {
	select {
	case c := <-a.come:
		return c, nil
	case <-a.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (a *arrivals) Close() error {
	close(a.closed)
	return nil
}

// from has somebody connect, and returns his side.
func (a *arrivals) from(n int) net.Conn {
	ours, theirs := net.Pipe()
	a.come <- dialled{ours, &net.TCPAddr{IP: net.ParseIP(fmt.Sprintf("192.0.2.%d", n)), Port: 1}}
	return theirs
}

// isClosed reports whether the other side has closed a connection.
func isClosed(c net.Conn) bool {
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	return err == io.EOF
}

// crowdedGate is one that lets many connect, but nobody have a turn until they are given back.
func crowdedGate(t *testing.T, limits Limits, held int) (g *Gate, giveBack func()) {
	t.Helper()
	g = New(Config{Limits: limits, Held: held})
	g.turns = newTurns(1, 0)
	operator := client(100)
	operator.standing = unlimited
	has, err := g.turns.take(t.Context(), operator)
	if err != nil {
		t.Fatal(err)
	}
	return g, func() { g.turns.give(has) }
}

// TestArrivalsAreFair has one client connect many times before another one, who comes second nevertheless, and one who has asked for
// something before, who comes first.
func TestArrivalsAreFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, giveBack := crowdedGate(t, DefaultLimits(), 0)
		g.turns.had(g.peer(addressOf(&net.TCPAddr{IP: net.ParseIP("192.0.2.3")})), time.Microsecond)
		time.Sleep(time.Second)
		inner := newArrivals()
		l := g.Listen(inner, nil)
		defer l.Close()
		const many = 30
		for n := range many + 2 {
			from := 1
			if n >= many {
				from = n - many + 2 // 2, then 3
			}
			defer inner.from(from).Close()
			synctest.Wait()
		}
		giveBack()
		var order []string
		for range many + 2 {
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			order = append(order, c.RemoteAddr().(remote).Addr.(*net.TCPAddr).IP.String())
		}
		want := append([]string{"192.0.2.3", "192.0.2.1", "192.0.2.2"}, slices.Repeat([]string{"192.0.2.1"}, many-1)...)
		if !slices.Equal(order, want) {
			t.Errorf("they came in the order %v, expected %v", order, want)
		}
		if n := g.turns.inUse(); n != 0 {
			t.Errorf("%d turns are taken", n)
		}
	})
}

// TestListenerCloses closes a listener while connections wait for their turn, or have it and were not accepted.
func TestListenerCloses(t *testing.T) {
	for _, granted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g, giveBack := crowdedGate(t, DefaultLimits(), 0)
			inner := newArrivals()
			l := g.Listen(inner, nil)
			var theirs []net.Conn
			for n := range 5 {
				theirs = append(theirs, inner.from(n+1))
				synctest.Wait()
			}
			if granted {
				giveBack()
			}
			l.Close()
			if _, err := l.Accept(); err != net.ErrClosed {
				t.Errorf("accepting afterwards: %v", err)
			}
			for n, c := range theirs {
				if !isClosed(c) {
					t.Errorf("granted %t: connection %d is open", granted, n)
				}
			}
			if !granted {
				giveBack()
			}
			if n := g.turns.inUse(); n != 0 || len(g.turns.lines) != 0 {
				t.Errorf("granted %t: %d turns are taken, %d clients wait", granted, n, len(g.turns.lines))
			}
			if n := len(g.waiting); n != 0 {
				t.Errorf("granted %t: %d connections count as waiting", granted, n)
			}
			if u := g.Usage(); u.Connections != 0 {
				t.Errorf("granted %t: %d connections have places", granted, u.Connections)
			}
		})
	}
}

// TestArrivalsOfOne has a client connect more often than it may be connected, while nobody has a turn.
func TestArrivalsOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := DefaultLimits()
		limits.Connections.One = 3
		g, giveBack := crowdedGate(t, limits, 0)
		inner := newArrivals()
		l := g.Listen(inner, nil)
		defer l.Close()
		for n := range 5 {
			c := inner.from(1)
			defer c.Close()
			synctest.Wait()
			if isClosed(c) != (n >= 3) {
				t.Errorf("connection %d: closed %t", n, n < 3)
			}
		}
		other := inner.from(2)
		defer other.Close()
		synctest.Wait()
		if isClosed(other) {
			t.Error("another client's is closed")
		}
		giveBack()
		for range 4 {
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
		}
		if len(l.(*listener).of) != 0 {
			t.Errorf("still counted: %v", l.(*listener).of)
		}
	})
}

// TestListenerBounds has more connect than may wait: the system keeps those.
func TestListenerBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, giveBack := crowdedGate(t, DefaultLimits(), 0)
		inner := newArrivals()
		l := g.Listen(inner, nil)
		defer l.Close()
		for n := range mostWaiting(0) {
			defer inner.from(1 + n%50).Close()
		}
		synctest.Wait()
		ours, theirs := net.Pipe()
		defer theirs.Close()
		select {
		case inner.come <- dialled{ours, &net.TCPAddr{IP: net.ParseIP("192.0.2.2"), Port: 1}}:
			t.Error("one more was accepted")
		default:
		}
		giveBack()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		inner.come <- dialled{ours, &net.TCPAddr{IP: net.ParseIP("192.0.2.2"), Port: 1}}
	})
}

// TestHeld has a client come again and again that has used up his budget, while the server is busy: his connections are kept open
// for a while, as many as may be.
func TestHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := DefaultLimits()
		limits.Work = Budget{1000, 1}
		g := New(Config{Limits: limits, Held: 6})
		g.turns.busy.Store(time.Now().Add(time.Hour).UnixNano())
		inner := newArrivals()
		l := g.Listen(inner, nil)
		defer l.Close()
		var theirs []net.Conn
		for range 10 { // five may connect at once
			theirs = append(theirs, inner.from(1))
			synctest.Wait()
		}
		open := 0
		for _, c := range theirs[5:] {
			if !isClosed(c) {
				open++
			}
		}
		if open != 3 {
			t.Errorf("%d of 5 are open that were refused, expected 3", open)
		}
		time.Sleep(2 * partingTime)
		for n, c := range theirs[5:] {
			if !isClosed(c) {
				t.Errorf("connection %d is open still", n)
			}
		}
		if n := g.held.Load(); n != 0 {
			t.Errorf("%d are counted still", n)
		}
	})
}

// TestGreeted reads a greeting, however it is asked for, with one read, and then what comes.
func TestGreeted(t *testing.T) {
	for _, size := range []int{1, 7, mostGreeting - 1, mostGreeting, mostGreeting + 1, 3 * mostGreeting} {
		sent := make([]byte, size)
		for i := range sent {
			sent[i] = byte(i * 7)
		}
		ours, theirs := net.Pipe()
		go func() {
			theirs.Write(sent)
			theirs.Close()
		}()
		if err := iotest.TestReader(&greeted{Conn: ours}, sent); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		ours.Close()
	}
}
