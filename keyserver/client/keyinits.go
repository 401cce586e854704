package client

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

const (
	// MaxKeyInits is how many KeyInits are added in one call.
	MaxKeyInits = 100
	// MaxKeyInitValidity is how long a KeyInit can be valid.
	MaxKeyInitValidity = 90 * 24 * time.Hour
	// KeyInitGrace is how long, in seconds, the private key of a KeyInit is kept after
	// its NOTAFTER: a message may still be on its way.
	KeyInitGrace = 7 * 24 * 60 * 60
)

// Anchor is where first messages to a user go.
type Anchor struct {
	MixAddress string // mail address of a mix
	NymAddress string // for whom it is there, base64; may be empty
}

// AddKeyInits makes KeyInits, one for each token, and gives them to the keyserver.
// fallback makes them such that may be handed out more than once, which is
// uid.ErrInvalid for an identity that wants strict forward security, as is an anchor that
// nobody can send to (keyinit.Anchor.CheckAddress). They are valid for
// the given time from now on. The private keys are on disk before anything is sent;
// those of a call that fails are forgotten when they expire.
func (c *Client) AddKeyInits(ctx context.Context, id *Identity, tokens []string, anchor Anchor, valid time.Duration, fallback bool) ([]*keyinit.KeyInit, error) {
	if n := len(tokens); n == 0 || n > MaxKeyInits {
		return nil, fmt.Errorf("%w: expected 1 to %d KeyInits, got %d", uid.ErrInvalid, MaxKeyInits, n)
	}
	if valid < time.Minute || valid > MaxKeyInitValidity {
		return nil, fmt.Errorf("%w: expected a validity from a minute to %v", uid.ErrInvalid, MaxKeyInitValidity)
	}
	if err := (&keyinit.Anchor{MixAddress: anchor.MixAddress, NymAddress: anchor.NymAddress}).CheckAddress(); err != nil {
		return nil, err
	}
	if err := id.usable(); err != nil {
		return nil, err
	}
	if content := &id.record.Message.Content; fallback && content.Version == uid.Version11 && content.Preferences.ForwardSec == uid.Strict {
		return nil, fmt.Errorf("%w: %s wants %s forward security, so that nobody begins a session on a KeyInit for fallback: update it to %s first, or do without fallback",
			uid.ErrInvalid, id.Name(), uid.Strict, uid.Mandatory)
	}
	if _, err := c.Sync(ctx); err != nil {
		return nil, err
	}
	if _, err := id.latest(ctx); err != nil {
		return nil, err
	}
	if err := c.ready(ctx, tokens...); err != nil {
		return nil, err
	}
	caps, err := c.online(ctx)
	if err != nil {
		return nil, err
	}
	key := id.sigKey()
	var made []*keyinit.KeyInit
	before := id.record
	id.tidy()
	for range tokens {
		o, err := id.newKeyInit(anchor, uint64(c.opt.Now().Add(valid).Unix()), fallback)
		if err != nil {
			id.record = before
			return nil, err
		}
		made = append(made, o.Message)
		id.record.KeyInits = append(id.record.KeyInits, o)
	}
	if err := id.save(); err != nil {
		id.record = before
		return nil, err
	}
	receipts, err := c.wire.addKeyInits(ctx, caps, publicOf(key.Seed()), made, tokens)
	if err != nil {
		return nil, err
	}
	for again := true; ; again = false {
		err := verifyReceipts(made, receipts, c.state.Keys[len(c.state.Keys)-1])
		if err == nil {
			return made, nil
		}
		if !again {
			return nil, fmt.Errorf("%w: the receipts for KeyInits: %w", ErrUnsigned, err)
		}
		if _, err := c.Sync(ctx); err != nil { // it may have another key by now
			return nil, err
		}
	}
}

func verifyReceipts(made []*keyinit.KeyInit, receipts []string, server SigKey) error {
	var errs []error
	for i, k := range made {
		if err := k.VerifyServer(receipts[i], server.Public); err != nil {
			errs = append(errs, fmt.Errorf("KeyInit %d: %w", i+1, err))
		}
	}
	return errors.Join(errs...)
}

// usable returns an error unless the identity is registered and its keys are here.
func (id *Identity) usable() error {
	if id.record.Message == nil || id.record.SigKey == nil {
		return fmt.Errorf("%w: %s", ErrPending, id.Name())
	}
	return nil
}

// newKeyInit makes the next KeyInit.
func (id *Identity) newKeyInit(anchor Anchor, notAfter uint64, fallback bool) (ownInit, error) {
	private, public, err := newPubKey()
	if err != nil {
		return ownInit{}, err
	}
	key, content := id.sigKey(), &id.record.Message.Content
	sigKey := publicOf(key.Seed())
	hash := uid.SigKeyHash(sigKey)
	id.record.MsgCount++
	k := &keyinit.KeyInit{Contents: keyinit.Contents{
		Fallback:   fallback,
		MsgCount:   id.record.MsgCount,
		NotAfter:   notAfter,
		RepoURI:    content.RepoURIs[0],
		SigKeyHash: canonical.Encode(hash[:]),
		Version:    content.Version,
	}}
	a := &keyinit.Anchor{
		MixAddress: anchor.MixAddress, NymAddress: anchor.NymAddress,
		PFKeys: uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, public)},
	}
	if err := k.Contents.Seal(a, sigKey, rand.Reader); err != nil {
		return ownInit{}, err
	}
	k.Sign(key)
	if _, err := k.Verify(sigKey, content.RepoURIs, id.client.now()); err != nil {
		return ownInit{}, err
	}
	return ownInit{k, private}, nil
}

// CountKeyInits asks the keyserver how many KeyInits of an identity's present SIGKEY it can
// hand out. Nobody has signed the answer. ErrUnsupported by keyservers that do not count,
// ErrClock.
func (c *Client) CountKeyInits(ctx context.Context, id *Identity) (keyinit.Count, error) {
	if err := id.usable(); err != nil {
		return keyinit.Count{}, err
	}
	caps, err := c.online(ctx)
	if err != nil {
		return keyinit.Count{}, err
	}
	if err := c.wire.clocks.check(clockSkew); err != nil {
		return keyinit.Count{}, err
	}
	key, now := id.sigKey(), c.now()
	return c.wire.countKeyInits(ctx, caps, publicOf(key.Seed()), now, keyinit.SignCount(now, key))
}

// MissingKeyInits asks the keyserver how many KeyInits an identity's present SIGKEY lacks to
// have some number of them, of those for fallback or of the others. Errors are those of
// CountKeyInits.
func (c *Client) MissingKeyInits(ctx context.Context, id *Identity, want uint64, fallback bool) (uint64, error) {
	count, err := c.CountKeyInits(ctx, id)
	have := count.Once
	if fallback {
		have = count.Fallback
	}
	return want - min(want, have), err
}

// FlushKeyInits has the keyserver forget all KeyInits of an identity's present
// SIGKEY. Their private keys stay: some may have been handed out.
func (c *Client) FlushKeyInits(ctx context.Context, id *Identity) error {
	if err := id.usable(); err != nil {
		return err
	}
	caps, err := c.online(ctx)
	if err != nil {
		return err
	}
	if err := c.wire.clocks.check(clockSkew); err != nil {
		return err
	}
	key, now := id.sigKey(), c.now()
	return c.wire.flushKeyInits(ctx, caps, publicOf(key.Seed()), now, keyinit.SignFlush(now, key))
}
