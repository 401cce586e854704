package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

func nodesCommand() *cobra.Command {
	b := &benchmark{}
	cmd := &cobra.Command{
		Use:   "nodes URL...",
		Short: "Measure catching up from nodes that are there",
		Long: `nodes measures how fast blocks can be downloaded from nodes that hold the same chain
of regtest, and how fast keytree catches up with each, beside that and beside the
first node. URLs are those of keytree serve --node; a password in one can be read by
other users of the machine.

Progress goes to standard error, the table to standard output. What the rows
mean: go doc ./scripts/bench`,
		Example: `  go run ./scripts/bench nodes 'http://127.0.0.1:18443?cookie=a/regtest/.cookie' 'http://127.0.0.1:18444?cookie=b/regtest/.cookie'`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, urls []string) (err error) {
			if b.rounds < 1 {
				return fmt.Errorf("expected --rounds of 1 or more, got %d", b.rounds)
			}
			if b.dir, err = os.MkdirTemp("", "keytree-bench-"); err != nil {
				return fmt.Errorf("folder for temporary files: %w", err)
			}
			defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
			b.log, b.report = cmd.ErrOrStderr(), newReport([]string{"nodes"}) // not the URLs: there may be passwords
			began := time.Now()
			if err := b.nodes(cmd, urls); err != nil {
				return err
			}
			fmt.Fprintf(b.log, "all in %.0f s\n\n", time.Since(began).Seconds())
			return b.report.writeTable(cmd.OutOrStdout())
		},
	}
	cmd.Flags().IntVar(&b.rounds, "rounds", 5, "how often each thing is measured")
	return cmd
}

// nodes measures the nodes in turns.
func (b *benchmark) nodes(cmd *cobra.Command, urls []string) error {
	measured := make(rounds)
	name := func(do string, i int) string { return fmt.Sprintf("%s, node %d", do, i+1) }
	var first outcome
	for range b.rounds {
		for i, node := range urls {
			got, err := runJob(cmd.Context(), job{Do: download, Node: node})
			if err != nil {
				return err
			}
			caught, err := runJob(cmd.Context(), job{Do: catchUp, Node: node, DB: filepath.Join(b.dir, "db")})
			if err != nil {
				return err
			}
			if first.Tip == "" {
				first = caught
			}
			if got.Tip != first.Tip || caught.Tip != first.Tip || caught.Links != first.Links || caught.Refused != first.Refused {
				return fmt.Errorf("node %d has another chain: tip %s, %d links, %d actions refused, expected %s, %d, %d",
					i+1, caught.Tip, caught.Links, caught.Refused, first.Tip, first.Links, first.Refused)
			}
			measured.add(name(download, i), megabytesPerSecond(got.Bytes, got.Seconds))
			measured.add(name(catchUp, i), megabytesPerSecond(got.Bytes, caught.Seconds))
			measured.add(name("memory", i), float64(caught.PeakMemory)/mebibyte)
		}
	}
	for i := range urls {
		group := fmt.Sprintf("node %d", i+1)
		if u, err := url.Parse(urls[i]); err == nil {
			group += " at " + u.Host
		}
		ratios := []ratio{measured.ratio(name(catchUp, i), name(download, i), 0)}
		if i > 0 {
			ratios = append(ratios, measured.ratio(name(catchUp, i), name(catchUp, 0), 0))
		}
		b.report.add(
			row{Group: group, What: name(download, i), Value: measured.median(name(download, i)), Unit: "MB/s"},
			row{Group: group, What: name(catchUp, i), Value: measured.median(name(catchUp, i)), Unit: "MB/s", Ratios: ratios},
			row{Group: group, What: "peak memory", Value: maximum(measured[name("memory", i)]), Unit: "MiB"},
		)
	}
	return nil
}
