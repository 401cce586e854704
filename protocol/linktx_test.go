package protocol

import (
	"bytes"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"
)

// testKey is a private key of no value.
func testKey(n byte) *bchec.PrivateKey {
	key, _ := bchec.PrivKeyFromBytes(bchec.S256(), bytes.Repeat([]byte{n}, 32))
	return key
}

func keyHash(key *bchec.PrivateKey) KeyHash {
	return KeyHash(bchutil.Hash160(key.PubKey().SerializeCompressed()))
}

// utxos returns outputs of owner with the given values.
func utxos(owner KeyHash, values ...int64) (list []UTXO) {
	for i, v := range values {
		list = append(list, UTXO{OutPoint: wire.OutPoint{Hash: chainhash.Hash{byte(i), byte(i >> 8), 0xaa}, Index: uint32(i)}, Value: v, Script: P2PKHScript(owner)})
	}
	return list
}

func requestScript(t testing.TB, message string) []byte {
	t.Helper()
	script, err := RequestScript(KeyHash{9}, []byte(message))
	if err != nil {
		t.Fatal(err)
	}
	return script
}

// checkLinkTx checks what holds for every link transaction, and runs its
// scripts if it is signed.
func checkLinkTx(t *testing.T, l *RecordTx, script []byte, author KeyHash, rate int64) {
	t.Helper()
	tx := l.Tx
	if len(tx.TxOut) != 2 || !bytes.Equal(tx.TxOut[0].PkScript, P2PKHScript(author)) || !bytes.Equal(tx.TxOut[1].PkScript, script) {
		t.Fatal("expected change first and the action last")
	}
	if l.Author() != author || l.Change() != tx.TxOut[0].Value || l.Change() < DustLimit || tx.TxOut[1].Value != 0 {
		t.Errorf("author %x, change %d, action with %d", l.Author(), l.Change(), tx.TxOut[1].Value)
	}
	var in int64
	for i, u := range l.Spends {
		in += u.Value
		if u.HasToken || HasTokenPrefix(u.Script) || u.OutPoint != tx.TxIn[i].PreviousOutPoint {
			t.Errorf("input %d spends %+v", i, u)
		}
		if !l.Signed() {
			continue
		}
		vm, err := txscript.NewEngine(u.Script, tx, i, txscript.StandardVerifyFlags, nil, txscript.NewTxSigHashes(tx), txscript.NewUtxoCache(), u.Value)
		if err != nil {
			t.Fatal(err)
		}
		if err := vm.Execute(); err != nil {
			t.Errorf("input %d: %v", i, err)
		}
	}
	size := int64(len(l.Raw()))
	slack := int64(0)
	if !l.Signed() {
		slack = int64(len(l.Spends)) * 140
	}
	// Signatures are counted at their longest: Schnorr ones are 7 bytes shorter.
	if l.Fee != in-l.Change() || l.Fee < rate*size || l.Fee > rate*(size+slack+8*int64(len(l.Spends))) {
		t.Errorf("fee %d for %d bytes at %d satoshi each, inputs %d, change %d", l.Fee, size, rate, in, l.Change())
	}
	if got, ok := Tx(l.Raw()).Action(); !ok || got.Malformed != nil {
		t.Errorf("action %+v, %v", got, ok)
	}
	if l.Signed() {
		spends, unlock := Tx(l.Raw()).Input0()
		if got, ok := Author(unlock, l.Spends[0].Script); !ok || got != author || spends != l.Spends[0].OutPoint {
			t.Errorf("author by the rules: %x, %v", got, ok)
		}
	}
	if txid := Tx(l.Raw()).TxID(); txid != l.TxID() {
		t.Errorf("txid %v, expected %v", l.TxID(), txid)
	}
}

