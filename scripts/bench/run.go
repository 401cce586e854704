package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/gcash/bchd/wire"
	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/scripts/bench/chain"
)

// benchmark is one run.
type benchmark struct {
	seed       uint64
	rounds     int
	memorySize byteSize
	fileSize   byteSize
	nodeSize   byteSize
	dir        string // for what the run makes, removed at its end
	log        io.Writer
	report     *report
}

func runCommand() *cobra.Command {
	b := &benchmark{memorySize: 48e6, fileSize: 256e6, nodeSize: 64e6}
	asJSON := false
	parent := ""
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Measure keytree and print a table",
		Long: `run makes its own chains and measures, in one run: the walk over blocks in memory,
the import from files, and catching up from a real bchd, each beside what the
machine can do at all. It takes some minutes on two idle cores, and up to 1 GB
in the folder for temporary files, which it clears.

Progress goes to standard error, the table to standard output. What the rows
mean: go doc ./scripts/bench`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if b.rounds < 1 {
				return fmt.Errorf("expected --rounds of 1 or more, got %d", b.rounds)
			}
			if b.dir, err = os.MkdirTemp(parent, "keytree-bench-"); err != nil {
				return fmt.Errorf("folder for temporary files: %w", err)
			}
			defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
			b.log, b.report = cmd.ErrOrStderr(), newReport(os.Args[1:])
			began := time.Now()
			for _, part := range []func(context.Context) error{b.inMemory, b.fromFiles, b.fromNode} {
				if err := part(cmd.Context()); err != nil {
					return err
				}
			}
			fmt.Fprintf(b.log, "all in %.0f s\n\n", time.Since(began).Seconds())
			if asJSON {
				return b.report.writeJSON(cmd.OutOrStdout())
			}
			return b.report.writeTable(cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.BoolVar(&asJSON, "json", false, "print JSON in place of the table")
	flags.IntVar(&b.rounds, "rounds", 5, "how often each thing is measured")
	flags.Var(&b.memorySize, "memory-size", "blocks measured in memory; 0: none")
	flags.Var(&b.fileSize, "file-size", "blocks imported from files, by size of block those that fit; 0: none")
	flags.Var(&b.nodeSize, "node-size", "blocks fetched from a node, likewise; 0: none")
	flags.Uint64Var(&b.seed, "seed", 1, "of the chains")
	flags.StringVar(&parent, "dir", "", "folder for temporary files (default the system's)")
	return cmd
}

func megabytesPerSecond(size int64, seconds float64) float64 { return float64(size) / seconds / 1e6 }

const mebibyte = 1 << 20

// fromFiles measures the import.
func (b *benchmark) fromFiles(ctx context.Context) error {
	for _, c := range []struct {
		size    int
		actions float64
		plain   float64 // MB/s at least
		only    float64 // the same, with --verify actions
	}{
		{1_000_000, 0.001, 600, 1000},
		{1_000_000, 0.00002, 600, 1000},
		{32_000_000, 0.001, 600, 1000},
	} {
		opt := chain.Options{Seed: b.seed, Blocks: int(b.fileSize) / c.size, BlockSize: c.size, Actions: c.actions}
		if opt.Blocks == 0 {
			continue
		}
		group := fmt.Sprintf("from files, %s in blocks of %s, %s actions", formatBytes(int64(b.fileSize)), formatBytes(int64(c.size)), formatPercent(c.actions))
		if err := b.importChain(ctx, group, opt, c.plain, c.only); err != nil {
			return err
		}
	}
	return nil
}

func (b *benchmark) importChain(ctx context.Context, group string, opt chain.Options, atLeast, actionsAtLeast float64) error {
	const readFiles, importAll, importActions = "read the files", "import", "import, verify actions"
	files := filepath.Join(b.dir, "files")
	if err := os.Mkdir(files, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(files) // with the run's folder at the latest
	stats, err := writeChain(ctx, opt, files, b.log)
	if err != nil {
		return err
	}
	p := newProgress(b.log, "importing")
	defer p.end()
	if _, err := readAll(files); err != nil { // warms the page cache
		return err
	}
	measured := make(rounds)
	for range b.rounds {
		seconds, err := readAll(files)
		if err != nil {
			return err
		}
		measured.add(readFiles, megabytesPerSecond(stats.Bytes, seconds))
		for _, actionsOnly := range []bool{false, true} {
			name := importAll
			if actionsOnly {
				name = importActions
			}
			o, err := b.job(ctx, stats, job{Do: importFiles, Files: files, ActionsOnly: actionsOnly})
			if err != nil {
				return err
			}
			measured.add(name, megabytesPerSecond(stats.Bytes, o.Seconds))
			measured.add("memory", float64(o.PeakMemory)/mebibyte)
			measured.add("disk", float64(o.Disk)/1e6)
		}
	}
	rate := func(name string, atLeast float64, ratios ...ratio) row {
		return row{Group: group, What: name, Value: measured.median(name), Unit: "MB/s", Ratios: ratios, AtLeast: atLeast}
	}
	b.report.add(
		rate(readFiles, 0),
		rate(importAll, atLeast, measured.ratio(importAll, readFiles, 0)),
		rate(importActions, actionsAtLeast, measured.ratio(importActions, readFiles, 0)),
	)
	b.resources(group, measured, stats)
	return nil
}

// resources reports what the jobs took besides time.
func (b *benchmark) resources(group string, measured rounds, stats chain.Stats) {
	if peak := maximum(measured["memory"]); peak > 0 {
		b.report.add(row{Group: group, What: "peak memory", Value: peak, Unit: "MiB", AtMost: 1024})
	}
	b.report.add(row{Group: group, What: fmt.Sprintf("disk, for %d actions", stats.Actions()), Value: maximum(measured["disk"]), Unit: "MB"})
}

func maximum(values []float64) (most float64) {
	for _, v := range values {
		most = max(most, v)
	}
	return most
}

// job runs a job with a new database and checks what came of it.
func (b *benchmark) job(ctx context.Context, want chain.Stats, j job) (outcome, error) {
	if j.Do != download {
		j.DB = filepath.Join(b.dir, "db")
	}
	o, err := runJob(ctx, j)
	if err != nil {
		return o, err
	}
	if o.Tip != want.Tip.String() || j.Do != download && (o.Links != want.Links || o.Refused != want.Refused) {
		return o, fmt.Errorf("%s gave a wrong result: tip %v, %d links, %d actions refused; the chain has tip %v, %d, %d",
			j.Do, o.Tip, o.Links, o.Refused, want.Tip, want.Links, want.Refused)
	}
	return o, nil
}

// readAll reads all files in dir and returns how long that took.
func readAll(dir string) (seconds float64, err error) {
	began := time.Now()
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 1<<20)
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			return 0, err
		}
		for err == nil {
			_, err = file.Read(buf)
		}
		file.Close() // read only
		if err != io.EOF {
			return 0, err
		}
	}
	return time.Since(began).Seconds(), nil
}

