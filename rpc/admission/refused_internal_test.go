package admission

import (
	"net/netip"
	"testing"
	"time"
)

// TestRefused uses each budget up, and sees it counted under its name, and as often as it
// had no room.
func TestRefused(t *testing.T) {
	one := Budget{1, 1}
	g := New(Config{Limits: Limits{Connections: one, Requests: one, Streams: one, Long: one, BytesIn: one, BytesOut: one, Work: one, Patience: time.Hour}})
	c := Client{prefix: netip.MustParsePrefix("192.0.2.1/32")}
	for _, p := range []*places{g.connections, g.requests, g.streams, g.long} {
		for range 3 {
			if place, _ := p.enter(c, func() {}); place != nil {
				place.keep()
			}
		}
	}
	for _, b := range []*bytes{g.in, g.out} {
		b.take(c, 2)
		b.take(c, 2)
	}
	for range 12 { // ten are allowed at once
		g.work.take(c, 1)
	}
	for name, n := range g.Refused() {
		if n != 2 && !(name == workName && n == 1) { // a second may pass in between
			t.Errorf("%s: %d were refused, want 2", name, n)
		}
	}
	if n := len(g.Refused()); n != 7 {
		t.Errorf("%d budgets count, want 7", n)
	}
}

// TestDroppedStreams has a stream give its place to another.
func TestDroppedStreams(t *testing.T) {
	g := New(Config{Limits: Limits{Streams: Budget{1, 1}, Work: Budget{1, 1}}}) // nobody has patience
	c := Client{prefix: netip.MustParsePrefix("192.0.2.1/32")}
	dropped := 0
	for range 3 {
		if _, refusal := g.streams.enter(c, func() { dropped++ }); refusal != nil {
			t.Fatal(refusal)
		}
	}
	if dropped != 2 || g.DroppedStreams() != 2 {
		t.Errorf("%d were dropped, %d counted, want 2", dropped, g.DroppedStreams())
	}
}
