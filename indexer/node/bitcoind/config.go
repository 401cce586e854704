package bitcoind

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node/reach"
)

// URLForm is what ParseURL takes, beside the same with https and cert=FILE for
// a node that speaks TLS (bchd). Exactly one of USER:PASS and cookie is needed.
// The cookie is .cookie in the node's folder, on networks other than mainnet in
// a folder below.
const URLForm = "http://HOST:PORT?cookie=FILE or http://USER:PASS@HOST:PORT, optionally with zmq=tcp://HOST:PORT"

// Defaults of Config.
const (
	// DefaultRetryFor is how long a call goes on trying to reach the node.
	DefaultRetryFor = reach.RetryFor
	// DefaultStallAfter is how long a new block may go unannounced by ZeroMQ.
	DefaultStallAfter = 30 * time.Second
)

// Secret is a string that no log, error or dump shows.
type Secret string

// String implements fmt.Stringer.
func (Secret) String() string { return "(secret)" }

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return s.String() }

// MarshalText implements encoding.TextMarshaler.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Config says how to reach a node.
type Config struct {
	// Address is HOST:PORT of the node's JSON-RPC interface.
	Address string
	// TLS says that the node speaks https. CertFile is then a PEM file with the
	// certificate to trust, usually the node's own, read for each connection; empty:
	// the system's certificate authorities.
	TLS      bool
	CertFile string
	// User and Password are the node's rpcuser and rpcpassword. Without them
	// CookieFile is the node's .cookie, which it writes anew at each start.
	User       string
	Password   Secret
	CookieFile string
	// ZMQ is HOST:PORT of the node's zmqpubhashblock; empty: no hints.
	ZMQ string
	// Network is the network that the node has to be on.
	Network *chaincfg.Params
	// From is the lowest height whose block will be asked for: a pruned node has
	// to have it.
	From uint32
	// RetryFor is how long one call goes on trying while the node does not answer;
	// 0 means DefaultRetryFor. How long an answer may take is another matter.
	RetryFor time.Duration
	// StallAfter is how long after Tip has seen a new block that ZeroMQ did not
	// announce its connection is made anew; 0 means DefaultStallAfter.
	StallAfter time.Duration
	// Log hears about waiting and reconnecting.
	Log zerolog.Logger
}

// ParseURL reads a node's URL of the form URLForm. Files are read later. The
// fields without a part in the URL are left to the caller. Errors repeat
// nothing of the URL, since any part of it may turn out to be a password.
func ParseURL(s string) (Config, error) {
	form := reach.URLForm{Text: URLForm, Schemes: []string{"http", "https"}, Keys: []string{"cookie", "zmq", "cert"}, Password: true}
	u, err := form.Parse(s)
	if err != nil {
		return Config{}, err
	}
	refuse := func(why string) (Config, error) { return Config{}, form.Refuse(why) }
	cfg := Config{
		Address: u.Address, TLS: u.Scheme == "https",
		CertFile: u.Query.Get("cert"), CookieFile: u.Query.Get("cookie"), User: u.User.Username(),
	}
	password, _ := u.User.Password()
	cfg.Password = Secret(password)
	switch {
	case u.User != nil && cfg.CookieFile != "":
		return refuse("has both a password and a cookie")
	case u.User == nil && cfg.CookieFile == "":
		return refuse("has no credentials")
	case u.User != nil && (cfg.User == "" || password == ""):
		return refuse("has an empty user or password")
	case cfg.CertFile != "" && !cfg.TLS:
		return refuse("has a certificate, which goes with https")
	}
	if zmq := u.Query.Get("zmq"); zmq != "" {
		endpoint, err := url.Parse(zmq)
		if err != nil || endpoint.Scheme != "tcp" || endpoint.Hostname() == "" || endpoint.Port() == "" || zmq != "tcp://"+endpoint.Host {
			return refuse("has a zmq that is not tcp://HOST:PORT, as in the node's -zmqpubhashblock")
		}
		cfg.ZMQ = endpoint.Host
	}
	return cfg, nil
}

func (cfg Config) check() error {
	if cfg.Network == nil {
		return errors.New("bitcoind.Config: Network is missing")
	}
	if err := reach.CheckAddress(cfg.Address); err != nil {
		return err
	}
	if (cfg.CookieFile == "") == (cfg.User == "" || cfg.Password == "") {
		return errors.New("bitcoind.Config: expected either CookieFile or User and Password")
	}
	return nil
}

func (cfg Config) tls() (*tls.Config, error) {
	return reach.TLS(cfg.CertFile, "a copy of the node's (bchd: rpc.cert)")
}

// login is what the node asks for by HTTP basic authentication.
type login struct {
	user     string
	password Secret
}

// readCookie reads USER:PASSWORD from the node's cookie file.
func readCookie(file string) (login, error) {
	content, err := reach.ReadSecretFile(file, "node's cookie")
	if err != nil {
		return login{}, err
	}
	user, password, ok := strings.Cut(strings.TrimSpace(string(content)), ":")
	if !ok || user == "" || password == "" || len(content) > reach.MaxSecretFile || strings.ContainsAny(password, "\r\n") {
		return login{}, fmt.Errorf("node's cookie: %s does not hold one line USER:PASSWORD: expected the file .cookie in the node's folder", file)
	}
	return login{user, Secret(password)}, nil
}
