package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"
)

// TestDecoder reads values that are too short, too long and as they should be.
func TestDecoder(t *testing.T) {
	for _, test := range []struct {
		value []byte
		sound bool
	}{
		{nil, false},
		{[]byte{0, 0, 0, 1}, false},
		{[]byte{0, 0, 0, 1, 2}, true},
		{[]byte{0, 0, 0, 1, 2, 3}, false},
		{[]byte{0x80, 0, 0, 1, 2}, false}, // there are not so many actions
	} {
		d := Decoder{Rest: test.value}
		action, b := d.Action(), d.Byte()
		err := d.Finish("test")
		if (err == nil) != test.sound || err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("%x: %v", test.value, err)
		}
		if test.sound && (action != 1 || b != 2) {
			t.Errorf("%x: action %d, byte %d", test.value, action, b)
		}
	}
	d := Decoder{Rest: []byte{0xff, 0x01}}
	if n := d.Uvarint(100); n != 0 || !d.Short() {
		t.Errorf("a number of 255 is read as %d, up to 100 are allowed", n)
	}
}

// TestStages writes a block in stages of every size and looks for what makes a crash
// between any two writes harmless: what a block adds is listed in its undo record
// before it is written, and the tip comes last.
func TestStages(t *testing.T) {
	const records = 60
	for size := 1; size < 6000; size += 211 {
		var written []Entry
		w := Writes{StageBytes: size, Out: func(stage []Entry) error {
			written = append(written, stage...)
			return nil
		}}
		for height := range uint32(2) {
			w.BeginBlock(height)
			w.Set(HeightKey(PrefixBlock, height), []byte{byte(height)})
			for n := range records {
				w.Add(LateKey(int32(height)*records+int32(n)), bytes.Repeat([]byte{byte(n)}, 40))
			}
			w.FinishBlock()
		}
		w.SetTip(1, [32]byte{1})
		w.Flush()
		listed, begun := make(map[string]bool), make(map[uint32]bool)
		added := 0
		for i, e := range written {
			switch e.Key[0] {
			case PrefixUndo:
				keys, err := undoKeys(e.Value)
				if err != nil {
					t.Fatal(err)
				}
				for _, key := range keys {
					listed[string(key)] = true
				}
				begun[uint32(e.Key[4])] = true
			case PrefixBlock:
				if !begun[uint32(e.Key[4])] {
					t.Fatalf("stages of %d: block %d is written before its undo record", size, e.Key[4])
				}
			case PrefixFate:
				if added++; !listed[string(e.Key)] {
					t.Fatalf("stages of %d: %x is written before it is listed", size, e.Key)
				}
			case PrefixTip:
				if i != len(written)-1 {
					t.Fatalf("stages of %d: the tip is write %d of %d", size, i, len(written))
				}
			}
		}
		if added != 2*records || len(listed) != 2*records {
			t.Fatalf("stages of %d: %d records, %d listed", size, added, len(listed))
		}
		for piece := range pieces(written, 10, 3000) {
			bytes := 0
			for _, e := range piece {
				bytes += len(e.Key) + len(e.Value)
			}
			if len(piece) > 10 || len(piece) > 1 && bytes > 3000 {
				t.Fatalf("a piece of %d entries and %d bytes", len(piece), bytes)
			}
		}
	}
}

// TestVersions finds the newest version as of each height.
func TestVersions(t *testing.T) {
	db, err := badger.Open(badger.DefaultOptions("").WithInMemory(true).WithLogger(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(txn *badger.Txn) error {
		for _, height := range []uint32{3, 7, 9} {
			for _, key := range []chainhash.Hash{{1}, {2}} {
				if err := txn.Set(Version(IdentityStem(key), height), fmt.Append(nil, key[0], height)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	txn := NewTxn(db.NewTransaction(false))
	defer txn.Discard()
	all := NewIterators(txn)
	defer all.Close()
	for height := range uint32(12) {
		var newest uint32
		for _, h := range []uint32{3, 7, 9} {
			if h <= height {
				newest = h
			}
		}
		for _, key := range []chainhash.Hash{{1}, {2}, {3}} {
			value, err := all.Version(IdentityStem(key), height)
			want := fmt.Append(nil, key[0], newest)
			if newest == 0 || key[0] == 3 {
				want = nil
			}
			if err != nil || !bytes.Equal(value, want) {
				t.Errorf("key %d as of %d: %q, %v, want %q", key[0], height, value, err, want)
			}
		}
	}
	value, since, err := VersionBefore(txn, Version(IdentityStem(chainhash.Hash{1}), 9))
	if err != nil || since != 7 || string(value) != string(fmt.Append(nil, 1, 7)) {
		t.Errorf("before 9: %q since %d, %v", value, since, err)
	}
	n := 0
	err = EachNewest(txn, PrefixIdentity, IdentityStemSize, func(key, value []byte) error {
		n++
		if VersionHeight(key) != 9 {
			t.Errorf("the newest version of %x is of %d", key, VersionHeight(key))
		}
		return nil
	})
	if err != nil || n != 2 {
		t.Errorf("%d things, %v", n, err)
	}
}

// TestEachVersionAt visits the version as of a height of each thing, however many versions there are.
func TestEachVersionAt(t *testing.T) {
	db, err := badger.Open(badger.DefaultOptions("").WithInMemory(true).WithLogger(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	has := map[chainhash.Hash][]uint32{{1}: {5}, {2}: nil, {3}: {0, 8}, {4}: {9}, {0: 0xff, 31: 5}: {2, 3}}
	for h := range uint32(60) {
		has[chainhash.Hash{2}] = append(has[chainhash.Hash{2}], h)
	}
	err = db.Update(func(txn *badger.Txn) error {
		for key, heights := range has {
			for _, height := range heights {
				if err := txn.Set(Version(IdentityStem(key), height), fmt.Append(nil, key, height)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	txn := NewTxn(db.NewTransaction(false))
	defer txn.Discard()
	for height := range uint32(64) {
		want := make(map[string]string)
		for key, heights := range has {
			for _, h := range heights {
				if h <= height {
					want[string(IdentityStem(key))] = fmt.Sprint(key, h)
				}
			}
		}
		got := make(map[string]string)
		err := EachVersionAt(txn, PrefixIdentity, IdentityStemSize, height, func(stem, value []byte) error {
			if got[string(stem)] != "" {
				t.Errorf("%x is visited twice", stem)
			}
			got[string(stem)] = string(value)
			return nil
		})
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("as of %d: %v, %v, expected %v", height, got, err, want)
		}
	}
}
