package identity

import (
	"context"
	"errors"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/rpc/fault"
)

// graphReader is what the services that answer from the graph have in common: how
// they come to a view of it, and what becomes of its errors. It keeps nothing between
// calls.
type graphReader struct {
	graph   *graph.Graph
	indexer Indexer
	net     *chaincfg.Params
	states  StateLog // nil: none is published
	blocks  Blocks   // nil: nobody has any
	log     zerolog.Logger
}

func (r *graphReader) render() renderer { return renderer{r.net} }

// Failed is what clients are told of an index that has failed. What a disk says is not
// for them.
const Failed = "the index has failed; the server's log has the cause"

// ErrFailed is Failed as a gRPC status.
var ErrFailed = status.Error(codes.Unavailable, Failed)

var (
	errUnchecked = status.Error(codes.Unavailable, "the stored blocks have not been compared with the node's yet; try again later")
	errNoBlock   = status.Error(codes.Unavailable, "no block is indexed yet; try again later")
)

// unavailable is the error for every question to a graph that is damaged, or may hold what
// was true before a restart only, nil otherwise.
func (r *graphReader) unavailable() error {
	if r.graph.Err() != nil {
		return ErrFailed
	}
	if !r.indexer.Status().Checked {
		return errUnchecked
	}
	return nil
}

// viewAt opens the view that at_height asks for. The caller closes it.
func (r *graphReader) viewAt(height *uint32) (*graph.View, error) {
	if err := r.unavailable(); err != nil {
		return nil, err
	}
	view, err := r.graph.At(height)
	switch {
	case err == nil:
		return view, nil
	case errors.Is(err, graph.ErrEmpty):
		return nil, errNoBlock
	case errors.Is(err, graph.ErrHeight):
		return nil, r.outOfRange("at_height", *height)
	}
	return nil, r.fault(err)
}

// viewOf reads the hash in a field, and opens the view that at_height asks for, in which it is to be
// looked up. The caller closes it.
func (r *graphReader) viewOf(field, text string, height *uint32) (chainhash.Hash, *graph.View, error) {
	hash, err := parseHash(field, text)
	if err != nil {
		return hash, nil, err
	}
	view, err := r.viewAt(height)
	return hash, view, err
}

// outOfRange says between which bounds the height in a field has to be.
func (r *graphReader) outOfRange(field string, height uint32) error {
	tip, ok := r.graph.Tip()
	if !ok {
		return errNoBlock
	}
	return fault.Field(codes.OutOfRange, field, "expected a height from %d (start height) to %d (tip), got %d",
		r.graph.Params().StartHeight, tip.Height, height)
}

func (r *graphReader) notFoundOr(err error, field, what string, hash chainhash.Hash, view *graph.View) error {
	if errors.Is(err, graph.ErrNotFound) {
		return fault.Field(codes.NotFound, field, "no %s %s is known as of height %d", what, hash, view.Height())
	}
	return r.fault(err)
}

// fault is the error for a call that could not be answered: that its time is up
// or its client gone, or its block; that it takes too much work; or else what no client can do
// anything about, which is logged and hidden.
func (r *graphReader) fault(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	if errors.Is(err, graph.ErrReorganised) {
		return status.Error(codes.Aborted, "the block that the answer is as of was reorganised away meanwhile; ask again")
	}
	if errors.Is(err, graph.ErrWork) {
		return fault.Field(codes.FailedPrecondition, "at_height", "%v", err)
	}
	if r.graph.Err() != nil {
		return ErrFailed // which was logged once
	}
	r.log.Error().Err(err).Msg("the graph could not answer")
	return fault.ErrInternal
}
