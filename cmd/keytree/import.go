package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node/blockfile"
	"github.com/keytree-bch/keytree/protocol"
)

func (a *app) importCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import --blocks DIR",
		Short: "Index a node's block files, for a fast start",
		Long: `import builds the identity graph in the data folder from the files that a node
keeps its blocks in: the blk*.dat of BCHN and its relatives, or bchd's *.fdb. It
reads them at the speed of the disk, and needs no node. Then start serve, which
goes on from there with a node.

The best chain is the one with the most work in its headers, of those that pass
the network's checkpoints and keep its rules. Files that may be another coin's
are taken up to the last checkpoint that they pass. They must go back to the
genesis block, which those of a node that prunes do not. The node may be running
meanwhile; a server on the same data folder may not.

An import that was interrupted goes on where it was when it is started again, and
one whose files have grown adds what is new.

Every block is compared with its header, so that nothing can be missing in one.
--verify actions does so only where there are actions: several times as fast where
these are rare, and safe as long as the files are those of one's own node.`,
		Example: `  keytree import --blocks ~/.bitcoin/blocks
  keytree import --blocks ~/.bchd/data/mainnet/blocks_ffldb --verify actions
  keytree import --blocks /srv/bchn/chipnet/blocks --network chipnet --data-dir /srv/keytree`,
		Args: takes(),
	}
	flags := cmd.Flags()
	blocks := flags.String("blocks", "", "`DIR` of the node's block files")
	dataDir := placeFlags(flags)
	network := networkFlag(flags)
	startHeight := heightFlag(flags, "start-height",
		fmt.Sprintf("first block to index; another than the network's makes the state hash incomparable (default %d on mainnet, else 0)",
			protocol.StartHeight(&chaincfg.MainNetParams)))
	verify := verifyFlag(flags)
	logFormat := newParsed("FORMAT", "auto", oneOf("auto", "console", "json"))
	flags.Var(logFormat, "log-format", "console, json, or auto: console on a terminal, else json")
	logLevel := newParsed("LEVEL", "info", oneOf("debug", "info", "warn", "error"))
	flags.Var(logLevel, "log-level", "debug, info, warn or error")
	setting(flags, "start-height", "log-format", "log-level")
	memory, stateRoot := memoryFlag(flags), stateRootFlag(flags)

	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *blocks == "" {
			return usagef("no block files given: expected --blocks DIR, the folder that the node keeps its blocks in " +
				"(BCHN: blocks, in its data folder; bchd: data/NETWORK/blocks_ffldb)")
		}
		if *dataDir == "" {
			return usagef("no data folder given, and the system has no home folder to put it into: expected --data-dir DIR")
		}
		c := importConfig{
			blocks: *blocks, dataDir: *dataDir, network: network.value,
			startHeight: protocol.StartHeight(network.value), verify: verify.value, memory: limitMemory(memory.value), noStateRoot: !stateRoot.value,
		}
		if h := startHeight.value; h != nil {
			c.startHeight = *h
		}
		c.log, c.line = newLogAndLine(a.stderr, logFormat.value, logLevel.value)
		return importBlocks(cmd.Context(), c)
	}
	return cmd
}

func verifyFlag(flags *pflag.FlagSet) *parsed[indexer.Verify] {
	p := newParsed("WHAT", "full", func(s string) (indexer.Verify, error) {
		switch s {
		case "actions":
			return indexer.VerifyActions, nil
		case "full":
			return indexer.VerifyFull, nil
		}
		return 0, fmt.Errorf("expected actions or full, got %q", shortened(s))
	})
	flags.Var(p, "verify", "blocks whose transactions are hashed and compared with the header: full, all; or actions, those with actions, "+
		"which is for the files of one's own node alone: whoever made others can have left actions out")
	setting(flags, "verify")
	return p
}

// newVerifiedFlag takes --verify full where nothing else is done, for those who
// started an earlier version with it. It is no setting: in a config file the line is
// meant for import.
func newVerifiedFlag(flags *pflag.FlagSet) {
	flags.Var(newParsed("WHAT", "full", func(s string) (struct{}, error) {
		if s != "full" {
			return struct{}{}, fmt.Errorf("expected full, got %q: a node's blocks are always compared with their headers; only keytree import takes --verify actions", shortened(s))
		}
		return struct{}{}, nil
	}), "verify", "")
	if err := flags.MarkDeprecated("verify", "every block is verified"); err != nil {
		panic(err) // there is such a flag
	}
}