func TestLinkTx(t *testing.T) {
	key := testKey(1)
	author := keyHash(key)
	long := KeyHash(bchutil.Hash160(key.PubKey().SerializeUncompressed()))
	var acceptTx, revokeTx []byte
	for _, make := range []struct {
		to     *[]byte
		encode func(chainhash.Hash, []byte) ([]byte, error)
	}{{&acceptTx, AcceptScript}, {&revokeTx, RevokeScript}} {
		script, err := make.encode(chainhash.Hash{3}, []byte("hi"))
		if err != nil {
			t.Fatal(err)
		}
		*make.to = script
	}
	longest := requestScript(t, strings.Repeat("m", MaxRequestMessage))
	var many []int64
	for range 400 {
		many = append(many, 700)
	}
	foreign := utxos(KeyHash{5}, 1_000_000)[0]
	foreign.OutPoint.Index = 99

	tests := []struct {
		name    string
		script  []byte
		funding Funding
		inputs  []int64 // values, in order
	}{
		{"request", requestScript(t, ""), Funding{Author: author, UTXOs: utxos(author, 10_000)}, []int64{10_000}},
		{"accept", acceptTx, Funding{Author: author, UTXOs: utxos(author, 10_000)}, []int64{10_000}},
		{"revoke", revokeTx, Funding{Author: author, UTXOs: utxos(author, 10_000)}, []int64{10_000}},
		{"longest", longest, Funding{Author: author, UTXOs: utxos(author, 10_000)}, []int64{10_000}},
		{"largest first", longest, Funding{Author: author, UTXOs: utxos(author, 600, 2000, 700)}, []int64{2000}},
		{"three needed", longest, Funding{Author: author, UTXOs: utxos(author, 548, 549, 550)}, []int64{550, 549, 548}},
		{"at 5 satoshi per byte", longest, Funding{Author: author, UTXOs: utxos(author, 2500, 2400), FeeRate: 5}, []int64{2500, 2400}},
		{"uncompressed key", longest, Funding{Author: long, UTXOs: utxos(long, 900, 900), Uncompressed: true}, []int64{900, 900}},
		{"others' are left alone", longest, Funding{Author: author, UTXOs: append(utxos(author, 5000), foreign)}, []int64{5000}},
		{"many inputs", longest, Funding{Author: author, UTXOs: utxos(author, many...), FeeRate: 4}, many[:16]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := NewLinkTx(tt.script, tt.funding)
			if err != nil {
				t.Fatal(err)
			}
			var got []int64
			for _, u := range l.Spends {
				got = append(got, u.Value)
			}
			if !slices.Equal(got, tt.inputs) {
				t.Errorf("inputs %v, expected %v", got, tt.inputs)
			}
			rate := max(tt.funding.FeeRate, 1)
			if l.Signed() {
				t.Error("signed before it was")
			}
			checkLinkTx(t, l, tt.script, tt.funding.Author, rate)
			if err := l.Sign(key); err != nil {
				t.Fatal(err)
			}
			if !l.Signed() {
				t.Error("not signed")
			}
			checkLinkTx(t, l, tt.script, tt.funding.Author, rate)

			again, err := NewLinkTx(tt.script, tt.funding)
			if err != nil {
				t.Fatal(err)
			}
			if err := again.Sign(key); err != nil || !bytes.Equal(again.Raw(), l.Raw()) {
				t.Error("the same funding gives another transaction")
			}
		})
	}
}

func TestLinkTxLeavesTokensAlone(t *testing.T) {
	author := keyHash(testKey(1))
	list := utxos(author, 1_000_000, 2_000_000, 5000)
	list[0].HasToken = true
	list[1].Script = append(append(append([]byte{0xef}, make([]byte, 32)...), 0x10, 0x01), list[1].Script...)
	l, err := NewLinkTx(requestScript(t, ""), Funding{Author: author, UTXOs: list})
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Spends) != 1 || l.Spends[0].Value != 5000 {
		t.Errorf("spends %+v", l.Spends)
	}
	_, err = NewLinkTx(requestScript(t, ""), Funding{Author: author, UTXOs: list[:2]})
	if !errors.Is(err, ErrInsufficientFunds) {
		t.Errorf("only tokens: %v", err)
	}
}

