package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// branch is one key of a drawn tree.
type branch struct {
	depth uint32 // links between the key and the root
	label string
}

// drawTree draws keys that come depth first from the root. cut tells that more
// keys follow: lines that may go on are then left open.
func drawTree(w io.Writer, keys []branch, cut bool) {
	// follows[i] tells whether a sibling of key i comes after it. Going backwards,
	// open[d] is whether a key of depth d will come before any above it.
	follows := make([]bool, len(keys))
	var open []bool
	if n := len(keys); cut && n > 0 {
		open = slices.Repeat([]bool{true}, int(keys[n-1].depth)+1)
	}
	for i, k := range slices.Backward(keys) {
		d := int(k.depth)
		for len(open) <= d {
			open = append(open, false)
		}
		follows[i] = open[d]
		open[d] = true
		open = open[:d+1]
	}

	var lines []string // for each depth above the key, what continues there
	for i, k := range keys {
		if k.depth == 0 {
			fmt.Fprintln(w, k.label)
			continue
		}
		lines = lines[:k.depth-1]
		turn, down := "└─ ", "   "
		if follows[i] {
			turn, down = "├─ ", "│  "
		}
		fmt.Fprintln(w, strings.Join(lines, "")+turn+k.label)
		lines = append(lines, down)
	}
}
