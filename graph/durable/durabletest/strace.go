package durabletest

import (
	"os"
	"os/exec"
	"testing"
)

// Strace returns the path of strace, with which a test has system calls fail. It skips the test
// where strace is not installed or may trace nothing, or fails it if KEYTREE_CLIENTS is set, as by
// .ci/run, which installs it.
func Strace(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err == nil {
		err = exec.Command(path, "--output="+os.DevNull, "true").Run()
	}
	switch {
	case err != nil && os.Getenv("KEYTREE_CLIENTS") != "":
		t.Fatalf("KEYTREE_CLIENTS is set, but strace does not work: %v", err)
	case err != nil:
		t.Skipf("strace does not work: %v; .ci/run installs it", err)
	}
	return path
}