func TestLinkTxRefuses(t *testing.T) {
	author := keyHash(testKey(1))
	script := requestScript(t, "")
	size := int64(RecordTxSize(1, len(script), false))
	twice := append(utxos(author, 1000), utxos(author, 1000)...)
	tests := []struct {
		name    string
		script  []byte
		funding Funding
		is      error
		says    string
	}{
		{"no outputs", script, Funding{Author: author}, ErrInsufficientFunds, "have 0"},
		{"one satoshi short", script, Funding{Author: author, UTXOs: utxos(author, size+DustLimit-1)}, ErrInsufficientFunds,
			"need 772 satoshi (fee 226, change of at least 546), have 771"},
		{"dust is no help", script, Funding{Author: author, UTXOs: utxos(author, 700, 148, 148, 100)}, ErrInsufficientFunds, "have 700"},
		{"others' only", script, Funding{Author: author, UTXOs: utxos(KeyHash{5}, 10_000)}, ErrInsufficientFunds, "of the 1 outputs given, 0 can be used"},
		{"over the most inputs", script, Funding{Author: author, UTXOs: utxos(author, slices.Repeat([]int64{149}, 600)...)}, ErrInsufficientFunds, "have 74500"},
		{"negative value", script, Funding{Author: author, UTXOs: utxos(author, -1)}, nil, "-1 satoshi"},
		{"sum overflows", script, Funding{Author: author, UTXOs: utxos(author, 1<<62, 1<<62, 1<<62)}, nil, "more than there can be"},
		{"more than all", script, Funding{Author: author, UTXOs: utxos(author, bchutil.MaxSatoshi, 1)}, nil, "more than there can be"},
		{"twice the same", script, Funding{Author: author, UTXOs: twice}, nil, "given twice"},
		{"negative fee rate", script, Funding{Author: author, FeeRate: -1}, nil, "fee rate of 1 to 1000"},
		{"fee rate of a slip", script, Funding{Author: author, FeeRate: 1001}, nil, "fee rate of 1 to 1000"},
		{"no action", []byte{0x6a}, Funding{Author: author}, nil, "script of an action"},
		{"malformed action", unhex(t, "6a026d2001ff"), Funding{Author: author}, nil, "expected 20 bytes, got 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := NewLinkTx(tt.script, tt.funding)
			if err == nil {
				t.Fatalf("built %+v", l)
			}
			if tt.is != nil && !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, expected %q", err, tt.says)
			}
		})
	}
	if _, err := NewLinkTx(script, Funding{Author: author, UTXOs: utxos(author, size+DustLimit)}); err != nil {
		t.Errorf("just enough: %v", err)
	}
}

// TestExternalSigner signs as a wallet does that has the digests only, in
// ECDSA and in Schnorr, across a serialization.
func TestExternalSigner(t *testing.T) {
	key := testKey(1)
	author := keyHash(key)
	publicKey := key.PubKey().SerializeCompressed()
	schemes := map[string]func(digest []byte) (*bchec.Signature, error){"ECDSA": key.SignECDSA, "Schnorr": key.SignSchnorr}
	for name, sign := range schemes {
		t.Run(name, func(t *testing.T) {
			script := requestScript(t, "hello")
			built, err := NewLinkTx(script, Funding{Author: author, UTXOs: utxos(author, 600, 601, 602)})
			if err != nil {
				t.Fatal(err)
			}
			l, err := ReadLinkTx(built.Raw(), built.Spends)
			if err != nil {
				t.Fatal(err)
			}
			if l.Fee != built.Fee || !bytes.Equal(l.Raw(), built.Raw()) {
				t.Errorf("read back as %+v", l)
			}
			list, err := l.ToSign()
			if err != nil {
				t.Fatal(err)
			}
			for i, s := range list {
				if s.HashType != 0x41 || s.Value != l.Spends[i].Value || s.OutPoint != l.Tx.TxIn[i].PreviousOutPoint || !bytes.Equal(s.Script, P2PKHScript(author)) {
					t.Errorf("to sign: %+v", s)
				}
				signature, err := sign(s.Digest[:])
				if err != nil {
					t.Fatal(err)
				}
				if l.Signed() {
					t.Error("signed too early")
				}
				if err := l.Attach(i, append(signature.Serialize(), byte(s.HashType)), publicKey); err != nil {
					t.Fatal(err)
				}
				// Half signed, it survives a serialization as well.
				if l, err = ReadLinkTx(l.Raw(), l.Spends); err != nil {
					t.Fatal(err)
				}
			}
			if !l.Signed() {
				t.Error("not signed")
			}
			checkLinkTx(t, l, script, author, 1)
		})
	}
}

