package hashchain

import "crypto/sha512"

// Nonce is the random number of an entry from which its two keys are derived.
type Nonce [8]byte

// key is k1 or k2 of an entry (keyserver/WIRE.md §9).
type key [64]byte

// CKDF derives the two keys of an entry: k1 tells whether an entry is an
// identity's, k2 opens it.
func CKDF(n Nonce) (k1, k2 [64]byte) {
	a1, a2 := halves(n)
	return derive(a1, a2), derive(a2, a1)
}

// firstKey is k1 alone: all that a search needs for entries of others.
func firstKey(n Nonce) key {
	a1, a2 := halves(n)
	return derive(a1, a2)
}

// halves hashes the nonce and repeats each half of the hash.
func halves(n Nonce) (a1, a2 key) {
	a := sha512.Sum512(n[:])
	copy(a1[copy(a1[:], a[:32]):], a[:32])
	copy(a2[copy(a2[:], a[32:]):], a[32:])
	return a1, a2
}

// derive returns SHA512((outer⊕5c…)‖SHA512(inner⊕36…)).
func derive(outer, inner key) key {
	var b [128]byte
	for i, x := range inner {
		b[i] = x ^ 0x36
	}
	sum := sha512.Sum512(b[:64])
	for i, x := range outer {
		b[i] = x ^ 0x5c
	}
	copy(b[64:], sum[:])
	return sha512.Sum512(b[:])
}