// fromNode measures catching up from a bchd.
func (b *benchmark) fromNode(ctx context.Context) error {
	for _, c := range []struct {
		size       int
		interfaces []string
	}{
		{1_000_000, []string{"gRPC", "JSON-RPC"}},
		{32_000_000, []string{"gRPC"}},
	} {
		opt := chain.Options{Seed: b.seed, Blocks: int(b.nodeSize) / c.size, BlockSize: c.size, Actions: 0.001}
		if opt.Blocks == 0 {
			continue
		}
		if err := b.catchUpChain(ctx, opt, c.interfaces); err != nil {
			return err
		}
	}
	return nil
}

func (b *benchmark) catchUpChain(ctx context.Context, opt chain.Options, interfaces []string) error {
	n, stats, err := b.startNode(ctx, opt)
	if err != nil {
		return err
	}
	defer n.Stop() // its data is in the run's folder
	urls := map[string]string{"gRPC": n.URL(), "JSON-RPC": n.RPCURL()}
	for _, name := range interfaces {
		p := newProgress(b.log, "catching up by "+name)
		measured := make(rounds)
		for range b.rounds {
			for _, do := range []string{download, catchUp} {
				o, err := b.job(ctx, stats, job{Do: do, Node: urls[name]})
				if err != nil {
					return err
				}
				measured.add(do, megabytesPerSecond(stats.Bytes, o.Seconds))
				if do == catchUp {
					measured.add("first sync", o.Whole)
					measured.add("memory", float64(o.PeakMemory)/mebibyte)
					measured.add("disk", float64(o.Disk)/1e6)
				}
			}
		}
		p.end()
		group := fmt.Sprintf("from bchd by %s, %s in blocks of %s, 0.1%% actions", name, formatBytes(stats.Bytes), formatBytes(int64(opt.BlockSize)))
		b.report.add(
			row{Group: group, What: download, Value: measured.median(download), Unit: "MB/s"},
			row{Group: group, What: catchUp, Value: measured.median(catchUp), Unit: "MB/s", Ratios: []ratio{measured.ratio(catchUp, download, 0.95)}},
			row{Group: group, What: "first sync", Value: measured.median("first sync"), Unit: "s"},
		)
		b.resources(group, measured, stats)
	}
	return nil
}

// startNode runs a bchd and gives it a chain.
func (b *benchmark) startNode(ctx context.Context, opt chain.Options) (n *regtest.Node, stats chain.Stats, err error) {
	// The chain is made twice: a checkpoint at its tip, which has to be known at the
	// start, spares the node the signatures. They are good, but a bchd takes minutes
	// to see that.
	p := newProgress(b.log, fmt.Sprintf("making %d blocks of %s for a bchd", opt.Blocks, formatBytes(int64(opt.BlockSize))))
	rehearsal, err := chain.New(opt)
	if err != nil {
		return nil, stats, err
	}
	for _, err := range rehearsal.Blocks(ctx) {
		if err != nil {
			return nil, stats, err
		}
	}
	stats = rehearsal.Stats()
	p.end()

	p = newProgress(b.log, "starting bchd and giving it the blocks")
	defer p.end()
	n, err = regtest.Start(ctx, regtest.Options{
		Dir: b.dir, NoAddrIndex: true, Progress: func(line string) { fmt.Fprintln(b.log, line) },
		Args: []string{fmt.Sprintf("--addcheckpoint=%d:%v", stats.Height, stats.Tip)},
	})
	if err != nil {
		return nil, stats, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Stop())
		}
	}()
	again, err := chain.New(opt)
	if err != nil {
		return nil, stats, err
	}
	for raw, err := range again.Blocks(ctx) {
		if err != nil {
			return nil, stats, err
		}
		p.show(again.Stats().Bytes, stats.Bytes)
		if again.Stats().Height == 0 {
			continue // every node has the genesis block
		}
		var block wire.MsgBlock
		if err := block.Deserialize(bytes.NewReader(raw)); err != nil {
			return nil, stats, fmt.Errorf("block %d: %w", again.Stats().Height, err)
		}
		if err := n.SubmitBlock(ctx, &block); err != nil {
			return nil, stats, err
		}
	}
	if _, tip, err := n.Tip(ctx); err != nil || tip != stats.Tip {
		return nil, stats, fmt.Errorf("the node is at %v (%w), expected %v", tip, err, stats.Tip)
	}
	return n, stats, nil
}
