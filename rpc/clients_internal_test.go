package rpc

import (
	"fmt"
	"net"
	"testing"

	"golang.org/x/time/rate"
)

func TestClientOf(t *testing.T) {
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1:1", "192.0.2.1:2", true},
		{"192.0.2.1:1", "192.0.2.2:1", false},
		{"192.0.2.1:1", "[::ffff:192.0.2.1]:1", true},
		{"[2001:db8::1]:1", "[2001:db8::2]:1", true},
		{"[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false},
		{"@", "", true},
	} {
		if got := clientOf(test.a) == clientOf(test.b); got != test.same {
			t.Errorf("%s and %s are one client: %v", test.a, test.b, got)
		}
	}
}

// TestCallLimitsForget sees more clients than are remembered.
func TestCallLimitsForget(t *testing.T) {
	l := newCallLimits(ClientLimits{CallRate: 1})
	l.every = rate.Limit(1e-9) // nothing comes back during the test
	address := func(n int) string { return fmt.Sprintf("10.%d.%d.%d:1", n>>16, n>>8&255, n&255) }
	const busy = "192.0.2.1:1"
	for n := range 3 * maxKnown {
		if !l.allow(address(n)) {
			t.Fatalf("the first call of client %d was refused", n)
		}
		if n%(maxKnown/2) == 0 && n < 10*maxKnown/2 && !l.allow(busy) {
			t.Fatalf("call %d of the busy client was refused", n)
		}
		if len(l.young)+len(l.old) > 2*maxKnown {
			t.Fatalf("%d clients are remembered", len(l.young)+len(l.old))
		}
	}
	for range l.burst {
		l.allow(busy)
	}
	if l.allow(busy) {
		t.Error("who calls all the time was forgotten")
	}
}

func TestLocalClients(t *testing.T) {
	for _, local := range []bool{false, true} {
		l := newCallLimits(ClientLimits{CallRate: 1, Local: local})
		for range l.burst {
			l.allow("127.0.0.1:1")
			l.allow("[::1]:1")
		}
		if l.allow("127.0.0.1:1") == local || l.allow("[::1]:1") == local {
			t.Errorf("limits on the loopback interface: %v, asked for %v", !local, local)
		}
	}
}

func TestNoCallLimits(t *testing.T) {
	l := newCallLimits(ClientLimits{Local: true})
	for n := range 100_000 {
		if !l.allow("192.0.2.1:1") {
			t.Fatalf("call %d was refused", n)
		}
	}
}

// TestLimitedListener fills a listener as a whole.
func TestLimitedListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := limitConnections(inner, ClientLimits{CallRate: 1})
	l.most = 2
	defer l.Close()
	accepted := make(chan net.Conn)
	go func() {
		defer close(accepted)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	dial()
	first := <-accepted
	dial()
	second := <-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("a third connection is open")
	}
	first.Close()
	first.Close() // counts once
	dial()
	third := <-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("two connections were closed by one")
	}
	second.Close()
	third.Close()
	if l.open != 0 || len(l.of) != 0 {
		t.Errorf("%d connections open, of %v", l.open, l.of)
	}
	l.Close()
	for range accepted {
	}
}
