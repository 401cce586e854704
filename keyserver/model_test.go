package keyserver

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// TestPropertyKeyInits drives a keyserver and a plain model of its KeyInits and tokens with
// the same random calls, clocks and kills, and holds what they say against each other. A
// run without further ado takes seconds, the long one minutes:
//
//	KEYTREE_EXHAUSTIVE=1 go test ./keyserver -run TestProperty -v -timeout 1h
func TestPropertyKeyInits(t *testing.T) {
	inMemory(t)
	set := func(name, value string) {
		f := flag.Lookup(name)
		if f.Value.String() != f.DefValue { // the command line says it
			return
		}
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { flag.Set(name, f.DefValue) })
	}
	runs, steps := 12, 40
	if exhaustive() {
		runs, steps = 1000, 120
	}
	set("rapid.checks", strconv.Itoa(runs))
	set("rapid.steps", strconv.Itoa(steps))
	met := make(map[string]int)
	rapid.Check(t, func(rt *rapid.T) {
		p := &pair{T: rt, t: t, c: newClock(), met: met, model: model{
			spent: make(map[string]bool), keys: make(map[uint64]*modelKey), owner: make(map[uint64]int),
		}}
		p.opt = testOptions(t.TempDir(), p.c)
		p.opt.Tokens, p.opt.PaidFetch, p.opt.MaxKeyInits, p.opt.memTable = paid{}, rapid.Bool().Draw(rt, "paid"), 5, 1<<20
		p.shelves = rapid.SampledFrom([]int{6, mostShelved}).Draw(rt, "shelves")
		p.open()
		defer func() { p.s.Close() }()
		rt.Repeat(map[string]func(*rapid.T){
			"create": p.create, "update": p.update, "add": p.add, "add again": p.addAgain, "fetch": p.fetch, "fallback": p.fallback,
			"flush": p.flush, "pass": p.pass, "sweep": p.sweep, "reopen": p.reopen, "kill": p.kill,
			"": p.compare,
		})
		mustCheck(t, p.s)
	})
	must := []string{"add <nil>", "add spent", "add used", "add full", "fetch <nil>", "fetch unknown", "flush <nil>", "flush expired", "kill"}
	for _, what := range must {
		if met[what] == 0 && exhaustive() { // a short run may miss some
			t.Errorf("never met: %s; met %v", what, met)
		}
	}
	for _, what := range slices.Sorted(maps.Keys(met)) {
		t.Logf("%6d %s", met[what], what)
	}
}

func exhaustive() bool { return os.Getenv("KEYTREE_EXHAUSTIVE") != "" }

// model is what a keyserver has to remember of users, KeyInits and tokens.
type model struct {
	spent map[string]bool
	keys  map[uint64]*modelKey // by the number that a SIGKEY is made from
	owner map[uint64]int       // whose present SIGKEY a key is
	users []modelUser
}

type modelUser struct {
	last *uid.Message
	key  uint64
}

// modelKey is what belongs to a SIGKEY, present or former.
type modelKey struct {
	held    []*modelInit
	used    map[[sha256.Size]byte]bool
	flushed bool
	order   flushRecord
}

type modelInit struct {
	*keyinit.KeyInit
	added uint64
}

// pair is a keyserver and its model.
type pair struct {
	*rapid.T
	t   *testing.T
	c   *clock
	opt Options
	// shelves is how much room there is on the shelves.
	shelves int
	s       *Service
	model
	known []*modelInit // all that were ever added
	met   map[string]int
}

func (p *pair) open() {
	s, err := Open(p.t.Context(), p.opt)
	if err != nil {
		p.t.Fatal(err)
	}
	p.s = s
	limitShelves(s, p.shelves)
}

func (p *pair) draw(t *rapid.T, what string, n int) int { return rapid.IntRange(0, n-1).Draw(t, what) }

// want compares an error with what the model says, nil for none.
func (p *pair) want(t *rapid.T, call string, got, want error) {
	name := "<nil>"
	for text, err := range map[string]error{
		"spent": ErrSpent, "used": ErrUsed, "full": ErrFull, "unknown": ErrUnknown, "expired": uid.ErrExpired, "rate": ErrRate,
	} {
		if errors.Is(want, err) {
			name = text
		}
	}
	p.met[call+" "+name]++
	if !errors.Is(got, want) {
		t.Fatalf("%s: got %v, the model says %v", call, got, want)
	}
}