// importConfig is what an import is made of.
type importConfig struct {
	blocks      string
	dataDir     string
	network     *chaincfg.Params
	startHeight uint32
	memory      int64 // what the process may take, in bytes
	noStateRoot bool
	verify      indexer.Verify
	log         zerolog.Logger
	line        *progressLine // nil: progress goes to the log
}

func importBlocks(ctx context.Context, c importConfig) (err error) {
	dir := filepath.Join(c.dataDir, "graph")
	if err := mayWrite(c.dataDir, dir); err != nil {
		return err
	}
	g, err := graph.Open(dir,
		graph.Params{Network: c.network.Name, StartHeight: c.startHeight}, graph.Options{Memory: c.memory, NoStateRoot: c.noStateRoot, Log: c.log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()

	began := time.Now()
	opt := indexer.ImportOptions{Log: c.log, Verify: c.verify, Memory: c.memory}
	var reading func(done, all int64)
	if c.line != nil {
		defer c.line.clear()
		reading = func(done, all int64) {
			c.line.show("reading headers  %d %% of %s", 100*done/max(all, 1), gigabytes(all))
		}
		opt.Progress = time.Second
		opt.OnProgress = func(p indexer.ImportProgress) {
			c.line.show("%s  height %d (%d to %d)  %.0f MB/s  %v left", p.Stage, p.Height, p.From, p.To, p.MegabytesPerSecond, p.Left)
		}
	}
	chain, err := blockfile.Open(ctx, c.blocks, c.network, reading)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, chain.Close()) }()
	report(c.log, chain, c.network)

	if err := indexer.Import(ctx, chain, g, opt); err != nil {
		return err
	}
	tip, _ := g.Tip()
	elapsed := time.Since(began)
	c.log.Info().Uint32("height", tip.Height).Stringer("block", tip.Hash).Hex("state_hash", tip.StateHash[:]).
		Stringer("took", elapsed.Round(time.Millisecond)).Float64("mb_per_s", float64(int64(float64(chain.Found().Bytes)/elapsed.Seconds()/1e6))).
		Msg("imported; serve goes on from here")
	return nil
}

// report logs what is in the files.
func report(log zerolog.Logger, chain *blockfile.Chain, net *chaincfg.Params) {
	found := chain.Found()
	for _, err := range found.Named {
		log.Warn().Err(err).Msg("skipped a record")
	}
	if found.Bad > len(found.Named) {
		log.Warn().Int("records", found.Bad-len(found.Named)).Msg("skipped more records")
	}
	if found.Unlinked > 0 {
		log.Warn().Int("blocks", found.Unlinked).Stringer("missing", found.Missing).
			Msg("these blocks do not lead to the genesis block, since another is missing; the chain may end early")
	}
	if found.Foreign > 0 {
		log.Warn().Int("blocks", found.Foreign).AnErr("first", found.Broken).Msg("skipped blocks that are not of the network's chain")
	}
	if found.Unproven > 0 {
		log.Warn().Uint32("from", chain.Height()+1).Uint32("to", chain.Height()+uint32(found.Unproven)).Uint32("checkpoint", protocol.LastPin(net)).
			Msg("left out these blocks, which may be another coin's, until the files get to the checkpoint: let the node download more, then import again")
	}
	log.Info().Int("files", found.Files).Int64("bytes", found.Bytes).Int("blocks", found.Blocks).Int("stale", found.Stale).
		Uint32("height", chain.Height()).Stringer("tip", chain.Hash(chain.Height())).Msg("found the best chain")
}

func gigabytes(n int64) string { return fmt.Sprintf("%.1f GB", float64(n)/1e9) }

// progressLine is the last line of a terminal, which changes as the work goes on.
// Log lines are written above it.
type progressLine struct {
	w io.Writer

	mu    sync.Mutex
	shown bool // mu
}

// clearLine goes to the beginning of a terminal's line and erases it.
const clearLine = "\r\x1b[K"

func (p *progressLine) show(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shown = true
	fmt.Fprintf(p.w, clearLine+format, args...)
}

func (p *progressLine) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
}

// erase needs mu.
func (p *progressLine) erase() {
	if p.shown {
		fmt.Fprint(p.w, clearLine)
		p.shown = false
	}
}

// Write writes log lines.
func (p *progressLine) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	return p.w.Write(b)
}
