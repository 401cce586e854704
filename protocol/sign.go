package protocol

import (
	"errors"
	"fmt"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"
)

// HashType is the hash type of every signature of a link transaction: it covers
// all inputs and all outputs.
const HashType = txscript.SigHashAll | txscript.SigHashForkID

// ErrSignature is wrapped by the errors about a key or signature that is not
// good for a link transaction. No error holds anything secret.
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
func (l *LinkTx) ToSign() ([]ToSign, error) {
	hashes := txscript.NewTxSigHashes(l.Tx)
	var list []ToSign
	for i, u := range l.Spends {
		digest, _, err := txscript.CalcSignatureHash(u.Script, hashes, HashType, l.Tx, i, u.Value, true)
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
// whether they show the author (identity-rules §2); if that fails, the
// transaction is left as it was, and the error wraps ErrSignature.
func (l *LinkTx) Attach(input int, signature, publicKey []byte) error {
	if input < 0 || input >= len(l.Spends) {
		return fmt.Errorf("there is no input %d, expected 0 to %d", input, len(l.Spends)-1)
	}
	if n := len(signature); n < 2 || n > maxSignature || signature[n-1] != byte(HashType) {
		return fmt.Errorf("%w: input %d: expected up to %d bytes that end in the hash type 0x%02x, got %d bytes",
			ErrSignature, input, maxSignature, byte(HashType), n)
	}
	if !isPublicKey(publicKey) {
		return fmt.Errorf("%w: input %d: expected a public key of %d or %d bytes, got %d bytes",
			ErrSignature, input, compressedKey, uncompressedKey, len(publicKey))
	}
	if got := KeyHash(bchutil.Hash160(publicKey)); got != l.Author() {
		return fmt.Errorf("%w: input %d: expected the public key with hash160 %x, got the one with %x", ErrSignature, input, l.Author(), got)
	}
	unlock := appendPush(appendPush(nil, signature), publicKey)
	in, spent := l.Tx.TxIn[input], l.Spends[input]
	before := in.SignatureScript
	in.SignatureScript = unlock
	err := verify(l.Tx, input, spent)
	if _, ok := Author(unlock, spent.Script); err == nil && !ok {
		err = errors.New("it does not show the author")
	}
	if err != nil {
		in.SignatureScript = before
		return fmt.Errorf("%w: input %d: %w", ErrSignature, input, err)
	}
	return nil
}

// verify runs an input's scripts under the rules by which nodes relay.
func verify(tx *wire.MsgTx, input int, spent UTXO) error {
	vm, err := txscript.NewEngine(spent.Script, tx, input, txscript.StandardVerifyFlags,
		nil, txscript.NewTxSigHashes(tx), txscript.NewUtxoCache(), spent.Value)
	if err != nil {
		return err
	}
	return vm.Execute()
}

// Sign signs every input with the author's private key: ECDSA, which every
// deployed reader knows, with deterministic nonces. The key may belong to the
// author by its compressed or its uncompressed public key. The error for
// another key wraps ErrSignature.
func (l *LinkTx) Sign(key *bchec.PrivateKey) error {
	publicKey := key.PubKey().SerializeCompressed()
	if KeyHash(bchutil.Hash160(publicKey)) != l.Author() {
		publicKey = key.PubKey().SerializeUncompressed()
	}
	list, err := l.ToSign()
	if err != nil {
		return err
	}
	for i, s := range list {
		signature, err := key.SignECDSA(s.Digest[:])
		if err != nil {
			return fmt.Errorf("%w: input %d: %w", ErrSignature, i, err)
		}
		if err := l.Attach(i, append(signature.Serialize(), byte(s.HashType)), publicKey); err != nil {
			return err
		}
	}
	return nil
}
