package connect_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/keytree-bch/keytree/rpc/explorer/browser"
)

// TestCryptography compares what browsers do not have, and pages have of their own, with how others do it.
func TestCryptography(t *testing.T) {
	if testing.Short() {
		t.Skip("it has nothing to do with races")
	}
	node, err := exec.LookPath("node")
	if err != nil && os.Getenv(browser.ClientsEnv) != "" {
		t.Fatalf("%s is set, but: %v", browser.ClientsEnv, err)
	}
	if err != nil {
		t.Skipf("%v; .ci/run installs Node", err)
	}
	if out, err := exec.CommandContext(t.Context(), node, "testdata/crypto.mjs").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
