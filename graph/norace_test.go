//go:build !race

package graph

// underRace says that the race detector multiplies what a process takes.
const underRace = false
