package chain

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/big"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/protocol"
)

// hashType commits to all inputs and outputs, which makes the signer the author
// (protocol/SPEC.md §2).
const hashType = txscript.SigHashAll | txscript.SigHashForkID

// key is a key pair that owns P2PKH outputs.
type key struct {
	secret  *big.Int
	public  []byte // compressed
	hash    protocol.KeyHash
	script  []byte // the locking script
	schnorr bool
}

// secret derives a number from the seed; equal arguments give equal ones.
func secret(seed uint64, use string, number int) *big.Int {
	preimage := fmt.Appendf(binary.LittleEndian.AppendUint64(nil, seed), "keytree bench %s %d", use, number)
	digest := sha256.Sum256(preimage)
	n := new(big.Int).SetBytes(digest[:])
	return n.Mod(n, bchec.S256().N)
}

func newKey(seed uint64, use string, number int) *key {
	k := &key{secret: secret(seed, use, number), schnorr: number%2 == 1}
	_, public := bchec.PrivKeyFromBytes(bchec.S256(), k.secret.Bytes())
	k.public = public.SerializeCompressed()
	k.hash = protocol.KeyHash(bchutil.Hash160(k.public))
	k.script = p2pkh(k.hash)
	return k
}

func p2pkh(hash protocol.KeyHash) []byte {
	script := append([]byte{txscript.OP_DUP, txscript.OP_HASH160, txscript.OP_DATA_20}, hash[:]...)
	return append(script, txscript.OP_EQUALVERIFY, txscript.OP_CHECKSIG)
}

func (k *key) output(value int64) *wire.TxOut {
	return wire.NewTxOut(value, k.script, wire.TokenData{})
}

// inputSize is how many bytes an input that spends an output of the key has at
// most: outpoint, scriptSig with signature and public key, sequence.
func (k *key) inputSize() int64 {
	signature := int64(72)
	if k.schnorr {
		signature = 65
	}
	return 36 + 1 + (1 + signature) + (1 + 33) + 4
}

// signer signs with one nonce (see the package comment). It never changes, so it
// may be used concurrently.
type signer struct {
	nonce   *big.Int // for Schnorr, whose R has a y that is a square
	inverse *big.Int // of the nonce, for ECDSA
	r       *big.Int
	rBytes  []byte
	halfN   *big.Int
}

func newSigner(seed uint64) *signer {
	curve := bchec.S256()
	k := secret(seed, "nonce", 0)
	x, y := curve.ScalarBaseMult(k.Bytes())
	s := &signer{
		nonce: k, inverse: new(big.Int).ModInverse(k, curve.N), r: x,
		rBytes: x.FillBytes(make([]byte, 32)), halfN: new(big.Int).Rsh(curve.N, 1),
	}
	if big.Jacobi(y, curve.P) != 1 {
		s.nonce = new(big.Int).Sub(curve.N, k)
	}
	return s
}

// sign puts a scriptSig into each input of tx, of which input i spends spends[i].
func (s *signer) sign(tx *wire.MsgTx, spends []coin) error {
	hashes := txscript.NewTxSigHashes(tx)
	for i, c := range spends {
		digest, _, err := txscript.CalcSignatureHash(c.owner.script, hashes, hashType, tx, i, c.value, true)
		if err != nil {
			return fmt.Errorf("input %d: %w", i, err)
		}
		signature := s.ecdsa(c.owner, digest)
		if c.owner.schnorr {
			signature = s.schnorr(c.owner, digest)
		}
		script := make([]byte, 0, len(signature)+len(c.owner.public)+3)
		script = append(append(script, byte(len(signature)+1)), signature...)
		script = append(script, byte(hashType), byte(len(c.owner.public)))
		tx.TxIn[i].SignatureScript = append(script, c.owner.public...)
	}
	return nil
}

func (s *signer) ecdsa(k *key, digest []byte) []byte {
	n := bchec.S256().N
	sum := new(big.Int).Mul(s.r, k.secret)
	sum.Add(sum, new(big.Int).SetBytes(digest))
	sum.Mul(sum.Mod(sum, n), s.inverse).Mod(sum, n)
	if sum.Cmp(s.halfN) > 0 {
		sum.Sub(n, sum) // nodes want the lower of the two
	}
	return (&bchec.Signature{R: s.r, S: sum}).Serialize()
}

func (s *signer) schnorr(k *key, digest []byte) []byte {
	n := bchec.S256().N
	challenge := sha256.Sum256(bytes.Join([][]byte{s.rBytes, k.public, digest}, nil))
	sum := new(big.Int).SetBytes(challenge[:])
	sum.Mul(sum, k.secret).Add(sum, s.nonce).Mod(sum, n)
	return append(bytes.Clone(s.rBytes), sum.FillBytes(make([]byte, 32))...)
}
