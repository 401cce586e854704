package bitcoind_test

import (
	"crypto/tls"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/indexer/node"
)

// certificate is one of a node's own making, with its PEM.
type certificate struct {
	pair tls.Certificate
	pem  []byte
}

func newCertificate(t *testing.T) *certificate {
	t.Helper()
	cert, key, err := bchutil.NewTLSCertPair("node", time.Now().AddDate(1, 0, 0), nil)
	check(t, err)
	return &certificate{must[tls.Certificate](t)(tls.X509KeyPair(cert, key)), cert}
}

// TestCertificateRenewed gives the node another certificate, and its file that one
// after a while. Connections that stand stay.
func TestCertificateRenewed(t *testing.T) {
	n := newBCHN(t)
	before, after := newCertificate(t), newCertificate(t)
	var present atomic.Pointer[certificate]
	present.Store(before)
	server := httptest.NewUnstartedServer(n)
	server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		return &tls.Config{Certificates: []tls.Certificate{present.Load().pair}}, nil
	}}
	server.StartTLS()
	t.Cleanup(server.Close)

	file := filepath.Join(t.TempDir(), "rpc.cert")
	holding := func(content []byte) func() error {
		return func() error { return os.WriteFile(file, content, 0o600) }
	}
	check(t, holding(before.pem)())
	cfg := n.config()
	cfg.Address, cfg.TLS, cfg.CertFile, cfg.RetryFor = server.Listener.Addr().String(), true, file, time.Millisecond
	c := dial(t, cfg)
	ask := func() error { _, err := c.BlockHash(t.Context(), 0); return err }

	present.Store(after)
	check(t, os.Remove(file))
	check(t, ask())
	for _, step := range []struct {
		name string
		file func() error
		want error
		says string
	}{
		{"file missing", func() error { return nil }, node.ErrUnavailable, "no such file"},
		{"the certificate before", holding(before.pem), node.ErrUnsuitable, "expected the certificate given by cert=FILE"},
		{"empty file", holding(nil), node.ErrUnavailable, "no PEM certificate"},
		{"torn file", holding(after.pem[:len(after.pem)/2]), node.ErrUnavailable, "no PEM certificate"},
		{"a folder", func() error { return os.Mkdir(file, 0o700) }, node.ErrUnavailable, "is a directory"},
		{"the new certificate", holding(after.pem), nil, ""},
		{"both", holding(append(before.pem, after.pem...)), nil, ""},
	} {
		t.Run(step.name, func(t *testing.T) {
			_ = os.Remove(file)
			check(t, step.file())
			server.CloseClientConnections()
			err := ask()
			if step.want == nil {
				check(t, err)
				return
			}
			wantError(t, err, step.want, step.says)
		})
	}
}
