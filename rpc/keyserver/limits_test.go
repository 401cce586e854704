package keyserver_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/rpc/admission"
	keyserverrpc "github.com/keytree-bch/keytree/rpc/keyserver"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestCallRate uses up an allowance over each wire.
func TestCallRate(t *testing.T) {
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{CallRate: 1}) // ten at once
	const call = `{"jsonrpc":"2.0","method":"KeyHashchain.FetchLastHashChain","id":1}`
	_, answer := r.Post(t, "["+strings.Repeat(call+",", 99)+call+"]")
	if n := strings.Count(string(answer), `"HCPos":0`); n < 10 || n > 50 {
		t.Errorf("%d of 100 calls of a batch were answered, want about 10", n)
	}
	if n := strings.Count(string(answer), fmt.Sprintf(`"code":%d`, keyserverrpc.CodeRate)); n < 50 {
		t.Errorf("%d of 100 calls were refused", n)
	}
	refused := 0
	for range 40 {
		response, err := r.HTTP.Get(r.REST + "/v1/keyserver/head")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused < 10 {
		t.Errorf("REST refused %d of 40 calls", refused)
	}
}

// TestFetchLimit fetches more KeyInits than one client may, on all wires in turn: then it gets what
// is there for fallback, on each of them.
func TestFetchLimit(t *testing.T) {
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{CallRate: 3000, MaxKeyInits: 2000})
	now, key := time.Now(), rpctest.NewKey(1)
	r.Register(t, "alice@example.org", key, now)
	const burst, atOnce = 500, keyserver.MaxKeyInitsPerCall
	fallback := rpctest.NewKeyInit(t, key, 200, true, now)
	for range 3 * burst / atOnce {
		var inits []*keyinit.KeyInit
		for range atOnce {
			inits = append(inits, rpctest.NewKeyInit(t, key, 1, false, now))
		}
		if _, err := r.Service.AddKeyInit(t.Context(), rpctest.Public(key), inits, make([]string, atOnce)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Service.AddKeyInit(t.Context(), rpctest.Public(key), []*keyinit.KeyInit{fallback}, []string{""}); err != nil {
		t.Fatal(err)
	}
	hash := uid.SigKeyHash(rpctest.Public(key))
	wires := []struct {
		name  string
		fetch func() string
	}{
		{"JSON-RPC", func() string {
			var got struct{ KeyInit string }
			r.Call(t, "KeyInitRepository.FetchKeyInit", rpctest.Object{"SigKeyHash": canonical.Encode(hash[:])}, &got)
			return got.KeyInit
		}},
		{"gRPC", func() string {
			got, err := r.Client.FetchKeyInit(t.Context(), &keytreev1.FetchKeyInitRequest{SigKeyHash: hash[:]})
			if err != nil {
				t.Fatal(err)
			}
			return got.KeyInit
		}},
		{"REST", func() string {
			response, err := r.HTTP.Post(r.REST+"/v1/keyserver:fetchKeyInit", "application/json",
				strings.NewReader(fmt.Sprintf(`{"sig_key_hash":%q}`, canonical.Encode(hash[:]))))
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			var got struct {
				KeyInit string `json:"key_init"`
			}
			if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
				t.Fatal(err)
			}
			return got.KeyInit
		}},
	}
	seen := make(map[string]bool)
	for n := range burst {
		seen[wires[n%len(wires)].fetch()] = true
	}
	if n := len(seen); n < burst || seen[string(fallback.Canonical())] {
		t.Errorf("the first %d were %d different ones", burst, n)
	}
	for _, wire := range wires {
		// Another one is allowed every ten seconds, so that time may pass here.
		over := 0
		for range 10 {
			if wire.fetch() == string(fallback.Canonical()) {
				over++
			}
		}
		if over < 5 {
			t.Errorf("%s: %d of 10 above the limit were for fallback", wire.name, over)
		}
	}
}

// TestPaidFetch fetches KeyInits for tokens on both wires, as many as there are.
func TestPaidFetch(t *testing.T) {
	issuer, err := token.OpenIssuer(filepath.Join(t.TempDir(), "issuer"))
	if err != nil {
		t.Fatal(err)
	}
	pay := func() string {
		text, err := issuer.Issue(rpctest.Domain)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{CallRate: 1000, PaidFetch: true, Tokens: token.Issued{Domain: rpctest.Domain, Issuer: issuer.Public()}})
	now, key := time.Now(), rpctest.NewKey(1)
	hash := uid.SigKeyHash(rpctest.Public(key))
	entry, _ := r.LastEntry(t)
	if _, err := r.Service.CreateUID(t.Context(), rpctest.NewMessage("alice@example.org", entry, key, now), pay()); err != nil {
		t.Fatal(err)
	}
	const stored = 2*100 + 20 // more than two limits
	for range stored {
		if _, err := r.Service.AddKeyInit(t.Context(), rpctest.Public(key), []*keyinit.KeyInit{rpctest.NewKeyInit(t, key, 1, false, now)}, []string{pay()}); err != nil {
			t.Fatal(err)
		}
	}
	var caps struct{ CAPABILITIES keyserver.Capabilities }
	r.Call(t, "KeyRepository.Capabilities", rpctest.Object{}, &caps)
	also, err := r.Client.GetCapabilities(t.Context(), &keytreev1.GetCapabilitiesRequest{})
	if err != nil || also.KeyInitFetch != "token" || caps.CAPABILITIES.KeyInitFetch != "token" {
		t.Errorf("Capabilities: %+v, %+v, %v", caps, also, err)
	}
	if problem := r.Try(t, "KeyInitRepository.FetchKeyInit", rpctest.Object{"SigKeyHash": canonical.Encode(hash[:])}, nil); problem == nil || problem.Code != keyserverrpc.CodeToken {
		t.Errorf("without a token: %+v", problem)
	}
	if _, err := r.Client.FetchKeyInit(t.Context(), &keytreev1.FetchKeyInitRequest{SigKeyHash: hash[:]}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without a token: %v", err)
	}
	seen := make(map[string]bool)
	for range stored / 2 {
		var got struct{ KeyInit string }
		r.Call(t, "KeyInitRepository.FetchKeyInit", rpctest.Object{"SigKeyHash": canonical.Encode(hash[:]), "Token": pay()}, &got)
		also, err := r.Client.FetchKeyInit(t.Context(), &keytreev1.FetchKeyInitRequest{SigKeyHash: hash[:], Token: pay()})
		if err != nil {
			t.Fatal(err)
		}
		seen[got.KeyInit], seen[also.KeyInit] = true, true
	}
	if len(seen) != stored {
		t.Errorf("%d different ones, want %d", len(seen), stored)
	}
}

