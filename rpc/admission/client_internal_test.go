package admission

import (
	"net/netip"
	"strings"
	"testing"
)

func gateWith(proxies, unlimited string) *Gate {
	return New(Config{Limits: DefaultLimits(), Proxies: prefixes(proxies), Unlimited: prefixes(unlimited)})
}

func prefixes(list string) (all []netip.Prefix) {
	for _, one := range strings.Fields(list) {
		all = append(all, netip.MustParsePrefix(one))
	}
	return all
}

func TestSameClient(t *testing.T) {
	g := gateWith("", "")
	for _, test := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"2001:db8::1", "2001:db8::2", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"::1", "::2", false},
	} {
		if got := g.newClient(netip.MustParseAddr(test.a)) == g.newClient(netip.MustParseAddr(test.b)); got != test.same {
			t.Errorf("%s and %s are one client: %v", test.a, test.b, got)
		}
	}
	if g.newClient(netip.Addr{}) != (Client{}) {
		t.Error("who has no address is not the zero client")
	}
}

// TestAsking reads who asks behind which proxies.
func TestAsking(t *testing.T) {
	const proxies, own = "10.0.0.0/8 2001:db8:f::/48", "127.0.0.0/8 192.0.2.128/25"
	g := gateWith(proxies, own)
	at := func(address string) netip.Addr { return netip.MustParseAddr(address) }
	lim := func(address string) Client { c := g.newClient(at(address)); c.standing = limited; return c }
	free := func(address string) Client { c := g.newClient(at(address)); c.standing = unlimited; return c }
	for name, test := range map[string]struct {
		from           string
		xff, forwarded string // lines with | between
		want           Client
	}{
		"directly":                           {"192.0.2.1", "", "", lim("192.0.2.1")},
		"directly, one's own":                {"192.0.2.129", "", "", free("192.0.2.129")},
		"a stranger's header":                {"192.0.2.1", "192.0.2.129", "for=192.0.2.129", lim("192.0.2.1")},
		"the machine's own":                  {"127.0.0.1", "", "", free("127.0.0.1")},
		"a proxy here that nobody named":     {"127.0.0.1", "198.51.100.1", "", lim("127.0.0.1")},
		"a proxy's own":                      {"10.0.0.1", "", "", lim("10.0.0.1")},
		"behind a proxy":                     {"10.0.0.1", "198.51.100.1", "", lim("198.51.100.1")},
		"behind a proxy, one's own":          {"10.0.0.1", "192.0.2.130", "", free("192.0.2.130")},
		"forged before the proxy":            {"10.0.0.1", "192.0.2.129, 198.51.100.1", "", lim("198.51.100.1")},
		"forged in a line of its own":        {"10.0.0.1", "192.0.2.129|198.51.100.1", "", lim("198.51.100.1")},
		"behind two proxies":                 {"10.0.0.1", "198.51.100.1, 2001:db8:f::1", "", lim("198.51.100.1")},
		"a proxy that asks for a proxy":      {"10.0.0.1", "10.0.0.2", "", lim("10.0.0.2")},
		"with a port":                        {"10.0.0.1", "198.51.100.1:4711", "", lim("198.51.100.1")},
		"IPv6 with a port":                   {"10.0.0.1", "[2001:db8::1]:4711", "", lim("2001:db8::1")},
		"no address":                         {"10.0.0.1", "unknown", "", lim("10.0.0.1")},
		"no address beyond a proxy":          {"10.0.0.1", "evil, 10.0.0.2", "", lim("10.0.0.1")},
		"empty":                              {"10.0.0.1", " ", "", lim("10.0.0.1")},
		"too many hops":                      {"10.0.0.1", "198.51.100.1" + strings.Repeat(", 10.0.0.2", mostHops), "", lim("10.0.0.1")},
		"Forwarded":                          {"10.0.0.1", "", `for=192.0.2.129;proto=http, For="[2001:db8::1]:4711";by=10.0.0.1`, lim("2001:db8::1")},
		"Forwarded without for":              {"10.0.0.1", "", "proto=http", lim("10.0.0.1")},
		"Forwarded, hidden":                  {"10.0.0.1", "", "for=_hidden", lim("10.0.0.1")},
		"both agree":                         {"10.0.0.1", "198.51.100.1", "for=198.51.100.1", lim("198.51.100.1")},
		"one is forged, whichever it may be": {"10.0.0.1", "198.51.100.1", "for=192.0.2.129", lim("10.0.0.1")},
		"one is forged, the other way round": {"10.0.0.1", "192.0.2.129", "for=198.51.100.1", lim("10.0.0.1")},
		"a forged one that cannot be read":   {"10.0.0.1", "198.51.100.1", "x", lim("10.0.0.1")},
		"an IPv4 address in IPv6's clothes":  {"10.0.0.1", "::ffff:192.0.2.129", "", free("192.0.2.129")},
		"an IPv6 address with a zone":        {"10.0.0.1", "fe80::1%eth0", "", lim("fe80::1")},
	} {
		t.Run(name, func(t *testing.T) {
			lines := func(s string) []string {
				if s == "" {
					return nil
				}
				return strings.Split(s, "|")
			}
			if got := g.asking(at(test.from), lines(test.xff), lines(test.forwarded)); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
