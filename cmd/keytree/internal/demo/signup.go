package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gcash/bchd/wire"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signin"
	"github.com/keytree-bch/keytree/protocol/signing"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

//go:embed signup.html
var signupPages embed.FS

// What the parties of the sign-up have, in satoshi.
const (
	walletCoins  = 100_000
	serviceCoins = 10_000
)

// maxSignups is how many people may be about to sign up at a time: the oldest are forgotten.
const maxSignups = 100

// PlaySignup runs a service, a wallet and a keytree server on a private node, each a page of an origin of its own, says
// where they are, and leaves everything running until ctx ends.
func PlaySignup(ctx context.Context, h Host, binary, dir string) (err error) {
	chain, config, err := startChain(ctx, h, binary, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, chain.Stop()) }()

	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	at, ended, err := h.Servers.StartIndex(ctx, fail, config, filepath.Join(dir, "data"), nil)
	defer func() { fail(nil); <-ended }()
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(at.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close() // there is nothing to lose on it
	pages, err := template.ParseFS(signupPages, "signup.html")
	if err != nil {
		return err
	}

	person := regtest.NewKey()
	for range 5 { // so that what is sent needs not wait for a block
		if _, err := chain.Fund(ctx, person.Output(walletCoins)); err != nil {
			return orCause(ctx, err)
		}
	}
	if _, err := chain.Mine(ctx, 1); err != nil {
		return orCause(ctx, err)
	}
	s := &signup{
		pages: pages, chain: chain, keytree: "http://" + at.HTTP, person: person, signups: make(map[string]*newcomer),
		identities: keytreev1.NewIdentityServiceClient(conn), signIn: keytreev1.NewSignInServiceClient(conn),
	}
	var wallet, service string
	for _, one := range []struct {
		at       *string
		register func(*http.ServeMux)
	}{{&wallet, s.registerWallet}, {&service, s.registerService}} {
		mux := http.NewServeMux()
		one.register(mux)
		address, stop, err := listenLocally(mux, fail)
		if err != nil {
			return err
		}
		defer stop()
		*one.at = address
	}
	s.service, s.wallet = "http://"+service, "http://"+wallet
	fmt.Fprintf(h.Out, `Open both in one browser, until Ctrl-C: the service first. Each transaction gets a block within a second.

  service  %s/
  wallet   %s/

The service asks you to sign in with the address of the wallet; what one page asks to be signed is copied into
the wallet, and its answer back. Then it makes a key, and sends you to the keytree server at %s
to accept that.

`, s.service, s.wallet, s.keytree)
	return mineOn(ctx, chain, h.Interrupted)
}

// listenLocally serves on a port that the system chooses, until it is stopped.
func listenLocally(handler http.Handler, fail context.CancelCauseFunc) (address string, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: dialTimeout}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			fail(err)
		}
	}()
	return listener.Addr().String(), func() { server.Close(); <-ended }, nil // a page that is being answered is of no use any more
}

// signup is the play: its service and its wallet.
type signup struct {
	pages      *template.Template
	chain      *regtest.Node
	identities keytreev1.IdentityServiceClient
	signIn     keytreev1.SignInServiceClient
	person     *regtest.Key

	keytree, service, wallet string // origins

	mu      sync.Mutex
	signups map[string]*newcomer // mu; by the cookies of their browsers
	order   []string             // mu; the oldest first
}

// newcomer is somebody who signs up, from a browser.
type newcomer struct {
	challenge string
	address   string       // the key that has signed in; "" before
	key       *regtest.Key // that the service has made for it
	request   string       // of that key, its txid
	state     string       // that has to come back with who comes back
}

// show answers with one of the pages.
func (s *signup) show(w http.ResponseWriter, code int, name string, data any) {
	var page bytes.Buffer
	if err := s.pages.ExecuteTemplate(&page, name, data); err != nil {
		panic(err) // a fault of the page's file
	}
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	w.Write(page.Bytes()) // a browser that went away is no fault to report
}

// problem answers with what is wrong.
func (s *signup) problem(w http.ResponseWriter, err error) {
	s.show(w, http.StatusBadRequest, "problem", err.Error())
}

// --- The wallet

// walletPage is the wallet with what it was asked for, and its answer.
type walletPage struct {
	Address, Asked string
	Says           string // what is to be signed, in words
	Answer         string
}

