package connect

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"

	"github.com/keytree-bch/keytree/rpc/fault"
)

// WalletConnect is how wallets are asked over a relay of WalletConnect. A page that has it connects there; the relay learns
// who signs when, not what.
type WalletConnect struct {
	Relay   string // its address, as ParseRelay has it
	Project string // the id by which the relay knows who runs this server
}

// ParseRelay reads the address of a relay: wss://HOST, or ws:// on this machine.
func ParseRelay(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || strings.ContainsAny(s, "?#;,* '\"\\") || u.Scheme != "wss" && u.Scheme != "ws" {
		return "", fmt.Errorf("expected the address of a relay such as wss://relay.example.org, got %q", fault.Shortened(s))
	}
	if address, err := netip.ParseAddr(u.Hostname()); u.Scheme == "ws" && u.Hostname() != "localhost" && (err != nil || !address.IsLoopback()) {
		return "", fmt.Errorf("expected wss://, which is encrypted, for a relay on another machine, got %q", fault.Shortened(s))
	}
	return s, nil
}

// ParseProject reads the id of a project, which the relay's operator has given.
func ParseProject(s string) (string, error) {
	if s == "" || len(s) > 100 || strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '-' || r == '_')
	}) {
		return "", fmt.Errorf("expected the id of a project, up to 100 letters, digits, - and _, got %q", fault.Shortened(s))
	}
	return s, nil
}

// Host is whom a page connects to.
func (w *WalletConnect) Host() string { return hostOf(w.Relay) }

// WizardConnect is how wallets are asked over a relay of WizardConnect, as over one of WalletConnect.
type WizardConnect struct {
	Relay string // its address, as ParseWizardRelay has it
}

// Host is whom a page connects to.
func (w *WizardConnect) Host() string { return hostOf(w.Relay) }

// ParseWizardRelay is ParseRelay for an address that a wallet can be told of: without a path.
func ParseWizardRelay(s string) (string, error) {
	relay, err := ParseRelay(s)
	if err == nil && relay != originOf(relay) {
		return "", fmt.Errorf("expected the address of a relay without a path, which wallets are not told, got %q", fault.Shortened(s))
	}
	return relay, err
}

func hostOf(relay string) string {
	_, rest, _ := strings.Cut(relay, "://")
	host, _, _ := strings.Cut(rest, "/")
	return host
}

// originOf is a relay as a source of a policy.
func originOf(relay string) string {
	scheme, _, _ := strings.Cut(relay, "://")
	return scheme + "://" + hostOf(relay)
}
