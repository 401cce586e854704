package identity

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/push"
)

// Watch implements IdentityService.
func (s *identityService) Watch(request *keytreev1.WatchRequest, stream grpc.ServerStreamingServer[keytreev1.WatchResponse]) error {
	if err := s.unavailable(); err != nil {
		return err
	}
	changed := s.graph.Changed()
	cursor, err := s.newCursor(request)
	if err != nil {
		return err
	}
	if err := stream.SendHeader(nil); err != nil { // the stream has begun
		return err
	}
	for {
		if err := s.advance(stream.Context(), cursor, stream.Send); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return s.fault(stream.Context().Err())
		case <-changed:
		}
		// Taken before looking, so that no change between the two is missed.
		changed = s.graph.Changed()
	}
}

// newCursor returns the place from which a request wants to go on.
func (s *identityService) newCursor(request *keytreev1.WatchRequest) (*push.Cursor, error) {
	tip, ok := s.graph.Tip()
	if !ok {
		return nil, errNoBlock
	}
	start, next := s.graph.Params().StartHeight, tip.Height+1
	if request.FromHeight != nil {
		next = *request.FromHeight
	}
	if request.GetKnownHash() == "" {
		if next < start || next > tip.Height+1 {
			return nil, fault.Field(codes.OutOfRange, "from_height",
				"expected a height from %d (start height) to %d (one beyond the tip), got %d", start, tip.Height+1, next)
		}
		return push.From(s.graph, next), nil
	}

	known, err := parseHash("known_hash", request.GetKnownHash())
	switch {
	case err != nil:
		return nil, err
	case request.FromHeight == nil:
		return nil, fault.Field(codes.InvalidArgument, "from_height", "expected the height after the block known_hash, got nothing")
	case next <= start:
		return nil, fault.Field(codes.OutOfRange, "from_height",
			"expected more than %d (start height) together with known_hash, got %d: no earlier block is indexed", start, next)
	}
	return push.After(s.graph, next-1, known), nil
}

// advance sends what lies between a follower's place and the tip, and returns when he has
// reached the tip.
func (s *identityService) advance(ctx context.Context, cursor *push.Cursor, send func(*keytreev1.WatchResponse) error) error {
	for {
		if err := ctx.Err(); err != nil {
			return s.fault(err)
		}
		block, err := s.nextBlock(cursor)
		if err != nil || block == nil {
			return err
		}
		// While the message waits for a slow client, nothing is kept of what it was made of.
		if err := send(&keytreev1.WatchResponse{Block: block}); err != nil {
			return err
		}
	}
}

// nextBlock moves a follower on, and renders what he is to be told; nil at the tip.
func (s *identityService) nextBlock(cursor *push.Cursor) (*keytreev1.BlockEvents, error) {
	height, hash, _ := cursor.At()
	step, ok, err := cursor.Next(watchedAtOnce)
	switch {
	case errors.Is(err, push.ErrUnknown):
		return nil, fault.Field(codes.FailedPrecondition, "known_hash",
			"block %d, %s, is not on the chain and not among the disconnected blocks that are kept; start again from a lower height", height, hash)
	case err != nil:
		return nil, s.fault(err)
	case !ok:
		return nil, nil
	case step.Disconnected != nil:
		return disconnected(*step.Disconnected), nil
	}
	return s.render().connected(*step.Connected), nil
}
