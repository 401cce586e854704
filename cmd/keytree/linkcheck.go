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

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/protocol"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// checkTimeout bounds the questions to the server before an action.
const checkTimeout = 10 * time.Second

// checker finds out from a server, and from the node if there is one, whether an
// action would be refused (identity-rules §3).
type checker struct {
	server *server
	node   *bchd.Client // may be nil
	net    *chaincfg.Params
	author string               // address of the acting key
	note   func(string, ...any) // tells what does not stand in the way, but may surprise
}

// refusal says that the server would refuse an action.
func refusal(reason, format string, args ...any) error {
	return fmt.Errorf("it would be refused, %s: %s (--force publishes it all the same)", reason, fmt.Sprintf(format, args...))
}

// check asks the server about an action, unless --force is given. That the
// server cannot be asked is said, and is no error.
func (p *publisher) check(ctx context.Context, act action, author protocol.KeyHash, n *bchd.Client) error {
	if act.kind == protocol.MLR && act.parent == author && !*p.force {
		return refusal("SELF_LINK", "child and parent are the same key")
	}
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
	c := &checker{
		server: server, node: n, net: p.network.value, author: protocol.FormatAddress(author, p.network.value),
		note: func(format string, args ...any) {
			fmt.Fprintf(p.app.stderr, "keytree: note: "+format+"\n", args...)
		},
	}
	err = c.check(ctx, act)
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded:
		c.note("not checked whether it would be refused: %s", oneLine(err))
		return nil
	}
	return err
}

func (c *checker) check(ctx context.Context, act action) error {
	s, err := c.server.Status(ctx)
	if err != nil {
		return err
	}
	if s.Network != c.net.Name {
		c.note("not checked whether it would be refused: server %s is on %s, not on %s", c.server.address, s.Network, c.net.Name)
		return nil
	}
	if !s.Synced {
		c.note("server %s has not caught up: checked as of block %d of %d", c.server.address, s.TipHeight, s.NodeHeight)
	}
	switch act.kind {
	case protocol.MLR:
		return c.checkRequest(ctx, protocol.FormatAddress(act.parent, c.net))
	case protocol.MLA:
		return c.checkAccept(ctx, act.ref)
	default:
		return c.checkRevoke(ctx, act.ref)
	}
}

// checkRequest notes what would keep the parent from accepting. The request
// itself is good: its turn may come once a link is cut.
func (c *checker) checkRequest(ctx context.Context, parent string) error {
	child, err := c.resolve(ctx, c.author)
	if err != nil {
		return err
	}
	if child.ParentAddress != "" {
		c.note("the child has a parent, %s: the request can be accepted only after that link is cut", child.ParentAddress)
		return nil
	}
	return c.checkLoop(ctx, c.author, parent, func(_, format string, args ...any) error {
		c.note(format+": the request can be accepted only after that has changed", args...)
		return nil
	})
}

// checkLoop fails, by way of fail, if the child is the root of the parent's
// tree.
func (c *checker) checkLoop(ctx context.Context, child, parent string, fail func(reason, format string, args ...any) error) error {
	r, err := c.resolve(ctx, parent)
	if err != nil {
		return err
	}
	if r.MainAddress == child {
		return fail("LOOP", "the child %s is the root of the parent's own tree", child)
	}
	return nil
}

func (c *checker) checkAccept(ctx context.Context, request chainhash.Hash) error {
	r, err := c.action(ctx, request)
	if r == nil || err != nil {
		return err
	}
	switch {
	case r.Kind != protocol.MLR.String():
		return refusal("WRONG_KIND", "%v is no request (MLR) but an %s", request, r.Kind)
	case r.State == "REFUSED":
		return refusal("REQUEST_REFUSED", "the request was refused itself, %s", r.Reason)
	case r.ParentAddress != c.author:
		return refusal("NOT_THE_PARENT", "the request asks %s, the acting key is %s", r.ParentAddress, c.author)
	case r.State == "USED":
		return refusal("REQUEST_USED", "the request was accepted by %s; to link again takes a new request", r.ByTxHash)
	case r.ChildAddress == "":
		return nil // unconfirmed, and who signed it is not known
	}
	child, err := c.resolve(ctx, r.ChildAddress)
	if err != nil {
		return err
	}
	if child.ParentAddress != "" {
		return refusal("CHILD_HAS_PARENT", "the child %s has the parent %s", r.ChildAddress, child.ParentAddress)
	}
	return c.checkLoop(ctx, r.ChildAddress, c.author, refusal)
}

func (c *checker) checkRevoke(ctx context.Context, accept chainhash.Hash) error {
	r, err := c.action(ctx, accept)
	if r == nil || err != nil {
		return err
	}
	switch {
	case r.Kind != protocol.MLA.String():
		return refusal("WRONG_KIND", "%v is no accept (MLA) but an %s", accept, r.Kind)
	case r.State == "REFUSED":
		return refusal("ACCEPT_REFUSED", "the accept was refused itself, %s", r.Reason)
	case r.State == "CUT":
		return refusal("ALREADY_REVOKED", "the link was cut by %s", r.ByTxHash)
	case r.AuthorAddress != "" && r.AuthorAddress != c.author:
		return refusal("NOT_THE_PARENT", "only the parent %s can revoke, the acting key is %s", r.AuthorAddress, c.author)
	}
	return nil
}

func (c *checker) resolve(ctx context.Context, address string) (*keytreev1.Resolution, error) {
	return c.server.Resolve(ctx, address)
}

// action returns what the server knows of an action, or, before it is
// confirmed, what the node's mempool tells: then State, ChildAddress and
// AuthorAddress are empty. An action that neither has is an error; nil that
// there is nobody to ask.
func (c *checker) action(ctx context.Context, txid chainhash.Hash) (*keytreev1.Action, error) {
	r, err := c.server.Action(ctx, txid.String())
	if status.Code(err) != codes.NotFound {
		return r, err
	}
	if c.node == nil {
		return nil, fmt.Errorf("server %s knows no action %v: is it confirmed, and is this its txid? (--force does without)", c.server.address, txid)
	}
	raw, err := c.node.Transaction(ctx, txid)
	if errors.Is(err, node.ErrNotFound) {
		return nil, fmt.Errorf("neither the server nor the node knows a transaction %v: is this the txid? (--force does without)", txid)
	}
	if err != nil {
		return nil, err
	}
	tx, err := protocol.ParseTx(raw)
	if err != nil {
		return nil, err
	}
	act, ok := tx.Action()
	if !ok || act.Malformed != nil {
		return nil, fmt.Errorf("transaction %v carries no well-formed action (--force does without)", txid)
	}
	c.note("%v %v is not confirmed yet: what is published now takes effect with it", act.Kind, txid)
	r = &keytreev1.Action{TxHash: txid.String(), Kind: act.Kind.String()}
	if act.Kind == protocol.MLR {
		r.ParentAddress = protocol.FormatAddress(act.Parent, c.net)
	}
	return r, nil
}
