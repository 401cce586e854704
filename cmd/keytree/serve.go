package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/gcash/bchd/chaincfg"
	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/indexer/coins/electrum"
	"github.com/keytree-bch/keytree/indexer/mempool"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	connectrpc "github.com/keytree-bch/keytree/rpc/connect"
	"github.com/keytree-bch/keytree/rpc/metrics"
	"github.com/keytree-bch/keytree/rpc/operator"
	"github.com/keytree-bch/keytree/rpc/signin"
	statelogrpc "github.com/keytree-bch/keytree/rpc/statelog"
)

func (a *app) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve --node URL",
		Short: "Index a node's chain and answer questions about it",
		Long: `serve follows a node, keeps the identity graph of its chain in the data folder,
and answers over gRPC (keytree.v1, with health and reflection) and REST.

The node is a bchd, by gRPC (bchd://, the port of its --grpclisten), which needs
--txindex and has its certificate as rpc.cert in its folder; or one that speaks
the JSON-RPC of bitcoind (http://, the port of its -rpcport), such as Bitcoin
Cash Node 28. That needs no index; it is faster with -rest=1, and followed more
closely with -zmqpubhashblock. Credentials are a cookie file, which the node
writes, or user and password: other users of the machine can read the command
line, so give a password in KEYTREE_NODE or the config file.

It keeps to --memory, whatever comes in, but for the keys of links in force, which have to
have room in it: keytree status tells how many more have.

It answers while it waits for the node and catches up; /readyz and the health
service tell when it is done. It can be stopped at any time and goes on where it
was. The chain has to be the network's: its headers are judged before its blocks,
by the network's checkpoints, and on mainnet by difficulty and time. Every block has
to match its merkle root, and a signature what the node says that it spends. A node
that sends what fails ends the index with an error that names node and block. One
that is away, restarts, reads its blocks again or refuses the credentials is waited
for: keytree status tells why.

It follows the node's mempool too, unless told --mempool=false, for answers beside the
confirmed ones that say what is unconfirmed: nothing else depends on it, and nothing of it is
written. New transactions show at once where the node announces them: bchd does, BCHN with
-zmqpubrawtx at the address of -zmqpubhashblock (zmq= in --node); else within seconds.
Of more than --mempool-max-actions actions and anchors the newest are left out.

It listens on the local machine, unencrypted. Where others are to reach it, it takes
TLS, on all its interfaces: --tls-cert and --tls-key name files, which are read again
when they change; or --acme DOMAIN gets certificates from Let's Encrypt, or from
--acme-directory, which connects to port 443 of the domain: let REST listen there
(--http-listen :443), for which a service needs CAP_NET_BIND_SERVICE, or forward the
port. Behind a proxy that has TLS itself, on another machine, --plaintext says that
it is meant. Have a proxy send X-Forwarded-For, and name it in --trusted-proxy, or all who
come through it are limited as one client. A proxy on this machine that passes on the
name that it is asked for needs that in --http-host. Pages of any origin may read the
index's answers in a browser, unless --cors-origin says less.

With --keyserver-domain it runs a keyserver beside, as keytree keyserver serve does
alone, which tells more about it. That does not answer before the index has caught up,
and shows no chain of anchors that may be the keyserver's: its database may be a backup
from before its first anchor. If there is one, the keyserver fails with a list of them, until
--anchor-chain says which it is: TXID, which needs --anchor-key-file, or none, which is
asked once, and not waited for at later starts. Anybody can begin a chain for any domain.

With --anchor-key-file it anchors that keyserver's hashchain on the chain, so that
the keyserver cannot show two histories: each anchor is a transaction with the
hashchain's head that spends the one before it. The key file is made at the first
start; a payment to its address, which keytree anchor status tells, pays for
thousands. An anchor is made --anchor-interval after the one before if entries have
come, at once if --anchor-max-entries wait, and after --anchor-heartbeat in any case.
keyserver-anchor.json in the data folder holds the last anchors, whole and signed: keep
it, and a copy of the key. What the key can spend the node tells, a bchd with
--addrindex or a BCHN, or an Electrum server (--coins). The keyserver
does not answer before the index has caught up and its hashchain was compared with its
anchors. If those are ahead of the hashchain or contradict it, as after an old backup
was restored, the keyserver fails: nothing makes it serve a second history.

Index and keyserver fail apart: damage, a full disk, a node that lies or anchors that
contradict end the one, and the other goes on. /readyz tells of both, /readyz/index and
/readyz/keyserver of each, the health service of each gRPC service, and the log why. What has
failed begins anew with the next start. The program ends when nothing is left that it was
asked to run, and at the start for what only its operator can correct.

With --state-log-key and --state-log-host it publishes, at /state/NETWORK/1/EPOCH/ of its REST, a
transparency log with the state hash and the state root of each block that has ten others
on top and was known for two hours (protocol/STATELOG.md): so that what it answers can be
checked, and whoever answers otherwise is found out. Key file and FILE.json belong together:
restore neither from a backup. If a published block is taken off the chain after all, that key
signs nothing more, and a new epoch begins, whose key is in FILE.2 and in the log.

With --anchor-state it anchors that log once a day, under the domain state.NETWORK.HOST, as it
does a keyserver's hashchain: the log says where to pay for it.

With --cosign-key and --cosign-logs it is a witness of others' state logs, which reach it at
/state/add-checkpoint: it cosigns a checkpoint only if it has computed the same root itself.
One that differs it refuses, finds out at which block, and keeps in DIR/state-evidence, for
keytree audit verify-evidence.

With --from-snapshot it begins with what keytree snapshot create has made of another index, from
a file or a URL, instead of reading the chain. It believes nothing of it: it applies the rules to
the transactions in it, and compares the state hash after each block, and at the end with
--expect-state, or with what a state log has stated and witnesses have cosigned (--snapshot-policy). What
differs is refused, with the block's name. Nothing is answered before; then it follows the node,
whose chain has to have these blocks. If it is killed meanwhile, the next start begins anew. A data
folder that has an index goes on with it: so the flags can stay; with --expect-state that index
must have this state.

With --metrics-listen it tells Prometheus how it fares, and has Go's profiles, there
alone. METRICS.md beside the source lists the metrics, scripts/grafana has a dashboard.

The log goes to standard error. The line "serving" names the addresses, also
where port 0 left them to the system. SIGINT and SIGTERM stop the server
gracefully, a second one at once; the database survives both, and kill -9.

SIGHUP has it read its certificates again, and the sizes of the --limit-… budgets from the
config file; what cannot be used is named in the log, and what was before holds. All other
settings wait for the next start. Under systemd it tells with sd_notify when it answers, what it
does, and for the watchdog that its index goes on.`,
		Example: `  keytree serve --node 'bchd://127.0.0.1:8335?cert=/home/me/.bchd/rpc.cert'
  keytree serve --node 'http://127.0.0.1:8332?cookie=/home/me/.bitcoin/.cookie&zmq=tcp://127.0.0.1:28332'
  KEYTREE_NODE='http://me:password@node:8332' keytree serve
  keytree serve --node 'http://127.0.0.1:8332?cookie=…' --http-listen :443 --grpc-listen :8434 --acme keys.example.org
  keytree serve --config /etc/keytree.yaml --log-format json`,
		Args: takes(),
	}
	flags := cmd.Flags()
	dataDir := placeFlags(flags)
	network := networkFlag(flags)
	node := newNodeFlag(flags, "node to index: "+nodeURLForms)
	listen := newListenFlags(flags)
	origins := originFlag(flags)
	limits := newLimitFlags(flags)
	startHeight := heightFlag(flags, "start-height",
		fmt.Sprintf("first block to index; another than the network's makes the state hash incomparable (default %d on mainnet, else 0)",
			protocol.StartHeight(&chaincfg.MainNetParams)))
	newVerifiedFlag(flags)
	unconfirmed := newMempoolFlags(flags)
	memory, stateRoot := memoryFlag(flags), stateRootFlag(flags)
	states, maps := newStateLogFlags(flags), newProofMapFlags(flags)
	snapshots := newSnapshotFlags(flags)
	into := flags.String("reindex-into", "", "index into this data `DIR` instead, without answering, until it has come to the node's tip, and end; "+
		"an earlier version can go on serving the data folder meanwhile")
	log := newLogFlags(flags)
	asked := newCoinsFlag(flags)
	signInKey := flags.String("signin-key-file", "", "`FILE` with the key that makes challenges of signin:challenge, for servers that are to verify each other's; "+
		"made at the first start (default: a key that ends with the process)")
	wallets := newWalletFlags(flags)
	ks := newKeyserverFlags(flags)
	setting(flags, "start-height", "signin-key-file")

	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if node.text == "" {
			return usagef("no node given: expected --node URL, KEYTREE_NODE or node in the config file, with one of %s", nodeURLForms)
		}
		if *dataDir == "" {
			return usagef("no data folder given, and the system has no home folder to put it into: expected --data-dir DIR")
		}
		useProcessors()
		c := serverConfig{
			network: network.value, node: node.value, electrum: asked.value, dataDir: *dataDir,
			startHeight:   protocol.StartHeight(network.value),
			signInKeyFile: *signInKey,
			origins:       origins.value, memory: limitMemory(memory.value), noStateRoot: !stateRoot.value, proofRebuildKeys: int(maps.rebuild.value), proofMemory: maps.memory.value, mempoolActions: unconfirmed.actions(),
		}
		var err error
		if c.admission, err = limits.gate(); err != nil {
			return err
		}
		if c.stateLog, err = states.config(*dataDir, network.value.Name, stateRoot.value); err != nil {
			return err
		}
		if c.snapshot, err = snapshots.config(); err != nil {
			return err
		}
		if err := wallets.into(&c); err != nil {
			return err
		}
		if c.keyserver, err = ks.config(*dataDir); err != nil {
			return err
		}
		if c.listen, err = listen.config(*dataDir, c.keyserver); err != nil {
			return err
		}
		c.settings, c.settingsAgain = cmd.Flags(), a.settingsAgain(cmd)
		c.log, c.line = newLogAndLine(a.stderr, log.format.value, log.level.value)
		if h := startHeight.value; h != nil && *h != c.startHeight {
			c.log.Warn().Uint32("start_height", *h).Uint32("expected", c.startHeight).
				Msg("not the network's start height: the state hash cannot be compared with that of other indexers")
			c.startHeight = *h
		}
		if *into != "" {
			c.stateLog = nil // of the data folder, not of what is made
			return reindex(cmd.Context(), c, *into)
		}
		return serve(cmd.Context(), c, nil)
	}
	return cmd
}