func (s *signup) registerWallet(mux *http.ServeMux) {
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		s.show(w, http.StatusOK, "wallet", walletPage{Address: s.person.Address()})
	})
	sign := func(w http.ResponseWriter, r *http.Request) {
		// A text area has \r\n at the end of its lines, whatever was put there.
		page := walletPage{Address: s.person.Address(), Asked: strings.ReplaceAll(r.FormValue("asked"), "\r\n", "\n")}
		var err error
		if page.Says, page.Answer, err = s.sign(page.Asked); err != nil {
			s.problem(w, err)
			return
		}
		if r.FormValue("sure") == "" { // nothing is signed that was not shown
			page.Answer = ""
		}
		s.show(w, http.StatusOK, "wallet", page)
	}
	own := http.NewCrossOriginProtection() // no other page has the wallet sign
	mux.Handle("POST /{$}", own.Handler(http.HandlerFunc(sign)))
}

// sign signs what a wallet is asked: a transaction, as bch_signTransaction has it, or a text.
func (s *signup) sign(asked string) (says, answer string, err error) {
	if !strings.HasPrefix(strings.TrimSpace(asked), "{") {
		answer, err = signin.Sign(asked, protocol.WIF{Private: s.person.PrivateKey()})
		return asked, answer, err
	}
	var params signing.Params
	if err := json.Unmarshal([]byte(asked), &params); err != nil {
		return "", "", fmt.Errorf("expected a text, or the object of bch_signTransaction: %w", err)
	}
	prepared, err := signing.ReadPrepared([]byte(asked))
	if err != nil {
		return "", "", err
	}
	if len(params.SourceOutputs) != len(prepared.TxIn) {
		return "", "", errors.New("expected as many sourceOutputs as inputs")
	}
	var raw bytes.Buffer
	if err := prepared.Serialize(&raw); err != nil {
		return "", "", err
	}
	var spends []protocol.UTXO
	for i, source := range params.SourceOutputs {
		spends = append(spends, protocol.UTXO{OutPoint: prepared.TxIn[i].PreviousOutPoint, Value: int64(source.ValueSatoshis), Script: source.LockingBytecode})
	}
	tx, err := protocol.ReadLinkTx(raw.Bytes(), spends)
	if err != nil {
		return "", "", err
	}
	digests, err := tx.ToSign()
	if err != nil {
		return "", "", err
	}
	for i, one := range digests {
		signature, err := s.person.PrivateKey().SignSchnorr(one.Digest[:])
		if err == nil {
			err = tx.Attach(i, append(signature.Serialize(), byte(one.HashType)), s.person.PublicKey())
		}
		if err != nil {
			return "", "", err
		}
	}
	signed, err := signing.JSON(signing.Signed{Transaction: fmt.Sprintf("%x", tx.Raw()), Hash: tx.TxID().String()})
	return params.UserPrompt, string(signed), err
}

// --- The service

const signupCookie = "signup"

func (s *signup) registerService(mux *http.ServeMux) {
	own := http.NewCrossOriginProtection() // no other page signs anybody in
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { s.show(w, http.StatusOK, "service", s.wallet) })
	mux.HandleFunc("GET /challenge", s.challenged)
	mux.Handle("POST /challenge", own.Handler(http.HandlerFunc(s.challenge)))
	mux.Handle("POST /signup", own.Handler(http.HandlerFunc(s.join)))
	mux.HandleFunc("GET /linked", s.linked)
	mux.HandleFunc("GET /left", func(w http.ResponseWriter, r *http.Request) {
		n := s.of(r)
		if n == nil || r.FormValue("state") != n.state {
			s.problem(w, errors.New("this browser has not left from here"))
			return
		}
		s.welcome(w, r, n)
	})
}

// begin remembers somebody, by a cookie.
func (s *signup) begin(w http.ResponseWriter, n *newcomer) {
	name := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signups[name], s.order = n, append(s.order, name)
	if len(s.order) > maxSignups {
		delete(s.signups, s.order[0])
		s.order = slices.Delete(s.order, 0, 1)
	}
	http.SetCookie(w, &http.Cookie{Name: signupCookie, Value: name, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode})
}

// of returns a copy of who this browser is of; nil for nobody.
func (s *signup) of(r *http.Request) *newcomer {
	cookie, err := r.Cookie(signupCookie)
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.signups[cookie.Value]
	if n == nil {
		return nil
	}
	copied := *n
	return &copied
}

// domain is the service's, as texts to sign in name it.
func (s *signup) domain() string { return strings.TrimPrefix(s.service, "http://") }

// challenge asks for a signature of the address with which somebody signs in.
func (s *signup) challenge(w http.ResponseWriter, r *http.Request) {
	answer, err := s.signIn.ChallengeSignIn(r.Context(), &keytreev1.ChallengeSignInRequest{
		Domain: s.domain(), Uri: s.service + "/signup", Address: strings.TrimSpace(r.FormValue("address"))})
	if err != nil {
		s.problem(w, err)
		return
	}
	s.begin(w, &newcomer{challenge: answer.Message})
	http.Redirect(w, r, "/challenge", http.StatusSeeOther)
}

