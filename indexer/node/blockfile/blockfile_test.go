package blockfile_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/blockchain"
	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"
	"go.uber.org/goleak"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/blockfile"
)

// block is a solved block on prev. Its name makes it unlike any other.
func block(prev chainhash.Hash, name string) *wire.MsgBlock {
	b := wire.NewMsgBlock(&wire.BlockHeader{
		Version: 1, PrevBlock: prev, Timestamp: time.Unix(1_600_000_000, 0), Bits: regtest.Params.PowLimitBits,
	})
	coinbase := wire.NewMsgTx(1)
	coinbase.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Index: wire.MaxPrevOutIndex}, SignatureScript: []byte(name)})
	coinbase.AddTxOut(regtest.KeyFromSeed("miner").Output(1))
	b.AddTransaction(coinbase)
	tree := blockchain.BuildMerkleTreeStore(bchutil.NewBlock(b).Transactions())
	b.Header.MerkleRoot = *tree[len(tree)-1]
	regtest.Solve(&b.Header)
	return b
}

func serialized(b *wire.MsgBlock) []byte {
	var raw bytes.Buffer
	if err := b.Serialize(&raw); err != nil {
		panic(err) // a buffer takes everything
	}
	return raw.Bytes()
}

// The blocks that the tests have: a chain g, a1 to a4 from the genesis block on,
// and a branch b2, b3, b4 that leaves it after a1.
var blocks = func() map[string][]byte {
	raw := map[string][]byte{"g": serialized(regtest.Params.GenesisBlock)}
	prev := *regtest.Params.GenesisHash
	for i := 1; i <= 4; i++ {
		b := block(prev, fmt.Sprint("a", i))
		raw[fmt.Sprint("a", i)], prev = serialized(b), b.BlockHash()
	}
	prev = hashOf(raw["a1"])
	for i := 2; i <= 4; i++ {
		b := block(prev, fmt.Sprint("b", i))
		raw[fmt.Sprint("b", i)], prev = serialized(b), b.BlockHash()
	}
	return raw
}()

func hashOf(raw []byte) chainhash.Hash { return chainhash.DoubleHashH(raw[:80]) }

// The magics of regtest.
const (
	onDisk    = "\xfa\xbf\xb5\xda"
	inMessage = "\xda\xb5\xbf\xfa"
)

func record(magic string, raw []byte) []byte {
	return append(binary.LittleEndian.AppendUint32([]byte(magic), uint32(len(raw))), raw...)
}

// file returns a file with the records of the named blocks. Other words are put
// in as they are.
func file(words ...string) []byte {
	var content []byte
	for _, word := range words {
		if raw, ok := blocks[word]; ok {
			content = append(content, record(onDisk, raw)...)
		} else {
			content = append(content, word...)
		}
	}
	return content
}

// fdb returns a file as bchd writes it.
func fdb(names ...string) (content []byte) {
	for _, name := range names {
		r := record(inMessage, blocks[name])
		content = binary.BigEndian.AppendUint32(append(content, r...), crc32.Checksum(r, crc32.MakeTable(crc32.Castagnoli)))
	}
	return content
}

