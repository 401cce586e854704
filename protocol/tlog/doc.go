// Package tlog is what transparency logs, their witnesses and those who check them say to each
// other, in the formats of C2SP (https://c2sp.org), so that programs that know nothing of
// keytree can read and check a keyserver's log. Notes and the Merkle tree's arithmetic are
// golang.org/x/mod's.
//
//	tile.go        where tiles and entry bundles are; which there are (tlog-tiles)
//	bundle.go      entries in a bundle (tlog-tiles)
//	checkpoint.go  the size and root that a log has signed (tlog-checkpoint)
//	key.go         keys of logs and witnesses; signatures and cosignatures (signed-note, tlog-cosignature)
//	policy.go      which logs, and how many of which witnesses, somebody trusts (tlog-policy)
//	prove.go       proofs made of a log's tiles
//	proof.go       a file that shows that an entry is in a log (tlog-proof)
//	submission.go  what a log sends a witness, and what it gets (tlog-witness)
//
// All that is parsed has a bound on its size, and only the one form in which it is written is
// accepted. What never belongs here: files, the network, what an entry means.
package tlog

import "errors"

// Why something is not accepted.
var (
	// ErrFormat says that something does not have the form that it should have.
	ErrFormat = errors.New("not in the format of a transparency log")
	// ErrSignature says that a note is not signed by the key that was expected, or that a
	// signature by that key is wrong.
	ErrSignature = errors.New("signature does not hold")
	// ErrProof says that a Merkle proof does not show what it should. If the log has signed
	// both ends, it has shown two histories: keep what it said.
	ErrProof = errors.New("proof of the Merkle tree does not hold")
	// ErrQuorum says that fewer witnesses have cosigned a checkpoint than the policy demands.
	// Get a newer one, or ask the log's operator.
	ErrQuorum = errors.New("too few witnesses have cosigned")
)