// token draws one of few tokens, so that some have been spent.
func (p *pair) token(t *rapid.T) string { return fmt.Sprint("token ", p.draw(t, "token", 200)) }

// pay returns what becomes of a call that is paid with tokens and else does not fail.
func (m *model) pay(tokens []string) error {
	seen := make(map[string]bool)
	for _, token := range tokens {
		if m.spent[token] || seen[token] {
			return ErrSpent
		}
		seen[token] = true
	}
	return nil
}

func (m *model) spend(tokens []string) {
	for _, token := range tokens {
		m.spent[token] = true
	}
}

func (p *pair) newKey() uint64 {
	n := uint64(len(p.keys) + 1)
	p.keys[n] = &modelKey{used: make(map[[sha256.Size]byte]bool)}
	return n
}

func (p *pair) create(t *rapid.T) {
	if len(p.users) == 5 {
		t.Skip("enough users")
	}
	key, payment := p.newKey(), p.token(t)
	m := message(p.s, fmt.Sprintf("user%s@example.org", letters(uint64(len(p.users)))), newKey(key))
	_, err := p.s.CreateUID(t.Context(), m, payment)
	want := p.pay([]string{payment})
	p.want(t, "create", err, want)
	if want == nil {
		p.spend([]string{payment})
		p.owner[key] = len(p.users)
		p.users = append(p.users, modelUser{m, key})
	}
}

func (p *pair) update(t *rapid.T) {
	if len(p.users) == 0 {
		t.Skip("no users")
	}
	u := &p.users[p.draw(t, "user", len(p.users))]
	key, payment := p.newKey(), p.token(t)
	m := next(u.last, newKey(u.key), newKey(key))
	_, err := p.s.UpdateUID(t.Context(), m, payment)
	want := p.pay([]string{payment})
	p.want(t, "update", err, want)
	if want == nil {
		p.spend([]string{payment})
		p.owner[key] = p.owner[u.key]
		delete(p.owner, u.key)
		u.last, u.key = m, key
	}
}

// aKey draws a SIGKEY, present or former or of nobody.
func (p *pair) aKey(t *rapid.T) uint64 {
	if len(p.keys) == 0 {
		p.newKey()
	}
	if len(p.users) > 0 && p.draw(t, "present", 4) > 0 {
		return p.users[p.draw(t, "user", len(p.users))].key
	}
	return uint64(1 + p.draw(t, "key", len(p.keys)))
}

func (p *pair) add(t *rapid.T) {
	key := p.aKey(t)
	var inits []*keyinit.KeyInit
	for range 1 + p.draw(t, "KeyInits", 3) {
		lasts := time.Duration(1+p.draw(t, "hours", 4)) * time.Hour
		k := keyInit(p.t, p.s, newKey(key), uint64(len(p.known)+len(inits)), lasts, p.draw(t, "fallback", 3) == 0)
		if p.draw(t, "later", 4) == 0 {
			k.Contents.NotBefore = k.Contents.NotAfter - 1800
			k.Sign(newKey(key))
		}
		inits = append(inits, k)
	}
	p.addAll(t, key, inits)
}

// addAgain adds one that was added before.
func (p *pair) addAgain(t *rapid.T) {
	if len(p.known) == 0 {
		t.Skip("none was added")
	}
	k := p.known[p.draw(t, "KeyInit", len(p.known))]
	for key := range p.keys {
		if hash := uid.SigKeyHash(public(newKey(key))); k.Contents.SigKeyHash == canonical.Encode(hash[:]) {
			p.addAll(t, key, []*keyinit.KeyInit{k.KeyInit})
		}
	}
}

func (p *pair) addAll(t *rapid.T, key uint64, inits []*keyinit.KeyInit) {
	var payments []string
	for range inits {
		payments = append(payments, p.token(t))
	}
	_, err := p.s.AddKeyInit(t.Context(), public(newKey(key)), inits, payments)

	k, now := p.keys[key], p.s.now()
	want := p.pay(payments)
	if _, present := p.owner[key]; !present {
		want = ErrUnknown
	}
	for _, init := range inits {
		if want == nil && init.Contents.NotAfter <= now {
			want = uid.ErrExpired
		}
	}
	if want == nil && len(k.valid(now, func(*modelInit) bool { return true }))+len(inits) > p.opt.MaxKeyInits {
		want = ErrFull
	}
	for _, init := range inits {
		stored := slices.ContainsFunc(k.held, func(h *modelInit) bool { return h.Digest() == init.Digest() })
		if want == nil && (stored || k.used[init.Digest()]) {
			want = ErrUsed
		}
	}
	p.want(t, "add", err, want)
	if want == nil {
		p.spend(payments)
		for _, init := range inits {
			k.held = append(k.held, &modelInit{init, now})
			p.known = append(p.known, &modelInit{init, now})
		}
	}
}

