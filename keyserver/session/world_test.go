package session_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/session"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

const (
	domain = "example.org"
	now    = 1_800_000_000
	day    = 24 * 60 * 60
)

// world is a real keyserver without its wire, and who uses it.
type world struct {
	t       testing.TB
	service *keyserver.Service
}

func newWorld(t testing.TB) *world {
	t.Helper()
	dir := t.TempDir()
	service, err := keyserver.Open(t.Context(), keyserver.Options{
		Domain: domain, Dir: filepath.Join(dir, "db"), KeyFile: filepath.Join(dir, "key"), Tokens: token.Open{},
		Now: func() time.Time { return time.Unix(now, 0) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	})
	return &world{t, service}
}

// Search implements session.Hashchain on the keyserver's chain, as whoever has a
// copy of it would.
func (w *world) Search(ctx context.Context, identity string) ([]hashchain.Entry, error) {
	_, all, err := w.service.Entries(ctx, 0, 1<<20)
	if err != nil {
		return nil, err
	}
	var entries copied
	for e, err := range all {
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	return entries.Search(ctx, identity)
}

// copied is a copy of a chain.
type copied []hashchain.Entry

func (c copied) Search(ctx context.Context, identity string) (found []hashchain.Entry, err error) {
	indexes, err := hashchain.Search(ctx, c, identity)
	for _, i := range indexes {
		found = append(found, c[i])
	}
	return found, err
}

// user is somebody with an identity.
type user struct {
	*session.Self
	sig     ed25519.PrivateKey
	escrow  ed25519.PrivateKey
	address session.Address
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

func newUser(name string) *user {
	_, sig, _ := ed25519.GenerateKey(rand.Reader)
	_, escrow, _ := ed25519.GenerateKey(rand.Reader)
	return &user{&session.Self{Keys: []*ecdh.PrivateKey{newX25519()}}, sig, escrow,
		session.Address{Mix: name + "@mix.example", Nym: []byte("nym of " + name)}}
}

func newX25519() *ecdh.PrivateKey {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// content is that of a first message of profile 1.1.
func (u *user) content(identity, last string) uid.Content {
	escrow := uid.NewKeyEntry(uid.Ed25519, public(u.escrow))
	return uid.Content{
		Identity: identity, LastEntry: last, NotBefore: now - 1, NotAfter: now + 300*day,
		Preferences: uid.Preferences{Ciphersuites: []string{uid.Ciphersuite}, ForwardSec: uid.Mandatory},
		PubKeys:     uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, u.Keys[0].PublicKey().Bytes())},
		RepoURIs:    []string{domain}, SigEscrow: &escrow, SigKey: uid.NewKeyEntry(uid.Ed25519, public(u.sig)), Version: uid.Version11,
	}
}

// register makes an identity for a new user.
func (w *world) register(name string) *user {
	w.t.Helper()
	u := newUser(name)
	last, _, err := w.service.LastEntry(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	m := &uid.Message{Content: u.content(name+"@"+domain, last.String())}
	m.Sign(u.sig)
	m.SignEscrow(u.escrow)
	if _, err := w.service.CreateUID(w.t.Context(), m, ""); err != nil {
		w.t.Fatal(err)
	}
	u.History = []*uid.Message{m}
	return u
}

// update gives a user new keys.
func (w *world) update(u *user) {
	w.t.Helper()
	_, sig, _ := ed25519.GenerateKey(rand.Reader)
	key := newX25519()
	m := &uid.Message{Content: u.History[len(u.History)-1].Content}
	m.Content.MsgCount++
	m.Content.SigKey = uid.NewKeyEntry(uid.Ed25519, public(sig))
	m.Content.PubKeys = uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, key.PublicKey().Bytes())}
	m.Sign(sig)
	m.SignUser(u.sig)
	if _, err := w.service.UpdateUID(w.t.Context(), m, ""); err != nil {
		w.t.Fatal(err)
	}
	u.sig, u.Keys, u.History = sig, append([]*ecdh.PrivateKey{key}, u.Keys...), append(u.History, m)
}

// publish makes a KeyInit, adds it to the keyserver, and fetches one.
func (w *world) publish(u *user, box *box, fallback bool) *keyinit.KeyInit {
	w.t.Helper()
	k, key := u.newKeyInit(fallback)
	k.Contents.MsgCount = uint64(len(box.keys))
	k.Sign(u.sig)
	if _, err := w.service.AddKeyInit(w.t.Context(), public(u.sig), []*keyinit.KeyInit{k}, []string{""}); err != nil {
		w.t.Fatal(err)
	}
	box.add(k, key)
	b, err := w.service.FetchKeyInit(w.t.Context(), uid.SigKeyHash(public(u.sig)), "")
	if err != nil {
		w.t.Fatal(err)
	}
	fetched, err := keyinit.Parse(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return fetched
}

func (u *user) newKeyInit(fallback bool) (*keyinit.KeyInit, *ecdh.PrivateKey) {
	key := newX25519()
	sum := uid.SigKeyHash(public(u.sig))
	k := &keyinit.KeyInit{Contents: keyinit.Contents{
		Fallback: fallback, NotBefore: now - 1, NotAfter: now + 30*day, RepoURI: domain,
		SigKeyHash: canonical.Encode(sum[:]), Version: uid.Version11,
	}}
	u.seal(k, &keyinit.Anchor{
		MixAddress: u.address.Mix, NymAddress: canonical.Encode(u.address.Nym),
		PFKeys: uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, key.PublicKey().Bytes())},
	})
	return k, key
}

