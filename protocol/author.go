package protocol

import (
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchutil"
)

// hashTypeMask selects the base type of a signature's hash-type byte.
const hashTypeMask = 0x1f

// coversAll reports whether a signature of this hash type covers all outputs and
// all inputs (protocol/SPEC.md §2): its base type is ALL, and ANYONECANPAY is clear. FORKID
// and UTXOS do not matter.
//
// A signature by NONE or SINGLE leaves outputs open: whoever receives one, say as
// the offer of a token sale, can move it under an OP_RETURN of their own, and the
// network accepts that. One with ANYONECANPAY leaves the other inputs open, and
// its own place among them: whoever collects pledges can move one of them to input
// 0 of a transaction that the pledger has never seen as what it is.
func coversAll(hashType byte) bool {
	return hashType&hashTypeMask == byte(txscript.SigHashAll) && hashType&byte(txscript.SigHashAnyOneCanPay) == 0
}

// ClaimedAuthor returns the key that a scriptSig, input 0's, claims to act for
// (protocol/SPEC.md §2): it must be two pushes and nothing else, a signature whose hash
// type covers all inputs and outputs, and a public key, whose hash160 is returned.
//
// A claim proves nothing. Anyone can fund an output locked by OP_2DROP OP_1 and
// unlock it with a made-up signature and the victim's public key: a well-formed
// claim. Author settles it, with the output that the input spends. What
// ClaimedAuthor is good for is to know, without fetching that output, that a
// transaction cannot have an author.
func ClaimedAuthor(scriptSig []byte) (KeyHash, bool) {
	_, publicKey, ok := claimItems(scriptSig)
	if !ok {
		return KeyHash{}, false
	}
	return KeyHash(bchutil.Hash160(publicKey)), true
}

// Author returns the key that stands behind a transaction (protocol/SPEC.md §2),
// given the scriptSig of its input 0 and the script field, with its token
// prefix if it has one, of the output that this input spends. ok is false if
// the transaction has no author.
//
// The caller vouches for two things that cannot be seen here. The transaction
// is in a block that the node accepted, so that the signature is valid for the
// spent script. And spentScript comes from a source that was checked against
// the outpoint (SpentOutput), or is somebody's word that the signature bears out
// (Claim.Verify), never from the transaction itself. Then, as the spent script is exactly P2PKH of the key,
// only its owner can have made the signature, and the signature covers the
// OP_RETURN. Any other script, be it one that the same scriptSig satisfies,
// shows no such thing: since May 2026 every script is standard, so a forgery
// costs nothing but its fee.
func Author(scriptSig, spentScript []byte) (author KeyHash, ok bool) {
	claimed, ok := ClaimedAuthor(scriptSig)
	if !ok {
		return KeyHash{}, false
	}
	owner, ok := P2PKHKey(StripTokenPrefix(spentScript))
	if !ok || owner != claimed {
		return KeyHash{}, false
	}
	return owner, true
}

// isPublicKey reports whether item has the form of a public key, the only two
// that consensus has let through since 2017: 33 bytes compressed, 65 bytes
// uncompressed.
func isPublicKey(item []byte) bool {
	switch len(item) {
	case 33:
		return item[0] == 2 || item[0] == 3
	case 65:
		return item[0] == 4
	}
	return false
}