// mempoolFlags tell whether a server follows its node's mempool.
type mempoolFlags struct {
	on   *bool
	most *parsed[uint32]
}

// mostMempoolActions is the most that may be asked for.
const mostMempoolActions = 1_000_000

func newMempoolFlags(flags *pflag.FlagSet) mempoolFlags {
	f := mempoolFlags{
		on: flags.Bool("mempool", true, "follow the node's mempool, for answers with what is unconfirmed"),
		most: numberFlag(flags, "mempool-max-actions", mempool.DefaultMaxActions, 1, mostMempoolActions,
			"unconfirmed actions and anchors that are shown at most; the newest are left out, and keytree status tells how many"),
	}
	setting(flags, "mempool", "mempool-max-actions")
	return f
}

// actions is how many transactions of the mempool are to be shown, 0 if it is not to be
// followed.
func (f mempoolFlags) actions() int {
	if !*f.on {
		return 0
	}
	return int(f.most.value)
}

// walletFlags tell over which relays wallets are asked.
type walletFlags struct{ project, relay, wizard *parsed[string] }

func newWalletFlags(flags *pflag.FlagSet) walletFlags {
	f := walletFlags{
		project: newParsed("ID", "", connectrpc.ParseProject), relay: newParsed("URL", defaultRelay, connectrpc.ParseRelay),
		wizard: newParsed("URL", "", connectrpc.ParseWizardRelay),
	}
	flags.Var(f.project, "walletconnect-project-id", "project by which a relay of WalletConnect knows this server: pages that answer a link request ask wallets over it (default: they do not)")
	flags.Var(f.relay, "walletconnect-relay", "relay of WalletConnect, with --walletconnect-project-id")
	flags.Var(f.wizard, "wizardconnect-relay", "relay of WizardConnect such as wss://relay.riften.net: these pages ask wallets over it (default: they do not)")
	setting(flags, "walletconnect-project-id", "walletconnect-relay", "wizardconnect-relay")
	return f
}