func folder(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func dat(files ...[]byte) map[string][]byte {
	named := make(map[string][]byte)
	for i, content := range files {
		named[fmt.Sprintf("blk%05d.dat", i)] = content
	}
	return named
}

// changed returns the word with byte at changed.
func changed(word string, at int) string {
	b := []byte(word)
	b[at] ^= 0xff
	return string(b)
}

func TestOpen(t *testing.T) {
	zeros := strings.Repeat("\x00", 3<<20)
	torn := func(name string, missing int) string {
		r := record(onDisk, blocks[name])
		return string(r[:len(r)-missing])
	}
	// zeroed is a record that was written in part into zeros.
	zeroed := func(name string, missing int) string { return torn(name, missing) + zeros[:missing] }
	weak := func() string { // a2 with a nonce that does not solve it
		for nonce := byte(0); ; nonce++ {
			raw := bytes.Clone(blocks["a2"])
			raw[76] = nonce
			if h := hashOf(raw); h[31] >= 0x80 {
				return string(record(onDisk, raw))
			}
		}
	}()
	net := func(change func(*chaincfg.Params)) *chaincfg.Params {
		p := *regtest.Params
		change(&p)
		return &p
	}
	checkpoint := func(height int32, name string) *chaincfg.Params {
		hash := hashOf(blocks[name])
		return net(func(p *chaincfg.Params) { p.Checkpoints = []chaincfg.Checkpoint{{Height: height, Hash: &hash}} })
	}
	for _, tt := range []struct {
		name  string
		files map[string][]byte
		net   *chaincfg.Params // nil: regtest
		want  string           // the best chain
		found blockfile.Found  // without Files, Bytes, Missing and Named
		say   string           // in Found.Named
	}{
		{name: "in order", files: dat(file("g", "a1", "a2", "a3")), want: "g a1 a2 a3", found: blockfile.Found{Blocks: 4}},
		{name: "genesis alone", files: dat(file("g")), want: "g", found: blockfile.Found{Blocks: 1}},
		{name: "several files", files: dat(file("g", "a1"), file("a2"), nil, file("a3")), want: "g a1 a2 a3", found: blockfile.Found{Blocks: 4}},
		{name: "any order", files: dat(file("a3", "a1"), file("a4", "g", "a2")), want: "g a1 a2 a3 a4", found: blockfile.Found{Blocks: 5}},
		{name: "magic of messages", files: dat(record(inMessage, blocks["g"]), record(inMessage, blocks["a1"])), want: "g a1", found: blockfile.Found{Blocks: 2}},
		{name: "more than 99999 files", files: map[string][]byte{"blk00009.dat": file("g"), "blk100000.dat": file("b2"), "blk99999.dat": file("a1", "a2")},
			want: "g a1 a2", found: blockfile.Found{Blocks: 4, Stale: 1}},
		{name: "other files", files: map[string][]byte{"blk00000.dat": file("g"), "rev00000.dat": file("a1"), "blk00001.dat.bak": file("a1"), "xor.dat": make([]byte, 8)},
			want: "g", found: blockfile.Found{Blocks: 1}},
		{name: "bchd's files", files: map[string][]byte{"000000000.fdb": append(fdb("g", "a1"), 1, 0, 0, 0), "000000001.fdb": fdb("a2", "a3"), "blk00000.dat": file("b2")},
			want: "g a1 a2 a3", found: blockfile.Found{Blocks: 4}},

		{name: "more work", files: dat(file("g", "a1", "a2", "a3", "b2", "b3", "b4")), want: "g a1 b2 b3 b4", found: blockfile.Found{Blocks: 7, Stale: 2}},
		{name: "as much work", files: dat(file("g", "a1", "b2", "a2", "a3", "b3")), want: "g a1 a2 a3", found: blockfile.Found{Blocks: 6, Stale: 2}},
		{name: "as much work, the other one first", files: dat(file("g", "a1", "a2", "b3", "b2", "a3")), want: "g a1 b2 b3", found: blockfile.Found{Blocks: 6, Stale: 2}},
		{name: "duplicates", files: dat(file("g", "a1", "a1"), file("a2", "g", "a1")), want: "g a1 a2", found: blockfile.Found{Blocks: 3, Duplicates: 3}},
		{name: "a checkpoint", net: checkpoint(2, "a2"), files: dat(file("g", "a1", "a2", "b2", "b3", "b4")), want: "g a1 a2",
			found: blockfile.Found{Blocks: 6, Foreign: 3}},
		{name: "a missing block", files: dat(file("g", "a1", "a3", "a4", "b3")), want: "g a1", found: blockfile.Found{Blocks: 5, Unlinked: 3}},

		{name: "zeros behind", files: dat(file("g", "a1", zeros)), want: "g a1", found: blockfile.Found{Blocks: 2}},
		{name: "zeros between", files: dat(file("g", zeros[:5], "a1", zeros, "a2")), want: "g a1 a2", found: blockfile.Found{Blocks: 3}},
		{name: "something between", files: dat(file("something", "g", "else", "a1", onDisk, inMessage+"\xff\xff", "a2", onDisk[:3], "a3", onDisk)),
			want: "g a1 a2 a3", found: blockfile.Found{Blocks: 4, Bad: 1}, say: "byte "}, // the first onDisk is where a record should be
		{name: "torn", files: dat(file("g", "a1", torn("a2", 1))), want: "g a1", found: blockfile.Found{Blocks: 2, Bad: 1}, say: "ends behind the file"},
		{name: "torn in the header", files: dat(file("g", "a1", torn("a2", len(blocks["a2"])-20))), want: "g a1", found: blockfile.Found{Blocks: 2, Bad: 1}, say: "ends behind the file"},
		{name: "torn in the prefix", files: dat(file("g", "a1", onDisk+"\x01")), want: "g a1", found: blockfile.Found{Blocks: 2}},
		{name: "torn, zeros", files: dat(file("g", "a1"), file(zeroed("a2", 10), zeros)), want: "g a1", found: blockfile.Found{Blocks: 2, Bad: 1}, say: "torn"},
		{name: "torn, zeros from the script on", files: dat(file("g", "a1"), file(zeroed("a2", 30))), want: "g a1", found: blockfile.Found{Blocks: 2, Bad: 1}, say: "torn"},
		{name: "torn, then overwritten", files: dat(file("g", "a1", "a2", torn("b2", 40), "a3")), want: "g a1 a2 a3", found: blockfile.Found{Blocks: 5, Stale: 1}},
		{name: "the rest of what was overwritten", files: dat(file("g", "a1", string(blocks["b2"][100:]), "b2", "a2", "a3")), want: "g a1 a2 a3",
			found: blockfile.Found{Blocks: 5, Stale: 1}},
		{name: "no block so short", files: dat(file("g", onDisk+"\x50\x00\x00\x00", "a1")), want: "g a1", found: blockfile.Found{Blocks: 2, Bad: 1}, say: "length of 80"},
		{name: "work not done", files: dat(file("g", "a1", weak, "a2")), want: "g a1 a2", found: blockfile.Found{Blocks: 3, Bad: 1}, say: "above the target"},
		{name: "work too easy", net: net(func(p *chaincfg.Params) { p.PowLimit = chaincfg.MainNetParams.PowLimit }), files: dat(file("g", "a1")),
			want: "", found: blockfile.Found{}},
		// A header in the middle of something else does not stand in the way of the
		// block itself, wherever it comes.
		{name: "a copied header", files: dat(file("g", "junk", string(record(onDisk, append(bytes.Clone(blocks["a1"][:80]), zeros[:30]...))), "a2", "a1")),
			want: "g a1 a2", found: blockfile.Found{Blocks: 3, Duplicates: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.net == nil {
				tt.net = regtest.Params
			}
			var calls []int64
			dir := folder(t, tt.files)
			chain, err := blockfile.Open(t.Context(), dir, tt.net, func(done, all int64) { calls = append(calls, done, all) })
			if tt.want == "" {
				if !errors.Is(err, blockfile.ErrNoChain) {
					t.Fatalf("error %v, expected ErrNoChain", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer chain.Close()
			names := strings.Fields(tt.want)
			if int(chain.Height()) != len(names)-1 {
				t.Fatalf("height %d, expected %s; found %+v", chain.Height(), tt.want, chain.Found())
			}
			largest := 0
			for height, name := range names {
				raw, err := read(chain, uint32(height))
				if err != nil {
					t.Fatal(err)
				}
				if want := blocks[name]; !bytes.Equal(raw, want) || chain.Hash(uint32(height)) != hashOf(want) || chain.Size(uint32(height)) != len(want) {
					t.Errorf("at height %d is %v, %d bytes, expected %s", height, chain.Hash(uint32(height)), len(raw), name)
				}
				largest = max(largest, len(raw))
			}
			if chain.Largest() != largest {
				t.Errorf("largest %d, expected %d", chain.Largest(), largest)
			}
			got := chain.Found()
			if len(got.Named) != got.Bad || got.Bad > 0 && !strings.Contains(got.Named[0].Error(), tt.say) || got.Bad > 0 && !strings.Contains(got.Named[0].Error(), dir) {
				t.Errorf("bad records: %q, expected %q", got.Named, tt.say)
			}
			if got.Unlinked > 0 && got.Missing == (chainhash.Hash{}) {
				t.Error("the missing block is not named")
			}
			if calls[len(calls)-1] != got.Bytes || calls[len(calls)-2] != got.Bytes {
				t.Errorf("progress %v, expected to end with %d", calls, got.Bytes)
			}
			want := tt.found
			if (got.Broken != nil) != (got.Foreign > 0) {
				t.Errorf("%d foreign blocks: %v", got.Foreign, got.Broken)
			}
			want.Files, want.Bytes, want.Missing, want.Named, want.Broken = got.Files, got.Bytes, got.Missing, got.Named, got.Broken
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("found %+v, expected %+v", got, want)
			}
		})
	}
}

// TestGap has records found behind a gap whose end lies anywhere with respect to
// the steps in which it is searched.
func TestGap(t *testing.T) {
	first := file("g")
	for _, gap := range []int{1, 2, 3, 4, 5, 1<<20 - 5, 1<<20 - 4, 1<<20 - 3, 1<<20 - 2, 1<<20 - 1, 1 << 20, 1<<20 + 1, 2<<20 - 2} {
		content := slices.Concat(first, make([]byte, gap), file("a1"))
		chain, err := blockfile.Open(t.Context(), folder(t, dat(content)), regtest.Params, nil)
		if err != nil {
			t.Fatal(err)
		}
		if chain.Height() != 1 {
			t.Errorf("gap of %d bytes: height %d", gap, chain.Height())
		}
		chain.Close()
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string][]byte
		net   *chaincfg.Params
		say   string
	}{
		{"empty", nil, regtest.Params, "neither blk*.dat nor *.fdb"},
		{"other files", map[string][]byte{"rev00000.dat": file("g")}, regtest.Params, "neither blk*.dat nor *.fdb"},
		{"pruned", dat(nil, file("a2", "a3")), regtest.Params, "prunes"},
		{"another network", dat(file("g", "a1")), &chaincfg.MainNetParams, "genesis block of mainnet"},
		{"obfuscated", map[string][]byte{"blk00000.dat": file("g"), "xor.dat": {1, 2, 3, 4, 5, 6, 7, 8}}, regtest.Params, "xor.dat"},
	} {
		_, err := blockfile.Open(t.Context(), folder(t, tt.files), tt.net, nil)
		if !errors.Is(err, blockfile.ErrNoChain) || !strings.Contains(err.Error(), tt.say) {
			t.Errorf("%s: %v, expected ErrNoChain with %q", tt.name, err, tt.say)
		}
	}
	if _, err := blockfile.Open(t.Context(), filepath.Join(t.TempDir(), "none"), regtest.Params, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

// TestNetworks writes each network's genesis block the way BCHN and bchd do.
func TestNetworks(t *testing.T) {
	for net, magics := range map[*chaincfg.Params][]string{
		&chaincfg.MainNetParams:       {"\xf9\xbe\xb4\xd9", "\xe3\xe1\xf3\xe8"},
		&chaincfg.TestNet3Params:      {"\x0b\x11\x09\x07", "\xf4\xe5\xf3\xf4"},
		&chaincfg.TestNet4Params:      {"\xcd\x22\xa7\x92", "\xe2\xb7\xda\xaf"},
		&chaincfg.ChipNetParams:       {"\xcd\x22\xa7\x92", "\xe2\xb7\xda\xaf"},
		&chaincfg.RegressionNetParams: {onDisk, inMessage},
	} {
		for _, magic := range magics {
			chain, err := blockfile.Open(t.Context(), folder(t, dat(record(magic, serialized(net.GenesisBlock)))), net, nil)
			if err != nil {
				t.Errorf("%s, %x: %v", net.Name, magic, err)
				continue
			}
			if chain.Hash(0) != *net.GenesisHash {
				t.Errorf("%s: %v", net.Name, chain.Hash(0))
			}
			chain.Close()
		}
	}
}

func read(chain *blockfile.Chain, height uint32) (raw []byte, err error) {
	err = chain.Lend(height, func(lent []byte) error {
		raw = bytes.Clone(lent)
		return nil
	})
	return raw, err
}

// TestReadDamaged changes a file behind the chain's back.
func TestReadDamaged(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := folder(t, dat(file("g", "a1", "a2")))
	chain, err := blockfile.Open(t.Context(), dir, regtest.Params, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "blk00000.dat")
	content := changed(string(file("g", "a1", "a2")), len(file("g"))+8+4)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := read(chain, 1); !errors.Is(err, blockfile.ErrDamaged) || !strings.Contains(err.Error(), path) {
		t.Errorf("a changed header: %v", err)
	}
	if err := os.Truncate(path, int64(len(content)-1)); err != nil {
		t.Fatal(err)
	}
	if _, err := read(chain, 2); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a truncated file: %v", err)
	}
	if _, err := read(chain, 0); err != nil {
		t.Error(err)
	}
	want := errors.New("what use says")
	if err := chain.Lend(0, func([]byte) error { return want }); err != want {
		t.Errorf("%v, expected the error of whom it was lent to", err)
	}
	if err := chain.Close(); err != nil {
		t.Error(err)
	}
	if _, err := read(chain, 0); err == nil {
		t.Error("a closed chain can be read")
	}
}
