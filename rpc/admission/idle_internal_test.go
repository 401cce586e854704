package admission

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestIdleConnections has connections without a call, and with one, and looks when they are closed.
func TestIdleConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Config{Limits: DefaultLimits()})
		connect := func() *conn {
			server, other := net.Pipe()
			t.Cleanup(func() { other.Close() })
			c, refusal := g.connect(dialled{server, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}})
			if refusal != nil {
				t.Fatal(refusal)
			}
			return c
		}
		idle, answered, asking := connect(), connect(), connect()
		time.Sleep(mostIdle / 2)
		for _, c := range []*conn{answered, asking} {
			if !c.begin() {
				t.Fatal("no call can begin")
			}
		}
		answered.end(true)
		expect := func(when string, closed ...bool) {
			t.Helper()
			synctest.Wait()
			for i, c := range []*conn{idle, answered, asking} {
				if c.isClosed() != closed[i] {
					t.Errorf("%s, of the idle one, the answered one and the asking one the %d-th is closed: %t", when, i, c.isClosed())
				}
			}
		}
		expect("before", false, false, false)
		time.Sleep(mostIdle / 2)
		expect("when the first was idle for long", true, false, false)
		time.Sleep(mostIdle / 2)
		expect("when the second was as well", true, true, false)
		time.Sleep(10 * mostIdle)
		expect("long after", true, true, false)
		asking.end(true)
		time.Sleep(mostIdle)
		time.Sleep(mostIdle)
		expect("at the end", true, true, true)
		if u := g.Usage(); u.Connections != 0 {
			t.Errorf("still in use: %+v", u)
		}
	})
}
