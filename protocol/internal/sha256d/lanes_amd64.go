package sha256d

import (
	"github.com/gcash/bchd/chaincfg/chainhash"
	"golang.org/x/sys/cpu"
)

// manyLanes tells whether compress, endPair and rehash work here.
var manyLanes = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW

// compress takes the given number of blocks, at least one, that begin at next into
// the states, for each lane. next stays what it is.
//
//go:noescape
func compress(s *states, next *[lanes]*byte, blocks int)

// endPair takes what SHA-256 puts behind a message of 64 bytes into the states.
//
//go:noescape
func endPair(s *states)

// rehash computes the hash of the hash that the state of each lane is.
//
//go:noescape
func rehash(sums *[lanes]chainhash.Hash, s *states)