// valid returns those that have not expired and of which which is true.
func (k *modelKey) valid(now uint64, which func(*modelInit) bool) (found []*modelInit) {
	for _, h := range k.held {
		if now < h.Contents.NotAfter && which(h) {
			found = append(found, h)
		}
	}
	return found
}

// use removes one for good.
func (k *modelKey) use(gone *modelInit) {
	k.held = slices.DeleteFunc(k.held, func(h *modelInit) bool { return h == gone })
	k.used[gone.Digest()] = true
}

func (p *pair) fetch(t *rapid.T) {
	key, payment := p.aKey(t), ""
	if p.opt.PaidFetch {
		payment = p.token(t)
	}
	got, err := p.s.FetchKeyInit(t.Context(), uid.SigKeyHash(public(newKey(key))), payment)

	k, now := p.keys[key], p.s.now()
	begun := func(fallback bool) func(*modelInit) bool {
		return func(h *modelInit) bool { return h.Contents.NotBefore <= now && h.Contents.Fallback == fallback }
	}
	once, fallback := k.valid(now, begun(false)), k.valid(now, begun(true))
	var want error
	switch {
	case len(once)+len(fallback) == 0:
		want = ErrUnknown
		if p.opt.PaidFetch && errors.Is(err, ErrSpent) { // what is found first, while one is still to begin
			want = p.pay([]string{payment})
		}
	case p.opt.PaidFetch:
		want = p.pay([]string{payment})
	}
	p.want(t, "fetch", err, want)
	if want != nil {
		return
	}
	if p.opt.PaidFetch {
		p.spend([]string{payment})
	}
	is := func(h *modelInit) bool { return bytes.Equal(h.Canonical(), got) }
	if len(once) > 0 {
		i := slices.IndexFunc(once, is)
		if i < 0 {
			t.Fatalf("handed out %.80s, which is none of the %d that are not for fallback", got, len(once))
		}
		least := slices.MinFunc(once, func(a, b *modelInit) int { return cmp.Compare(a.Contents.NotAfter, b.Contents.NotAfter) })
		if once[i].Contents.NotAfter != least.Contents.NotAfter {
			t.Fatalf("handed out one until %d, another expires at %d", once[i].Contents.NotAfter, least.Contents.NotAfter)
		}
		k.use(once[i])
		return
	}
	i := slices.IndexFunc(fallback, is)
	if i < 0 {
		t.Fatalf("handed out %.80s, which is none of the %d for fallback", got, len(fallback))
	}
	if !slices.Contains(p.stored(key), fallback[i].Digest()) { // a coin decides that
		if len(fallback) == 1 {
			t.Fatal("the last one for fallback was used up")
		}
		k.use(fallback[i])
	}
}

func (p *pair) fallback(t *rapid.T) {
	key := p.aKey(t)
	got, err := p.s.FetchFallback(t.Context(), uid.SigKeyHash(public(newKey(key))))
	now := p.s.now()
	begun := p.keys[key].valid(now, func(h *modelInit) bool { return h.Contents.NotBefore <= now })
	var want error
	switch {
	case len(begun) == 0:
		want = ErrUnknown
	case !slices.ContainsFunc(begun, func(h *modelInit) bool { return h.Contents.Fallback }):
		want = ErrRate
	}
	p.want(t, "fallback", err, want)
	if want == nil && !slices.ContainsFunc(begun, func(h *modelInit) bool { return h.Contents.Fallback && bytes.Equal(h.Canonical(), got) }) {
		t.Fatalf("handed out %.80s, which is none for fallback", got)
	}
}

