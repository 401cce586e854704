package main

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/dustin/go-humanize"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/graph"
)

// leastMemory is the least that a server can be given, in bytes.
const leastMemory = 128 << 20

// memoryFlag adds the flag that tells how much memory the process may take, in bytes; nil
// if it is not given.
func memoryFlag(flags *pflag.FlagSet) *parsed[*int64] {
	p := newParsed("SIZE", "", func(s string) (*int64, error) {
		n, err := humanize.ParseBytes(s)
		if err != nil || n < leastMemory || n > math.MaxInt64 {
			return nil, fmt.Errorf("expected a size of at least %s, such as 1GiB, got %q", humanize.IBytes(leastMemory), shortened(s))
		}
		m := int64(n)
		return &m, nil
	})
	flags.Var(p, "memory", "what it may take of memory, such as 1GiB; caches and what is on its way follow it, links in force must have room in it "+
		"(default GOMEMLIMIT, else the control group's limit, else "+humanize.IBytes(graph.DefaultMemory)+")")
	setting(flags, "memory")
	return p
}

// stateRootFlag adds the flag that tells whether blocks get a state root.
func stateRootFlag(flags *pflag.FlagSet) *parsed[bool] {
	p := newParsed("WHETHER", "on", func(s string) (bool, error) {
		if s != "on" && s != "off" {
			return false, fmt.Errorf("expected on or off, got %q", shortened(s))
		}
		return s == "on", nil
	})
	flags.Var(p, "state-root", "on or off: each block gets a hash of all that is true after it, by which answers can be proven; off saves some 90 bytes "+
		"of memory for each key in links, and blocks that come meanwhile have none, until they are indexed again")
	setting(flags, "state-root")
	return p
}

// proofMapFlags tell what proofs as of older blocks may take.
type proofMapFlags struct {
	rebuild *parsed[uint32] // keys
	memory  *parsed[int64]  // bytes; 0: what the graph takes of all
}

func newProofMapFlags(flags *pflag.FlagSet) proofMapFlags {
	f := proofMapFlags{rebuild: numberFlag(flags, "proof-rebuild-keys", graph.DefaultProofRebuildKeys, 1, math.MaxInt32,
		"keys in links up to which the map under the state root of an older block is made anew for a proof, one at a time: some 2 s and 200 MB for a million")}
	f.memory = newParsed("SIZE", "", func(s string) (int64, error) {
		n, err := humanize.ParseBytes(s)
		if err != nil || n == 0 || n > math.MaxInt64 {
			return 0, fmt.Errorf("expected a size such as 64MiB, got %q", shortened(s))
		}
		return int64(n), nil
	})
	flags.Var(f.memory, "proof-memory", "what maps under the state root of older blocks may take of the memory, so that proofs need not make them anew (default an eighth of --memory)")
	setting(flags, "proof-rebuild-keys", "proof-memory")
	return f
}

// useProcessors has Go do two things at a time where there is one processor, unless it was told how many: of two the system
// lets each go on in turn, while Go alone lets what waits for the network wait for long answers, and for the collector of garbage.
func useProcessors() {
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < 2 {
		runtime.GOMAXPROCS(2)
	}
}

// limitMemory returns how many bytes of memory the process may take, and has the garbage
// collector keep to it.
func limitMemory(given *int64) int64 {
	limit := int64(graph.DefaultMemory)
	collector := os.Getenv("GOMEMLIMIT") != ""
	group, err := memlimit.FromCgroup()
	switch {
	case given != nil:
		limit = *given
	case collector:
		limit = debug.SetMemoryLimit(-1)
	case err == nil && group >= leastMemory && group < math.MaxInt64:
		limit = int64(group)
	}
	if !collector {
		debug.SetMemoryLimit(graph.Usable(limit))
	}
	return limit
}
