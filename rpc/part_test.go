package rpc_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/rpc"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestPartsFail has one part fail in each way: the other answers, and whoever asks is told
// which it is.
func TestPartsFail(t *testing.T) {
	const index, kept = "the index has failed", "the keyserver has failed"
	failed := new(rpc.Part)
	failed.Fail()
	for _, test := range []struct {
		name             string
		config           rpc.Config // without graph and keyserver
		unopened         bool       // the part that has failed could not be opened
		damaged          bool       // the graph is, while it is served
		index, keyserver string     // why it is not ready; "" if it is
		indexAnswers     bool
	}{
		{name: "none", config: rpc.Config{IndexPart: new(rpc.Part), KeyserverPart: new(rpc.Part)}, indexAnswers: true},
		{name: "an index that could not be opened", config: rpc.Config{IndexPart: failed}, unopened: true, index: index},
		{name: "an index that is damaged", config: rpc.Config{IndexPart: new(rpc.Part)}, damaged: true, index: index},
		{name: "an index that its node has ended", config: rpc.Config{IndexPart: failed}, indexAnswers: true, index: index},
		{name: "a keyserver that could not be opened", config: rpc.Config{KeyserverPart: failed}, unopened: true, indexAnswers: true, keyserver: kept},
		{name: "a keyserver that its anchors have ended", config: rpc.Config{KeyserverPart: failed}, indexAnswers: true, keyserver: kept},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := test.config
			if !test.unopened || c.KeyserverPart == nil {
				dir := rpctest.Dir(t)
				service, err := keyserver.Open(t.Context(), keyserver.Options{
					Domain: rpctest.Domain, Dir: dir + "/keyserver", KeyFile: dir + "/key", Tokens: token.Open{}, Log: zerolog.Nop(),
				})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { service.Close() })
				c.Keyserver = service
			}
			r := new(rpctest.Rig)
			if test.unopened && c.IndexPart != nil {
				r.Serve(t, c)
			} else {
				r = rpctest.NewOf(t, c, (&rpctest.Chain{}).Block())
			}
			if test.damaged { // closed is as good as that
				if err := r.Graph.Close(); err != nil {
					t.Fatal(err)
				}
			}

			for service, want := range map[string]string{
				"": test.index + test.keyserver, "keytree.v1.IdentityService": test.index, "keytree.v1.AnchorService": test.index,
				"keytree.v1.KeyserverService": test.keyserver,
			} {
				got, err := healthpb.NewHealthClient(r.Conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
				if err != nil || (got.Status == healthpb.HealthCheckResponse_SERVING) != (want == "") {
					t.Errorf("health of %q: %v, %v; want it %q", service, got, err, want)
				}
			}
			for path, want := range map[string]string{
				"/readyz": test.index + test.keyserver, "/readyz/index": test.index, "/readyz/keyserver": test.keyserver,
			} {
				response, answer := r.REST(t, "GET", path, "")
				reason, _ := answer["reason"].(string)
				if (response.StatusCode == http.StatusOK) != (want == "") || answer["ready"] != (want == "") || !strings.HasPrefix(reason, want) {
					t.Errorf("%s: %d %v, want %q", path, response.StatusCode, answer, want)
				}
			}
			if _, answer := r.REST(t, "GET", "/readyz", ""); len(answer["parts"].(map[string]any)) != 2 {
				t.Errorf("/readyz: %v", answer)
			}

			_, err := r.Client.GetStatus(t.Context(), &keytreev1.GetStatusRequest{})
			wantAnswer(t, "index over gRPC", err, test.indexAnswers)
			response, answer := r.REST(t, "GET", "/v1/status", "")
			if (response.StatusCode == http.StatusOK) != test.indexAnswers || !test.indexAnswers && response.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("the index over REST: %d %v", response.StatusCode, answer)
			}
			stream, err := r.Client.Watch(t.Context(), &keytreev1.WatchRequest{FromHeight: new(uint32)})
			if err == nil {
				_, err = stream.Recv()
			}
			wantAnswer(t, "stream of the index", err, test.indexAnswers)
			_, err = keytreev1.NewKeyserverServiceClient(r.Conn).GetSignedHead(t.Context(), &keytreev1.GetSignedHeadRequest{})
			wantAnswer(t, "keyserver over gRPC", err, test.keyserver == "")
			response, answer = r.REST(t, "GET", "/v1/keyserver/head", "")
			if (response.StatusCode == http.StatusOK) != (test.keyserver == "") || test.keyserver != "" && response.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("the keyserver over REST: %d %v", response.StatusCode, answer)
			}
		})
	}
}

func wantAnswer(t *testing.T, what string, err error, want bool) {
	t.Helper()
	code := codes.OK
	if !want {
		code = codes.Unavailable
	}
	if got := status.Code(err); got != code {
		t.Errorf("%s: %v, want %v", what, err, code)
	}
}

// TestOnePart has a server that runs one part say so.
func TestOnePart(t *testing.T) {
	r := rpctest.New(t, (&rpctest.Chain{}).Block())
	if response, _ := r.REST(t, "GET", "/readyz/index", ""); response.StatusCode != http.StatusOK {
		t.Errorf("/readyz/index: %s", response.Status)
	}
	if response, answer := r.REST(t, "GET", "/readyz/keyserver", ""); response.StatusCode != http.StatusNotFound || !strings.Contains(answer["message"].(string), "expected one of index") {
		t.Errorf("/readyz/keyserver: %s %v", response.Status, answer)
	}
}
