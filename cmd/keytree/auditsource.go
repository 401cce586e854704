package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/keyserver/audit/sources"
	keyclient "github.com/keytree-bch/keytree/keyserver/client"
	"github.com/keytree-bch/keytree/rpc/client"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// headerFlags say which blocks are on the best chain: a node, or a file behind a
// checkpoint.
type headerFlags struct {
	node       nodeFlag
	file       *string
	checkpoint *parsed[audit.Checkpoint]
}

func newHeaderFlags(flags *pflag.FlagSet) headerFlags {
	h := headerFlags{
		node:       newNodeFlag(flags, "own node, which says which blocks are on the best chain ("+nodeURLForms+")"),
		file:       flags.String("headers", "", "`FILE` of block headers that says so instead (keytree audit headers)"),
		checkpoint: newParsed("HEIGHT:HASH", "", audit.ParseCheckpoint),
	}
	flags.Var(h.checkpoint, "checkpoint", "pinned block, with which the headers begin")
	return h
}

func (h headerFlags) check() error {
	switch {
	case *h.file != "" && h.node.text != "":
		return usagef("expected one of --node and --headers, got both")
	case (*h.file != "") != (h.checkpoint.text != ""):
		return usagef("--headers and --checkpoint go together: a file of headers proves nothing without a block that is known")
	}
	return nil
}

// dial connects to the node.
func (h headerFlags) dial(ctx context.Context, a *app, net *chaincfg.Params) (openNode, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, nodeTimeout, fmt.Errorf("no answer within %v", nodeTimeout))
	defer cancel()
	return h.node.value.dial(ctx, net, math.MaxInt32, newLog(a.stderr, "auto", "error"))
}

// open opens what the flags name; nil if they name nothing. done ends its use.
func (h headerFlags) open(ctx context.Context, a *app, net *chaincfg.Params) (_ audit.Headers, done func() error, err error) {
	switch {
	case h.node.text != "":
		n, err := h.dial(ctx, a, net)
		if err != nil {
			return nil, nil, err
		}
		return sources.Node{NodeClient: n}, n.Close, nil
	case *h.file != "":
		return openHeaders(ctx, *h.file, h.checkpoint.value, net)
	}
	return nil, func() error { return nil }, nil
}

// openHeaders opens a file of headers behind a block that is known. done ends its use.
func openHeaders(ctx context.Context, path string, pinned audit.Checkpoint, net *chaincfg.Params) (_ *audit.HeaderFile, done func() error, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("--headers: %w", err)
	}
	info, err := file.Stat()
	var headers *audit.HeaderFile
	if err == nil {
		headers, err = audit.ReadHeaders(ctx, file, info.Size(), net, pinned, time.Now())
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("--headers: %s: %w", path, err), file.Close())
	}
	return headers, file.Close, nil
}

// auditSources are the flags that say where an audit takes everything from.
type auditSources struct {
	app       *app
	network   *parsed[*chaincfg.Params]
	genesis   *parsed[chainhash.Hash]
	keyserver *string
	heads     *parsed[string]
	ca        *caFlag
	entries   *string
	bundle    *string
	server    serverFlags
	headers   headerFlags
}

func newAuditSources(a *app, flags *pflag.FlagSet) *auditSources {
	s := &auditSources{
		app:       a,
		network:   networkFlag(flags),
		genesis:   genesisFlag(flags),
		keyserver: flags.String("keyserver", "", "`URL` of the keyserver to audit"),
		heads:     newParsed("HOST:PORT", "", parseServer),
		ca:        newCAFlag(flags, "keyserver-ca"),
		entries:   flags.String("entries", "", "`FILE` with the hashchain instead, 153 bytes for each entry"),
		bundle:    flags.String("bundle", "", "`FILE` with the proof bundle (default from the server)"),
		server:    newServerFlags(flags),
		headers:   newHeaderFlags(flags),
	}
	flags.Var(s.heads, "keyserver-grpc", "keyserver's gRPC interface, for its signed heads, as --server")
	return s
}

func genesisFlag(flags *pflag.FlagSet) *parsed[chainhash.Hash] {
	p := newParsed("TXID", "", parseTxID)
	flags.Var(p, "genesis", "genesis anchor of the keyserver, pinned")
	return p
}

func (s *auditSources) check() error {
	switch {
	case s.genesis.text == "":
		return usagef("no genesis anchor given: expected --genesis TXID, as the keyserver's operator has published it")
	case (*s.keyserver == "") == (*s.entries == ""):
		return usagef("expected what to audit from one of --keyserver URL and --entries FILE")
	case *s.entries != "" && s.heads.text != "":
		return usagef("--keyserver-grpc goes with --keyserver")
	}
	if *s.keyserver != "" {
		if err := keyclient.CheckURL(*s.keyserver); err != nil {
			return usagef("--keyserver: %w", err)
		}
	}
	return s.headers.check()
}

// open opens the sources. done ends their use.
func (s *auditSources) open(ctx context.Context) (from audit.Sources, done func() error, err error) {
	var closers []func() error
	closeAll := func() error {
		var errs []error
		for _, c := range closers {
			errs = append(errs, c())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll())
		}
	}()

	headers, closed, err := s.headers.open(ctx, s.app, s.network.value)
	if err != nil {
		return from, nil, err
	}
	closers = append(closers, closed)
	from.Headers = headers
	switch h := headers.(type) {
	case sources.Node:
		from.Newest, from.Spending = h.Newest, h.Spending
	case *audit.HeaderFile:
		from.Newest = func(context.Context) (time.Time, error) { return h.Time(), nil }
	}

	if *s.bundle == "" || headers == nil {
		c, err := s.server.dial()
		if err != nil {
			return from, nil, err
		}
		closers = append(closers, c.Close)
		server := sources.NewServer(c.Client, c.address, c.explain)
		if headers == nil {
			from.Headers = server
		}
		if *s.bundle == "" {
			from.Bundle = func(ctx context.Context, first uint32) (io.ReadCloser, error) {
				return server.Bundle(ctx, s.genesis.value, first)
			}
			from.OtherChains = server.OtherChains
		}
	}
	if *s.bundle != "" {
		from.Bundle = func(context.Context, uint32) (io.ReadCloser, error) { return os.Open(*s.bundle) }
	}

	if *s.entries != "" {
		from.Keyserver = sources.EntriesFile{Path: *s.entries}
		return from, closeAll, nil
	}
	transport, err := keyserverTransport(s.ca)
	if err != nil {
		return from, nil, err
	}
	closers = append(closers, func() error { transport.CloseIdleConnections(); return nil })
	k := &sources.Keyserver{Reader: keyclient.NewReader(*s.keyserver, transport)}
	if s.heads.text != "" {
		c, err := connect(s.heads.value, s.ca, client.Options{})
		if err != nil {
			return from, nil, fmt.Errorf("--keyserver-grpc: %w", err)
		}
		closers = append(closers, c.Close)
		k.Heads = keytreev1.NewKeyserverServiceClient(c.Conn())
	}
	from.Keyserver, from.Log = k, k
	return from, closeAll, nil
}
