package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/keytree-bch/keytree/keyserver/canonical"
)

func TestKeyserverUsage(t *testing.T) {
	serve := func(more ...string) []string {
		return append([]string{"keyserver", "serve", "--data-dir", filepath.Join(t.TempDir(), "none"), "--keyserver-domain", "example.org"}, more...)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"keyserver"}, "expected keyserver serve, rotate-key, issue-tokens, backup, restore, fsck or export-tiles"},
		{[]string{"keyserver", "stop"}, `unknown command "stop"`},
		{[]string{"keyserver", "serve"}, "no domain given: expected --keyserver-domain"},
		{[]string{"keyserver", "rotate-key"}, "no domain given: expected --keyserver-domain"},
		{[]string{"keyserver", "serve", "--keyserver-tokens", "open"}, "--keyserver-tokens goes with --keyserver-domain"},
		{[]string{"serve", "--node", goodURL, "--keyserver-listen", ":1"}, "--keyserver-listen goes with --keyserver-domain"},
		{serve("--keyserver-tokens", "free"), `--keyserver-tokens: expected one of open, issued, got "free"`},
		{serve("--keyserver-listen", "8436"), "--keyserver-listen: expected HOST:PORT"},
		{serve("--keyserver-tls-cert", "x"), "expected both or none of --keyserver-tls-cert and --keyserver-tls-key"},
		{serve("--keyserver-tls-key", "x"), "expected both or none of"},
		{serve("--keyserver-rate", "-1"), "--keyserver-rate: expected a whole number"},
		{serve("--keyserver-uri", "keys example"), "--keyserver-uri: invalid message: expected 1 to 254 visible ASCII characters"},
		{serve("--keyserver-link-authority", "AAAA"), "--keyserver-link-authority: malformed message: expected base64 of 32 bytes"},
		{[]string{"serve", "--node", goodURL, "--keyserver-uri", "x"}, "--keyserver-uri goes with --keyserver-domain"},
		{serve("--node", goodURL), "unknown flag: --node"},
		{[]string{"keyserver", "issue-tokens"}, "expected N, got nothing"},
		{[]string{"keyserver", "issue-tokens", "0", "--keyserver-domain", "example.org", "--data-dir", t.TempDir()}, "expected a number of tokens from 1 to 1000000"},
		{[]string{"keyserver", "backup"}, "expected FILE, got nothing"},
	} {
		keytree(t, test.args...).wantError(t, exitUsage, test.want)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{serve("--keyserver-tls-cert", "/nonexistent", "--keyserver-tls-key", "/nonexistent"), "TLS certificate: open /nonexistent"},
		{[]string{"keyserver", "rotate-key", "--keyserver-domain", "example.org", "--data-dir", t.TempDir()}, "there is no keyserver"},
		{[]string{"keyserver", "fsck", "--keyserver-domain", "example.org", "--data-dir", t.TempDir()}, "there is no keyserver"},
		{[]string{"keyserver", "issue-tokens", "2", "--keyserver-domain", "example.org", "--data-dir", t.TempDir()}, "there is no keyserver"},
		{[]string{"keyserver", "restore", "/nonexistent", "--keyserver-domain", "example.org", "--data-dir", t.TempDir()}, "the key file that belongs to the backup"},
		{append(serve("--log-level", "error"), "--keyserver-domain", "Example.org"), "expected a host name in lower case"},
	} {
		keytree(t, test.args...).wantError(t, exitFailed, test.want)
	}
	for _, command := range []string{"serve", "rotate-key", "issue-tokens", "backup", "restore", "fsck"} {
		wantParts(t, mustKeytree(t, "keyserver", command, "--help"), "Examples:", "keytree keyserver "+command)
	}
}

// keyserverProgram is a process that runs a keyserver.
type keyserverProgram struct {
	*program
	rest   string // host and port
	url    string // of the JSON-RPC wire
	client *http.Client
}

func startKeyserver(t *testing.T, args ...string) *keyserverProgram {
	t.Helper()
	args = append(args, "--keyserver-domain", "example.org", "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--log-format", "json")
	if !slices.Contains(args, "--keyserver-listen") {
		args = append(args, "--keyserver-listen", "127.0.0.1:0")
	}
	p := &keyserverProgram{program: startProgram(t, nil, args...)}
	p.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var line struct{ HTTP, Keyserver string }
	if err := json.Unmarshal([]byte(p.await(&p.stderr, `"message":"serving"`)), &line); err != nil {
		t.Fatal(err)
	}
	p.rest, p.url = line.HTTP, "http://"+line.Keyserver+"/"
	return p
}

