// Command example is an app where people sign in by any key of their identity. It suspends a
// session as soon as a revocation of its key is pending, and ends it when that is confirmed.
// protocol/SIGNIN.md says why it does what it does.
//
//	POST /challenge  address=ADDRESS      gives a text for the wallet to sign
//	POST /login      signature=SIGNATURE  signs in
//	GET  /                                shows who is signed in
package main

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"

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
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	c, err := client.New(*server, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	a := newApp(c.Conn(), *domain, *uri)
	go a.sessions.watch(ctx)
	log.Fatal(http.ListenAndServe(*listen, a.handler()))
}

// app is what browsers ask. Domain and URI are its own, and never taken from a request.
type app struct {
	domain, uri string
	keytree     keytreev1.SignInServiceClient
	sessions    *sessions
}

func newApp(keytree grpc.ClientConnInterface, domain, uri string) *app {
	return &app{domain, uri, keytreev1.NewSignInServiceClient(keytree), newSessions(keytreev1.NewIdentityServiceClient(keytree))}
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
	answer, err := a.keytree.ChallengeSignIn(r.Context(), &keytreev1.ChallengeSignInRequest{
		Domain: a.domain, Uri: a.uri + "?s=" + rand.Text()[:8], Address: r.FormValue("address"),
	})
	if err == nil {
		err = a.sessions.begin(w, r, &session{text: answer.Message})
	}
	if err != nil {
		http.Error(w, status.Convert(err).Message(), http.StatusBadRequest)
		return
	}
	fmt.Fprint(w, answer.Message)
}

// login takes nothing but the signature from the browser, which has one try for a text.
func (a *app) login(w http.ResponseWriter, r *http.Request) {
	who, err := a.keytree.VerifySignIn(r.Context(), &keytreev1.VerifySignInRequest{
		Message: a.sessions.takeText(r), Signature: r.FormValue("signature"), Domain: a.domain,
	})
	if err == nil && who.Pending.Cut {
		err = fmt.Errorf("this key is being revoked")
	}
	if err == nil {
		err = a.sessions.begin(w, r, &session{address: who.Address, account: account(who)})
	}
	if err != nil {
		http.Error(w, status.Convert(err).Message(), http.StatusUnauthorized)
		return
	}
	fmt.Fprintf(w, "signed in as %s\n", who.MainAddress)
}

// who shows who is signed in.
func (a *app) who(w http.ResponseWriter, r *http.Request) {
	switch s, blind := a.sessions.of(r); {
	case s.address == "":
		http.Error(w, "nobody is signed in", http.StatusUnauthorized)
	case blind:
		http.Error(w, "suspended: it is not known whether the key was revoked", http.StatusServiceUnavailable)
	case s.suspended:
		http.Error(w, "suspended: the key is being revoked", http.StatusForbidden)
	default:
		fmt.Fprintf(w, "%s of account %s\n", s.address, s.account)
	}
}
