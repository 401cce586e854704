package admission

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"testing"
)

// at is a connection from an address, through a gate.
func (g *Gate) at(t *testing.T, from string) net.Conn {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	c, refusal := g.connect(dialled{ours, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from + ":1"))})
	if refusal != nil {
		t.Fatal(refusal)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// dialled is a connection from an address.
type dialled struct {
	net.Conn
	from net.Addr
}

func (d dialled) RemoteAddr() net.Addr { return d.from }

// TestHandshakes has clients pay for handshakes, each out of his own budget, and asks nothing of this machine.
func TestHandshakes(t *testing.T) {
	limits := DefaultLimits()
	limits.Work = Budget{1000, 4}
	g := New(Config{Limits: limits, Unlimited: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	chosen := new(tls.Config)
	for _, choose := range []func(*tls.ClientHelloInfo) (*tls.Config, error){nil, func(*tls.ClientHelloInfo) (*tls.Config, error) { return chosen, nil }} {
		config := g.Handshakes(&tls.Config{GetConfigForClient: choose, MinVersion: tls.VersionTLS12})
		if config.MinVersion != tls.VersionTLS12 {
			t.Error("the configuration is another one")
		}
		shake := func(from string) error {
			got, err := config.GetConfigForClient(&tls.ClientHelloInfo{Conn: g.at(t, from)})
			if err == nil && choose != nil && got != chosen || choose == nil && got != nil {
				t.Errorf("%s: got %p", from, got)
			}
			return err
		}
		one, other := "192.0.2.1", "192.0.2.2"
		if choose != nil {
			one, other = "192.0.2.3", "192.0.2.4"
		}
		for n := range 4 { // ten times four calls at once, of which a handshake is ten
			if err := shake(one); err != nil {
				t.Errorf("handshake %d: %v", n, err)
			}
		}
		var refusal *Refusal
		if err := shake(one); !errors.As(err, &refusal) || !refusal.Yours {
			t.Errorf("got %v, expected that the budget is used up", err)
		}
		if err := shake(other); err != nil {
			t.Errorf("another client: %v", err)
		}
		for range 10 {
			if err := shake("127.0.0.1"); err != nil {
				t.Errorf("this machine: %v", err)
			}
		}
	}
	if g.Handshakes(nil) != nil {
		t.Error("without TLS there is some")
	}
}