// call makes a call without params and reads its result.
func (p *keyserverProgram) call(method string, result any) {
	p.t.Helper()
	body := `{"jsonrpc":"2.0","method":"` + method + `","params":{},"id":1}`
	response, err := p.client.Post(p.url, "application/json", strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	var answer struct{ Result json.RawMessage }
	if err := json.Unmarshal(text, &answer); err != nil || answer.Result == nil {
		p.t.Fatalf("%s: %s, %v", method, text, err)
	}
	if err := json.Unmarshal(answer.Result, result); err != nil {
		p.t.Fatal(err)
	}
}

type lastEntry struct {
	HCEntry string
	HCPos   uint64
}

func (p *keyserverProgram) wantLast(want lastEntry) {
	p.t.Helper()
	var got lastEntry
	if p.call("KeyHashchain.FetchLastHashChain", &got); got != want {
		p.t.Errorf("the last entry is %+v, want %+v", got, want)
	}
}

// TestKeyserverAlone runs a keyserver by itself, and everything that looks after it,
// while it runs, after it was killed, and when it is stopped.
func TestKeyserverAlone(t *testing.T) {
	dir := t.TempDir()
	place := []string{"--keyserver-domain", "example.org", "--data-dir", dir}
	admin := func(args ...string) []string { return append(append([]string{"keyserver"}, args...), place...) }
	args := []string{"keyserver", "serve", "--keyserver-tokens", "open", "--data-dir", dir}

	p := startKeyserver(t, args...)
	var first lastEntry
	p.call("KeyHashchain.FetchLastHashChain", &first)
	if first.HCPos != 0 {
		t.Errorf("a new chain ends at %+v", first)
	}
	for file, want := range map[string]os.FileMode{"keyserver.key": 0o600, "keyserver-operator": 0o700 | os.ModeDir} {
		if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want mode %v", file, info.Mode(), err, want)
		}
	}
	keytree(t, admin("fsck")...).wantError(t, exitFailed, "database in use")
	backup := filepath.Join(t.TempDir(), "backup")
	mustKeytree(t, admin("backup", backup)...)
	keytree(t, admin("backup", backup)...).wantError(t, exitFailed, "exists already")
	oldKey, err := os.ReadFile(filepath.Join(dir, "keyserver.key"))
	if err != nil {
		t.Fatal(err)
	}
	wantParts(t, mustKeytree(t, admin("rotate-key")...), "keyserver@example.org", "position 1")
	var capabilities struct{ Capabilities struct{ SigPubKeys []string } }
	if p.call("KeyRepository.Capabilities", &capabilities); len(capabilities.Capabilities.SigPubKeys) != 2 {
		t.Errorf("after a rotation: %+v", capabilities)
	}
	var last lastEntry
	p.call("KeyHashchain.FetchLastHashChain", &last)
	p.kill()

	p = startKeyserver(t, args...) // beside what the killed one has left
	p.wantLast(last)
	wantParts(t, mustKeytree(t, admin("rotate-key")...), "position 2")
	if code := p.signal(os.Interrupt); code != exitDone {
		t.Errorf("exit code %d after SIGINT: %s", code, p.errors())
	}

	wantParts(t, mustKeytree(t, admin("rotate-key")...), "position 3")
	wantParts(t, mustKeytree(t, admin("fsck")...), "is sound", "4 entries", "position 3")
	stopped := filepath.Join(t.TempDir(), "stopped")
	mustKeytree(t, admin("backup", stopped)...)

	restored := t.TempDir()
	restore := func(file string) []string {
		return []string{"keyserver", "restore", file, "--keyserver-domain", "example.org", "--data-dir", restored}
	}
	if err := os.WriteFile(filepath.Join(restored, "keyserver.key"), oldKey, 0o600); err != nil {
		t.Fatal(err)
	}
	wantParts(t, mustKeytree(t, restore(backup)...), "is restored", "1 entries")
	keytree(t, restore(backup)...).wantError(t, exitFailed, "is not empty")
	p = startKeyserver(t, "keyserver", "serve", "--keyserver-tokens", "open", "--data-dir", restored)
	p.wantLast(first)
	if code := p.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("exit code %d after SIGTERM: %s", code, p.errors())
	}
	keytree(t, "keyserver", "restore", stopped, "--keyserver-domain", "example.org", "--data-dir", dir).wantError(t, exitFailed, "is not empty")
}

