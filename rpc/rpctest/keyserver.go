package rpctest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	keyserverrpc "github.com/keytree-bch/keytree/rpc/keyserver"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// Domain is that of every keyserver in these tests.
const Domain = "example.org"

// KeyserverRig is a keyserver on a database of its own, served in every way.
type KeyserverRig struct {
	Service *keyserver.Service
	Address string // of the JSON-RPC wire
	URL     string // the same
	REST    string // URL of REST
	Conn    *grpc.ClientConn
	Client  keytreev1.KeyserverServiceClient
	HTTP    *http.Client
	Stop    func() // stops the servers and the service, and fails the test unless they end well

	calls atomic.Uint64 // made over the wire
}

// KeyserverOptions are what tests vary; zero is the usual.
type KeyserverOptions struct {
	Dir         string // of the data; a temporary one if ""
	Tokens      keyserver.Tokens
	Now         func() time.Time
	TLS         *tls.Config // of the wire
	Hosts       []string    // of this machine, but its own
	CallRate    int         // of clients that are all local; 0 for no limits
	Gate        *admission.Gate
	Anchors     *schedule.Schedule
	Held        bool // until service.Release
	MaxKeyInits int  // of a key
	PaidFetch   bool
}

// NewKeyserver runs a keyserver, which ends with the test.
func NewKeyserver(t testing.TB, o KeyserverOptions) *KeyserverRig {
	t.Helper()
	if o.Dir == "" {
		o.Dir = Dir(t)
	}
	if o.Tokens == nil {
		o.Tokens = token.Open{}
	}
	service, err := keyserver.Open(t.Context(), keyserver.Options{
		Domain: Domain, Dir: filepath.Join(o.Dir, "keyserver"), KeyFile: filepath.Join(o.Dir, "key"),
		Tokens: o.Tokens, Now: o.Now, Anchors: o.Anchors, Held: o.Held, MaxKeyInits: o.MaxKeyInits, PaidFetch: o.PaidFetch, Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	gate := o.Gate
	if gate == nil && o.CallRate > 0 {
		gate = admission.New(admission.Config{Limits: admission.DefaultLimits()}) // for the machine itself, too
	}
	allowances := keyserverrpc.NewAllowances(o.CallRate)
	wire := rpc.NewKeyserverServer(rpc.KeyserverConfig{
		Service: service, TLS: o.TLS, Hosts: o.Hosts, Allowances: allowances, Admission: gate, Log: zerolog.Nop(),
	})
	server, err := rpc.NewServer(rpc.Config{Keyserver: service, Hosts: o.Hosts, Allowances: allowances, Admission: gate, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	wireListener, grpcListener, httpListener := Listen(t), Listen(t), Listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 2)
	go func() { served <- wire.Serve(ctx, wireListener) }()
	go func() { served <- server.Serve(ctx, grpcListener, httpListener) }()

	r := &KeyserverRig{
		Service: service,
		Address: wireListener.Addr().String(),
		URL:     "http://" + wireListener.Addr().String() + "/",
		REST:    "http://" + httpListener.Addr().String(),
		HTTP:    &http.Client{Transport: &http.Transport{}},
	}
	if o.TLS != nil {
		r.URL = "https" + strings.TrimPrefix(r.URL, "http")
	}
	r.Conn, err = grpc.NewClient(grpcListener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	r.Client = keytreev1.NewKeyserverServiceClient(r.Conn)
	stopped := false
	r.Stop = func() {
		if stopped {
			return
		}
		stopped = true
		r.HTTP.CloseIdleConnections()
		r.Conn.Close()
		cancel()
		for range cap(served) {
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(r.Stop)
	return r
}

// Dir returns a folder, in memory where the system has such a place: nothing
// here depends on what a crash leaves.
func Dir(t testing.TB) string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		t.Setenv("TMPDIR", "/dev/shm")
	}
	return t.TempDir()
}

// Post sends a body to the wire and returns the status and what came back.
func (r *KeyserverRig) Post(t testing.TB, body string) (int, []byte) {
	t.Helper()
	response, err := r.HTTP.Post(r.URL, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, answer
}

// WireError is an error as the wire has it.
type WireError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// Try makes a call as deployed clients do: a number for an id, params an object,
// and reads the answer strictly.
func (r *KeyserverRig) Try(t testing.TB, method string, params, result any) *WireError {
	t.Helper()
	id := r.calls.Add(1) + 1<<60 // would not survive a float64
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "method": method, "params": params, "id": id})
	if err != nil {
		t.Fatal(err)
	}
	status, text := r.Post(t, string(body))
	var answer struct {
		Version string          `json:"jsonrpc"`
		Result  json.RawMessage `json:"result"`
		Error   *WireError      `json:"error"`
		ID      json.RawMessage `json:"id"`
	}
	strict := json.NewDecoder(bytes.NewReader(text))
	strict.DisallowUnknownFields()
	if err := strict.Decode(&answer); err != nil || status != 200 || answer.Version != "2.0" || string(answer.ID) != strconv.FormatUint(id, 10) ||
		(answer.Error == nil) == (answer.Result == nil) {
		t.Fatalf("%s: not an answer to call %d: %d, %v in %.500s", method, id, status, err, text)
	}
	if answer.Error != nil {
		return answer.Error
	}
	if answer.Result[0] != '{' {
		t.Fatalf("%s: the result is no object: %.500s", method, answer.Result)
	}
	if result != nil {
		strict := json.NewDecoder(bytes.NewReader(answer.Result))
		strict.DisallowUnknownFields()
		if err := strict.Decode(result); err != nil {
			t.Fatalf("%s: %v in %.500s", method, err, answer.Result)
		}
	}
	return nil
}

// Call makes a call that must succeed.
func (r *KeyserverRig) Call(t testing.TB, method string, params, result any) {
	t.Helper()
	if problem := r.Try(t, method, params, result); problem != nil {
		t.Fatalf("%s: %d %s", method, problem.Code, problem.Message)
	}
}

// Object is a JSON object.
type Object = map[string]any

// NewKey returns a key made from a byte.
func NewKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

// Public is the public key of a key.
func Public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// NewMessage makes the first message of an identity in profile 1.0.
func NewMessage(identity, lastEntry string, key ed25519.PrivateKey, now time.Time) *uid.Message {
	m := &uid.Message{Content: uid.Content{
		Identity:    identity,
		LastEntry:   lastEntry,
		NotAfter:    uint64(now.AddDate(1, 0, 0).Unix()),
		Preferences: uid.Preferences{Ciphersuites: []string{uid.Ciphersuite}, ForwardSec: uid.Strict},
		PubKeys:     uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, Public(key))},
		RepoURIs:    []string{Domain},
		SigKey:      uid.NewKeyEntry(uid.Ed25519, Public(key)),
		Version:     uid.Version10,
	}}
	m.Sign(key)
	return m
}

// NextMessage makes the message after m, with another SIGKEY.
func NextMessage(m *uid.Message, old, key ed25519.PrivateKey) *uid.Message {
	n := *m
	n.Content.MsgCount++
	n.Content.SigKey = uid.NewKeyEntry(uid.Ed25519, Public(key))
	n.Sign(key)
	n.SignUser(old)
	return &n
}

// NewKeyInit makes a KeyInit for a key.
func NewKeyInit(t testing.TB, key ed25519.PrivateKey, n byte, fallback bool, now time.Time) *keyinit.KeyInit {
	t.Helper()
	hash := uid.SigKeyHash(Public(key))
	k := &keyinit.KeyInit{Contents: keyinit.Contents{
		Fallback: fallback, NotAfter: uint64(now.AddDate(0, 0, 80).Unix()) + uint64(n), RepoURI: Domain,
		SigKeyHash: canonical.Encode(hash[:]), Version: uid.Version10,
	}}
	anchor := &keyinit.Anchor{MixAddress: "mix@example.org", PFKeys: uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, Public(NewKey(n)))}}
	if err := k.Contents.Seal(anchor, Public(key), rand.Reader); err != nil {
		t.Fatal(err)
	}
	k.Sign(key)
	return k
}

