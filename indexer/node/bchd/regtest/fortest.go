package regtest

import (
	"context"
	"time"
)

// TB is what ForTest and Await need of a *testing.T, so that this package does not bring
// package testing into the program.
type TB interface {
	Helper()
	Context() context.Context
	Cleanup(func())
	TempDir() string
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// ForTest starts a node that ends with the test, in a folder of the test's.
func ForTest(t TB, opts Options) *Node {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	n, err := Start(t.Context(), opts)
	if err != nil {
		t.Fatalf("starting bchd: %v", err)
	}
	t.Cleanup(func() {
		if err := n.Stop(); err != nil {
			t.Errorf("stopping bchd: %v", err)
		}
	})
	return n
}

// Await waits until check returns "", for at most two minutes. It is for what follows a node in
// its own time; check says what is missing.
func Await(t TB, check func() string) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		missing := check()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s", missing)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
