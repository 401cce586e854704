package rpc_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/rpc"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// logged is a log, written to by a server and read by a test.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer // mu
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// What is asked for in these tests, by every name that a field has for it.
func askedFor(field protoreflect.FieldDescriptor) string {
	switch name := string(field.Name()); {
	case strings.HasPrefix(name, "address"):
		return rpctest.Address("asked for")
	case strings.HasSuffix(name, "_hash"):
		return rpctest.HashOf("asked for").String()
	case name == "identity":
		return "asked@example.org"
	}
	return ""
}

// askEverything makes each call of the graph's services, over gRPC and, where it has a
// path there, over REST.
func askEverything(t *testing.T, conn *grpc.ClientConn, url, query string) {
	t.Helper()
	for _, file := range []protoreflect.FileDescriptor{keytreev1.File_keytree_v1_identity_proto, keytreev1.File_keytree_v1_anchor_proto} {
		methods := file.Services().Get(0).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			request := dynamicpb.NewMessage(m.Input())
			fields := m.Input().Fields()
			var inPath []string
			for j := range fields.Len() {
				field := fields.Get(j)
				asked := askedFor(field)
				switch {
				case asked == "":
				case field.IsList():
					request.Mutable(field).List().Append(protoreflect.ValueOfString(asked))
				default:
					request.Set(field, protoreflect.ValueOfString(asked))
					inPath = append(inPath, "{"+string(field.Name())+"}", asked)
				}
			}
			askOverGRPC(t, conn, m, request)
			if rule, _ := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule); rule != nil {
				fill := strings.NewReplacer(inPath...)
				if rule.GetPost() != "" {
					ask(t, "POST", url+fill.Replace(rule.GetPost()), fmt.Sprintf(`{"addresses":[%q]}`, rpctest.Address("asked for")))
				} else {
					ask(t, "GET", url+fill.Replace(rule.GetGet())+query, "")
				}
			}
		}
	}
	ask(t, "GET", url+"/v1/anchors/chains/"+rpctest.HashOf("asked for").String()+"/bundle"+query, "")
	ask(t, "GET", url+"/v1/nothing/"+rpctest.Address("asked for"), "")
	ask(t, "DELETE", url+"/v1/addresses/"+rpctest.Address("asked for"), "")
}

func askOverGRPC(t *testing.T, conn *grpc.ClientConn, m protoreflect.MethodDescriptor, request proto.Message) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name()))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.SendMsg(request); err != nil {
		t.Fatal(err)
	}
	stream.CloseSend()
	if m.Name() == "Watch" { // which may go on for ever
		_, err = stream.Header()
	} else {
		err = stream.RecvMsg(dynamicpb.NewMessage(m.Output()))
	}
	if err != nil && err != io.EOF {
		return // what comes of it is another test's
	}
}

func ask(t *testing.T, method, url, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return // an answer may be broken off
	}
	defer response.Body.Close()
	io.Copy(io.Discard, response.Body)
}

// TestLogsKeepQuiet asks on every route, of servers in every state, and expects that the
// log has not what was asked for.
func TestLogsKeepQuiet(t *testing.T) {
	_, blocks := rpctest.Family()
	for name, test := range map[string]struct {
		status indexer.Status
		query  string
		closed bool
	}{
		"as usual":             {status: indexer.Status{Checked: true, Synced: true}},
		"beyond the tip":       {status: indexer.Status{Checked: true}, query: "?at_height=1000"},
		"misspelt":             {status: indexer.Status{Checked: true}, query: "?at_hieght=" + rpctest.Address("asked for")},
		"before the check":     {},
		"without its database": {status: indexer.Status{Checked: true}, closed: true},
	} {
		t.Run(name, func(t *testing.T) {
			g, err := graph.Open(t.TempDir(), graph.Params{Network: rpctest.Net.Name}, graph.Options{MemTable: 8 << 20, Log: zerolog.Nop()})
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Connect(blocks...); err != nil {
				t.Fatal(err)
			}
			shut := sync.OnceValue(g.Close)
			defer shut()
			log, f := new(logged), new(rpctest.Follower)
			f.Set(test.status)
			server, err := rpc.NewServer(rpc.Config{Graph: g, Indexer: f, Net: rpctest.Net, Log: zerolog.New(log)})
			if err != nil {
				t.Fatal(err)
			}
			grpcListener, httpListener := rpctest.Listen(t), rpctest.Listen(t)
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error, 1)
			go func() { served <- server.Serve(ctx, grpcListener, httpListener) }()
			conn, err := grpc.NewClient(grpcListener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				t.Fatal(err)
			}
			if test.closed {
				if err := shut(); err != nil {
					t.Fatal(err)
				}
			}
			askEverything(t, conn, "http://"+httpListener.Addr().String(), test.query)
			conn.Close()
			http.DefaultClient.CloseIdleConnections()
			cancel()
			if err := <-served; err != nil {
				t.Error(err)
			}
			text := log.String()
			for _, asked := range []string{rpctest.Address("asked for"), strings.TrimPrefix(rpctest.Address("asked for"), "bchreg:"),
				fmt.Sprintf("%x", rpctest.Key("asked for")), rpctest.HashOf("asked for").String()} {
				if at := strings.Index(text, asked); at >= 0 {
					t.Errorf("the log has %s: %s", asked, text[max(0, at-300):min(len(text), at+300)])
				}
			}
		})
	}
}
