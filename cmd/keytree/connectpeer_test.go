package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/rpc/explorer/browser"
)

// peer is relays of WalletConnect and WizardConnect with a wallet that has the clients that wallets have, in a process of its own. It is
// for one goroutine.
type peer struct {
	t     *testing.T
	in    io.Writer
	out   *bufio.Scanner
	relay string // of WalletConnect

	wizard string // relay of WizardConnect
}

// peerDir is the folder of peer.mjs.
const peerDir = "../../rpc/connect/peer"

// startPeer skips the test where npm ci was not run.
func startPeer(t *testing.T) *peer {
	t.Helper()
	if testing.Short() {
		t.Skip("a browser and a wallet take long, and have nothing to do with races")
	}
	node, err := exec.LookPath("node")
	for _, installed := range []string{peerDir + "/node_modules/@walletconnect", "../../scripts/wallettest/node_modules/@bitauth"} {
		_, missing := os.Stat(installed)
		err = errors.Join(err, missing)
	}
	if err != nil && os.Getenv(browser.ClientsEnv) != "" {
		t.Fatalf("%s is set, but: %v", browser.ClientsEnv, err)
	}
	if err != nil {
		t.Skipf("%v; .ci/run installs Node, and runs npm ci in rpc/connect/peer and scripts/wallettest", err)
	}
	cmd := exec.CommandContext(t.Context(), node, "peer.mjs")
	cmd.Dir, cmd.Stderr = peerDir, os.Stderr
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	p := &peer{t: t, in: in, out: bufio.NewScanner(out)}
	p.out.Buffer(nil, 16<<20)
	at := p.answer()
	p.relay, p.wizard = at.Relay, at.Wizard
	return p
}

// heard is what the peer says.
type heard struct {
	Failed        string
	Relay, Wizard string
	Key           string
	Asked, Heard  []string
	Ended         int
}

func (p *peer) answer() (h heard) {
	p.t.Helper()
	if !p.out.Scan() {
		p.t.Fatalf("the wallet ended: %v", p.out.Err())
	}
	if err := json.Unmarshal(p.out.Bytes(), &h); err != nil || h.Failed != "" {
		p.t.Fatalf("%v: %s", err, p.out.Bytes())
	}
	return h
}

