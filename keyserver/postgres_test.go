package keyserver

import (
	"os"
	"os/exec"
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
	args := []string{"-test.short", "-test.v"}
	if !exhaustive() { // the others take long, or ask little of a store
		args = append(args, "-test.run", "^Test(Backup|Capabilities|CreateUID|UpdateUID|Entries|Groups|GroupsSee|Held|Inconsistent|InterruptedRotation|OpenRefuses|RotateKey|SetAnchorChain|Sweep|FetchKeyInit|FlushKeyInit|KeyInit.*)$")
	}
	cmd := exec.CommandContext(t.Context(), executable, args...)
	cmd.Env = append(os.Environ(), onPostgres+"="+cluster.URL("postgres", nil))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
