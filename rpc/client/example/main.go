// Command example is an app where people sign in by any key of their identity. It suspends a
// session as soon as a revocation of its key is pending, and ends it when that is confirmed.
// protocol/SIGNIN.md says why it does what it does.
//
//	POST /challenge  address=ADDRESS      gives a text for the wallet to sign
//	POST /login      signature=SIGNATURE  signs in
//	GET  /                                shows who is signed in
package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"log"
	"maps"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/client"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "`HOST:PORT` to listen on, behind what has TLS")
	server := flag.String("server", "127.0.0.1:8434", "`HOST:PORT` of the gRPC interface of a keytree server that the app trusts")
	domain := flag.String("domain", "localhost:8080", "`DOMAIN` under which people know the app")
	uri := flag.String("uri", "http://localhost:8080/login", "`URI` where they sign in")
	flag.Parse()
	c, err := client.New(*server, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	a := newApp(c.Conn(), *domain, *uri)
	go a.watch(context.Background())
	log.Fatal(http.ListenAndServe(*listen, a.handler()))
}

const (
	cookie = "session"
	// mostSessions is how many there are: anybody can begin one. It takes some 500 bytes.
	mostSessions     = 10_000
	textAge, signAge = 5 * time.Minute, 24 * time.Hour // for how long one is good, before and after signing in
	pause            = time.Second                     // before a server is asked again that has not answered
)

// session is what a browser has.
type session struct {
	until     time.Time
	text      string // to be signed; "" after a try
	address   string // that has signed one; "" before
	account   string
	suspended bool // a revocation of the key is pending
}

// app is what browsers ask. Domain and URI are its own, and never taken from a request.
type app struct {
	domain, uri string
	signIn      keytreev1.SignInServiceClient
	index       keytreev1.IdentityServiceClient

	mu       sync.Mutex
	sessions map[string]*session // mu; by the id in the cookie
	refollow func()              // mu; ends the stream, for one that is about more keys
	blind    bool                // mu; it is not known whether keys were revoked
}

func newApp(keytree grpc.ClientConnInterface, domain, uri string) *app {
	return &app{
		domain: domain, uri: uri, signIn: keytreev1.NewSignInServiceClient(keytree), index: keytreev1.NewIdentityServiceClient(keytree),
		sessions: make(map[string]*session), refollow: func() {}, blind: true,
	}
}

// handler answers nothing to pages of other sites.
func (a *app) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /challenge", a.challenge)
	mux.HandleFunc("POST /login", a.login)
	mux.HandleFunc("GET /{$}", a.who)
	return http.NewCrossOriginProtection().Handler(http.MaxBytesHandler(mux, 4096))
}

// challenge gives this browser a text that no other one gets, since its URI has something random.
func (a *app) challenge(w http.ResponseWriter, r *http.Request) {
	answer, err := a.signIn.ChallengeSignIn(r.Context(), &keytreev1.ChallengeSignInRequest{
		Domain: a.domain, Uri: a.uri + "?s=" + rand.Text()[:8], Address: r.FormValue("address"),
	})
	if err == nil {
		err = a.begin(w, r, &session{text: answer.Message, until: time.Now().Add(textAge)})
	}
	if err != nil {
		http.Error(w, status.Convert(err).Message(), http.StatusBadRequest)
		return
	}
	fmt.Fprint(w, answer.Message)
}

// login takes nothing but the signature from the browser, which has one try for a text.
func (a *app) login(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	s := a.of(r)
	text := s.text
	s.text = ""
	a.mu.Unlock()
	who, err := a.signIn.VerifySignIn(r.Context(), &keytreev1.VerifySignInRequest{Message: text, Signature: r.FormValue("signature"), Domain: a.domain})
	if err == nil && who.Pending.Cut {
		err = errors.New("this key is being revoked")
	}
	if err == nil {
		err = a.begin(w, r, &session{address: who.Address, account: account(who), until: time.Now().Add(signAge)})
	}
	if err != nil {
		http.Error(w, status.Convert(err).Message(), http.StatusUnauthorized)
		return
	}
	fmt.Fprintf(w, "signed in as %s\n", who.MainAddress)
}

