//go:build !amd64

package sha256d

import "github.com/gcash/bchd/chaincfg/chainhash"

// manyLanes tells whether compress, endPair and rehash work here.
const manyLanes = false

func compress(*states, *[lanes]*byte, int) { panic("sha256d: no such instructions") }

func endPair(*states) { panic("sha256d: no such instructions") }

func rehash(*[lanes]chainhash.Hash, *states) { panic("sha256d: no such instructions") }
