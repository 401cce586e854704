package linkcheck

import (
	"context"
	"errors"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// Expected is what the server would make of an action now, and whom it is about.
type Expected struct {
	// State is what would become of it, by its name in identity.proto: OPEN, IN_FORCE or
	// DONE, WAITING if what it refers to is not confirmed; or the reason why it would be
	// refused. "" if that could not be found out.
	State string
	// Counterpart is the address of the other key: MLR the parent, MLA and MCR the child;
	// "" if it is not known.
	Counterpart string
	// Message is what the child has written in its request, for an MLA. It is a stranger's.
	Message string
}

// The states of identity.proto that a good action comes to.
const (
	stateOpen    = "OPEN"
	stateInForce = "IN_FORCE"
	stateDone    = "DONE"
	stateWaiting = "WAITING"
)

// Expect is Check, and tells what is expected and whom the action is about. Expected is as
// complete as it can be, whatever the error.
func (c *Checker) Expect(ctx context.Context, act Action) (Expected, error) {
	var e Expected
	confirmed := true
	if act.Kind == protocol.MLR {
		e.Counterpart = protocol.FormatAddress(act.Parent, c.Network)
	} else {
		confirmed = c.about(ctx, act, &e)
	}
	err := c.Check(ctx, act)
	refused := new(Refusal)
	switch {
	case errors.As(err, &refused):
		e.State = string(refused.Reason)
	case err != nil:
	case act.Kind == protocol.MLR:
		e.State = stateOpen
	case !confirmed:
		e.State = stateWaiting
	case act.Kind == protocol.MLA:
		e.State = stateInForce
	default:
		e.State = stateDone
	}
	return e, err
}

// about finds out whom an accept or revoke is about, and reports whether what it refers to
// is confirmed. Check says what is wrong if it cannot.
func (c *Checker) about(ctx context.Context, act Action, e *Expected) (confirmed bool) {
	r, err := c.Server.Action(ctx, act.Ref.String())
	if err == nil {
		e.Counterpart = r.ChildAddress
		if act.Kind == protocol.MLA {
			e.Message = r.Message
		}
		return true
	}
	if c.Unconfirmed == nil {
		return false
	}
	if a, ok := c.unconfirmed(ctx, act.Ref); ok && act.Kind == protocol.MLA && a.Kind == protocol.MLR {
		e.Message = string(a.Message)
	}
	return false
}

func (c *Checker) unconfirmed(ctx context.Context, txid chainhash.Hash) (protocol.Action, bool) {
	raw, known, err := c.Unconfirmed(ctx, txid)
	if err != nil || !known {
		return protocol.Action{}, false
	}
	tx, err := protocol.ParseTx(raw)
	if err != nil {
		return protocol.Action{}, false
	}
	a, ok := tx.Action()
	return a, ok && a.Malformed == nil
}
