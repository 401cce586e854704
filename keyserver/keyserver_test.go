package keyserver

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/store/postgres"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

const (
	testDomain = "example.org"
	day        = 24 * time.Hour
)

// clock is the time in a test.
type clock struct{ seconds atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.seconds.Store(1_700_000_000)
	return c
}

func (c *clock) now() time.Time          { return time.Unix(c.seconds.Load(), 0) }
func (c *clock) advance(d time.Duration) { c.seconds.Add(int64(d / time.Second)) }

// inMemory puts the test's folders into memory where the system has such a
// place, with room: these tests write often, and a killed process loses nothing there
// either.
func inMemory(t testing.TB) {
	if free, ok, err := badgerdb.FreeSpace("/dev/shm"); err == nil && ok && free > 1<<30 {
		t.Setenv("TMPDIR", "/dev/shm")
	}
}

// testOptions are for a keyserver below dir that takes any token. Its store is in dir, or, as part
// of TestOnPostgres, in a schema of its own.
func testOptions(dir string, c *clock) Options {
	return at(Options{
		Domain:   testDomain,
		KeyFile:  filepath.Join(dir, "key"),
		Tokens:   token.Open{},
		Now:      c.now,
		memTable: 8 << 20,
	}, filepath.Join(dir, "keyserver"))
}

// at puts the database of options elsewhere, where a folder's name says.
func at(opt Options, dir string) Options {
	opt.Dir = dir
	if server := os.Getenv(onPostgres); server != "" {
		place, err := postgres.Parse(server + "&search_path=" + schemaOf(dir))
		if err != nil {
			panic(err)
		}
		opt.Place = place
	}
	return opt
}

// schemaOf is that of the store that would be in a folder.
func schemaOf(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return fmt.Sprintf("t%x", sum[:16])
}

// wipe removes a database that nobody has open.
func wipe(t testing.TB, opt Options) {
	t.Helper()
	if err := os.RemoveAll(opt.Dir); err != nil {
		t.Fatal(err)
	}
	server := os.Getenv(onPostgres)
	if server == "" {
		return
	}
	conn, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), "DROP SCHEMA IF EXISTS "+schemaOf(opt.Dir)+" CASCADE"); err != nil {
		t.Fatal(err)
	}
}

// aboutFolders skips a test of what is in Badger's folder.
func aboutFolders(t testing.TB) {
	t.Helper()
	if os.Getenv(onPostgres) != "" {
		t.Skip("it is about Badger's files")
	}
}

func openTest(t testing.TB, opt Options) *Service {
	t.Helper()
	s, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newTest(t testing.TB) (*Service, *clock) {
	t.Helper()
	inMemory(t)
	c := newClock()
	return openTest(t, testOptions(t.TempDir(), c)), c
}

// newKey returns a key made from a number.
func newKey(n uint64) ed25519.PrivateKey {
	var seed [ed25519.SeedSize]byte
	binary.BigEndian.PutUint64(seed[:], n)
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// message makes a user's first message in profile 1.0, signed.
func message(s *Service, identity string, key ed25519.PrivateKey) *uid.Message {
	return messageAfter(s, s.lastText(), identity, key)
}

// messageAfter is message with an entry as LASTENTRY.
func messageAfter(s *Service, head, identity string, key ed25519.PrivateKey) *uid.Message {
	m := &uid.Message{Content: uid.Content{
		Identity:    identity,
		LastEntry:   head,
		NotAfter:    s.now() + 365*24*60*60,
		Preferences: uid.Preferences{Ciphersuites: []string{uid.Ciphersuite}, ForwardSec: uid.Strict},
		PubKeys:     uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, public(key))},
		RepoURIs:    []string{testDomain},
		SigKey:      uid.NewKeyEntry(uid.Ed25519, public(key)),
		Version:     uid.Version10,
	}}
	m.Sign(key)
	return m
}

// message11 makes a user's first message in profile 1.1, signed by both keys.
func message11(s *Service, identity string, key, escrow ed25519.PrivateKey) *uid.Message {
	m := message(s, identity, key)
	m.Content.Version = uid.Version11
	e := uid.NewKeyEntry(uid.Ed25519, public(escrow))
	m.Content.SigEscrow = &e
	m.Sign(key)
	m.SignEscrow(escrow)
	return m
}

// next makes the message after m with another SIGKEY, signed by the old one.
func next(m *uid.Message, old, key ed25519.PrivateKey) *uid.Message {
	n := *m
	n.Content.MsgCount++
	n.Content.SigKey = uid.NewKeyEntry(uid.Ed25519, public(key))
	n.EscrowSignature = ""
	n.Sign(key)
	n.SignUser(old)
	return &n
}

