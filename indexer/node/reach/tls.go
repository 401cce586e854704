package reach

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/keytree-bch/keytree/indexer/node"
)

// TLS returns what a connection to a node needs to believe its certificate: the one in a PEM
// file, usually the node's own, or if that is "", those that the system vouches for. It
// reads the file: ask for each connection, since a certificate is renewed in its file.
// expected says in an error what should be there, protocols are those to agree on.
func TLS(certFile, expected string, protocols ...string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols}
	if certFile == "" {
		return config, nil
	}
	pem, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("node's certificate: %w", err)
	}
	config.RootCAs = x509.NewCertPool()
	if !config.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("node's certificate: %s holds no PEM certificate: expected %s", certFile, expected)
	}
	return config, nil
}

// Unverified says what to do about a handshake that failed since the certificate does not
// verify: node.ErrUnsuitable. nil if err is about something else.
func Unverified(err error) error {
	verification := new(tls.CertificateVerificationError)
	if !errors.As(err, &verification) {
		return nil
	}
	return fmt.Errorf("%w: %w: expected the certificate given by cert=FILE, or without it one that this system trusts; copy the node's own", node.ErrUnsuitable, verification)
}

// CheckAddress returns an error unless an address is HOST:PORT.
func CheckAddress(address string) error {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("node address: expected HOST:PORT: %w", err)
	}
	return nil
}

// MaxSecretFile is the size in bytes above which a file is taken for something else than a
// secret.
const MaxSecretFile = 4096

// ReadSecretFile reads a file with a password or token in it: up to a byte more than
// MaxSecretFile, so that the caller can tell that it is something else. what it holds is
// named in the error.
func ReadSecretFile(file, what string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, MaxSecretFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return content, nil
}
