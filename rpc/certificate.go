package rpc

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// Certificate is a certificate with its private key, in two files. It reads them again
// when they have changed, for the next connection: certificates expire and are replaced
// while a server runs. It is safe for concurrent use.
type Certificate struct {
	certFile, keyFile string
	log               zerolog.Logger

	mu      sync.Mutex
	current *tls.Certificate // mu
	read    [2]fileVersion   // mu; of the files when they were last read, be it in vain
}

// fileVersion tells a file from what it was before.
type fileVersion struct {
	modified time.Time
	size     int64
}

// LoadCertificate reads a certificate with its chain, and its private key, in PEM.
// It must name the hosts that it is for as subject alternative names, without which
// no client accepts it. To log goes what is wrong with files that replace it later: the
// one before is used on.
func LoadCertificate(certFile, keyFile string, log zerolog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log, read: versions(certFile, keyFile)}
	var err error
	c.current, err = readCertificate(certFile, keyFile)
	return c, err
}

// TLS returns what a listener needs to show the certificate.
func (c *Certificate) TLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
}

// get returns the certificate for a connection.
func (c *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Two files are never replaced at once. If one is still the old one, reading fails,
	// and is tried again when the other has changed.
	if versions(c.certFile, c.keyFile) != c.read {
		c.readAgain()
	}
	return c.current, nil
}

// Reload reads the files now, whether they have changed or not, for the next connection. It
// reports whether they could be used, and logs it; the certificate before is used on if not.
func (c *Certificate) Reload() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.readAgain()
}

// readAgain reads the files. The caller holds mu.
func (c *Certificate) readAgain() bool {
	c.read = versions(c.certFile, c.keyFile)
	fresh, err := readCertificate(c.certFile, c.keyFile)
	if err != nil {
		c.log.Warn().Err(err).Msg("the TLS certificate's files cannot be used; the one before is")
		return false
	}
	c.log.Info().Str("file", c.certFile).Time("expires", fresh.Leaf.NotAfter).Msg("the TLS certificate was read again")
	c.current = fresh
	return true
}

func versions(certFile, keyFile string) (v [2]fileVersion) {
	for i, file := range []string{certFile, keyFile} {
		if info, err := os.Stat(file); err == nil { // one that is away is another version, too
			v[i] = fileVersion{info.ModTime(), info.Size()}
		}
	}
	return v
}

func readCertificate(certFile, keyFile string) (*tls.Certificate, error) {
	certificate, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("rpc: TLS certificate: %w", err)
	}
	leaf := certificate.Leaf
	switch {
	case len(leaf.DNSNames) == 0 && len(leaf.IPAddresses) == 0:
		return nil, fmt.Errorf("rpc: TLS certificate %s: expected one with a subject alternative name, got none: clients ignore the common name", certFile)
	case time.Now().After(leaf.NotAfter):
		return nil, fmt.Errorf("rpc: TLS certificate %s: it expired at %s", certFile, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return &certificate, nil
}
