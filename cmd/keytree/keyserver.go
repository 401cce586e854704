package main

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/store/postgres"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/rpc"
	keyserverrpc "github.com/keytree-bch/keytree/rpc/keyserver"
	"github.com/keytree-bch/keytree/rpc/metrics"
	"github.com/keytree-bch/keytree/rpc/operator"
)

// defaultKeyserver is where a keyserver listens by default.
const defaultKeyserver = "127.0.0.1:8436"

func (a *app) keyserverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keyserver",
		Short: "Run and look after a keyserver",
		Long: `keyserver runs and looks after a keyserver: the key repository, key hashchain and
KeyInit repository of one domain. Its database is the folder keyserver in the data
folder, and cannot be made again from anything else: back it up, and the key file
apart from it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("expected keyserver serve, rotate-key, issue-tokens, backup, restore, fsck or export-tiles")
		},
	}
	cmd.AddCommand(
		a.keyserverServeCommand(), a.rotateKeyCommand(), a.issueTokensCommand(),
		a.keyserverBackupCommand(), a.keyserverRestoreCommand(), a.keyserverFsckCommand(), a.exportTilesCommand(),
	)
	return cmd
}

func (a *app) keyserverServeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve --keyserver-domain DOMAIN",
		Short: "Run a keyserver alone, without indexing a chain",
		Long: `keyserver serve runs the keyserver that keytree serve --keyserver-domain runs beside
the index, alone.

The first start makes the server's keys, in a file that only its owner can read,
and the first entry of the hashchain. Every start verifies the whole database. One that
an earlier keytree has made is converted then, after a backup of it was written beside
it, as keyserver.format-N.backup in the data folder.

Clients speak JSON-RPC to --keyserver-listen. The same calls but CountKeyInit, and
proofs, are answered over gRPC (keytree.v1.KeyserverService) and REST (/v1/keyserver). All three take the
certificates of --tls-cert or --acme; --keyserver-tls-cert is another one for JSON-RPC.
Without, they answer the local machine only, or a proxy that has TLS: --plaintext says
that others may reach them. No page in a browser may call the keyserver. A proxy on this
machine may ask for the domain and every --keyserver-uri; more names: --http-host.

Registering and adding KeyInits is paid with tokens, which issue-tokens makes;
--keyserver-tokens open lets everybody in without. Handing out KeyInits is free unless
--keyinit-fetch token asks for one each: then nobody uses them up for nothing, but
clients must know of it (KEYINITFETCH in Capabilities), which older ones do not.

Below /keytree/ on --keyserver-listen it serves the hashchain as a transparency log, which
programs of others read and check (keyserver/TLOG.md in the source). Its key is made at the
first start, keyserver-log.key in the data folder; keyserver-log.json beside it holds what was
signed last. The two belong together, and are in no backup of the database: copy both, always
the newest. --witness-policy FILE has witnesses cosign the log.

With --keyserver-store its database is in PostgreSQL, which can have replicas and several
servers: one writes, and those with --standby answer what needs no writing and take over
when it is gone. keyserver/POSTGRES.md beside the source tells what both need.

