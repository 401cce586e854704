package keyserver_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	keyserverrpc "github.com/keytree-bch/keytree/rpc/keyserver"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// answer is what became of a call.
type answer int

const (
	refused answer = iota // for a reason of its own
	held                  // because the keyserver is held
	content
)

// TestHeld asks a keyserver on every route there is, before and after it is released.
// Before, none answers content, and what would answer it afterwards says why.
func TestHeld(t *testing.T) {
	open := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{})
	capabilities, err := open.Client.GetCapabilities(t.Context(), &keytreev1.GetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	open.Stop()

	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{Held: true})
	before := askAll(t, r, capabilities.Methods)
	wantHealth(t, r, healthpb.HealthCheckResponse_NOT_SERVING, http.StatusServiceUnavailable)
	r.Service.Release()
	wantHealth(t, r, healthpb.HealthCheckResponse_SERVING, http.StatusOK)
	contents := 0
	for route, after := range askAll(t, r, capabilities.Methods) {
		if before[route] == content || after == held || after == content && before[route] != held {
			t.Errorf("%s: %v while it is held, %v afterwards", route, before[route], after)
		}
		if after == content {
			contents++
		}
	}
	if contents < 10 {
		t.Errorf("%d of %d routes answer content when it is released", contents, len(before))
	}
}

// askAll makes every call of a keyserver on every wire, as far as it can be made up from
// its description.
func askAll(t *testing.T, r *rpctest.KeyserverRig, methods []string) map[string]answer {
	t.Helper()
	answers := make(map[string]answer)
	for _, method := range methods {
		params := map[string]string{
			"KeyHashchain.FetchHashChain": `{"StartPosition":0}`, "KeyRepository.FetchHashChain": `{"StartPosition":0}`,
			"KeyHashchain.LookupUID": `{"Identity":"keyserver@example.org"}`,
		}[method]
		code, body := r.Post(t, fmt.Sprintf(`{"jsonrpc":"2.0","method":%q,"params":%s,"id":1}`, method, max(params, "{}")))
		var got struct{ Error struct{ Code int } }
		if err := json.Unmarshal(body, &got); err != nil {
			t.Fatal(err)
		}
		answers["JSON-RPC "+method] = kind(got.Error.Code == 0, got.Error.Code == keyserverrpc.CodeDown && code == http.StatusServiceUnavailable)
	}
	descriptors := keytreev1.File_keytree_v1_keyserver_proto.Services().Get(0).Methods()
	for i := range descriptors.Len() {
		m := descriptors.Get(i)
		code := status.Code(invoke(t, r, m))
		answers["gRPC "+string(m.Name())] = kind(code == codes.OK, code == codes.Unavailable)
		if rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule); rule != nil {
			code := restCall(t, r, rule)
			answers["REST "+string(m.Name())] = kind(code == http.StatusOK, code == http.StatusServiceUnavailable)
		}
	}
	return answers
}

func kind(isContent, isHeld bool) answer {
	switch {
	case isContent:
		return content
	case isHeld:
		return held
	}
	return refused
}

// invoke makes a gRPC call with an empty request, but for an identity.
func invoke(t *testing.T, r *rpctest.KeyserverRig, m protoreflect.MethodDescriptor) error {
	t.Helper()
	request, reply := dynamicpb.NewMessage(m.Input()), dynamicpb.NewMessage(m.Output())
	if field := m.Input().Fields().ByName("identity"); field != nil {
		request.Set(field, protoreflect.ValueOfString("keyserver@example.org"))
	}
	path := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
	if !m.IsStreamingServer() {
		return r.Conn.Invoke(t.Context(), path, request, reply)
	}
	stream, err := r.Conn.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, path)
	if err == nil {
		err = stream.SendMsg(request)
	}
	if err == nil {
		err = stream.CloseSend()
	}
	if err == nil {
		err = stream.RecvMsg(reply)
	}
	return err
}

// restCall makes a REST call and returns the status.
func restCall(t *testing.T, r *rpctest.KeyserverRig, rule *annotations.HttpRule) int {
	t.Helper()
	verb, path, body := http.MethodGet, rule.GetGet(), ""
	if rule.GetPost() != "" {
		verb, path, body = http.MethodPost, rule.GetPost(), "{}"
	}
	path = strings.ReplaceAll(path, "{identity}", "keyserver@example.org")
	path = regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(path, "0")
	request, err := http.NewRequestWithContext(t.Context(), verb, r.REST+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := r.HTTP.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode
}

func wantHealth(t *testing.T, r *rpctest.KeyserverRig, want healthpb.HealthCheckResponse_ServingStatus, wantHTTP int) {
	t.Helper()
	health, err := healthpb.NewHealthClient(r.Conn).Check(t.Context(),
		&healthpb.HealthCheckRequest{Service: keytreev1.KeyserverService_ServiceDesc.ServiceName})
	if err != nil || health.Status != want {
		t.Errorf("health is %v, %v; want %v", health, err, want)
	}
	response, err := r.HTTP.Get(r.REST + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != wantHTTP {
		t.Errorf("/readyz answers %s, want %d", response.Status, wantHTTP)
	}
}
