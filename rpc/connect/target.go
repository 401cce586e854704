package connect

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"golang.org/x/net/idna"

	"github.com/keytree-bch/keytree/rpc/fault"
)

// The most that a service may have a page carry, in bytes.
const (
	maxTarget = 2000
	maxState  = 1000
)

// target is where a service wants a person to come back to. The zero value is nowhere.
type target struct {
	uri   *url.URL // nil: nowhere
	state string
}

// ours are the parameters with which a page leads back.
func ours() []string {
	return []string{"state", "error", "request_tx_hash", "accept_tx_hash", "revoke_tx_hash", "id_tx_hash"}
}

// parseTarget reads redirect_uri and state. What a browser would read otherwise than it looks is refused, and
// so is what a service may have let itself be talked into.
func parseTarget(query url.Values) (target, error) {
	text, state := query.Get("redirect_uri"), query.Get("state")
	if len(state) > maxState {
		return target{}, fmt.Errorf("state: expected up to %d bytes, got %d", maxState, len(state))
	}
	if text == "" {
		if state != "" {
			return target{}, errors.New("state: goes with a redirect_uri")
		}
		return target{}, nil
	}
	refused := func(expected string) (target, error) {
		return target{}, fmt.Errorf("redirect_uri: expected %s, got %q", expected, fault.Shortened(text))
	}
	if len(text) > maxTarget {
		return refused(fmt.Sprintf("up to %d bytes", maxTarget))
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) {
		return refused("an address without blanks, control characters and backslashes")
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "" || u.Host == "":
		return refused("an address such as https://memo.cash/linked")
	case u.User != nil:
		return refused("an address without a user's name or password, which would look like a host")
	case strings.Contains(text, "#"):
		return refused("an address without a fragment")
	}
	name, loopback, err := hostName(u.Hostname())
	if err != nil {
		return refused(err.Error())
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !loopback) {
		return refused("https, or http on this machine (localhost, 127.0.0.1, [::1])")
	}
	if strings.Contains(name, ":") {
		name = "[" + name + "]"
	}
	if port := u.Port(); port != "" {
		name += ":" + port
	}
	u.Host = name
	fields, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return refused("a query of names and values")
	}
	for _, name := range ours() {
		if fields.Has(name) {
			return refused("an address without " + name + " in its query, which is for the answer")
		}
	}
	u.ForceQuery = false
	return target{u, state}, nil
}

// hostName reads the name of a host, and returns it as browsers send it: in ASCII.
func hostName(host string) (name string, loopback bool, err error) {
	if address, err := netip.ParseAddr(host); err == nil {
		if address.Zone() != "" || address.Is4In6() || address.String() != host {
			return "", false, errors.New("an IP address in its usual form")
		}
		return host, address.IsLoopback(), nil
	}
	name, err = idna.Lookup.ToASCII(host)
	if err != nil || name == "" || strings.Contains(name, "..") || strings.HasSuffix(name, ".") || len(name) > 253 {
		return "", false, errors.New("the name of a host")
	}
	// Browsers take a name that ends in a number for an IP address, in forms that are hard to read.
	if last := name[strings.LastIndexByte(name, '.')+1:]; strings.HasPrefix(last, "0x") || strings.Trim(last, "0123456789") == "" {
		return "", false, errors.New("an IP address in its usual form")
	}
	return name, name == "localhost", nil
}

// there tells whether there is somewhere to go back to.
func (t target) there() bool { return t.uri != nil }

// host is what a button names: the host in ASCII, with its port if it has one.
func (t target) host() string { return t.uri.Host }

// with is where a button leads that carries an answer: names and values, without those that are empty.
func (t target) with(answer ...string) string {
	answer = append(answer, "state", t.state)
	to := *t.uri
	for i := 0; i < len(answer); i += 2 {
		if answer[i+1] == "" {
			continue
		}
		if to.RawQuery != "" && !strings.HasSuffix(to.RawQuery, "&") {
			to.RawQuery += "&"
		}
		to.RawQuery += answer[i] + "=" + url.QueryEscape(answer[i+1])
	}
	return to.String()
}
