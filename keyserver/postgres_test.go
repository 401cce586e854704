package keyserver

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/store/postgres/postgrestest"
)

// onPostgres, in the environment, is the URL of the server that the stores of the tests are in.
const onPostgres = "KEYTREE_TEST_POSTGRES"

// TestOnPostgres runs the tests of the package once more, with stores in PostgreSQL, but for those
// of what is in Badger's folder.
func TestOnPostgres(t *testing.T) {
	if testing.Short() {
		t.Skip("the tests run with the other store")
	}
	if os.Getenv(onPostgres) != "" {
		t.Skip("this is how they run with this one")
	}
	cluster := postgrestest.Start(t)
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.v"}
	if !exhaustive() {
		args = append(args, "-test.short")
	}
	cmd := exec.CommandContext(t.Context(), executable, args...)
	cmd.Env = append(os.Environ(), onPostgres+"="+cluster.URL("postgres", nil))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestStandby: a standby shows what the writer has stored as soon as it is, writes nothing, and
// goes on with the same chain when it has taken over, held as at a start.
func TestStandby(t *testing.T) {
	if os.Getenv(onPostgres) == "" {
		t.Skip("part of TestOnPostgres")
	}
	dir := t.TempDir()
	opt := testOptions(dir, newClock())
	first := openTest(t, opt)
	grow(t, first, 2)
	if _, err := Open(t.Context(), opt); !errors.Is(err, ErrLocked) {
		t.Errorf("a second writer: %v", err)
	}
	standing := opt
	standing.Standby, standing.Held, standing.Acknowledged = true, true, filepath.Join(dir, "seen")
	s := openTest(t, standing)
	if _, _, err := s.LastEntry(t.Context()); !errors.Is(err, ErrHeld) {
		t.Errorf("before it is released: %v", err)
	}
	s.Release()
	for range 3 {
		m := message(first, "new"+letters(first.Chain().Size)+"@example.org", newKey(first.Chain().Size))
		checkReplyOf(t, s, m, mustCreate(t, first, m))
		head, err := s.SignedHead(t.Context())
		if err != nil || head.Head.Size != first.Chain().Size {
			t.Errorf("the standby's head: %+v, %v", head.Head, err)
		}
	}
	if _, err := s.CreateUID(t.Context(), message(s, "late@example.org", newKey(99)), ""); !errors.Is(err, ErrStandby) {
		t.Errorf("it writes: %v", err)
	}
	if _, err := s.RotateKey(t.Context()); !errors.Is(err, ErrStandby) {
		t.Errorf("it rotates the key: %v", err)
	}
	if !s.Standby() {
		t.Error("it does not say that it stands by")
	}
	size := first.Chain().Size
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.TakeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Ready(); !errors.Is(err, ErrHeld) {
		t.Errorf("it shows something before it was compared anew: %v", err)
	}
	s.Release()
	grow(t, s, 2)
	if got := s.Chain().Size; got != size+2 || s.Standby() {
		t.Errorf("the chain has %d entries, want %d", got, size+2)
	}
	mustCheck(t, s)

	// One with another key than the chain's takes over from nobody.
	if _, err := s.RotateKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	other := standing
	other.KeyFile = filepath.Join(t.TempDir(), "key")
	if _, err := Open(t.Context(), other); !errors.Is(err, ErrMismatch) {
		t.Errorf("without the key: %v", err)
	}
}

// TestMove: a backup of either store, restored into the other, has the same chain, and gives the
// same backup, byte for byte.
func TestMove(t *testing.T) {
	if os.Getenv(onPostgres) == "" {
		t.Skip("part of TestOnPostgres")
	}
	dir := t.TempDir()
	from := testOptions(dir, newClock())
	s := openTest(t, from)
	grow(t, s, 5)
	addAll(t, s, newKey(1), keyInits(t, s, newKey(1), 3)...)
	backup := func(s *Service) []byte {
		t.Helper()
		var b bytes.Buffer
		if err := errors.Join(s.Check(t.Context()), s.Backup(t.Context(), &b), s.Close()); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	first := backup(s)
	folder := from
	folder.Place, folder.Dir = nil, filepath.Join(dir, "folder")
	for i, to := range []Options{folder, at(from, filepath.Join(dir, "back"))} {
		if err := Restore(t.Context(), to, bytes.NewReader(first)); err != nil {
			t.Fatal(err)
		}
		if again := backup(openTest(t, to)); !bytes.Equal(again, first) {
			t.Errorf("move %d: a backup of %d bytes became one of %d", i+1, len(first), len(again))
		}
	}
}
