package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"log"
	"net/http"
	"sync"
	"time"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

const (
	cookie = "session"
	// mostSessions is how many there are: anybody can begin one. It takes some 500 bytes.
	mostSessions = 10_000
	// textAge is for how long a text can be signed.
	textAge = 5 * time.Minute
	// pause is how long to wait when the server does not answer.
	pause = time.Second
)

// session is what a browser has, by the id in its cookie.
type session struct {
	begun     time.Time
	text      string // to be signed; "" after a try
	address   string // that has signed one; "" before
	account   string
	suspended bool // a revocation of the key is pending
}

// account is whose a key is: the identity's, or its own while it is in no link.
func account(who interface {
	GetIdTxHash() string
	GetAddress() string
}) string {
	return cmp.Or(who.GetIdTxHash(), who.GetAddress())
}

// sessions are those of all browsers. It is safe for concurrent use.
type sessions struct {
	keytree keytreev1.IdentityServiceClient

	mu     sync.Mutex
	byID   map[string]*session // mu
	joined chan struct{}       // mu; closed and replaced when somebody has signed in
	blind  bool                // mu; the server does not answer, or is behind
}

func newSessions(keytree keytreev1.IdentityServiceClient) *sessions {
	return &sessions{keytree: keytree, byID: make(map[string]*session), joined: make(chan struct{}), blind: true}
}

// of returns the session of a browser, a zero one if it has none, and whether it is not known
// what has become of its key.
func (s *sessions) of(r *http.Request) (of session, blind bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, err := r.Cookie(cookie); err == nil && s.byID[c.Value] != nil {
		of = *s.byID[c.Value]
	}
	return of, s.blind
}

// takeText returns the text that a browser is to sign, once.
func (s *sessions) takeText(r *http.Request) (text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, err := r.Cookie(cookie); err == nil && s.byID[c.Value] != nil {
		text, s.byID[c.Value].text = s.byID[c.Value].text, ""
	}
	return text
}

// begin gives a browser a session, under a new id, in place of the one that it had.
func (s *sessions) begin(w http.ResponseWriter, r *http.Request, of *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, err := r.Cookie(cookie); err == nil {
		delete(s.byID, c.Value)
	}
	if len(s.byID) >= mostSessions {
		for id, old := range s.byID {
			if old.address == "" && time.Since(old.begun) > textAge {
				delete(s.byID, id)
			}
		}
	}
	if len(s.byID) >= mostSessions {
		return errors.New("too many are signing in: try again in some minutes")
	}
	id := rand.Text()
	of.begun, s.byID[id] = time.Now(), of
	if of.address != "" {
		close(s.joined)
		s.joined = make(chan struct{})
	}
	http.SetCookie(w, &http.Cookie{Name: cookie, Value: id, Path: "/", HttpOnly: true, Secure: true, SameSite: http.SameSiteStrictMode})
	return nil
}

// present returns who is signed in, and a channel that is closed when somebody else is.
func (s *sessions) present() (addresses []string, joined <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.byID {
		if of.address != "" {
			addresses = append(addresses, of.address)
		}
	}
	return addresses, s.joined
}

// check finds out whose the keys of sessions are, and whose they would be if what is pending
// were confirmed. It asks for all of that each time, and so is right after a reorganisation,
// and after whatever was missed.
func (s *sessions) check(ctx context.Context, addresses []string) error {
	now, err := s.keytree.BatchResolve(ctx, &keytreev1.BatchResolveRequest{Addresses: addresses, OmitPath: true, Unconfirmed: true})
	if err != nil {
		return err
	}
	state, err := s.keytree.GetStatus(ctx, &keytreev1.GetStatusRequest{})
	if err != nil {
		return err
	}
	found := make(map[string]*keytreev1.Resolution)
	for _, r := range now.Resolutions {
		found[r.Address] = r
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blind = !state.Synced
	for id, of := range s.byID {
		r := found[of.address]
		switch would := r.GetUnconfirmed().GetResolution(); {
		case r == nil: // not signed in, or only now
		case account(r) != of.account:
			delete(s.byID, id) // for good, also if a reorganisation takes the revocation back
		case now.Unconfirmed.GetAvailable(): // else what was known last holds on
			of.suspended = would != nil && account(would) != of.account
		}
	}
	return nil
}

// watch keeps the sessions checked until ctx ends.
func (s *sessions) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if err := s.follow(ctx); err != nil && ctx.Err() == nil {
			log.Print("keytree: ", err)
			s.mu.Lock()
			s.blind = true
			s.mu.Unlock()
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	}
}

// follow checks the sessions whenever the stream for their keys brings something, which is every
// 15 seconds at least, until somebody else signs in, which is no error.
func (s *sessions) follow(ctx context.Context) error {
	addresses, joined := s.present()
	following, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-joined:
			cancel()
		case <-following.Done():
		}
	}()
	if len(addresses) == 0 { // for whom the stream would bring everything
		<-following.Done()
		return nil
	}
	stream, err := s.keytree.Watch(following, &keytreev1.WatchRequest{Addresses: addresses, Unconfirmed: true})
	for err == nil {
		if _, err = stream.Recv(); err == nil {
			err = s.check(following, addresses)
		}
	}
	if following.Err() != nil {
		return nil
	}
	return err
}
