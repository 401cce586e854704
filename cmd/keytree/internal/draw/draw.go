// Package draw draws trees for a terminal. What never belongs here: where a tree comes from.
package draw

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// Branch is one key of a drawn tree.
type Branch struct {
	Depth uint32 // links between the key and the root
	Label string
}

// Tree draws keys that come depth first from the root. cut tells that more
// keys follow: lines that may go on are then left open.
func Tree(w io.Writer, keys []Branch, cut bool) {
	// follows[i] tells whether a sibling of key i comes after it. Going backwards,
	// open[d] is whether a key of depth d will come before any above it.
	follows := make([]bool, len(keys))
	var open []bool
	if n := len(keys); cut && n > 0 {
		open = slices.Repeat([]bool{true}, int(keys[n-1].Depth)+1)
	}
	for i, k := range slices.Backward(keys) {
		d := int(k.Depth)
		for len(open) <= d {
			open = append(open, false)
		}
		follows[i] = open[d]
		open[d] = true
		open = open[:d+1]
	}

	var lines []string // for each depth above the key, what continues there
	for i, k := range keys {
		if k.Depth == 0 {
			fmt.Fprintln(w, k.Label)
			continue
		}
		lines = lines[:k.Depth-1]
		turn, down := "└─ ", "   "
		if follows[i] {
			turn, down = "├─ ", "│  "
		}
		fmt.Fprintln(w, strings.Join(lines, "")+turn+k.Label)
		lines = append(lines, down)
	}
}
