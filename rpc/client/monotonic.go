package client

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// minHeight is the name of the metadata by which a call says which block its answer has to know at least.
const minHeight = "keytree-min-height"

// seen is the newest block that answers have named. It is safe for concurrent use.
type seen struct {
	mu    sync.Mutex
	block Cursor // mu; without a hash if it was left by a reorganisation; zero if none was named
}

// note takes in a block that an answer is as of, if it is newer. Of two at one height the later answer counts.
func (s *seen) note(height uint32, hash string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if hash != "" && height >= s.block.Height {
		s.block = Cursor{height, hash}
	}
}

// left takes in that a block is not on the chain any more. The chain that has come in its place, or will, is as high.
func (s *seen) left(hash string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.block.Hash == hash {
		s.block.Hash = ""
	}
}

// reached takes in a height that the app has come to, in whatever way.
func (s *seen) reached(height uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if height > s.block.Height {
		s.block = Cursor{Height: height}
	}
}

func (s *seen) newest() Cursor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.block
}

// learn takes in what an answer is as of.
func (s *seen) learn(answer any) {
	switch answer := answer.(type) {
	case *keytreev1.GetStatusResponse:
		s.note(answer.TipHeight, answer.TipHash)
	case *keytreev1.WatchResponse:
		block := answer.GetBlock()
		if block.GetType() == "DISCONNECT" {
			s.left(block.GetHash())
		} else if !block.GetMore() {
			s.note(block.GetHeight(), block.GetHash())
		}
	case interface {
		GetAsOfHeight() uint32
		GetAsOfHash() string
	}:
		s.note(answer.GetAsOfHeight(), answer.GetAsOfHash())
	}
}

// unary has a call not go back in time. A server on another branch, that stays there, says so once: then the
// chain was reorganised, and the height alone counts.
func (s *seen) unary(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	block := s.newest()
	switch {
	case block.Hash != "":
		ctx = metadata.AppendToOutgoingContext(ctx, minHeight, fmt.Sprintf("%d-%s", block.Height, block.Hash))
	case block.Height > 0:
		ctx = metadata.AppendToOutgoingContext(ctx, minHeight, fmt.Sprint(block.Height))
	}
	err := invoke(ctx, method, request, answer, conn, opts...)
	switch _, later := RetryAfter(err); {
	case err == nil:
		s.learn(answer)
	case later && status.Code(err) == codes.Aborted:
		s.left(block.Hash)
	}
	return err
}

// stream has a stream not begin back in time. A Watch tells itself of a block that has left the chain, so the height
// alone counts.
func (s *seen) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if block := s.newest(); block.Height > 0 {
		ctx = metadata.AppendToOutgoingContext(ctx, minHeight, fmt.Sprint(block.Height))
	}
	stream, err := streamer(ctx, desc, conn, method, opts...)
	if err != nil {
		return nil, err
	}
	return seenStream{stream, s}, nil
}

type seenStream struct {
	grpc.ClientStream
	seen *seen
}

// RecvMsg implements grpc.ClientStream.
func (s seenStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil {
		s.seen.learn(m)
	}
	return err
}
