package bchd

import (
	"context"
	"crypto/tls"
	"net"

	"google.golang.org/grpc/credentials"
)

// freshTLS are credentials for connections that asks for its configuration anew for
// each of them: a certificate is renewed in its file.
type freshTLS struct {
	credentials.TransportCredentials // of the first configuration
	config                           func() (*tls.Config, error)
}

// newFreshTLS fails if there is no configuration now.
func newFreshTLS(config func() (*tls.Config, error)) (*freshTLS, error) {
	first, err := config()
	if err != nil {
		return nil, err
	}
	return &freshTLS{credentials.NewTLS(first), config}, nil
}

// ClientHandshake implements credentials.TransportCredentials.
func (f *freshTLS) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config, err := f.config()
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
}

// Clone implements credentials.TransportCredentials.
func (f *freshTLS) Clone() credentials.TransportCredentials {
	return &freshTLS{f.TransportCredentials.Clone(), f.config}
}
