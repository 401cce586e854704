package client

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// staleAfter is when, in seconds, a new identity's message gets a newer LASTENTRY:
// the keyserver takes none that is older than a day.
const staleAfter = 12 * 60 * 60

// pending is a message on its way into the hashchain.
type pending struct {
	Method  string       `json:"method"` // CreateUID or UpdateUID
	Message *uid.Message `json:"message"`
	Made    uint64       `json:"made"` // Unix seconds
	// Hashes are the UIDHashes of all messages that may have been sent: the last is
	// that of Message.
	Hashes [][]byte `json:"hashes"`
	// Unsent is set until one of them was sent. Earlier versions did not write it.
	Unsent bool   `json:"unsent,omitempty"`
	Token  string `json:"token"`
	SigKey []byte `json:"sig_key"`
	PubKey []byte `json:"pub_key"` // nil if it stays
	// Escrow is the private SIGESCROW until the message's entry was seen in the
	// hashchain, nil if it is only on paper. Shown is set when it was shown.
	Escrow []byte `json:"escrow"`
	Shown  bool   `json:"shown"`
	// Acknowledged is what the keyserver answered to Message, signed by it; nil before.
	Acknowledged *uid.Reply `json:"acknowledged,omitempty"`
}

// recovery reports whether the paper key has signed the message.
func (p *pending) recovery() bool { return p.Method == "UpdateUID" && p.Message.EscrowSignature != "" }

// unfit says why the keyserver would not take the message at a time, in Unix seconds: a
// clock was wrong when it was made, or it has waited too long. nil if it would.
func (p *pending) unfit(now uint64) error {
	switch skew := uint64(clockSkew / time.Second); {
	case p.Made > now+skew:
		return fmt.Errorf("this machine's clock was wrong when it was made, at %s: it is %s", uid.Date(p.Made), uid.Date(now))
	case p.Method == "CreateUID" && now > p.Made+staleAfter:
		return fmt.Errorf("it was made too long ago, at %s: it is %s", uid.Date(p.Made), uid.Date(now))
	}
	return p.Message.Content.CheckTime(now)
}

// PendingMessage is what can be told of a message on its way into the hashchain.
type PendingMessage struct {
	Call         string // what goes on with it: "create", "update" or "recover"
	Made         uint64 // Unix seconds, by this machine's clock
	NotAfter     uint64 // until when the identity is to be valid, Unix seconds
	Sent         bool   // it may have been
	PaperShown   bool   // its new paper key was shown; false also where it has none
	Acknowledged bool   // the keyserver has signed that it took it
	// Unfit says why the keyserver would not take it as it is, nil if it would. The call
	// makes it again then, with the same keys.
	Unfit error
}

// Pending returns the message of the identity that is on its way, nil if none is.
func (id *Identity) Pending() *PendingMessage {
	p := id.record.Pending
	if p == nil {
		return nil
	}
	m := &PendingMessage{
		Call: "update", Made: p.Made, NotAfter: p.Message.Content.NotAfter,
		Sent: !p.Unsent, PaperShown: p.Shown, Acknowledged: p.Acknowledged != nil, Unfit: p.unfit(id.client.now()),
	}
	switch {
	case p.Method == "CreateUID":
		m.Call = "create"
	case p.recovery():
		m.Call = "recover"
	}
	return m
}

// Remake makes the pending message of an identity again, with the same keys, the present
// time and end of the hashchain. It sends nothing. done reports that there is nothing to
// do any more: the copy, brought up to date, has its entry. ErrNothingPending, ErrClock;
// ErrPaperKey for a recovery, which only Recover can make again.
func (c *Client) Remake(ctx context.Context, id *Identity) (done bool, err error) {
	if done, err := c.settled(ctx, id); done || err != nil {
		return done, err
	}
	if id.record.Pending.Acknowledged != nil {
		return false, id.checkAcknowledged()
	}
	if err := id.remake(nil); err != nil {
		return false, err
	}
	return false, id.save()
}

// ErrNothingPending says that no message of an identity is on its way.
var ErrNothingPending = errors.New("nothing is pending")

// settled brings the copy up to date and reports whether it has the entry of the pending
// message.
func (c *Client) settled(ctx context.Context, id *Identity) (done bool, err error) {
	if id.record.Pending == nil {
		return false, fmt.Errorf("%w for %s", ErrNothingPending, id.Name())
	}
	if _, err := c.Sync(ctx); err != nil {
		return false, err
	}
	return id.seen(ctx)
}

// Cancel gives up the pending message of an identity, and with it the keys that were made
// for it; a name that was never registered is forgotten. done reports that it is too late:
// the copy, brought up to date, has its entry, and nothing was given up. A message that was
// never sent is given up without asking the keyserver.
//
// A message that was sent, and that the keyserver has not entered, may come to be entered all
// the same, by a keyserver that is slow or by somebody between. Then the paper key, which was
// shown before anything was sent, recovers the identity. ErrNothingPending; ErrPending if the
// keyserver has signed that it took it.
func (c *Client) Cancel(ctx context.Context, id *Identity) (done bool, err error) {
	if p := id.record.Pending; p == nil || !p.Unsent {
		if done, err := c.settled(ctx, id); done || err != nil {
			return done, err
		}
	}
	if id.record.Pending.Acknowledged != nil {
		return false, errors.Join(fmt.Errorf("%w: %s: the keyserver has signed that it took the message, so that it cannot be cancelled", ErrPending, id.Name()), id.checkAcknowledged())
	}
	return false, id.giveUp()
}

// giveUp forgets the pending message, and the identity if there is nothing else of it.
func (id *Identity) giveUp() error {
	if id.record.SigKey == nil {
		return durable.Remove(id.vault.path)
	}
	id.record.Pending = nil
	return id.save()
}

// refused says that the keyserver gives an identity's name to nobody or to somebody else,
// and forgets it.
func (id *Identity) refused(err error) error {
	return errors.Join(fmt.Errorf("%w: choose another name; %s is forgotten here, no token was spent on it, and its paper key, if it was shown, is good for nothing", err, id.Name()), id.giveUp())
}

// remake gives the pending message the present time and end of the hashchain. paper is the
// key that signs a recovery; nil without. It does not save.
func (id *Identity) remake(paper ed25519.PrivateKey) error {
	p := id.record.Pending
	if err := id.client.wire.clocks.check(maxClockSkew); err != nil {
		return err
	}
	m := *p.Message
	if p.Method == "CreateUID" {
		return id.client.signCreation(p, &m)
	}
	if p.recovery() && paper == nil {
		return fmt.Errorf("%w: %s: a message that was signed with it cannot be made again without: call keytree user recover again, or cancel it", ErrPaperKey, id.Name())
	}
	if err := id.client.refresh(&m.Content); err != nil {
		return err
	}
	m.Sign(ed25519.NewKeyFromSeed(p.SigKey))
	if p.recovery() {
		m.SignEscrow(paper)
	} else {
		m.SignUser(id.sigKey())
	}
	if err := errors.Join(m.Check(), m.VerifyUpdate(id.record.Message)); err != nil {
		return err
	}
	p.set(&m, id.client.now())
	return nil
}