func (u *user) seal(k *keyinit.KeyInit, a *keyinit.Anchor) {
	if err := k.Contents.Seal(a, public(u.sig), rand.Reader); err != nil {
		panic(err)
	}
	k.Sign(u.sig)
}

// box implements session.KeyInits in memory.
type box struct {
	mu       sync.Mutex
	inits    map[[sha256.Size]byte]*keyinit.KeyInit // mu
	keys     map[[sha256.Size]byte]*ecdh.PrivateKey // mu
	sessions map[[sha256.Size]byte]*session.Session // mu
	texts    map[[sha256.Size]byte][]byte           // mu
}

func newBox() *box {
	return &box{
		inits: make(map[[sha256.Size]byte]*keyinit.KeyInit), keys: make(map[[sha256.Size]byte]*ecdh.PrivateKey),
		sessions: make(map[[sha256.Size]byte]*session.Session), texts: make(map[[sha256.Size]byte][]byte),
	}
}

func (b *box) add(k *keyinit.KeyInit, key *ecdh.PrivateKey) {
	b.inits[k.Digest()], b.keys[k.Digest()] = k, key
}

func (b *box) Find(_ context.Context, digest [sha256.Size]byte) (*keyinit.KeyInit, *ecdh.PrivateKey, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.inits[digest] == nil {
		return nil, nil, session.ErrUnknown
	}
	return b.inits[digest], b.keys[digest], nil
}

func (b *box) Begin(_ context.Context, s *session.Session, text []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sessions[s.ID] != nil || b.inits[s.KeyInit] == nil {
		return session.ErrReplay
	}
	b.sessions[s.ID], b.texts[s.ID] = s, bytes.Clone(text)
	if !s.Fallback {
		delete(b.inits, s.KeyInit)
	}
	return nil
}

// inbox is where somebody's first messages are opened.
func (w *world) inbox(u *user, box *box) *session.Inbox {
	return &session.Inbox{Identity: u.History[0].Content.Identity, Keys: u.Keys, Hashchain: w, KeyInits: box}
}

// start makes a first message, which must work.
func start(t testing.TB, from, to *user, k *keyinit.KeyInit, text string) (*session.Letter, *session.Pending) {
	t.Helper()
	letter, pending, err := session.Start(recipient(to, k), from.Self, from.address, []byte(text), now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return letter, pending
}

func recipient(u *user, k *keyinit.KeyInit) *session.Recipient {
	return &session.Recipient{UID: u.History[len(u.History)-1], KeyInit: k}
}

func parse(t testing.TB, b []byte) *session.Message {
	t.Helper()
	m, err := session.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func describe(a session.Address) string { return fmt.Sprintf("%s %q", a.Mix, a.Nym) }
