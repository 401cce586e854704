package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signing"
	"github.com/keytree-bch/keytree/rpc/explorer/browser"
)

// signup is a service, a person with a wallet, and a server between them, on a bchd.
type signup struct {
	*testing.T
	node    *regtest.Node
	grpc    string
	browser *browser.Browser
	person  *regtest.Key
	service *httptest.Server // where a person comes back to; it answers with what it was asked
	lost    atomic.Bool      // the connection between browser and server
	shaken  func()           // ends the connections that are there
}

// newSignup starts them, the server with further flags.
func newSignup(t *testing.T, flags ...string) *signup {
	s := &signup{T: t, person: regtest.NewKey()}
	s.browser = browser.Start(t, "../../rpc/explorer/browser", "") // or the test is skipped
	s.node = regtest.ForTest(t, regtest.Options{Blocks: 110})
	grpc, http := startProgram(t, nil, append(serveArgs(s.node.URL(), t.TempDir()), flags...)...).awaitServing()
	s.grpc, s.browser.URL = grpc, s.between("http://"+http)
	s.service = httptest.NewServer(httpHandler(func(r *url.URL) string { return "You are back: " + r.RawQuery }))
	t.Cleanup(s.service.Close)
	return s
}

// httpHandler answers with a text for what was asked.
func httpHandler(answer func(*url.URL) string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!doctype html><title>a service</title><main>%s</main>", answer(r.URL))
	})
}

// between stands before a server, and can lose every connection.
func (s *signup) between(server string) string {
	to, err := url.Parse(server)
	if err != nil {
		s.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0), // connections are lost on purpose
		Transport: &http.Transport{DisableCompression: true},
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.lost.Load() {
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	front.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.shaken = front.CloseClientConnections
	s.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
		proxy.Transport.(*http.Transport).CloseIdleConnections()
	})
	return front.URL
}

// publish sends an action of a key that has a coin.
func (s *signup) publish(key *regtest.Key, script []byte) string {
	s.Helper()
	coin, err := s.node.FundKey(s.Context(), key, 10_000)
	if err != nil {
		s.Fatal(err)
	}
	tx, _, err := regtest.Spend(key, coin, wire.NewTxOut(0, script, wire.TokenData{}))
	if err == nil {
		err = s.node.SubmitTransaction(s.Context(), tx)
	}
	if err != nil {
		s.Fatal(err)
	}
	return tx.TxHash().String()
}

// ask has a new key of a service ask a person.
func (s *signup) ask(message string) (request string, key *regtest.Key) {
	s.Helper()
	key = regtest.NewKey()
	script, err := protocol.RequestScript(s.person.Hash(), []byte(message))
	if err != nil {
		s.Fatal(err)
	}
	return s.publish(key, script), key
}

// fund gives the person a coin, in a block.
func (s *signup) fund() {
	s.Helper()
	if _, err := s.node.FundKey(s.Context(), s.person, 20_000); err != nil {
		s.Fatal(err)
	}
	s.mine()
}

func (s *signup) mine() {
	s.Helper()
	if _, err := s.node.Mine(s.Context(), 1); err != nil {
		s.Fatal(err)
	}
	awaitTip(s.T, s.grpc, s.node)
}

// visit opens a page with a place to come back to.
func (s *signup) visit(path, parameter, txid string) {
	s.Helper()
	s.browser.Open(path+"?"+url.Values{parameter: {txid}, "redirect_uri": {s.service.URL + "/back?from=keytree"}, "state": {"st&te"}}.Encode(), browser.Order{"fresh": true})
	s.browser.Do("wait", browser.Order{"selector": "main", "text": "Where the button leads"})
}

// prepared has the page make what is to be signed, and reads it as a wallet does.
func (s *signup) prepared() (tx *wire.MsgTx, spends []signing.SourceOutput) {
	s.Helper()
	s.browser.Do("click", browser.Order{"selector": "#prepare button"})
	s.browser.Do("until", browser.Order{"script": `document.getElementById("asked").value !== ""`})
	text := s.browser.Do("evaluate", browser.Order{"script": `document.getElementById("asked").value`}).Value.(string)
	var params signing.Params
	if err := json.Unmarshal([]byte(text), &params); err != nil {
		s.Fatal(err)
	}
	tx, err := signing.ReadPrepared([]byte(text))
	if err != nil {
		s.Fatal(err)
	}
	return tx, params.SourceOutputs
}

