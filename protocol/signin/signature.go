package signin

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/big"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/protocol"
)

// A signature in the form of bch_signMessage (protocol/SIGNIN.md §3).
const (
	magic         = "Bitcoin Signed Message:\n"
	signatureSize = 65 // bytes: the header, r, s
	textSize      = 88 // bytes of base64

	firstHeader     = 27 // of four for uncompressed public keys
	firstCompressed = 31 // of four for compressed ones
	lastHeader      = 34
)

// Sign signs a message as wallets do for bch_signMessage, with a deterministic nonce. The
// signature is for the address of the public key that the WIF names.
func Sign(message string, wif protocol.WIF) (string, error) {
	digest := digest(message)
	signature, err := bchec.SignCompact(bchec.S256(), wif.Private, digest[:], !wif.Uncompressed)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(signature), nil
}

// Signer returns the key that made a signature of a message: base64 of 65 bytes, recoverable
// ECDSA, with a public key of 33 or 65 bytes. Each message has exactly one signature for a
// choice of the signer's nonce: the other one, with a high s, is refused, and so is base64
// in another form. The error wraps protocol.ErrSignature. There is a key for nearly every
// signature, so who asks must compare it with the one expected.
func Signer(message, signature string) (protocol.KeyHash, error) {
	refuse := func(format string, args ...any) (protocol.KeyHash, error) {
		return protocol.KeyHash{}, fmt.Errorf("%w: %w", protocol.ErrSignature, fmt.Errorf(format, args...))
	}
	if len(signature) != textSize {
		return refuse("expected %d characters of base64, got %d", textSize, len(signature))
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(signature)
	if err != nil || len(raw) != signatureSize { // the decoder skips line feeds
		return refuse("expected base64 of %d bytes", signatureSize)
	}
	header := raw[0]
	if header < firstHeader || header > lastHeader {
		return refuse("expected a header byte of %d to %d, got %d", firstHeader, lastHeader, header)
	}
	order := bchec.S256().Params().N
	r, s := new(big.Int).SetBytes(raw[1:33]), new(big.Int).SetBytes(raw[33:])
	switch {
	case r.Sign() == 0 || r.Cmp(order) >= 0:
		return refuse("expected r of 1 to the order of the curve less 1, got %x", r)
	case s.Sign() == 0 || s.Cmp(new(big.Int).Rsh(order, 1)) > 0:
		return refuse("expected s of 1 to half the order of the curve, got %x", s)
	}
	if iteration := (header - firstHeader) & 3; iteration >= 2 && new(big.Int).Add(r, order).Cmp(bchec.S256().Params().P) >= 0 {
		return refuse("header byte %d says that r is less by the order of the curve, but no point has x = r + order for r = %x", header, r)
	}
	digest := digest(message)
	publicKey, compressed, err := bchec.RecoverCompact(bchec.S256(), raw, digest[:])
	if err != nil {
		return refuse("no key made it: %w", err)
	}
	if !publicKey.IsOnCurve(publicKey.X, publicKey.Y) { // the point at infinity comes as 0, 0
		return refuse("no key made it")
	}
	if compressed {
		return protocol.KeyHash(bchutil.Hash160(publicKey.SerializeCompressed())), nil
	}
	return protocol.KeyHash(bchutil.Hash160(publicKey.SerializeUncompressed())), nil
}

// digest returns what is signed of a message, in the order in which SHA-256 gives it.
func digest(message string) [32]byte {
	var preimage bytes.Buffer
	for _, s := range []string{magic, message} {
		wire.WriteVarString(&preimage, 0, s) // a buffer takes all
	}
	return [32]byte(chainhash.DoubleHashB(preimage.Bytes()))
}