// challenged shows what is to be signed to sign in.
func (s *signup) challenged(w http.ResponseWriter, r *http.Request) {
	n := s.of(r)
	if n == nil {
		s.problem(w, errBegin)
		return
	}
	s.show(w, http.StatusOK, "challenge", map[string]string{"Message": n.challenge, "Wallet": s.wallet})
}

var errBegin = errors.New("begin at the service's first page")

// join signs somebody in, makes a key for them, has it ask, and sends them to answer.
func (s *signup) join(w http.ResponseWriter, r *http.Request) {
	n := s.of(r)
	if n == nil || n.request != "" {
		s.problem(w, errBegin)
		return
	}
	who, err := s.signIn.VerifySignIn(r.Context(), &keytreev1.VerifySignInRequest{
		Message: n.challenge, Signature: strings.TrimSpace(r.FormValue("signature")), Domain: s.domain()})
	if err != nil {
		s.problem(w, err)
		return
	}
	n.address, n.key, n.state = who.Address, regtest.NewKey(), rand.Text()
	if n.request, err = s.ask(r.Context(), n); err != nil {
		s.problem(w, err)
		return
	}
	s.begin(w, n)
	query := url.Values{"request": {n.request}, "redirect_uri": {s.service + "/linked"}, "state": {n.state}}
	http.Redirect(w, r, s.keytree+"/connect?"+query.Encode(), http.StatusSeeOther)
}

// ask gives the new key a coin, and has it ask the key that has signed in.
func (s *signup) ask(ctx context.Context, n *newcomer) (request string, err error) {
	parent, err := protocol.ParseAddress(n.address, regtest.Params)
	if err != nil {
		return "", err
	}
	script, err := protocol.RequestScript(parent, []byte("Example service"))
	if err != nil {
		return "", err
	}
	coin, err := s.chain.FundKey(ctx, n.key, serviceCoins)
	if err != nil {
		return "", err
	}
	tx, _, err := regtest.Spend(n.key, coin, wire.NewTxOut(0, script, wire.TokenData{}))
	if err != nil {
		return "", err
	}
	return tx.TxHash().String(), s.chain.SubmitTransaction(ctx, tx)
}

// linked is where somebody comes back to. Nothing that comes along proves anything: the service looks for itself.
func (s *signup) linked(w http.ResponseWriter, r *http.Request) {
	n := s.of(r)
	switch {
	case n == nil || n.state == "" || r.FormValue("state") != n.state:
		s.problem(w, errors.New("this browser has not signed up here: whoever has sent you wants you to use another's account"))
	case r.FormValue("error") != "":
		s.show(w, http.StatusOK, "refused", nil)
	default:
		s.welcome(w, r, n)
	}
}

// welcome shows what the service sees of somebody's key.
func (s *signup) welcome(w http.ResponseWriter, r *http.Request, n *newcomer) {
	ctx, cancel := context.WithTimeout(r.Context(), dialTimeout)
	defer cancel()
	who, err := s.identities.ResolveAddress(ctx, &keytreev1.ResolveAddressRequest{Address: n.key.Address(), Unconfirmed: true})
	if err != nil {
		s.problem(w, err)
		return
	}
	page := struct {
		Key, ID, Main, Revoke string
		Unconfirmed           bool
	}{Key: n.key.Address()}
	if next := who.GetUnconfirmed().GetResolution(); next != nil {
		who, page.Unconfirmed = next, true
	}
	if who.ParentAddress != n.address {
		s.show(w, http.StatusOK, "refused", nil)
		return
	}
	page.ID, page.Main = who.IdTxHash, who.MainAddress
	query := url.Values{"accept": {who.AcceptTxHash}, "redirect_uri": {s.service + "/left"}, "state": {n.state}}
	page.Revoke = s.keytree + "/connect/revoke?" + query.Encode()
	s.show(w, http.StatusOK, "welcome", page)
}

// mineOn confirms what comes into the mempool, until ctx ends, which is no error if it was the user who ended it.
func mineOn(ctx context.Context, chain *regtest.Node, interrupted error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, interrupted) && !errors.Is(cause, context.Canceled) {
				return cause
			}
			return nil
		case <-tick.C:
		}
		txs, err := chain.Mempool(ctx)
		if err == nil && len(txs) > 0 {
			_, err = chain.Mine(ctx, 1)
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
}
