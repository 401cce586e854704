//go:build race

package bitcoind_test

// underRace says that the race detector multiplies what reading takes.
const underRace = true
