package rpc_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
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
)

// testCertificate makes a certificate for hosts, and the pool that trusts it.
func testCertificate(t *testing.T, hosts ...string) (*tls.Config, *x509.CertPool) {
	t.Helper()
	certFile, keyFile := writeCertificate(t, time.Now().Add(time.Hour), hosts...)
	certificate, err := rpc.LoadCertificate(certFile, keyFile, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	return certificate.TLS(), poolOf(t, certFile)
}

// poolOf returns the pool that trusts a certificate.
func poolOf(t *testing.T, certFile string) *x509.CertPool {
	t.Helper()
	text, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		t.Fatalf("%s is no certificate", certFile)
	}
	return pool
}

func writeCertificate(t *testing.T, notAfter time.Time, hosts ...string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotAfter: notAfter}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// trust makes the rig's client accept a certificate.
func (r *keyserverRig) trust(pool *x509.CertPool) {
	r.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
}

func TestTLSVersions(t *testing.T) {
	config, pool := testCertificate(t, "127.0.0.1")
	r := newKeyserverRig(t, rigOptions{tls: config})
	r.trust(pool)
	for version, want := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		conn, err := tls.Dial("tcp", r.address, &tls.Config{RootCAs: pool, MinVersion: version, MaxVersion: version})
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
	response, err := r.http.Get("http://" + r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("http to https: %s", response.Status)
	}
}

func TestLoadCertificate(t *testing.T) {
	good, goodKey := writeCertificate(t, time.Now().Add(time.Hour), "example.org")
	_, otherKey := writeCertificate(t, time.Now().Add(time.Hour), "example.org")
	nameless, namelessKey := writeCertificate(t, time.Now().Add(time.Hour))
	old, oldKey := writeCertificate(t, time.Now().Add(-time.Hour), "example.org")
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

// TestCertificateIsReadAgain replaces the files of running servers, first by what cannot be
// used.
func TestCertificateIsReadAgain(t *testing.T) {
	certFile, keyFile := writeCertificate(t, time.Now().Add(time.Hour), "127.0.0.1")
	certificate, err := rpc.LoadCertificate(certFile, keyFile, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	graph := newRigOf(t, rpc.Config{TLS: certificate.TLS()}, (&chain{}).block())
	listeners := map[string]string{
		"wire": newKeyserverRig(t, rigOptions{tls: certificate.TLS()}).address,
		"REST": strings.TrimPrefix(graph.url, "http://"),
		"gRPC": graph.conn.Target(),
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
	first := poolOf(t, certFile)
	freshCert, freshKey := writeCertificate(t, time.Now().Add(2*time.Hour), "127.0.0.1")
	fresh := poolOf(t, freshCert)
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
	config, pool := testCertificate(t, "127.0.0.1")
	r := newRigOf(t, rpc.Config{TLS: config}, (&chain{}).block())
	trusting := &tls.Config{RootCAs: pool}
	for version, protocols := range map[string]*http.Protocols{"HTTP/1.1": protocolsOf(true, false), "HTTP/2.0": protocolsOf(false, true)} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: trusting.Clone(), Protocols: protocols}}
		response, err := client.Get("https" + strings.TrimPrefix(r.url, "http") + "/v1/status")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		client.CloseIdleConnections()
		if response.StatusCode != http.StatusOK || response.Proto != version {
			t.Errorf("REST: %s %s, want %s", response.Proto, response.Status, version)
		}
	}
	conn, err := grpc.NewClient(r.conn.Target(), grpc.WithTransportCredentials(credentials.NewTLS(trusting)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := keytreev1.NewIdentityServiceClient(conn).GetStatus(t.Context(), &keytreev1.GetStatusRequest{}); err != nil {
		t.Errorf("gRPC: %v", err)
	}
	if _, err := r.client.GetStatus(t.Context(), &keytreev1.GetStatusRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("gRPC in plain text: %v", err)
	}
}

func protocolsOf(http1, http2 bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(http1)
	p.SetHTTP2(http2)
	return p
}
