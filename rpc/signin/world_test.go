package signin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol/signin"
	"github.com/keytree-bch/keytree/rpc"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
	"github.com/keytree-bch/keytree/rpc/rpctest"
	signinrpc "github.com/keytree-bch/keytree/rpc/signin"
)

const (
	domain = "memo.cash"
	uri    = "https://memo.cash/login"
)

// secret makes the nonces of all servers of these tests.
func secret() []byte { return bytes.Repeat([]byte{1}, signin.NonceKeySize) }

// object is one of JSON.
type object map[string]any

// with returns a copy with other fields.
func (o object) with(fields object) object {
	out := object{}
	for _, from := range []object{o, fields} {
		for name, value := range from {
			out[name] = value
		}
	}
	return out
}

// answered signs a text, for VerifySignIn.
func answered(t *testing.T, p rpctest.Person, text string) object {
	t.Helper()
	return object{"message": text, "signature": p.Sign(t, text), "domain": domain}
}

// textFor makes a challenge as a server of these tests does.
func textFor(t *testing.T, p rpctest.Person, net *chaincfg.Params, issued time.Time) string {
	t.Helper()
	v, err := signin.NewVerifier(secret(), net)
	if err != nil {
		t.Fatal(err)
	}
	m, err := v.Challenge(signin.Request{Domain: domain, URI: uri, Key: p.WIF.Key}, issued)
	if err != nil {
		t.Fatal(err)
	}
	return m.Text()
}

// server answers REST.
type server interface {
	post(t *testing.T, call string, body object) (code int, answer object)
}

// rig is a server with a graph.
type rig struct{ *rpctest.Rig }

func newRig(t *testing.T) rig {
	return rig{rpctest.NewOf(t, rpc.Config{SignInKey: secret()}, (&rpctest.Chain{}).Block())}
}

// config is that of another server on the same graph.
func (r rig) config() rpc.Config {
	return rpc.Config{SignInKey: secret(), Graph: r.Graph, Indexer: r.Follower, Net: rpctest.Net}
}

func (r rig) post(t *testing.T, call string, body object) (int, object) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	response, answer := r.REST(t, http.MethodPost, "/v1/signin:"+call, string(text))
	return response.StatusCode, answer
}

// next is the block after the graph's tip.
func (r rig) next(t *testing.T, actions ...links.Action) {
	t.Helper()
	tip, _ := r.Graph.Tip()
	r.Connect(t, (&rpctest.Chain{Next: tip.Height + 1, Prev: tip.Hash}).Block(actions...))
}

// alone is a service whose clock stands, and to which every key is its own root.
type alone struct {
	net *chaincfg.Params
	mux http.Handler
}

func newAlone(t *testing.T, net *chaincfg.Params, now time.Time) alone {
	t.Helper()
	clock := now.Add(-time.Minute) // it has been there for a while
	service, err := signinrpc.New(signinrpc.Config{Net: net, Index: roots{}, Key: secret(), Now: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	clock = now
	mux := rest.NewMux()
	if err := service.RegisterREST(mux); err != nil {
		t.Fatal(err)
	}
	return alone{net, mux}
}

func (a alone) post(t *testing.T, call string, body object) (code int, answer object) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/signin:"+call, bytes.NewReader(text))
	request.Header.Set("Content-Type", "application/json")
	response := httptest.NewRecorder()
	a.mux.ServeHTTP(response, request)
	if err := json.Unmarshal(response.Body.Bytes(), &answer); err != nil {
		t.Fatalf("%s: %v in %s", call, err, response.Body)
	}
	return response.Code, answer
}

// roots is an index without links.
type roots struct{}

// Status implements signinrpc.Index.
func (roots) Status(context.Context) (*keytreev1.GetStatusResponse, error) {
	return &keytreev1.GetStatusResponse{Synced: true}, nil
}

// ResolveUnconfirmed implements signinrpc.Index.
func (roots) ResolveUnconfirmed(_ context.Context, address string) (*keytreev1.Resolution, error) {
	return &keytreev1.Resolution{
		Address: address, MainAddress: address, Path: []string{address}, AsOfHash: chainhash.Hash{1}.String(), Unconfirmed: &keytreev1.Unconfirmed{Available: true},
	}, nil
}

// challenge asks a server for a text with other fields than the usual ones.
func challenge(t *testing.T, s server, p rpctest.Person, fields object) string {
	t.Helper()
	code, answer := s.post(t, "challenge", object{"domain": domain, "uri": uri, "address": p.Address}.with(fields))
	text, _ := answer["message"].(string)
	if code != http.StatusOK {
		t.Fatalf("challenge: %d %v", code, answer)
	}
	return text
}

// challenged asks a server for a text.
func challenged(t *testing.T, s server, p rpctest.Person) string {
	t.Helper()
	return challenge(t, s, p, nil)
}

// wantReason asks a server to verify what it must refuse.
func wantReason(t *testing.T, s server, name string, body object, reason, says string) {
	t.Helper()
	code, answer := s.post(t, "verify", body)
	if got, message := reasonOf(answer), answer["message"]; got != reason || code == http.StatusOK || !strings.Contains(message.(string), says) {
		t.Errorf("%s: %d %s %v; want %s and %q", name, code, got, answer, reason, says)
	}
}

// wantSignedIn asks a server to verify what it must take.
func wantSignedIn(t *testing.T, s server, name string, body object, address string) object {
	t.Helper()
	code, answer := s.post(t, "verify", body)
	if code != http.StatusOK || answer["address"] != address {
		t.Errorf("%s: %d %v, want %s", name, code, answer, address)
	}
	return answer
}

// reasonOf returns that of an error, "" if it has none.
func reasonOf(answer object) string {
	details, _ := answer["details"].([]any)
	for _, detail := range details {
		if detail := detail.(map[string]any); detail["@type"] == "type.googleapis.com/google.rpc.ErrorInfo" && detail["domain"] == "keytree" {
			return detail["reason"].(string)
		}
	}
	return ""
}