// defaultRelay is the public one, which wallets use.
const defaultRelay = "wss://relay.walletconnect.org"

// into fills in what is asked for.
func (f walletFlags) into(c *serverConfig) error {
	switch {
	case f.project.value != "":
		c.walletConnect = &connectrpc.WalletConnect{Relay: f.relay.value, Project: f.project.value}
	case f.relay.value != defaultRelay:
		return usagef("--walletconnect-relay: goes with --walletconnect-project-id")
	}
	if f.wizard.value != "" {
		c.wizardConnect = &connectrpc.WizardConnect{Relay: f.wizard.value}
	}
	return nil
}

// originFlag adds the flag that tells whose pages may read the graph's answers.
func originFlag(flags *pflag.FlagSet) *parsed[[]string] {
	origins := newParsed("ORIGIN,…", "*", commaSeparated(parseOrigin))
	flags.Var(origins, "cors-origin", "of whose pages a browser lets the index's answers be read: origins such as https://example.org, * for any, none; the keyserver's never")
	setting(flags, "cors-origin")
	return origins
}

// parseOrigin reads an origin as browsers send it, or *.
func parseOrigin(s string) (string, error) {
	u, err := url.Parse(s)
	if s != "*" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || s != u.Scheme+"://"+u.Host || strings.Contains(s, "*")) {
		return "", fmt.Errorf("expected an origin such as https://example.org, without a path, or *, got %q", shortened(s))
	}
	return s, nil
}

