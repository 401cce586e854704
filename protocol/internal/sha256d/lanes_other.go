//go:build !amd64

package sha256d

// manyLanes tells whether compress and rehash work here.
const manyLanes = false

func compress(*states, *[lanes]*byte, int) { panic("sha256d: no such instructions") }

func rehash(*states) { panic("sha256d: no such instructions") }
