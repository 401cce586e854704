package connect_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/keytree-bch/keytree/rpc/explorer/browser"
)

// TestSealing compares how a page seals what goes to a wallet with how others do.
func TestSealing(t *testing.T) {
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
	if out, err := exec.CommandContext(t.Context(), node, "testdata/aead.mjs").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