func TestAttachRefuses(t *testing.T) {
	key, other := testKey(1), testKey(2)
	author := keyHash(key)
	l, err := NewLinkTx(requestScript(t, ""), Funding{Author: author, UTXOs: utxos(author, 600, 601)})
	if err != nil {
		t.Fatal(err)
	}
	list, err := l.ToSign()
	if err != nil {
		t.Fatal(err)
	}
	sign := func(key *bchec.PrivateKey, digest [32]byte, hashType byte) []byte {
		signature, err := key.SignECDSA(digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return append(signature.Serialize(), hashType)
	}
	good, publicKey := sign(key, list[0].Digest, 0x41), key.PubKey().SerializeCompressed()
	highS := func() []byte {
		signature, err := bchec.ParseDERSignature(good[:len(good)-1], bchec.S256())
		if err != nil {
			t.Fatal(err)
		}
		s := new(big.Int).Sub(bchec.S256().N, signature.S)
		der := []byte{0x30, 0, 0x02, 0}
		integer := func(v *big.Int) []byte {
			b := v.Bytes()
			if b[0] >= 0x80 {
				b = append([]byte{0}, b...)
			}
			return b
		}
		r := integer(signature.R)
		der[3] = byte(len(r))
		der = append(append(der, r...), 0x02, byte(len(integer(s))))
		der = append(der, integer(s)...)
		der[1] = byte(len(der) - 2)
		return append(der, 0x41)
	}()
	tests := []struct {
		name      string
		input     int
		signature []byte
		publicKey []byte
		says      string
	}{
		{"no such input", 2, good, publicKey, "no input 2"},
		{"negative input", -1, good, publicKey, "no input -1"},
		{"signature of another input", 1, good, publicKey, "input 1"},
		{"another's signature", 0, sign(other, list[0].Digest, 0x41), publicKey, "input 0"},
		{"another's key", 0, sign(other, list[0].Digest, 0x41), other.PubKey().SerializeCompressed(), "expected the public key with hash160"},
		{"no hash type", 0, good[:len(good)-1], publicKey, "hash type 0x41"},
		{"hash type NONE", 0, sign(key, list[0].Digest, 0x42), publicKey, "hash type 0x41"},
		{"hash type without FORKID", 0, sign(key, list[0].Digest, 0x01), publicKey, "hash type 0x41"},
		{"empty", 0, nil, publicKey, "got 0 bytes"},
		{"overlong", 0, append(make([]byte, 80), 0x41), publicKey, "got 81 bytes"},
		{"high S", 0, highS, publicKey, "input 0"},
		{"no key", 0, good, nil, "got 0 bytes"},
		{"uncompressed form of the key", 0, good, key.PubKey().SerializeUncompressed(), "expected the public key with hash160"},
		{"garbage", 0, append(bytes.Repeat([]byte{0x30}, 70), 0x41), publicKey, "input 0"},
	}
	for _, tt := range tests {
		err := l.Attach(tt.input, tt.signature, tt.publicKey)
		if err == nil || !strings.Contains(err.Error(), tt.says) || tt.input == 0 && !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v, expected %q", tt.name, err, tt.says)
		}
		if len(l.Tx.TxIn[0].SignatureScript)+len(l.Tx.TxIn[1].SignatureScript) > 0 {
			t.Fatalf("%s: left a signature behind", tt.name)
		}
	}
	if err := l.Attach(0, good, publicKey); err != nil {
		t.Errorf("the good signature: %v", err)
	}
	if err := l.Sign(other); !errors.Is(err, ErrSignature) {
		t.Errorf("another's key: %v", err)
	}
	if secret := other.Serialize(); strings.Contains(l.Sign(other).Error(), string(secret)) {
		t.Error("the error holds the key")
	}
}

