package protocol

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"
)

// HashType is the hash type of every signature of a record's transaction: it covers
// all inputs and all outputs.
const HashType = txscript.SigHashAll | txscript.SigHashForkID

// ErrSignature is wrapped by the errors about a key or signature that is not
// good for a transaction. No error holds anything secret.
var ErrSignature = errors.New("signature refused")

// ToSign is what an external signer needs to know of one input.
type ToSign struct {
	OutPoint wire.OutPoint // the output that it spends
	Value    int64         // satoshi
	Script   []byte        // the locking script, P2PKH of the author
	HashType txscript.SigHashType
	Digest   [32]byte // what to sign, as it is: it must not be hashed again
}

// ToSign returns what there is to be signed, one entry for each input, signed
// already or not.
func (r *RecordTx) ToSign() ([]ToSign, error) {
	hashes := txscript.NewTxSigHashes(r.Tx)
	var list []ToSign
	for i, u := range r.Spends {
		digest, _, err := txscript.CalcSignatureHash(u.Script, hashes, HashType, r.Tx, i, u.Value, true)
		if err != nil {
			return nil, fmt.Errorf("digest of input %d: %w", i, err)
		}
		list = append(list, ToSign{
			OutPoint: u.OutPoint,
			Value:    u.Value,
			Script:   u.Script,
			HashType: HashType,
			Digest:   [32]byte(digest),
		})
	}
	return list, nil
}

// Attach signs an input with what an external signer returned: the signature,
// ECDSA in DER or Schnorr in 64 bytes, followed by the byte of HashType, and
// the public key as it was hashed. Both are verified as a node does, and
// whether they show the author (protocol/SPEC.md §2); if that fails, the
// transaction is left as it was, and the error wraps ErrSignature.
func (r *RecordTx) Attach(input int, signature, publicKey []byte) error {
	if input < 0 || input >= len(r.Spends) {
		return fmt.Errorf("there is no input %d, expected 0 to %d", input, len(r.Spends)-1)
	}
	if n := len(signature); n < 2 || n > maxSignature || signature[n-1] != byte(HashType) {
		return fmt.Errorf("%w: input %d: expected up to %d bytes that end in the hash type 0x%02x, got %d bytes",
			ErrSignature, input, maxSignature, byte(HashType), n)
	}
	if !isPublicKey(publicKey) {
		return fmt.Errorf("%w: input %d: expected a public key of %d or %d bytes, got %d bytes",
			ErrSignature, input, compressedKey, uncompressedKey, len(publicKey))
	}
	in, spent := r.Tx.TxIn[input], r.Spends[input]
	holder, _ := P2PKHKey(spent.Script)
	if got := KeyHash(bchutil.Hash160(publicKey)); got != holder {
		return fmt.Errorf("%w: input %d: expected the public key with hash160 %x, got the one with %x", ErrSignature, input, holder, got)
	}
	unlock := appendPush(appendPush(nil, signature), publicKey)
	before := in.SignatureScript
	in.SignatureScript = unlock
	err := verify(r.Tx, input, spent.Script, spent.Value)
	if _, ok := Author(unlock, spent.Script); err == nil && !ok {
		err = errors.New("it does not show the author")
	}
	if err != nil {
		in.SignatureScript = before
		return fmt.Errorf("%w: input %d: %w", ErrSignature, input, err)
	}
	return nil
}

// verify runs an input's scripts under the rules by which nodes relay. value, in satoshi,
// and script are those of the output that it spends.
func verify(tx *wire.MsgTx, input int, script []byte, value int64) error {
	vm, err := txscript.NewEngine(script, tx, input, txscript.StandardVerifyFlags,
		nil, txscript.NewTxSigHashes(tx), txscript.NewUtxoCache(), value)
	if err != nil {
		return err
	}
	return vm.Execute()
}

// VerifyInput0 checks that the transaction's first input may spend an output, under the
// rules by which nodes relay. The error wraps ErrSignature, or ErrMalformed.
func (t Tx) VerifyInput0(spent Output) error {
	tx := new(wire.MsgTx)
	if err := tx.Deserialize(bytes.NewReader(t)); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := verify(tx, 0, spent.Script, spent.Value); err != nil {
		return fmt.Errorf("%w: input 0: %w", ErrSignature, err)
	}
	return nil
}

// Sign signs every input with the one of the private keys that can spend it: ECDSA,
// which every deployed reader knows, with deterministic nonces. An output may belong to
// a key by its compressed or its uncompressed public key. The error for an input that
// none of the keys can spend wraps ErrSignature.
func (r *RecordTx) Sign(keys ...*bchec.PrivateKey) error {
	list, err := r.ToSign()
	if err != nil {
		return err
	}
	for i, s := range list {
		key, publicKey := holderOf(s.Script, keys)
		if key == nil {
			return fmt.Errorf("%w: input %d: no key given can spend it", ErrSignature, i)
		}
		signature, err := key.SignECDSA(s.Digest[:])
		if err != nil {
			return fmt.Errorf("%w: input %d: %w", ErrSignature, i, err)
		}
		if err := r.Attach(i, append(signature.Serialize(), byte(s.HashType)), publicKey); err != nil {
			return err
		}
	}
	return nil
}

// holderOf returns the key that a P2PKH script pays, and its public key as it was hashed;
// nil if it is not among those given.
func holderOf(script []byte, keys []*bchec.PrivateKey) (key *bchec.PrivateKey, publicKey []byte) {
	holder, ok := P2PKHKey(script)
	for _, key := range keys {
		for _, publicKey := range [][]byte{key.PubKey().SerializeCompressed(), key.PubKey().SerializeUncompressed()} {
			if ok && KeyHash(bchutil.Hash160(publicKey)) == holder {
				return key, publicKey
			}
		}
	}
	return nil, nil
}
