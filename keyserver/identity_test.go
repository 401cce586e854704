package keyserver

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/keyserver/sigkey"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

func TestCreateAndUpdate(t *testing.T) {
	s, _ := newTest(t)
	const alice, carol = "alice@example.org", "carol@example.org"

	a0 := message(s, alice, newKey(1))
	checkReplyOf(t, s, a0, mustCreate(t, s, a0))
	c0 := message11(s, carol, newKey(2), newKey(3))
	checkReplyOf(t, s, c0, mustCreate(t, s, c0))

	update := func(m *uid.Message) {
		t.Helper()
		reply, err := s.UpdateUID(t.Context(), m, "")
		if err != nil {
			t.Fatal(err)
		}
		checkReplyOf(t, s, m, reply)
	}
	a1 := next(a0, newKey(1), newKey(11)) // keeps LASTENTRY and NOTAFTER, as the deployed client does
	update(a1)
	update(next(a1, newKey(11), newKey(12)))

	// The escrow key recovers from a lost SIGKEY, and replaces itself.
	c1 := next(c0, newKey(2), newKey(21))
	c1.UserSignature = ""
	escrow := uid.NewKeyEntry(uid.Ed25519, public(newKey(31)))
	c1.Content.SigEscrow = &escrow
	c1.Sign(newKey(21))
	c1.SignEscrow(newKey(3))
	update(c1)

	for identity, want := range map[string][]uint64{
		alice: {1, 3, 4}, carol: {2, 5}, "keyserver@example.org": {0}, "nobody2@example.org": nil,
	} {
		got, earlier, err := s.LookupUID(t.Context(), identity, math.MaxUint64)
		if err != nil || earlier || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v", identity, got, err, want)
		}
		found, err := hashchain.Search(t.Context(), collect(t, s, 0, 99), identity)
		if err != nil || len(found) != len(want) {
			t.Errorf("%s: searched: %v", identity, found)
		}
	}
	if _, _, err := s.LookupUID(t.Context(), "Alice@example.org", math.MaxUint64); !errors.Is(err, uid.ErrInvalid) {
		t.Errorf("a name that is not mapped: %v", err)
	}
	if _, err := s.FetchUID(t.Context(), hashchain.Hash{}); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	mustCheck(t, s)
}

// refused checks that a call is refused, and that it changed nothing.
func refused(t *testing.T, s *Service, name string, want error, call func() error) {
	t.Helper()
	before := s.Chain()
	err := call()
	if !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", name, err, want)
	}
	if after := s.Chain(); after.Size != before.Size || after.Head != before.Head {
		t.Errorf("%s: the chain changed", name)
	}
}

