package identity

import (
	"context"
	"errors"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// watcher is one Watch stream. It holds no more than its place on the chain and
// the message being sent: what a slow client has yet to be sent stays in the
// graph.
type watcher struct {
	service *identityService
	stream  grpc.ServerStreamingServer[keytreev1.WatchResponse]
	// next is the height of the next block to connect, have the hash of the block
	// before it if the client has that block, else nil.
	next uint32
	have *chainhash.Hash
	// sent is how many events of the block have were sent, if it has more; else 0.
	sent int
	// floor is the lowest height of a block that the client may have: none is
	// disconnected below it.
	floor uint32
}

// Watch implements IdentityService.
func (s *identityService) Watch(request *keytreev1.WatchRequest, stream grpc.ServerStreamingServer[keytreev1.WatchResponse]) error {
	if err := s.unavailable(); err != nil {
		return err
	}
	changed := s.graph.Changed()
	w, err := s.newWatcher(request, stream)
	if err != nil {
		return err
	}
	if err := stream.SendHeader(nil); err != nil { // the stream has begun
		return err
	}
	for {
		if err := w.advance(stream.Context()); err != nil {
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

func (s *identityService) newWatcher(request *keytreev1.WatchRequest, stream grpc.ServerStreamingServer[keytreev1.WatchResponse]) (*watcher, error) {
	tip, ok := s.graph.Tip()
	if !ok {
		return nil, errNoBlock
	}
	start := s.graph.Params().StartHeight
	w := &watcher{service: s, stream: stream, next: tip.Height + 1}
	if request.FromHeight != nil {
		w.next = *request.FromHeight
	}
	w.floor = w.next
	if request.GetKnownHash() == "" {
		if w.next < start || w.next > tip.Height+1 {
			return nil, fault.Field(codes.OutOfRange, "from_height",
				"expected a height from %d (start height) to %d (one beyond the tip), got %d", start, tip.Height+1, w.next)
		}
		return w, nil
	}

	known, err := parseHash("known_hash", request.GetKnownHash())
	switch {
	case err != nil:
		return nil, err
	case request.FromHeight == nil:
		return nil, fault.Field(codes.InvalidArgument, "from_height", "expected the height after the block known_hash, got nothing")
	case w.next <= start:
		return nil, fault.Field(codes.OutOfRange, "from_height",
			"expected more than %d (start height) together with known_hash, got %d: no earlier block is indexed", start, w.next)
	}
	w.have, w.floor = &known, start
	return w, nil
}

// advance sends what lies between the watcher's place and the tip, and returns
// when it has reached the tip.
func (w *watcher) advance(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return w.service.fault(err)
		}
		if err := w.disconnect(); err != nil {
			return err
		}
		if w.sent == 0 {
			tip, ok := w.service.graph.Tip()
			if !ok || w.next > tip.Height {
				return nil
			}
		}
		if err := w.connect(); err != nil {
			return err
		}
	}
}

// disconnect sends a DISCONNECT for each block that the client has and that has
// left the chain, newest first.
func (w *watcher) disconnect() error {
	for w.have != nil {
		height := w.next - 1
		header, err := w.service.graph.BlockHeader(height)
		switch {
		case err == nil && header.Hash == *w.have:
			return nil
		case err != nil && !offChain(err):
			return w.service.fault(err)
		}
		gone, err := w.service.graph.DisconnectedBlock(height, *w.have)
		if errors.Is(err, graph.ErrNotFound) {
			return fault.Field(codes.FailedPrecondition, "known_hash",
				"block %d, %s, is not on the chain and not among the disconnected blocks that are kept; start again from a lower height", height, w.have)
		}
		if err != nil {
			return w.service.fault(err)
		}
		if err := w.send(disconnected(gone)); err != nil {
			return err
		}
		w.next, w.have, w.sent = height, &gone.PrevHash, 0
		if w.next <= w.floor {
			w.have = nil
		}
	}
	return nil
}

// connect sends the next message of the block being sent, or the first of the next one.
// It sends nothing if that was reorganised away since disconnect looked.
func (w *watcher) connect() error {
	height := w.next
	if w.sent > 0 {
		height--
	}
	block, err := w.service.graph.Events(height, w.sent, watchedAtOnce)
	switch {
	case offChain(err):
		return nil
	case err != nil:
		return w.service.fault(err)
	case w.sent > 0 && block.Hash != *w.have, w.sent == 0 && w.have != nil && block.PrevHash != *w.have:
		return nil
	}
	// While the message waits for a slow client, nothing is kept of what it was made of.
	hash, events, more := block.Hash, len(block.Effects)+len(block.Anchors), block.More
	if err := w.send(w.service.render().connected(block)); err != nil {
		return err
	}
	w.next, w.have = height+1, &hash
	if w.sent += events; !more {
		w.sent = 0
	}
	return nil
}

func (w *watcher) send(block *keytreev1.BlockEvents) error {
	return w.stream.Send(&keytreev1.WatchResponse{Block: block})
}
