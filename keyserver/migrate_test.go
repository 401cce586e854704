package keyserver

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/graph/durable/durabletest"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// earlier are folders that earlier versions have made; its README.md tells how.
const earlier = "testdata/earlier"

// paid takes any token, each once, but none, which is free.
type paid struct{}

func (paid) Check(text string) (token.ID, bool, error) {
	return sha256.Sum256([]byte(text)), text != "", nil
}
func (paid) PublicKey() string { return "" }

// earlierFolder copies a folder that an earlier version has made, and returns the options
// to open it a minute later.
func earlierFolder(t *testing.T, commit string) Options {
	t.Helper()
	inMemory(t)
	dir := filepath.Join(t.TempDir(), commit)
	c := newClock()
	c.advance(2 * time.Minute)
	opt := testOptions(dir, c)
	opt.Tokens, opt.migratePiece = paid{}, 2
	if err := errors.Join(os.CopyFS(dir, os.DirFS(filepath.Join(earlier, commit))), os.Chmod(opt.KeyFile, 0o600)); err != nil {
		t.Fatal(err)
	}
	return opt
}

func readingOnly(opt Options) Options { opt.ReadOnly = true; return opt }

func migrating(opt Options) Options { opt.Migrate = true; return opt }

// TestEarlier opens what earlier versions have made: it is refused unless it may be
// converted, can be looked at and backed up as it is, and has everything afterwards.
func TestEarlier(t *testing.T) {
	aboutFolders(t)
	for _, commit := range []string{"c78fd4b", "e32da94"} {
		t.Run(commit, func(t *testing.T) {
			opt := earlierFolder(t, commit)
			if _, err := Open(t.Context(), opt); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "keytree keyserver backup") {
				t.Errorf("opened as it is: %v", err)
			}
			s := openTest(t, readingOnly(opt))
			mustCheck(t, s)
			if s.format != 1 {
				t.Errorf("reading it made it format %d", s.format)
			}
			want := s.Chain()
			refused(t, s, "a change", ErrReadOnly, func() error {
				_, err := s.CreateUID(t.Context(), message(s, "carla@example.org", newKey(9)), "")
				return err
			})
			var backup bytes.Buffer
			if err := errors.Join(s.Backup(t.Context(), &backup), s.Close()); err != nil {
				t.Fatal(err)
			}

			s = openTest(t, migrating(opt))
			mustCheck(t, s)
			if now := s.Chain(); now.Size != 5 || now.Head != want.Head || now.Root() != want.Root() {
				t.Errorf("another chain, of %d entries", now.Size)
			}
			if count(t, s, prefixExpiry1) > 0 || count(t, s, prefixFlush1) > 0 {
				t.Error("something of format 1 is left")
			}
			kept, err := os.ReadFile(opt.Dir + ".format-1.backup")
			if err != nil || !bytes.Equal(kept, backup.Bytes()) {
				t.Errorf("the backup of %d bytes is not of the database as it was: %v", len(kept), err)
			}
			// What c78fd4b does not say when it was added goes with any order, what it does not.
			checkEarlier(t, s, map[string]int{"c78fd4b": 1, "e32da94": 3}[commit])
			grow(t, s, 2)
			mustCheck(t, s)
			s.Close()
			again := openTest(t, opt)
			mustCheck(t, again)

			// Who wants to go back restores the backup, which an earlier keytree can open.
			restored := opt
			restored.Dir = filepath.Join(t.TempDir(), "restored")
			if err := Restore(t.Context(), restored, bytes.NewReader(kept)); err != nil {
				t.Fatal(err)
			}
			s = openTest(t, readingOnly(restored))
			mustCheck(t, s)
			if s.format != 1 || s.Chain().Head != want.Head {
				t.Errorf("format %d was restored", s.format)
			}
			s.Close()
			mustCheck(t, openTest(t, migrating(restored)))
		})
	}
}