// TestFetchLimitIsPerClient has one client fetch what it may. What one client fetches is no
// other client's business. A trusted proxy tells who they are.
func TestFetchLimitIsPerClient(t *testing.T) {
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{CallRate: 3000, Gate: admission.New(admission.Config{
		Limits: admission.DefaultLimits(), Proxies: admission.Loopback(),
	})})
	now, key := time.Now(), rpctest.NewKey(1)
	r.Register(t, "alice@example.org", key, now)
	const burst, atOnce = 500, keyserver.MaxKeyInitsPerCall
	for range 2 * burst / atOnce {
		var inits []*keyinit.KeyInit
		for range atOnce {
			inits = append(inits, rpctest.NewKeyInit(t, key, 1, false, now))
		}
		if _, err := r.Service.AddKeyInit(t.Context(), rpctest.Public(key), inits, make([]string, atOnce)); err != nil {
			t.Fatal(err)
		}
	}
	hash := uid.SigKeyHash(rpctest.Public(key))
	fetch := func(client string) int {
		request, err := http.NewRequest("POST", r.REST+"/v1/keyserver:fetchKeyInit", strings.NewReader(fmt.Sprintf(`{"sig_key_hash":%q}`, canonical.Encode(hash[:]))))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("X-Forwarded-For", client)
		response, err := r.HTTP.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		io.Copy(io.Discard, response.Body)
		return response.StatusCode
	}
	for range burst {
		if got := fetch("192.0.2.1"); got != http.StatusOK {
			t.Fatalf("within the limit: %d", got)
		}
	}
	// Another one is allowed every ten seconds, so that time may pass here. There is none for
	// fallback.
	refused := 0
	for range 10 {
		if fetch("192.0.2.1") == http.StatusTooManyRequests {
			refused++
		}
	}
	if got := fetch("192.0.2.2"); refused < 5 || got != http.StatusOK {
		t.Errorf("%d of 10 above the limit were refused; another client: %d", refused, got)
	}
}

// TestKeyInitsAreWork has one client add as many KeyInits as it may at once, again and again:
// each of them counts as a call.
func TestKeyInitsAreWork(t *testing.T) {
	limits := admission.DefaultLimits()
	limits.Work.One = 12 // 120 at once: a hundred KeyInits, and the size of the request
	key, now := rpctest.NewKey(1), time.Now()
	var texts []string
	for range keyserver.MaxKeyInitsPerCall {
		texts = append(texts, string(rpctest.NewKeyInit(t, key, 1, false, now).Canonical()))
	}
	for _, wire := range []struct {
		name string
		add  func(r *rpctest.KeyserverRig) string
	}{
		{"JSON-RPC", func(r *rpctest.KeyserverRig) string {
			body := fmt.Sprintf(`{"jsonrpc":"2.0","method":"KeyInitRepository.AddKeyInit","params":{"SigPubKey":%q,"KeyInits":[%s],"Tokens":[%s""]},"id":1}`,
				canonical.Encode(rpctest.Public(key)), strings.Join(texts, ","), strings.Repeat(`"",`, len(texts)-1))
			_, answer := r.Post(t, body)
			return string(answer)
		}},
		{"gRPC", func(r *rpctest.KeyserverRig) string {
			_, err := r.Client.AddKeyInit(t.Context(), &keytreev1.AddKeyInitRequest{SigPubKey: rpctest.Public(key), KeyInits: texts, Tokens: make([]string, len(texts))})
			return fmt.Sprint(err)
		}},
	} {
		r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{Gate: admission.New(admission.Config{Limits: limits})})
		first := wire.add(r)
		if !strings.Contains(first, "no identity has this SIGKEY") {
			t.Errorf("%s: %.200s", wire.name, first)
		}
		refused := 0
		for range 5 {
			if strings.Contains(wire.add(r), "too many calls of your address") {
				refused++
			}
		}
		if refused == 0 {
			t.Errorf("%s: six times a hundred KeyInits were let in", wire.name)
		}
	}
}
