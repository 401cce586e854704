package sha256d

import "golang.org/x/sys/cpu"

// manyLanes tells whether compress and rehash work here.
var manyLanes = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW

// compress takes the given number of blocks, at least one, that begin at next into
// the states, for each lane. next stays what it is.
//
//go:noescape
func compress(s *states, next *[lanes]*byte, blocks int)

// rehash turns the states, each the hash of something, into those of the hash of
// this hash.
//
//go:noescape
func rehash(s *states)
