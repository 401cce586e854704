package bchd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"
)

// URLForm is what ParseURL takes. bchd's own certificate is rpc.cert in its
// folder; without cert= the system's certificate authorities decide. The token
// file holds what the node was given as --grpcauthtoken.
const URLForm = "bchd://HOST:PORT?cert=FILE&token_file=FILE"

// DefaultRetryFor is how long a call goes on trying to reach the node.
const DefaultRetryFor = 30 * time.Second

// maxTokenFile is the size in bytes above which a token file is taken for
// something else.
const maxTokenFile = 4096

// Config says how to reach a bchd.
type Config struct {
	// Address is HOST:PORT of the node's gRPC interface (--grpclisten).
	Address string
	// CertFile is a PEM file with the certificate to trust, usually the node's own
	// self-signed one, read for each connection. Empty: the system's certificate
	// authorities.
	CertFile string
	// AuthToken is the node's --grpcauthtoken; empty if it has none. TokenFile is the
	// file that it came from, which is read again when the node refuses the token;
	// empty: there is none.
	AuthToken string
	TokenFile string
	// Network is the network that the node has to be on.
	Network *chaincfg.Params
	// RetryFor is how long one call goes on trying while the node does not answer;
	// 0 means DefaultRetryFor. How long an answer may take is another matter.
	RetryFor time.Duration
	// Log hears about waiting and reconnecting.
	Log zerolog.Logger
}

// ParseURL reads a node's URL of the form URLForm, and the token from its file.
// Network, RetryFor and Log are left to the caller. Errors never repeat the URL
// as a whole, in case somebody put a secret into it.
func ParseURL(s string) (Config, error) {
	u, err := url.Parse(s)
	if err != nil {
		return Config{}, fmt.Errorf("node URL cannot be parsed: expected %s", URLForm)
	}
	switch {
	case u.Scheme != "bchd":
		return Config{}, fmt.Errorf("node URL has scheme %q: expected %s", u.Scheme, URLForm)
	case u.User != nil:
		return Config{}, fmt.Errorf("node URL holds credentials, which other users of the machine can see: put the auth token into a file, %s", URLForm)
	case u.Hostname() == "" || u.Port() == "":
		return Config{}, fmt.Errorf("node URL has no host or no port: expected %s", URLForm)
	case strings.Trim(u.Path, "/") != "" || u.Fragment != "":
		return Config{}, fmt.Errorf("node URL has a path or fragment after the port: expected %s", URLForm)
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Config{}, fmt.Errorf("node URL has a malformed query: expected %s", URLForm)
	}
	cfg := Config{Address: net.JoinHostPort(u.Hostname(), u.Port())}
	for key, values := range query {
		if key != "cert" && key != "token_file" {
			return Config{}, fmt.Errorf("node URL has the unknown key %q: expected %s", key, URLForm)
		}
		if len(values) != 1 || values[0] == "" {
			return Config{}, fmt.Errorf("node URL has %q %d times or empty: expected %s", key, len(values), URLForm)
		}
	}
	cfg.CertFile = query.Get("cert")
	if cfg.TokenFile = query.Get("token_file"); cfg.TokenFile != "" {
		if cfg.AuthToken, err = readToken(cfg.TokenFile); err != nil {
			return Config{}, err
		}
	}
	return cfg, nil
}

func readToken(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("node's auth token: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return "", fmt.Errorf("node's auth token: %w", err)
	}
	token := strings.TrimSpace(string(content))
	if token == "" || len(content) > maxTokenFile {
		return "", fmt.Errorf("node's auth token: %s is empty or over %d bytes: expected the value of bchd's --grpcauthtoken and nothing else", file, maxTokenFile)
	}
	for _, c := range []byte(token) {
		if c < ' ' || c > '~' {
			return "", fmt.Errorf("node's auth token: %s holds more than one line or characters other than printable ASCII", file)
		}
	}
	return token, nil
}

func (cfg Config) check() error {
	if cfg.Network == nil {
		return errors.New("bchd.Config: Network is missing")
	}
	if _, _, err := net.SplitHostPort(cfg.Address); err != nil {
		return fmt.Errorf("node address: expected HOST:PORT: %w", err)
	}
	return nil
}

func (cfg Config) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}
	if cfg.CertFile == "" {
		return config, nil
	}
	pem, err := os.ReadFile(cfg.CertFile)
	if err != nil {
		return nil, fmt.Errorf("node's certificate: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("node's certificate: %s holds no PEM certificate: expected a copy of bchd's rpc.cert", cfg.CertFile)
	}
	return config, nil
}