// checkEarlier checks what the README.md says of each folder, two minutes later. Of the three
// KeyInits that bert has by then, so many are left after an order from before he added them.
func checkEarlier(t *testing.T, s *Service, left int) {
	t.Helper()
	for _, spent := range []string{"token a", "token b"} {
		refused(t, s, spent, ErrSpent, func() error {
			_, err := s.CreateUID(t.Context(), message(s, "carla@example.org", newKey(9)), spent)
			return err
		})
	}
	alice, bert := newKey(3), newKey(2)
	addAll(t, s, bert, keyInit(t, s, bert, 20, 30*day, false))
	order := keyinit.SignFlush(1_700_000_000, bert)
	if err := s.FlushKeyInit(t.Context(), public(bert), 1_700_000_000, order); !errors.Is(err, uid.ErrExpired) {
		t.Errorf("bert's order once more: %v", err)
	}
	if err := s.FlushKeyInit(t.Context(), public(bert), 1_700_000_001, keyinit.SignFlush(1_700_000_001, bert)); err != nil {
		t.Error(err)
	}
	for key, n := range map[*byte]int{&alice[0]: 2, &bert[0]: left} {
		hash := uid.SigKeyHash(public(alice))
		if key == &bert[0] {
			hash = uid.SigKeyHash(public(bert))
		}
		if held := keyInitsOf(t, s, hash); len(held) != n {
			t.Errorf("%d KeyInits are held, want %d", len(held), n)
		}
	}
}

// TestEarlierOfThisFormat opens what a version has made that has this one's format.
func TestEarlierOfThisFormat(t *testing.T) {
	aboutFolders(t)
	s := openTest(t, earlierFolder(t, "d175e01"))
	mustCheck(t, s)
	if size := s.Chain().Size; size != 5 {
		t.Errorf("%d entries", size)
	}
	checkEarlier(t, s, 3)
	grow(t, s, 2)
	mustCheck(t, s)
}

// TestMigrateRefuses: nothing is converted that is damaged, of another, or cannot be
// backed up.
func TestMigrateRefuses(t *testing.T) {
	aboutFolders(t)
	for name, test := range map[string]struct {
		change func(*testing.T, *Options)
		want   error
	}{
		"another domain": {func(_ *testing.T, o *Options) { o.Domain = "example.net" }, ErrMismatch},
		"no key file":    {func(_ *testing.T, o *Options) { o.KeyFile += "x" }, ErrMismatch},
		"damaged": {func(t *testing.T, o *Options) {
			earlierRecords(t, *o, deleting(entryKey(1)))
		}, ErrDamaged},
		"no place for the backup": {func(t *testing.T, o *Options) {
			if err := os.MkdirAll(o.Dir+".format-1.backup.tmp/in the way", 0o700); err != nil {
				t.Fatal(err)
			}
		}, nil},
		"of a later format": {func(t *testing.T, o *Options) {
			earlierRecords(t, *o, func(store.Reader) ([]store.Write, error) {
				return []store.Write{{Key: []byte{prefixFormat}, Value: []byte(`{"version":3,"domain":"example.org"}`)}}, nil
			})
		}, ErrMismatch},
	} {
		t.Run(name, func(t *testing.T) {
			opt := earlierFolder(t, "c78fd4b")
			changed := opt
			test.change(t, &changed)
			if _, err := Open(t.Context(), migrating(changed)); err == nil || !errors.Is(err, test.want) && test.want != nil {
				t.Errorf("got %v, want %v", err, test.want)
			}
			earlierRecords(t, opt, func(view store.Reader) ([]store.Write, error) {
				converted1, err1 := store.Has(view, []byte{prefixExpiry})
				converted2, err2 := store.Has(view, []byte{prefixFlush})
				kept, err3 := store.Has(view, []byte{prefixExpiry1})
				if converted1 || converted2 || !kept {
					t.Error("something was converted")
				}
				return nil, errors.Join(err1, err2, err3)
			})
		})
	}
}

