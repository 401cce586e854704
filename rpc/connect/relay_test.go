package connect_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/connect"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestWalletConnect looks at what pages offer and may do with a relay, and without one.
func TestWalletConnect(t *testing.T) {
	block := new(rpctest.Chain).Block(rpctest.MLR("open", "service", "person", ""))
	path := asking("/connect", "request", txid("open"))
	without := rpctest.New(t, block)
	if _, body := without.Send(t, "GET", path, ""); strings.Contains(body, "walletconnect\"") && strings.Contains(body, "data-relay") {
		t.Error("without a relay a page offers WalletConnect")
	}
	with := rpctest.NewOf(t, rpc.Config{WalletConnect: &connect.WalletConnect{Relay: "wss://relay.example.org/a", Project: "a-project"}}, block)
	response, body := with.Send(t, "GET", path, "")
	for _, part := range []string{`data-relay="wss://relay.example.org/a"`, `data-project="a-project"`, "relay.example.org</span>"} {
		if !strings.Contains(body, part) {
			t.Errorf("the page has no %s", part)
		}
	}
	if policy := response.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "connect-src 'self' wss://relay.example.org;") {
		t.Errorf("the policy is %q", policy)
	}
	for _, file := range []string{"wc.js", "aead.js", "uqr.mjs"} {
		if response, _ := without.Send(t, "GET", "/connect/files/"+file, ""); response.StatusCode != http.StatusNotFound {
			t.Errorf("without a relay, %s: %d", file, response.StatusCode)
		}
		if response, _ := with.Send(t, "GET", "/connect/files/"+file, ""); response.StatusCode != http.StatusOK {
			t.Errorf("with a relay, %s: %d", file, response.StatusCode)
		}
	}
}

// TestWizardConnect looks at the same for WizardConnect: the page says what becomes of a wallet's addresses.
func TestWizardConnect(t *testing.T) {
	block := new(rpctest.Chain).Block(rpctest.MLR("open", "service", "person", ""))
	with := rpctest.NewOf(t, rpc.Config{WizardConnect: &connect.WizardConnect{Relay: "wss://relay.example.org:444"}}, block)
	response, body := with.Send(t, "GET", asking("/connect", "request", txid("open")), "")
	if !strings.Contains(body, `data-relay="wss://relay.example.org:444"`) || !strings.Contains(body, "neither they nor your addresses go to this server or to anybody else") {
		t.Errorf("the page is %s", body)
	}
	if policy := response.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "connect-src 'self' wss://relay.example.org:444;") {
		t.Errorf("the policy is %q", policy)
	}
	for file, want := range map[string]int{"wiz.js": 200, "aead.js": 200, "ripemd160.js": 200, "secp256k1.js": 200, "uqr.mjs": 200, "wc.js": 404} {
		if response, _ := with.Send(t, "GET", "/connect/files/"+file, ""); response.StatusCode != want {
			t.Errorf("%s: %d", file, response.StatusCode)
		}
	}
	if got, err := connect.ParseWizardRelay("wss://relay.example.org/path"); err == nil {
		t.Errorf("an address with a path is taken as %s", got)
	}
}

// TestParseRelay has addresses of relays, good and bad ones.
func TestParseRelay(t *testing.T) {
	for _, good := range []string{"wss://relay.example.org", "wss://relay.example.org:444/path", "ws://127.0.0.1:99", "ws://localhost", "ws://[::1]:5"} {
		if got, err := connect.ParseRelay(good); got != good || err != nil {
			t.Errorf("%s: %s, %v", good, got, err)
		}
	}
	for _, bad := range []string{"", "relay.example.org", "https://relay.example.org", "ws://relay.example.org", "ws://127.0.0.1.example.org", "wss://", "wss://a@b", "wss://a?b=c", "wss://a#b", "wss://a;b", "wss://a b", "wss://a'b", "wss://*.b", "wss://a,b"} {
		if got, err := connect.ParseRelay(bad); err == nil {
			t.Errorf("%q is taken as %s", bad, got)
		}
	}
}
