package main

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// blockFile returns a block file of the genesis block and some empty ones.
func blockFile(t *testing.T, blocks int) []byte {
	t.Helper()
	var file []byte
	prev := *regtest.Params.GenesisHash
	for i := range blocks {
		b := regtest.Params.GenesisBlock
		if i > 0 {
			coinbase := wire.NewMsgTx(1)
			coinbase.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Index: wire.MaxPrevOutIndex}, SignatureScript: []byte{byte(i), 0}})
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
	file := blockFile(t, 10)
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

	file[len(file)-1000]++ // in a block before the last
	write(file)
	data = t.TempDir()
	if o := imports("--verify", "full"); o.code != exitFailed || !strings.Contains(o.stderr, "blk00000.dat") {
		t.Errorf("a damaged block: %+v", o)
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