// LastEntry asks for the last entry over the wire.
func (r *KeyserverRig) LastEntry(t testing.TB) (entry string, position uint64) {
	t.Helper()
	var last struct {
		HCEntry string
		HCPos   uint64
	}
	r.Call(t, "KeyHashchain.FetchLastHashChain", Object{}, &last)
	return last.HCEntry, last.HCPos
}

// Chain fetches and verifies the whole hashchain.
func (r *KeyserverRig) Chain(t testing.TB) ([]hashchain.Entry, hashchain.Chain) {
	t.Helper()
	_, position := r.LastEntry(t)
	var got struct {
		HCEntries  []string
		HCFirstPos uint64
	}
	r.Call(t, "KeyHashchain.FetchHashChain", Object{"StartPosition": 0, "EndPosition": position}, &got)
	if uint64(len(got.HCEntries)) != position+1 || got.HCFirstPos != 0 {
		t.Fatalf("%d entries from %d, want %d", len(got.HCEntries), got.HCFirstPos, position+1)
	}
	var entries []hashchain.Entry
	for _, text := range got.HCEntries {
		entry, err := hashchain.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry)
	}
	var c hashchain.Chain
	if err := c.Append(entries, nil); err != nil {
		t.Fatal(err)
	}
	return entries, c
}

// Register makes an identity over the wire.
func (r *KeyserverRig) Register(t testing.TB, identity string, key ed25519.PrivateKey, now time.Time) *uid.Message {
	t.Helper()
	entry, _ := r.LastEntry(t)
	m := NewMessage(identity, entry, key, now)
	r.Call(t, "KeyRepository.CreateUID", Object{"UIDMessage": m, "Token": ""}, nil)
	return m
}
