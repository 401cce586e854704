package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/rpc"
)

// Where a server listens by default. Nothing else is known to use these ports.
const (
	defaultGRPC = "127.0.0.1:8434"
	defaultHTTP = "127.0.0.1:8435"
)

// listenFlags tell where a server answers, under which names, and how clients know that
// it is he.
type listenFlags struct {
	grpc, http    *parsed[string]
	metrics       *parsed[string]
	hosts         *parsed[[]string]
	cert, key     *string
	acme          *parsed[[]string]
	acmeCache     *string
	acmeDirectory *parsed[string]
	plaintext     *bool
}

func newListenFlags(flags *pflag.FlagSet) listenFlags {
	f := listenFlags{
		grpc:          newParsed("HOST:PORT", defaultGRPC, parseHostPort(true)),
		http:          newParsed("HOST:PORT", defaultHTTP, parseHostPort(true)),
		metrics:       newParsed("HOST:PORT", "", parseHostPort(true)),
		hosts:         newParsed("NAME,…", "", commaSeparated(parseHost)),
		cert:          flags.String("tls-cert", "", "certificate `FILE` with its chain, PEM; makes it TLS on all listeners; read again when it changes"),
		key:           flags.String("tls-key", "", "private key `FILE` of the certificate, PEM"),
		acme:          newParsed("DOMAIN,…", "", commaSeparated(parseHost)),
		acmeCache:     flags.String("acme-cache", "", "`DIR` of the certificates from --acme and their keys (default DIR/acme in the data folder)"),
		acmeDirectory: newParsed("URL", "", parseHTTPS),
		plaintext:     flags.Bool("plaintext", false, "listen without TLS where others than this machine may reach it, as behind a proxy that has TLS"),
	}
	flags.Var(f.grpc, "grpc-listen", "where to answer gRPC; port 0 lets the system choose")
	flags.Var(f.http, "http-listen", "where to answer REST; port 0 lets the system choose")
	flags.Var(f.metrics, "metrics-listen", "where to answer Prometheus (/metrics), and Go's profiles (/debug/pprof/), which are nowhere else; port 0 lets the system choose (default nowhere)")
	flags.Var(f.hosts, "http-host", "names that this machine is asked for by a proxy on it, or by whoever else reaches it by the loopback interface; others are refused there but localhost and addresses")
	flags.Var(f.acme, "acme", "host names to get certificates for, by ACME, for TLS on all listeners; one of these has to be reached on port 443; agrees to the authority's terms of service")
	flags.Var(f.acmeDirectory, "acme-directory", "directory of the authority that certificates are got from (default Let's Encrypt's)")
	setting(flags, "grpc-listen", "http-listen", "metrics-listen", "http-host", "tls-cert", "tls-key", "acme", "acme-cache", "acme-directory", "plaintext")
	return f
}

// parseHost reads the name of a host.
func parseHost(s string) (string, error) {
	if s == "" || strings.ContainsAny(s, ":/ *[]") {
		return "", fmt.Errorf("expected the name of a host, without a port, got %q", shortened(s))
	}
	return strings.ToLower(s), nil
}

func parseHTTPS(s string) (string, error) {
	if u, err := url.Parse(s); err != nil || u.Scheme != "https" || u.Host == "" {
		return "", fmt.Errorf("expected an https URL, got %q", shortened(s))
	}
	return s, nil
}

// listenConfig is where a server answers, under which names, and with which certificates.
type listenConfig struct {
	grpc, http        string
	metrics           string         // "": nowhere
	hosts             []string       // as rpc.Config.Hosts
	certFile, keyFile string         // "": there are none
	acme              rpc.ACMEConfig // without domains: none
}

// config returns what was asked for. It refuses to show others than this machine, without
// TLS, what nobody said is meant for them; ks is nil if there is no keyserver.
func (f listenFlags) config(dataDir string, ks *keyserverConfig) (listenConfig, error) {
	c := listenConfig{
		grpc: f.grpc.value, http: f.http.value, metrics: f.metrics.value, hosts: f.hosts.value, certFile: *f.cert, keyFile: *f.key,
		acme: rpc.ACMEConfig{Domains: f.acme.value, Cache: *f.acmeCache, Directory: f.acmeDirectory.value},
	}
	byACME := len(c.acme.Domains) > 0
	switch {
	case (c.certFile == "") != (c.keyFile == ""):
		return c, usagef("expected both or none of --tls-cert and --tls-key")
	case byACME && c.certFile != "":
		return c, usagef("expected certificates from one of --acme and --tls-cert")
	case !byACME && (c.acme.Cache != "" || c.acme.Directory != ""):
		return c, usagef("--acme-cache and --acme-directory go with --acme, which says for which names certificates are to be had")
	case *f.plaintext && c.secure():
		return c, usagef("expected --plaintext or certificates, got both")
	}
	if byACME && c.acme.Cache == "" {
		if dataDir == "" {
			return c, usagef("no folder for certificates given, and the system has no home folder to put them into: expected --acme-cache DIR")
		}
		c.acme.Cache = filepath.Join(dataDir, "acme")
	}
	if *f.plaintext || c.secure() {
		return c, nil
	}
	err := errors.Join(refuseBeyondLoopback("grpc-listen", c.grpc), refuseBeyondLoopback("http-listen", c.http))
	if c.metrics != "" {
		err = errors.Join(err, refuseBeyondLoopback("metrics-listen", c.metrics))
	}
	if ks != nil && ks.tlsCert == "" {
		err = errors.Join(err, refuseBeyondLoopback("keyserver-listen", ks.listen))
	}
	return c, err
}

// refuseBeyondLoopback refuses to listen where others than this machine reach it. An
// address that cannot be told of will fail.
func refuseBeyondLoopback(flag, address string) error {
	if at, err := net.ResolveTCPAddr("tcp", address); err != nil || at.IP.IsLoopback() {
		return nil
	}
	return usagef("--%s %s: others than this machine may reach it, unencrypted: expected --tls-cert and --tls-key, or --acme; "+
		"or --plaintext, if that is meant, as behind a proxy that has TLS", flag, address)
}

// secure tells whether there are certificates.
func (c listenConfig) secure() bool { return c.certFile != "" || len(c.acme.Domains) > 0 }

// tls returns what shows clients certificates, nil if there are none.
func (c listenConfig) tls(files *certificates) (*tls.Config, error) {
	switch {
	case len(c.acme.Domains) > 0:
		return rpc.NewACME(c.acme), nil
	case c.certFile == "":
		return nil, nil
	}
	return files.load(c.certFile, c.keyFile)
}
