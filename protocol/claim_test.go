package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"pgregory.net/rapid"
)

// signedTx is a transaction of several inputs, whose input 0 is signed by bchd's
// code.
type signedTx struct {
	tx    *wire.MsgTx
	spent []*wire.TxOut
	key   *bchec.PrivateKey
}

// outputs returns what the transaction spends as a node hands it out.
func (s *signedTx) outputs() (list []Output) {
	for _, out := range s.spent {
		script := bytes.Clone(out.PkScript)
		if !out.TokenData.IsEmpty() {
			prefix := out.TokenData.TokenDataBuffer()
			script = append(prefix.Bytes(), script...)
		}
		list = append(list, Output{Value: out.Value, Script: script})
	}
	return list
}

func (s *signedTx) raw() Tx {
	var b bytes.Buffer
	if err := s.tx.Serialize(&b); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// digest is what input 0 has to sign, as bchd computes it.
func (s *signedTx) digest(t require, hashType txscript.SigHashType) []byte {
	cache := txscript.NewUtxoCache()
	for i, out := range s.spent {
		cache.AddEntry(i, *out)
	}
	hashes := txscript.NewTxSigHashes(s.tx)
	hashes.AddTxSigHashUtxoFromUtxoCache(s.tx, cache)
	digest, _, err := txscript.CalcSignatureHash(s.spent[0].PkScript, hashes, hashType, s.tx, 0, s.spent[0].Value, true)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

type require interface {
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func (s *signedTx) sign(t require, hashType txscript.SigHashType, schnorr, uncompressed bool) {
	digest := s.digest(t, hashType)
	sign := s.key.SignECDSA
	if schnorr {
		sign = s.key.SignSchnorr
	}
	signature, err := sign(digest)
	if err != nil {
		t.Fatal(err)
	}
	s.tx.TxIn[0].SignatureScript = appendPush(appendPush(nil, append(signature.Serialize(), byte(hashType))), s.publicKey(uncompressed))
}

func (s *signedTx) publicKey(uncompressed bool) []byte {
	if uncompressed {
		return s.key.PubKey().SerializeUncompressed()
	}
	return s.key.PubKey().SerializeCompressed()
}

// drawSigned makes a transaction with random everything.
func drawSigned(t *rapid.T, uncompressed bool) *signedTx {
	token := rapid.Custom(func(t *rapid.T) wire.TokenData {
		token := wire.TokenData{CategoryID: chainhash.HashH(rapid.SliceOfN(rapid.Byte(), 0, 4).Draw(t, "category"))}
		if rapid.Bool().Draw(t, "amount") {
			token.BitField, token.Amount = wire.HAS_AMOUNT, rapid.Uint64Range(1, maxTokenAmount).Draw(t, "tokens")
		}
		if token.BitField == 0 || rapid.Bool().Draw(t, "nft") {
			token.BitField |= wire.HAS_NFT | rapid.SampledFrom([]byte{wire.NONE, wire.MUTABLE, wire.MINTING}).Draw(t, "capability")
			if token.Commitment = rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "commitment"); len(token.Commitment) > 0 {
				token.BitField |= wire.HAS_COMMITMENT_LENGTH
			}
		}
		return token
	})
	output := rapid.Custom(func(t *rapid.T) *wire.TxOut {
		var data wire.TokenData
		if rapid.Bool().Draw(t, "token") {
			data = token.Draw(t, "data")
		}
		return wire.NewTxOut(rapid.Int64Range(0, 21e14).Draw(t, "value"), rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "script"), data)
	})
	s := &signedTx{tx: wire.NewMsgTx(rapid.Int32().Draw(t, "version")), key: testKey(rapid.ByteRange(1, 200).Draw(t, "key"))}
	for i := range rapid.IntRange(1, 5).Draw(t, "inputs") {
		s.tx.AddTxIn(&wire.TxIn{
			PreviousOutPoint: wire.OutPoint{Hash: chainhash.HashH([]byte{byte(i)}), Index: rapid.Uint32().Draw(t, "index")},
			SignatureScript:  rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "unlock"), Sequence: rapid.Uint32().Draw(t, "sequence"),
		})
		s.spent = append(s.spent, output.Draw(t, "spent"))
	}
	s.spent[0].PkScript = P2PKHScript(keyOf(s.publicKey(uncompressed)))
	for range rapid.IntRange(1, 4).Draw(t, "outputs") {
		s.tx.AddTxOut(output.Draw(t, "output"))
	}
	s.tx.LockTime = rapid.Uint32().Draw(t, "lock time")
	return s
}

func keyOf(publicKey []byte) KeyHash {
	key, _ := ClaimedAuthor(appendPush(appendPush(nil, []byte{byte(HashType)}), publicKey))
	return key
}