func TestCreateRefuses(t *testing.T) {
	s, c := newTest(t)
	mustCreate(t, s, message(s, "iohnl@example.org", newKey(1)))
	other, _ := newTest(t)
	mustCreate(t, other, message(other, "somebody@example.org", newKey(1)))
	key := newKey(2)
	signed := func(identity string, change func(*uid.Content)) *uid.Message {
		m := message(s, identity, key)
		change(&m.Content)
		m.Sign(key)
		return m
	}
	nothing := func(*uid.Content) {}
	tampered := func(i int) string {
		e, err := hashchain.Parse(s.lastText())
		if err != nil {
			t.Fatal(err)
		}
		e[i] ^= 1
		return e.String()
	}
	for name, test := range map[string]struct {
		message *uid.Message
		want    error
	}{
		"taken":             {signed("iohnl@example.org", nothing), ErrTaken},
		"not mapped":        {signed("john1@example.org", nothing), uid.ErrInvalid},
		"reserved":          {signed("root@example.org", nothing), ErrReserved},
		"the keyserver":     {signed("keyserver@example.org", func(c *uid.Content) { c.LastEntry = "" }), ErrReserved},
		"foreign domain":    {signed("alice@example.net", func(c *uid.Content) { c.RepoURIs = []string{"example.net"} }), ErrDomain},
		"subdomain":         {signed("alice@a.example.org", func(c *uid.Content) { c.RepoURIs = []string{"a.example.org"} }), ErrDomain},
		"expired":           {signed("alice@example.org", func(c *uid.Content) { c.NotAfter = s.now() }), uid.ErrExpired},
		"too long":          {signed("alice@example.org", func(c *uid.Content) { c.NotAfter = s.now() + uid.MaxValidity + 1 }), uid.ErrExpired},
		"backwards":         {signed("alice@example.org", func(c *uid.Content) { c.NotBefore = c.NotAfter }), uid.ErrExpired},
		"MSGCOUNT":          {signed("alice@example.org", func(c *uid.Content) { c.MsgCount = 1 }), uid.ErrInvalid},
		"no LASTENTRY":      {signed("alice@example.org", func(c *uid.Content) { c.LastEntry = "" }), uid.ErrInvalid},
		"foreign LASTENTRY": {signed("alice@example.org", func(c *uid.Content) { c.LastEntry = other.lastText() }), ErrLastEntry},
		"LASTENTRY's hash":  {signed("alice@example.org", func(c *uid.Content) { c.LastEntry = tampered(0) }), ErrLastEntry},
		"LASTENTRY's end":   {signed("alice@example.org", func(c *uid.Content) { c.LastEntry = tampered(152) }), ErrLastEntry},
		"SIGKEY hash":       {signed("alice@example.org", func(c *uid.Content) { c.SigKey.Hash = c.LastEntry[:88] }), uid.ErrInvalid},
		"PUBKEYS hash":      {signed("alice@example.org", func(c *uid.Content) { c.PubKeys[0].Hash = c.LastEntry[:88] }), uid.ErrInvalid},
		"profile":           {signed("alice@example.org", func(c *uid.Content) { c.Version = "0.9" }), uid.ErrInvalid},
		"1.0 and more":      {signed("alice@example.org", func(c *uid.Content) { c.Preferences.ForwardSec = uid.Optional }), uid.ErrInvalid},
		"signed by another": {func() *uid.Message { m := signed("alice@example.org", nothing); m.Sign(newKey(3)); return m }(), uid.ErrSignature},
		"unsigned":          {func() *uid.Message { m := signed("alice@example.org", nothing); m.SelfSignature = ""; return m }(), uid.ErrSignature},
		"1.1 without escrow's signature": {func() *uid.Message {
			m := message11(s, "alice@example.org", key, newKey(4))
			m.EscrowSignature = ""
			return m
		}(), uid.ErrSignature},
		"1.1 with another's": {func() *uid.Message {
			m := message11(s, "alice@example.org", key, newKey(4))
			m.SignEscrow(newKey(5))
			return m
		}(), uid.ErrSignature},
	} {
		refused(t, s, name, test.want, func() error { _, err := s.CreateUID(t.Context(), test.message, ""); return err })
	}

	// LASTENTRY may be a day behind; on a chain without new entries, any age.
	old := message(s, "bernd@example.org", newKey(6)) // LASTENTRY at position 1
	c.advance(40 * day)
	mustCreate(t, s, message(s, "anna@example.org", newKey(7)))
	c.advance(day)
	mustCreate(t, s, old)
	old = message(s, "berta@example.org", newKey(8)) // LASTENTRY at position 3
	old.Content.LastEntry = collectText(t, s, 1)
	old.Sign(newKey(8))
	c.advance(time.Second)
	refused(t, s, "stale LASTENTRY", ErrLastEntry, func() error { _, err := s.CreateUID(t.Context(), old, ""); return err })
	old.Content.LastEntry = collectText(t, s, 2)
	old.Sign(newKey(8))
	mustCreate(t, s, old)
	mustCheck(t, s)
}

func collectText(t *testing.T, s *Service, position uint64) string {
	e := collect(t, s, position, position)[0]
	return e.String()
}

