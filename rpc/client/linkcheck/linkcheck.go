// Package linkcheck finds out, before a link transaction is published, whether its action
// would be refused: who publishes it pays for it all the same. It asks a keytree server
// and, for what is not confirmed yet, a node.
//
// The answer is as good as the server's, and as of its tip: an action that comes into the
// chain first may change it. The rules are the graph's; here is what follows from them for
// one action, by the answers of identity.proto. What never belongs here: making the
// transaction, and deciding whether to publish it all the same.
package linkcheck

import (
	"context"
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/protocol"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// Reason is why an action would be refused, by its name in identity.proto.
type Reason string

// The reasons that can be told beforehand.
const (
	SelfLink       Reason = "SELF_LINK"
	WrongKind      Reason = "WRONG_KIND"
	RequestRefused Reason = "REQUEST_REFUSED"
	NotTheParent   Reason = "NOT_THE_PARENT"
	RequestUsed    Reason = "REQUEST_USED"
	ChildHasParent Reason = "CHILD_HAS_PARENT"
	Loop           Reason = "LOOP"
	AcceptRefused  Reason = "ACCEPT_REFUSED"
	AlreadyRevoked Reason = "ALREADY_REVOKED"
)

// The states of actions in identity.proto that bear on what refers to them.
const (
	stateRefused = "REFUSED"
	stateUsed    = "USED"
	stateCut     = "CUT"
)

// Refusal is the error for an action that would be refused. Do not publish it.
type Refusal struct {
	Reason Reason
	Detail string // for people
}

// Error implements error.
func (r *Refusal) Error() string {
	return fmt.Sprintf("it would be refused, %s: %s", r.Reason, r.Detail)
}

func refusal(reason Reason, format string, args ...any) error {
	return &Refusal{reason, fmt.Sprintf(format, args...)}
}

// ErrNoAction says that what an accept or revoke refers to was not found. Check the txid,
// or wait until it is confirmed.
var ErrNoAction = errors.New("nothing to refer to")

// Action is what is to be published.
type Action struct {
	Kind   protocol.Kind
	Author protocol.KeyHash // who acts
	Parent protocol.KeyHash // MLR: who is asked
	Ref    chainhash.Hash   // MLA: the request; MCR: the accept
}

// ActionOf returns what a signed transaction would publish. Of the two transactions that a
// reference can mean it takes the one that writers mean.
func ActionOf(a protocol.Action, author protocol.KeyHash) Action {
	return Action{Kind: a.Kind, Author: author, Parent: a.Parent, Ref: a.Ref.TxIDs()[0]}
}

// Server is what is asked, a client.Client for example.
type Server interface {
	Status(ctx context.Context) (*keytreev1.GetStatusResponse, error)
	Resolve(ctx context.Context, address string) (*keytreev1.Resolution, error)
	// Action fails with codes.NotFound for an action that is not confirmed, and Pending for one
	// that the server does not know to be in the mempool.
	Action(ctx context.Context, txid string) (*keytreev1.Action, error)
	Pending(ctx context.Context, txid string) (*keytreev1.Action, error)
}

// Checker checks actions. All fields but Unconfirmed must be set.
type Checker struct {
	Server  Server
	Name    string // of the server, for people
	Network *chaincfg.Params
	// Unconfirmed returns a transaction that the server does not have yet, known is false
	// if nobody has it. If Unconfirmed is nil, there is nobody to ask.
	Unconfirmed func(ctx context.Context, txid chainhash.Hash) (raw []byte, known bool, err error)
	// Note is told, for people, what does not stand in the way but may surprise, and what
	// could not be checked.
	Note func(text string)
}

// Check returns a *Refusal if an action would be refused, and ErrNoAction if what it refers
// to was not found. Errors of the server keep their gRPC status.
func (c *Checker) Check(ctx context.Context, act Action) error {
	if act.Kind == protocol.MLR && act.Parent == act.Author {
		return refusal(SelfLink, "child and parent are the same key")
	}
	s, err := c.Server.Status(ctx)
	if err != nil {
		return err
	}
	if s.Network != c.Network.Name {
		c.note("not checked whether it would be refused: server %s is on %s, not on %s", c.Name, s.Network, c.Network.Name)
		return nil
	}
	if !s.Synced {
		c.note("server %s has not caught up: checked as of block %d of %d", c.Name, s.TipHeight, s.NodeHeight)
	}
	author := protocol.FormatAddress(act.Author, c.Network)
	switch act.Kind {
	case protocol.MLR:
		return c.checkRequest(ctx, author, protocol.FormatAddress(act.Parent, c.Network))
	case protocol.MLA:
		return c.checkAccept(ctx, author, act.Ref)
	default:
		return c.checkRevoke(ctx, author, act.Ref)
	}
}

func (c *Checker) note(format string, args ...any) { c.Note(fmt.Sprintf(format, args...)) }

// checkRequest notes what would keep the parent from accepting. The request
// itself is good: its turn may come once a link is cut.
func (c *Checker) checkRequest(ctx context.Context, author, parent string) error {
	child, err := c.Server.Resolve(ctx, author)
	if err != nil {
		return err
	}
	if child.ParentAddress != "" {
		c.note("the child has a parent, %s: the request can be accepted only after that link is cut", child.ParentAddress)
		return nil
	}
	err = c.checkLoop(ctx, author, parent)
	if loop := (*Refusal)(nil); errors.As(err, &loop) {
		c.note("%s: the request can be accepted only after that has changed", loop.Detail)
		return nil
	}
	return err
}

// checkLoop refuses a link if the child is the root of the parent's tree.
func (c *Checker) checkLoop(ctx context.Context, child, parent string) error {
	r, err := c.Server.Resolve(ctx, parent)
	if err != nil {
		return err
	}
	if r.MainAddress == child {
		return refusal(Loop, "the child %s is the root of the parent's own tree", child)
	}
	return nil
}

func (c *Checker) checkAccept(ctx context.Context, author string, request chainhash.Hash) error {
	r, err := c.action(ctx, request)
	if r == nil || err != nil {
		return err
	}
	switch {
	case r.Kind != protocol.MLR.String():
		return refusal(WrongKind, "%v is no request (MLR) but an %s", request, r.Kind)
	case r.State == stateRefused:
		return refusal(RequestRefused, "the request was refused itself, %s", r.Reason)
	case r.ParentAddress != author:
		return refusal(NotTheParent, "the request asks %s, the acting key is %s", r.ParentAddress, author)
	case r.State == stateUsed:
		return refusal(RequestUsed, "the request was accepted by %s; to link again takes a new request", r.ByTxHash)
	case r.ChildAddress == "":
		return nil // unconfirmed, and who signed it is not known
	}
	child, err := c.Server.Resolve(ctx, r.ChildAddress)
	if err != nil {
		return err
	}
	if child.ParentAddress != "" {
		return refusal(ChildHasParent, "the child %s has the parent %s", r.ChildAddress, child.ParentAddress)
	}
	return c.checkLoop(ctx, r.ChildAddress, author)
}

func (c *Checker) checkRevoke(ctx context.Context, author string, accept chainhash.Hash) error {
	r, err := c.action(ctx, accept)
	if r == nil || err != nil {
		return err
	}
	switch {
	case r.Kind != protocol.MLA.String():
		return refusal(WrongKind, "%v is no accept (MLA) but an %s", accept, r.Kind)
	case r.State == stateRefused:
		return refusal(AcceptRefused, "the accept was refused itself, %s", r.Reason)
	case r.State == stateCut:
		return refusal(AlreadyRevoked, "the link was cut by %s", r.ByTxHash)
	case r.AuthorAddress != "" && r.AuthorAddress != author:
		return refusal(NotTheParent, "only the parent %s can revoke, the acting key is %s", r.AuthorAddress, author)
	}
	return nil
}

// action returns what the server knows of an action, confirmed or pending, or, if it knows
// none, what the transaction tells: then State, ChildAddress and AuthorAddress are empty.
func (c *Checker) action(ctx context.Context, txid chainhash.Hash) (*keytreev1.Action, error) {
	r, err := c.Server.Action(ctx, txid.String())
	if status.Code(err) != codes.NotFound {
		return r, err
	}
	if r, err = c.Server.Pending(ctx, txid.String()); status.Code(err) != codes.NotFound {
		if err == nil {
			c.noteUnconfirmed(r.Kind, txid)
		}
		return r, err
	}
	if c.Unconfirmed == nil {
		return nil, fmt.Errorf("%w: server %s knows no action %v: is it confirmed, and is this its txid?", ErrNoAction, c.Name, txid)
	}
	raw, known, err := c.Unconfirmed(ctx, txid)
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, fmt.Errorf("%w: neither the server nor the node knows a transaction %v: is this the txid?", ErrNoAction, txid)
	}
	tx, err := protocol.ParseTx(raw)
	if err != nil {
		return nil, err
	}
	act, ok := tx.Action()
	if !ok || act.Malformed != nil {
		return nil, fmt.Errorf("%w: transaction %v carries no well-formed action", ErrNoAction, txid)
	}
	c.noteUnconfirmed(act.Kind.String(), txid)
	r = &keytreev1.Action{TxHash: txid.String(), Kind: act.Kind.String()}
	if act.Kind == protocol.MLR {
		r.ParentAddress = protocol.FormatAddress(act.Parent, c.Network)
	}
	return r, nil
}

func (c *Checker) noteUnconfirmed(kind string, txid chainhash.Hash) {
	c.note("%s %v is not confirmed yet: what is published now takes effect with it", kind, txid)
}
