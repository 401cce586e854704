package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
	"github.com/keytree-bch/keytree/indexer/node/blockfile"
	"github.com/keytree-bch/keytree/scripts/bench/chain"
)

// job is what a child process does, once, so that its memory is that of the job
// alone.
type job struct {
	Do          string // importFiles, download or catchUp
	ActionsOnly bool   // verify the blocks with actions alone
	Files       string // folder with block files
	DB          string // folder for the database
	Node        string // URL
}

const (
	importFiles = "import"
	download    = "download"
	catchUp     = "catch-up"
)

// outcome is what the child process tells of it.
type outcome struct {
	Seconds    float64
	Bytes      int64 // downloaded
	PeakMemory int64 // bytes, 0 if unknown
	// Tip of the database.
	Tip     string
	Links   int
	Refused int

	// Added by the parent.
	Whole float64 `json:"-"` // seconds, of the process
	Disk  int64   `json:"-"` // bytes of the database's folder
}

// runJob runs a job in a process of its own, which ends with ctx. The job's
// database is deleted afterwards.
func runJob(ctx context.Context, j job) (o outcome, err error) {
	self, err := os.Executable()
	if err != nil {
		return o, err
	}
	input, err := json.Marshal(j)
	if err != nil {
		return o, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, self, "child")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, &stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	if j.DB != "" {
		defer func() { err = errors.Join(err, os.RemoveAll(j.DB)) }()
	}
	began := time.Now()
	err = cmd.Run()
	whole := time.Since(began).Seconds()
	if ctx.Err() != nil {
		return o, ctx.Err()
	}
	if err != nil {
		return o, fmt.Errorf("%s: %w: %s", j.Do, err, strings.TrimSpace(stderr.String()))
	}
	if err := json.Unmarshal(stdout.Bytes(), &o); err != nil {
		return o, fmt.Errorf("%s: %w", j.Do, err)
	}
	o.Whole = whole
	if j.DB != "" {
		o.Disk, err = diskUsage(j.DB)
	}
	return o, err
}

// diskUsage returns the size of all files in dir, in bytes. (Badger cuts its files
// to what is in them when it is closed.)
func diskUsage(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		size += info.Size()
		return nil
	})
	return size, err
}

// childCommand does the job on standard input and writes its outcome to standard
// output.
func childCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "child",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var j job
			if err := json.NewDecoder(cmd.InOrStdin()).Decode(&j); err != nil {
				return fmt.Errorf("job: %w", err)
			}
			o, err := j.run(cmd.Context())
			if err != nil {
				return err
			}
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			o.PeakMemory = peakMemory()
			return json.NewEncoder(cmd.OutOrStdout()).Encode(o)
		},
	}
}

func (j job) run(ctx context.Context) (outcome, error) {
	switch j.Do {
	case importFiles:
		return j.withGraph(func(g *graph.Graph) (float64, error) { return j.importFiles(ctx, g) })
	case catchUp:
		return j.withNode(ctx, func(n node.Node) (outcome, error) {
			return j.withGraph(func(g *graph.Graph) (float64, error) { return j.catchUp(ctx, n, g) })
		})
	case download:
		return j.withNode(ctx, func(n node.Node) (outcome, error) { return downloadAll(ctx, n) })
	}
	return outcome{}, fmt.Errorf("unknown job %q", j.Do)
}

// withGraph runs what fills a new database, and tells what is in it then.
func (j job) withGraph(fill func(*graph.Graph) (seconds float64, err error)) (o outcome, err error) {
	g, err := graph.Open(j.DB, graph.Params{Network: chain.Params.Name}, graph.Options{})
	if err != nil {
		return o, err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	if o.Seconds, err = fill(g); err != nil {
		return o, err
	}
	tip, _ := g.Tip()
	o.Tip, o.Links, o.Refused = tip.Hash.String(), int(tip.Counts.Links), int(tip.Counts.Refused)
	return o, nil
}

func (j job) verify() indexer.Verify {
	if j.ActionsOnly {
		return indexer.VerifyActions
	}
	return indexer.VerifyFull
}

func (j job) importFiles(ctx context.Context, g *graph.Graph) (float64, error) {
	began := time.Now()
	files, err := blockfile.Open(ctx, j.Files, chain.Params, nil)
	if err != nil {
		return 0, err
	}
	defer files.Close() // read only
	err = indexer.Import(ctx, files, g, indexer.ImportOptions{Log: zerolog.Nop(), Verify: j.verify()})
	return time.Since(began).Seconds(), err
}

// catchUp runs an indexer until it has the node's tip.
func (j job) catchUp(ctx context.Context, n node.Node, g *graph.Graph) (seconds float64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	ix := indexer.New(n, g, indexer.Options{
		Log: zerolog.Nop(),
		OnProgress: func(p indexer.Progress) {
			if p.Height == p.Target && !p.Headers {
				seconds = time.Since(began).Seconds()
				cancel()
			}
		},
	})
	if err := ix.Run(ctx); err != nil {
		return 0, err
	}
	return seconds, nil
}

// downloads is how many blocks are fetched at a time, as the indexer does.
const downloads = 8

// downloadAll fetches all blocks and drops them.
func downloadAll(ctx context.Context, n node.Node) (o outcome, err error) {
	tip, err := n.Tip(ctx)
	if err != nil {
		return o, err
	}
	var hashes []chainhash.Hash
	for height := range tip.Height + 1 {
		hash, err := n.BlockHash(ctx, height)
		if err != nil {
			return o, err
		}
		hashes = append(hashes, hash)
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	var mu sync.Mutex // guards hashes and o
	began := time.Now()
	for range downloads {
		workers.Go(func() {
			for ctx.Err() == nil {
				mu.Lock()
				if len(hashes) == 0 {
					mu.Unlock()
					return
				}
				hash := hashes[0]
				hashes = hashes[1:]
				mu.Unlock()
				raw, err := n.Block(ctx, hash)
				if err != nil {
					cancel(err)
					return
				}
				mu.Lock()
				o.Bytes += int64(len(raw))
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	o.Seconds, o.Tip = time.Since(began).Seconds(), tip.Hash.String()
	return o, context.Cause(ctx)
}

// withNode runs what needs the job's node.
func (j job) withNode(ctx context.Context, do func(node.Node) (outcome, error)) (outcome, error) {
	if strings.HasPrefix(j.Node, "bchd:") {
		config, err := bchd.ParseURL(j.Node)
		if err != nil {
			return outcome{}, err
		}
		config.Network = chain.Params
		client, err := bchd.Dial(ctx, config)
		if err != nil {
			return outcome{}, err
		}
		defer client.Close() // nothing to lose
		return do(client)
	}
	config, err := bitcoind.ParseURL(j.Node)
	if err != nil {
		return outcome{}, err
	}
	config.Network, config.Log = chain.Params, zerolog.Nop()
	client, err := bitcoind.Dial(ctx, config)
	if err != nil {
		return outcome{}, err
	}
	defer client.Close() // nothing to lose
	return do(client)
}

// peakMemory returns the most that this process had resident, in bytes; 0 where
// the system does not tell.
func peakMemory() int64 {
	status, _ := os.ReadFile("/proc/self/status") // missing elsewhere
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilobytes, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kilobytes << 10
		}
	}
	return 0
}