// logFlags tell how a server logs.
type logFlags struct{ format, level *parsed[string] }

func newLogFlags(flags *pflag.FlagSet) logFlags {
	f := logFlags{
		format: newParsed("FORMAT", "auto", oneOf("auto", "console", "json")),
		level:  newParsed("LEVEL", "info", oneOf("debug", "info", "warn", "error")),
	}
	flags.Var(f.format, "log-format", "console, json, or auto: console on a terminal, else json")
	flags.Var(f.level, "log-level", "debug, info, warn or error")
	setting(flags, "log-format", "log-level")
	return f
}

// newLogAndLine returns a log to w, as newLog does, and, if w is a terminal, the
// line below it for progress.
func newLogAndLine(w io.Writer, format, level string) (zerolog.Logger, *progressLine) {
	if !isTerminal(w) {
		return newLog(w, format, level), nil
	}
	line := &progressLine{w: w}
	return newLog(line, format, level), line
}

func isTerminal(w io.Writer) bool {
	switch w := w.(type) {
	case *os.File:
		return isatty.IsTerminal(w.Fd())
	case *progressLine: // is made for terminals only
		return true
	}
	return false
}

// newLog returns a log to w, with times in UTC.
func newLog(w io.Writer, format, level string) zerolog.Logger {
	if terminal := isTerminal(w); format == "console" || format == "auto" && terminal {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.DateTime, NoColor: !terminal, TimeLocation: time.UTC}
	}
	parsedLevel, err := zerolog.ParseLevel(level)
	if err != nil {
		panic(err) // the flag allows only levels
	}
	return zerolog.New(zerolog.SyncWriter(w)).Level(parsedLevel).With().Timestamp().Logger()
}

// serverConfig is what a server is made of.
type serverConfig struct {
	network     *chaincfg.Params // nil: no chain is indexed
	node        nodeConfig
	electrum    *electrum.Config // who is asked for coins; nil: the node
	dataDir     string
	startHeight uint32
	memory      int64 // what the process may take, in bytes
	noStateRoot bool
	// proofRebuildKeys is out of how many keys the map of an older block is made anew for a proof; 0: the graph's default.
	proofRebuildKeys int
	proofMemory      int64           // what maps of older blocks may take, in bytes; 0: likewise
	stateLog         *stateLogConfig // nil: no state is published
	snapshot         *snapshotSource // nil: an index begins with the node's first block
	// mempoolActions is how many transactions of the node's mempool are shown; 0: it is not followed.
	mempoolActions int
	signInKeyFile  string // "" for a key that ends with the process
	walletConnect  *connectrpc.WalletConnect
	wizardConnect  *connectrpc.WizardConnect
	listen         listenConfig
	origins        []string         // as rpc.Config.Origins
	admission      *admission.Gate  // before all wires; nil: each has its own, with the default limits
	keyserver      *keyserverConfig // nil: none is run
	// settings are those that hold, and settingsAgain reads them as they are now, when the
	// process is asked to; nil: it is not.
	settings      *pflag.FlagSet
	settingsAgain func() (*pflag.FlagSet, error)
	certificates  *certificates // serve sets it
	log           zerolog.Logger
	line          *progressLine // nil: progress goes to the log
}

