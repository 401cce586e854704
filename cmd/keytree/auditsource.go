package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	keyclient "github.com/keytree-bch/keytree/keyserver/client"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc/client"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// auditedKeyserver asks a keyserver over its own wire and, for its signed head,
// over gRPC.
type auditedKeyserver struct {
	*keyclient.Reader
	heads keytreev1.KeyserverServiceClient // nil: it is not asked for one
}

// Head implements audit.Keyserver.
func (k *auditedKeyserver) Head(ctx context.Context) (*hashchain.SignedHead, error) {
	if k.heads == nil {
		return nil, nil
	}
	h, err := k.heads.GetSignedHead(ctx, &keytreev1.GetSignedHeadRequest{})
	if err != nil {
		return nil, err
	}
	return &hashchain.SignedHead{
		Head: hashchain.Head{
			AnchorChain: h.AnchorChain, Domain: h.Domain, EntryHash: canonical.Encode(h.EntryHash),
			Size: h.Size, Time: h.Time, TreeRoot: canonical.Encode(h.TreeRoot),
		},
		ServerSignature: canonical.Encode(h.ServerSignature),
	}, nil
}

// entriesInFile is a hashchain in a file, 153 bytes for each entry, with which
// nothing signed comes.
type entriesInFile struct{ path string }

var errUnsigned = errors.New("a file of entries has nothing that is signed")

// Entries implements audit.Keyserver.
func (f entriesInFile) Entries(_ context.Context, from uint64) iter.Seq2[[]hashchain.Entry, error] {
	const atOnce = 1 << 14
	return func(yield func([]hashchain.Entry, error) bool) {
		file, err := os.Open(f.path)
		if err != nil {
			yield(nil, err)
			return
		}
		defer file.Close()
		if _, err := file.Seek(int64(min(from, 1<<48)*hashchain.EntrySize), io.SeekStart); err != nil {
			yield(nil, err)
			return
		}
		buf := make([]byte, atOnce*hashchain.EntrySize)
		for {
			n, err := io.ReadFull(file, buf)
			if n%hashchain.EntrySize != 0 {
				yield(nil, fmt.Errorf("%s: expected a multiple of %d bytes: is the file cut short?", f.path, hashchain.EntrySize))
				return
			}
			entries := make([]hashchain.Entry, n/hashchain.EntrySize)
			for i := range entries {
				entries[i] = hashchain.Entry(buf[i*hashchain.EntrySize:])
			}
			if n > 0 && !yield(entries, nil) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// Positions implements audit.Keyserver.
func (f entriesInFile) Positions(context.Context, string) ([]uint64, error) { return nil, errUnsigned }

// Reply implements audit.Keyserver.
func (f entriesInFile) Reply(context.Context, hashchain.Hash) (*uid.Reply, error) {
	return nil, errUnsigned
}

// Head implements audit.Keyserver.
func (f entriesInFile) Head(context.Context) (*hashchain.SignedHead, error) { return nil, nil }

// Schedule implements audit.Keyserver.
func (f entriesInFile) Schedule(context.Context) (*schedule.Schedule, error) { return nil, nil }

// nodeHeaders asks one's own node which blocks are on the best chain, and what they
// spend.
type nodeHeaders struct{ openNode }

// newest is the time in the header of the best chain's last block.
func (n nodeHeaders) newest(ctx context.Context) (time.Time, error) {
	tip, err := n.Tip(ctx)
	if err != nil {
		return time.Time{}, err
	}
	raw, err := n.Header(ctx, tip.Height)
	if err != nil {
		return time.Time{}, err
	}
	h, err := protocol.ParseHeader(raw[:])
	return time.Unix(int64(h.Time), 0), err
}

// spending tells whether an output of the best chain is spent.
func (n nodeHeaders) spending(ctx context.Context, out wire.OutPoint) (audit.Spending, error) {
	inChain, err := n.Unspent(ctx, out, false)
	switch {
	case err != nil:
		return audit.NotAsked, err
	case !inChain:
		return audit.SpentInBlock, nil
	}
	stillThere, err := n.Unspent(ctx, out, true)
	switch {
	case err != nil:
		return audit.NotAsked, err
	case !stillThere:
		return audit.SpentInMempool, nil
	}
	return audit.Unspent, nil
}

// OnBestChain implements audit.Headers.
func (n nodeHeaders) OnBestChain(ctx context.Context, height uint32, block chainhash.Hash) error {
	hash, err := n.BlockHash(ctx, height)
	if errors.Is(err, node.ErrNotFound) {
		return fmt.Errorf("%w: the node's best chain ends before height %d", audit.ErrNoHeader, height)
	}
	if err != nil {
		return err
	}
	return sameBlock(height, hash, block)
}

func sameBlock(height uint32, have, asked chainhash.Hash) error {
	if have != asked {
		return fmt.Errorf("%w: at height %d it has block %v, not %v", audit.ErrNotOnBestChain, height, have, asked)
	}
	return nil
}

// anchorServer asks a keytree server about anchors.
type anchorServer struct {
	*server
	anchors keytreev1.AnchorServiceClient
}

func newAnchorServer(c *server) *anchorServer {
	return &anchorServer{c, keytreev1.NewAnchorServiceClient(c.Conn())}
}

// OnBestChain implements audit.Headers: the server's word is taken for it.
func (s *anchorServer) OnBestChain(ctx context.Context, height uint32, block chainhash.Hash) error {
	// Any list tells which block it is as of.
	answer, err := s.anchors.ListAnchorChains(ctx, &keytreev1.ListAnchorChainsRequest{Domain: "invalid", AtHeight: &height, PageSize: 1})
	if status.Code(err) == codes.OutOfRange {
		return fmt.Errorf("%w: server %s: %w", audit.ErrNoHeader, s.address, err)
	}
	if err != nil {
		return err
	}
	hash, err := parseTxID(answer.AsOfHash)
	if err != nil {
		return fmt.Errorf("server %s: block hash: %w", s.address, err)
	}
	return sameBlock(height, hash, block)
}

// bundle opens the proof bundle of a chain of anchors.
func (s *anchorServer) bundle(ctx context.Context, chain chainhash.Hash, first uint32) (io.ReadCloser, error) {
	in, err := s.Bundle(ctx, chain.String(), first)
	if err != nil {
		return nil, s.explain(err)
	}
	return explainedBundle{in, s.server}, nil
}

// explainedBundle is a bundle whose errors are for the user.
type explainedBundle struct {
	io.ReadCloser
	from *server
}

// Read implements io.Reader.
func (b explainedBundle) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.from.explain(err)
	}
	return n, err
}

// mostChains bounds how many chains of anchors for a domain are looked at: anybody can begin
// one.
const mostChains = 1000

// otherChains lists the first chains of anchors for a domain.
func (s *anchorServer) otherChains(ctx context.Context, domain string) ([]chainhash.Hash, error) {
	var chains []chainhash.Hash
	for c, err := range s.AnchorChains(ctx, domain) {
		if err != nil {
			return nil, err
		}
		hash, err := parseTxID(c.ChainTxHash)
		if err != nil {
			return nil, fmt.Errorf("server %s: chain of anchors: %w", s.address, err)
		}
		if chains = append(chains, hash); len(chains) == mostChains {
			break
		}
	}
	return chains, nil
}

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
func (h headerFlags) dial(ctx context.Context, a *app, net *chaincfg.Params) (nodeHeaders, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, nodeTimeout, fmt.Errorf("no answer within %v", nodeTimeout))
	defer cancel()
	n, err := h.node.value.dial(ctx, net, math.MaxInt32, newLog(a.stderr, "auto", "error"))
	if err != nil {
		return nodeHeaders{}, err
	}
	return nodeHeaders{n}, nil
}

