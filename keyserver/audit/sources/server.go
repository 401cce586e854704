package sources

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/rpc/client"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// Server asks a keytree server about anchors. Its methods may be called concurrently.
type Server struct {
	client  *client.Client
	anchors keytreev1.AnchorServiceClient
	name    string
	explain func(error) error
}

// NewServer returns a source that asks a server, which has a name in errors. explain makes
// the error of a stream one for the user; nil leaves it as it is. The caller closes the
// client.
func NewServer(c *client.Client, name string, explain func(error) error) *Server {
	if explain == nil {
		explain = func(err error) error { return err }
	}
	return &Server{c, keytreev1.NewAnchorServiceClient(c.Conn()), name, explain}
}

var _ audit.Headers = (*Server)(nil)

// OnBestChain implements audit.Headers: the server's word is taken for it.
func (s *Server) OnBestChain(ctx context.Context, height uint32, block chainhash.Hash) error {
	// Any list tells which block it is as of.
	answer, err := s.anchors.ListAnchorChains(ctx, &keytreev1.ListAnchorChainsRequest{Domain: "invalid", AtHeight: &height, PageSize: 1})
	if status.Code(err) == codes.OutOfRange {
		return fmt.Errorf("%w: server %s: %w", audit.ErrNoHeader, s.name, err)
	}
	if err != nil {
		return err
	}
	hash, err := parseHash(answer.AsOfHash)
	if err != nil {
		return fmt.Errorf("server %s: block hash: %w", s.name, err)
	}
	return sameBlock(height, hash, block)
}

// Bundle opens the proof bundle of a chain of anchors.
func (s *Server) Bundle(ctx context.Context, chain chainhash.Hash, first uint32) (io.ReadCloser, error) {
	in, err := s.client.Bundle(ctx, chain.String(), first)
	if err != nil {
		return nil, s.explain(err)
	}
	return explainedBundle{in, s.explain}, nil
}

// explainedBundle is a bundle whose errors are for the user.
type explainedBundle struct {
	io.ReadCloser
	explain func(error) error
}

// Read implements io.Reader.
func (b explainedBundle) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.explain(err)
	}
	return n, err
}

// mostChains bounds how many chains of anchors for a domain are looked at: anybody can begin
// one.
const mostChains = 1000

// OtherChains lists the first chains of anchors for a domain.
func (s *Server) OtherChains(ctx context.Context, domain string) ([]chainhash.Hash, error) {
	var chains []chainhash.Hash
	for c, err := range s.client.AnchorChains(ctx, domain) {
		if err != nil {
			return nil, err
		}
		hash, err := parseHash(c.ChainTxHash)
		if err != nil {
			return nil, fmt.Errorf("server %s: chain of anchors: %w", s.name, err)
		}
		if chains = append(chains, hash); len(chains) == mostChains {
			break
		}
	}
	return chains, nil
}

// parseHash reads a hash as it is displayed.
func parseHash(s string) (chainhash.Hash, error) {
	if len(s) != chainhash.MaxHashStringSize {
		return chainhash.Hash{}, fmt.Errorf("expected %d hex characters, got %.100q", chainhash.MaxHashStringSize, s)
	}
	h, err := chainhash.NewHashFromStr(s)
	if err != nil {
		return chainhash.Hash{}, err
	}
	return *h, nil
}