// databases are the folders of those that the server writes.
func (c serverConfig) databases() (dirs []string) {
	if c.network != nil {
		dirs = append(dirs, filepath.Join(c.dataDir, "graph"))
	}
	if c.keyserver != nil {
		dirs = append(dirs, c.keyserver.folders()...)
	}
	return dirs
}

// indexOperator is the socket on which the operator of an index asks its server.
func indexOperator(dataDir string) string { return filepath.Join(dataDir, "index-operator", "socket") }

// addresses are where a server answers.
type addresses struct {
	grpc, http net.Addr
	keyserver  net.Addr // nil if none is run
	metrics    net.Addr // nil if nobody looks
}

// serve runs a server until ctx ends, which is no error, or all parts of it have failed.
// When it returns, all of it has ended. serving, if not nil, hears the addresses as soon
// as the server answers.
func serve(ctx context.Context, c serverConfig, serving func(addresses)) (err error) {
	if err := mayWrite(c.dataDir, c.databases()...); err != nil {
		return err
	}
	hangups := make(chan os.Signal, 1)
	if c.settingsAgain != nil {
		signal.Notify(hangups, syscall.SIGHUP) // until it is read, the process is not to end by it either
		defer signal.Stop(hangups)
	}
	c.certificates = &certificates{log: c.log}
	certificates, err := c.listen.tls(c.certificates)
	if err != nil {
		return err
	}
	running, end := context.WithCancelCause(ctx)
	defer end(nil)
	config := rpc.Config{Net: c.network, TLS: certificates, Hosts: c.listen.hosts, Origins: c.origins, Admission: c.admission, Version: version(), Log: c.log}
	all := &parts{log: c.log, end: end}
	var counted *metrics.Metrics // nil: nobody looks
	if c.listen.metrics != "" {
		if counted, err = metrics.New(version()); err != nil {
			return err
		}
		config.Observe = counted.Answered
	}
	var index *runningIndex
	if c.network != nil {
		index = &runningIndex{part: all.add("index"), config: c, metrics: counted}
	}
	var keyserver *runningKeyserver
	var keyserverPart *part
	if c.keyserver != nil {
		keyserverPart = all.add("keyserver")
	}
	if index != nil {
		if err := index.part.begun(index.open(ctx)); err != nil {
			if ctx.Err() != nil { // while a snapshot was loaded
				c.log.Info().Msg("stopped")
				return nil
			}
			return err
		}
		defer func() { err = errors.Join(err, index.close()) }()
		config.Graph, config.Indexer, config.IndexPart = index.graph, index, &index.part.Part
		config.Blocks = index
		config.DialLinks, config.WalletConnect, config.WizardConnect = c.dialLinks, c.walletConnect, c.wizardConnect
		if err := index.openStateLog(); err != nil {
			return err
		}
		if index.stateLog != nil && c.stateLog.keyFile != "" {
			config.StateLog = index.stateLog
		}
		if index.stateLog != nil {
			config.State = statelogrpc.NewHandler(c.network.Name, index.stateLog, index.stateLog.witness(), c.log)
			config.StatePolicy = func() string { return index.stateLog.publicPolicy(c.stateLog) }
		}
		if c.signInKeyFile != "" {
			if config.SignInKey, err = signin.OpenKey(c.signInKeyFile); err != nil {
				return fmt.Errorf("--signin-key-file: %w", err)
			}
		}
	}
	if c.keyserver != nil {
		config.KeyserverPart, config.Allowances = &keyserverPart.Part, c.keyserver.allowances
		started, startErr := c.keyserver.start(ctx, c, certificates)
		if startErr == nil {
			defer func() { err = errors.Join(err, started.close()) }()
			if startErr = started.guard(ctx, c, index); startErr != nil {
				startErr = errors.Join(startErr, started.close())
			}
		}
		if err := keyserverPart.begun(startErr); err != nil {
			return err
		}
		if startErr == nil {
			keyserver, config.Keyserver = started, started.service
			keyserver.part = keyserverPart
			if counted != nil {
				keyserver.watch(counted, c.keyserver)
			}
		}
	}
	if running.Err() != nil && ctx.Err() == nil { // nothing is left to serve
		return context.Cause(running)
	}

	grpcListener, err := net.Listen("tcp", c.listen.grpc)
	if err != nil {
		return fmt.Errorf("--grpc-listen: %w", err)
	}
	defer grpcListener.Close() // after rpc has closed it, this does nothing
	httpListener, err := net.Listen("tcp", c.listen.http)
	if err != nil {
		return fmt.Errorf("--http-listen: %w", err)
	}
	defer httpListener.Close()

	server, err := rpc.NewServer(config)
	if err != nil {
		return err
	}
	var metricsListener net.Listener
	if counted != nil {
		if metricsListener, err = net.Listen("tcp", c.listen.metrics); err != nil {
			return fmt.Errorf("--metrics-listen: %w", err)
		}
		defer metricsListener.Close()
		counted.WatchClients(c.admission, config.Allowances)
	}

	defer context.AfterFunc(ctx, func() { c.log.Info().Msg("stopping") })()
	var working sync.WaitGroup
	at := addresses{grpc: grpcListener.Addr(), http: httpListener.Addr()}
	if index != nil && index.graph != nil {
		operators, err := listenOperator(indexOperator(c.dataDir))
		if err != nil {
			c.log.Warn().Err(err).Msg("index: snapshot create has to wait until it is stopped")
		} else {
			working.Go(func() {
				if err := rpc.NewOperatorServer(operator.NewIndexHandler(index.graph, c.log), c.log).Serve(running, operators); err != nil {
					c.log.Warn().Err(err).Msg("index: snapshot create has to wait until it is stopped")
				}
			})
		}
	}
	line := c.log.Info().Stringer("grpc", at.grpc).Stringer("http", at.http)
	if index != nil {
		line = line.Str("network", c.network.Name).Str("node", c.node.address()).Str("memory", humanize.IBytes(uint64(c.memory)))
		if index.graph != nil {
			memory := index.graph.Memory()
			line = line.Int64("links", memory.Links).Int64("keys_left", memory.Left())
		}
		working.Go(func() { index.run(running) })
	}
	if keyserver != nil {
		at.keyserver = keyserver.listener.Addr()
		line = line.Stringer("keyserver", at.keyserver).Str("domain", c.keyserver.domain)
		working.Go(func() {
			if keyserver.run(running, index.failed()) != nil { // its part knows
				if err := keyserver.close(); err != nil {
					c.log.Error().Err(err).Msg("closing the keyserver")
				}
			}
		})
	}
	working.Go(func() { (&supervised{index, keyserver, c.log}).run(running) })
	working.Go(func() {
		(&reloading{c.certificates, c.admission, c.settings, c.settingsAgain, c.log}).run(running, hangups)
	})
	if metricsListener != nil {
		at.metrics = metricsListener.Addr()
		line = line.Stringer("metrics", at.metrics)
		metrics := rpc.NewMetricsServer(rpc.MetricsConfig{Handler: counted.Handler(), TLS: certificates, Hosts: c.listen.hosts, Log: c.log})
		working.Go(func() {
			if err := metrics.Serve(running, metricsListener); err != nil {
				end(err)
			}
		})
	}
	line.Str("version", version()).Str("data_dir", c.dataDir).Msg("serving")
	if serving != nil {
		serving(at)
	}
	if err := server.Serve(running, grpcListener, httpListener); err != nil {
		end(err)
	}
	working.Wait()
	if ctx.Err() != nil {
		c.log.Info().Msg("stopped")
		return nil
	}
	return context.Cause(running)
}