func (p *pair) flush(t *rapid.T) {
	key, now := p.aKey(t), p.s.now()
	k := p.keys[key]
	_, present := p.owner[key]
	if live := k.valid(now, func(*modelInit) bool { return true }); !present && len(live) < len(k.held) {
		t.Skip("a former key, which may have one that has expired and counts until it is swept")
	}
	nonce := now
	switch p.draw(t, "clock", 4) {
	case 0:
		nonce = now + uint64(p.draw(t, "ahead", 320))
	case 1:
		nonce = now - uint64(p.draw(t, "behind", 320))
	case 2:
		if k.flushed {
			nonce = k.order.nonce // again
		}
	}
	err := p.s.FlushKeyInit(t.Context(), public(newKey(key)), nonce, keyinit.SignFlush(nonce, newKey(key)))
	var want error
	again := k.flushed && nonce == k.order.nonce
	if max(nonce, now)-min(nonce, now) > keyinit.MaxFlushAge || k.flushed && nonce < k.order.nonce || again && now > k.order.executed+1 {
		want = uid.ErrExpired
	}
	p.want(t, "flush", err, want)
	if want != nil {
		return
	}
	gone := k.valid(now, func(h *modelInit) bool { return h.added <= nonce })
	for _, h := range gone {
		k.use(h)
	}
	if (present || len(gone) > 0) && !again {
		k.flushed, k.order = true, flushRecord{nonce, now}
	}
}

func (p *pair) pass(t *rapid.T) {
	p.c.advance(time.Duration(p.draw(t, "seconds", []int{3, 400, 7200}[p.draw(t, "how long", 3)])) * time.Second)
}

func (p *pair) sweep(t *rapid.T) {
	if err := p.s.forgetExpired(t.Context()); err != nil {
		t.Fatal(err)
	}
	now := p.s.now()
	for _, k := range p.keys {
		k.held = k.valid(now, func(*modelInit) bool { return true })
	}
}

func (p *pair) reopen(t *rapid.T) {
	if err := p.s.Close(); err != nil {
		t.Fatal(err)
	}
	p.open()
}

// kill goes on with the files as they are while the keyserver runs.
func (p *pair) kill(t *rapid.T) {
	if p.opt.Place != nil {
		t.Skip("it is about Badger's files")
	}
	dir := filepath.Join(p.t.TempDir(), "killed")
	for {
		before := p.files()
		err := os.CopyFS(dir, os.DirFS(p.opt.Dir))
		if p.files() == before { // else Badger was about to write a table
			if err != nil {
				p.t.Fatal(err)
			}
			break
		}
		if err := os.RemoveAll(dir); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := p.s.Close(); err != nil {
		p.t.Fatal(err)
	}
	p.opt.Dir = dir
	p.open()
	p.met["kill"]++
}

// files tells which files the database has, and what its manifest says.
func (p *pair) files() string {
	entries, err1 := os.ReadDir(p.opt.Dir)
	manifest, err2 := os.ReadFile(filepath.Join(p.opt.Dir, badger.ManifestFilename))
	if err := errors.Join(err1, err2); err != nil {
		p.t.Fatal(err)
	}
	return fmt.Sprint(entries, manifest)
}

// stored returns what the keyserver holds of a key that has not expired.
func (p *pair) stored(key uint64) (digests [][sha256.Size]byte) {
	for _, h := range keyInitsOf(p.t, p.s, uid.SigKeyHash(public(newKey(key)))) {
		if p.s.now() < h.NotAfter {
			digests = append(digests, h.digest)
		}
	}
	return digests
}

// compare holds everything that is stored against the model.
func (p *pair) compare(t *rapid.T) {
	for key, k := range p.keys {
		var want [][sha256.Size]byte
		for _, h := range k.valid(p.s.now(), func(*modelInit) bool { return true }) {
			want = append(want, h.Digest())
		}
		got := p.stored(key)
		order := func(a, b [sha256.Size]byte) int { return bytes.Compare(a[:], b[:]) }
		slices.SortFunc(want, order)
		slices.SortFunc(got, order)
		if !slices.Equal(got, want) {
			t.Fatalf("key %d has %d KeyInits, the model has %d", key, len(got), len(want))
		}
	}
	if err := checkShelves(p.s, p.s.now()); err != nil {
		t.Fatal(err)
	}
	if spent := count(p.t, p.s, prefixToken); spent != uint64(len(p.spent)) {
		t.Fatalf("%d tokens are spent, the model has %d", spent, len(p.spent))
	}
}
