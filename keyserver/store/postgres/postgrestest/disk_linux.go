package postgrestest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Disk is a small file system in memory that a cluster keeps something in.
type Disk struct{ dir string }

// SmallDisk mounts a file system of so many MiB for the server, until the test ends. It skips the
// test where that is not allowed.
func (c *Cluster) SmallDisk(t testing.TB, name string, size int) *Disk {
	t.Helper()
	d := &Disk{filepath.Join(c.dir, name)}
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("size=%dm,mode=700", size)
	for _, arg := range c.as {
		for flag, option := range map[string]string{"--reuid=": "uid", "--regid=": "gid"} {
			if id, ok := strings.CutPrefix(arg, flag); ok {
				if _, err := strconv.Atoi(id); err == nil {
					options += "," + option + "=" + id
				}
			}
		}
	}
	if err := syscall.Mount("keytree", d.dir, "tmpfs", 0, options); err != nil {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		c.Kill(t) // else it is busy
		if err := syscall.Unmount(d.dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

// Tablespace has the server keep there what is made in the tablespace of a name.
func (c *Cluster) Tablespace(t testing.TB, name string, on *Disk) {
	t.Helper()
	c.Exec(t, fmt.Sprintf("CREATE TABLESPACE %s LOCATION '%s'", name, on.dir))
}

// MoveLog moves the write-ahead log of a server, which is started again, to another disk.
func (c *Cluster) MoveLog(t testing.TB, to *Disk) {
	t.Helper()
	c.Kill(t)
	from, at := filepath.Join(c.data(), "pg_wal"), filepath.Join(to.dir, "pg_wal")
	for _, args := range [][]string{{"cp", "-r", from, at}, {"rm", "-r", from}, {"ln", "-s", at, from}} {
		if out, err := c.command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
	}
	c.Begin(t)
}

// Fill fills the disk.
func (d *Disk) Fill(t testing.TB) {
	t.Helper()
	file, err := os.Create(d.filler())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for block := make([]byte, 4096); ; {
		if _, err := file.Write(block); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// Empty makes room again.
func (d *Disk) Empty(t testing.TB) {
	t.Helper()
	if err := os.Remove(d.filler()); err != nil {
		t.Fatal(err)
	}
}

func (d *Disk) filler() string { return filepath.Join(d.dir, "filler") }
