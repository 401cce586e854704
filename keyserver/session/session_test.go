package session_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/session"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// TestStartAndAnswer is the use-case from Bob's KeyInit to Alice's answer, with
// what both keep in between written and read again.
func TestStartAndAnswer(t *testing.T) {
	w := newWorld(t)
	alice, bob, letters := w.register("alice"), w.register("bob"), newBox()
	w.update(bob)
	w.register("carol")

	letter, pending := start(t, bob, alice, w.publish(alice, letters, false), "Hi Alice")
	if got, want := describe(letter.To), describe(alice.address); got != want {
		t.Errorf("sent to %s, want %s", got, want)
	}
	for _, secret := range []string{"Hi Alice", "bob", "alice", string(bob.address.Nym)} {
		if bytes.Contains(letter.Message, []byte(secret)) {
			t.Errorf("%q is in clear text", secret)
		}
	}
	kept, err := pending.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}

	s, text, err := w.inbox(alice, letters).Open(t.Context(), parse(t, letter.Message), now)
	if err != nil {
		t.Fatal(err)
	}
	if string(text) != "Hi Alice" || s.Peer != "bob@"+domain || describe(s.ReplyTo) != describe(bob.address) || s.ID != pending.ID {
		t.Errorf("opened %q from %s, reply to %s", text, s.Peer, describe(s.ReplyTo))
	}
	b, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	read := new(session.Session)
	if err := read.UnmarshalBinary(b); err != nil {
		t.Fatal(err)
	}
	own := session.Address{Mix: "other@mix.example"} // a mix may do without NYMADDRESS
	answer, err := read.Answer(own, []byte("Hi Bob"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := describe(answer.To), describe(bob.address); got != want {
		t.Errorf("answer sent to %s, want %s", got, want)
	}

	w.update(bob) // the answer is for the key that the first message was by
	again := new(session.Pending)
	if err := again.UnmarshalBinary(kept); err != nil {
		t.Fatal(err)
	}
	reply, text, err := again.Open(parse(t, answer.Message), bob.Keys, now)
	if err != nil || string(text) != "Hi Bob" || describe(reply) != describe(own) {
		t.Errorf("answer %q, to %s, %v", text, describe(reply), err)
	}
}

// TestFlippedBit flips a bit of every byte, of both messages, in turn.
func TestFlippedBit(t *testing.T) {
	w := newWorld(t)
	alice, bob, letters := w.register("alice"), w.register("bob"), newBox()
	letter, pending := start(t, bob, alice, w.publish(alice, letters, true), "text")
	inbox := w.inbox(alice, letters)
	every := 1
	if testing.Short() {
		every = 7
	}
	for i := 0; i < len(letter.Message); i += every {
		changed := bytes.Clone(letter.Message)
		changed[i] ^= 1 << (i % 8)
		m, err := session.Parse(changed)
		if err == nil {
			_, _, err = inbox.Open(t.Context(), m, now)
		}
		if !oneOf(err, canonical.ErrMalformed, session.ErrUnknown, session.ErrForged) {
			t.Fatalf("first message, byte %d: %v", i, err)
		}
	}
	changed := bytes.Clone(letter.Message) // X25519 itself ignores this bit
	changed[68] ^= 0x80
	if _, _, err := inbox.Open(t.Context(), parse(t, changed), now); !errors.Is(err, session.ErrForged) {
		t.Error(err)
	}
	if len(letters.sessions) != 0 {
		t.Error("a session was recorded")
	}

	s, _, err := inbox.Open(t.Context(), parse(t, letter.Message), now)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.Answer(alice.address, []byte("answer"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(answer.Message); i += every {
		changed := bytes.Clone(answer.Message)
		changed[i] ^= 1 << (i % 8)
		m, err := session.Parse(changed)
		if err == nil {
			_, _, err = pending.Open(m, bob.Keys, now)
		}
		if !oneOf(err, canonical.ErrMalformed, session.ErrUnknown, session.ErrForged) {
			t.Fatalf("answer, byte %d: %v", i, err)
		}
	}
	if _, _, err := pending.Open(parse(t, answer.Message), bob.Keys, now); err != nil {
		t.Error(err)
	}
}

func oneOf(err error, allowed ...error) bool {
	return slices.ContainsFunc(allowed, func(want error) bool { return errors.Is(err, want) })
}

func TestParseRefuses(t *testing.T) {
	first := append(append([]byte("KTS1\x01"), make([]byte, 64+96)...), make([]byte, 4096+64)...)
	answer := append(append([]byte("KTS1\x02"), make([]byte, 64)...), make([]byte, 4096+64)...)
	for _, b := range [][]byte{first, answer, append(bytes.Clone(answer), make([]byte, session.MaxContent-4096)...)} {
		if _, err := session.Parse(b); err != nil {
			t.Error(err)
		}
	}
	for name, b := range map[string][]byte{
		"empty": nil, "magic": []byte("KTS1"), "another magic": append([]byte("KTS2"), first[4:]...),
		"kind 0": append([]byte("KTS1\x00"), first[5:]...), "kind 3": append([]byte("KTS1\x03"), first[5:]...),
		"an answer as a first": append([]byte("KTS1\x01"), answer[5:]...), "a first as an answer": append([]byte("KTS1\x02"), first[5:]...),
		"one less": first[:len(first)-1], "one more": append(bytes.Clone(first), 0), "no content": first[:len(first)-4096],
		"header alone": first[:69], "sender alone": first[:69+96], "cut sender": first[:100],
		"too long": append(bytes.Clone(first), make([]byte, session.MaxContent)...),
	} {
		if _, err := session.Parse(b); !errors.Is(err, canonical.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestReplay opens a message twice, and two on one KeyInit.
func TestReplay(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol, letters := w.register("alice"), w.register("bob"), w.register("carol"), newBox()
	inbox := w.inbox(alice, letters)
	for _, fallback := range []bool{false, true} {
		k := w.publish(alice, letters, fallback)
		byBob, _ := start(t, bob, alice, k, "from Bob")
		byCarol, _ := start(t, carol, alice, k, "from Carol")
		if _, _, err := inbox.Open(t.Context(), parse(t, byBob.Message), now); err != nil {
			t.Fatal(err)
		}
		want := session.ErrUnknown // the key is gone
		if fallback {
			want = session.ErrReplay
		}
		if _, _, err := inbox.Open(t.Context(), parse(t, byBob.Message), now); !errors.Is(err, want) {
			t.Errorf("fallback %v: again: %v", fallback, err)
		}
		if _, _, err := inbox.Open(t.Context(), parse(t, byCarol.Message), now); fallback != (err == nil) {
			t.Errorf("fallback %v: a second sender: %v", fallback, err)
		}
	}
}

// TestWrongRecipient gives messages to those they are not for.
func TestWrongRecipient(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol := w.register("alice"), w.register("bob"), w.register("carol")
	letters, others := newBox(), newBox()
	k := w.publish(alice, letters, true)
	letter, pending := start(t, bob, alice, k, "text")
	m := parse(t, letter.Message)

	if _, _, err := w.inbox(carol, others).Open(t.Context(), m, now); !errors.Is(err, session.ErrUnknown) {
		t.Errorf("Carol: %v", err)
	}
	// Who has stolen the KeyInit's private key, but not the long-term one.
	if _, _, err := w.inbox(carol, letters).Open(t.Context(), m, now); !errors.Is(err, session.ErrForged) {
		t.Errorf("Carol with the KeyInit's key: %v", err)
	}
	// Another KeyInit's key under the digest that the message names.
	wrong := newBox()
	wrong.inits[m.For], wrong.keys[m.For] = k, newX25519()
	if _, _, err := w.inbox(alice, wrong).Open(t.Context(), m, now); !errors.Is(err, session.ErrForged) {
		t.Errorf("another key: %v", err)
	}
	// Another identity of hers, with the same keys.
	double := w.register("double")
	double.Keys = alice.Keys
	if _, _, err := w.inbox(double, letters).Open(t.Context(), m, now); !errors.Is(err, session.ErrForged) {
		t.Errorf("another identity: %v", err)
	}
	if _, _, err := w.inbox(alice, letters).Open(t.Context(), m, now+30*day+session.MaxDelay+1); !errors.Is(err, uid.ErrExpired) {
		t.Errorf("too late: %v", err)
	}
	s, _, err := w.inbox(alice, letters).Open(t.Context(), m, now)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := s.Answer(alice.address, nil, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, another := start(t, bob, alice, k, "another")
	for name, test := range map[string]struct {
		pending *session.Pending
		message []byte
		self    *session.Self
		now     uint64
		want    error
	}{
		"another session": {another, answer.Message, bob.Self, now, session.ErrUnknown},
		"a first message": {pending, letter.Message, bob.Self, now, session.ErrUnknown},
		"without the key": {pending, answer.Message, carol.Self, now, session.ErrUnknown},
		"too late":        {pending, answer.Message, bob.Self, now + 30*day + 2*session.MaxDelay + 1, uid.ErrExpired},
		"the right one":   {pending, answer.Message, bob.Self, now, nil},
	} {
		if _, _, err := test.pending.Open(parse(t, test.message), test.self.Keys, test.now); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := w.inbox(alice, letters).Open(t.Context(), parse(t, answer.Message), now); !errors.Is(err, canonical.ErrMalformed) {
		t.Errorf("an answer as a first message: %v", err)
	}
}

// TestForgedSender has somebody else, with keys of its own, write as Bob.
func TestForgedSender(t *testing.T) {
	w := newWorld(t)
	alice, bob, eve, letters := w.register("alice"), w.register("bob"), w.register("eve"), newBox()
	w.update(bob)
	k := w.publish(alice, letters, true)
	last := bob.History[0].Content.LastEntry

	// forged is a sender with Eve's keys, and what she says are Bob's UID messages.
	forged := func(history ...*uid.Message) *user {
		u := newUser("eve")
		u.Keys, u.History = eve.Keys, history
		return u
	}
	invented := &uid.Message{Content: eve.content("bob@"+domain, last)}
	invented.Sign(eve.sig)
	invented.SignEscrow(eve.escrow)
	// An update that only Eve has signed.
	seized := &uid.Message{Content: bob.History[1].Content}
	seized.Content.MsgCount++
	seized.Content.PubKeys = invented.Content.PubKeys
	seized.Content.SigKey = invented.Content.SigKey
	seized.Sign(eve.sig)
	seized.SignUser(eve.sig)
	tampered := *bob.History[1]
	tampered.Content.PubKeys = invented.Content.PubKeys
	unregistered := &uid.Message{Content: eve.content("mallory@"+domain, last)}
	unregistered.Sign(eve.sig)
	unregistered.SignEscrow(eve.escrow)
	stale := forged(bob.History[0])
	stale.Keys = bob.Keys[1:]

	for name, test := range map[string]struct {
		from *user
		want error
	}{
		"keys of her own, not in the chain": {forged(invented), session.ErrSender},
		"behind Bob's true messages":        {forged(bob.History[0], bob.History[1], seized), session.ErrSender},
		"Bob's last message changed":        {forged(bob.History[0], &tampered), session.ErrSender},
		"out of order":                      {forged(bob.History[1], invented), session.ErrSender},
		"twice":                             {forged(eve.History[0], eve.History[0]), session.ErrSender},
		"hers, then as Bob":                 {forged(eve.History[0], invented), session.ErrSender},
		"not registered":                    {forged(unregistered), session.ErrBehind},
		"Bob before his update":             {stale, session.ErrSender},
		"Eve as herself":                    {eve, nil},
		"Bob":                               {bob, nil},
	} {
		before := len(letters.sessions)
		letter, _ := start(t, test.from, alice, k, "text")
		_, _, err := w.inbox(alice, letters).Open(t.Context(), parse(t, letter.Message), now)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
		if recorded := len(letters.sessions) > before; recorded != (test.want == nil) {
			t.Errorf("%s: recorded: %v", name, recorded)
		}
	}

	// Bob's own messages, and a key that is not in them.
	letter, _ := start(t, bob, alice, k, "text")
	later := w.inbox(alice, letters)
	if _, _, err := later.Open(t.Context(), parse(t, letter.Message), now+301*day); !errors.Is(err, uid.ErrExpired) {
		t.Errorf("long after: %v", err)
	}
	later.Hashchain = copied(nil)
	if _, _, err := later.Open(t.Context(), parse(t, letter.Message), now); !errors.Is(err, session.ErrBehind) {
		t.Errorf("a copy without Bob: %v", err)
	}
	failing := errors.New("disk on fire")
	later.Hashchain = failed{failing}
	if _, _, err := later.Open(t.Context(), parse(t, letter.Message), now); !errors.Is(err, failing) {
		t.Error(err)
	}
	later.Hashchain = w
	if _, _, err := later.Open(t.Context(), parse(t, letter.Message), now); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// TestFormerOwner has Bob use a name that had another owner.
func TestFormerOwner(t *testing.T) {
	alice, letters := newUser("alice"), newBox()
	last, err := hashchain.Seal(hashchain.Hash{}, "keyserver@"+domain, hashchain.Hash{}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	first := func(u *user, identity string, notAfter uint64) *uid.Message {
		m := &uid.Message{Content: u.content(identity, last.String())}
		m.Content.NotBefore, m.Content.NotAfter = notAfter-day, notAfter
		m.Sign(u.sig)
		m.SignEscrow(u.escrow)
		return m
	}
	alice.History = []*uid.Message{first(alice, "alice@"+domain, now+day)}
	k, key := alice.newKeyInit(true)
	letters.add(k, key)
	for notAfter, want := range map[uint64]error{
		now - 2*uid.Rollover - 1: nil,
		now - 2*uid.Rollover:     session.ErrSender, // the name was not free
		now + day:                session.ErrSender,
	} {
		bob := newUser("bob")
		bob.History = []*uid.Message{first(newUser("former"), "bob@"+domain, notAfter), first(bob, "bob@"+domain, now+day)}
		chain := copied{last}
		for _, m := range bob.History {
			e, err := hashchain.Seal(chain[len(chain)-1].Hash(), m.Content.Identity, m.Hash(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			chain = append(chain, e)
		}
		letter, _ := start(t, bob, alice, k, "text")
		inbox := &session.Inbox{Identity: "alice@" + domain, Keys: alice.Keys, Hashchain: chain, KeyInits: letters}
		if _, _, err := inbox.Open(t.Context(), parse(t, letter.Message), now); !errors.Is(err, want) {
			t.Errorf("NOTAFTER %d: %v", notAfter, err)
		}
	}
}

type failed struct{ err error }

func (f failed) Search(context.Context, string) ([]hashchain.Entry, error) { return nil, f.err }

func TestStartRefuses(t *testing.T) {
	w := newWorld(t)
	alice, bob, carol, letters := w.register("alice"), w.register("bob"), w.register("carol"), newBox()
	good := w.publish(alice, letters, true)
	change := func(f func(*keyinit.KeyInit)) *keyinit.KeyInit {
		k, _ := alice.newKeyInit(false)
		f(k)
		k.Sign(alice.sig)
		return k
	}
	anchor := func(mix, nym string, key []byte) *keyinit.KeyInit {
		k, _ := alice.newKeyInit(false)
		alice.seal(k, &keyinit.Anchor{MixAddress: mix, NymAddress: nym, PFKeys: uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, key)}})
		return k
	}
	sound := newX25519().PublicKey().Bytes()
	carols, _ := carol.newKeyInit(false)
	unsigned := *good
	unsigned.Signature = carols.Signature
	strict := *alice.History[0]
	strict.Content.Preferences.ForwardSec = uid.Strict
	expired := *alice.History[0]
	expired.Content.NotAfter = now - 1
	lowOrder := *alice.History[0]
	lowOrder.Content.PubKeys = uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, make([]byte, 32))}
	keyless := *bob.Self
	keyless.Keys = []*ecdh.PrivateKey{newX25519()}
	long := *bob.Self
	long.History = slices.Repeat(long.History, 300)

	for name, test := range map[string]struct {
		to    session.Recipient
		from  *session.Self
		reply session.Address
		text  int
		want  error
	}{
		"another's KeyInit":       {session.Recipient{UID: alice.History[0], KeyInit: carols}, bob.Self, bob.address, 1, session.ErrRecipient},
		"not signed by Alice":     {session.Recipient{UID: alice.History[0], KeyInit: &unsigned}, bob.Self, bob.address, 1, session.ErrRecipient},
		"expired KeyInit":         {session.Recipient{UID: alice.History[0], KeyInit: change(func(k *keyinit.KeyInit) { k.Contents.NotAfter = now })}, bob.Self, bob.address, 1, uid.ErrExpired},
		"early KeyInit":           {session.Recipient{UID: alice.History[0], KeyInit: change(func(k *keyinit.KeyInit) { k.Contents.NotBefore = now + 301 })}, bob.Self, bob.address, 1, uid.ErrExpired},
		"of another repository":   {session.Recipient{UID: alice.History[0], KeyInit: change(func(k *keyinit.KeyInit) { k.Contents.RepoURI = "example.net" })}, bob.Self, bob.address, 1, session.ErrRecipient},
		"of another profile":      {session.Recipient{UID: alice.History[0], KeyInit: change(func(k *keyinit.KeyInit) { k.Contents.Version = uid.Version10 })}, bob.Self, bob.address, 1, session.ErrRecipient},
		"fallback against strict": {session.Recipient{UID: &strict, KeyInit: good}, bob.Self, bob.address, 1, session.ErrRecipient},
		"expired identity":        {session.Recipient{UID: &expired, KeyInit: good}, bob.Self, bob.address, 1, uid.ErrExpired},
		"no mix":                  {session.Recipient{UID: alice.History[0], KeyInit: anchor("", "", sound)}, bob.Self, bob.address, 1, session.ErrRecipient},
		"two mixes":               {session.Recipient{UID: alice.History[0], KeyInit: anchor("a@b.example,c@d.example", "", sound)}, bob.Self, bob.address, 1, session.ErrRecipient},
		"a mix with a command":    {session.Recipient{UID: alice.History[0], KeyInit: anchor("a@b.example>\r\nRCPT TO:<c@d.example", "", sound)}, bob.Self, bob.address, 1, session.ErrRecipient},
		"a nym of another form":   {session.Recipient{UID: alice.History[0], KeyInit: anchor("a@b.example", "!", sound)}, bob.Self, bob.address, 1, session.ErrRecipient},
		"a long nym":              {session.Recipient{UID: alice.History[0], KeyInit: anchor("a@b.example", strings.Repeat("AAAA", 1025), sound)}, bob.Self, bob.address, 1, session.ErrRecipient},
		"KeyInit of low order":    {session.Recipient{UID: alice.History[0], KeyInit: anchor("a@b.example", "", make([]byte, 32))}, bob.Self, bob.address, 1, session.ErrRecipient},
		"UID key of low order":    {session.Recipient{UID: &lowOrder, KeyInit: good}, bob.Self, bob.address, 1, session.ErrRecipient},
		"no key of his own":       {session.Recipient{UID: alice.History[0], KeyInit: good}, &keyless, bob.address, 1, session.ErrSender},
		"no identity":             {session.Recipient{UID: alice.History[0], KeyInit: good}, &session.Self{}, bob.address, 1, session.ErrSender},
		"no address":              {session.Recipient{UID: alice.History[0], KeyInit: good}, bob.Self, session.Address{}, 1, session.ErrRecipient},
		"long text":               {session.Recipient{UID: alice.History[0], KeyInit: good}, bob.Self, bob.address, session.MaxText + 1, session.ErrTooLong},
		"long history":            {session.Recipient{UID: alice.History[0], KeyInit: good}, &long, bob.address, 1, session.ErrTooLong},
		"longest text":            {session.Recipient{UID: alice.History[0], KeyInit: good}, bob.Self, bob.address, session.MaxText, nil},
		"no text":                 {session.Recipient{UID: alice.History[0], KeyInit: good}, bob.Self, bob.address, 0, nil},
	} {
		letter, _, err := session.Start(&test.to, test.from, test.reply, make([]byte, test.text), now, rand.Reader)
		if !errors.Is(err, test.want) || (err == nil) != (letter != nil) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			if _, text, err := w.inbox(alice, letters).Open(t.Context(), parse(t, letter.Message), now); err != nil || len(text) != test.text {
				t.Errorf("%s: opened: %d bytes, %v", name, len(text), err)
			}
		}
	}
}

// TestOlderKey has Alice change her long-term key while a message is on its way.
func TestOlderKey(t *testing.T) {
	w := newWorld(t)
	alice, bob, letters := w.register("alice"), w.register("bob"), newBox()
	letter, _ := start(t, bob, alice, w.publish(alice, letters, false), "text")
	w.update(alice)
	if _, _, err := w.inbox(alice, letters).Open(t.Context(), parse(t, letter.Message), now); err != nil {
		t.Error(err)
	}
}

func TestStateRefuses(t *testing.T) {
	w := newWorld(t)
	alice, bob, letters := w.register("alice"), w.register("bob"), newBox()
	letter, pending := start(t, bob, alice, w.publish(alice, letters, false), "text")
	s, _, err := w.inbox(alice, letters).Open(t.Context(), parse(t, letter.Message), now)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := pending.MarshalBinary()
	b, _ := s.MarshalBinary()
	if err := new(session.Pending).UnmarshalBinary(b); !errors.Is(err, canonical.ErrMalformed) {
		t.Errorf("a session as pending: %v", err)
	}
	if err := new(session.Session).UnmarshalBinary(p); !errors.Is(err, canonical.ErrMalformed) {
		t.Errorf("pending as a session: %v", err)
	}
	for i := range b {
		if err := new(session.Session).UnmarshalBinary(b[:i]); !errors.Is(err, canonical.ErrMalformed) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	cut := bytes.Replace(p, []byte(`"ROOT":"`), []byte(`"ROOT":"AAAA`), 1)
	if err := new(session.Pending).UnmarshalBinary(cut); !errors.Is(err, canonical.ErrMalformed) {
		t.Error(err)
	}
}
