package web_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/protocol/signin"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// signInKey is the world's.
func signInKey() []byte { return bytes.Repeat([]byte{1}, signin.NonceKeySize) }

// signedIn is the answer of a key of nobody's to a challenge of the world's.
func signedIn(t *testing.T) rpctest.Object {
	t.Helper()
	verifier, err := signin.NewVerifier(signInKey(), rpctest.Net)
	if err != nil {
		t.Fatal(err)
	}
	key := rpctest.NewPerson(t, rpctest.Net)
	issued := time.Now().Add(time.Second) // a server takes none from before it began
	challenge, err := verifier.Challenge(signin.Request{Domain: "memo.cash", URI: "https://memo.cash/", Key: key.WIF.Key}, issued)
	if err != nil {
		t.Fatal(err)
	}
	return rpctest.Object{"message": challenge.Text(), "signature": key.Sign(t, challenge.Text()), "domain": "memo.cash"}
}
