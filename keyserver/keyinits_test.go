package keyserver

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// keyInits makes KeyInits that are not for fallback.
func keyInits(t testing.TB, s *Service, key ed25519.PrivateKey, n int) (made []*keyinit.KeyInit) {
	t.Helper()
	for range n {
		made = append(made, keyInit(t, s, key, rand.Uint64(), 80*day, false))
	}
	return made
}

func addAll(t testing.TB, s *Service, key ed25519.PrivateKey, inits ...*keyinit.KeyInit) {
	t.Helper()
	receipts, err := s.AddKeyInit(t.Context(), public(key), inits, free(len(inits)))
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range inits {
		if err := k.VerifyServer(receipts[i], s.writer.state.Load().keys.public()); err != nil {
			t.Error(err)
		}
	}
}

// TestKeyInitsNobodyCanSendTo: none is stored, nor one that comes with it.
func TestKeyInitsNobodyCanSendTo(t *testing.T) {
	s, _ := newTest(t)
	key := newKey(1)
	mustCreate(t, s, message(s, "alice@example.org", key))
	for _, bad := range []keyinit.Anchor{{MixAddress: ""}, {MixAddress: "nomix"}, {MixAddress: "m@a.b\nx"}, {MixAddress: "m@a.b", NymAddress: "!!"}} {
		inits := []*keyinit.KeyInit{
			keyInit(t, s, key, 1, day, false),
			keyInitTo(t, s, key, bad.MixAddress, bad.NymAddress, 2, day, false),
		}
		_, err := s.AddKeyInit(t.Context(), public(key), inits, free(2))
		if !errors.Is(err, uid.ErrInvalid) || !strings.Contains(err.Error(), "KeyInit 2: ") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if n := s.KeyInits(); n != 0 {
		t.Errorf("%d were stored", n)
	}
}

// TestCountKeyInits counts what could be handed out now, for the owner alone.
func TestCountKeyInits(t *testing.T) {
	s, c := newTest(t)
	key, now := newKey(1), s.now()
	mustCreate(t, s, message(s, "alice@example.org", key))
	addAll(t, s, key, keyInit(t, s, key, 1, day, false), keyInit(t, s, key, 2, 3*day, false), keyInit(t, s, key, 3, 3*day, true))
	ask := func() (keyinit.Count, error) {
		return s.CountKeyInit(t.Context(), public(key), s.now(), keyinit.SignCount(s.now(), key))
	}
	if count, err := ask(); err != nil || count != (keyinit.Count{Once: 2, Fallback: 1}) {
		t.Errorf("%+v, %v", count, err)
	}
	c.advance(2 * day)
	if count, err := ask(); err != nil || count != (keyinit.Count{Once: 1, Fallback: 1}) {
		t.Errorf("when one has expired: %+v, %v", count, err)
	}
	if _, err := s.CountKeyInit(t.Context(), public(key), now, keyinit.SignCount(now, key)); !errors.Is(err, uid.ErrExpired) {
		t.Errorf("an old question: %v", err)
	}
	if _, err := s.CountKeyInit(t.Context(), public(key), s.now(), keyinit.SignCount(s.now(), newKey(2))); !errors.Is(err, uid.ErrSignature) {
		t.Errorf("by another: %v", err)
	}
}

func TestKeyInits(t *testing.T) {
	s, c := newTest(t)
	key := newKey(1)
	hash := uid.SigKeyHash(public(key))
	mustCreate(t, s, message(s, "alice@example.org", key))
	fetch := func(want *keyinit.KeyInit) {
		t.Helper()
		got, err := s.FetchKeyInit(t.Context(), hash, "")
		if err != nil || !bytes.Equal(got, want.Canonical()) {
			t.Errorf("got %.80s, %v; want %.80s", got, err, want.Canonical())
		}
	}
	none := func() {
		t.Helper()
		if _, err := s.FetchKeyInit(t.Context(), hash, ""); !errors.Is(err, ErrUnknown) {
			t.Errorf("there should be none: %v", err)
		}
	}
	none()
	long, short := keyInit(t, s, key, 1, 50*day, false), keyInit(t, s, key, 2, 2*day, false)
	fallback := keyInit(t, s, key, 3, 60*day, true)
	later := keyInit(t, s, key, 4, 70*day, false)
	later.Contents.NotBefore = s.now() + uint64(10*day/time.Second)
	later.Sign(key)
	addAll(t, s, key, long, fallback, later, short)
	fetch(short)
	fetch(long)
	fetch(fallback)
	fetch(fallback)
	for _, used := range []*keyinit.KeyInit{short, long, fallback, later} {
		refused(t, s, "added again", ErrUsed, func() error {
			_, err := s.AddKeyInit(t.Context(), public(key), []*keyinit.KeyInit{used}, free(1))
			return err
		})
	}
	c.advance(10 * day)
	fetch(later)
	fetch(fallback)
	c.advance(50 * day)
	none() // the fallback one has expired
	if err := s.forgetExpired(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.advance(20 * day)
	if err := s.forgetExpired(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []byte{prefixKeyInit, prefixExpiry, prefixUsed} {
		if count(t, s, prefix) > 0 {
			t.Errorf("%c: something is left", prefix)
		}
	}
	mustCheck(t, s)
}

func TestAddKeyInitRefuses(t *testing.T) {
	inMemory(t)
	opt := testOptions(t.TempDir(), newClock())
	opt.MaxKeyInits = 5
	s := openTest(t, opt)
	key := newKey(1)
	mustCreate(t, s, message(s, "alice@example.org", key))
	mustCreate(t, s, message(s, "carol@example.org", newKey(8)))
	good := keyInit(t, s, key, 1, day, false)
	changed := func(change func(*keyinit.Contents)) *keyinit.KeyInit {
		k := *good
		change(&k.Contents)
		k.Sign(key)
		return &k
	}
	unsigned := *good
	unsigned.Signature = ""
	for name, test := range map[string]struct {
		key   ed25519.PrivateKey
		inits []*keyinit.KeyInit
		want  error
	}{
		"none":              {key, nil, uid.ErrInvalid},
		"unknown key":       {newKey(2), []*keyinit.KeyInit{keyInit(t, s, newKey(2), 1, day, false)}, ErrUnknown},
		"another's key":     {newKey(8), []*keyinit.KeyInit{good}, uid.ErrInvalid},
		"unknown, unsigned": {newKey(2), []*keyinit.KeyInit{&unsigned}, ErrUnknown}, // found out first
		"unsigned":          {key, []*keyinit.KeyInit{&unsigned}, uid.ErrSignature},
		"other repository":  {key, []*keyinit.KeyInit{changed(func(c *keyinit.Contents) { c.RepoURI = "example.net" })}, uid.ErrInvalid},
		"expired":           {key, []*keyinit.KeyInit{changed(func(c *keyinit.Contents) { c.NotAfter = s.now() })}, uid.ErrExpired},
		"1.0 MSGCOUNT":      {key, []*keyinit.KeyInit{changed(func(c *keyinit.Contents) { c.MsgCount = 1 })}, uid.ErrInvalid},
		"twice":             {key, []*keyinit.KeyInit{good, good}, ErrUsed},
		"one bad":           {key, append(keyInits(t, s, key, 3), &unsigned), uid.ErrSignature},
		"too many to keep":  {key, keyInits(t, s, key, 6), ErrFull},
		"too many at once":  {key, keyInits(t, s, key, MaxKeyInitsPerCall+1), uid.ErrInvalid},
	} {
		refused(t, s, name, test.want, func() error {
			_, err := s.AddKeyInit(t.Context(), public(test.key), test.inits, free(len(test.inits)))
			return err
		})
	}
	if _, err := s.AddKeyInit(t.Context(), public(key), keyInits(t, s, key, 2), free(1)); !errors.Is(err, uid.ErrInvalid) {
		t.Errorf("one token for two: %v", err)
	}
	if _, err := s.FetchKeyInit(t.Context(), uid.SigKeyHash(public(key)), ""); !errors.Is(err, ErrUnknown) {
		t.Errorf("something was stored: %v", err)
	}
	addAll(t, s, key, keyInits(t, s, key, 5)...)
	if _, err := s.AddKeyInit(t.Context(), public(key), keyInits(t, s, key, 1), free(1)); !errors.Is(err, ErrFull) {
		t.Error(err)
	}

	// After a change of SIGKEY, only the new key's are taken.
	first := message(s, "bert@example.org", newKey(3))
	mustCreate(t, s, first)
	if _, err := s.UpdateUID(t.Context(), next(first, newKey(3), newKey(4)), ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddKeyInit(t.Context(), public(newKey(3)), keyInits(t, s, newKey(3), 1), free(1)); !errors.Is(err, ErrUnknown) {
		t.Error(err)
	}
	addAll(t, s, newKey(4), keyInits(t, s, newKey(4), 1)...)

	// In profile 1.1 MSGCOUNT increases, within a call and from call to call.
	counted := func(count uint64) *keyinit.KeyInit {
		k := keyInit(t, s, newKey(4), count, day, true)
		k.Contents.Version, k.Contents.MsgCount = uid.Version11, count
		k.Sign(newKey(4))
		return k
	}
	addAll(t, s, newKey(4), counted(3), counted(7))
	for _, count := range []uint64{0, 7} {
		if _, err := s.AddKeyInit(t.Context(), public(newKey(4)), []*keyinit.KeyInit{counted(count)}, free(1)); !errors.Is(err, uid.ErrInvalid) {
			t.Errorf("MSGCOUNT %d after 7: %v", count, err)
		}
	}
	addAll(t, s, newKey(4), counted(8))
	mustCheck(t, s)
}

// No KeyInit that is not for fallback goes to two of 64 fetchers.
func TestConcurrentFetch(t *testing.T) {
	inMemory(t)
	opt := testOptions(t.TempDir(), newClock())
	s := openTest(t, opt)
	key := newKey(1)
	mustCreate(t, s, message(s, "alice@example.org", key))
	const stored = 90
	addAll(t, s, key, keyInits(t, s, key, stored)...)
	var (
		fetching sync.WaitGroup
		mu       sync.Mutex
		got      = make(map[string]int) // mu
		missed   int                    // mu
	)
	for range 64 {
		fetching.Go(func() {
			for range 2 {
				k, err := s.FetchKeyInit(t.Context(), uid.SigKeyHash(public(key)), "")
				mu.Lock()
				switch {
				case err == nil:
					got[string(k)]++
				case errors.Is(err, ErrUnknown):
					missed++
				default:
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	fetching.Wait()
	for k, n := range got {
		if n != 1 {
			t.Errorf("handed out %d times: %.80s", n, k)
		}
	}
	if len(got) != stored || missed != 128-stored {
		t.Errorf("%d were handed out, %d fetches came too late", len(got), missed)
	}
	mustCheck(t, s)
}

// Where fetching is paid, each KeyInit takes a token of its own, and nothing else does.
func TestPaidFetch(t *testing.T) {
	inMemory(t)
	opt := testOptions(t.TempDir(), newClock())
	issuer, err := token.OpenIssuer(filepath.Join(t.TempDir(), "issuer"))
	if err != nil {
		t.Fatal(err)
	}
	pay := func() string {
		text, err := issuer.Issue(testDomain)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	opt.Tokens, opt.PaidFetch = token.Issued{Domain: testDomain, Issuer: issuer.Public()}, true
	s := openTest(t, opt)
	if caps, err := s.Capabilities(t.Context()); err != nil || caps.KeyInitFetch != "token" || !s.PaidFetch() {
		t.Errorf("%+v, %v", caps, err)
	}
	key := newKey(1)
	hash := uid.SigKeyHash(public(key))
	if _, err := s.CreateUID(t.Context(), message(s, "alice@example.org", key), pay()); err != nil {
		t.Fatal(err)
	}
	one, two := keyInit(t, s, key, 1, 10*day, false), keyInit(t, s, key, 2, 20*day, false)
	if _, err := s.AddKeyInit(t.Context(), public(key), []*keyinit.KeyInit{one, two}, []string{pay(), pay()}); err != nil {
		t.Fatal(err)
	}
	good := pay()
	for _, step := range []struct {
		name, payment string
		of            sigKeyHash
		want          error
		message       *keyinit.KeyInit
	}{
		{"without a token", "", hash, token.ErrInvalid, nil},
		{"with another's", "AAAA", hash, token.ErrInvalid, nil},
		{"of nobody", good, sigKeyHash{1}, ErrUnknown, nil},
		{"with the token that bought nothing", good, hash, nil, one},
		{"with the same again", good, hash, ErrSpent, nil},
		{"with another", pay(), hash, nil, two},
	} {
		got, err := s.FetchKeyInit(t.Context(), step.of, step.payment)
		if !errors.Is(err, step.want) || step.message != nil && !bytes.Equal(got, step.message.Canonical()) {
			t.Errorf("%s: %.60s, %v, want %v", step.name, got, err, step.want)
		}
	}
	mustCheck(t, s)
}

// Who has fetched too many gets what is for fallback, which nobody can use up.
func TestFetchFallback(t *testing.T) {
	s, c := newTest(t)
	key := newKey(1)
	hash := uid.SigKeyHash(public(key))
	mustCreate(t, s, message(s, "alice@example.org", key))
	fetch := func(want error) string {
		t.Helper()
		k, err := s.FetchFallback(t.Context(), hash)
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		return string(k)
	}
	fetch(ErrUnknown)
	addAll(t, s, key, keyInit(t, s, key, 1, 50*day, false))
	fetch(ErrRate)
	long, short := keyInit(t, s, key, 2, 30*day, true), keyInit(t, s, key, 3, 10*day, true)
	addAll(t, s, key, long, short)
	got := make(map[string]int)
	for range 200 {
		got[fetch(nil)]++
	}
	if n := got[string(short.Canonical())]; len(got) != 2 || n < 100 || got[string(long.Canonical())] == 0 {
		t.Errorf("%d different ones, the shorter-lived one %d times of 200", len(got), n)
	}
	c.advance(20 * day)
	if fetch(nil) != string(long.Canonical()) {
		t.Error("one that has expired was handed out")
	}
	c.advance(20 * day)
	fetch(ErrRate) // the one that is not for fallback is still there
	c.advance(20 * day)
	fetch(ErrUnknown)
	mustCheck(t, s)
}

func TestFlush(t *testing.T) {
	s, c := newTest(t)
	key := newKey(1)
	hash := uid.SigKeyHash(public(key))
	mustCreate(t, s, message(s, "alice@example.org", key))
	flush := func(nonce uint64, by ed25519.PrivateKey) error {
		return s.FlushKeyInit(t.Context(), public(key), nonce, keyinit.SignFlush(nonce, by))
	}
	inits := append(keyInits(t, s, key, 3), keyInit(t, s, key, 9, day, true))
	addAll(t, s, key, inits...)
	for name, err := range map[string]error{
		"by another": flush(s.now(), newKey(2)),
		"too old":    flush(s.now()-1000, key),
	} {
		if err == nil {
			t.Errorf("flushed: %s", name)
		}
	}
	if err := flush(s.now(), key); err != nil {
		t.Fatal(err)
	}
	if _, err := s.FetchKeyInit(t.Context(), hash, ""); !errors.Is(err, ErrUnknown) {
		t.Errorf("after the flush: %v", err)
	}
	if _, err := s.AddKeyInit(t.Context(), public(key), inits[:1], free(1)); !errors.Is(err, ErrUsed) {
		t.Errorf("a flushed one is back: %v", err)
	}
	// Two within one second are legitimate, an older one is a replay.
	addAll(t, s, key, keyInits(t, s, key, 1)...)
	if err := flush(s.now(), key); err != nil {
		t.Errorf("within the same second: %v", err)
	}
	c.advance(10 * time.Second)
	addAll(t, s, key, keyInits(t, s, key, 1)...)
	if err := flush(s.now()-11, key); !errors.Is(err, uid.ErrExpired) {
		t.Errorf("an older one: %v", err)
	}
	if _, err := s.FetchKeyInit(t.Context(), hash, ""); err != nil {
		t.Error(err)
	}
	// An order by a clock that is slow removes nothing that was added since.
	addAll(t, s, key, keyInits(t, s, key, 1)...)
	if err := flush(s.now()-1, key); err != nil {
		t.Error(err)
	}
	if _, err := s.FetchKeyInit(t.Context(), hash, ""); err != nil {
		t.Errorf("after an order from before it was added: %v", err)
	}
	// What was added nobody knows when goes with any order.
	c.advance(time.Minute)
	addAll(t, s, key, keyInits(t, s, key, 1)...)
	held := keyInitsOf(t, s, hash)
	if err := s.writer.do(t.Context(), func(t *tx) error {
		for _, h := range held {
			t.set(h.expiryKey(hash), number(0))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := flush(s.now()-1, key); err != nil {
		t.Error(err)
	}
	if _, err := s.FetchKeyInit(t.Context(), hash, ""); !errors.Is(err, ErrUnknown) {
		t.Errorf("added nobody knows when, after the flush: %v", err)
	}
	// Keys that nobody knows may flush, and leave no trace.
	stranger := newKey(50)
	if err := s.FlushKeyInit(t.Context(), public(stranger), s.now(), keyinit.SignFlush(s.now(), stranger)); err != nil {
		t.Error(err)
	}
	if count(t, s, flushKey(uid.SigKeyHash(public(stranger)))...) > 0 {
		t.Error("a stranger's flush is kept")
	}
	mustCheck(t, s)
}

// TestFlushRepeated: who gives an order once more removes nothing that was added since it
// was executed, however far ahead the user's clock is, though orders that are signed within
// one second cannot be told from each other.
func TestFlushRepeated(t *testing.T) {
	for _, test := range []struct {
		name              string
		held              bool   // whether there is something to flush at first
		ahead             uint64 // the user's clock, in seconds
		addedAfter, again time.Duration
		want              error // of the order when it is given again
		left              bool  // whether what was added since is there then
	}{
		{name: "within a second", held: true, again: 0},
		{name: "within a second, nothing was there", again: 0},
		{name: "over the end of a second", held: true, again: time.Second},
		{name: "later", held: true, again: 2 * time.Second, want: uid.ErrExpired, left: true},
		{name: "the clock is ahead, within a second", held: true, ahead: 200, again: 0},
		{name: "the clock is ahead", held: true, ahead: 200, again: time.Minute, want: uid.ErrExpired, left: true},
		{name: "the clock is ahead, added later", held: true, ahead: 200, addedAfter: time.Minute, again: 2 * time.Minute, want: uid.ErrExpired, left: true},
		{name: "the clock is ahead, nothing was there", ahead: 200, addedAfter: time.Minute, again: 2 * time.Minute, want: uid.ErrExpired, left: true},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, c := newTest(t)
			key := newKey(1)
			hash := uid.SigKeyHash(public(key))
			mustCreate(t, s, message(s, "alice@example.org", key))
			if test.held {
				addAll(t, s, key, keyInits(t, s, key, 2)...)
			}
			start, nonce := c.now(), s.now()+test.ahead
			order := keyinit.SignFlush(nonce, key)
			if err := s.FlushKeyInit(t.Context(), public(key), nonce, order); err != nil {
				t.Fatal(err)
			}
			if _, err := s.FetchKeyInit(t.Context(), hash, ""); !errors.Is(err, ErrUnknown) {
				t.Errorf("after the flush: %v", err)
			}
			c.advance(test.addedAfter)
			addAll(t, s, key, keyInits(t, s, key, 1)...)
			c.advance(test.again - c.now().Sub(start))
			if err := s.FlushKeyInit(t.Context(), public(key), nonce, order); !errors.Is(err, test.want) {
				t.Errorf("given again: %v, want %v", err, test.want)
			}
			if _, err := s.FetchKeyInit(t.Context(), hash, ""); (err == nil) != test.left {
				t.Errorf("what was added since: %v", err)
			}
			// The next one is as good as any.
			addAll(t, s, key, keyInits(t, s, key, 1)...)
			if err := s.FlushKeyInit(t.Context(), public(key), nonce+1, keyinit.SignFlush(nonce+1, key)); err != nil {
				t.Error(err)
			}
			mustCheck(t, s)
		})
	}
}

// TestExpiredTogether has many keys whose KeyInits have expired, all of which get another
// one at once: the service goes on, and a key never holds much more than it may.
func TestExpiredTogether(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	inMemory(t)
	c := newClock()
	opt := testOptions(t.TempDir(), c)
	opt.MaxKeyInits = 200
	s := openTest(t, opt)
	const users = 36 // the removal of all of theirs together is more than Badger takes at once
	fill := func(n uint64, count int) error {
		var inits []*keyinit.KeyInit
		for i := range count {
			inits = append(inits, keyInit(t, s, newKey(n), n<<32|uint64(i)|s.now()<<8, time.Minute, false))
		}
		_, err := s.AddKeyInit(t.Context(), public(newKey(n)), inits, free(count))
		return err
	}
	for n := range uint64(users) {
		mustCreate(t, s, message(s, fmt.Sprintf("ab%c%c@example.org", 'a'+n/8, 'a'+n%8), newKey(n)))
		if err := errors.Join(fill(n, 100), fill(n, 100)); err != nil {
			t.Fatal(err)
		}
	}
	c.advance(2 * time.Minute)
	var adding sync.WaitGroup
	for n := range uint64(users) {
		adding.Go(func() {
			if err := fill(n, 1); err != nil {
				t.Error(err)
			}
		})
	}
	adding.Wait()
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c.advance(2 * time.Minute)
		if err := errors.Join(fill(0, 100), fill(0, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if stored := keyInitsOf(t, s, uid.SigKeyHash(public(newKey(0)))); len(stored) > 200+100 {
		t.Errorf("%d are stored", len(stored))
	}
	mustCheck(t, s)
	if err := s.forgetExpired(t.Context()); err != nil {
		t.Error(err)
	}
}