func TestUpdateRefuses(t *testing.T) {
	s, c := newTest(t)
	other, _ := newTest(t)
	a0 := message11(s, "alice@example.org", newKey(1), newKey(2))
	mustCreate(t, s, a0)
	b0 := message(s, "bert@example.org", newKey(5))
	mustCreate(t, s, b0)
	a1 := func(change func(*uid.Message)) *uid.Message {
		m := next(a0, newKey(1), newKey(11))
		change(m)
		return m
	}
	resign := func(m *uid.Message) { m.Sign(newKey(11)); m.SignUser(newKey(1)) }
	for name, test := range map[string]struct {
		message *uid.Message
		want    error
	}{
		"unknown":               {next(message(s, "nobody2@example.org", newKey(1)), newKey(1), newKey(1)), ErrUnknown},
		"the same again":        {a0, uid.ErrInvalid},
		"MSGCOUNT skips":        {a1(func(m *uid.Message) { m.Content.MsgCount = 2; resign(m) }), uid.ErrInvalid},
		"by a stranger":         {a1(func(m *uid.Message) { m.SignUser(newKey(99)) }), uid.ErrSignature},
		"by the new key alone":  {a1(func(m *uid.Message) { m.SignUser(newKey(11)) }), uid.ErrSignature},
		"by nobody":             {a1(func(m *uid.Message) { m.UserSignature = "" }), uid.ErrSignature},
		"by both":               {a1(func(m *uid.Message) { m.SignEscrow(newKey(2)) }), uid.ErrSignature},
		"wrong SELFSIGNATURE":   {a1(func(m *uid.Message) { m.Sign(newKey(1)) }), uid.ErrSignature},
		"wrong ESCROWSIGNATURE": {a1(func(m *uid.Message) { m.UserSignature = ""; m.SignEscrow(newKey(1)) }), uid.ErrSignature},
		"escrow changed by user": {a1(func(m *uid.Message) {
			e := uid.NewKeyEntry(uid.Ed25519, public(newKey(3)))
			m.Content.SigEscrow = &e
			resign(m)
		}), uid.ErrSignature},
		"foreign LASTENTRY":  {a1(func(m *uid.Message) { m.Content.LastEntry = other.lastText(); resign(m) }), ErrLastEntry},
		"expired":            {a1(func(m *uid.Message) { m.Content.NotAfter = s.now(); resign(m) }), uid.ErrExpired},
		"another's identity": {a1(func(m *uid.Message) { m.Content.Identity = "bert@example.org"; resign(m) }), uid.ErrInvalid},
		"other profile": {func() *uid.Message {
			m := message11(s, "bert@example.org", newKey(5), newKey(2))
			m.Content.MsgCount = 1
			m.EscrowSignature = ""
			m.Sign(newKey(5))
			m.SignUser(newKey(5))
			return m
		}(), uid.ErrInvalid},
		"the keyserver": {func() *uid.Message {
			m := message(s, "keyserver@example.org", newKey(5))
			m.Content.MsgCount = 1
			m.Sign(newKey(5))
			return m
		}(), ErrReserved},
	} {
		refused(t, s, name, test.want, func() error { _, err := s.UpdateUID(t.Context(), test.message, ""); return err })
	}

	// A year after NOTAFTER, and no longer, it can still be updated.
	c.advance(365*day + 365*day)
	late := a1(func(m *uid.Message) { m.Content.NotAfter = s.now() + 1000; resign(m) })
	if _, err := s.UpdateUID(t.Context(), late, ""); err != nil {
		t.Errorf("a year after NOTAFTER: %v", err)
	}
	c.advance(time.Second)
	later := next(b0, newKey(5), newKey(5))
	later.Content.NotAfter = s.now() + 1000
	later.Sign(newKey(5))
	later.SignUser(newKey(5))
	refused(t, s, "more than a year after", uid.ErrExpired, func() error { _, err := s.UpdateUID(t.Context(), later, ""); return err })

	// Two years after it, and no sooner, the name is free again.
	c.advance(365*day - time.Second)
	refused(t, s, "two years after", ErrTaken, func() error {
		_, err := s.CreateUID(t.Context(), message(s, "bert@example.org", newKey(6)), "")
		return err
	})
	c.advance(time.Second)
	mustCreate(t, s, message(s, "bert@example.org", newKey(6)))
	if got, _, err := s.LookupUID(t.Context(), "bert@example.org", math.MaxUint64); len(got) != 2 || err != nil {
		t.Errorf("%v %v", got, err)
	}
	if _, err := s.AddKeyInit(t.Context(), public(newKey(5)), keyInits(t, s, newKey(5), 1), free(1)); !errors.Is(err, ErrUnknown) {
		t.Errorf("the former owner's key: %v", err)
	}
	mustCheck(t, s)
}