// sign signs all inputs as wallets do.
func (s *signup) sign(tx *wire.MsgTx, key *regtest.Key, spends []signing.SourceOutput) {
	s.Helper()
	for i := range tx.TxIn {
		signature, err := txscript.RawTxInSchnorrSignature(tx, i, spends[i].LockingBytecode, txscript.SigHashAll, key.PrivateKey(), int64(spends[i].ValueSatoshis))
		if err != nil {
			s.Fatal(err)
		}
		script, err := txscript.NewScriptBuilder().AddData(signature).AddData(key.PublicKey()).Script()
		if err != nil {
			s.Fatal(err)
		}
		tx.TxIn[i].SignatureScript = script
	}
}

func rawOf(tx *wire.MsgTx) string {
	var b strings.Builder
	if err := tx.Serialize(hex.NewEncoder(&b)); err != nil {
		panic(err) // a strings.Builder takes everything
	}
	return b.String()
}

// answerOf is what a wallet answers.
func answerOf(tx *wire.MsgTx) string {
	return fmt.Sprintf(`{"signedTransaction":%q,"signedTransactionHash":%q}`, rawOf(tx), tx.TxHash())
}

// send pastes something and sends it.
func (s *signup) send(answer string) {
	s.Helper()
	s.browser.Do("fill", browser.Order{"selector": "#signed", "text": answer})
	s.browser.Do("click", browser.Order{"selector": "#send button"})
}

func (s *signup) wait(selector, text string) {
	s.Helper()
	s.browser.Do("wait", browser.Order{"selector": selector, "text": text})
}

