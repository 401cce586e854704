package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/gcash/bchd/chaincfg"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/snapshot"
	"github.com/keytree-bch/keytree/indexer/statelog"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc/operator"
)

func (a *app) snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "Make a snapshot of an index, with which others begin",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.snapshotCreateCommand())
	return cmd
}

func (a *app) snapshotCreateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create --out FILE --node URL",
		Short: "Write what an index was made of into a file",
		Long: `snapshot create writes a file with which another server makes the same index in
minutes (keytree serve --from-snapshot), and trusts nobody for it: the file has the
transactions, that server applies the rules to them, and compares what they come to.
protocol/SNAPSHOT.md beside the source has the format.

It prints HEIGHT:HASH, the state after the last block in it: who is to load the file
needs that from somebody whom he believes, and passes it on as --expect-state. Ask
several servers (keytree status, keytree compare), not only who gave you the file. With
--state-log the file has a proof instead that this state is in a state log, and who
loads it needs that log's key and its witnesses', as a policy.

The transactions come from the node: it is asked for all headers, and for those blocks
that have something in them, so it must not have pruned them away. The index is only
read. A running server does that itself, asked through a socket in the data folder that
only its owner can open, and goes on meanwhile; without one, the database is read, and
stays as it is, to the last byte.`,
		Example: `  keytree snapshot create --out keytree-mainnet.snapshot --node 'bchd://127.0.0.1:8335?cert=/home/me/.bchd/rpc.cert'
  keytree snapshot create --out keytree-mainnet.snapshot --node 'http://127.0.0.1:8332?cookie=/home/me/.bitcoin/.cookie' --at 900000
  keytree snapshot create --out keytree-mainnet.snapshot --config /etc/keytree.yaml --state-log https://keys.example.org/state/mainnet/1/1`,
		Args: takes(),
	}
	flags := cmd.Flags()
	dataDir := placeFlags(flags)
	network := networkFlag(flags)
	node := newNodeFlag(flags, "node of the index: "+nodeURLForms)
	startHeight := heightFlag(flags, "start-height",
		fmt.Sprintf("first block of the index (default %d on mainnet, else 0)", protocol.StartHeight(&chaincfg.MainNetParams)))
	setting(flags, "start-height")
	memory := memoryFlag(flags)
	out := outFlag(flags)
	at := heightFlag(flags, "at", fmt.Sprintf("last block of the snapshot, %d below the index's tip at least (default the highest that there can be)", snapshot.Depth))
	stateLog := flags.String("state-log", "", "`URL` of a state log that has this state, such as https://HOST/state/NETWORK/1/EPOCH: the snapshot gets a proof, as of its newest checkpoint")
	spent := flags.Bool("spent-outputs", false, "have the outputs in it that signatures cover, where the node tells them: who loads it checks the authors' signatures, too, which takes longer")

	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case *out == "":
			return usagef("no file given: expected --out FILE")
		case node.text == "":
			return usagef("no node given: expected --node URL, KEYTREE_NODE or node in the config file, with one of %s", nodeURLForms)
		case *dataDir == "":
			return usagef("no data folder given, and the system has no home folder to find it in: expected --data-dir DIR")
		}
		c := snapshotConfig{
			dataDir: *dataDir, params: graph.Params{Network: network.value.Name, StartHeight: protocol.StartHeight(network.value)},
			network: network.value, node: node.value, memory: limitMemory(memory.value), out: *out, stateLog: *stateLog,
			options: snapshot.CreateOptions{Height: at.value, Spent: *spent},
		}
		if h := startHeight.value; h != nil {
			c.params.StartHeight = *h
		}
		c.log, c.line = newLogAndLine(a.stderr, "auto", "info")
		head, err := c.create(cmd.Context())
		if err != nil {
			return err
		}
		fmt.Fprintln(a.stdout, snapshot.State{Height: head.State.Height, Hash: head.State.StateHash})
		return nil
	}
	return cmd
}

// snapshotConfig is what a snapshot is made of.
type snapshotConfig struct {
	dataDir  string
	params   graph.Params
	network  *chaincfg.Params
	node     nodeConfig
	memory   int64
	out      string
	stateLog string // URL; "": the snapshot gets no proof
	options  snapshot.CreateOptions
	log      zerolog.Logger
	line     *progressLine // nil: progress goes to the log
}

