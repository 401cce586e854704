package protocol

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
)

// TestReadBlock compares the walk over generated blocks with bchd's decoder.
func TestReadBlock(t *testing.T) {
	for _, spec := range []blockSpec{
		{seed: 1},
		{seed: 2, size: 1, actions: 1},
		{seed: 3, size: 50_000, actions: 0.1},
		{seed: 4, size: 300_000, actions: 0.3, mixed: true},
	} {
		raw, actions := newBlock(t, spec)
		compare(t, raw)
		block, err := ReadBlock(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := block.CheckMerkleRoot(); err != nil {
			t.Error(err)
		}
		found := 0
		for c := range block.Carriers() {
			found++
			if c.Action.Malformed != nil {
				t.Error(c.Action.Malformed)
			}
			if _, ok := c.Raw.Claim(); !ok {
				t.Errorf("transaction %d has no claimed author", c.Index)
			}
		}
		if found != actions {
			t.Errorf("%d carriers, expected %d", found, actions)
		}
	}
}

// compare checks that ReadBlock and bchd's decoder find the same in raw, or
// both refuse it. bchd takes two things that ReadBlock refuses: bytes after the
// block, and a block without transactions.
func compare(t *testing.T, raw []byte) {
	t.Helper()
	if panicsBchd(raw) {
		return
	}
	block, err := ReadBlock(raw)
	var want wire.MsgBlock
	reader := bytes.NewReader(raw)
	wantErr := want.Deserialize(reader)
	if err != nil {
		if !errors.Is(err, ErrMalformed) {
			t.Fatalf("the error wraps nothing: %v", err)
		}
		if wantErr == nil && reader.Len() == 0 && len(want.Transactions) > 0 {
			t.Fatalf("refused, but bchd takes it: %v", err)
		}
		return
	}
	if wantErr != nil {
		t.Fatalf("taken, but bchd refuses it: %v", wantErr)
	}
	if block.Header != headerOf(t, &want.Header) || block.Hash != want.BlockHash() || block.TxCount != len(want.Transactions) {
		t.Fatalf("got %+v, expected %v with %d txs", block, want.BlockHash(), len(want.Transactions))
	}
	carriers := slices.Collect(block.Carriers())
	var ids []chainhash.Hash
	end := block.firstTx
	for i, tx := range block.Txs() {
		wantTx := want.Transactions[i]
		end += len(tx)
		ids = append(ids, tx.TxID())
		if _, err := ParseTx(tx); err != nil {
			t.Fatalf("tx %d: %v", i, err)
		}
		tokens := false // bchd writes invalid token prefixes, and category 0, otherwise than it read them
		var kind Kind
		anchored := false
		n := 0
		for i, output := range tx.Outputs() {
			if int(i) != n || n == len(wantTx.TxOut) {
				t.Fatalf("output %d after %d of %d", i, n, len(wantTx.TxOut))
			}
			script := StripTokenPrefix(output.Script)
			if !bytes.Equal(script, wantTx.TxOut[n].PkScript) || output.Value != wantTx.TxOut[n].Value {
				t.Fatalf("output %d: %x, expected %x", i, script, wantTx.TxOut[n].PkScript)
			}
			if kind == 0 {
				kind = actionKind(script)
			}
			_, isOne := DecodeAnchor(script)
			anchored = anchored || isOne
			tokens = tokens || len(output.Script) > 0 && output.Script[0] == wire.PREFIX_BYTE
			n++
		}
		if n != len(wantTx.TxOut) {
			t.Fatalf("%d outputs, expected %d", n, len(wantTx.TxOut))
		}
		if got := tx.TxID(); !tokens && got != wantTx.TxHash() {
			t.Fatalf("txid %v, expected %v", got, wantTx.TxHash())
		}
		spends, unlock := tx.Input0()
		if len(wantTx.TxIn) > 0 && (spends != wantTx.TxIn[0].PreviousOutPoint || !bytes.Equal(unlock, wantTx.TxIn[0].SignatureScript)) {
			t.Fatalf("input 0 spends %v", spends)
		}
		if kind != 0 || anchored {
			if len(carriers) == 0 || carriers[0].Index != i || carriers[0].Action.Kind != kind || carriers[0].Anchor != nil != anchored || !bytes.Equal(carriers[0].Raw, tx) {
				t.Fatalf("tx %d carries %v, anchored %v, the carriers left are %+v", i, kind, anchored, carriers)
			}
			carriers = carriers[1:]
		}
	}
	if len(carriers) > 0 || end != len(raw) {
		t.Fatalf("%d carriers too many, txs end at %d of %d", len(carriers), end, len(raw))
	}
	if distinct(ids) {
		wantOK := plainMerkleRoot(ids) == block.Header.MerkleRoot
		if err := block.CheckMerkleRoot(); (err == nil) != wantOK {
			t.Fatalf("merkle root: %v", err)
		}
	}
}

func distinct(ids []chainhash.Hash) bool {
	seen := make(map[chainhash.Hash]bool)
	for _, id := range ids {
		if seen[id] {
			return false
		}
		seen[id] = true
	}
	return true
}

func TestReadBlockRefuses(t *testing.T) {
	tx := rawTx([]wire.TxIn{{SignatureScript: make([]byte, 300)}}, make([]byte, 300), []byte{0x6a})
	good := rawBlock(t, tx, tx)
	header := good[:HeaderSize]
	body := func(parts ...[]byte) []byte { return slices.Concat(append([][]byte{header}, parts...)...) }
	one := []byte{1}
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	version, outPoint := make([]byte, 4), make([]byte, 36)
	tests := []struct {
		name string
		raw  []byte
		says string
	}{
		{"nothing", nil, "block header"},
		{"half a header", header[:40], "block header"},
		{"header only", header, "transaction count"},
		{"no transactions", body([]byte{0}), "no transactions"},
		{"one byte behind", append(bytes.Clone(good), 0), "1 bytes follow"},
		{"a transaction too many", body(one, tx, tx), "bytes follow"},
		{"a transaction too few", body([]byte{3}, tx, tx), "transaction 2 of 3"},
		{"count not minimal", body([]byte{0xfd, 1, 0}, tx), "not the shortest"},
		{"count huge", body(huge, tx), "transaction 1 of 18446744073709551615"},
		{"input count huge", body(one, version, huge, outPoint), "transaction 0 of 1"},
		{"input count not minimal", body(one, version, []byte{0xfe, 1, 0, 0, 0}, tx[5:]), "not the shortest"},
		{"scriptSig length huge", body(one, version, one, outPoint, huge, make([]byte, 50)), "transaction 0"},
		{"scriptSig length 2^63", body(one, version, one, outPoint, []byte{0xff, 0, 0, 0, 0, 0, 0, 0, 0x80}, make([]byte, 50)), "transaction 0"},
		{"scriptSig length not minimal", body(one, version, one, outPoint, []byte{0xfd, 0xfc, 0}, make([]byte, 400)), "not the shortest"},
		{"output count huge", body(one, version, []byte{0}, huge, make([]byte, 50)), "transaction 0"},
		{"output script length huge", body(one, version, []byte{0, 1}, make([]byte, 8), huge, make([]byte, 50)), "transaction 0"},
		{"output script one byte too long", body(one, version, []byte{0, 1}, make([]byte, 8), []byte{6}, make([]byte, 5)), "transaction 0"},
		{"action that does not fit", body(one, version, []byte{0, 1}, make([]byte, 8), []byte{60, 0x6a, 0x02, 0x6d, 0x20}), "transaction 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			block, err := ReadBlock(tt.raw)
			if !errors.Is(err, ErrMalformed) || block != nil {
				t.Fatalf("taken: %v, %v", block, err)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Errorf("the error does not say %q: %v", tt.says, err)
			}
			compare(t, tt.raw)
		})
	}
	if _, err := ReadBlock(good); err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if _, err := ReadBlock(good[:n]); !errors.Is(err, ErrMalformed) {
			t.Fatalf("the first %d of %d bytes are taken", n, len(good))
		}
	}
}

