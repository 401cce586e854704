package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// smallDisk mounts a file system on a folder for the time of the test. resize changes its
// size.
func smallDisk(t *testing.T, dir, size string) (resize func(size string)) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("keytree", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return func(size string) {
		t.Helper()
		if err := syscall.Mount("keytree", dir, "tmpfs", syscall.MS_REMOUNT, "size="+size); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDisksFillUpApart fills the disk of the one or the other of a running server's parts.
// Each wants room for twelve memtables: the index 192 MiB, the keyserver 768.
func TestDisksFillUpApart(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	withPassphrase(t)
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	user := func(s *anchoredServer) (create func(name string) outcome) {
		dir := t.TempDir()
		mustKeytree(t, "user", "init", "--user-dir", dir, "--keyserver", s.url)
		return func(name string) outcome {
			return keytree(t, "user", "create", name+"@example.org", "--user-dir", dir)
		}
	}
	t.Run("the keyserver's", func(t *testing.T) {
		dir := t.TempDir()
		resize := smallDisk(t, filepath.Join(dir, "keyserver"), "1g")
		s := startBeside(t, n, dir, "--anchor-chain", "none")
		create := user(s)
		if o := create("alice"); o.code != exitDone {
			t.Fatalf("%+v", o)
		}
		resize("300m")
		if o := create("bob"); o.code != exitFailed || !strings.Contains(o.stderr, "disk nearly full") {
			t.Errorf("on a full disk: %+v", o)
		}
		var last lastEntry
		if s.call("KeyHashchain.FetchLastHashChain", &last); last.HCPos != 1 {
			t.Errorf("the hashchain ends at %+v", last)
		}
		mine(t, s.grpc, n)
		resize("1g")
		if o := create("carol"); o.code != exitDone {
			t.Errorf("with room again: %+v", o)
		}
		if code := s.signal(syscall.SIGTERM); code != exitDone {
			t.Fatalf("exit code %d: %s", code, s.errors())
		}
		resize("300m")
		s = startBeside(t, n, dir)
		s.wantKeyserverFailed("disk nearly full")
		mine(t, s.grpc, n)
		s.kill()
	})
	t.Run("the index's", func(t *testing.T) {
		dir := t.TempDir()
		resize := smallDisk(t, filepath.Join(dir, "graph"), "600m")
		s := startBeside(t, n, dir, "--anchor-chain", "none")
		awaitTip(t, s.grpc, n)
		resize("150m")
		if _, err := n.Mine(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		s.wantReady(map[string]string{"index": "the disk of the index is nearly full", "keyserver": ""})
		if o := user(s)("alice"); o.code != exitDone {
			t.Errorf("%+v", o)
		}
		resize("600m")
		awaitTip(t, s.grpc, n)
		s.wantReady(map[string]string{"index": "", "keyserver": ""})
		if code := s.signal(syscall.SIGTERM); code != exitDone {
			t.Fatalf("exit code %d: %s", code, s.errors())
		}
		resize("150m")
		s = startBeside(t, n, dir)
		s.await(&s.stderr, "the index has failed")
		s.wantReady(map[string]string{"index": "the index has failed", "keyserver": ""})
		s.kill()
	})
}

// TestReadOnlyDisksApart starts a server with the disk of the one or the other of its parts
// mounted to be read only, as Linux does with a disk that fails.
func TestReadOnlyDisksApart(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	withPassphrase(t)
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	for failed, other := range map[string]string{"keyserver": "index", "index": "keyserver"} {
		t.Run(failed, func(t *testing.T) {
			folder := map[string]string{"keyserver": "keyserver", "index": "graph"}[failed]
			dir := t.TempDir()
			smallDisk(t, filepath.Join(dir, folder), "1g")
			s := startBeside(t, n, dir, "--anchor-chain", "none")
			awaitTip(t, s.grpc, n)
			if code := s.signal(syscall.SIGTERM); code != exitDone {
				t.Fatalf("exit code %d: %s", code, s.errors())
			}
			if err := syscall.Mount("keytree", filepath.Join(dir, folder), "tmpfs", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
				t.Fatal(err)
			}
			s = startBeside(t, n, dir)
			wantParts(t, s.await(&s.stderr, "the "+failed+" has failed"), "read-only file system")
			s.wantReady(map[string]string{failed: "the " + failed + " has failed", other: ""})
			s.kill()
		})
	}
}
