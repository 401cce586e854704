package protocol

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

func testAnchor() Anchor {
	a := Anchor{Domain: "example.org", Position: 0x0102030405060708}
	for i := range a.Head {
		a.Head[i], a.Root[i] = byte(i), byte(0xff-i)
	}
	return a
}

// TestAnchorBytes pins the record as protocol/SPEC.md §10 lays it out.
func TestAnchorBytes(t *testing.T) {
	a := testAnchor()
	script, err := a.Script()
	if err != nil {
		t.Fatal(err)
	}
	want := "6a" + "044b484300" + "0101" + "0b" + hex.EncodeToString([]byte("example.org")) + "08" + "0807060504030201" +
		"20" + hex.EncodeToString(a.Head[:]) + "20" + hex.EncodeToString(a.Root[:])
	if got := hex.EncodeToString(script); got != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
	got, ok := DecodeAnchor(script)
	if !ok || got != a {
		t.Fatalf("read back as %+v, %v", got, ok)
	}
}

func TestDecodeAnchor(t *testing.T) {
	push := func(item []byte) []byte { return append([]byte{byte(len(item))}, item...) }
	record := func(items ...[]byte) []byte {
		script := []byte("\x6a\x04KHC\x00")
		for _, item := range items {
			script = append(script, item...)
		}
		return script
	}
	a := testAnchor()
	position := []byte{8, 7, 6, 5, 4, 3, 2, 1}
	domain := []byte(a.Domain)
	long := []byte(strings.Repeat("a", MaxAnchorDomain))
	pushData1 := func(item []byte) []byte { return append([]byte{0x4c, byte(len(item))}, item...) }
	for name, c := range map[string]struct {
		script []byte
		ok     bool
	}{
		"plain":              {record(push([]byte{1}), push(domain), push(position), push(a.Head[:]), push(a.Root[:])), true},
		"version as OP_1":    {record([]byte{0x51}, push(domain), push(position), push(a.Head[:]), push(a.Root[:])), true},
		"longest domain":     {record(push([]byte{1}), push(long), push(position), push(a.Head[:]), push(a.Root[:])), true},
		"other push opcodes": {record(push([]byte{1}), pushData1(domain), pushData1(position), pushData1(a.Head[:]), pushData1(a.Root[:])), true},

		"version 2":       {record(push([]byte{2}), push(domain), push(position), push(a.Head[:]), push(a.Root[:])), false},
		"version empty":   {record([]byte{0}, push(domain), push(position), push(a.Head[:]), push(a.Root[:])), false},
		"no domain":       {record(push([]byte{1}), []byte{0}, push(position), push(a.Head[:]), push(a.Root[:])), false},
		"domain too long": {record(push([]byte{1}), push(append(long, 'a')), push(position), push(a.Head[:]), push(a.Root[:])), false},
		"upper case":      {record(push([]byte{1}), push([]byte("Example.org")), push(position), push(a.Head[:]), push(a.Root[:])), false},
		"not ASCII":       {record(push([]byte{1}), push([]byte("exämple.org")), push(position), push(a.Head[:]), push(a.Root[:])), false},
		"position short":  {record(push([]byte{1}), push(domain), push(position[:7]), push(a.Head[:]), push(a.Root[:])), false},
		"head long":       {record(push([]byte{1}), push(domain), push(position), push(append(a.Head[:], 0)), push(a.Root[:])), false},
		"root short":      {record(push([]byte{1}), push(domain), push(position), push(a.Head[:]), push(a.Root[:31])), false},
		"no root":         {record(push([]byte{1}), push(domain), push(position), push(a.Head[:])), false},
		"extra push":      {record(push([]byte{1}), push(domain), push(position), push(a.Head[:]), push(a.Root[:]), []byte{0}), false},
		"not a push":      {record(push([]byte{1}), push(domain), push(position), push(a.Head[:]), push(a.Root[:]), []byte{0x75}), false},
		"other id":        {[]byte("\x6a\x04KHD\x00"), false},
		"prefix alone":    {[]byte("\x6a\x04KHC\x00"), false},
		"id by PUSHDATA1": {append([]byte("\x6a\x4c\x04KHC\x00"), record(push([]byte{1}), push(domain), push(position), push(a.Head[:]), push(a.Root[:]))[6:]...), false},
		"empty":           {nil, false},
	} {
		got, ok := DecodeAnchor(c.script)
		if ok != c.ok {
			t.Errorf("%s: got %v, expected %v", name, ok, c.ok)
		}
		if ok && (got.Position != a.Position || got.Head != a.Head || got.Root != a.Root) {
			t.Errorf("%s: read as %+v", name, got)
		}
		for cut := range len(c.script) { // a truncated one is none
			if !c.ok {
				break
			}
			if _, ok := DecodeAnchor(c.script[:cut]); ok {
				t.Errorf("%s: %d of %d bytes are taken for an anchor", name, cut, len(c.script))
			}
		}
	}
}

