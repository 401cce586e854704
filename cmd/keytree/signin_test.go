package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signin"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestSignIn signs in with a key, and has a wallet sign.
func TestSignIn(t *testing.T) {
	r := rpctest.New(t, (&rpctest.Chain{}).Block())
	key := regtest.NewKey()
	args := func(more ...string) []string {
		return append([]string{"signin", "--domain", "memo.cash", "--uri", "https://memo.cash/login", "--network", "regtest", "--server", r.Conn.Target()}, more...)
	}
	byFile := keytree(t, args("--key-file", writeKey(t, key.WIF()), "--root-only", "--max-depth", "0", "--json")...)
	var who struct{ Address, MainAddress string }
	if err := json.Unmarshal([]byte(byFile.stdout), &who); err != nil || who.Address != key.Address() {
		t.Errorf("by a key: %+v, %v", byFile, err)
	}
	if !strings.HasPrefix(byFile.stderr, "memo.cash wants you to sign in") || strings.Contains(byFile.stderr, key.WIF()) {
		t.Errorf("standard error %q", byFile.stderr)
	}

	var stdout, stderr bytes.Buffer
	wallet := &signingWallet{key: key, shown: &stderr}
	code := run(t.Context(), args("--address", key.Address(), "--uri", "https://memo.cash/login?s=2"), wallet, &stdout, &stderr)
	if code != exitDone || !strings.Contains(stdout.String(), key.Address()) || !strings.Contains(stdout.String(), "unconfirmed: not known") {
		t.Errorf("by a wallet: exit code %d, %q, %q", code, stdout.String(), stderr.String())
	}
	if o := keytreeWith(t, "no signature\n", args("--address", key.Address())...); o.code != exitUsage || !strings.Contains(o.stderr, "88 characters") {
		t.Errorf("with a bad signature: %+v", o)
	}
}

// signingWallet signs what is shown, and types the signature.
type signingWallet struct {
	key   *regtest.Key
	shown *bytes.Buffer
	typed io.Reader // nil before
}

// Read implements io.Reader.
func (w *signingWallet) Read(p []byte) (int, error) {
	if w.typed == nil {
		text, _, _ := strings.Cut(w.shown.String(), "\n\nkeytree: ")
		signature, err := signin.Sign(text, protocol.WIF{Private: w.key.PrivateKey()})
		if err != nil {
			return 0, err
		}
		w.typed = strings.NewReader(signature + "\n")
	}
	return w.typed.Read(p)
}

// lying has keys sign a text for another app.
type lying struct {
	keytreev1.UnimplementedSignInServiceServer
	text string
}

// ChallengeSignIn implements SignInService.
func (l lying) ChallengeSignIn(context.Context, *keytreev1.ChallengeSignInRequest) (*keytreev1.ChallengeSignInResponse, error) {
	return &keytreev1.ChallengeSignInResponse{Message: l.text}, nil
}

// TestSignInChecksTheText has a server give texts that are not what was asked for.
func TestSignInChecksTheText(t *testing.T) {
	key := regtest.NewKey()
	good := signin.Message{Domain: "memo.cash", URI: "https://memo.cash/login", Key: key.Hash(), Network: regtest.Params}
	evil, other, elsewhere := good, good, good
	evil.Domain, evil.URI = "evil.cash", "https://evil.cash/login"
	other.Key = regtest.NewKey().Hash()
	elsewhere.URI += "/else"
	for name, text := range map[string]string{
		"another domain": evil.Text(), "another key": other.Text(), "another URI": elsewhere.Text(), "no text": "I owe you a bitcoin",
	} {
		listener, server := rpctest.Listen(t), grpc.NewServer()
		keytreev1.RegisterSignInServiceServer(server, lying{text: text})
		served := make(chan error, 1)
		go func() { served <- server.Serve(listener) }()
		o := keytree(t, "signin", "--domain", "memo.cash", "--uri", "https://memo.cash/login", "--network", "regtest",
			"--server", listener.Addr().String(), "--key-file", writeKey(t, key.WIF()))
		if o.code != exitFailed || !strings.Contains(o.stderr, "it is not signed") {
			t.Errorf("%s: %+v", name, o)
		}
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
}

// TestSignInKeyFile has a server refuse a key file that others can read.
func TestSignInKeyFile(t *testing.T) {
	file := writeConfig(t, t.TempDir(), "keytree sign-in key 1 "+strings.Repeat("ab", 32)+"\n")
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	o := keytree(t, "serve", "--node", goodURL, "--network", "regtest", "--data-dir", t.TempDir(), "--signin-key-file", file, "--log-level", "error")
	o.wantError(t, exitFailed, "--signin-key-file: file is open to others")
	if strings.Contains(o.stderr, "abab") {
		t.Errorf("standard error repeats the key: %q", o.stderr)
	}
}
