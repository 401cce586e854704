package rpctest

import (
	"testing"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signin"
)

// Person is a key that signs.
type Person struct {
	WIF     protocol.WIF
	Address string
}

// NewPerson makes a key at random, for addresses of a network.
func NewPerson(t testing.TB, net *chaincfg.Params) Person {
	t.Helper()
	private, err := bchec.NewPrivateKey(bchec.S256())
	if err != nil {
		t.Fatal(err)
	}
	key := protocol.KeyHash(bchutil.Hash160(private.PubKey().SerializeCompressed()))
	return Person{protocol.WIF{Private: private, Key: key}, protocol.FormatAddress(key, net)}
}

// Sign signs a text as wallets do.
func (p Person) Sign(t testing.TB, text string) string {
	t.Helper()
	signature, err := signin.Sign(text, p.WIF)
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

// Asks is the person's request for a parent, in the transaction tx.
func (p Person) Asks(tx string, parent Person) links.Action {
	return links.Action{TxID: HashOf(tx), Author: &p.WIF.Key, Action: protocol.Action{Kind: protocol.MLR, Parent: parent.WIF.Key}}
}

// Accepts is the person's accept of the request in a transaction, in the transaction tx.
func (p Person) Accepts(tx, request string) links.Action {
	return links.Action{TxID: HashOf(tx), Author: &p.WIF.Key, Action: protocol.Action{Kind: protocol.MLA, Ref: protocol.RefersTo(HashOf(request))}}
}

// Revokes is the person's revocation of the accept in a transaction, in the transaction tx.
func (p Person) Revokes(tx, accept string) links.Action {
	return links.Action{TxID: HashOf(tx), Author: &p.WIF.Key, Action: protocol.Action{Kind: protocol.MCR, Ref: protocol.RefersTo(HashOf(accept))}}
}
