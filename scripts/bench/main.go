// Bench makes realistic chains without a node, and measures keytree on them in
// one run, on one machine, beside what the machine can do at all:
//
//	go run ./scripts/bench make --dir DIR --blocks 1000
//	go run ./scripts/bench run
//	go run ./scripts/bench nodes URL URL
//
// The chains are those of scripts/bench/chain: valid to the last signature,
// equal for equal options, with 0.1 % of the transactions being actions.
//
// # What the rows of a run mean
//
// Rates are in millions of bytes of serialized blocks a second. Everything is
// measured several times, in turns so that a busy moment hits all alike; a rate
// is the median of its rounds, a ratio the median of the rounds' ratios. Only
// ratios within one run can be compared between machines.
//
// In memory, on one core, over the same few dozen blocks of 1 MB, which are more
// than caches hold:
//   - memory copy: each block to one buffer, which stays in the cache.
//   - walk: protocol.ReadBlock, which checks a block's form and finds the actions.
//   - wire decode: bchd's decoder, then a look at each output script.
//   - sha256: one pass of SHA-256 over the same bytes.
//   - walk and merkle root: also all txids and the merkle root. That takes a double
//     SHA-256 of each transaction and two or so more of 64 bytes, so about two and
//     a half passes for payments.
//
// From files (all cores), in a process of its own and into an empty database each
// time. The files are warm: they have just been read, so they come from the page
// cache, and a disk that is slower sets the pace in their stead. The time is that
// of the import, without the start of the process and the opening of the
// database.
//   - read the files: nothing but reading them, one after the other.
//   - import: as keytree import does it. Every block has its merkle root checked, and
//     every author's signature is verified.
//   - import, verify actions: only a block with an action has its merkle root checked,
//     so what it costs depends on how many blocks have one: with 0.1 % every block
//     of 1 MB, with 0.002 % one of eleven.
//
// From a real bchd on the same machine, with which it shares the cores. The node
// is warm too, it has just been given the blocks.
//   - download: nothing but fetching all blocks, by the same adapter, as many at a
//     time as the indexer fetches.
//   - catch-up: the indexer, from an empty database to the node's tip.
//   - first sync: the same, as time from the start of the process to its end, with
//     making the database and closing it.
//
// Nodes measures download and catch-up from nodes that somebody else runs, in turns, so
// that they can be compared: with and without an index of transactions, say. They
// must have the same chain of regtest: bitcoind and its kin take one that bench make
// has written by -loadblock, once for each file.
//
// Peak memory is the most that the whole process had resident (VmHWM; Linux
// only). Disk is what the database's folder holds after it was closed.
//
// What never belongs here: a fast path that the program itself does not take.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := rootCommand().ExecuteContext(ctx)
	stop()
	switch {
	case err == nil:
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(os.Stderr, "bench: interrupted")
		os.Exit(1)
	default:
		fmt.Fprintf(os.Stderr, "bench: %s\n", strings.TrimSpace(err.Error()))
		os.Exit(1)
	}
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "bench",
		Short:         "Make realistic chains, and measure keytree on them",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.AddCommand(makeCommand(), runCommand(), nodesCommand(), childCommand())
	return root
}