func (p *peer) do(what string, fields map[string]any) heard {
	p.t.Helper()
	all := map[string]any{"do": what}
	for name, value := range fields {
		all[name] = value
	}
	line, err := json.Marshal(all)
	if err == nil {
		_, err = p.in.Write(append(line, '\n'))
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return p.answer()
}

// connect clicks, and gives the wallet of a key what the page shows. The wallet does something.
func (s *signup) connect(p *peer, key *regtest.Key, does string) {
	s.Helper()
	p.do("pair", map[string]any{"uri": s.uri("walletconnect"), "address": key.Address(), "privateKey": hex.EncodeToString(key.PrivateKey().Serialize()), "does": does})
}

// uri clicks, and returns what the page has for a wallet.
func (s *signup) uri(over string) string {
	s.Helper()
	s.browser.Do("evaluate", browser.Order{"script": `(document.querySelector("#` + over + `").open = true, document.querySelector("#` + over + ` .uri").value = "", 0)`})
	s.browser.Do("click", browser.Order{"selector": "#" + over + " .begin:enabled"})
	s.browser.Do("until", browser.Order{"script": `document.querySelector("#` + over + ` .uri").value !== "" && !document.querySelector("#` + over + ` .pair").hidden`})
	return s.browser.Do("evaluate", browser.Order{"script": `document.querySelector("#` + over + ` .uri").value`}).Value.(string)
}

// TestConnectWalletConnect accepts and revokes with a wallet over WalletConnect, of which each does something wrong first.
func TestConnectWalletConnect(t *testing.T) {
	p := startPeer(t)
	s := newSignup(t, "--walletconnect-project-id", "a-project", "--walletconnect-relay", p.relay)
	for range 4 {
		s.fund()
	}
	request, _ := s.ask("memo.cash")
	s.mine()
	s.visit("/connect", "request", request)
	s.wait("main", "A key asks to speak in your name")

	s.connect(p, s.person, "reject")
	s.wait("#problem", "The wallet refuses: User rejected.")
	s.connect(p, regtest.NewKey(), "sign")
	s.wait("#problem", "The key that is asked is "+s.person.Address())
	if asked := p.do("seen", nil).Asked; len(asked) > 0 {
		t.Errorf("a wallet with another key was asked %q", asked)
	}
	s.connect(p, s.person, "refuse")
	s.wait("#problem", "The wallet refuses: User rejected methods.")
	s.connect(p, s.person, "change")
	s.wait("#problem", "the wallet has changed it")
	s.browser.Sound("WalletConnect", true)

	// The wallet answers twice, over a slow relay that loses the connection.
	p.do("slow", map[string]any{"milliseconds": 300})
	s.connect(p, s.person, "twice")
	s.wait("main", "Your accept is sent, and in no block yet")
	s.mine()
	s.wait("main .lead", "Since block")
	accept := s.browser.Do("evaluate", browser.Order{"script": `new URL(document.getElementById("back").href).searchParams.get("accept_tx_hash")`}).Value.(string)

	s.visit("/connect/revoke", "accept", accept)
	s.wait("main", "Take a key out of your identity")
	p.do("slow", map[string]any{"milliseconds": 0})
	s.connect(p, s.person, "lose")
	s.wait("main", "Your revoke is sent, and in no block yet")
	seen := p.do("seen", nil)
	if len(seen.Asked) != 1 || !strings.Contains(seen.Asked[0], "MIP-0003 link revoke") || !strings.Contains(seen.Asked[0], "bch_signTransaction") {
		t.Errorf("the wallet was asked %q", seen.Asked)
	}
	regtest.Await(t, func() string {
		if p.do("seen", nil).Ended == 0 {
			return "the page has ended no session"
		}
		return ""
	})
}

// TestConnectWizardConnect does it with a wallet of many keys over WizardConnect, on a relay that throws garbage in.
func TestConnectWizardConnect(t *testing.T) {
	p := startPeer(t)
	s := newSignup(t, "--wizardconnect-relay", p.wizard)
	private, err := hex.DecodeString(p.do("key", map[string]any{"seed": "person", "name": "receive", "index": 5}).Key)
	if err != nil {
		t.Fatal(err)
	}
	s.person = regtest.KeyOf(private)
	for range 4 {
		s.fund()
	}
	request, _ := s.ask("memo.cash")
	s.mine()
	s.visit("/connect", "request", request)
	s.wait("main", "A key asks to speak in your name")
	pair := func(seed, does string) {
		t.Helper()
		p.do("pairWizard", map[string]any{"uri": s.uri("wizardconnect"), "seed": seed, "does": does})
	}
	pair("stranger", "sign")
	s.wait("#problem", "Your wallet does not have the key that is asked")
	if asked := p.do("seen", nil).Asked; len(asked) > 0 {
		t.Errorf("a wallet with other keys was asked %q", asked)
	}
	pair("person", "refuse")
	s.wait("#problem", "The wallet refuses: User rejected.")
	pair("person", "change")
	s.wait("#problem", "the wallet has changed it")
	s.browser.Sound("WizardConnect", true)
	pair("person", "twice")
	s.wait("main", "Your accept is sent, and in no block yet")
	s.mine()
	s.wait("main .lead", "Since block")
	accept := s.browser.Do("evaluate", browser.Order{"script": `new URL(document.getElementById("back").href).searchParams.get("accept_tx_hash")`}).Value.(string)

	s.visit("/connect/revoke", "accept", accept)
	s.wait("main", "Take a key out of your identity")
	p.do("slow", map[string]any{"milliseconds": 200})
	pair("person", "lose")
	s.wait("main", "Your revoke is sent, and in no block yet")
	if seen := p.do("seen", nil); len(seen.Asked) != 1 || !strings.Contains(seen.Asked[0], `[0,"receive",5]`) {
		t.Errorf("the wallet was asked %q", seen.Asked)
	}
	regtest.Await(t, func() string {
		if p.do("seen", nil).Ended == 0 {
			return "the page has ended no session"
		}
		return ""
	})
}
