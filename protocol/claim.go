package protocol

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"
)

// Claim is what input 0 of a transaction says about who acted, and what it takes
// to check that (protocol/SPEC.md §2): the key, its signature, and the parts of what is
// signed that do not depend on the outputs that the transaction spends. Nothing of
// it aliases the transaction, whose size it does not grow with, but for Inputs.
//
// It never changes, and may be used concurrently.
type Claim struct {
	// Key is who the scriptSig names. That alone proves nothing, see ClaimedAuthor.
	Key KeyHash
	// Inputs are the outputs that have to be known for Verify: the one that input 0
	// spends, or those that all inputs spend if the signature covers them all (UTXOS).
	Inputs []wire.OutPoint

	publicKey []byte
	signature []byte // without the hash type
	hashType  byte

	// Parts of what is signed.
	version, sequence, lockTime uint32 // sequence is that of input 0
	prevouts, sequences         chainhash.Hash
	outputs                     chainhash.Hash
}

// Claim returns what input 0 claims. If ok is false the transaction has no author,
// whatever it spends: it is a coinbase, or its scriptSig is of another form.
func (t Tx) Claim() (c *Claim, ok bool) {
	spends, unlock := t.Input0()
	if spends == (wire.OutPoint{Index: wire.MaxPrevOutIndex}) {
		return nil, false
	}
	signature, publicKey, ok := claimItems(unlock)
	if !ok {
		return nil, false
	}
	last := len(signature) - 1
	c = &Claim{
		Key:       KeyHash(bchutil.Hash160(publicKey)),
		publicKey: bytes.Clone(publicKey), signature: bytes.Clone(signature[:last]), hashType: signature[last],
	}
	c.takeParts(t)
	return c, true
}

// takeParts takes out of the transaction what is signed of it, in one walk.
func (c *Claim) takeParts(t Tx) {
	prevouts, sequences := sha256.New(), sha256.New()
	inputs, off, _ := compactSize(t, versionSize)
	if c.coversSpent() {
		c.Inputs = make([]wire.OutPoint, 0, inputs)
	}
	for n := range inputs {
		spends := t[off : off+outPointSize]
		size, next, _ := compactSize(t, off+outPointSize)
		off = next + int(size) + sequenceSize
		sequence := t[off-sequenceSize : off]
		prevouts.Write(spends)
		sequences.Write(sequence)
		if n == 0 {
			c.sequence = binary.LittleEndian.Uint32(sequence)
		}
		if n == 0 || c.coversSpent() {
			c.Inputs = append(c.Inputs, wire.OutPoint{
				Hash: chainhash.Hash(spends[:chainhash.HashSize]), Index: binary.LittleEndian.Uint32(spends[chainhash.HashSize:]),
			})
		}
	}
	_, off, _ = compactSize(t, off)
	end := len(t) - lockTimeSize
	c.version = binary.LittleEndian.Uint32(t)
	c.prevouts = sha256.Sum256(prevouts.Sum(nil))
	c.sequences = sha256.Sum256(sequences.Sum(nil))
	c.outputs = chainhash.DoubleHashH(t[off:end])
	c.lockTime = binary.LittleEndian.Uint32(t[end:])
}

// claimItems returns the two items of a scriptSig that claims an author.
func claimItems(scriptSig []byte) (signature, publicKey []byte, ok bool) {
	if len(scriptSig) == 0 {
		return nil, nil, false
	}
	signature, rest, err := nextPush(scriptSig)
	if err != nil || len(signature) == 0 || len(rest) == 0 {
		return nil, nil, false
	}
	publicKey, rest, err = nextPush(rest)
	if err != nil || len(rest) > 0 || !isPublicKey(publicKey) {
		return nil, nil, false
	}
	return signature, publicKey, coversAll(signature[len(signature)-1])
}

// HeldBy reports whether the claim holds if input 0 spends an output with that
// script field, token prefix included: if it is exactly P2PKH of Key.
func (c *Claim) HeldBy(spentScript []byte) bool {
	owner, ok := P2PKHKey(StripTokenPrefix(spentScript))
	return ok && owner == c.Key
}

