package admission

import (
	"context"
	"net"
	"net/netip"
	"strings"
)

// Client is whom budgets tell apart. It can be compared.
type Client struct {
	prefix   netip.Prefix // an IPv4 address, or the /64 of an IPv6 address; the zero value is all whose address cannot be read
	standing standing
}

type standing int

const (
	limited standing = iota
	manifold
	unlimited
)

// String returns the client's address or prefix.
func (c Client) String() string { return c.prefix.String() }

// Single reports whether the client has budgets of its own: a proxy, which stands for many,
// has none, nor has one that is unlimited.
func (c Client) Single() bool { return c.standing == limited }

// bounded reports whether a budget may refuse it anything.
func (c Client) bounded() bool { return c.standing != unlimited }

// network returns the /48 of an IPv6 client, if it is one.
func (c Client) network() (netip.Prefix, bool) {
	if !c.prefix.IsValid() || c.prefix.Addr().Is4() {
		return netip.Prefix{}, false
	}
	wide, err := c.prefix.Addr().Prefix(networkBits)
	return wide, err == nil
}

func (g *Gate) newClient(address netip.Addr) Client {
	address = address.Unmap().WithZone("")
	bits := 64
	if address.Is4() || address.IsLoopback() {
		bits = address.BitLen()
	}
	prefix, _ := address.Prefix(bits) // fails for no address, which is the zero value's
	c := Client{prefix: prefix}
	if has(g.unlimited, address) {
		c.standing = unlimited
	}
	return c
}

func has(prefixes []netip.Prefix, address netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(address) {
			return true
		}
	}
	return false
}

// addressOf reads HOST:PORT. It is not valid if that is none.
func addressOf(remote net.Addr) netip.Addr {
	at, _ := netip.ParseAddrPort(remote.String())
	return at.Addr().Unmap()
}

// peer returns the client at the other end of a connection: one that stands for many, if it is a proxy.
func (g *Gate) peer(address netip.Addr) Client {
	c := g.newClient(address)
	if has(g.proxies, address) {
		c.standing = manifold
	}
	return c
}

// mostHops is how many addresses are read of those that proxies have passed a request on
// for. There are hardly ever more than three.
const mostHops = 16

// asking returns the client that asks through a connection from address, with the values of
// the headers that proxies set.
//
// What a proxy that is not trusted says counts for nothing; but whoever comes through one on
// this machine is not the machine's own, and has no privileges. The headers are read from the
// right, where the nearest proxy writes, up to the first address that is no trusted proxy's.
// A trusted proxy may set one of the headers and pass on the other as it came: if the two do
// not agree, or name no address, the request counts as the proxy's own, with all such.
func (g *Gate) asking(address netip.Addr, xForwardedFor, forwarded []string) Client {
	named := len(xForwardedFor) > 0 || len(forwarded) > 0
	if !has(g.proxies, address) {
		c := g.newClient(address)
		if named && address.IsLoopback() {
			c.standing = limited
		}
		return c
	}
	if !named {
		return g.newClient(address)
	}
	origin, ok := g.origin(splitList(xForwardedFor, ","))
	other, alsoOK := g.origin(forwardedFor(forwarded))
	switch {
	case len(xForwardedFor) == 0:
		origin, ok = other, alsoOK
	case len(forwarded) > 0:
		ok = ok && alsoOK && origin == other
	}
	if !ok {
		c := g.newClient(address)
		c.standing = limited
		return c
	}
	return g.newClient(origin)
}

// origin returns the last of a list of addresses that is no trusted proxy's.
func (g *Gate) origin(hops []string) (origin netip.Addr, ok bool) {
	for i := range min(len(hops), mostHops) {
		address, err := parseHop(hops[len(hops)-1-i])
		if err != nil {
			return netip.Addr{}, false
		}
		if origin = address; !has(g.proxies, address) {
			return origin, true
		}
	}
	return origin, origin.IsValid() && len(hops) <= mostHops
}

// parseHop reads an address, with or without a port.
func parseHop(s string) (netip.Addr, error) {
	if at, err := netip.ParseAddrPort(s); err == nil {
		return at.Addr().Unmap(), nil
	}
	address, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	return address.Unmap(), err
}

// splitList returns the last elements of a header with a list, which may be in several lines.
func splitList(values []string, separator string) (list []string) {
	for _, one := range strings.Split(strings.Join(values, separator), separator) {
		list = append(list, strings.TrimSpace(one))
	}
	return list
}

// forwardedFor returns what the elements of Forwarded (RFC 7239) have as for=, "" where
// there is none.
func forwardedFor(values []string) (hops []string) {
	for _, element := range splitList(values, ",") {
		hop := ""
		for _, pair := range splitList([]string{element}, ";") {
			if name, value, _ := strings.Cut(pair, "="); strings.EqualFold(strings.TrimSpace(name), "for") {
				hop = strings.Trim(strings.TrimSpace(value), `"`)
			}
		}
		hops = append(hops, hop)
	}
	return hops
}

// callKey is the key of the call that a context belongs to.
type callKey struct{}

// ClientOf returns the client that asks, in a context of a call that a Gate has let in.
func ClientOf(ctx context.Context) Client {
	if c := callOf(ctx); c != nil {
		return c.client
	}
	return Client{}
}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}
