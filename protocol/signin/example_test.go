package signin_test

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/gcash/bchd/chaincfg"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signin"
)

// A key signs in at memo.cash. A server makes the challenge, a wallet signs it, and the
// server finds who it was.
func Example() {
	secret := bytes.Repeat([]byte{1}, signin.NonceKeySize) // random bytes, in truth
	verifier, err := signin.NewVerifier(secret, &chaincfg.MainNetParams)
	if err != nil {
		log.Fatal(err)
	}
	wallet, err := protocol.ParseWIF("KwDiBf89QgGbjEhKnhXJuH7LrciVrZi3qYjgd9M7rFU73sVHnoWn", &chaincfg.MainNetParams)
	if err != nil {
		log.Fatal(err)
	}

	now := time.Date(2026, 11, 26, 20, 0, 0, 0, time.UTC)
	request := signin.Request{Domain: "memo.cash", URI: "https://memo.cash/login", Key: wallet.Key}
	challenge, err := verifier.Challenge(request, now)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(challenge.Text())

	signature, err := signin.Sign(challenge.Text(), wallet)
	if err != nil {
		log.Fatal(err)
	}
	answer := signin.Answer{Text: challenge.Text(), Signature: signature, Domain: "memo.cash"}
	message, err := verifier.Verify(answer, now.Add(time.Minute))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("signed in:", message.Address())

	// Another service that is given the answer has another domain.
	answer.Domain = "evil.cash"
	_, err = verifier.Verify(answer, now.Add(time.Minute))
	fmt.Println(errors.Is(err, signin.ErrDomain), err)
	// Output:
	// memo.cash wants you to sign in with your Bitcoin Cash account:
	// bitcoincash:qp63uahgrxged4z5jswyt5dn5v3lzsem6cy4spdc2h
	//
	// URI: https://memo.cash/login
	// Version: 1
	// Chain ID: bch:bitcoincash
	// Nonce: 8fcaf0664a5756db
	// Issued At: 2026-11-26T20:00:00Z
	// signed in: bitcoincash:qp63uahgrxged4z5jswyt5dn5v3lzsem6cy4spdc2h
	// true another domain: expected a text for "evil.cash", got one for memo.cash
}