// coversSpent reports whether the signature covers the outputs that all inputs
// spend (CHIP-2022-02, SIGHASH_UTXOS).
func (c *Claim) coversSpent() bool { return c.hashType&byte(txscript.SigHashUTXO) != 0 }

// Checkable reports whether Verify knows what was signed: whether the signature has
// FORKID, as all have since August 2017 (testnet3: block 1,155,876).
func (c *Claim) Checkable() bool { return c.hashType&byte(txscript.SigHashForkID) != 0 }

// Verify checks the signature of a claim that is Checkable, by the rules of net's
// block at height, given the outputs that c.Inputs name, in their order, of which
// HeldBy must be true for the first. The error wraps ErrSignature: then these are
// not the outputs, or the block is not valid, or this check is wrong.
func (c *Claim) Verify(net *chaincfg.Params, height uint32, spent []Output) error {
	if !c.Checkable() || len(spent) != len(c.Inputs) || !c.HeldBy(spent[0].Script) {
		return fmt.Errorf("%w: expected %d outputs, the first of them the key's, and a signature with FORKID", ErrSignature, len(c.Inputs))
	}
	publicKey, err := bchec.ParsePubKey(c.publicKey, bchec.S256())
	if err != nil {
		return fmt.Errorf("%w: public key: %w", ErrSignature, err)
	}
	signature, err := c.parse(net, height)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	digest := c.digest(spent)
	if !signature.Verify(digest[:], publicKey) {
		return fmt.Errorf("%w: %w", ErrSignature, errNotSigned)
	}
	return nil
}

var errNotSigned = errors.New("the key has not signed this transaction, if it spends these outputs")

// parse reads the signature: one of 64 bytes is Schnorr's since the upgrade of May
// 2019 (mainnet: from block 582,680 on), any other is ECDSA's in DER.
func (c *Claim) parse(net *chaincfg.Params, height uint32) (*bchec.Signature, error) {
	if len(c.signature) == schnorrSize && int64(height) > int64(net.GreatWallForkHeight) {
		return bchec.ParseSchnorrSignature(c.signature)
	}
	return bchec.ParseDERSignature(c.signature, bchec.S256())
}

// schnorrSize is the size of a Schnorr signature in bytes, without the hash type.
const schnorrSize = 64

// digest is what is signed: the replay-protected digest
// (https://github.com/bitcoincashorg/bitcoincash.org/blob/master/spec/replay-protected-sighash.md),
// with what CHIP-2022-02 adds for tokens and for UTXOS.
func (c *Claim) digest(spent []Output) chainhash.Hash {
	field := spent[0].Script
	script := StripTokenPrefix(field)
	b := make([]byte, 0, 512)
	b = binary.LittleEndian.AppendUint32(b, c.version)
	b = append(b, c.prevouts[:]...)
	if c.coversSpent() {
		all := hashOutputs(spent)
		b = append(b, all[:]...)
	}
	b = append(b, c.sequences[:]...)
	b = append(b, c.Inputs[0].Hash[:]...)
	b = binary.LittleEndian.AppendUint32(b, c.Inputs[0].Index)
	b = append(b, field[:len(field)-len(script)]...) // the token prefix
	b = append(b, byte(len(script)))
	b = append(b, script...)
	b = binary.LittleEndian.AppendUint64(b, uint64(spent[0].Value))
	b = binary.LittleEndian.AppendUint32(b, c.sequence)
	b = append(b, c.outputs[:]...)
	b = binary.LittleEndian.AppendUint32(b, c.lockTime)
	b = binary.LittleEndian.AppendUint32(b, uint32(c.hashType))
	return chainhash.DoubleHashH(b)
}

// hashOutputs is the double SHA-256 over outputs as they are serialized.
func hashOutputs(outputs []Output) chainhash.Hash {
	h := sha256.New()
	for _, output := range outputs {
		h.Write(binary.LittleEndian.AppendUint64(nil, uint64(output.Value)))
		if err := wire.WriteVarInt(h, 0, uint64(len(output.Script))); err != nil {
			panic(err) // a hash takes everything
		}
		h.Write(output.Script)
	}
	return sha256.Sum256(h.Sum(nil))
}
