package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
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

// connect prepares a connection to a gRPC interface, which is made by the first call: at
// HOST:PORT, or, with TLS, https://HOST:PORT, whose certificate the system vouches for, or
// ca, if it is not nil.
func connect(server string, ca *caFlag, opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	address, secure := strings.CutPrefix(server, https)
	wire := insecure.NewCredentials()
	if secure {
		config, err := ca.trust()
		if err != nil {
			return nil, err
		}
		wire = credentials.NewTLS(config)
	}
	return grpc.NewClient("dns:///"+address, append(opts, grpc.WithTransportCredentials(wire))...)
}

// client is a connection to a keytree server.
type client struct {
	keytreev1.IdentityServiceClient
	address string
	conn    *grpc.ClientConn
}

// dial prepares a connection to a server, as connect does.
func dial(server string, ca *caFlag) (*client, error) {
	c := &client{address: server}
	conn, err := connect(server, ca,
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithUnaryInterceptor(c.unary),
	)
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", server, err)
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

// https begins the address of a gRPC interface that has TLS.
const https = "https://"

// parseServer checks the address of a gRPC interface.
func parseServer(s string) (string, error) {
	address, _ := strings.CutPrefix(s, https)
	if _, err := parseHostPort(false)(address); err != nil {
		return "", err
	}
	return s, nil
}

// serverFlags tell which server is asked.
type serverFlags struct {
	address *parsed[string]
	ca      *caFlag
}

func newServerFlags(flags *pflag.FlagSet) serverFlags {
	f := serverFlags{newParsed("HOST:PORT", defaultGRPC, parseServer), newCAFlag(flags, "server-ca")}
	flags.Var(f.address, "server", "keytree server's gRPC interface; https://HOST:PORT where it has TLS")
	setting(flags, "server")
	return f
}

func (f serverFlags) dial() (*client, error) { return dial(f.address.value, f.ca) }

// caFlag names a file with certificates to trust.
type caFlag struct {
	name string
	file *string
}

func newCAFlag(flags *pflag.FlagSet, name string) *caFlag {
	f := &caFlag{name, flags.String(name, "", "`FILE` with certificates to trust besides the system's for https, PEM")}
	setting(flags, name)
	return f
}

// trust returns what a client needs to believe a server's certificate.
func (f *caFlag) trust() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if f == nil || *f.file == "" {
		return config, nil
	}
	pem, err := os.ReadFile(*f.file)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", f.name, err)
	}
	if config.RootCAs, err = x509.SystemCertPool(); err != nil {
		config.RootCAs = x509.NewCertPool()
	}
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--%s: %s: expected a certificate as PEM", f.name, *f.file)
	}
	return config, nil
}

// asks completes a command that asks a server; ask is run with a connection.
func asks(cmd *cobra.Command, ask func(ctx context.Context, c *client, args []string, asJSON bool) error) {
	flags := cmd.Flags()
	placeFlags(flags)
	server := newServerFlags(flags)
	asJSON := flags.Bool("json", false, "print the answer as REST gives it, one JSON object a line")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := server.dial()
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
