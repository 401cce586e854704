package protocol

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"
)

// TestRecordTx builds and signs an anchor that takes up coins of two keys.
func TestRecordTx(t *testing.T) {
	var keys []*bchec.PrivateKey
	var spends []UTXO
	for i := range 2 {
		key, _ := bchec.PrivKeyFromBytes(bchec.S256(), bytes.Repeat([]byte{byte(i + 1)}, 32))
		holder := KeyHash(bchutil.Hash160(key.PubKey().SerializeCompressed()))
		keys = append(keys, key)
		spends = append(spends, UTXO{OutPoint: wire.OutPoint{Hash: chainhash.Hash{byte(i)}}, Value: 1000, Script: P2PKHScript(holder)})
	}
	record := Anchor{Domain: "keys.example.org", Position: 7, Head: [32]byte{1}, Root: [32]byte{2}}
	script, err := record.Script()
	if err != nil {
		t.Fatal(err)
	}
	if n := AnchorScriptSize(record.Domain); n != len(script) {
		t.Errorf("the script is said to have %d bytes, it has %d", n, len(script))
	}
	const rate = 2
	to := KeyHash{9}
	tx, err := NewRecordTx(script, spends, to, rate)
	if err != nil {
		t.Fatal(err)
	}
	if err := tx.Sign(keys[0]); !errors.Is(err, ErrSignature) {
		t.Errorf("with one of two keys: got %v, want %v", err, ErrSignature)
	}
	if err := tx.Sign(keys[1], keys[0]); err != nil || !tx.Signed() {
		t.Fatalf("signing: %v", err)
	}
	raw := Tx(tx.Raw())
	most := RecordTxSize(2, len(script), false)
	if n := len(raw); n > most || n < most-2*3 {
		t.Errorf("the transaction has %d bytes, expected at most %d and hardly less", n, most)
	}
	if tx.Fee != rate*int64(most) || tx.Change() != 2000-tx.Fee {
		t.Errorf("fee %d, change %d, expected %d for %d bytes", tx.Fee, tx.Change(), rate*most, most)
	}
	if got, ok := raw.Anchor(); !ok || got != record {
		t.Errorf("it carries %+v", got)
	}
	var outputs []Output
	for _, output := range raw.Outputs() {
		outputs = append(outputs, output)
	}
	if len(outputs) != 2 || !bytes.Equal(outputs[0].Script, P2PKHScript(to)) {
		t.Errorf("its outputs are %+v", outputs)
	}
	spent := Output{Value: 1000, Script: spends[0].Script}
	if err := raw.VerifyInput0(spent); err != nil {
		t.Errorf("what it spends: %v", err)
	}
	for name, wrong := range map[string]Output{
		"another value": {Value: 1001, Script: spent.Script},
		"another key":   {Value: 1000, Script: spends[1].Script},
	} {
		if err := raw.VerifyInput0(wrong); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: got %v, want %v", name, err, ErrSignature)
		}
	}
	if err := raw[:20].VerifyInput0(spent); !errors.Is(err, ErrMalformed) {
		t.Errorf("a torn transaction: got %v, want %v", err, ErrMalformed)
	}
}

// TestRecordTxFunds is about the smallest funds that are enough.
func TestRecordTxFunds(t *testing.T) {
	script := slices.Repeat([]byte{0x6a}, 100)
	enough := int64(RecordTxSize(1, len(script), false)) + DustLimit
	for value, want := range map[int64]error{enough: nil, enough - 1: ErrInsufficientFunds} {
		_, err := NewRecordTx(script, []UTXO{{Value: value, Script: P2PKHScript(KeyHash{})}}, KeyHash{}, 1)
		if !errors.Is(err, want) {
			t.Errorf("with %d satoshi: got %v, want %v", value, err, want)
		}
	}
	if _, err := NewRecordTx(script, nil, KeyHash{}, 1); !errors.Is(err, ErrInsufficientFunds) {
		t.Errorf("with nothing to spend: got %v, want %v", err, ErrInsufficientFunds)
	}
}