// TestBigBlock: no offset or length is kept in less than an int.
func TestBigBlock(t *testing.T) {
	script, err := RequestScript(KeyHash{7}, []byte("far out"))
	if err != nil {
		t.Fatal(err)
	}
	const size = 256 << 20
	last := rawTx(nil, script)
	raw := rawBlock(t, rawTx(nil, nil), last) // room for the big one between count and last
	big := rawTx(nil, nil)                    // one empty output script
	big = big[:len(big)-5]                    // without its length and the lock time
	big = append(big, 0xfe)
	big = binary.LittleEndian.AppendUint32(big, size)
	out := make([]byte, 0, size+1000)
	out = append(out, raw[:HeaderSize]...)
	out = append(append(out, 2), big...)
	out = append(out[:len(out)+size], 0, 0, 0, 0)
	out = append(out, last...)
	block, err := ReadBlock(out)
	if err != nil {
		t.Fatal(err)
	}
	carriers := slices.Collect(block.Carriers())
	if len(carriers) != 1 || carriers[0].Index != 1 || string(carriers[0].Action.Message) != "far out" {
		t.Errorf("got %+v", carriers)
	}
}

func TestWalkAllocates(t *testing.T) {
	raw, _ := newBlock(t, blockSpec{seed: 9, size: 300_000, mixed: true})
	var block *Block
	constant := testing.AllocsPerRun(10, func() {
		var err error
		if block, err = ReadBlock(raw); err != nil {
			t.Error(err)
		}
	})
	if constant > 10 {
		t.Errorf("reading a block of %d txs allocates %v times", block.TxCount, constant)
	}
	if n := testing.AllocsPerRun(2, func() {
		if err := block.CheckMerkleRoot(); err != nil {
			t.Error(err)
		}
	}); n > 10 {
		t.Errorf("checking the merkle root of %d txs allocates %v times", block.TxCount, n)
	}
}