// Whoever comes first has the name, and all names that look like it; the others
// are refused and pay nothing.
func TestConcurrentCreate(t *testing.T) {
	inMemory(t)
	dir, c := t.TempDir(), newClock()
	issuer, err := token.OpenIssuer(filepath.Join(dir, "issuer"))
	if err != nil {
		t.Fatal(err)
	}
	opt := testOptions(dir, c)
	opt.Tokens = token.Issued{Domain: testDomain, Issuer: issuer.Public()}
	s := openTest(t, opt)
	const each, names = 16, 4
	var won [names]atomic.Int32
	var tokens [names * each]string
	var racing sync.WaitGroup
	for n := range names * each {
		if tokens[n], err = issuer.Issue(testDomain); err != nil {
			t.Fatal(err)
		}
		name := n % names
		// 0 and o, 1 and l, j and i are one: each asks for what its name maps to.
		written := []string{"l0lj", "1oli", "10li", "L0Lj"}[n/names%4]
		identity, err := uid.Map(fmt.Sprintf("%s%c@example.org", written, 'a'+name))
		if err != nil {
			t.Fatal(err)
		}
		m := message(s, identity, newKey(uint64(n)))
		racing.Go(func() {
			switch _, err := s.CreateUID(t.Context(), m, tokens[n]); {
			case err == nil:
				won[name].Add(1)
			case !errors.Is(err, ErrTaken):
				t.Error(err)
			}
		})
	}
	racing.Wait()
	for name := range won {
		if n := won[name].Load(); n != 1 {
			t.Errorf("%d have name %d", n, name)
		}
	}
	if size := s.Chain().Size; size != 1+names {
		t.Errorf("%d entries", size)
	}
	spent := 0
	for n, text := range tokens {
		_, err := s.CreateUID(t.Context(), message(s, fmt.Sprintf("user%c%c@example.org", 'a'+n/8, 'a'+n%8), newKey(1)), text)
		if errors.Is(err, ErrSpent) {
			spent++
		} else if err != nil {
			t.Error(err)
		}
	}
	if spent != names {
		t.Errorf("%d tokens were spent for %d names", spent, names)
	}
	mustCheck(t, s)
}

// Of concurrent updates of one identity exactly one succeeds.
func TestConcurrentUpdate(t *testing.T) {
	s, _ := newTest(t)
	first := message(s, "alice@example.org", newKey(0))
	mustCreate(t, s, first)
	var won atomic.Int32
	var racing sync.WaitGroup
	for n := range uint64(32) {
		m := next(first, newKey(0), newKey(100+n))
		racing.Go(func() {
			switch _, err := s.UpdateUID(t.Context(), m, ""); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, uid.ErrInvalid): // MSGCOUNT
				t.Error(err)
			}
		})
	}
	racing.Wait()
	if n := won.Load(); n != 1 || s.Chain().Size != 3 {
		t.Errorf("%d succeeded, %d entries", n, s.Chain().Size)
	}
	mustCheck(t, s)
}

