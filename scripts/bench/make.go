package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/scripts/bench/chain"
)

// shapes are the names of the chain's shapes.
func shapes() map[string]chain.Shape {
	return map[string]chain.Shape{"mixed": chain.Mixed, "payments": chain.Payments}
}

func makeCommand() *cobra.Command {
	opt := chain.Options{}
	size, actions := byteSize(1_000_000), percent(0.001)
	dir, shape := "", ""
	cmd := &cobra.Command{
		Use:   "make --dir DIR --blocks N",
		Short: "Make a chain and write it as blk*.dat",
		Long: `make writes a valid regtest chain into a folder, as a node's blk*.dat: first the
genesis block and about 105 small blocks, since coins have to ripen and be
spread, then the blocks asked for. The same flags give the same bytes.

All signatures are valid. To have a real node judge the chain:

  bitcoind -regtest -datadir=EMPTY -loadblock=DIR/blk00000.dat ...   (BCHN)

What is in the blocks: go doc ./scripts/bench/chain`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var ok bool
			if opt.Shape, ok = shapes()[shape]; !ok {
				return fmt.Errorf("expected --shape mixed or payments, got %q", shape)
			}
			opt.BlockSize, opt.Actions = int(size), float64(actions)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("folder for block files: %w", err)
			}
			stats, err := writeChain(cmd.Context(), opt, dir, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d blocks, %s, %d transactions\n", dir, stats.Blocks, formatBytes(stats.Bytes), stats.Transactions)
			fmt.Fprintf(cmd.OutOrStdout(), "%d MLR, %d MLA, %d MCR; %d of them refused, %d links in force at the end\n",
				stats.Requests, stats.Accepts, stats.Revokes, stats.Refused, stats.Links)
			fmt.Fprintf(cmd.OutOrStdout(), "tip %v at height %d\n", stats.Tip, stats.Height)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&dir, "dir", "", "folder to write into, made if missing")
	flags.IntVar(&opt.Blocks, "blocks", 0, "how many blocks of the block size")
	flags.Var(&size, "block-size", fmt.Sprintf("what they have at most, %s to %s", formatBytes(chain.MinBlockSize), formatBytes(chain.MaxBlockSize)))
	flags.Var(&actions, "actions", "share of transactions that carry an action, up to "+formatPercent(chain.MaxActions))
	flags.StringVar(&shape, "shape", "mixed", "mixed, or payments: nothing but payments and actions")
	flags.Uint64Var(&opt.Seed, "seed", 1, "another seed gives another chain")
	must(cmd.MarkFlagRequired("dir"), cmd.MarkFlagRequired("blocks"))
	return cmd
}

// must takes what only fails for a flag that there is not.
func must(errs ...error) {
	if err := errors.Join(errs...); err != nil {
		panic(err)
	}
}

// writeChain makes a chain in dir and says on w how far it is.
func writeChain(ctx context.Context, opt chain.Options, dir string, w io.Writer) (stats chain.Stats, err error) {
	c, err := chain.New(opt)
	if err != nil {
		return stats, err
	}
	files, err := chain.NewFileWriter(dir)
	if err != nil {
		return stats, err
	}
	defer func() { err = errors.Join(err, files.Close()) }()
	p := newProgress(w, fmt.Sprintf("making %d blocks of %s, %s actions", opt.Blocks, formatBytes(int64(opt.BlockSize)), formatPercent(opt.Actions)))
	defer p.end()
	whole := int64(opt.Blocks) * int64(opt.BlockSize)
	for raw, err := range c.Blocks(ctx) {
		if err != nil {
			return stats, err
		}
		if err := files.Write(raw); err != nil {
			return stats, err
		}
		p.show(c.Stats().Bytes, whole)
	}
	return c.Stats(), nil
}

// progress is one line about one step of the work, which shows how far the step
// is if it takes long.
type progress struct {
	w io.Writer

	began time.Time
	shown time.Time
}

func newProgress(w io.Writer, what string) *progress {
	now := time.Now()
	fmt.Fprintf(w, "%s ...\n", what)
	return &progress{w: w, began: now, shown: now}
}

// progressEvery is how often long work is reported.
const progressEvery = 5 * time.Second

// show tells from time to time how far the step is. The chain's small blocks at
// its begin are no measure of how long the others take.
func (p *progress) show(done, whole int64) {
	if now := time.Now(); now.Sub(p.shown) >= progressEvery && done > whole/100 && done < whole {
		p.shown = now
		elapsed := now.Sub(p.began)
		left := time.Duration(float64(elapsed) * float64(whole-done) / float64(done))
		fmt.Fprintf(p.w, "  %s of %s, %.0f s left\n", formatBytes(done), formatBytes(whole), left.Seconds())
	}
}

func (p *progress) end() {
	fmt.Fprintf(p.w, "  %.1f s\n", time.Since(p.began).Seconds())
}
