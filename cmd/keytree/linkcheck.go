package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc/client/linkcheck"
)

// checkTimeout bounds the questions to the server before an action.
const checkTimeout = 10 * time.Second

// check asks the server, and where coins come from if that is not nil, whether an action would be
// refused, unless --force is given. That the server cannot be asked is said, and is no
// error.
func (p *publisher) check(ctx context.Context, act action, author protocol.KeyHash, from wallet) error {
	if *p.force {
		return nil
	}
	server, err := p.server.dial()
	if err != nil {
		return err
	}
	defer server.Close()
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	note := func(text string) { fmt.Fprintf(p.app.stderr, "keytree: note: %s\n", text) }
	c := &linkcheck.Checker{Server: server, Name: server.address, Network: p.network.value, Note: note}
	if from != nil {
		c.Unconfirmed = func(ctx context.Context, txid chainhash.Hash) (raw []byte, known bool, err error) {
			raw, err = from.Transaction(ctx, txid)
			if errors.Is(err, node.ErrNotFound) {
				return nil, false, nil
			}
			return raw, err == nil, err
		}
	}
	err = c.Check(ctx, linkcheck.Action{Kind: act.kind, Author: author, Parent: act.parent, Ref: act.ref})
	switch code := status.Code(err); {
	case code == codes.Unavailable, code == codes.DeadlineExceeded:
		note("not checked whether it would be refused: " + oneLine(err))
		return nil
	case errors.As(err, new(*linkcheck.Refusal)):
		return fmt.Errorf("%w (--force publishes it all the same)", err)
	case errors.Is(err, linkcheck.ErrNoAction):
		return fmt.Errorf("%w (--force does without)", err)
	}
	return err
}
