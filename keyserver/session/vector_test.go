package session_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/session"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

var update = flag.Bool("update", false, "write testdata/session.json anew; then run testdata/recompute.py")

// vector is testdata/session.json. Binary is base64; private keys are one byte
// repeated.
type vector struct {
	About           string   `json:"about"`
	AliceLong       string   `json:"alice_long_term_private"`
	AliceKeyInit    string   `json:"alice_keyinit_private"`
	AliceSession    string   `json:"alice_session_private"`
	BobLong         string   `json:"bob_long_term_private"`
	BobSession      string   `json:"bob_session_private"`
	AliceUIDMessage string   `json:"alice_uid_message"`
	KeyInit         string   `json:"keyinit"`
	BobUIDMessages  []string `json:"bob_uid_messages"`
	HashchainOfBob  []string `json:"hashchain_of_bob"`
	First           letter   `json:"first"`
	SessionID       string   `json:"session_id"`
	Answer          letter   `json:"answer"`
}

// letter is a message with what is in it.
type letter struct {
	Text       string `json:"text"`
	MixAddress string `json:"mixaddress"` // of its author
	NymAddress string `json:"nymaddress"`
	Message    string `json:"message"`
}

func seed(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func x25519(b byte) *ecdh.PrivateKey {
	key, err := ecdh.X25519().NewPrivateKey(seed(b))
	if err != nil {
		panic(err)
	}
	return key
}

func fixedUser(identity string, long byte, sig byte) *user {
	u := newUser(identity)
	u.Keys, u.sig, u.escrow = []*ecdh.PrivateKey{x25519(long)}, ed25519.NewKeyFromSeed(seed(sig)), ed25519.NewKeyFromSeed(seed(sig+1))
	last, err := hashchain.Seal(hashchain.Hash{}, "keyserver@"+domain, hashchain.Hash{}, bytes.NewReader(make([]byte, 24)))
	if err != nil {
		panic(err)
	}
	m := &uid.Message{Content: u.content(identity+"@"+domain, last.String())}
	m.Sign(u.sig)
	m.SignEscrow(u.escrow)
	u.History = []*uid.Message{m}
	return u
}

func TestVector(t *testing.T) {
	alice, bob := fixedUser("alice", 0x11, 0x21), fixedUser("bob", 0x12, 0x23)
	second := &uid.Message{Content: bob.History[0].Content}
	second.Content.MsgCount = 1
	second.Sign(bob.sig)
	second.SignUser(bob.sig)
	bob.History = append(bob.History, second)
	var chain copied
	for i, m := range bob.History {
		var prev hashchain.Hash
		if i > 0 {
			prev = chain[i-1].Hash()
		}
		e, err := hashchain.Seal(prev, m.Content.Identity, m.Hash(), bytes.NewReader(bytes.Repeat([]byte{byte(i + 1)}, 24)))
		if err != nil {
			t.Fatal(err)
		}
		chain = append(chain, e)
	}

	key := x25519(0x13)
	k, _ := alice.newKeyInit(false)
	if err := k.Contents.Seal(&keyinit.Anchor{
		MixAddress: alice.address.Mix, NymAddress: canonical.Encode(alice.address.Nym),
		PFKeys: uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, key.PublicKey().Bytes())},
	}, public(alice.sig), bytes.NewReader(seed(0x14))); err != nil {
		t.Fatal(err)
	}
	k.Sign(alice.sig)

	const text, answerText = "Hello Alice", "Hello Bob"
	first, pending, err := session.Start(recipient(alice, k), bob.Self, bob.address, []byte(text), now, bytes.NewReader(seed(0x15)))
	if err != nil {
		t.Fatal(err)
	}
	letters := newBox()
	letters.add(k, key)
	inbox := &session.Inbox{Identity: "alice@" + domain, Keys: alice.Keys, Hashchain: chain, KeyInits: letters}
	s, _, err := inbox.Open(t.Context(), parse(t, first.Message), now)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.Answer(alice.address, []byte(answerText), bytes.NewReader(seed(0x16)))
	if err != nil {
		t.Fatal(err)
	}

	got := vector{
		About:     "Test vector of session start, format 1 (../SPEC.md): private keys are one byte repeated; recomputed by recompute.py",
		AliceLong: canonical.Encode(seed(0x11)), AliceKeyInit: canonical.Encode(seed(0x13)), AliceSession: canonical.Encode(seed(0x16)),
		BobLong: canonical.Encode(seed(0x12)), BobSession: canonical.Encode(seed(0x15)),
		AliceUIDMessage: string(alice.History[0].Canonical()), KeyInit: string(k.Canonical()),
		First:     letter{text, bob.address.Mix, canonical.Encode(bob.address.Nym), canonical.Encode(first.Message)},
		SessionID: canonical.Encode(pending.ID[:]),
		Answer:    letter{answerText, alice.address.Mix, canonical.Encode(alice.address.Nym), canonical.Encode(answer.Message)},
	}
	for i, m := range bob.History {
		got.BobUIDMessages = append(got.BobUIDMessages, string(m.Canonical()))
		got.HashchainOfBob = append(got.HashchainOfBob, chain[i].String())
	}
	b, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	const file = "testdata/session.json"
	if *update {
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		lines, wantLines := bytes.Split(b, []byte("\n")), bytes.Split(want, []byte("\n"))
		i := slices.IndexFunc(lines, func(l []byte) bool {
			return !slices.ContainsFunc(wantLines, func(w []byte) bool { return bytes.Equal(l, w) })
		})
		t.Errorf("%s differs; the first line that is not in it:\n%s", file, lines[max(i, 0)])
	}
}
