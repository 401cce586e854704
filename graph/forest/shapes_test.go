package forest

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// shape says who the parent of key n > 0 is.
type shape func(n int) int

var shapes = map[string]shape{
	"path": func(n int) int { return n - 1 },
	"star": func(int) int { return 0 },
	"tree": func(n int) int { return int(hash32(n) % uint32(n)) },
	// A path of every second key, each with one leaf.
	"caterpillar": func(n int) int { return max(0, n-2+n%2) },
}

func hash32(n int) uint32 {
	h := sha256.Sum256([]byte(fmt.Sprint(n)))
	return binary.LittleEndian.Uint32(h[:])
}
