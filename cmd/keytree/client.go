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
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/rpc/client"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// maxPage is how many elements of a list are asked for at a time.
const maxPage = 1000

// connect prepares a client of the gRPC interface at an address, which the first call connects
// to. It believes certificates that the system vouches for, or that ca does, if it is not nil.
func connect(address string, ca *caFlag, o client.Options) (*client.Client, error) {
	var err error
	if o.TLS, err = ca.trust(); err != nil {
		return nil, err
	}
	return client.New(address, o)
}

// server is a keytree server that is asked. Its errors are for the user.
type server struct {
	*client.Client
	address string
	// lists has the pages of lists as they are, with the tokens that --json shows.
	lists keytreev1.IdentityServiceClient
	// unconfirmed asks as well what is pending after the tip.
	unconfirmed bool
	// retrying is told why a Watch was interrupted; nil before watch.
	retrying func(err error, after time.Duration)
}

// dial prepares a connection to a server, as connect does.
func dial(address string, ca *caFlag) (*server, error) {
	s := &server{address: address}
	c, err := connect(address, ca, client.Options{
		Retrying: func(err error, after time.Duration) { s.retrying(err, after) },
		Dial:     []grpc.DialOption{grpc.WithUnaryInterceptor(s.unary)},
	})
	if err != nil {
		return nil, fmt.Errorf("server %s: %w", address, err)
	}
	s.Client, s.lists = c, keytreev1.NewIdentityServiceClient(c.Conn())
	return s, nil
}

// asOf asks as of the block at a height; as of the tip if it is nil, and then maybe what is unconfirmed.
func (c *server) asOf(height *uint32) client.View {
	switch {
	case height != nil:
		return c.At(*height)
	case c.unconfirmed:
		return c.Unconfirmed()
	}
	return c.View
}

// staying returns what to ask next as of, after an answer as of a height: what is unconfirmed goes with the tip
// alone, of which has to be seen then that it stays.
func (c *server) staying(height *uint32) *uint32 {
	if c.unconfirmed {
		return nil
	}
	return height
}

// unary makes the error of a call one for the user.
func (c *server) unary(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
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
func (c *server) explain(err error) error {
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
		switch {
		case strings.Contains(s.Message(), "does not look like a TLS handshake"):
			e.text += "; does it speak plain text? (http://HOST:PORT says that this is meant)"
		case unreachable(s):
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

// parseServer checks the address of a gRPC interface.
func parseServer(s string) (string, error) {
	_, address, said := strings.Cut(s, "://")
	if !said {
		address = s
	} else if !strings.HasPrefix(s, "http://") && !strings.HasPrefix(s, "https://") {
		return "", fmt.Errorf("expected HOST:PORT, http://HOST:PORT or https://HOST:PORT, got %q", shortened(s))
	}
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
	flags.Var(f.address, "server", "keytree server's gRPC interface, over TLS unless it is on this machine; https://HOST:PORT and http://HOST:PORT say so")
	setting(flags, "server")
	return f
}

func (f serverFlags) dial() (*server, error) { return dial(f.address.value, f.ca) }

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
func asks(cmd *cobra.Command, ask func(ctx context.Context, c *server, args []string, asJSON bool) error) {
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
