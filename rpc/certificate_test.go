package rpc_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

func TestTLSVersions(t *testing.T) {
	config, pool := rpctest.Certificate(t, "127.0.0.1")
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{TLS: config})
	r.Trust(pool)
	for version, want := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		conn, err := tls.Dial("tcp", r.Address, &tls.Config{RootCAs: pool, MinVersion: version, MaxVersion: version})
		if (err == nil) != want {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			if got := conn.ConnectionState().Version; got != version {
				t.Errorf("%s, want %s", tls.VersionName(got), tls.VersionName(version))
			}
			conn.Close()
		}
	}
	response, err := r.HTTP.Get("http://" + r.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("http to https: %s", response.Status)
	}
}

func TestLoadCertificate(t *testing.T) {
	good, goodKey := rpctest.WriteCertificate(t, time.Now().Add(time.Hour), "example.org")
	_, otherKey := rpctest.WriteCertificate(t, time.Now().Add(time.Hour), "example.org")
	nameless, namelessKey := rpctest.WriteCertificate(t, time.Now().Add(time.Hour))
	old, oldKey := rpctest.WriteCertificate(t, time.Now().Add(-time.Hour), "example.org")
	for _, test := range []struct{ name, cert, key, says string }{
		{"good", good, goodKey, ""},
		{"another's key", good, otherKey, "private key does not match"},
		{"no SAN", nameless, namelessKey, "subject alternative name"},
		{"expired", old, oldKey, "expired"},
		{"missing", good + ".none", goodKey, "no such file"},
	} {
		_, err := rpc.LoadCertificate(test.cert, test.key, zerolog.Nop())
		if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %q", test.name, err, test.says)
		}
	}
}

// TestReload reads files again of which nothing tells that they have changed.
func TestReload(t *testing.T) {
	certFile, keyFile := rpctest.WriteCertificate(t, time.Now().Add(time.Hour), "one.example.org")
	certificate, err := rpc.LoadCertificate(certFile, keyFile, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	other, otherKey := rpctest.WriteCertificate(t, time.Now().Add(time.Hour), "two.example.org")
	wantName := func(name string) {
		t.Helper()
		shown, err := certificate.TLS().GetCertificate(nil)
		if err != nil || shown.Leaf.DNSNames[0] != name {
			t.Errorf("%v, %v; want the certificate of %s", shown.Leaf.DNSNames, err, name)
		}
	}
	wantName("one.example.org")
	if err := os.Rename(other, certFile); err != nil {
		t.Fatal(err)
	}
	if certificate.Reload() {
		t.Error("a certificate with another's key is used")
	}
	wantName("one.example.org")
	if err := os.Rename(otherKey, keyFile); err != nil {
		t.Fatal(err)
	}
	if !certificate.Reload() {
		t.Error("a good certificate is not used")
	}
	wantName("two.example.org")
}

// TestCertificateIsReadAgain replaces the files of running servers, first by what cannot be
// used.
func TestCertificateIsReadAgain(t *testing.T) {
	certFile, keyFile := rpctest.WriteCertificate(t, time.Now().Add(time.Hour), "127.0.0.1")
	certificate, err := rpc.LoadCertificate(certFile, keyFile, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	graph := rpctest.NewOf(t, rpc.Config{TLS: certificate.TLS()}, (&rpctest.Chain{}).Block())
	listeners := map[string]string{
		"wire": rpctest.NewKeyserver(t, rpctest.KeyserverOptions{TLS: certificate.TLS()}).Address,
		"REST": strings.TrimPrefix(graph.URL, "http://"),
		"gRPC": graph.Conn.Target(),
	}
	want := func(when string, pool *x509.CertPool, want bool) {
		t.Helper()
		for name, address := range listeners {
			conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: pool, NextProtos: []string{"h2", "http/1.1"}})
			if (err == nil) != want {
				t.Errorf("%s: %s: %v", when, name, err)
			}
			if err == nil {
				conn.Close()
			}
		}
	}
	first := rpctest.PoolOf(t, certFile)
	freshCert, freshKey := rpctest.WriteCertificate(t, time.Now().Add(2*time.Hour), "127.0.0.1")
	fresh := rpctest.PoolOf(t, freshCert)
	want("the first certificate", first, true)
	want("another", fresh, false)
	if err := os.Rename(freshCert, certFile); err != nil { // without its key as yet
		t.Fatal(err)
	}
	want("the first, when half of another is there", first, true)
	if err := os.Rename(freshKey, keyFile); err != nil {
		t.Fatal(err)
	}
	want("the fresh one", fresh, true)
	want("the first, when there is a fresh one", first, false)
	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	want("the fresh one, when its file is gone", fresh, true)
}

// TestTLS asks over REST and gRPC as clients do.
func TestTLS(t *testing.T) {
	config, pool := rpctest.Certificate(t, "127.0.0.1")
	r := rpctest.NewOf(t, rpc.Config{TLS: config}, (&rpctest.Chain{}).Block())
	trusting := &tls.Config{RootCAs: pool}
	for version, protocols := range map[string]*http.Protocols{"HTTP/1.1": protocolsOf(true, false), "HTTP/2.0": protocolsOf(false, true)} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: trusting.Clone(), Protocols: protocols}}
		response, err := client.Get("https" + strings.TrimPrefix(r.URL, "http") + "/v1/status")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		client.CloseIdleConnections()
		if response.StatusCode != http.StatusOK || response.Proto != version {
			t.Errorf("REST: %s %s, want %s", response.Proto, response.Status, version)
		}
	}
	conn, err := grpc.NewClient(r.Conn.Target(), grpc.WithTransportCredentials(credentials.NewTLS(trusting)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := keytreev1.NewIdentityServiceClient(conn).GetStatus(t.Context(), &keytreev1.GetStatusRequest{}); err != nil {
		t.Errorf("gRPC: %v", err)
	}
	if _, err := r.Client.GetStatus(t.Context(), &keytreev1.GetStatusRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("gRPC in plain text: %v", err)
	}
}

func protocolsOf(http1, http2 bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(http1)
	p.SetHTTP2(http2)
	return p
}