// TestClaimVerifies signs random transactions as bchd does, and changes one thing.
func TestClaimVerifies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		uncompressed, schnorr := rapid.Bool().Draw(t, "uncompressed"), rapid.Bool().Draw(t, "schnorr")
		hashType := rapid.SampledFrom([]txscript.SigHashType{0x41, 0x61}).Draw(t, "hash type")
		s := drawSigned(t, uncompressed)
		s.sign(t, hashType, schnorr, uncompressed)
		claim, ok := s.raw().Claim()
		if !ok || claim.Key != keyOf(s.publicKey(uncompressed)) || !claim.Checkable() || !claim.HeldBy(s.outputs()[0].Script) {
			t.Fatalf("claim is %+v, %v", claim, ok)
		}
		spent := s.outputs()[:len(claim.Inputs)]
		if want := len(s.tx.TxIn); hashType == 0x61 && len(spent) != want || hashType == 0x41 && len(spent) != 1 {
			t.Fatalf("type %x covers %d outputs of %d", hashType, len(spent), want)
		}
		for i, in := range claim.Inputs {
			if in != s.tx.TxIn[i].PreviousOutPoint {
				t.Fatalf("input %d spends %v, want %v", i, in, s.tx.TxIn[i].PreviousOutPoint)
			}
		}
		const height = 800_000
		if err := claim.Verify(&chaincfg.MainNetParams, height, spent); err != nil {
			t.Fatal(err)
		}

		// One thing is another.
		switch which := rapid.IntRange(0, 9).Draw(t, "change"); which {
		case 0:
			s.tx.Version++
		case 1:
			s.tx.LockTime++
		case 2:
			s.tx.TxIn[len(s.tx.TxIn)-1].Sequence++
		case 3:
			s.tx.TxIn[len(s.tx.TxIn)-1].PreviousOutPoint.Index++
		case 4:
			s.tx.TxOut[len(s.tx.TxOut)-1].Value++
		case 5:
			s.tx.TxOut[0].PkScript[0]++
		case 6:
			s.tx.AddTxOut(s.tx.TxOut[0])
		case 7:
			spent[len(spent)-1].Value++
		case 8: // a token that was not there, or the other way round
			script := StripTokenPrefix(spent[0].Script)
			if len(script) == len(spent[0].Script) {
				token := wire.TokenData{BitField: wire.HAS_AMOUNT, Amount: 1}
				prefix := token.TokenDataBuffer()
				script = append(prefix.Bytes(), script...)
			}
			spent[0].Script = script
		case 9:
			signature := s.tx.TxIn[0].SignatureScript
			signature[20]++
		}
		claim, ok = s.raw().Claim()
		if !ok {
			t.Fatal("it is not a claim any more")
		}
		if err := claim.Verify(&chaincfg.MainNetParams, height, spent); !errors.Is(err, ErrSignature) {
			t.Fatalf("after a change: %v", err)
		}
	})
}

// TestVerifyUTXOS changes an output that another input spends.
func TestVerifyUTXOS(t *testing.T) {
	for _, hashType := range []txscript.SigHashType{0x41, 0x61} {
		s := twoInputs()
		s.sign(t, hashType, false, false)
		claim, _ := s.raw().Claim()
		spent := s.outputs()
		spent[1].Script = append(spent[1].Script, txscript.OP_NOP)
		if err := claim.Verify(&chaincfg.MainNetParams, 800_000, spent[:len(claim.Inputs)]); (err != nil) != (hashType == 0x61) {
			t.Errorf("type %x: %v", hashType, err)
		}
	}
}

func twoInputs() *signedTx {
	s := &signedTx{tx: wire.NewMsgTx(2), key: testKey(7)}
	for i := range 2 {
		s.tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.HashH([]byte{byte(i)}), Index: 1}, nil))
		s.spent = append(s.spent, wire.NewTxOut(10_000, P2PKHScript(keyHash(s.key)), wire.TokenData{}))
	}
	s.tx.AddTxOut(wire.NewTxOut(19_000, P2PKHScript(keyHash(s.key)), wire.TokenData{}))
	return s
}

