package protocol

import (
	"bytes"
	"testing"

	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchutil"
)

func TestAuthor(t *testing.T) {
	publicKey := append([]byte{2}, bytes.Repeat([]byte{7}, 32)...)
	longKey := append([]byte{4}, bytes.Repeat([]byte{7}, 64)...)
	key, longOwner := KeyHash(bchutil.Hash160(publicKey)), KeyHash(bchutil.Hash160(longKey))
	signature := func(hashType byte) []byte { return append(bytes.Repeat([]byte{0x30}, 70), hashType) }
	push := func(items ...[]byte) (script []byte) {
		for _, item := range items {
			script = appendPush(script, item)
		}
		return script
	}
	p2pkh := P2PKHScript(key)
	token := append(append(append([]byte{0xef}, make([]byte, 32)...), 0x10, 0x01), p2pkh...)
	good := push(signature(0x41), publicKey)

	tests := []struct {
		name    string
		unlock  []byte
		spent   []byte
		claimed bool // by key
		author  bool
	}{
		{"ALL|FORKID", good, p2pkh, true, true},
		{"ALL", push(signature(0x01), publicKey), p2pkh, true, true},
		{"ALL|FORKID|UTXOS", push(signature(0x61), publicKey), p2pkh, true, true},
		{"Schnorr", push(append(make([]byte, 64), 0x41), publicKey), p2pkh, true, true},
		{"spent output carries a token", good, token, true, true},
		{"pushed by PUSHDATA1", append(append([]byte{0x4c, 71}, signature(0x41)...), push(publicKey)...), p2pkh, true, true},

		{"ALL|ANYONECANPAY, a pledge moved to input 0", push(signature(0x81), publicKey), p2pkh, false, false},
		{"ALL|FORKID|ANYONECANPAY", push(signature(0xc1), publicKey), p2pkh, false, false},
		{"ALL|FORKID|UTXOS|ANYONECANPAY", push(signature(0xe1), publicKey), p2pkh, false, false},
		{"NONE, from a token sale", push(signature(0x42), publicKey), p2pkh, false, false},
		{"SINGLE, from a token sale", push(signature(0x43), publicKey), p2pkh, false, false},
		{"NONE|ANYONECANPAY", push(signature(0xc2), publicKey), p2pkh, false, false},
		{"SINGLE|ANYONECANPAY", push(signature(0xc3), publicKey), p2pkh, false, false},
		{"base type 0", push(signature(0x40), publicKey), p2pkh, false, false},
		{"base type 5", push(signature(0x45), publicKey), p2pkh, false, false},
		{"base type 17", push(signature(0x51), publicKey), p2pkh, false, false},

		{"victim's key in front of OP_2DROP OP_1", good, []byte{txscript.OP_2DROP, txscript.OP_1}, true, false},
		{"another's P2PKH", good, P2PKHScript(KeyHash{1}), true, false},
		{"P2PKH and more", good, append(bytes.Clone(p2pkh), txscript.OP_NOP), true, false},
		{"P2PKH cut short", good, p2pkh[:24], true, false},
		{"P2PKH with OP_EQUAL", good, bytes.Replace(p2pkh, []byte{0x88}, []byte{0x87}, 1), true, false},
		{"P2PKH with CHECKSIGVERIFY", good, append(bytes.Clone(p2pkh[:24]), txscript.OP_CHECKSIGVERIFY), true, false},
		{"P2PKH, key by PUSHDATA1", good, append(append([]byte{0x76, 0xa9, 0x4c, 20}, key[:]...), 0x88, 0xac), true, false},
		{"P2PK", good, append(push(publicKey), txscript.OP_CHECKSIG), true, false},
		{"P2SH of the same hash", good, append(append([]byte{0xa9, 20}, key[:]...), 0x87), true, false},
		{"nothing", good, nil, true, false},
		{"invalid token prefix", good, append([]byte{0xef}, p2pkh...), true, false},

		{"empty", nil, p2pkh, false, false},
		{"signature only", push(signature(0x41)), p2pkh, false, false},
		{"key only", push(publicKey), p2pkh, false, false},
		{"the wrong way round", push(publicKey, signature(0x41)), p2pkh, false, false},
		{"three pushes", push(signature(0x41), publicKey, publicKey), p2pkh, false, false},
		{"a push before", push(nil, signature(0x41), publicKey), p2pkh, false, false},
		{"an opcode behind", append(bytes.Clone(good), txscript.OP_NOP), p2pkh, false, false},
		{"an opcode before", append([]byte{txscript.OP_NOP}, good...), p2pkh, false, false},
		{"empty signature", push(nil, publicKey), p2pkh, false, false},
		{"truncated", good[:len(good)-1], p2pkh, false, false},
		{"34 bytes of key", push(signature(0x41), append(bytes.Clone(publicKey), 0)), p2pkh, false, false},
		{"hybrid key", push(signature(0x41), append([]byte{6}, longKey[1:]...)), p2pkh, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, ok := ClaimedAuthor(tt.unlock); ok != tt.claimed || ok && got != key {
				t.Errorf("claimed %x, %v", got, ok)
			}
			if got, ok := Author(tt.unlock, tt.spent); ok != tt.author || ok && got != key {
				t.Errorf("author %x, %v", got, ok)
			}
		})
	}
	if got, ok := Author(push(signature(0x41), longKey), P2PKHScript(longOwner)); !ok || got != longOwner {
		t.Errorf("uncompressed key: %x, %v", got, ok)
	}
}

func FuzzAuthor(f *testing.F) {
	for _, v := range vectors(f) {
		tx, err := ParseTx(unhex(f, v.Raw))
		if err != nil {
			f.Fatal(err)
		}
		_, unlock := tx.Input0()
		f.Add(unlock, P2PKHScript(KeyHash(unhex(f, v.Author))))
	}
	f.Add([]byte{0x01, 0x41, 0x01, 0x02}, []byte{txscript.OP_2DROP, txscript.OP_1})
	f.Fuzz(func(t *testing.T, unlock, spent []byte) {
		author, ok := Author(unlock, spent)
		if !ok {
			return
		}
		// By other means: txscript reads the pushes and the script.
		items, err := txscript.ExtractDataElements(unlock)
		if err != nil || len(items) != 2 || !txscript.IsPushOnlyScript(unlock) {
			t.Fatalf("author %x of %x, which is not two pushes: %v", author, unlock, err)
		}
		if items[0][len(items[0])-1]&0x9f != 1 || !bytes.Equal(bchutil.Hash160(items[1]), author[:]) {
			t.Fatalf("author %x of %x", author, unlock)
		}
		if class := txscript.GetScriptClass(StripTokenPrefix(spent)); class != txscript.PubKeyHashTy || !bytes.Contains(spent, author[:]) {
			t.Fatalf("author %x by spending %x (%v)", author, spent, class)
		}
	})
}
