package keyserver_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/uid"
	keyserverrpc "github.com/keytree-bch/keytree/rpc/keyserver"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestDeployedClient walks through what a client does, in its order, each step with
// the checks that it makes, over http and https.
func TestDeployedClient(t *testing.T) {
	t.Run("http", func(t *testing.T) { walk(t, rpctest.NewKeyserver(t, rpctest.KeyserverOptions{})) })
	t.Run("https", func(t *testing.T) {
		config, pool := rpctest.Certificate(t, "localhost", "127.0.0.1")
		r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{TLS: config})
		r.Trust(pool)
		walk(t, r)
	})
}

func walk(t *testing.T, r *rpctest.KeyserverRig) {
	now := time.Now()
	var capabilities struct {
		Capabilities keyserver.Capabilities `json:"CAPABILITIES"`
	}
	r.Call(t, "KeyRepository.Capabilities", rpctest.Object{}, &capabilities)
	c := capabilities.Capabilities
	for _, method := range []string{
		"KeyRepository.Capabilities", "KeyRepository.CreateUID", "KeyRepository.UpdateUID", "KeyRepository.FetchUID",
		"KeyRepository.FetchHashChain", "KeyRepository.GetLink", "KeyHashchain.FetchHashChain", "KeyHashchain.FetchLastHashChain",
		"KeyHashchain.LookupUID", "KeyInitRepository.AddKeyInit", "KeyInitRepository.FetchKeyInit", "KeyInitRepository.FlushKeyInit",
		"KeyInitRepository.CountKeyInit",
	} {
		if !slices.Contains(c.Methods, method) {
			t.Errorf("METHODS lacks %s", method)
		}
	}
	if !slices.Equal(c.Domains, []string{rpctest.Domain}) || len(c.SigPubKeys) != 1 {
		t.Fatalf("capabilities: %+v", c)
	}
	server, err := canonical.Decode(c.SigPubKeys[0], ed25519.PublicKeySize)
	if err != nil {
		t.Fatal(err)
	}

	// Sync and validate; nobody has the name.
	entries, _ := r.Chain(t)
	if entries[len(entries)-1].String() != c.KeyHashchainEntry {
		t.Error("the chain does not end where the capabilities say")
	}
	const alice = "alice@example.org"
	if found, err := hashchain.Search(t.Context(), entries, alice); err != nil || len(found) != 0 {
		t.Fatalf("found at %v, %v", found, err)
	}
	var lookup struct{ HCPositions json.RawMessage }
	r.Call(t, "KeyHashchain.LookupUID", rpctest.Object{"Identity": alice}, &lookup)
	if string(lookup.HCPositions) != "null" {
		t.Errorf("positions of nobody: %s, want null", lookup.HCPositions)
	}

	// Register and update; the replies decrypt, verify, and stay.
	key := rpctest.NewKey(1)
	checkReply := func(m *uid.Message, reply *uid.Reply) {
		t.Helper()
		opened, err := reply.Open(m.Hash())
		if err != nil || !bytes.Equal(opened.Canonical(), m.Canonical()) {
			t.Errorf("the reply does not hold the message: %v", err)
		}
		if err := reply.Verify(server); err != nil {
			t.Error(err)
		}
		entries, _ := r.Chain(t)
		if entries[reply.Entry.HashchainPos].String() != reply.Entry.HashchainEntry {
			t.Error("the chain has another entry there")
		}
		index := entries[reply.Entry.HashchainPos].UIDIndex()
		var fetched uidReply
		r.Call(t, "KeyRepository.FetchUID", rpctest.Object{"UIDIndex": canonical.Encode(index[:])}, &fetched)
		if fetched.UIDMessageReply != *reply {
			t.Errorf("fetched %+v, was %+v", fetched.UIDMessageReply, reply)
		}
	}
	first := rpctest.NewMessage(alice, c.KeyHashchainEntry, key, now)
	var reply uidReply
	r.Call(t, "KeyRepository.CreateUID", rpctest.Object{"UIDMessage": wireOrder(t, first), "Token": ""}, &reply)
	checkReply(first, &reply.UIDMessageReply)
	second := rpctest.NextMessage(first, key, rpctest.NewKey(2))
	key = rpctest.NewKey(2)
	r.Call(t, "KeyRepository.UpdateUID", rpctest.Object{"UIDMessage": wireOrder(t, second), "Token": "x"}, &reply)
	checkReply(second, &reply.UIDMessageReply)

	entries, _ = r.Chain(t)
	found, err := hashchain.Search(t.Context(), entries, alice)
	r.Call(t, "KeyHashchain.LookupUID", rpctest.Object{"Identity": alice}, &lookup)
	if err != nil || fmt.Sprint(found) != "[1 2]" || string(lookup.HCPositions) != "[1,2]" {
		t.Errorf("searched %v, %v; looked up %s", found, err, lookup.HCPositions)
	}
	for end, want := range map[string]string{"0": "null", "1": "[1]", "2": "[1,2]", "null": "[1,2]"} {
		r.Call(t, "KeyHashchain.LookupUID", rpctest.Object{"Identity": alice, "EndPosition": json.RawMessage(end)}, &lookup)
		if string(lookup.HCPositions) != want {
			t.Errorf("looked up %s to position %s, want %s", lookup.HCPositions, end, want)
		}
	}

	// KeyInits: add, fetch, flush.
	inits := []*keyinit.KeyInit{rpctest.NewKeyInit(t, key, 1, true, now), rpctest.NewKeyInit(t, key, 2, false, now), rpctest.NewKeyInit(t, key, 3, false, now)}
	sigKey, hash := canonical.Encode(rpctest.Public(key)), uid.SigKeyHash(rpctest.Public(key))
	var added struct{ Signatures []string }
	r.Call(t, "KeyInitRepository.AddKeyInit", rpctest.Object{"SigPubKey": sigKey, "KeyInits": inits, "Tokens": []string{"", "", ""}}, &added)
	if len(added.Signatures) != len(inits) {
		t.Fatalf("%d signatures", len(added.Signatures))
	}
	for i, k := range inits {
		if err := k.VerifyServer(added.Signatures[i], server); err != nil {
			t.Error(err)
		}
	}
	fetch := func() string {
		var got struct{ KeyInit string }
		r.Call(t, "KeyInitRepository.FetchKeyInit", rpctest.Object{"SigKeyHash": canonical.Encode(hash[:])}, &got)
		return got.KeyInit
	}
	for i, want := range []*keyinit.KeyInit{inits[1], inits[2], inits[0], inits[0]} { // the last one stays
		if got := fetch(); got != string(want.Canonical()) {
			t.Errorf("fetch %d: %s", i, got)
		}
	}
	for range 2 { // within one second, too
		nonce := uint64(time.Now().Unix())
		r.Call(t, "KeyInitRepository.FlushKeyInit", rpctest.Object{"SigPubKey": sigKey, "Nonce": nonce, "Signature": keyinit.SignFlush(nonce, key)}, &struct{}{})
	}
	if problem := r.Try(t, "KeyInitRepository.FetchKeyInit", rpctest.Object{"SigKeyHash": canonical.Encode(hash[:])}, nil); problem == nil || problem.Code != keyserverrpc.CodeUnknown {
		t.Errorf("after the flush: %+v", problem)
	}

	// A server key that is replaced: what it signed before stands.
	if _, err := r.Service.RotateKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	old := server
	r.Call(t, "KeyRepository.Capabilities", rpctest.Object{}, &capabilities)
	if keys := capabilities.Capabilities.SigPubKeys; len(keys) != 2 || keys[1] != canonical.Encode(old) || keys[0] == keys[1] {
		t.Errorf("SIGPUBKEYS after a rotation: %v", keys)
	}
	checkReply(second, &reply.UIDMessageReply)
}

// wireOrder is a message with its members in another order than the canonical one,
// as clients send it.
func wireOrder(t *testing.T, m *uid.Message) json.RawMessage {
	t.Helper()
	content, err := json.Marshal(m.Content)
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(content, &members); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString(`{"UIDContent": {"VERSION":` + string(members["VERSION"]))
	delete(members, "VERSION")
	for name, value := range members {
		fmt.Fprintf(&b, `, %q : %s`, name, value)
	}
	fmt.Fprintf(&b, `}, "USERSIGNATURE":%q,"SELFSIGNATURE":%q,"ESCROWSIGNATURE":"","LINKAUTHORITY":""}`, m.UserSignature, m.SelfSignature)
	return json.RawMessage(b.String())
}
