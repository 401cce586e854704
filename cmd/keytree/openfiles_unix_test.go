//go:build unix

package main

import (
	"syscall"
	"testing"
)

// TestConnectionsFitOpenFiles has the system let the process open too few files for all
// connections that a server would take: whoever is idle could keep it from its own.
func TestConnectionsFitOpenFiles(t *testing.T) {
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if most, ok := mostOpenFiles(); !ok || most != uint64(before.Cur) {
		t.Errorf("%d, %v; the system says %d", most, ok, before.Cur)
	}
	few := before
	few.Cur = 3000
	if before.Cur < few.Cur {
		t.Skipf("the system allows %d open files", before.Cur)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
			t.Error(err)
		}
	}()
	serve := []string{"keyserver", "serve", "--keyserver-domain", "example.org", "--data-dir", t.TempDir()}
	keytree(t, serve...).wantError(t, exitUsage, "--limit-connections: the system lets keytree open 3000 files and sockets, expected 3072, of which 1024 are not for connections")
	fitting := append(serve, "--limit-connections", "1976/100", "--keyserver-tls-cert", "cert.pem")
	keytree(t, fitting...).wantError(t, exitUsage, "expected both or none of --keyserver-tls-cert") // it came past that
	for taken, want := range map[int]int{1000: 976, 1976: 0, 2048: 0} {
		if held := heldConnections(taken); held != want {
			t.Errorf("with %d connections, %d more are kept open that were refused, want %d", taken, held, want)
		}
	}
}