// TestMerkleRoot has any number of transactions, around the borders of what is
// hashed together as well, and repeats the last so many of them where that leaves
// the root as it is (CVE-2012-2459).
func TestMerkleRoot(t *testing.T) {
	counts := []int{127, 128, 129, 254, 255, 256, 257, 258, 384, 511, 512, 513, 514, 767, 768, 769, 1024, 1280, 1281}
	for count := range 70 {
		counts = append(counts, count+1)
	}
	var txs [][]byte
	for i := range slices.Max(counts) {
		txs = append(txs, rawTx(nil, binary.LittleEndian.AppendUint16(nil, uint16(i))))
	}
	for _, count := range counts {
		raw := rawBlock(t, txs[:count]...)
		block, err := ReadBlock(raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := block.CheckMerkleRoot(); err != nil {
			t.Errorf("%d transactions: %v", count, err)
		}
		last := count & -count // the smallest subtree stands alone on its level
		if last == count {
			continue
		}
		twice := rawBlock(t, slices.Concat(txs[:count], txs[count-last:count])...)
		if !bytes.Equal(twice[:HeaderSize], raw[:HeaderSize]) {
			t.Fatalf("%d transactions, the last %d twice: another root", count, last)
		}
		if block, err = ReadBlock(twice); err != nil {
			t.Fatal(err)
		}
		if err := block.CheckMerkleRoot(); !errors.Is(err, ErrMerkleRoot) || !strings.Contains(err.Error(), "repeats") {
			t.Errorf("%d transactions, the last %d twice: %v", count, last, err)
		}
	}
}

func TestCheckMerkleRootRefuses(t *testing.T) {
	var txs [][]byte
	for i := range 6 {
		txs = append(txs, rawTx(nil, []byte{byte(i)}))
	}
	good := rawBlock(t, txs...)
	check := func(raw []byte) error {
		block, err := ReadBlock(raw)
		if err != nil {
			t.Fatal(err)
		}
		err = block.CheckMerkleRoot()
		if _, walked := (&Walk{Root: RootAlways}).Read(raw); fmt.Sprint(walked) != fmt.Sprint(err) {
			t.Errorf("checked in the walk: %v, afterwards: %v", walked, err)
		}
		return err
	}
	if err := check(good); err != nil {
		t.Fatal(err)
	}

	// CVE-2012-2459: 5 and 6 once more give the same root.
	twice := rawBlock(t, append(slices.Clip(txs), txs[4:]...)...)
	if !bytes.Equal(twice[:HeaderSize], good[:HeaderSize]) {
		t.Fatal("the test block does not show the weakness")
	}
	if err := check(twice); !errors.Is(err, ErrMerkleRoot) || !strings.Contains(err.Error(), "repeats") {
		t.Errorf("repeated transactions: %v", err)
	}
	one := rawBlock(t, txs[0], txs[1], txs[2], txs[2])
	if err := check(one); !errors.Is(err, ErrMerkleRoot) {
		t.Errorf("a repeated transaction: %v", err)
	}

	swapped := append(bytes.Clone(good[:HeaderSize]), rawBlock(t, txs[1], txs[0], txs[2], txs[3], txs[4], txs[5])[HeaderSize:]...)
	if err := check(swapped); !errors.Is(err, ErrMerkleRoot) {
		t.Errorf("swapped transactions: %v", err)
	}
	changed := bytes.Clone(good)
	changed[len(changed)-1]++ // the last lock time
	if err := check(changed); !errors.Is(err, ErrMerkleRoot) {
		t.Errorf("changed lock time: %v", err)
	}
}

// TestWalkRoot has walks check the root while they go, from the first transaction
// on or from the first one found, wherever that is.
func TestWalkRoot(t *testing.T) {
	script, err := RequestScript(KeyHash{7}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, count := range []int{1, 2, 255, 256, 257, 600} {
		for _, carrier := range []int{-1, 0, 1, 255, 256, 300, 599} {
			if carrier >= count {
				continue
			}
			var txs [][]byte
			for i := range count {
				txs = append(txs, rawTx(nil, binary.LittleEndian.AppendUint32(nil, uint32(i))))
			}
			if carrier >= 0 {
				txs[carrier] = rawTx(nil, script)
			}
			good := rawBlock(t, txs...)
			changed := bytes.Clone(good)
			changed[len(changed)-1]++ // the last lock time
			for root, refuses := range map[RootCheck]bool{RootNever: false, RootIfFound: carrier >= 0, RootAlways: true} {
				walk := Walk{Root: root}
				block, err := walk.Read(good)
				if err != nil {
					t.Fatalf("%d transactions, an action in %d, %v: %v", count, carrier, root, err)
				}
				if block.TxCount != count || len(block.found) != min(carrier+1, 1) {
					t.Errorf("%d transactions, an action in %d, %v: found %+v", count, carrier, root, block)
				}
				if _, err := walk.Read(changed); errors.Is(err, ErrMerkleRoot) != refuses {
					t.Errorf("%d transactions, an action in %d, %v: a changed lock time: %v", count, carrier, root, err)
				}
			}
		}
	}
}

func TestCarrier(t *testing.T) {
	script, err := RequestScript(KeyHash{7}, nil)
	if err != nil {
		t.Fatal(err)
	}
	claim := generator{}.fixedUnlock()
	coinbase := rawTx([]wire.TxIn{{PreviousOutPoint: wire.OutPoint{Index: wire.MaxPrevOutIndex}, SignatureScript: claim}}, script)
	spend := wire.OutPoint{Hash: chainhash.Hash{1, 2}, Index: 5}
	plain := rawTx([]wire.TxIn{{PreviousOutPoint: spend, SignatureScript: claim}, {SignatureScript: []byte{1}}}, nil, script)
	bare := rawTx(nil, script)
	block, err := ReadBlock(rawBlock(t, coinbase, rawTx(nil), plain, bare))
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		index   uint32
		spends  wire.OutPoint
		claimed bool
	}{
		{0, wire.OutPoint{Index: wire.MaxPrevOutIndex}, false},
		{2, spend, true},
		{3, wire.OutPoint{Index: wire.MaxPrevOutIndex}, false},
	}
	carriers := slices.Collect(block.Carriers())
	if len(carriers) != len(want) {
		t.Fatalf("%d carriers", len(carriers))
	}
	for i, c := range carriers {
		_, claimed := c.Raw.Claim()
		if c.Index != want[i].index || c.Spends != want[i].spends || claimed != want[i].claimed {
			t.Errorf("got %+v, claimed %v, expected %+v", c, claimed, want[i])
		}
	}
}

// fixedUnlock is a well-formed claim by some key.
func (generator) fixedUnlock() []byte {
	signature := append(bytes.Repeat([]byte{0x30}, 70), 0x41)
	return appendPush(appendPush(nil, signature), append([]byte{2}, make([]byte, 32)...))
}

func TestSpentOutput(t *testing.T) {
	raw := rawTx([]wire.TxIn{{}}, []byte{1}, []byte{2, 2}, nil)
	txid := chainhash.DoubleHashH(raw)
	for n, want := range [][]byte{{1}, {2, 2}, {}} {
		if got, err := SpentOutput(raw, wire.OutPoint{Hash: txid, Index: uint32(n)}); err != nil || !bytes.Equal(got.Script, want) {
			t.Errorf("output %d: %+v, %v", n, got, err)
		}
	}
	tests := []struct {
		name string
		raw  []byte
		txid chainhash.Hash
		n    uint32
		says string
	}{
		{"no such output", raw, txid, 3, "has 3 outputs, there is no output 3"},
		{"output 2^32-1", raw, txid, 1<<32 - 1, "there is no output"},
		{"another transaction", raw, chainhash.Hash{1}, 0, "hashes to " + txid.String()},
		{"byte behind", append(bytes.Clone(raw), 0), chainhash.DoubleHashH(append(bytes.Clone(raw), 0)), 0, "1 bytes follow"},
		{"cut", raw[:len(raw)-1], chainhash.DoubleHashH(raw[:len(raw)-1]), 0, "malformed"},
		{"nothing", nil, txid, 0, "malformed"},
	}
	for _, tt := range tests {
		if _, err := SpentOutput(tt.raw, wire.OutPoint{Hash: tt.txid, Index: tt.n}); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, expected %q", tt.name, err, tt.says)
		}
	}
}

