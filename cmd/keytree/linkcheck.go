package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc/client/linkcheck"
)

// checkTimeout bounds the questions to the server before an action.
const checkTimeout = 10 * time.Second

// check asks the server, and where coins come from if that is not nil, what would become of
// an action, and refuses what would be refused unless --force is given. That the server
// cannot be asked is said, and is no error.
func (p *publisher) check(ctx context.Context, act action, author protocol.KeyHash, from *wallet) (linkcheck.Expected, error) {
	c := linkChecker{app: p.app, server: p.server, network: p.network.value, force: *p.force}
	return c.check(ctx, linkcheck.Action{Kind: act.kind, Author: author, Parent: act.parent, Ref: act.ref}, from)
}

// linkChecker asks the server about actions.
type linkChecker struct {
	app     *app
	server  serverFlags
	network *chaincfg.Params
	force   bool
}

func (c linkChecker) note(text string) { fmt.Fprintf(c.app.stderr, "keytree: note: %s\n", text) }

// check is publisher.check.
func (c linkChecker) check(ctx context.Context, act linkcheck.Action, from *wallet) (linkcheck.Expected, error) {
	if c.force {
		return linkcheck.Expected{}, nil
	}
	server, err := c.server.dial()
	if err != nil {
		return linkcheck.Expected{}, err
	}
	defer server.Close()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	checker := &linkcheck.Checker{Server: server, Name: server.address, Network: c.network, Note: c.note}
	if from != nil {
		checker.Unconfirmed = func(ctx context.Context, txid chainhash.Hash) (raw []byte, known bool, err error) {
			raw, err = from.Transaction(ctx, txid)
			if errors.Is(err, node.ErrNotFound) {
				return nil, false, nil
			}
			return raw, err == nil, err
		}
	}
	expected, err := checker.Expect(ctx, act)
	switch code := status.Code(err); {
	case code == codes.Unavailable, code == codes.DeadlineExceeded:
		c.note("not checked whether it would be refused: " + oneLine(err))
		return expected, nil
	case errors.As(err, new(*linkcheck.Refusal)):
		return expected, fmt.Errorf("%w (--force publishes it all the same)", err)
	case errors.Is(err, linkcheck.ErrNoAction):
		return expected, fmt.Errorf("%w (--force does without)", err)
	}
	return expected, err
}

// checkBaton refuses a coin that the server knows as the baton of a chain of anchors, where
// there is no node to ask, unless --force is given. If nobody can be asked that is said.
func (p *publisher) checkBaton(ctx context.Context, coin protocol.UTXO) error {
	if coin.OutPoint.Index != 0 || *p.force {
		return nil
	}
	server, err := p.server.dial()
	if err != nil {
		return err
	}
	defer server.Close()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	switch is, err := server.IsAnchor(ctx, coin.OutPoint.Hash.String()); {
	case err != nil:
		fmt.Fprintf(p.app.stderr, "keytree: note: not checked whether %v is the baton of a chain of anchors, which it would break: %s\n", coin.OutPoint, oneLine(err))
	case is:
		return fmt.Errorf("%w: %v is the baton of a chain of anchors, which it would break", coins.ErrCoin, coin.OutPoint)
	}
	return nil
}
