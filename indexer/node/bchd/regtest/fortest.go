package regtest

import "context"

// TB is what ForTest needs of a *testing.T, so that this package does not bring
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