// who shows who is signed in.
func (a *app) who(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch s := a.of(r); {
	case s.address == "":
		http.Error(w, "nobody is signed in", http.StatusUnauthorized)
	case a.blind:
		http.Error(w, "suspended: it is not known whether the key was revoked", http.StatusServiceUnavailable)
	case s.suspended:
		http.Error(w, "suspended: the key is being revoked", http.StatusForbidden)
	default:
		fmt.Fprintf(w, "%s of account %s\n", s.address, s.account)
	}
}

// of returns the session of a browser, an empty one if it has none. The caller holds mu.
func (a *app) of(r *http.Request) *session {
	if c, err := r.Cookie(cookie); err == nil && a.sessions[c.Value] != nil && time.Now().Before(a.sessions[c.Value].until) {
		return a.sessions[c.Value]
	}
	return new(session)
}

// begin gives a browser a session, under a new id, in place of the one that it had.
func (a *app) begin(w http.ResponseWriter, r *http.Request, s *session) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := a.of(r)
	maps.DeleteFunc(a.sessions, func(_ string, other *session) bool { return other == before || time.Now().After(other.until) })
	if len(a.sessions) >= mostSessions {
		return errors.New("too many are signed in: try again later")
	}
	id := rand.Text()
	a.sessions[id] = s
	if s.address != "" {
		a.refollow()
	}
	http.SetCookie(w, &http.Cookie{Name: cookie, Value: id, Path: "/", HttpOnly: true, Secure: true, SameSite: http.SameSiteStrictMode})
	return nil
}

// account is whose a key is: the identity's, or its own while it is in no link.
func account(key interface {
	GetIdTxHash() string
	GetAddress() string
}) string {
	return cmp.Or(key.GetIdTxHash(), key.GetAddress())
}

// watch keeps the sessions checked until ctx ends.
func (a *app) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if err := a.follow(ctx); err != nil && ctx.Err() == nil {
			log.Print("keytree: ", err)
			a.mu.Lock()
			a.blind = true
			a.mu.Unlock()
			time.Sleep(pause)
		}
	}
}

// follow checks the sessions whenever the stream about their keys brings something, every 15
// seconds at least, until somebody else signs in, which is no error.
func (a *app) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var addresses []string
	a.mu.Lock()
	a.refollow = cancel
	for _, s := range a.sessions {
		if s.address != "" {
			addresses = append(addresses, s.address)
		}
	}
	a.mu.Unlock()
	if len(addresses) == 0 { // a stream about nobody would bring everything
		<-ctx.Done()
	}
	stream, err := a.index.Watch(ctx, &keytreev1.WatchRequest{Addresses: addresses, Unconfirmed: true})
	for err == nil {
		if _, err = stream.Recv(); err == nil {
			err = a.check(ctx, addresses)
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// check finds out whose keys are, and whose they would be if what is pending were confirmed. It
// asks for all of that each time, and so is right after a reorganisation, and after whatever was missed.
func (a *app) check(ctx context.Context, addresses []string) error {
	now, err := a.index.BatchResolve(ctx, &keytreev1.BatchResolveRequest{Addresses: addresses, OmitPath: true, Unconfirmed: true})
	if err != nil {
		return err
	}
	server, err := a.index.GetStatus(ctx, &keytreev1.GetStatusRequest{})
	if err != nil {
		return err
	}
	found := make(map[string]*keytreev1.Resolution)
	for _, r := range now.Resolutions {
		found[r.Address] = r
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.blind = !server.Synced
	for id, s := range a.sessions {
		r := found[s.address]
		switch would := r.GetUnconfirmed().GetResolution(); {
		case r == nil: // not signed in, or only now
		case account(r) != s.account:
			delete(a.sessions, id) // for good, also if a reorganisation takes the revocation back
		case now.Unconfirmed.GetAvailable(): // else what was known last holds
			s.suspended = would != nil && account(would) != s.account
		}
	}
	return nil
}
