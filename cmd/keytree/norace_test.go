//go:build !race

package main

// underRace says that the race detector multiplies what starting one takes.
const underRace = false
