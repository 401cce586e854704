package rpc

import (
	"crypto/tls"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// ACMEConfig says for which names certificates are to be had, and from whom (RFC 8555).
type ACMEConfig struct {
	// Domains are host names in lower case. Clients must ask for one of them by SNI.
	Domains []string
	// Cache is the folder, made if there is none, that keeps account, private keys and
	// certificates, readable by its owner alone.
	Cache string
	// Directory is the URL of the authority's directory; "" is that of Let's Encrypt.
	Directory string
}

// NewACME returns what listeners need to show certificates from an authority, whose terms
// of service are agreed to by it. They are got when the first client asks for a name, who
// waits for that, and renewed in time.
//
// The authority connects to port 443 of a domain (TLS-ALPN-01, RFC 8737): one of the
// listeners has to be reached there.
func NewACME(c ACMEConfig) *tls.Config {
	manager := &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(c.Cache),
		HostPolicy: autocert.HostWhitelist(c.Domains...),
		Client:     &acme.Client{DirectoryURL: c.Directory, UserAgent: "keytree"},
	}
	config := manager.TLSConfig()
	config.MinVersion = tls.VersionTLS12
	return config
}