func TestReadLinkTxRefuses(t *testing.T) {
	key := testKey(1)
	author := keyHash(key)
	build := func() *RecordTx {
		l, err := NewLinkTx(requestScript(t, ""), Funding{Author: author, UTXOs: utxos(author, 600, 601)})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	tests := []struct {
		name   string
		change func(l *RecordTx)
		says   string
	}{
		{"another output's script", func(l *RecordTx) { l.Tx.TxOut[0].PkScript = P2PKHScript(KeyHash{5}) }, "change to the key"},
		{"a third output", func(l *RecordTx) { l.Tx.AddTxOut(wire.NewTxOut(0, []byte{0x6a}, wire.TokenData{})) }, "two outputs"},
		{"action first", func(l *RecordTx) { slices.Reverse(l.Tx.TxOut) }, "output 1"},
		{"value on the action", func(l *RecordTx) { l.Tx.TxOut[1].Value = 1 }, "got another"},
		{"more change than there is", func(l *RecordTx) { l.Tx.TxOut[0].Value = 1202 }, "change of 546 to 1201"},
		{"all of it for the fee", func(l *RecordTx) { l.Tx.TxOut[0].Value = 0 }, "got a change of 0"},
		{"negative change", func(l *RecordTx) { l.Tx.TxOut[0].Value = -1 }, "got a change of -1"},
		{"a far away lock time", func(l *RecordTx) { l.Tx.LockTime = 1 << 30 }, "got another"},
		{"another outpoint", func(l *RecordTx) { l.Tx.TxIn[0].PreviousOutPoint.Index = 77 }, "got another"},
		{"an input more", func(l *RecordTx) { l.Tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{}, nil)) }, "got another"},
		{"an input less", func(l *RecordTx) { l.Tx.TxIn = l.Tx.TxIn[:1] }, "got another"},
		{"a made-up signature", func(l *RecordTx) { l.Tx.TxIn[0].SignatureScript = generator{}.fixedUnlock() }, "signature refused"},
		{"nothing known of the inputs", func(l *RecordTx) { l.Spends = nil }, "got 0"},
		{"tokens in an input", func(l *RecordTx) { l.Spends[1].HasToken = true }, "without tokens"},
		{"another key's input", func(l *RecordTx) { l.Spends[1].Script = P2PKHScript(KeyHash{5}) }, "of one key"},
		{"inputs not P2PKH", func(l *RecordTx) { l.Spends[0].Script = []byte{0x51} }, "change to the key"},
		{"values too high", func(l *RecordTx) { l.Spends[0].Value = 1 << 60 }, "more than there can be"},
	}
	for _, tt := range tests {
		l := build()
		tt.change(l)
		if _, err := ReadLinkTx(l.Raw(), l.Spends); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, expected %q", tt.name, err, tt.says)
		}
	}
	l := build()
	if _, err := ReadLinkTx(append(l.Raw(), 0), l.Spends); !errors.Is(err, ErrMalformed) {
		t.Errorf("a byte behind: %v", err)
	}
}
