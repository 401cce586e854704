package admission

import (
	"net/netip"
	"testing"
	"time"
)

// TestResize makes every budget larger and smaller while it is in use.
func TestResize(t *testing.T) {
	l := DefaultLimits()
	l.Connections, l.Requests, l.Streams, l.Long = Budget{40, 1}, Budget{40, 1}, Budget{40, 1}, Budget{40, 1}
	l.BytesIn, l.BytesOut, l.Work = Budget{100, 10}, Budget{100, 10}, Budget{1000, 1}
	larger := l
	larger.Connections, larger.Requests, larger.Streams, larger.Long = Budget{40, 2}, Budget{40, 2}, Budget{40, 2}, Budget{40, 2}
	larger.BytesIn, larger.BytesOut, larger.Work = Budget{100, 20}, Budget{100, 20}, Budget{1000, 100}
	g := New(Config{Limits: l})

	for name, p := range map[string]*places{"connections": g.connections, "requests": g.requests, "streams": g.streams, "long": g.long} {
		enter := func() *Refusal {
			place, refusal := p.enter(client(1), func() {})
			if place != nil {
				place.keep()
			}
			return refusal
		}
		g.Resize(l)
		if enter() != nil || enter() == nil {
			t.Errorf("%s: one of one", name)
		}
		if g.Resize(larger); enter() != nil || enter() == nil {
			t.Errorf("%s: two of two", name)
		}
		if g.Resize(l); enter() == nil || p.inUse() != 2 {
			t.Errorf("%s: a third of one, with two that stay", name)
		}
	}
	for name, b := range map[string]*bytes{"in": g.in, "out": g.out} {
		g.Resize(l)
		if b.take(client(1), 10) != nil || b.take(client(1), 1) == nil {
			t.Errorf("%s: 10 bytes of 10", name)
		}
		if g.Resize(larger); b.take(client(1), 10) != nil || b.take(client(1), 1) == nil {
			t.Errorf("%s: 20 bytes of 20", name)
		}
	}
	// The burst is ten seconds' worth. What was used up stays used up.
	six := Client{prefix: netip.MustParsePrefix("2001:db8::/64")}
	for _, c := range []Client{client(1), six} {
		g.Resize(l)
		if g.work.take(c, 10) != nil {
			t.Errorf("%v: 10 units of 10", c)
		}
		if refusal := g.work.one.take(c, 10); refusal == nil || refusal.After < 5*time.Second {
			t.Errorf("%v: 10 units at one a second: %+v", c, refusal)
		}
		g.Resize(larger)
		if refusal := g.work.one.take(c, 100); refusal == nil || refusal.After > 2*time.Second {
			t.Errorf("%v: 100 units at a hundred a second: %+v", c, refusal)
		}
	}
}
