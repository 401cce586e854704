package rpc_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	keyserverrpc "github.com/keytree-bch/keytree/rpc/keyserver"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestRefusalsSayWhenToComeBack has one client, behind a proxy, use up its budget on each
// wire. Others are answered.
func TestRefusalsSayWhenToComeBack(t *testing.T) {
	limits := admission.DefaultLimits()
	limits.Work.One = 10 // a hundred at once
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{Gate: admission.New(admission.Config{
		Limits: limits, Proxies: admission.Loopback(), Unlimited: []netip.Prefix{netip.MustParsePrefix("192.0.2.128/25")},
	})})
	do := func(client, method, url, body string) (int, string, []byte) {
		request, err := http.NewRequest(method, url, strings.NewReader(body))
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
		answer, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, response.Header.Get("Retry-After"), answer
	}
	for _, wire := range []struct {
		name string
		// ask returns "" if it was answered, else what was wrong with the refusal, or "refused".
		ask func(client string) string
	}{
		{"REST", func(client string) string {
			code, after, body := do(client, "GET", r.REST+"/v1/keyserver/head", "")
			if code == http.StatusOK {
				return ""
			}
			var refusal struct {
				Code    codes.Code
				Message string
				Details []struct {
					Type  string `json:"@type"`
					Delay string `json:"retryDelay"`
					Also  string `json:"retry_delay"`
				}
			}
			if err := json.Unmarshal(body, &refusal); err != nil {
				return err.Error()
			}
			if n, err := strconv.Atoi(after); code != http.StatusTooManyRequests || err != nil || n < 1 ||
				refusal.Code != codes.ResourceExhausted || !strings.Contains(refusal.Message, "too many calls of your address") || len(refusal.Details) != 1 {
				return fmt.Sprintf("%d, Retry-After %q, %s", code, after, body)
			}
			return "refused"
		}},
		{"JSON-RPC", func(client string) string {
			code, after, body := do(client, "POST", r.URL, `{"jsonrpc":"2.0","method":"KeyHashchain.FetchLastHashChain","id":1}`)
			if code == http.StatusOK {
				return ""
			}
			var refusal struct {
				Error struct {
					Code    int
					Message string
				}
			}
			if err := json.Unmarshal(body, &refusal); err != nil {
				return err.Error()
			}
			if code != http.StatusTooManyRequests || after == "" || refusal.Error.Code != keyserverrpc.CodeRate || !strings.Contains(refusal.Error.Message, "too many calls of your address") {
				return fmt.Sprintf("%d, Retry-After %q, %s", code, after, body)
			}
			return "refused"
		}},
		{"gRPC", func(client string) string {
			ctx := metadata.AppendToOutgoingContext(t.Context(), "x-forwarded-for", client)
			_, err := r.Client.GetSignedHead(ctx, &keytreev1.GetSignedHeadRequest{})
			if err == nil {
				return ""
			}
			st := status.Convert(err)
			if len(st.Details()) == 1 {
				info, _ := st.Details()[0].(*errdetails.RetryInfo)
				if st.Code() == codes.ResourceExhausted && info.GetRetryDelay().AsDuration() >= time.Second && strings.Contains(st.Message(), "too many calls of your address") {
					return "refused"
				}
			}
			return fmt.Sprintf("%v, %v", st, st.Details())
		}},
	} {
		t.Run(wire.name, func(t *testing.T) {
			client := "198.51.100." + strconv.Itoa(len(wire.name))
			for n := range 1000 { // ten a second come back
				if got := wire.ask(client); got == "refused" {
					break
				} else if got != "" || n == 999 {
					t.Fatalf("question %d: %q", n, got)
				}
			}
			if got := wire.ask("198.51.100.99"); got != "" {
				t.Errorf("another client: %s", got)
			}
			for range 300 {
				if got := wire.ask("192.0.2.129"); got != "" {
					t.Fatalf("the operator's own: %s", got)
				}
			}
		})
	}
}

// TestFarewell connects when there is no place, not even an idle one.
func TestFarewell(t *testing.T) {
	limits := admission.DefaultLimits()
	limits.Connections = admission.Budget{All: 1, One: 1}
	gate := admission.New(admission.Config{Limits: limits})
	r := rpctest.NewOf(t, rpc.Config{Admission: gate})
	address := strings.TrimPrefix(r.URL, "http://")
	first, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := io.WriteString(first, "POST /v1/addresses:batchResolve HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	for gate.Usage().Requests == 0 {
		time.Sleep(time.Millisecond)
	}
	second, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	// It is told also if it has already sent what it wants.
	if _, err := io.WriteString(second, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(second), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Retry-After") == "" || !strings.Contains(string(body), "connections") {
		t.Errorf("%s, %v, %q, %v", response.Status, response.Header, body, err)
	}
}

// TestKeyserverUnderSiege fills the places of a keyserver's wire with TLS: connections that
// say nothing, or begin to shake hands, or shake hands and go no further. Its users are
// answered, on all wires.
func TestKeyserverUnderSiege(t *testing.T) {
	limits := admission.DefaultLimits()
	attackers := 3 * limits.Connections.All / 2
	if !exhaustive() {
		limits.Connections = admission.Budget{All: 64, One: 32}
		attackers = 150
	}
	gate := admission.New(admission.Config{Limits: limits})
	config, pool := rpctest.Certificate(t, "127.0.0.1")
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{Gate: gate, TLS: config})
	r.Trust(pool)
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for i := range attackers {
		c, err := dialFrom(t.Context(), 2+i%200, r.Address)
		if err != nil {
			t.Skipf("this system has one loopback address only: %v", err)
		}
		open = append(open, c)
		switch i % 3 {
		case 1:
			io.WriteString(c, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
		case 2:
			// It may be closed in the middle of it: there are no places for all.
			tls.Client(c, &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}).HandshakeContext(t.Context())
		}
		if used := gate.Usage().Connections; used > limits.Connections.All {
			t.Fatalf("%d connections are open", used)
		}
	}
	for range 20 {
		r.HTTP.CloseIdleConnections()
		awaitRest(gate)
		if _, position := r.LastEntry(t); position != 0 {
			t.Errorf("the last entry is at %d", position)
		}
		response, err := r.HTTP.Get(r.REST + "/v1/keyserver/head")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if _, err := r.Client.GetSignedHead(t.Context(), &keytreev1.GetSignedHeadRequest{}); err != nil {
			t.Error(err)
		}
	}
}

// awaitRest waits until a gate has noticed which connections were closed: none has come or gone
// for a while.
func awaitRest(gate *admission.Gate) {
	for before, now := -1, gate.Usage().Connections; now != before; before, now = now, gate.Usage().Connections {
		time.Sleep(50 * time.Millisecond)
	}
}
