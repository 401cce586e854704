package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/blockfile"
)

// blockFile returns a block file of the genesis block and some empty ones, which are
// those of a branch.
func blockFile(t *testing.T, blocks int, branch byte) []byte {
	t.Helper()
	var file []byte
	prev := *regtest.Params.GenesisHash
	for i := range blocks {
		b := regtest.Params.GenesisBlock
		if i > 0 {
			coinbase := wire.NewMsgTx(1)
			coinbase.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Index: wire.MaxPrevOutIndex}, SignatureScript: []byte{byte(i), branch}})
			b = wire.NewMsgBlock(&wire.BlockHeader{Version: 1, PrevBlock: prev, MerkleRoot: coinbase.TxHash(),
				Timestamp: time.Unix(1_600_000_000, 0), Bits: regtest.Params.PowLimitBits})
			b.AddTransaction(coinbase)
			regtest.Solve(&b.Header)
			prev = b.BlockHash()
		}
		var raw bytes.Buffer
		if err := b.Serialize(&raw); err != nil {
			t.Fatal(err)
		}
		file = append(file, "\xfa\xbf\xb5\xda"...)
		file = append(binary.LittleEndian.AppendUint32(file, uint32(raw.Len())), raw.Bytes()...)
	}
	return file
}

func TestImport(t *testing.T) {
	blocks, data := t.TempDir(), t.TempDir()
	file := blockFile(t, 10, 0)
	write := func(content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(blocks, "blk00000.dat"), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	imports := func(flags ...string) outcome {
		t.Helper()
		return keytree(t, append([]string{"import", "--network", "regtest", "--blocks", blocks, "--data-dir", data}, flags...)...)
	}
	wantHeight := func(want uint32) {
		t.Helper()
		g, err := graph.Open(filepath.Join(data, "graph"), graph.Params{Network: "regtest"}, graph.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		if tip, ok := g.Tip(); !ok || tip.Height != want {
			t.Errorf("the database ends at %d, want %d", tip.Height, want)
		}
	}

	if o := imports(); o.code != exitFailed || !strings.Contains(o.stderr, "neither blk*.dat nor *.fdb") {
		t.Errorf("an empty folder: %+v", o)
	}
	write(file[:len(file)-5])
	if o := imports(); o.code != exitDone || !strings.Contains(o.stderr, "torn record") || !strings.Contains(o.stderr, `"height":8`) || o.stdout != "" {
		t.Errorf("a torn record: %+v", o)
	}
	wantHeight(8)
	write(file)
	if o := imports("--verify", "full"); o.code != exitDone || strings.Contains(o.stderr, "torn") || !strings.Contains(o.stderr, "imported") {
		t.Errorf("once more: %+v", o)
	}
	wantHeight(9)
	if o := keytree(t, "import", "--blocks", blocks, "--data-dir", t.TempDir()); o.code != exitFailed || !strings.Contains(o.stderr, "genesis block of mainnet") {
		t.Errorf("another network: %+v", o)
	}

	// Mainnet's genesis block and the one after it, which other coins have, too.
	write(mainnetFile(t))
	if o := keytree(t, "import", "--blocks", blocks, "--data-dir", t.TempDir()); o.code != exitFailed ||
		!strings.Contains(o.stderr, "end at height 1, and below the checkpoint of mainnet at height 11111 they may be another coin's") {
		t.Errorf("files that may be another coin's: %+v", o)
	}

	file[len(file)-1000]++ // in a block before the last
	write(file)
	data = t.TempDir()
	if o := imports("--verify", "full"); o.code != exitFailed || !strings.Contains(o.stderr, "blk00000.dat") {
		t.Errorf("a damaged block: %+v", o)
	}
}

// mainnetFile returns a block file of mainnet's first two blocks.
func mainnetFile(t *testing.T) (file []byte) {
	t.Helper()
	var genesis bytes.Buffer
	if err := chaincfg.MainNetParams.GenesisBlock.Serialize(&genesis); err != nil {
		t.Fatal(err)
	}
	second, err := hex.DecodeString("010000006fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000" +
		"982051fd1e4ba744bbbe680e1fee14677ba1a3c3540bf7b1cdb606e857233e0e61bc6649ffff001d01e36299" +
		"0101000000010000000000000000000000000000000000000000000000000000000000000000ffffffff0704ffff001d0104ffffffff0100f2052a01000000" +
		"43410496b538e853519c726a2c91e61ec11600ae1390813a627c66fb8be7947be63c52da7589379515d4e0a604f8141781e62294721166bf621e73a82cbf2342c858eeac00000000")
	if err != nil {
		t.Fatal(err)
	}
	for _, raw := range [][]byte{genesis.Bytes(), second} {
		file = append(file, "\xf9\xbe\xb4\xd9"...)
		file = append(binary.LittleEndian.AppendUint32(file, uint32(len(raw))), raw...)
	}
	return file
}

// TestReport prints what is in files besides the chain that is imported.
func TestReport(t *testing.T) {
	own, other := blockFile(t, 10, 0), blockFile(t, 5, 1)
	const block = 8 + 80 + 1 + 10 + 41 + 2 // of an empty one, with its prefix
	hash := func(height int) *chainhash.Hash {
		start := len(own) - (10-height)*block + 8
		h := chainhash.DoubleHashH(own[start : start+80])
		return &h
	}
	for name, test := range map[string]struct {
		checkpoints []chaincfg.Checkpoint
		want        []string
	}{
		"foreign":  {[]chaincfg.Checkpoint{{Height: 2, Hash: hash(2)}}, []string{"not of the network's chain", `"blocks":3`, "contradicts the checkpoint of regtest", `"height":9`}},
		"unproven": {[]chaincfg.Checkpoint{{Height: 6, Hash: hash(6)}, {Height: 30, Hash: hash(7)}}, []string{"may be another coin's", `"from":7`, `"to":9`, `"checkpoint":30`, `"height":6`}},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "blk00000.dat"), append(bytes.Clone(own), other...), 0o600); err != nil {
			t.Fatal(err)
		}
		net := *regtest.Params
		net.Checkpoints = test.checkpoints
		chain, err := blockfile.Open(t.Context(), dir, &net, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var out bytes.Buffer
		report(zerolog.New(&out), chain, &net)
		for _, want := range test.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: %s, expected %s", name, &out, want)
			}
		}
		if err := chain.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestImportUsage(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "no block files given"},
		{[]string{"extra"}, `unexpected argument "extra"`},
		{[]string{"--blocks", "x", "--verify", "most"}, `--verify: expected actions or full, got "most"`},
		{[]string{"--blocks", "x", "--data-dir", ""}, "--data-dir DIR"},
		{[]string{"--blocks", "x", "--network", "main"}, "--network: unknown network"},
		{[]string{"--blocks", "x", "--start-height", "-1"}, "--start-height: expected a block height"},
	} {
		keytree(t, append([]string{"import"}, test.args...)...).wantError(t, exitUsage, test.want)
	}
}

// TestProgressLine has log lines come between.
func TestProgressLine(t *testing.T) {
	var screen bytes.Buffer
	line := &progressLine{w: &screen}
	line.clear()
	line.show("%d %%", 1)
	line.show("%d %%", 2)
	if _, err := line.Write([]byte("log\n")); err != nil {
		t.Fatal(err)
	}
	line.show("3")
	line.clear()
	line.clear()
	const want = clearLine + "1 %" + clearLine + "2 %" + clearLine + "log\n" + clearLine + "3" + clearLine
	if screen.String() != want {
		t.Errorf("%q, want %q", screen.String(), want)
	}
}