func TestTokens(t *testing.T) {
	inMemory(t)
	dir, c := t.TempDir(), newClock()
	issuer, err := token.OpenIssuer(filepath.Join(dir, "issuer"))
	if err != nil {
		t.Fatal(err)
	}
	opt := testOptions(dir, c)
	opt.Tokens = token.Issued{Domain: testDomain, Issuer: issuer.Public()}
	s := openTest(t, opt)
	text, err := issuer.Issue(testDomain)
	if err != nil {
		t.Fatal(err)
	}
	create := func(name, payment string) error {
		_, err := s.CreateUID(t.Context(), message(s, name+"@example.org", newKey(1)), payment)
		return err
	}
	refused(t, s, "no token", token.ErrInvalid, func() error { return create("alice", "") })
	refused(t, s, "bad token", token.ErrInvalid, func() error { return create("alice", "AAAA"+text[4:]) })
	refused(t, s, "refused for another reason", ErrReserved, func() error { return create("root", text) })
	if err := create("alice", text); err != nil {
		t.Fatal(err)
	}
	refused(t, s, "spent", ErrSpent, func() error { return create("bob", text) })
	refused(t, s, "spent on a KeyInit", ErrSpent, func() error {
		_, err := s.AddKeyInit(t.Context(), public(newKey(1)), keyInits(t, s, newKey(1), 1), []string{text})
		return err
	})
	fresh, err := issuer.Issue(testDomain)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, s, "one token for two", ErrSpent, func() error {
		_, err := s.AddKeyInit(t.Context(), public(newKey(1)), keyInits(t, s, newKey(1), 2), []string{fresh, fresh})
		return err
	})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, opt)
	refused(t, s, "spent before the restart", ErrSpent, func() error { return create("bob", text) })
	if err := create("bob", fresh); err != nil {
		t.Errorf("the token of a refused call: %v", err)
	}
}

// counted takes any token, each once, and counts how many it has checked.
type counted struct {
	paid
	checked atomic.Int32
}

func (c *counted) Check(text string) (token.ID, bool, error) {
	c.checked.Add(1)
	return c.paid.Check(text)
}

// TestCheapFirst: who may not have what he asks for, or has no good token for it, is refused
// before any signature of his is looked at, and no token is once one was spent before.
func TestCheapFirst(t *testing.T) {
	inMemory(t)
	opt := testOptions(t.TempDir(), newClock())
	tokens := new(counted)
	opt.Tokens = tokens
	s := openTest(t, opt)
	alice := message(s, "alice@example.org", newKey(1))
	if _, err := s.CreateUID(t.Context(), alice, "spent"); err != nil {
		t.Fatal(err)
	}
	unsigned := func(m *uid.Message) *uid.Message {
		m.SelfSignature = canonical.Encode(make([]byte, ed25519.SignatureSize))
		return m
	}
	create := func(name, payment string) func() error {
		m := unsigned(message(s, name+"@example.org", newKey(2)))
		return func() error { _, err := s.CreateUID(t.Context(), m, payment); return err }
	}
	update := func(payment string) func() error {
		m := unsigned(next(alice, newKey(1), newKey(2)))
		return func() error { _, err := s.UpdateUID(t.Context(), m, payment); return err }
	}
	inits := keyInits(t, s, newKey(1), MaxKeyInitsPerCall)
	inits[0].Signature = ""
	add := func(key ed25519.PrivateKey, payments ...string) func() error {
		for n := len(payments); n < len(inits); n++ {
			payments = append(payments, fmt.Sprint("token ", n))
		}
		return func() error { _, err := s.AddKeyInit(t.Context(), public(key), inits, payments); return err }
	}
	for _, test := range []struct {
		name    string
		call    func() error
		want    error
		checked int32 // tokens
	}{
		{"a name that is taken", create("alice", "good"), ErrTaken, 0},
		{"a name for a spent token", create("bob", "spent"), ErrSpent, 1},
		{"a name", create("bob", "good"), uid.ErrSignature, 1},
		{"an update for a spent token", update("spent"), ErrSpent, 1},
		{"an update", update("good"), uid.ErrSignature, 1},
		{"KeyInits of nobody", add(newKey(9)), ErrUnknown, 0},
		{"KeyInits for a spent token", add(newKey(1), "spent"), ErrSpent, 1},
		{"KeyInits for one token", add(newKey(1), "good", "good"), ErrSpent, 2},
		{"KeyInits", add(newKey(1)), uid.ErrSignature, MaxKeyInitsPerCall},
	} {
		tokens.checked.Store(0)
		refused(t, s, test.name, test.want, test.call)
		if n := tokens.checked.Load(); n != test.checked {
			t.Errorf("%s: %d tokens were checked, want %d", test.name, n, test.checked)
		}
	}
}

