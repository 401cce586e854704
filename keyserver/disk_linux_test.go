package keyserver

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// TestDiskFull lets the disk fill up: calls that write are refused and change
// nothing, the others are answered, and when there is room again all is as before.
func TestDiskFull(t *testing.T) {
	aboutFolders(t)
	dir := t.TempDir()
	if err := syscall.Mount("keytree", dir, "tmpfs", 0, "size=96m"); err != nil {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	opt := testOptions(dir, newClock())
	opt.memTable = 2 << 20
	filler := filepath.Join(dir, "filler")
	fill := func() { // until a MiB of the reserve is gone
		t.Helper()
		free, _, err := badgerdb.FreeSpace(dir)
		if err != nil {
			t.Fatal(err)
		}
		left := badgerdb.ReserveMemTables*uint64(opt.memTable) - 1<<20
		if err := os.WriteFile(filler, make([]byte, free-left), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	empty := func() {
		t.Helper()
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	}
	wantFull := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrDiskFull) || errors.Is(err, ErrFailed) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s on a full disk: %v", what, err)
		}
	}

	fill()
	_, err := Open(t.Context(), opt)
	wantFull("Open", err)
	if _, err := os.Stat(opt.KeyFile); !os.IsNotExist(err) {
		t.Error("a key file was made")
	}
	empty()
	s := openTest(t, opt)
	alice := message(s, "alice@example.org", newKey(1))
	reply := mustCreate(t, s, alice)
	addAll(t, s, newKey(1), keyInits(t, s, newKey(1), 1)...)

	bert := message(s, "bert@example.org", newKey(2))
	more := keyInits(t, s, newKey(1), 1)
	calls := []struct {
		name string
		call func() error
	}{
		{"CreateUID", func() error { _, err := s.CreateUID(t.Context(), bert, ""); return err }},
		{"AddKeyInit", func() error {
			_, err := s.AddKeyInit(t.Context(), public(newKey(1)), more, free(1))
			return err
		}},
		{"FetchKeyInit", func() error {
			_, err := s.FetchKeyInit(t.Context(), uid.SigKeyHash(public(newKey(1))), "")
			return err
		}},
		{"UpdateUID", func() error {
			_, err := s.UpdateUID(t.Context(), next(alice, newKey(1), newKey(3)), "")
			return err
		}},
		{"RotateKey", func() error { _, err := s.RotateKey(t.Context()); return err }},
	}
	chain := s.Chain()
	fill()
	for _, c := range calls {
		wantFull(c.name, c.call())
	}
	if now := s.Chain(); now.Size != chain.Size || now.Head != chain.Head {
		t.Errorf("the chain has grown to %d entries", now.Size)
	}
	if err := s.Err(); err != nil {
		t.Error(err)
	}
	checkReplyOf(t, s, alice, reply)
	mustCheck(t, s)
	var backup bytes.Buffer
	if err := s.Backup(t.Context(), &backup); err != nil {
		t.Error(err)
	}
	restored := filepath.Join(dir, "restored")
	wantFull("Restore", Restore(t.Context(), Options{Dir: restored}, &backup))
	if left, _ := filepath.Glob(restored + "*"); len(left) > 0 {
		t.Errorf("Restore left %v", left)
	}
	empty()

	for _, c := range calls {
		if err := c.call(); err != nil {
			t.Errorf("%s after there was room again: %v", c.name, err)
		}
	}
	mustCheck(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	fill()
	_, err = Open(t.Context(), opt)
	wantFull("Open", err)
	empty()
	mustCheck(t, openTest(t, opt))
}