func TestAnchorScriptRefuses(t *testing.T) {
	for _, domain := range []string{"", "UPPER.org", "a b", "-a.org", "a..org", strings.Repeat("a", 64)} {
		a := Anchor{Domain: domain}
		if _, err := a.Script(); !errors.Is(err, ErrAnchor) {
			t.Errorf("domain %q: %v", domain, err)
		}
	}
}

func TestFollow(t *testing.T) {
	a := testAnchor()
	with := func(change func(*Anchor)) *Anchor { b := a; change(&b); return &b }
	for name, c := range map[string]struct {
		next  *Anchor
		input uint32
		want  Break
	}{
		"further":                {with(func(b *Anchor) { b.Position++; b.Head[0]++; b.Root[0]++ }), 0, Unbroken},
		"the same again":         {with(func(*Anchor) {}), 0, Unbroken},
		"no record":              {nil, 0, NoRecord},
		"no record, other input": {nil, 3, NoRecord},
		"other domain":           {with(func(b *Anchor) { b.Domain = "example.net"; b.Position++ }), 0, OtherDomain},
		"other input":            {with(func(b *Anchor) { b.Position++ }), 1, NotFirstInput},
		"lower":                  {with(func(b *Anchor) { b.Position-- }), 0, LowerPosition},
		"other head":             {with(func(b *Anchor) { b.Head[31]++ }), 0, OtherHead},
		"other root":             {with(func(b *Anchor) { b.Root[31]++ }), 0, OtherHead},
	} {
		if got := a.Follow(c.next, c.input); got != c.want {
			t.Errorf("%s: got %v, expected %v", name, got, c.want)
		}
	}
}

// TestMerkleBranch checks the branch of every transaction of some blocks, and
// that nothing else than what it is of passes.
func TestMerkleBranch(t *testing.T) {
	for size := range 12 {
		raw, _ := newBlock(t, blockSpec{seed: 9, size: size * 400, actions: 0.2, mixed: true})
		block, err := ReadBlock(raw)
		if err != nil {
			t.Fatal(err)
		}
		root := block.Header.MerkleRoot
		for index, tx := range block.Txs() {
			branch, err := block.PartialMerkleTree(index).Branch(index)
			if err != nil {
				t.Fatal(err)
			}
			if err := CheckMerkleBranch(tx, index, branch, root); err != nil {
				t.Fatalf("%d transactions, transaction %d: %v", block.TxCount, index, err)
			}
			other := bytes.Clone(tx)
			other[0]++ // of the version
			if err := CheckMerkleBranch(other, index, branch, root); !errors.Is(err, ErrMerkleRoot) {
				t.Fatalf("%d transactions, a changed one at %d: %v", block.TxCount, index, err)
			}
			if len(branch) == 0 {
				continue
			}
			if err := CheckMerkleBranch(tx, index^1, branch, root); !errors.Is(err, ErrMerkleRoot) {
				t.Fatalf("%d transactions, transaction %d at another index: %v", block.TxCount, index, err)
			}
			if err := CheckMerkleBranch(tx, index, branch[1:], root); !errors.Is(err, ErrMerkleRoot) {
				t.Fatalf("%d transactions, transaction %d, a branch without its first hash: %v", block.TxCount, index, err)
			}
			branch[len(branch)/2][7]++
			if err := CheckMerkleBranch(tx, index, branch, root); !errors.Is(err, ErrMerkleRoot) {
				t.Fatalf("%d transactions, transaction %d, a wrong branch: %v", block.TxCount, index, err)
			}
		}
	}
	if err := CheckMerkleBranch(make([]byte, 64), 0, nil, [32]byte{}); !errors.Is(err, ErrMalformed) {
		t.Errorf("64 bytes that can be two hashes: %v", err)
	}
}