func TestLinks(t *testing.T) {
	inMemory(t)
	operator := newKey(77)
	opt := testOptions(t.TempDir(), newClock())
	opt.LinkAuthority = public(operator)
	s := openTest(t, opt)
	link := func(identity string, n uint64, sign ed25519.PrivateKey) *uid.Message {
		m := message11(s, identity, newKey(n), newKey(n+1))
		m.Content.ChainLink = &uid.ChainLink{URI: []string{"example.net"}, Last: m.Content.LastEntry,
			Authoritative: true, Domains: []string{"example.net"}, Identity: "keyserver@example.net"}
		m.Sign(newKey(n))
		m.SignEscrow(newKey(n + 1))
		m.SignLink(sign)
		return m
	}
	if _, _, err := s.GetLink(t.Context(), "example.net"); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	refused(t, s, "authority of nobody", uid.ErrSignature, func() error {
		_, err := s.CreateUID(t.Context(), link("linka@example.org", 1, newKey(1)), "")
		return err
	})
	for i, name := range []string{"linka@example.org", "linkb@example.org"} {
		m := link(name, uint64(10*i), operator)
		checkReplyOf(t, s, m, mustCreate(t, s, m))
	}
	identity, position, err := s.GetLink(t.Context(), "example.net")
	if identity != "linka@example.org" || position != 1 || err != nil {
		t.Errorf("got %s at %d, %v; want the first", identity, position, err)
	}
	mustCheck(t, s)
}

func TestReservedNamesAreMapped(t *testing.T) {
	for _, local := range uid.Reserved() {
		if err := uid.CheckMapped(local + "@example.org"); err != nil {
			t.Errorf("%s: %v", local, err)
		}
	}
}

func TestCapabilities(t *testing.T) {
	s, _ := newTest(t)
	got, err := s.Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := Capabilities{
		Domains: []string{testDomain}, KeyRepositoryURIs: []string{testDomain}, KeyInitRepositoryURIs: []string{testDomain},
		KeyHashchainURIs: []string{testDomain}, KeyHashchainEntry: s.lastText(),
		SigPubKeys: []string{canonical.Encode(s.writer.state.Load().keys.public())},
	}
	if a, b := canonical.Marshal(got), canonical.Marshal(want); string(a) != string(b) {
		t.Errorf("got %s, want %s", a, b)
	}

	opt := testOptions(t.TempDir(), newClock())
	opt.Anchors = &schedule.Schedule{Interval: 1500 * time.Millisecond, MaxEntries: 7, Heartbeat: time.Hour}
	got, err = openTest(t, opt).Capabilities(t.Context())
	if err != nil || got.AnchorInterval != 2 || got.AnchorHeartbeat != 3600 || got.AnchorMaxEntries != 7 {
		t.Errorf("anchored by %+v: got %+v, %v", opt.Anchors, got, err)
	}
	opt, opt.Anchors = at(opt, t.TempDir()), new(schedule.Schedule)
	if _, err := Open(t.Context(), opt); !errors.Is(err, ErrMismatch) || !errors.Is(err, schedule.ErrSchedule) {
		t.Errorf("a schedule out of bounds: got %v", err)
	}
}