// earlierRecords changes a database below the service.
func earlierRecords(t *testing.T, opt Options, change func(store.Reader) ([]store.Write, error)) {
	t.Helper()
	db, err := opt.place().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	changeStore(t, db, change)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// changeStore commits what change makes of what is stored.
func changeStore(t *testing.T, db store.Store, change func(store.Reader) ([]store.Write, error)) {
	t.Helper()
	var writes []store.Write
	err := db.View(t.Context(), func(view store.Reader) (err error) {
		writes, err = change(view)
		return err
	})
	if err := errors.Join(err, db.Commit(writes)); err != nil {
		t.Fatal(err)
	}
}

// deleting is a change that deletes keys.
func deleting(keys ...[]byte) func(store.Reader) ([]store.Write, error) {
	var writes []store.Write
	for _, k := range keys {
		writes = append(writes, store.Write{Key: k, Delete: true})
	}
	return func(store.Reader) ([]store.Write, error) { return writes, nil }
}

// asMigrator, in the environment, makes the test executable convert the database in a
// folder, and kills it at a transaction: FOLDER NUMBER, and "landed" if that is on disk.
const asMigrator = "KEYTREE_TEST_MIGRATOR"

// TestMigrator is not a test but the process that TestMigrationKilled has killed.
func TestMigrator(t *testing.T) {
	fields := strings.Fields(os.Getenv(asMigrator))
	if len(fields) < 2 {
		t.Skip("part of TestMigrationKilled")
	}
	left, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	opt := testOptions(fields[0], newClock())
	opt.migratePiece = 2
	opt.commit = func(db store.Store, writes []store.Write) error {
		left--
		if left == 0 && len(fields) > 2 {
			if err := db.Commit(writes); err != nil {
				return err
			}
		}
		if left == 0 {
			durabletest.Kill()
		}
		return db.Commit(writes)
	}
	s, err := Open(t.Context(), migrating(opt))
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// TestMigrationKilled kills a migration at each of its transactions, before and after it
// is on disk. Until one of them makes the next format count, the database is of the
// earlier one, and an earlier keytree may change it; afterwards it is converted.
func TestMigrationKilled(t *testing.T) {
	aboutFolders(t)
	if testing.Short() {
		t.Skip("it starts a process for each kill")
	}
	inMemory(t)
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var killed, converted int
	for n, ended := 1, false; !ended; n++ {
		for _, landed := range []string{"", "landed"} {
			opt := earlierFolder(t, "c78fd4b")
			before := openTest(t, readingOnly(opt))
			want := before.Chain()
			before.Close()
			cmd := exec.CommandContext(t.Context(), executable, "-test.run=^TestMigrator$", "-test.v")
			cmd.Env = append(os.Environ(), asMigrator+"="+filepath.Dir(opt.Dir)+" "+strconv.Itoa(n)+" "+landed)
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState.Exited() {
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				ended = true
			} else {
				killed++
			}

			s := openTest(t, readingOnly(opt))
			mustCheck(t, s)
			format := s.format
			s.Close()
			if format == 1 {
				var of sigKeyHash // an earlier keytree hands one out
				var gone heldKeyInit
				earlierRecords(t, opt, func(view store.Reader) ([]store.Write, error) {
					for k, err := range view.Keys([]byte{prefixKeyInit}, nil) {
						if err != nil {
							return nil, err
						}
						of, gone = readHeldKey(k)
						break
					}
					return deleting(gone.key(of), key(prefixExpiry1, gone.expiryKey(of)[1:]))(view)
				})
			} else {
				converted++
			}
			s = openTest(t, migrating(opt))
			mustCheck(t, s)
			if now := s.Chain(); s.format != formatVersion || now.Head != want.Head {
				t.Errorf("transaction %d %s: format %d, %d entries", n, landed, s.format, now.Size)
			}
			if count(t, s, prefixExpiry1) > 0 || count(t, s, prefixFlush1) > 0 {
				t.Errorf("transaction %d %s: something of format 1 is left", n, landed)
			}
			s.Close()
		}
	}
	if killed < 10 || converted < 4 || converted == killed {
		t.Errorf("%d were killed, %d of them after the format was changed", killed, converted)
	}
}