// TestIteratorsStop: breaking out of a loop must end the iteration.
func TestIteratorsStop(t *testing.T) {
	raw, _ := newBlock(t, blockSpec{seed: 5, size: 2000, actions: 1})
	block, err := ReadBlock(raw)
	if err != nil {
		t.Fatal(err)
	}
	for i, tx := range block.Txs() {
		if i > 0 {
			t.Fatal("went on")
		}
		for n := range tx.Outputs() {
			if n > 0 {
				t.Fatal("went on")
			}
			break
		}
		break
	}
	for c := range block.Carriers() {
		if c.Index > 1 {
			t.Fatal("went on")
		}
		break
	}
}

func FuzzWalk(f *testing.F) {
	for _, spec := range []blockSpec{{seed: 1}, {seed: 2, size: 300, actions: 1}, {seed: 3, size: 2000, actions: 0.5, mixed: true}} {
		raw, _ := newBlock(f, spec)
		f.Add(raw)
	}
	for _, v := range vectors(f) {
		f.Add(rawBlock(f, unhex(f, v.Raw), rawTx(nil), rawTx([]wire.TxIn{{SignatureScript: make([]byte, 253)}}, []byte{0xef}, nil)))
	}
	// bchd allocates for as many inputs as a message of the greatest size could
	// hold, whatever it got. Make that 2 MB, a good deal more than what is fed.
	const limit, longest = 250_000, 50_000
	wire.SetLimits(limit)
	f.Cleanup(func() { wire.SetLimits(32_000_000) })
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) <= longest {
			compare(t, raw)
		}
	})
}

// TestHasCoinbase has blocks that begin with a transaction of each kind.
func TestHasCoinbase(t *testing.T) {
	nothing := wire.OutPoint{Index: wire.MaxPrevOutIndex}
	for name, test := range map[string]struct {
		inputs []wire.TxIn
		want   bool
	}{
		"a coinbase":               {[]wire.TxIn{{PreviousOutPoint: nothing}}, true},
		"no inputs":                {nil, false},
		"nothing spent twice":      {[]wire.TxIn{{PreviousOutPoint: nothing}, {PreviousOutPoint: nothing}}, false},
		"an output spent":          {[]wire.TxIn{{PreviousOutPoint: wire.OutPoint{Hash: chainhash.Hash{1}, Index: wire.MaxPrevOutIndex}}}, false},
		"output 0 of no hash":      {[]wire.TxIn{{}}, false},
		"something and a coinbase": {[]wire.TxIn{{PreviousOutPoint: wire.OutPoint{Hash: chainhash.Hash{1}}}, {PreviousOutPoint: nothing}}, false},
	} {
		block, err := ReadBlock(rawBlock(t, rawTx(test.inputs, nil), rawTx([]wire.TxIn{{PreviousOutPoint: nothing}}, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if got := block.HasCoinbase(); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