Without an index there is nobody to ask whether the database, if it is an old backup,
was anchored later: keytree serve asks, and is the safer one after a restore.`,
		Example: `  keytree keyserver serve --keyserver-domain example.org --keyserver-tokens open
  keytree keyserver serve --keyserver-domain example.org --keyserver-listen :8436 \
    --tls-cert cert.pem --tls-key key.pem --data-dir /srv/keyserver`,
		Args: takes(),
	}
	flags := cmd.Flags()
	dataDir := placeFlags(flags)
	listen := newListenFlags(flags)
	limits := newLimitFlags(flags)
	log := newLogFlags(flags)
	ks := newKeyserverFlags(flags)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c := serverConfig{dataDir: *dataDir}
		var err error
		if c.admission, err = limits.gate(); err != nil {
			return err
		}
		if c.keyserver, err = ks.config(*dataDir); err != nil {
			return err
		}
		if c.keyserver == nil {
			return errNoDomain
		}
		if c.keyserver.anchor.keyFile != "" {
			return usagef("--anchor-key-file needs an index of the chain, which keytree keyserver serve does without: run keytree serve")
		}
		if c.listen, err = listen.config(*dataDir, c.keyserver); err != nil {
			return err
		}
		c.settings, c.settingsAgain = cmd.Flags(), a.settingsAgain(cmd)
		c.log, c.line = newLogAndLine(a.stderr, log.format.value, log.level.value)
		return serve(cmd.Context(), c, nil)
	}
	return cmd
}

var errNoDomain = usageError{errors.New("no domain given: expected --keyserver-domain DOMAIN, KEYTREE_KEYSERVER_DOMAIN or keyserver-domain in the config file")}

// keyserverPlace are the flags that tell where a keyserver's things are.
type keyserverPlace struct {
	domain  *string
	keyFile *string
	store   *string // is parsed where errors do not repeat it: there may be a password in it
}

func newKeyserverPlace(flags *pflag.FlagSet) keyserverPlace {
	p := keyserverPlace{
		domain:  flags.String("keyserver-domain", "", "`DOMAIN` that the keyserver serves, for good"),
		keyFile: flags.String("keyserver-key-file", "", "`FILE` with the server's secrets, made at the first start (default DIR/keyserver.key)"),
		store:   flags.String("keyserver-store", "", "PostgreSQL `URL`, postgres://USER@HOST/DATABASE, that the keyserver's database is in, its password in PGPASSWORD, in ~/.pgpass or the file of passfile=FILE (default the folder DIR/keyserver)"),
	}
	setting(flags, "keyserver-domain", "keyserver-key-file", "keyserver-store")
	return p
}

// config returns the keyserver of the data folder, nil if no domain is given.
func (p keyserverPlace) config(dataDir string) (*keyserverConfig, error) {
	if *p.domain == "" {
		return nil, nil
	}
	if dataDir == "" {
		return nil, usagef("no data folder given, and the system has no home folder to put it into: expected --data-dir DIR")
	}
	c := &keyserverConfig{
		domain:     *p.domain,
		dir:        filepath.Join(dataDir, "keyserver"),
		keyFile:    *p.keyFile,
		issuerFile: filepath.Join(dataDir, "keyserver-issuer.key"),
		operator:   filepath.Join(dataDir, "keyserver-operator", "socket"),
		anchor:     anchoringConfig{stateFile: filepath.Join(dataDir, "keyserver-anchor.json")},
		log:        newLogOptions(*p.domain, dataDir),
	}
	if c.keyFile == "" {
		c.keyFile = filepath.Join(dataDir, "keyserver.key")
	}
	if *p.store != "" {
		store, err := postgres.Parse(*p.store)
		if err != nil {
			return nil, usagef("--keyserver-store: %w", err)
		}
		c.store = &store
	}
	return c, nil
}

// keyserverFlags are the flags of a running keyserver.
type keyserverFlags struct {
	flags   *pflag.FlagSet
	place   keyserverPlace
	standby *bool
	listen  *parsed[string]
	cert    *string
	key     *string
	tokens  *parsed[string]
	fetch   *parsed[string]
	rate    *parsed[uint32]
	uris    *list[string]
	link    *parsed[ed25519.PublicKey]
	anchor  anchoringFlags
	log     logServingFlags
	names   []string // of all these but place's
}

func newKeyserverFlags(flags *pflag.FlagSet) keyserverFlags {
	f := keyserverFlags{
		flags:   flags,
		place:   newKeyserverPlace(flags),
		standby: flags.Bool("standby", false, "stand by for the keyserver that writes --keyserver-store: answer what needs no writing, and take over when it is gone"),
		listen:  newParsed("HOST:PORT", defaultKeyserver, parseHostPort(true)),
		cert:    flags.String("keyserver-tls-cert", "", "certificate `FILE` for the keyserver's JSON-RPC, in place of --tls-cert or --acme"),
		key:     flags.String("keyserver-tls-key", "", "private key `FILE` of the certificate, PEM"),
		tokens:  newParsed("WHICH", "issued", oneOf("open", "issued")),
		fetch:   newParsed("WHICH", "open", oneOf("open", "token")),
		rate: numberFlag(flags, "keyserver-rate", rpc.DefaultCallRate, 0, 1_000_000,
			"calls per second that one client may make of the keyserver, but for those in --unlimited; 0 does not tell clients apart"),
		uris: &list[string]{kind: "URI", parse: func(s string) (string, error) { return s, uid.CheckURI(s) }},
		link: newParsed("BASE64", "", func(s string) (ed25519.PublicKey, error) {
			public, err := canonical.Decode(s, ed25519.PublicKeySize)
			return public, err
		}),
	}
	flags.Var(f.listen, "keyserver-listen", "where to answer the keyserver's JSON-RPC; port 0 lets the system choose")
	flags.Var(f.tokens, "keyserver-tokens", "what the keyserver is paid with: issued (by issue-tokens), or open: everybody may register, for tests")
	flags.Var(f.fetch, "keyinit-fetch", "what the keyserver hands out KeyInits for: a token each, or nothing (open), as all clients know it, but few at a time to one client address")
	flags.Var(f.uris, "keyserver-uri", "a name besides the domain under which clients reach the keyserver, for Capabilities and KeyInits; can be given more than once")
	flags.Var(f.link, "keyserver-link-authority", "public Ed25519 key of who may vouch for authoritative links to other hashchains (default nobody)")
	f.names = []string{"keyserver-listen", "keyserver-tls-cert", "keyserver-tls-key", "keyserver-tokens", "keyinit-fetch", "keyserver-rate", "keyserver-uri", "keyserver-link-authority", "standby"}
	setting(flags, f.names...)
	f.anchor = newAnchoringFlags(flags)
	f.names = append(f.names, anchoringFlagNames()...)
	f.log = newLogServingFlags(flags)
	f.names = append(f.names, logServingFlagNames()...)
	return f
}

// config returns what was asked for, nil if no keyserver was.
func (f keyserverFlags) config(dataDir string) (*keyserverConfig, error) {
	c, err := f.place.config(dataDir)
	if err != nil {
		return nil, err
	}
	if c == nil {
		for _, name := range append(f.names, "keyserver-key-file", "keyserver-store") {
			if f.flags.Changed(name) {
				return nil, usagef("--%s goes with --keyserver-domain, which says that there is to be a keyserver", name)
			}
		}
		return nil, nil
	}
	if (*f.cert == "") != (*f.key == "") {
		return nil, usagef("expected both or none of --keyserver-tls-cert and --keyserver-tls-key")
	}
	c.listen, c.tlsCert, c.tlsKey = f.listen.value, *f.cert, *f.key
	c.open, c.paidFetch, c.allowances = f.tokens.value == "open", f.fetch.value == "token", keyserverrpc.NewAllowances(int(f.rate.value))
	if c.open && c.paidFetch {
		return nil, usagef("--keyinit-fetch token needs tokens that somebody issues: expected --keyserver-tokens issued")
	}
	if c.standby = *f.standby; c.standby && c.store == nil {
		return nil, usagef("--standby goes with --keyserver-store, which several servers can reach")
	}
	c.uris, c.linkAuthority = f.uris.values, f.link.value
	if err := f.log.into(&c.log); err != nil {
		return nil, err
	}
	c.anchor, err = f.anchor.config(f.flags, c.anchor.stateFile)
	return c, err
}

// keyserverConfig is what a keyserver is made of.
type keyserverConfig struct {
	domain     string
	dir        string          // of the database, unless there is a store
	store      *postgres.Place // that the database is in; nil: in dir
	standby    bool            // for another server, which writes the store
	keyFile    string
	issuerFile string // of the token issuer's key
	operator   string // socket for rotate-key and backup

	listen          string
	tlsCert, tlsKey string
	open            bool                     // takes calls without a token
	paidFetch       bool                     // hands out KeyInits for a token
	allowances      *keyserverrpc.Allowances // of each client, on all wires
	uris            []string                 // besides the domain
	linkAuthority   ed25519.PublicKey        // nil: nobody
	anchor          anchoringConfig
	log             tlog.Options // but for its source
}

// options are those of the service, without tokens.
func (c *keyserverConfig) options(log zerolog.Logger) keyserver.Options {
	opt := keyserver.Options{
		Domain: c.domain, Dir: c.dir, KeyFile: c.keyFile, Log: log,
		URIs: append([]string{c.domain}, c.uris...), LinkAuthority: c.linkAuthority,
		PaidFetch: c.paidFetch,
	}
	if c.store != nil {
		place := *c.store
		place.Log = log
		opt.Place, opt.Acknowledged = place, c.keyFile+".acknowledged"
	}
	if c.anchor.keyFile != "" {
		opt.Anchors = &c.anchor.schedule
	}
	return opt
}

// folders are those of the database, if it is in one.
func (c *keyserverConfig) folders() []string {
	if c.store != nil {
		return nil
	}
	return []string{c.dir}
}

// where says where the database is.
func (c *keyserverConfig) where() string {
	if c.store != nil {
		return c.store.String()
	}
	return c.dir
}

// hosts are the names under which clients ask for the keyserver.
func (c *keyserverConfig) hosts() []string {
	hosts := []string{c.domain}
	for _, uri := range c.uris {
		host := uri
		if u, err := url.Parse(uri); err == nil && u.Host != "" {
			host = u.Host
		}
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		hosts = append(hosts, strings.ToLower(host))
	}
	return hosts
}

// runningKeyserver is a keyserver and what serves it. run serves, close ends it.
type runningKeyserver struct {
	service  *keyserver.Service
	tlog     *tlog.Log           // of the service
	wire     rpc.KeyserverConfig // of the service
	listener net.Listener
	operator net.Listener // nil if the socket could not be made
	anchors  *anchoring   // nil if there is none
	// check, if not nil, is what the keyserver is held for, where anchors does not do it.
	check func(context.Context) error
	// shared says that other servers can write the store, and sign the log, when this one does not.
	shared bool
	part   *part // hears of a failure; nil if nothing else goes on
	log    zerolog.Logger
}

// start opens a server's keyserver, with the certificates of all the server unless it has
// its own, and holds it back if there is an index to wait for.
func (c *keyserverConfig) start(ctx context.Context, of serverConfig, certificates *tls.Config) (k *runningKeyserver, err error) {
	log := of.log
	k = &runningKeyserver{log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	k.wire = rpc.KeyserverConfig{
		TLS: certificates, Hosts: append(c.hosts(), of.listen.hosts...), Allowances: c.allowances, Admission: of.admission, Log: log,
	}
	if c.tlsCert != "" {
		if k.wire.TLS, err = of.certificates.load(c.tlsCert, c.tlsKey); err != nil {
			return k, err
		}
	}
	if err := os.MkdirAll(filepath.Dir(c.dir), 0o700); err != nil {
		return k, err
	}
	opt := c.options(log)
	opt.Migrate, opt.Standby = true, c.standby
	// Until it was compared with what was anchored, and where a replica may have been promoted, with what
	// was signed.
	opt.Held = of.network != nil || c.store != nil
	if c.open {
		log.Warn().Msg("keyserver: everybody may register and add KeyInits without a token")
		opt.Tokens = token.Open{}
	} else {
		if _, err := os.Stat(c.issuerFile); c.standby && err != nil {
			return k, fmt.Errorf("token issuer's key: %w: copy it from the server that writes, or tokens that it has issued are worth nothing here", err)
		}
		issuer, err := token.OpenIssuer(c.issuerFile)
		if err != nil {
			return k, fmt.Errorf("token issuer's key: %w", err)
		}
		opt.Tokens = token.Issued{Domain: c.domain, Issuer: issuer.Public()}
	}
	if k.service, err = keyserver.Open(ctx, opt); err != nil {
		return k, fmt.Errorf("keyserver: %w", err)
	}
	if _, err := os.Stat(c.log.KeyFile); c.standby && err != nil {
		return k, fmt.Errorf("transparency log: %w: copy it, and its state beside it, from the server that writes, or this one would sign another log of the same name", err)
	}
	c.log.Source, c.log.Log, c.log.Shared = k.service, log, c.store != nil
	k.shared = c.log.Shared
	if k.tlog, err = tlog.Open(c.log); err != nil {
		return k, fmt.Errorf("transparency log: %w", err)
	}
	k.service.AnnounceLog(c.log.Origin, k.tlog.Key().String())
	if k.listener, err = net.Listen("tcp", c.listen); err != nil {
		return k, fmt.Errorf("--keyserver-listen: %w", err)
	}
	if k.operator, err = listenOperator(c.operator); err != nil {
		log.Warn().Err(err).Msg("keyserver: rotate-key and backup have to wait until it is stopped")
	}
	k.wire.Service, k.wire.TLog = k.service, k.tlog
	return k, nil
}

// listenOperator listens on a socket in a folder that only its owner can enter.
// Whoever has the database open is alone here, so a socket that is there is one that
// a killed process has left.
func listenOperator(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(filepath.Dir(socket), 0o700); err != nil {
		return nil, err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return net.Listen("unix", socket)
}

// errNobodyReleases is why a keyserver fails with the index that it waits for.
var errNobodyReleases = errors.New("the keyserver is held back until the index tells what was anchored, and the index has failed")

// watch adds the keyserver to what is counted, before it runs.
func (k *runningKeyserver) watch(m *metrics.Metrics, c *keyserverConfig) {
	m.WatchKeyserver(k.service, c.dir)
	m.WatchLog(k.tlog)
	if k.anchors != nil {
		m.WatchAnchors(k.anchors.Status)
	}
	k.wire.Observe = m.Answered
}

// run serves until ctx ends, which is no error, or until the keyserver, or what
// serves it, fails. indexFailed is closed when the index beside it has failed, nil if
// there is none: a keyserver that is held back for it fails then, too, others go on.
func (k *runningKeyserver) run(ctx context.Context, indexFailed <-chan struct{}) error {
	running, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	fail := func(cause error) {
		if k.part != nil && running.Err() == nil {
			k.part.fail(cause) // at once: its history must not be shown any more
		}
		cancel(cause)
	}
	var parts sync.WaitGroup
	serve := func(part interface {
		Serve(context.Context, net.Listener) error
	}, on net.Listener) {
		parts.Go(func() {
			if err := part.Serve(running, on); err != nil {
				fail(err)
			}
		})
	}
	serve(rpc.NewKeyserverServer(k.wire), k.listener)
	writes := make(chan struct{}) // closed when the keyserver may write: a standby signs no checkpoints
	parts.Go(func() {
		select {
		case <-running.Done():
		case <-writes:
			k.tlog.Run(running)
			if err := k.tlog.Err(); err != nil && k.shared {
				fail(notSigned(err))
			}
		}
	})
	config := operator.Config{Service: k.service, TLog: k.tlog, Log: k.log}
	if k.anchors != nil {
		config.Anchors = k.anchors.Publisher
	}
	requests := operator.NewHandler(config)
	parts.Go(func() {
		if err := k.work(running, func() { close(writes) }); err != nil {
			fail(err)
		}
	})
	if k.operator != nil {
		serve(rpc.NewOperatorServer(requests, k.log), k.operator)
	}
	for running.Err() == nil {
		select {
		case <-running.Done():
		case <-k.service.Failed():
			fail(k.service.Err())
		case <-indexFailed:
			if indexFailed = nil; errors.Is(k.service.Ready(), keyserver.ErrHeld) {
				fail(errNobodyReleases)
			}
		}
	}
	parts.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(running)
}

// work is what a keyserver does by itself, until ctx ends, which is no error. A standby first
// waits until it has taken over; then, at once in one that is none, writing is called. What it is held for is compared before it shows anything, and
// again when it has taken over.
func (k *runningKeyserver) work(ctx context.Context, writing func()) (err error) {
	check, publish, why := k.check, func(context.Context) error { return nil }, "no chain of anchors is the keyserver's"
	if k.anchors != nil {
		wallet, err := k.anchors.coins.open(ctx)
		if err != nil {
			return k.release(ctx, err, "")
		}
		defer func() { err = errors.Join(err, wallet.Close()) }()
		k.anchors.node.Source = wallet
		check, publish, why = k.anchors.Check, k.anchors.Run, "the hashchain agrees with its anchors"
	}
	compare := func(ctx context.Context) error {
		if check == nil { // guard has found nothing to wait for
			k.service.Release()
			return nil
		}
		return k.release(ctx, check(ctx), why)
	}
	if k.service.Standby() {
		if err := k.standBy(ctx, compare); err != nil || ctx.Err() != nil {
			return err
		}
	}
	if k.shared {
		if err := k.tlog.Check(ctx); err != nil && ctx.Err() == nil {
			return notSigned(err)
		}
	}
	writing()
	if err := compare(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	return publish(ctx)
}

// notSigned is why a keyserver is not served whose hashchain is not the one that was signed.
func notSigned(err error) error {
	return fmt.Errorf("transparency log: the keyserver must not be served: %w", err)
}

// standBy takes over from the server that writes, as soon as it is gone, and compares meanwhile
// what is to be compared before a standby may show anything.
func (k *runningKeyserver) standBy(ctx context.Context, compare func(context.Context) error) error {
	standing, end := context.WithCancel(ctx)
	compared := make(chan error, 1)
	go func() { compared <- compare(standing) }()
	err := k.service.TakeOver(ctx)
	end()
	if err := errors.Join(err, <-compared); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

func (k *runningKeyserver) close() error {
	for _, l := range []net.Listener{k.listener, k.operator} {
		if l != nil {
			l.Close() // after its server has closed it, this does nothing
		}
	}
	var err error
	if k.tlog != nil {
		err = k.tlog.Close()
	}
	if k.service != nil {
		err = errors.Join(err, k.service.Close())
	}
	return err
}
