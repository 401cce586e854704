package rpc_test

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
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

const testDomain = "example.org"

// keyserverRig is a keyserver on a database of its own, served in every way.
type keyserverRig struct {
	service *keyserver.Service
	address string // of the JSON-RPC wire
	url     string // the same
	rest    string // URL of REST
	conn    *grpc.ClientConn
	client  keytreev1.KeyserverServiceClient
	http    *http.Client
	stop    func() // stops the servers and the service, and fails the test unless they end well
}

// rigOptions are what tests vary; zero is the usual.
type rigOptions struct {
	dir         string // of the data; a temporary one if ""
	tokens      keyserver.Tokens
	now         func() time.Time
	tls         *tls.Config // of the wire
	hosts       []string    // of this machine, but its own
	callRate    int         // of clients that are all local; 0 for no limits
	gate        *admission.Gate
	anchors     *schedule.Schedule
	held        bool // until service.Release
	maxKeyInits int  // of a key
	paidFetch   bool
}

func newKeyserverRig(t testing.TB, o rigOptions) *keyserverRig {
	t.Helper()
	if o.dir == "" {
		o.dir = testDir(t)
	}
	if o.tokens == nil {
		o.tokens = token.Open{}
	}
	service, err := keyserver.Open(t.Context(), keyserver.Options{
		Domain: testDomain, Dir: filepath.Join(o.dir, "keyserver"), KeyFile: filepath.Join(o.dir, "key"),
		Tokens: o.tokens, Now: o.now, Anchors: o.anchors, Held: o.held, MaxKeyInits: o.maxKeyInits, PaidFetch: o.paidFetch, Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	gate := o.gate
	if gate == nil && o.callRate > 0 {
		gate = admission.New(admission.Config{Limits: admission.DefaultLimits()}) // for the machine itself, too
	}
	wire := rpc.NewKeyserverServer(rpc.KeyserverConfig{
		Service: service, TLS: o.tls, Hosts: o.hosts, CallRate: o.callRate, Admission: gate, Log: zerolog.Nop(),
	})
	server, err := rpc.NewServer(rpc.Config{Keyserver: service, Hosts: o.hosts, CallRate: o.callRate, Admission: gate, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	wireListener, grpcListener, httpListener := listen(t), listen(t), listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 2)
	go func() { served <- wire.Serve(ctx, wireListener) }()
	go func() { served <- server.Serve(ctx, grpcListener, httpListener) }()

	r := &keyserverRig{
		service: service,
		address: wireListener.Addr().String(),
		url:     "http://" + wireListener.Addr().String() + "/",
		rest:    "http://" + httpListener.Addr().String(),
		http:    &http.Client{Transport: &http.Transport{}},
	}
	if o.tls != nil {
		r.url = "https" + strings.TrimPrefix(r.url, "http")
	}
	r.conn, err = grpc.NewClient(grpcListener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	r.client = keytreev1.NewKeyserverServiceClient(r.conn)
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		r.http.CloseIdleConnections()
		r.conn.Close()
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
	t.Cleanup(r.stop)
	return r
}

// testDir returns a folder, in memory where the system has such a place: nothing
// here depends on what a crash leaves.
func testDir(t testing.TB) string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		t.Setenv("TMPDIR", "/dev/shm")
	}
	return t.TempDir()
}

// post sends a body to the wire and returns the status and what came back.
func (r *keyserverRig) post(t testing.TB, body string) (int, []byte) {
	t.Helper()
	response, err := r.http.Post(r.url, "application/json", strings.NewReader(body))
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

// wireError is an error as the wire has it.
type wireError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

var ids atomic.Uint64

// try makes a call as deployed clients do: a number for an id, params an object,
// and reads the answer strictly.
func (r *keyserverRig) try(t testing.TB, method string, params, result any) *wireError {
	t.Helper()
	id := ids.Add(1) + 1<<60 // would not survive a float64
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "method": method, "params": params, "id": id})
	if err != nil {
		t.Fatal(err)
	}
	status, text := r.post(t, string(body))
	var answer struct {
		Version string          `json:"jsonrpc"`
		Result  json.RawMessage `json:"result"`
		Error   *wireError      `json:"error"`
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

// call makes a call that must succeed.
func (r *keyserverRig) call(t testing.TB, method string, params, result any) {
	t.Helper()
	if problem := r.try(t, method, params, result); problem != nil {
		t.Fatalf("%s: %d %s", method, problem.Code, problem.Message)
	}
}

type object = map[string]any

// newKey returns a key made from a byte.
func newKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// newMessage makes the first message of an identity in profile 1.0.
func newMessage(identity, lastEntry string, key ed25519.PrivateKey, now time.Time) *uid.Message {
	m := &uid.Message{Content: uid.Content{
		Identity:    identity,
		LastEntry:   lastEntry,
		NotAfter:    uint64(now.AddDate(1, 0, 0).Unix()),
		Preferences: uid.Preferences{Ciphersuites: []string{uid.Ciphersuite}, ForwardSec: uid.Strict},
		PubKeys:     uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, public(key))},
		RepoURIs:    []string{testDomain},
		SigKey:      uid.NewKeyEntry(uid.Ed25519, public(key)),
		Version:     uid.Version10,
	}}
	m.Sign(key)
	return m
}

// nextMessage makes the message after m, with another SIGKEY.
func nextMessage(m *uid.Message, old, key ed25519.PrivateKey) *uid.Message {
	n := *m
	n.Content.MsgCount++
	n.Content.SigKey = uid.NewKeyEntry(uid.Ed25519, public(key))
	n.Sign(key)
	n.SignUser(old)
	return &n
}

// newKeyInit makes a KeyInit for a key.
func newKeyInit(t testing.TB, key ed25519.PrivateKey, n byte, fallback bool, now time.Time) *keyinit.KeyInit {
	t.Helper()
	hash := uid.SigKeyHash(public(key))
	k := &keyinit.KeyInit{Contents: keyinit.Contents{
		Fallback: fallback, NotAfter: uint64(now.AddDate(0, 0, 80).Unix()) + uint64(n), RepoURI: testDomain,
		SigKeyHash: canonical.Encode(hash[:]), Version: uid.Version10,
	}}
	anchor := &keyinit.Anchor{MixAddress: "mix@example.org", PFKeys: uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, public(newKey(n)))}}
	if err := k.Contents.Seal(anchor, public(key), rand.Reader); err != nil {
		t.Fatal(err)
	}
	k.Sign(key)
	return k
}

// lastEntry asks for the last entry over the wire.
func (r *keyserverRig) lastEntry(t testing.TB) (entry string, position uint64) {
	t.Helper()
	var last struct {
		HCEntry string
		HCPos   uint64
	}
	r.call(t, "KeyHashchain.FetchLastHashChain", object{}, &last)
	return last.HCEntry, last.HCPos
}

// chain fetches and verifies the whole hashchain.
func (r *keyserverRig) chain(t testing.TB) ([]hashchain.Entry, hashchain.Chain) {
	t.Helper()
	_, position := r.lastEntry(t)
	var got struct {
		HCEntries  []string
		HCFirstPos uint64
	}
	r.call(t, "KeyHashchain.FetchHashChain", object{"StartPosition": 0, "EndPosition": position}, &got)
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

// register makes an identity over the wire.
func (r *keyserverRig) register(t testing.TB, identity string, key ed25519.PrivateKey, now time.Time) *uid.Message {
	t.Helper()
	entry, _ := r.lastEntry(t)
	m := newMessage(identity, entry, key, now)
	r.call(t, "KeyRepository.CreateUID", object{"UIDMessage": m, "Token": ""}, nil)
	return m
}
