package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

const (
	// maxAnswer is the most that one answer may take, in bytes: 10,000
	// resolutions with full paths are some 50 MB.
	maxAnswer = 128 << 20
	// callTimeout is longer than the server itself allows a call.
	callTimeout = 70 * time.Second
	// maxPage is how many elements the client asks for at a time.
	maxPage = 1000
)

// client is a connection to a keytree server.
type client struct {
	keytreev1.IdentityServiceClient
	address string
	conn    *grpc.ClientConn
}

// dial prepares a connection to a server, which is made by the first call.
func dial(address string) (*client, error) {
	c := &client{address: address}
	conn, err := grpc.NewClient("dns:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithUnaryInterceptor(c.unary),
	)
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", address, err)
	}
	c.conn, c.IdentityServiceClient = conn, keytreev1.NewIdentityServiceClient(conn)
	return c, nil
}

func (c *client) Close() error { return c.conn.Close() }

// unary bounds the time of each call and makes its error one for the user.
func (c *client) unary(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.explain(invoke(ctx, method, request, answer, conn, opts...))
}

// callError is a failed call. It keeps the gRPC status for status.Code.
type callError struct {
	text   string
	status *status.Status
}

func (e *callError) Error() string              { return e.text }
func (e *callError) GRPCStatus() *status.Status { return e.status }

// explain turns an error of a call into one for the user.
func (c *client) explain(err error) error {
	if err == nil {
		return nil
	}
	s := status.Convert(err)
	e := &callError{text: s.Message(), status: s}
	switch s.Code() {
	case codes.InvalidArgument:
		return usageError{e}
	case codes.NotFound, codes.OutOfRange, codes.FailedPrecondition, codes.Aborted:
	case codes.Unavailable:
		e.text = fmt.Sprintf("server %s: %s", c.address, s.Message())
		if unreachable(s) {
			e.text += "; is keytree serve running there? (--server HOST:PORT names another)"
		}
	default:
		e.text = fmt.Sprintf("server %s: %v: %s", c.address, s.Code(), s.Message())
	}
	return e
}

// unreachable tells whether there was no connection at all; other calls that
// are refused as Unavailable have reached the server.
func unreachable(s *status.Status) bool {
	return s.Code() == codes.Unavailable &&
		(strings.Contains(s.Message(), "connection error") || strings.Contains(s.Message(), "name resolver error"))
}

func serverFlag(flags *pflag.FlagSet) *parsed[string] {
	p := newParsed("HOST:PORT", defaultGRPC, parseHostPort(false))
	flags.Var(p, "server", "keytree server's gRPC interface, which is unencrypted")
	setting(flags, "server")
	return p
}

// asks completes a command that asks a server; ask is run with a connection.
func asks(cmd *cobra.Command, ask func(ctx context.Context, c *client, args []string, asJSON bool) error) {
	flags := cmd.Flags()
	placeFlags(flags)
	server := serverFlag(flags)
	asJSON := flags.Bool("json", false, "print the answer as REST gives it, one JSON object a line")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := dial(server.value)
		if err != nil {
			return err
		}
		defer c.Close()
		return ask(cmd.Context(), c, args, *asJSON)
	}
}

// printJSON prints a message as REST does: field names as in the .proto file,
// every field there. protojson varies its white space, so that is taken out.
func (a *app) printJSON(m proto.Message) error {
	raw, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return fmt.Errorf("answer as JSON: %w", err)
	}
	var line bytes.Buffer
	if err := json.Compact(&line, raw); err != nil {
		return fmt.Errorf("answer as JSON: %w", err)
	}
	line.WriteByte('\n')
	_, err = line.WriteTo(a.stdout)
	return err
}

// looksLikeID tells an id_tx_hash, also one of a wrong length, from an address:
// no address of more than 35 characters consists of hex digits alone.
func looksLikeID(s string) bool {
	return len(s) > 35 && strings.IndexFunc(s, notHex) < 0
}

// parseSubject reads ADDRESS|ID. The address is for the server to check, which
// knows the network.
func parseSubject(s string) (address, id string, err error) {
	if !looksLikeID(s) {
		return s, "", nil
	}
	if _, err := parseTxID(s); err != nil {
		return "", "", usagef("id %q: %w", shortened(s), err)
	}
	return "", strings.ToLower(s), nil
}
