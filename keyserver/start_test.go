package keyserver

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

func TestFirstStart(t *testing.T) {
	aboutFolders(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	inMemory(t)
	opt := testOptions(t.TempDir(), newClock())
	s, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(opt.KeyFile); err != nil || info.Mode() != 0o600 {
		t.Errorf("key file: %v %v", info.Mode(), err)
	}
	if c := s.Chain(); c.Size != 1 {
		t.Errorf("%d entries", c.Size)
	}
	m := messagesOf(t, s, s.identity())[0]
	if c := m.Content; c.Identity != "keyserver@example.org" || c.MsgCount != 0 || c.LastEntry != "" ||
		c.NotAfter != uint64(opt.Now().AddDate(1, 0, 0).Unix()) || c.SigKey.PubKey != canonical.Encode(s.writer.state.Load().keys.public()) {
		t.Errorf("%+v", c)
	}
	secret := s.writer.state.Load().keys.sign.Seed()
	mustCheck(t, s)
	if _, err := Open(t.Context(), opt); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	if _, err := s.CreateUID(t.Context(), m, ""); !errors.Is(err, ErrReserved) {
		t.Error(err)
	}
	if _, _, err := s.LastEntry(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := s.FetchKeyInit(t.Context(), uid.SigKeyHash(public(newKey(1))), ""); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}

	// No secret is in the database.
	files, err := filepath.Glob(filepath.Join(opt.Dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || bytes.Contains(b, secret) || bytes.Contains(b, []byte(canonical.Encode(secret))) {
			t.Errorf("%s: has the server's secret, or %v", f, err)
		}
	}

	again := openTest(t, opt)
	if c := again.Chain(); c.Size != 1 || c.Head != s.Chain().Head {
		t.Errorf("another chain when opened again: %+v", c)
	}
	again.Close()
}

func TestOpenRefuses(t *testing.T) {
	inMemory(t)
	dir, c := t.TempDir(), newClock()
	opt := testOptions(dir, c)
	openTest(t, opt).Close()
	strange := testOptions(filepath.Join(dir, "strange"), c)
	if err := os.Mkdir(filepath.Join(dir, "strange"), 0o700); err != nil {
		t.Fatal(err)
	}
	openTest(t, strange).Close()

	key, err := os.ReadFile(opt.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, content []byte, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	// damaged is the key file with another letter in the key with a name.
	damaged := func(name string) string {
		changed := bytes.Clone(key)
		at := bytes.Index(key, []byte(`"`+name+`":"`)) + len(name) + 10
		if changed[at]++; key[at] == 'z' || key[at] == 'Z' || key[at] == '9' || key[at] == '+' || key[at] == '/' {
			changed[at] = 'a'
		}
		return write(name, changed, 0o600)
	}
	for name, test := range map[string]struct {
		change func(*Options)
		want   error
		says   string
	}{
		"damaged ED25519":      {func(o *Options) { o.KeyFile = damaged("ED25519") }, ErrMismatch, "another key"},
		"damaged ECDHE25519":   {func(o *Options) { o.KeyFile = damaged("ECDHE25519") }, ErrMismatch, "another ECDHE25519 key"},
		"other domain":         {func(o *Options) { o.Domain = "example.net" }, ErrMismatch, `the database of "example.org"`},
		"no domain":            {func(o *Options) { o.Domain = "" }, ErrMismatch, "domain"},
		"domain in upper case": {func(o *Options) { o.Domain = "Example.org" }, ErrMismatch, "domain"},
		"domain too long":      {func(o *Options) { o.Domain = strings.Repeat("a.", 31) + "aa" }, ErrMismatch, "domain"},
		"no tokens":            {func(o *Options) { o.Tokens = nil }, ErrMismatch, "tokens"},
		"URIs":                 {func(o *Options) { o.URIs = []string{"https://keys.example.org"} }, ErrMismatch, "must include the domain"},
		"limit":                {func(o *Options) { o.MaxKeyInits = 1e6 }, ErrMismatch, "KeyInits"},
		"key of another":       {func(o *Options) { o.KeyFile = strange.KeyFile }, ErrMismatch, "another key"},
		"no key file":          {func(o *Options) { o.KeyFile += "x" }, ErrMismatch, "missing"},
		"key file is open":     {func(o *Options) { o.KeyFile = write("open", key, 0o644) }, durable.ErrReadable, "0644"},
		"key file is cut":      {func(o *Options) { o.KeyFile = write("cut", key[:50], 0o600) }, ErrMismatch, "not a keyserver's key file"},
		"key file of nothing":  {func(o *Options) { o.KeyFile = write("empty", nil, 0o600) }, ErrMismatch, "not a keyserver's key file"},
		"database is gone":     {func(o *Options) { *o = at(*o, filepath.Join(dir, "gone")) }, ErrMismatch, "restore the database"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := opt
			test.change(&changed)
			_, err := Open(t.Context(), changed)
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %v with %q", err, test.want, test.says)
			}
			if err != nil && strings.Contains(err.Error(), string(key[20:40])) {
				t.Errorf("the error tells the secret: %v", err)
			}
		})
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ended, opt); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	mustCheck(t, openTest(t, opt))
}

func TestRotateKey(t *testing.T) {
	inMemory(t)
	c := newClock()
	opt := testOptions(t.TempDir(), c)
	s := openTest(t, opt)
	var replies []*uid.Reply
	create := func(name string) {
		t.Helper()
		m := message(s, name+"@example.org", newKey(1))
		reply := mustCreate(t, s, m)
		checkReplyOf(t, s, m, reply)
		replies = append(replies, reply)
	}
	rotate := func() {
		t.Helper()
		reply, err := s.RotateKey(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		replies = append(replies, reply)
	}
	create("anna")
	c.advance(300 * day)
	rotate()
	create("bert")
	rotate()
	rotate()
	create("carla")
	own := messagesOf(t, s, s.identity())
	if len(own) != 4 || own[3].Content.NotAfter != uint64(c.now().AddDate(1, 0, 0).Unix()) {
		t.Fatalf("%d messages of its own", len(own))
	}
	// anna, rotation | bert, rotation | rotation | carla: signed by key 0, 1, 2, 3.
	for i, signer := range []int{0, 0, 1, 1, 2, 3} {
		for k, m := range own {
			if err := replies[i].Verify(m.Content.SigKey.Public()); (err == nil) != (k == signer) {
				t.Errorf("reply %d by key %d: %v", i+1, k, err)
			}
		}
	}
	caps, err := s.Capabilities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range caps.SigPubKeys {
		if k != own[3-i].Content.SigKey.PubKey {
			t.Errorf("SIGPUBKEYS[%d] is not the newest", i)
		}
	}
	head, err := s.SignedHead(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if entryHash, root, err := head.Verify(own[3].Content.SigKey.Public()); err != nil || entryHash != s.Chain().Head || root != chainRoot(s) {
		t.Errorf("signed head: %v", err)
	}
	mustCheck(t, s)
	s.Close()
	s = openTest(t, opt)
	create("dora")
	mustCheck(t, s)
	if _, err := os.Stat(nextFile(opt.KeyFile)); !os.IsNotExist(err) {
		t.Errorf("the next key is still waiting: %v", err)
	}
}

func chainRoot(s *Service) hashchain.Hash {
	c := s.Chain()
	return c.Root()
}

// Wherever a rotation is interrupted, the next start finds the key that the chain
// names.
func TestInterruptedRotation(t *testing.T) {
	inMemory(t)
	opt := testOptions(t.TempDir(), newClock())
	s := openTest(t, opt)
	old, err := os.ReadFile(opt.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.RotateKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(opt.KeyFile)
	if err != nil || bytes.Equal(old, now) {
		t.Fatal("nothing rotated", err)
	}
	another, err := generateKeys()
	if err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string][2][]byte{
		"before the file was replaced":         {old, now},
		"after it":                             {now, nil},
		"the old one was lost":                 {nil, now},
		"the next, with an entry never stored": {now, {}},
	} {
		s.Close()
		for i, path := range []string{opt.KeyFile, nextFile(opt.KeyFile)} {
			os.Remove(path)
			if files[i] == nil {
				continue
			}
			if len(files[i]) == 0 {
				err = another.create(path)
			} else {
				err = os.WriteFile(path, files[i], 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if s, err = Open(t.Context(), opt); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		left, err := os.ReadFile(opt.KeyFile)
		if _, statErr := os.Stat(nextFile(opt.KeyFile)); !bytes.Equal(left, now) || err != nil || !os.IsNotExist(statErr) {
			t.Errorf("%s: %v, %v", name, err, statErr)
		}
	}
	// In a rotation that begins while the last one's file waits, nothing gets lost.
	if err := os.Rename(opt.KeyFile, nextFile(opt.KeyFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RotateKey(t.Context()); err != nil {
		t.Error(err)
	}
	s.Close()
	mustCheck(t, openTest(t, opt))
}

// A first start that was killed after the key was made goes on with that key.
func TestInterruptedFirstStart(t *testing.T) {
	inMemory(t)
	opt := testOptions(t.TempDir(), newClock())
	keys, err := generateKeys()
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.create(nextFile(opt.KeyFile)); err != nil {
		t.Fatal(err)
	}
	s := openTest(t, opt)
	if !s.writer.state.Load().keys.public().Equal(keys.public()) {
		t.Error("another key was made")
	}
}

// A byte changed anywhere in a table, a table gone, or the list of tables gone, is
// found; never does the keyserver begin another chain.
func TestDamage(t *testing.T) {
	aboutFolders(t)
	inMemory(t)
	dir := t.TempDir()
	opt := testOptions(dir, newClock())
	opt.Log = zerolog.Nop()
	s := openTest(t, opt)
	for n := range uint64(20) {
		mustCreate(t, s, message(s, "user"+strings.Repeat("a", int(n)+1)+"@example.org", newKey(n)))
	}
	s.Close()
	tables, err := filepath.Glob(filepath.Join(opt.Dir, "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal(tables, err)
	}
	pristine := filepath.Join(dir, "pristine")
	if err := os.CopyFS(pristine, os.DirFS(opt.Dir)); err != nil {
		t.Fatal(err)
	}
	try := func(name string, damage func(path string) error) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(opt.Dir), os.CopyFS(opt.Dir, os.DirFS(pristine)), damage(tables[0])); err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), opt)
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			s.Close()
		}
	}
	content, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	const tries = 40
	for n := range tries {
		at := n * (len(content) - 1) / (tries - 1)
		try("a bit", func(path string) error {
			changed := slices.Clone(content)
			changed[at] ^= 0x10
			return os.WriteFile(path, changed, 0o600)
		})
	}
	try("cut", func(path string) error { return os.WriteFile(path, content[:len(content)/2], 0o600) })
	try("gone", os.Remove)
	try("without manifest", func(path string) error { return os.Remove(filepath.Join(filepath.Dir(path), "MANIFEST")) })
}

// A byte changed in a log that was not written into a table yet hides what follows
// it: that is found too, but for the end of the log, where it looks like a crash.
func TestDamagedLog(t *testing.T) {
	aboutFolders(t)
	inMemory(t)
	dir := t.TempDir()
	opt := testOptions(dir, newClock())
	s := openTest(t, opt)
	grow(t, s, 20)
	half := logSize(t, opt.Dir)
	grow(t, s, 20)
	want := s.Chain()
	killed := opt // the files as they are if the process is killed now
	killed.Dir = filepath.Join(dir, "killed")
	copied := func(damage func(content []byte)) {
		t.Helper()
		if err := errors.Join(os.RemoveAll(killed.Dir), os.CopyFS(killed.Dir, os.DirFS(opt.Dir))); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(killed.Dir, "00001.mem")
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		damage(content)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	copied(func([]byte) {})
	again := openTest(t, killed)
	if c := again.Chain(); c.Head != want.Head {
		t.Errorf("%d entries, want %d", c.Size, want.Size)
	}
	mustCheck(t, again)
	again.Close()
	places := 30
	if testing.Short() {
		places = 6
	}
	for n := range places {
		copied(func(content []byte) { content[20+n*(half-20)/places] ^= 4 })
		if s, err := Open(t.Context(), killed); !errors.Is(err, ErrDamaged) {
			t.Errorf("served: %v", err)
			s.Close()
		}
	}
}

// logSize returns how much of the only log is written.
func logSize(t *testing.T, dir string) int {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil || len(logs) != 1 {
		t.Fatal(logs, err)
	}
	content, err := os.ReadFile(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	return len(bytes.TrimRight(content, "\x00"))
}

// What is consistent in itself but not with the rest of the database is found by
// Open or by Check.
func TestInconsistent(t *testing.T) {
	inMemory(t)
	identity := "alice@example.org"
	for name, change := range map[string]func(store.Reader) ([]store.Write, error){
		"entry dropped":   deleting(entryKey(1)),
		"last dropped":    deleting(entryKey(3)),
		"first dropped":   deleting(entryKey(0)),
		"head dropped":    deleting([]byte{prefixHead}),
		"format dropped":  deleting([]byte{prefixFormat}),
		"own key dropped": deleting(append(positionsOf("keyserver@example.org"), number(0)...)),
		"entries swapped": func(view store.Reader) ([]store.Write, error) {
			a, _, err1 := view.Get(entryKey(1))
			b, _, err2 := view.Get(entryKey(2))
			return []store.Write{{Key: entryKey(1), Value: b}, {Key: entryKey(2), Value: a}}, errors.Join(err1, err2)
		},
		"node changed": func(view store.Reader) ([]store.Write, error) {
			return []store.Write{{Key: nodeKey(hashchain.NodeID{Level: 1, Index: 0}), Value: make([]byte, 32)}}, nil
		},
		"top node changed": func(view store.Reader) ([]store.Write, error) {
			return []store.Write{{Key: nodeKey(hashchain.NodeID{Level: 2, Index: 0}), Value: make([]byte, 32)}}, nil
		},
		"identity dropped": deleting(identityKey(identity)),
		"position dropped": deleting(append(positionsOf(identity), number(1)...)),
		"SIGKEY dropped":   deleting(sigKeyKey(uid.SigKeyHash(public(newKey(1))), identity)),
		"reply dropped": func(view store.Reader) ([]store.Write, error) {
			r, err := readEntry(view, 2)
			return []store.Write{{Key: replyKey(r.entry.UIDIndex()), Delete: true}}, err
		},
		"reply of another": func(view store.Reader) ([]store.Write, error) {
			a, err1 := readEntry(view, 1)
			b, err2 := readEntry(view, 2)
			reply, _, err3 := view.Get(replyKey(b.entry.UIDIndex()))
			return []store.Write{{Key: replyKey(a.entry.UIDIndex()), Value: reply}}, errors.Join(err1, err2, err3)
		},
		"hash dropped": func(view store.Reader) ([]store.Write, error) {
			r, err := readEntry(view, 2)
			return []store.Write{{Key: byHashKey(r.entry.Hash()), Delete: true}}, err
		},
		"KeyInit dropped": func(view store.Reader) ([]store.Write, error) {
			for k, err := range view.Keys([]byte{prefixKeyInit}, nil) {
				return []store.Write{{Key: slices.Clone(k), Delete: true}}, err
			}
			return nil, errors.New("there is no KeyInit")
		},
	} {
		t.Run(name, func(t *testing.T) {
			opt := testOptions(t.TempDir(), newClock())
			s := openTest(t, opt)
			for n, name := range []string{identity, "bert@example.org", "carla@example.org"} {
				mustCreate(t, s, message(s, name, newKey(uint64(n)+1)))
			}
			addAll(t, s, newKey(1), keyInits(t, s, newKey(1), 2)...)
			mustCheck(t, s)
			changeStore(t, s.db, change)
			s.Close()
			s, err := Open(t.Context(), opt)
			if err == nil {
				err = s.Check(t.Context())
				s.Close()
			}
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("got %v", err)
			}
		})
	}
}