// TestKeyserverBesideIndex runs both in one process, with https and tokens.
func TestKeyserverBesideIndex(t *testing.T) {
	dir := t.TempDir()
	cert, key, pool := certificateFiles(t)
	p := startKeyserver(t, "serve", "--network", "regtest", "--node", "http://me:pass@127.0.0.1:1", "--data-dir", dir,
		"--keyserver-tls-cert", cert, "--keyserver-tls-key", key, "--keyserver-uri", "keys.example.org", "--keyserver-uri", "keys2.example.org",
		"--keyserver-link-authority", canonical.Encode(make([]byte, 32)), "--anchor-chain", "none") // or it waits for the node
	p.url = "https" + strings.TrimPrefix(p.url, "http")
	p.client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: pool}

	tokens := strings.Fields(mustKeytree(t, "keyserver", "issue-tokens", "3", "--keyserver-domain", "example.org", "--data-dir", dir))
	if len(tokens) != 3 || tokens[0] == tokens[1] {
		t.Errorf("tokens %q", tokens)
	}
	file := filepath.Join(dir, "tokens.txt")
	if out := mustKeytree(t, "keyserver", "issue-tokens", "2", "--keyserver-domain", "example.org", "--data-dir", dir, "--out", file); out != "" {
		t.Errorf("it printed %q as well", out)
	}
	if content, err := os.ReadFile(file); err != nil || len(strings.Fields(string(content))) != 2 {
		t.Errorf("%q, %v", content, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file of tokens: %v, %v", info, err)
	}
	keytree(t, "keyserver", "issue-tokens", "2", "--keyserver-domain", "example.net", "--data-dir", dir).wantError(t, exitFailed, "has the keyserver of example.org, not of example.net: nobody would take tokens")
	var capabilities struct {
		Capabilities struct {
			TknPubKey             string
			KeyInitRepositoryURIs []string
		}
	}
	if p.call("KeyRepository.Capabilities", &capabilities); capabilities.Capabilities.TknPubKey == "" {
		t.Error("it takes everything, and was not asked to")
	}
	if uris := strings.Join(capabilities.Capabilities.KeyInitRepositoryURIs, " "); uris != "example.org keys.example.org keys2.example.org" {
		t.Errorf("URIs %s", uris)
	}
	if info, err := os.Stat(filepath.Join(dir, "keyserver-issuer.key")); err != nil || info.Mode() != 0o600 {
		t.Errorf("the issuer's key: %v, %v", info, err)
	}
	// The graph and the keyserver answer on one REST interface.
	for path, want := range map[string]string{"/v1/status": `"network":"regtest"`, "/v1/keyserver/head": `"domain":"example.org"`} {
		response, err := p.client.Get("http://" + p.rest + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || !bytes.Contains(bytes.ReplaceAll(body, []byte(" "), nil), []byte(want)) {
			t.Errorf("%s: %s, %v", path, body, err)
		}
	}
	if code := p.signal(os.Interrupt); code != exitDone {
		t.Errorf("exit code %d after SIGINT: %s", code, p.errors())
	}
	wantParts(t, mustKeytree(t, "keyserver", "fsck", "--keyserver-domain", "example.org", "--data-dir", dir), "is sound", "1 entries")
	if key, err := canonical.Decode(capabilities.Capabilities.TknPubKey, 32); err != nil {
		t.Errorf("TKNPUBKEY %x, %v", key, err)
	}
}

// TestKeyserverFails checks that a keyserver that runs alone, and whose database turns out
// to be damaged, ends the program: a reply is taken out, which only an update looks for.
func TestKeyserverFails(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	withPassphrase(t)
	dir, userDir := t.TempDir(), t.TempDir()
	args := []string{"keyserver", "serve", "--data-dir", dir, "--keyserver-tokens", "open"}
	p := startKeyserver(t, args...)
	mustKeytree(t, "user", "init", "--user-dir", userDir, "--keyserver", p.url)
	mustKeytree(t, "user", "create", "alice@example.org", "--user-dir", userDir)
	if code := p.signal(os.Interrupt); code != exitDone {
		t.Fatalf("exit code %d after SIGINT: %s", code, p.errors())
	}
	dropReply(t, filepath.Join(dir, "keyserver"), 1)

	p = startKeyserver(t, append(args, "--keyserver-listen", strings.Trim(p.url, "htp:/"))...)
	keytree(t, "user", "update", "alice@example.org", "--user-dir", userDir).wantError(t, exitFailed, "keyserver")
	if code := p.end(); code != exitFailed || !strings.Contains(p.errors(), "keytree: keyserver has failed and must be started anew: database damaged: no reply") {
		t.Errorf("exit code %d: %s", code, p.errors())
	}
}

// dropReply takes the reply that belongs to a position out of a keyserver's database.
func dropReply(t *testing.T, dir string, position int) {
	t.Helper()
	db, err := badger.Open(badger.LSMOnlyOptions(dir).WithLoggingLevel(badger.ERROR))
	if err != nil {
		t.Fatal(err)
	}
	mark, dropped := fmt.Appendf(nil, `"HASHCHAINPOS":%d,`, position), 0
	err = db.Update(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.DefaultIteratorOptions)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			value, err := it.Item().ValueCopy(nil)
			if err != nil {
				return err
			}
			if bytes.Contains(value, mark) {
				dropped++
				if err := txn.Delete(it.Item().KeyCopy(nil)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil || dropped != 1 {
		t.Fatalf("%d replies dropped: %v", dropped, err)
	}
}

// certificateFiles writes a certificate for this machine, and returns the pool that
// trusts it.
func certificateFiles(t *testing.T) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "keytree's tests"}, // curl wants one
		NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for file, content := range map[string][]byte{certFile: certPEM, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, pool
}