func (s *Service) lastText() string {
	e, _, err := s.LastEntry(context.Background())
	if err != nil {
		panic(err)
	}
	return e.String()
}

func mustCreate(t testing.TB, s *Service, m *uid.Message) *uid.Reply {
	t.Helper()
	reply, err := s.CreateUID(t.Context(), m, "")
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// checkReplyOf checks everything that Alice checks of a reply.
func checkReplyOf(t testing.TB, s *Service, m *uid.Message, reply *uid.Reply) {
	t.Helper()
	opened, err := reply.Open(m.Hash())
	if err != nil || string(opened.Canonical()) != string(m.Canonical()) {
		t.Errorf("opened: %v", err)
	}
	if err := reply.Verify(s.writer.state.Load().signer(reply.Entry.HashchainPos)); err != nil {
		t.Error(err)
	}
	entry, err := hashchain.Parse(reply.Entry.HashchainEntry)
	if err != nil {
		t.Fatal(err)
	}
	if hash, ok := entry.Open(m.Content.Identity); !ok || hash != m.Hash() {
		t.Error("the entry is not of the message")
	}
	if got := collect(t, s, reply.Entry.HashchainPos, reply.Entry.HashchainPos); got[0] != entry {
		t.Error("the chain has another entry at the position")
	}
	stored, err := s.FetchUID(t.Context(), entry.UIDIndex())
	if err != nil || string(stored) != string(reply.Canonical()) {
		t.Errorf("stored: %s, %v", stored, err)
	}
}

// collect returns the entries of a range.
func collect(t testing.TB, s *Service, first, last uint64) (all []hashchain.Entry) {
	t.Helper()
	_, entries, err := s.Entries(t.Context(), first, last)
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range entries {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

// mustCheck verifies the chain as a client does, and the database as fsck does.
func mustCheck(t testing.TB, s *Service) {
	t.Helper()
	var c hashchain.Chain
	if err := c.Append(collect(t, s, 0, 1<<63), nil); err != nil {
		t.Error(err)
	}
	if have := s.Chain(); c.Size != have.Size || c.Head != have.Head || c.Root() != have.Root() {
		t.Errorf("entries end at %d, the chain at %d", c.Size, have.Size)
	}
	stored := count(t, s, prefixKeyInit)
	if have := s.KeyInits(); have != stored {
		t.Errorf("%d KeyInits are stored, and %d counted", stored, have)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// count tells how many keys on disk begin with some bytes.
func count(t testing.TB, s *Service, prefix ...byte) (n uint64) {
	t.Helper()
	err := s.db.View(t.Context(), func(view store.Reader) (err error) {
		n, err = store.Count(view, prefix)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// keyInitsOf returns a key's KeyInits that are on disk.
func keyInitsOf(t testing.TB, s *Service, hash sigKeyHash) (held []heldKeyInit) {
	t.Helper()
	err := s.db.View(t.Context(), func(view store.Reader) (err error) {
		held, err = readKeyInits(view, hash)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return held
}

// keyInit makes a KeyInit of a user's key, valid for some time from now on.
func keyInit(t testing.TB, s *Service, key ed25519.PrivateKey, n uint64, lasts time.Duration, fallback bool) *keyinit.KeyInit {
	t.Helper()
	return keyInitTo(t, s, key, fmt.Sprintf("mix%d@example.org", n), "", n, lasts, fallback)
}

// keyInitTo is keyInit with addresses for first messages.
func keyInitTo(t testing.TB, s *Service, key ed25519.PrivateKey, mix, nym string, n uint64, lasts time.Duration, fallback bool) *keyinit.KeyInit {
	t.Helper()
	hash := uid.SigKeyHash(public(key))
	k := &keyinit.KeyInit{Contents: keyinit.Contents{
		Fallback:   fallback,
		NotAfter:   s.now() + uint64(lasts/time.Second),
		RepoURI:    testDomain,
		SigKeyHash: canonical.Encode(hash[:]),
		Version:    uid.Version10,
	}}
	anchor := &keyinit.Anchor{
		MixAddress: mix, NymAddress: nym,
		PFKeys: uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, public(newKey(n)))},
	}
	if err := k.Contents.Seal(anchor, public(key), rand.Reader); err != nil {
		t.Fatal(err)
	}
	k.Sign(key)
	return k
}

func free(n int) []string { return make([]string, n) }
