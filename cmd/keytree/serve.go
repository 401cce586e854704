package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc"
)

// Where a server listens by default. Nothing else is known to use these ports.
const (
	defaultGRPC = "127.0.0.1:8434"
	defaultHTTP = "127.0.0.1:8435"
)

func (a *app) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve --node URL",
		Short: "Index a node's chain and answer questions about it",
		Long: `serve follows a bchd, keeps the identity graph of its chain in the data folder,
and answers over gRPC (keytree.v1, with health and reflection) and REST.

The node needs --txindex. Its own certificate is rpc.cert in its folder. It
answers while it waits for the node and catches up; /readyz and the health
service tell when it is done.
Both interfaces are unencrypted and open to whoever reaches them: put a TLS proxy
in front before listening on other than the local machine.

The log goes to standard error. The line "serving" names the addresses, also
where port 0 left them to the system. SIGINT and SIGTERM stop the server
gracefully, a second one at once; the database survives both, and kill -9.`,
		Example: `  keytree serve --node 'bchd://127.0.0.1:8335?cert=/home/me/.bchd/rpc.cert'
  KEYTREE_NODE='bchd://node:8335?cert=rpc.cert' keytree serve --http-listen :8080
  keytree serve --config /etc/keytree.yaml --log-format json`,
		Args: takes(),
	}
	flags := cmd.Flags()
	dataDir := placeFlags(flags)
	network := networkFlag(flags)
	node := nodeFlag(flags, "index")
	grpcListen := newParsed("HOST:PORT", defaultGRPC, parseHostPort(true))
	flags.Var(grpcListen, "grpc-listen", "where to answer gRPC; port 0 lets the system choose")
	httpListen := newParsed("HOST:PORT", defaultHTTP, parseHostPort(true))
	flags.Var(httpListen, "http-listen", "where to answer REST; port 0 lets the system choose")
	startHeight := heightFlag(flags, "start-height",
		fmt.Sprintf("first block to index; another than the network's makes the state hash incomparable (default %d on mainnet, else 0)",
			protocol.StartHeight(&chaincfg.MainNetParams)))
	logFormat := newParsed("FORMAT", "auto", oneOf("auto", "console", "json"))
	flags.Var(logFormat, "log-format", "console, json, or auto: console on a terminal, else json")
	logLevel := newParsed("LEVEL", "info", oneOf("debug", "info", "warn", "error"))
	flags.Var(logLevel, "log-level", "debug, info, warn or error")
	setting(flags, "grpc-listen", "http-listen", "start-height", "log-format", "log-level")

	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if node.text == "" {
			return usagef("no node given: expected --node URL, KEYTREE_NODE or node in the config file, with %s", bchd.URLForm)
		}
		if *dataDir == "" {
			return usagef("no data folder given, and the system has no home folder to put it into: expected --data-dir DIR")
		}
		c := serverConfig{
			network: network.value, node: node.value, dataDir: *dataDir,
			startHeight: protocol.StartHeight(network.value),
			grpcListen:  grpcListen.value, httpListen: httpListen.value,
			log: newLog(a.stderr, logFormat.value, logLevel.value),
		}
		if h := startHeight.value; h != nil && *h != c.startHeight {
			c.log.Warn().Uint32("start_height", *h).Uint32("expected", c.startHeight).
				Msg("not the network's start height: the state hash cannot be compared with that of other indexers")
			c.startHeight = *h
		}
		return serve(cmd.Context(), c, nil)
	}
	return cmd
}

// newLog returns a log to w, with times in UTC.
func newLog(w io.Writer, format, level string) zerolog.Logger {
	f, isFile := w.(*os.File)
	if format == "console" || format == "auto" && isFile && isatty.IsTerminal(f.Fd()) {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.DateTime, NoColor: !isFile || !isatty.IsTerminal(f.Fd()), TimeLocation: time.UTC}
	}
	parsedLevel, err := zerolog.ParseLevel(level)
	if err != nil {
		panic(err) // the flag allows only levels
	}
	return zerolog.New(zerolog.SyncWriter(w)).Level(parsedLevel).With().Timestamp().Logger()
}

// serverConfig is what a server is made of.
type serverConfig struct {
	network     *chaincfg.Params
	node        bchd.Config // without Network and Log
	dataDir     string
	startHeight uint32
	grpcListen  string
	httpListen  string
	log         zerolog.Logger
}

// serve runs a server until ctx ends, which is no error, or a part of it fails.
// When it returns, all of it has ended. serving, if not nil, hears the addresses
// as soon as the server answers.
func serve(ctx context.Context, c serverConfig, serving func(grpc, http net.Addr)) (err error) {
	g, err := graph.Open(filepath.Join(c.dataDir, "graph"),
		graph.Params{Network: c.network.Name, StartHeight: c.startHeight}, graph.Options{Log: c.log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close()) }()

	grpcListener, err := net.Listen("tcp", c.grpcListen)
	if err != nil {
		return fmt.Errorf("--grpc-listen: %w", err)
	}
	defer grpcListener.Close() // after rpc has closed it, this does nothing
	httpListener, err := net.Listen("tcp", c.httpListen)
	if err != nil {
		return fmt.Errorf("--http-listen: %w", err)
	}
	defer httpListener.Close()

	state := new(progress)
	server, err := rpc.NewServer(rpc.Config{Graph: g, Indexer: state, Net: c.network, Log: c.log})
	if err != nil {
		return err
	}

	defer context.AfterFunc(ctx, func() { c.log.Info().Msg("stopping") })()
	running, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var parts sync.WaitGroup
	parts.Go(func() {
		if err := index(running, c, g, state); err != nil {
			fail(err)
		}
	})
	c.log.Info().Stringer("grpc", grpcListener.Addr()).Stringer("http", httpListener.Addr()).
		Str("version", version()).Str("network", c.network.Name).Str("data_dir", c.dataDir).Str("node", c.node.Address).Msg("serving")
	if serving != nil {
		serving(grpcListener.Addr(), httpListener.Addr())
	}
	if err := server.Serve(running, grpcListener, httpListener); err != nil {
		fail(err)
	}
	parts.Wait()
	if ctx.Err() != nil {
		c.log.Info().Msg("stopped")
		return nil
	}
	return context.Cause(running)
}

// index feeds the graph from the node until ctx ends, which is no error.
func index(ctx context.Context, c serverConfig, g *graph.Graph, p *progress) (err error) {
	c.node.Network, c.node.Log = c.network, c.log
	n, err := bchd.Dial(ctx, c.node)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	ix := indexer.New(n, g, indexer.Options{Log: c.log})
	p.indexer.Store(ix)
	return ix.Run(ctx)
}

// progress is how far the indexer is. The server answers from the first moment
// on, before there is an indexer: health, status, and to everything else that
// nothing has been checked yet.
type progress struct {
	indexer atomic.Pointer[indexer.Indexer]
}

// Status implements rpc.Indexer.
func (p *progress) Status() indexer.Status {
	if ix := p.indexer.Load(); ix != nil {
		return ix.Status()
	}
	return indexer.Status{}
}
