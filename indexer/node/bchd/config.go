package bchd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node/reach"
)

// URLForm is what ParseURL takes. bchd's own certificate is rpc.cert in its
// folder; without cert= the system's certificate authorities decide. The token
// file holds what the node was given as --grpcauthtoken.
const URLForm = "bchd://HOST:PORT?cert=FILE&token_file=FILE"

// DefaultRetryFor is how long a call goes on trying to reach the node.
const DefaultRetryFor = reach.RetryFor

func urlForm() reach.URLForm {
	return reach.URLForm{
		Text: URLForm, Schemes: []string{"bchd"}, Keys: []string{"cert", "token_file"},
		PutSecret: "put the auth token into a file",
	}
}

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
	u, err := urlForm().Parse(s)
	if err != nil {
		return Config{}, err
	}
	cfg := Config{Address: u.Address}
	cfg.CertFile = u.Query.Get("cert")
	if cfg.TokenFile = u.Query.Get("token_file"); cfg.TokenFile != "" {
		if cfg.AuthToken, err = readToken(cfg.TokenFile); err != nil {
			return Config{}, err
		}
	}
	return cfg, nil
}

func readToken(file string) (string, error) {
	content, err := reach.ReadSecretFile(file, "node's auth token")
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(content))
	if token == "" || len(content) > reach.MaxSecretFile {
		return "", fmt.Errorf("node's auth token: %s is empty or over %d bytes: expected the value of bchd's --grpcauthtoken and nothing else", file, reach.MaxSecretFile)
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
	return reach.CheckAddress(cfg.Address)
}

func (cfg Config) tls() (*tls.Config, error) {
	return reach.TLS(cfg.CertFile, "a copy of bchd's rpc.cert", "h2")
}