// enter has a message entered that is not verified.
func enter(t *testing.T, s *Service, m *uid.Message) {
	t.Helper()
	a, err := prepare(m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.accept(t.Context(), a, nil, func(*tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

// TestUnfitKeyOfEarlierVersion has a message entered as a version did that took keys of
// small order: it is no damage, and nobody can update it.
func TestUnfitKeyOfEarlierVersion(t *testing.T) {
	s, _ := newTest(t)
	neutral := make(ed25519.PublicKey, ed25519.PublicKeySize)
	neutral[0] = 1
	m := message(s, "mallory@"+testDomain, newKey(1))
	m.Content.SigKey = uid.NewKeyEntry(uid.Ed25519, neutral)
	m.SelfSignature = canonical.Encode(append(bytes.Clone(neutral), make([]byte, 32)...))
	if _, err := s.CreateUID(t.Context(), m, ""); !errors.Is(err, sigkey.ErrKey) {
		t.Fatalf("registered: %v, expected %v", err, sigkey.ErrKey)
	}
	enter(t, s, m)
	update := next(m, newKey(1), newKey(2))
	update.Content.LastEntry = s.lastText()
	update.Sign(newKey(2))
	update.UserSignature = m.SelfSignature // anybody could make it
	if _, err := s.UpdateUID(t.Context(), update, ""); !errors.Is(err, uid.ErrSignature) {
		t.Errorf("updated: %v, expected %v", err, uid.ErrSignature)
	}
	mustCheck(t, s)
	enter(t, s, update)
	mustCheck(t, s)

	// A fit key's message whose signature is not is damage all the same.
	bad := message(s, "bob@"+testDomain, newKey(3))
	bad.SelfSignature = m.SelfSignature
	enter(t, s, bad)
	if err := s.Check(t.Context()); !errors.Is(err, ErrDamaged) {
		t.Errorf("got %v, expected %v", err, ErrDamaged)
	}
}

// TestLookupUIDOfMany looks an identity up that has more entries than one answer holds. Their records are made
// without the messages: nobody reads these.
func TestLookupUIDOfMany(t *testing.T) {
	s, _ := newTest(t)
	const alice, all = "alice@example.org", 2*MaxPositions + 100
	for _, identity := range []string{alice, "alice2@example.org", "alicd@example.org"} {
		for from := 0; from < all; from += 1000 { // less than a commit takes
			if err := s.writer.do(t.Context(), func(t *tx) error {
				for n := from; n < min(from+1000, all); n++ {
					t.set(append(positionsOf(identity), number(uint64(3*n+1))...), nil)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for last, want := range map[uint64][2]int{ // the first and last of the entries, by their numbers
		math.MaxUint64: {all - MaxPositions, all}, 3*all - 2: {all - MaxPositions, all}, 3*all - 3: {all - 1 - MaxPositions, all - 1},
		3 * MaxPositions: {0, MaxPositions}, 3*MaxPositions + 1: {1, MaxPositions + 1}, 1: {0, 1}, 0: {0, 0},
	} {
		got, earlier, err := s.LookupUID(t.Context(), alice, last)
		if err != nil || len(got) != want[1]-want[0] || earlier != (want[0] > 0) {
			t.Errorf("up to %d: %d positions, earlier %v, %v; want %v", last, len(got), earlier, err, want)
			continue
		}
		for n, position := range got {
			if position != uint64(3*(want[0]+n)+1) {
				t.Fatalf("up to %d: position %d is %d", last, n, position)
			}
		}
	}
	found := 0
	for last, earlier := uint64(math.MaxUint64), true; earlier; {
		var got []uint64
		var err error
		if got, earlier, err = s.LookupUID(t.Context(), alice, last); err != nil || len(got) == 0 {
			t.Fatalf("up to %d: %d, %v", last, len(got), err)
		}
		found, last = found+len(got), got[0]-1
	}
	if found != all {
		t.Errorf("%d of %d entries", found, all)
	}
}