// TestSchnorrByHeight asks for a signature of 64 bytes in blocks in which it is
// ECDSA's or Schnorr's.
func TestSchnorrByHeight(t *testing.T) {
	for _, test := range []struct {
		net    *chaincfg.Params
		height uint32
		valid  bool
	}{
		{&chaincfg.MainNetParams, 547_000, false},
		{&chaincfg.MainNetParams, 582_679, false},
		{&chaincfg.MainNetParams, 582_680, true},
		{&chaincfg.TestNet3Params, 1_303_884, false},
		{&chaincfg.TestNet3Params, 1_303_885, true},
		{&chaincfg.ChipNetParams, 1, true},
		{&chaincfg.RegressionNetParams, 1, true},
	} {
		t.Run(fmt.Sprint(test.net.Name, test.height), func(t *testing.T) {
			s := twoInputs()
			s.sign(t, 0x41, true, false)
			claim, _ := s.raw().Claim()
			if err := claim.Verify(test.net, test.height, s.outputs()[:1]); (err == nil) != test.valid {
				t.Error(err)
			}
			s.sign(t, 0x41, false, false) // the other algorithm is always good
			claim, _ = s.raw().Claim()
			if err := claim.Verify(test.net, test.height, s.outputs()[:1]); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestVerifyRefuses gives Verify what it cannot judge, or what is nonsense.
func TestVerifyRefuses(t *testing.T) {
	s := twoInputs()
	s.sign(t, 0x61, false, false)
	valid, _ := s.raw().Claim()
	spent := s.outputs()
	unsigned := func(signature, publicKey []byte) *Claim {
		s := twoInputs()
		s.tx.TxIn[0].SignatureScript = appendPush(appendPush(nil, signature), publicKey)
		claim, ok := s.raw().Claim()
		if !ok {
			t.Fatal("no claim")
		}
		return claim
	}
	public := s.publicKey(false)
	offCurve := append([]byte{2}, bytes.Repeat([]byte{0xff}, 32)...)
	for name, test := range map[string]struct {
		claim *Claim
		spent []Output
	}{
		"too few outputs":  {valid, spent[:1]},
		"too many outputs": {valid, append(spent[:2:2], spent[0])},
		"nothing":          {valid, nil},
		"another's output": {valid, []Output{{Value: 10_000, Script: P2PKHScript(KeyHash{1})}, spent[1]}},
		"no FORKID":        {unsigned(append(make([]byte, 70), 0x01), public), spent[:1]},
		"no DER":           {unsigned(append(make([]byte, 70), 0x41), public), spent[:1]},
		"zeros":            {unsigned(append(make([]byte, 64), 0x41), public), spent[:1]},
		"only a type":      {unsigned([]byte{0x41}, public), spent[:1]},
		"off the curve":    {unsigned(append(make([]byte, 64), 0x41), offCurve), []Output{{Script: P2PKHScript(keyOf(offCurve))}}},
	} {
		t.Run(name, func(t *testing.T) {
			if err := test.claim.Verify(&chaincfg.MainNetParams, 800_000, test.spent); !errors.Is(err, ErrSignature) {
				t.Error(err)
			}
		})
	}
	if claim := unsigned(append(make([]byte, 70), 0x01), public); claim.Checkable() {
		t.Error("a signature without FORKID is said to be checkable")
	}
}

// FuzzClaim reads and checks whatever comes.
func FuzzClaim(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(unhex(f, v.Raw), P2PKHScript(KeyHash(unhex(f, v.Author))), int64(1000))
	}
	s := twoInputs()
	s.sign(f, 0x61, true, false)
	f.Add([]byte(s.raw()), s.outputs()[0].Script, s.outputs()[0].Value)
	f.Fuzz(func(t *testing.T, raw, script []byte, value int64) {
		tx, err := ParseTx(raw)
		if err != nil {
			return
		}
		_, unlock := tx.Input0()
		claim, ok := tx.Claim()
		if key, claimed := ClaimedAuthor(unlock); ok && (!claimed || key != claim.Key) {
			t.Fatalf("claim of %x, ClaimedAuthor says %x, %v", claim.Key, key, claimed)
		}
		if !ok {
			return
		}
		if _, held := Author(unlock, script); held != claim.HeldBy(script) {
			t.Fatalf("HeldBy is %v, Author says %v", !held, held)
		}
		spent := make([]Output, len(claim.Inputs))
		for i := range spent {
			spent[i] = Output{Value: value, Script: script}
		}
		_ = claim.Verify(&chaincfg.MainNetParams, 800_000, spent)
	})
}

// BenchmarkClaim checks signatures from the raw transaction on, beside the bare
// verification of what is left when all has been read and hashed, and beside
// bchd's script engine.
func BenchmarkClaim(b *testing.B) {
	for name, schnorr := range map[string]bool{"ECDSA": false, "Schnorr": true} {
		s := twoInputs()
		s.tx.TxIn, s.spent = s.tx.TxIn[:1], s.spent[:1]
		s.sign(b, 0x41, schnorr, false)
		raw, spent := s.raw(), s.outputs()
		b.Run(name+"/claim", func(b *testing.B) {
			for b.Loop() {
				claim, _ := raw.Claim()
				if err := claim.Verify(&chaincfg.MainNetParams, 800_000, spent); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/bare", func(b *testing.B) {
			claim, _ := raw.Claim()
			digest := claim.digest(spent)
			for b.Loop() {
				publicKey, err := bchec.ParsePubKey(claim.publicKey, bchec.S256())
				if err != nil {
					b.Fatal(err)
				}
				signature, err := claim.parse(&chaincfg.MainNetParams, 800_000)
				if err != nil || !signature.Verify(digest[:], publicKey) {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/bchd", func(b *testing.B) {
			cache := txscript.NewUtxoCache()
			cache.AddEntry(0, *s.spent[0])
			for b.Loop() {
				vm, err := txscript.NewEngine(s.spent[0].PkScript, s.tx, 0, txscript.StandardVerifyFlags, nil, txscript.NewTxSigHashes(s.tx), cache, s.spent[0].Value)
				if err == nil {
					err = vm.Execute()
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