// TestConnect accepts what a service asks, and revokes it, with a wallet into which is copied; the accept is lost to a
// reorganisation meanwhile, and comes back.
func TestConnect(t *testing.T) {
	s := newSignup(t)
	s.fund()
	request, child := s.ask("memo.cash")
	s.visit("/connect", "request", request) // which is in no block yet, and may not have come
	s.wait("main", "A key asks to speak in your name")
	s.wait("main", `It calls itself "memo.cash" (unverified)`)
	s.wait("main", child.Address())
	s.wait("html[data-following]", "")
	s.browser.Sound("asked", true)

	tx, spends := s.prepared()
	s.wait("#prompt", "into your identity (MIP-0003 link accept)")
	s.sign(tx, s.person, spends)
	s.browser.Do("fill", browser.Order{"selector": "#signed", "text": answerOf(tx)})
	s.mine() // the page is read again, and what was pasted stays
	s.wait("main", "Since block")
	s.browser.Do("click", browser.Order{"selector": "#send button"})
	s.wait("main", "Your accept is sent, and in no block yet")
	accept := tx.TxHash().String()
	s.wait("main", accept)
	s.browser.Sound("sent", true)

	s.mine()
	s.wait("main .lead", "Since block")
	height, _, err := s.node.Tip(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.node.Reorg(t.Context(), 1, nil, nil); err != nil {
		t.Fatal(err)
	}
	awaitTip(t, s.grpc, s.node)
	s.wait("main .lead", "Your accept is sent, and in no block yet") // it is in the mempool again
	s.mine()
	s.wait("main .lead", fmt.Sprintf("Since block %d", height+2))

	// Nothing leads away by itself.
	if at := s.browser.Do("text", nil).URL; !strings.HasPrefix(at, s.browser.URL+"/connect?") {
		t.Errorf("the page has become %s", at)
	}
	s.browser.Do("until", browser.Order{"script": `document.getElementById("back").textContent === "Go back to ` + strings.TrimPrefix(s.service.URL, "http://") + `"`})
	back := url.Values{"state": {"st&te"}}
	if got, want := s.follow("#back"), "from=keytree&request_tx_hash="+request+"&accept_tx_hash="+accept+"&id_tx_hash="+request+"&"+back.Encode(); got != want {
		t.Errorf("the service was asked %s, want %s", got, want)
	}

	s.visit("/connect/revoke", "accept", accept)
	s.wait("main", "Take a key out of your identity")
	tx, spends = s.prepared()
	s.sign(tx, s.person, spends)
	s.send(rawOf(tx))
	s.wait("main", "Your revoke is sent, and in no block yet")
	s.mine()
	s.wait("main .lead", "Since block")
	if got := s.follow("#back"); !strings.Contains(got, "&accept_tx_hash="+accept+"&revoke_tx_hash="+tx.TxHash().String()) {
		t.Errorf("the service was asked %s", got)
	}
}

// follow clicks on what leads back, and returns the query with which the service was asked.
func (s *signup) follow(selector string) string {
	s.Helper()
	s.browser.Do("expect", browser.Order{"origin": s.service.URL})
	s.browser.Do("click", browser.Order{"selector": selector})
	s.wait("main", "You are back: ")
	u, err := url.Parse(s.browser.Do("text", nil).URL)
	if err != nil {
		s.Fatal(err)
	}
	return u.RawQuery
}

// TestConnectWallets has wallets do what they may do wrong, and a connection that is lost.
func TestConnectWallets(t *testing.T) {
	s := newSignup(t)
	s.fund()
	s.fund()
	request, _ := s.ask("")
	s.mine()
	s.visit("/connect", "request", request)
	s.wait("main", "A key asks to speak in your name")

	// It sends what is no answer before it was asked for anything.
	for pasted, problem := range map[string]string{
		"nonsense":                            "no transaction in hex",
		`{"error":{"code":5000}}`:             "The wallet has not signed",
		`{"signedTransaction":`:               "cut short",
		strings.Repeat("00", 3):               "ends too early",
		rawOf(wire.NewMsgTx(2)):               "does not do what this page is about",
		"02000000ffffffffffffffffff" + "0000": "ends too early",
	} {
		s.send(pasted)
		s.wait("#problem", problem)
	}
	s.browser.Sound("wrong answers", true)

	tx, spends := s.prepared()
	s.send(`{"signedTransaction":""}`)
	s.wait("#problem", "no transaction in hex")

	// It changes an output, or what it spends.
	changed := tx.Copy()
	changed.TxOut[0].Value -= 500
	s.sign(changed, s.person, spends)
	s.send(answerOf(changed))
	s.wait("#problem", "the wallet has changed it")
	// It signs by another key, or not.
	other := tx.Copy()
	s.sign(other, regtest.NewKey(), spends)
	s.send(answerOf(other))
	s.wait("#problem", "signed_transaction")
	s.send(rawOf(tx))
	s.wait("#problem", "signed_transaction")
	s.sign(tx, s.person, spends)

	// The connection is lost when it is sent.
	s.lost.Store(true)
	s.shaken()
	s.send(answerOf(tx))
	s.wait("#problem", "The server does not answer")
	s.lost.Store(false)

	// The wallet has sent it itself, and somebody pastes it before the page has seen that; twice.
	if err := s.node.SubmitTransaction(t.Context(), tx); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		response, err := http.Post(s.browser.URL+"/v1/links:submit", "application/json", strings.NewReader(fmt.Sprintf(`{"signed_transaction":%q}`, rawOf(tx))))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(text), `"known":true`) {
			t.Errorf("what the network has is answered with %d %s, %v", response.StatusCode, text, err)
		}
	}
	s.wait("main", "Your accept is sent, and in no block yet")

	// Whoever refuses comes back with that.
	request, _ = s.ask("")
	s.visit("/connect", "request", request)
	s.wait("main", "A key asks to speak in your name")
	if got := s.follow("#refuse"); got != "from=keytree&error=access_denied&state=st%26te" {
		t.Errorf("the service was asked %s", got)
	}

	// The key of somebody else makes an accept of it elsewhere.
	stranger := regtest.NewKey()
	hash, err := chainhash.NewHashFromStr(request)
	if err != nil {
		t.Fatal(err)
	}
	script, err := protocol.AcceptScript(*hash, nil)
	if err != nil {
		t.Fatal(err)
	}
	coin, err := s.node.FundKey(t.Context(), stranger, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	foreign, _, err := regtest.Spend(stranger, coin, wire.NewTxOut(0, script, wire.TokenData{}))
	if err != nil {
		t.Fatal(err)
	}
	s.mine()
	s.visit("/connect", "request", request)
	s.wait("main", "A key asks to speak in your name")
	s.send(rawOf(foreign))
	s.wait("#problem", "NOT_THE_PARENT")
}
