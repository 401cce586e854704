package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	testDomain = "example.org"
	day        = 24 * time.Hour
)

var testPassphrase = []byte("correct horse battery staple")

// clock is the time in a test, of server and clients.
type clock struct{ seconds atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(c.seconds.Load(), 0) }
func (c *clock) advance(d time.Duration) { c.seconds.Add(int64(d / time.Second)) }

// server is a real keyserver on loopback, and what stands between it and clients.
type server struct {
	t       testing.TB
	clock   *clock
	service *keyserver.Service
	url     string // of the way through between

	mu      sync.Mutex
	between between        // mu
	calls   map[string]int // mu
	fillers uint64
}

// between stands between client and server. pass calls the server; a nil result means
// that the answer is to go on as it came, an error that the connection is cut.
type between func(method string, params []byte, pass func() (map[string]any, error)) (result map[string]any, err error)

// inMemory puts the test's folders into memory where the system has such a place.
func inMemory(t testing.TB) {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		t.Setenv("TMPDIR", "/dev/shm")
	}
}

func newServer(t testing.TB, tokens keyserver.Tokens) *server {
	t.Helper()
	inMemory(t)
	s := &server{t: t, clock: new(clock), calls: make(map[string]int)}
	s.clock.seconds.Store(time.Now().Unix())
	dir := t.TempDir()
	var err error
	s.service, err = keyserver.Open(t.Context(), keyserver.Options{
		Domain: testDomain, Dir: filepath.Join(dir, "db"), KeyFile: filepath.Join(dir, "key"), Tokens: tokens, Now: s.clock.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	serving := make(chan error, 1)
	wire := rpc.NewKeyserverServer(rpc.KeyserverConfig{Service: s.service, Log: zerolog.Nop()})
	go func() { serving <- wire.Serve(ctx, listener) }()
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.forward(w, r, "http://"+listener.Addr().String()+"/")
	}))
	s.url = front.URL + "/"
	t.Cleanup(func() {
		front.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		cancel()
		if err := errors.Join(<-serving, s.service.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// errHangUp cuts the connection, errRefused is answered as a refusal.
var (
	errHangUp  = errors.New("hang up")
	errRefused = errors.New("no")
)

// forward passes a call on to the real server, through s.between if there is one.
func (s *server) forward(w http.ResponseWriter, r *http.Request, real string) {
	w.Header().Set("Date", s.clock.now().UTC().Format(http.TimeFormat))
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var call struct {
		Method string
		Params json.RawMessage
		ID     int
	}
	if err := json.Unmarshal(body, &call); err != nil {
		s.t.Error(err)
	}
	s.mu.Lock()
	between := s.between
	s.calls[call.Method]++
	s.mu.Unlock()
	var raw []byte
	pass := func() (map[string]any, error) {
		answer, err := http.Post(real, "application/json", bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		defer answer.Body.Close()
		if raw, err = io.ReadAll(answer.Body); err != nil {
			return nil, err
		}
		var envelope struct{ Result map[string]any }
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		err = d.Decode(&envelope)
		return envelope.Result, err
	}
	var result map[string]any
	if between == nil {
		_, err = pass()
	} else {
		result, err = between(call.Method, call.Params, pass)
	}
	var refusal *ServerError
	switch {
	case errors.As(err, &refusal):
		json.NewEncoder(w).Encode(map[string]any{"jsonrpc": "2.0", "error": map[string]any{"code": refusal.Code, "message": refusal.Message}, "id": call.ID})
	case errors.Is(err, errRefused):
		json.NewEncoder(w).Encode(map[string]any{"jsonrpc": "2.0", "error": map[string]any{"code": -1, "message": err.Error()}, "id": call.ID})
	case err != nil:
		panic(http.ErrAbortHandler)
	case result == nil:
		w.Write(raw) // as it came
	default:
		json.NewEncoder(w).Encode(map[string]any{"jsonrpc": "2.0", "result": result, "id": call.ID})
	}
}

// called returns how often a method was called.
func (s *server) called(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[method]
}

// put sets what stands between, nil for nothing.
func (s *server) put(b between) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.between = b
}

// changing makes something of the results of one method.
func (s *server) changing(method string, change func(params []byte, result map[string]any)) {
	s.put(func(called string, params []byte, pass func() (map[string]any, error)) (map[string]any, error) {
		result, err := pass()
		if result != nil && strings.HasSuffix(called, "."+method) {
			change(params, result)
		}
		return result, err
	})
}

func (s *server) options() Options { return Options{Now: s.clock.now, argonMemory: 64} }

// init makes a folder with a copy.
func (s *server) init(dir string) (*Client, error) {
	return Init(context.Background(), dir, s.url, "", nil, s.options())
}

func (s *server) mustInit(dir string) *Client {
	s.t.Helper()
	c, err := s.init(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

func newKey(n uint64) ed25519.PrivateKey {
	sum := sha256.Sum256(fmt.Append(nil, "key", n))
	return ed25519.NewKeyFromSeed(sum[:])
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// firstMessage makes a user's first message in profile 1.0.
func firstMessage(identity, lastEntry string, now uint64, key ed25519.PrivateKey) *uid.Message {
	m := &uid.Message{Content: uid.Content{
		Identity:    identity,
		LastEntry:   lastEntry,
		NotAfter:    now + 365*24*60*60,
		Preferences: uid.Preferences{Ciphersuites: []string{uid.Ciphersuite}, ForwardSec: uid.Strict},
		PubKeys:     uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, public(key))},
		RepoURIs:    []string{testDomain},
		SigKey:      uid.NewKeyEntry(uid.Ed25519, public(key)),
		Version:     uid.Version10,
	}}
	m.Sign(key)
	return m
}

// register adds an identity in profile 1.0 without a client.
func (s *server) register(identity string) *uid.Reply {
	s.t.Helper()
	last, _, err := s.service.LastEntry(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	s.fillers++
	m := firstMessage(identity, last.String(), uint64(s.clock.now().Unix()), newKey(s.fillers))
	reply, err := s.service.CreateUID(s.t.Context(), m, "")
	if err != nil {
		s.t.Fatal(err)
	}
	return reply
}

// fill adds n identities.
func (s *server) fill(n int) {
	s.t.Helper()
	for range n {
		s.register(fmt.Sprintf("filler-%s@%s", letters(s.fillers), testDomain))
	}
}

// letters writes a number with letters that no mapping changes.
func letters(n uint64) string {
	text := []byte{byte('a' + n%8)}
	for n /= 8; n > 0; n /= 8 {
		text = append(text, byte('a'+n%8))
	}
	return string(text)
}

// paper remembers the keys that were put on it.
type paper struct{ keys []string }

func (p *paper) show(key string) error { p.keys = append(p.keys, key); return nil }

func must[T any](value T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// wantMisbehaviour checks that an error names a position and that there is evidence.
func wantMisbehaviour(t testing.TB, err error, position uint64, problem string) evidence {
	t.Helper()
	m := new(Misbehaviour)
	if !errors.As(err, &m) || !errors.Is(err, ErrMisbehaviour) {
		t.Fatalf("got %v, want misbehaviour at position %d", err, position)
	}
	if m.Position != position || !strings.Contains(m.Problem, problem) {
		t.Errorf("got %v, want position %d, %q", err, position, problem)
	}
	var e evidence
	if err := readJSON(m.File, &e); err != nil {
		t.Fatal(err)
	}
	if e.Position != position || e.Problem != m.Problem || e.Domain != testDomain || e.Time == 0 {
		t.Errorf("evidence %+v", e)
	}
	return e
}

// wantUnproven checks that an error says what was shown at a position, convicts nobody,
// and that there is no evidence in a folder.
func wantUnproven(t testing.TB, dir string, err error, kind error, position uint64, problem string) {
	t.Helper()
	u := new(Unproven)
	if !errors.As(err, &u) || !errors.Is(err, kind) || errors.Is(err, ErrMisbehaviour) {
		t.Fatalf("got %v, want %v at position %d", err, kind, position)
	}
	if u.Position != position || !strings.Contains(u.Problem, problem) {
		t.Errorf("got %v, want position %d, %q", err, position, problem)
	}
	wantNoEvidence(t, dir)
}

func wantNoEvidence(t testing.TB, dir string) {
	t.Helper()
	if files := must(filepath.Glob(filepath.Join(dir, evidenceDir, "*")))(t); len(files) > 0 {
		t.Errorf("there is evidence: %q", files)
	}
}

// The life of two users, with everything that an honest keyserver does meanwhile.
func TestLife(t *testing.T) {
	s := newServer(t, token.Open{})
	ctx := t.Context()
	aliceDir := t.TempDir()
	alice := s.mustInit(aliceDir)
	if alice.Size() != 1 || alice.Domain() != testDomain || len(alice.ServerKeys()) != 1 {
		t.Fatalf("%d entries, %d keys", alice.Size(), len(alice.ServerKeys()))
	}
	s.fill(3)

	var printed paper
	id, err := alice.Create(ctx, "Alice@example.org", testPassphrase, Registration{Paper: printed.show})
	if err != nil {
		t.Fatal(err)
	}
	if id.Name() != "alice@example.org" || id.Stage() != Registered || id.Position() != 4 || len(printed.keys) != 1 {
		t.Fatalf("%s is %s at %d, paper %d", id.Name(), id.Stage(), id.Position(), len(printed.keys))
	}
	escrow := must(ParsePaperKey(printed.keys[0]))(t)
	if !bytes.Equal(id.Message().Content.SigEscrow.Public(), public(escrow)) {
		t.Error("the paper key is not that of SIGESCROW")
	}
	content := must(json.Marshal(id.record))(t)
	if bytes.Contains(content, []byte(canonical.Encode(escrow.Seed()))) {
		t.Error("the escrow key is still there")
	}
	if _, err := alice.Create(ctx, "alice@example.org", testPassphrase, Registration{}); !errors.Is(err, ErrExists) {
		t.Errorf("created twice: %v", err)
	}

	inits, err := alice.AddKeyInits(ctx, id, make([]string, 2), Anchor{MixAddress: "mix@example.net", NymAddress: "bnlt"}, 30*day, false)
	if err != nil || len(inits) != 2 {
		t.Fatal(err)
	}
	waiting := make(chan struct{})
	begin := sync.OnceFunc(func() { close(waiting) })
	alice.opt.Progress = func(what string, done, all uint64) {
		if what == "waiting" && done < all {
			begin()
		}
	}
	var others sync.WaitGroup
	others.Go(func() { <-waiting; s.fill(2) })
	if err := alice.Confirm(ctx, id, 2, time.Millisecond); err != nil || id.Stage() != Confirmed {
		t.Fatalf("%s: %v", id.Stage(), err)
	}
	others.Wait()
	alice.opt.Progress = func(string, uint64, uint64) {}

	bob := s.mustInit(t.TempDir())
	if bob.Fingerprint() != alice.Fingerprint() {
		t.Error("two chains")
	}
	contact, err := bob.Lookup(ctx, "A1ice@Example.org") // 1 looks like l
	if err != nil {
		t.Fatal(err)
	}
	if contact.Message().Hash() != id.Message().Hash() || contact.Position() != 4 || len(contact.Keys) != 1 || contact.UIDIndex != uid.Index(id.Message().Hash()) {
		t.Errorf("contact %+v", contact)
	}
	k, anchor, err := bob.FetchKeyInit(ctx, contact, Payment{})
	if err != nil || anchor.MixAddress != "mix@example.net" || anchor.NymAddress != "bnlt" {
		t.Fatalf("%+v, %v", anchor, err)
	}
	if again, _, err := bob.FetchKeyInit(ctx, contact, Payment{}); err != nil || again.Digest() != k.Digest() {
		t.Errorf("before it was used: another one, %v", err)
	}
	if err := bob.UsedKeyInit(contact, k.Digest()); err != nil {
		t.Error(err)
	}
	own, private, err := id.KeyInit(k.Digest())
	if err != nil || own.Digest() != k.Digest() || !bytes.Equal(private.PublicKey().Bytes(), anchor.PFKeys[0].Public()) {
		t.Errorf("own KeyInit: %v", err)
	}
	session := Session{ID: [32]byte{1}, KeyInit: k.Digest(), State: []byte("state"), Until: 1 << 60}
	if err := id.BeginSession(session); err != nil {
		t.Error(err)
	}
	if _, _, err := id.KeyInit(k.Digest()); !errors.Is(err, ErrUnknown) {
		t.Errorf("its private key is still there: %v", err)
	}
	for _, again := range []Session{session, {ID: [32]byte{2}, KeyInit: k.Digest()}} {
		if err := id.BeginSession(again); !errors.Is(err, ErrUsed) {
			t.Errorf("begun again: %v", err)
		}
	}
	if err := alice.FlushKeyInits(ctx, id); err != nil {
		t.Error(err)
	}
	if _, _, err := bob.FetchKeyInit(ctx, contact, Payment{}); !errors.As(err, new(*ServerError)) || !errors.Is(err, ErrNoKeyInits) {
		t.Errorf("after the flush: %v", err)
	}

	if _, err := s.service.RotateKey(ctx); err != nil {
		t.Fatal(err)
	}
	s.clock.advance(30 * day)
	if err := alice.Update(ctx, id, Registration{ForwardSec: uid.Optional, MixAddress: "mix@example.net"}); err != nil {
		t.Fatal(err)
	}
	if n := len(alice.ServerKeys()); n != 2 || id.Message().Content.MsgCount != 1 {
		t.Errorf("%d keys of the keyserver, message %d", n, id.Message().Content.MsgCount)
	}
	if keys := must(id.PrivateKeys())(t); len(keys) != 1 {
		t.Errorf("%d private keys", len(keys))
	}
	must(bob.Sync(ctx))(t)
	contact = must(bob.Lookup(ctx, "alice@example.org"))(t)
	if len(contact.History) != 2 || len(contact.Keys) != 2 || contact.Message().Content.MixAddress != "mix@example.net" {
		t.Errorf("after the update: %d messages, %d keys", len(contact.History), len(contact.Keys))
	}

	// Her machine is gone; the paper is not.
	if err := errors.Join(alice.Close(), os.RemoveAll(aliceDir)); err != nil {
		t.Fatal(err)
	}
	again := s.mustInit(t.TempDir())
	typed := must(ParsePaperKey(strings.ToLower(strings.ReplaceAll(printed.keys[0], " ", "-"))))(t)
	id, err = again.Recover(ctx, "alice@example.org", testPassphrase, typed, true, Registration{ForwardSec: uid.Mandatory, Paper: printed.show})
	if err != nil || id.Stage() != Registered || len(printed.keys) != 2 || printed.keys[0] == printed.keys[1] {
		t.Fatalf("%d papers, %v", len(printed.keys), err)
	}
	if _, err := again.Recover(ctx, "alice@example.org", testPassphrase, typed, false, Registration{}); !errors.Is(err, ErrPaperKey) {
		t.Errorf("with the replaced paper key: %v", err)
	}
	must(again.AddKeyInits(ctx, id, make([]string, 1), Anchor{MixAddress: "mix@example.net"}, day, true))(t)
	must(bob.Sync(ctx))(t)
	contact = must(bob.Lookup(ctx, "alice@example.org"))(t)
	if len(contact.History) != 3 || len(contact.Keys) != 3 {
		t.Errorf("after the recovery: %d messages", len(contact.History))
	}
	for range 2 { // it is for fallback
		if _, _, err := bob.FetchKeyInit(ctx, contact, Payment{}); err != nil {
			t.Error(err)
		}
	}
	if err := again.Update(ctx, id, Registration{}); err != nil {
		t.Errorf("with the recovered key: %v", err)
	}
	if err := bob.Recheck(ctx); err != nil {
		t.Error(err)
	}
	s.clock.advance(400 * day)
	if _, _, err := bob.FetchKeyInit(ctx, contact, Payment{}); !errors.Is(err, uid.ErrExpired) {
		t.Errorf("of an expired identity: %v", err)
	}
}

func TestIssuedTokens(t *testing.T) {
	dir := t.TempDir()
	issuer := must(token.OpenIssuer(filepath.Join(dir, "issuer")))(t)
	s := newServer(t, token.Issued{Domain: testDomain, Issuer: issuer.Public()})
	c := s.mustInit(t.TempDir())
	var printed paper
	if _, err := c.Create(t.Context(), "alice@example.org", testPassphrase, Registration{Paper: printed.show}); !errors.Is(err, ErrToken) {
		t.Fatalf("without a token: %v", err)
	}
	if _, err := c.Create(t.Context(), "alice@example.org", testPassphrase, Registration{Token: "AAAA", Paper: printed.show}); !errors.Is(err, ErrToken) || len(printed.keys) > 0 {
		t.Fatalf("with a token that is none: %v, %d papers", err, len(printed.keys))
	}
	paid := must(issuer.Issue(testDomain))(t)
	id, err := c.Create(t.Context(), "alice@example.org", testPassphrase, Registration{Token: paid, Paper: printed.show})
	if err != nil || len(printed.keys) != 1 {
		t.Fatalf("%d papers, %v", len(printed.keys), err)
	}
	if _, err := c.AddKeyInits(t.Context(), id, []string{paid}, Anchor{MixAddress: "mix@example.net"}, day, false); !errors.As(err, new(*ServerError)) {
		t.Errorf("with a spent token: %v", err)
	}
	tokens := []string{must(issuer.Issue(testDomain))(t), must(issuer.Issue(testDomain))(t)}
	if _, err := c.AddKeyInits(t.Context(), id, tokens, Anchor{MixAddress: "mix@example.net"}, day, true); !errors.Is(err, uid.ErrInvalid) {
		t.Errorf("for fallback, of an identity that is strict: %v", err)
	}
	if _, err := c.AddKeyInits(t.Context(), id, tokens, Anchor{MixAddress: "mix@example.net"}, day, false); err != nil {
		t.Error(err) // its MSGCOUNTs are behind those of the refused call
	}
}
