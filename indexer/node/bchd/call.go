package bchd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/gcash/bchd/bchrpc/pb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/reach"
)

type method[Q, A any] func(context.Context, *Q, ...grpc.CallOption) (*A, error)

// call calls a method of the node's and tries again, for c.retryFor, while the
// node is unavailable. What names the thing asked for in errors.
func call[Q, A any](ctx context.Context, c *Client, what string, m method[Q, A], question *Q) (*A, error) {
	return callWithin(ctx, c, questionTimeout, what, m, question)
}

// callForBlock is call for a method that answers with a whole block.
func callForBlock[Q, A any](ctx context.Context, c *Client, what string, m method[Q, A], question *Q) (*A, error) {
	return callWithin(ctx, c, blockTimeout, what, m, question)
}

func callWithin[Q, A any](ctx context.Context, c *Client, timeout time.Duration, what string, m method[Q, A], question *Q) (*A, error) {
	var answer *A
	err := reach.Retry(ctx, c.done, c.retryFor, func() (err error) {
		answer, err = once(ctx, c, timeout, what, m, question)
		return err
	})
	return answer, err
}

// once calls a method of the node's once.
func once[Q, A any](ctx context.Context, c *Client, timeout time.Duration, what string, m method[Q, A], question *Q) (*A, error) {
	attempt, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer within %v", timeout))
	defer cancel()
	token := c.token.current()
	answer, err := m(attempt, question)
	if refusesToken(status.Convert(err)) {
		if err := c.token.renew(token); err != nil {
			return nil, fmt.Errorf("bchd at %s: %s: %w: %w", c.address, what, errToken, err)
		}
		answer, err = m(attempt, question)
	}
	if err == nil {
		return answer, nil
	}
	if attempt.Err() != nil {
		return nil, fmt.Errorf("bchd at %s: %s: %w: %w", c.address, what, node.ErrUnavailable, context.Cause(attempt))
	}
	return nil, fmt.Errorf("bchd at %s: %s: %w", c.address, what, classify(status.Convert(err), question))
}

// classify gives what bchd 0.22 answers to a question the meaning that it has there:
// some conditions for good come under codes that usually mean a passing one. What a
// proxy answers in the node's place comes under some of the same codes, by way of
// its HTTP status: 401 as Unauthenticated, 403 as PermissionDenied, 404 as
// Unimplemented.
func classify(s *status.Status, question any) error {
	type answer struct {
		code    codes.Code
		message string
	}
	switch (answer{s.Code(), s.Message()}) {
	case answer{codes.Unavailable, "txindex required"}:
		return fmt.Errorf("%w: it has no transaction index: restart it with --txindex", node.ErrUnsuitable)
	case answer{codes.Unavailable, "addrindex required"}:
		return fmt.Errorf("%w: it has no address index: restart it with --addrindex", node.ErrUnsuitable)
	case answer{codes.InvalidArgument, "failed to retrieve transaction location"}:
		return fmt.Errorf("%w: its transaction index failed", node.ErrUnavailable)
	case answer{codes.Internal, "unknown network parameters"}:
		return fmt.Errorf("%w: it is on a network that its gRPC interface cannot name, such as chipnet", node.ErrUnsuitable)
	}
	switch code := s.Code(); {
	case refusesToken(s):
		return errToken
	case code == codes.NotFound:
		return node.ErrNotFound
	case code == codes.Unimplemented:
		return fmt.Errorf("%w: its port serves something other than bchd's gRPC (%q): give the port of --grpclisten", node.ErrUnsuitable, s.Message())
	case code == codes.Unauthenticated, code == codes.PermissionDenied:
		return fmt.Errorf("%w: it or a proxy in front of it does not let this machine ask (%q)", node.ErrUnsuitable, s.Message())
	case code == codes.ResourceExhausted && strings.HasPrefix(s.Message(), "grpc: "): // said on this side of the connection
		return fmt.Errorf("%w: its answer is longer than any may be, %d bytes (%q)", node.ErrUnsuitable, maxMessage, s.Message())
	case code == codes.InvalidArgument && aboutWallet(question):
		return fmt.Errorf("%w: %q", node.ErrRejected, strings.TrimPrefix(s.Message(), "tx rejected: "))
	case code == codes.InvalidArgument:
		return fmt.Errorf("%w: it takes the question for a wrong one (%q)", node.ErrUnsuitable, s.Message())
	}
	return fmt.Errorf("%w: %v, %q", node.ErrUnavailable, s.Code(), s.Message())
}

// aboutWallet reports whether a question is about coins: these have arguments that
// the node may reject.
func aboutWallet(question any) bool {
	switch question.(type) {
	case *pb.SubmitTransactionRequest, *pb.GetUnspentOutputRequest, *pb.GetAddressUnspentOutputsRequest:
		return true
	}
	return false
}
