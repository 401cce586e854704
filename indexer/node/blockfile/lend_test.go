package blockfile_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/blockfile"
)

// TestLentBytesGone takes the bytes of a block away while they are looked at.
func TestLentBytesGone(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("blocks are copied here")
	}
	dir := folder(t, dat(file("g", "a1")))
	chain, err := blockfile.Open(t.Context(), dir, regtest.Params, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer chain.Close()
	path := filepath.Join(dir, "blk00000.dat")
	sum := 0
	if err := chain.Lend(1, func(raw []byte) error {
		if err := os.Truncate(path, 0); err != nil {
			return err
		}
		for _, b := range raw {
			sum += int(b)
		}
		return nil
	}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, expected one about %s", err, path)
	}

	// A bug is not taken for a bad disk.
	defer func() {
		if recover() == nil {
			t.Error("expected a panic")
		}
	}()
	t.Log(sum)
	if err := os.WriteFile(path, file("g", "a1"), 0o600); err != nil {
		t.Fatal(err)
	}
	var nothing *int
	t.Error(chain.Lend(1, func([]byte) error {
		*nothing = 1
		return nil
	}))
}