// create writes the snapshot, which is there as a whole or not at all.
func (c snapshotConfig) create(ctx context.Context) (head *snapshot.Head, err error) {
	index, err := c.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, index.Close()) }()
	if c.stateLog != "" {
		published, err := statelog.ReadPublished(ctx, http.DefaultTransport, c.stateLog)
		if err != nil {
			return nil, fmt.Errorf("--state-log: %w", err)
		}
		c.options.StateLog = published
	}
	n, err := c.node.dial(ctx, c.network, c.params.StartHeight, c.log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if c.line != nil {
		defer c.line.clear()
	}
	c.options.OnProgress = tellProgress(c.log, c.line)
	began, size := time.Now(), counter(0)
	err = writeOut(c.out, func(w io.Writer) error {
		head, err = snapshot.Create(ctx, io.MultiWriter(w, &size), index, n, c.options)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.log.Info().Str("file", c.out).Str("size", humanize.IBytes(uint64(size))).Uint32("height", head.State.Height).Stringer("block", head.State.Block).
		Bool("proof", head.Proof != nil).Stringer("took", time.Since(began).Round(time.Millisecond)).Msg("snapshot")
	return head, nil
}

// openIndex is an index that can be read, by asking the server that has it or without one.
type openIndex interface {
	snapshot.Index
	io.Closer
}

// open asks the running server, or opens the database that none has open.
func (c snapshotConfig) open(ctx context.Context) (openIndex, error) {
	index, err := operator.NewClient(indexOperator(c.dataDir)).Index(ctx)
	// Who may not ask a server may read a database that none has open.
	if notRunning(err) || errors.Is(err, fs.ErrPermission) {
		return graph.OpenArchive(ctx, filepath.Join(c.dataDir, "graph"), c.params, graph.Options{Memory: c.memory, Log: c.log})
	}
	if err == nil && index.Params() != c.params {
		err = errors.Join(fmt.Errorf("the server that has %s open indexes %s from height %d on, expected %s from height %d on",
			c.dataDir, index.Params().Network, index.Params().StartHeight, c.params.Network, c.params.StartHeight), index.Close())
	}
	if err != nil {
		return nil, err
	}
	return index, nil
}

// counter counts what is written to it, in bytes.
type counter int64

func (c *counter) Write(b []byte) (int, error) {
	*c += counter(len(b))
	return len(b), nil
}

// logProgress is how often the log hears of long work, where no terminal shows it.
const logProgress = 5 * time.Second

// tellProgress returns what tells of a snapshot's progress: a terminal's last line, or the log; and systemd, which
// waits longer.
func tellProgress(log zerolog.Logger, line *progressLine) snapshot.OnProgress {
	told := time.Now()
	return func(p snapshot.Progress) {
		notify(log, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", (10*time.Minute).Microseconds()), "STATUS="+p.String())
		switch now := time.Now(); {
		case line != nil:
			line.show("%s", p)
		case now.Sub(told) >= logProgress:
			told = now
			log.Info().Msg(p.String())
		}
	}
}

// snapshotFlags tell whether an index begins with a snapshot, and what has to come out of it.
type snapshotFlags struct {
	from, policy *string
	state        *parsed[*snapshot.State]
}

func newSnapshotFlags(flags *pflag.FlagSet) snapshotFlags {
	f := snapshotFlags{
		from: flags.String("from-snapshot", "", "`FILE|URL` of a snapshot with which to begin, if the data folder has no index yet: nothing is answered before all of it was checked"),
		state: newParsed("HEIGHT:HASH", "", func(s string) (*snapshot.State, error) {
			state, err := snapshot.ParseState(s)
			return &state, err
		}),
		policy: flags.String("snapshot-policy", "", "`FILE` that names the state logs and witnesses who have to vouch for the snapshot's state, instead of --expect-state (C2SP tlog-policy)"),
	}
	flags.Var(f.state, "expect-state", "state that the snapshot has to come to: the state hash after its last block, as keytree status of a server shows it that you believe")
	setting(flags, "from-snapshot", "expect-state", "snapshot-policy")
	return f
}

// snapshotSource is a snapshot with which an index begins.
type snapshotSource struct {
	from     string // a file or a URL
	expected snapshot.Expected
}

// config returns what was asked for, nil if nothing was.
func (f snapshotFlags) config() (*snapshotSource, error) {
	switch {
	case *f.from == "" && (f.state.value != nil || *f.policy != ""):
		return nil, usagef("--expect-state and --snapshot-policy go with --from-snapshot, which says which snapshot to begin with")
	case *f.from == "":
		return nil, nil
	case f.state.value == nil && *f.policy == "":
		return nil, usagef("--from-snapshot: a snapshot is not believed by itself: expected --expect-state HEIGHT:HASH, the state that it has to come to, " +
			"from somebody whom you believe, or --snapshot-policy FILE, who has to vouch for it")
	}
	s := &snapshotSource{from: *f.from, expected: snapshot.Expected{State: f.state.value}}
	if *f.policy != "" {
		var err error
		if s.expected.Policy, err = readPolicy(*f.policy); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// openGraph opens the index's graph, and makes it of a snapshot first if that was asked for and there is
// none.
func (c serverConfig) openGraph(ctx context.Context, dir string) (*graph.Graph, error) {
	params := graph.Params{Network: c.network.Name, StartHeight: c.startHeight}
	opt := graph.Options{Memory: c.memory, NoStateRoot: c.noStateRoot, ProofRebuildKeys: c.proofRebuildKeys, ProofMemory: c.proofMemory, Log: c.log}
	if c.snapshot == nil {
		return graph.Open(dir, params, opt)
	}
	if c.line != nil {
		defer c.line.clear()
	}
	return snapshot.Open(ctx, snapshot.Config{
		Dir: dir, Params: params, Graph: opt, From: c.snapshot.from, Expected: c.snapshot.expected, Log: c.log, OnProgress: tellProgress(c.log, c.line),
	})
}