// open opens what the flags name; nil if they name nothing. done ends its use.
func (h headerFlags) open(ctx context.Context, a *app, net *chaincfg.Params) (_ audit.Headers, done func() error, err error) {
	switch {
	case h.node.text != "":
		n, err := h.dial(ctx, a, net)
		if err != nil {
			return nil, nil, err
		}
		return n, n.Close, nil
	case *h.file != "":
		file, err := os.Open(*h.file)
		if err != nil {
			return nil, nil, fmt.Errorf("--headers: %w", err)
		}
		info, err := file.Stat()
		var headers *audit.HeaderFile
		if err == nil {
			headers, err = audit.ReadHeaders(ctx, file, info.Size(), net, h.checkpoint.value, time.Now())
		}
		if err != nil {
			return nil, nil, errors.Join(fmt.Errorf("--headers: %s: %w", *h.file, err), file.Close())
		}
		return headers, file.Close, nil
	}
	return nil, func() error { return nil }, nil
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
	case nodeHeaders:
		from.Newest, from.Spending = h.newest, h.spending
	case *audit.HeaderFile:
		from.Newest = func(context.Context) (time.Time, error) { return h.Time(), nil }
	}

	if *s.bundle == "" || headers == nil {
		c, err := s.server.dial()
		if err != nil {
			return from, nil, err
		}
		closers = append(closers, c.Close)
		server := newAnchorServer(c)
		if headers == nil {
			from.Headers = server
		}
		if *s.bundle == "" {
			from.Bundle = func(ctx context.Context, first uint32) (io.ReadCloser, error) {
				return server.bundle(ctx, s.genesis.value, first)
			}
			from.OtherChains = server.otherChains
		}
	}
	if *s.bundle != "" {
		from.Bundle = func(context.Context, uint32) (io.ReadCloser, error) { return os.Open(*s.bundle) }
	}

	if *s.entries != "" {
		from.Keyserver = entriesInFile{*s.entries}
		return from, closeAll, nil
	}
	transport, err := keyserverTransport(s.ca)
	if err != nil {
		return from, nil, err
	}
	closers = append(closers, func() error { transport.CloseIdleConnections(); return nil })
	k := &auditedKeyserver{Reader: keyclient.NewReader(*s.keyserver, transport)}
	if s.heads.text != "" {
		c, err := connect(s.heads.value, s.ca, client.Options{})
		if err != nil {
			return from, nil, fmt.Errorf("--keyserver-grpc: %w", err)
		}
		closers = append(closers, c.Close)
		k.heads = keytreev1.NewKeyserverServiceClient(c.Conn())
	}
	from.Keyserver = k
	return from, closeAll, nil
}
