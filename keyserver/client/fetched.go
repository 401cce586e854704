package client

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// ErrNoKeyInits says that nobody can begin a session with somebody now: they have to
// publish more KeyInits.
var ErrNoKeyInits = errors.New("no KeyInits left")

// Payment pays with a token, if a keyserver wants one. A zero one has nothing to pay with.
type Payment struct {
	Take func() (token string, err error) // is asked for one
	// Spent is told when the keyserver has answered, whether it has taken a token or not.
	Spent func() error
}

// fetched is fetched/HASH.json: KeyInits that were taken from the keyserver and that nobody
// has used yet. What a KeyInit says is no secret.
type fetched struct {
	Identity string             `json:"identity"`
	KeyInits []*keyinit.KeyInit `json:"key_inits"` // the oldest first
}

func (c *Client) fetchedFile(identity string) string { return c.path(fetchedDir, hashName(identity)) }

// fetchedOf returns the KeyInits of an identity (mapped) that were not used yet.
func (c *Client) fetchedOf(identity string) ([]*keyinit.KeyInit, error) {
	f := fetched{Identity: identity}
	err := readJSON(c.fetchedFile(identity), &f)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && f.Identity != identity {
		err = fmt.Errorf("%w: %s is not of %s", ErrDamaged, c.fetchedFile(identity), identity)
	}
	return f.KeyInits, err
}

func (c *Client) keepFetched(identity string, inits []*keyinit.KeyInit) error {
	if len(inits) == 0 {
		return durable.Remove(c.fetchedFile(identity))
	}
	if err := os.MkdirAll(c.path(fetchedDir), 0o700); err != nil { // of an earlier version there is none
		return err
	}
	return writeJSON(c.fetchedFile(identity), fetched{identity, inits})
}

// UsedKeyInit forgets a KeyInit that FetchKeyInit has returned, by its Digest: it has come
// where it is needed.
func (c *Client) UsedKeyInit(contact *Contact, digest [sha256.Size]byte) error {
	kept, err := c.fetchedOf(contact.Identity)
	if err != nil {
		return err
	}
	return c.keepFetched(contact.Identity, slices.DeleteFunc(kept, func(k *keyinit.KeyInit) bool { return k.Digest() == digest }))
}

// FetchKeyInit takes a KeyInit of a contact out of the keyserver's repository and
// verifies it: nobody else gets it then, unless it is for fallback. It is on disk when
// FetchKeyInit returns, and is returned again, without asking, until UsedKeyInit.
//
// pay is asked for a token if the keyserver wants one. uid.ErrExpired if the contact is not
// to be trusted now, ErrToken if a token is wanted and there is nothing to pay with,
// ErrNoKeyInits.
func (c *Client) FetchKeyInit(ctx context.Context, contact *Contact, pay Payment) (*keyinit.KeyInit, *keyinit.Anchor, error) {
	return c.fetchKeyInit(ctx, contact, pay, nil)
}

// fetchKeyInit is FetchKeyInit without those that are in use, which has their digests.
func (c *Client) fetchKeyInit(ctx context.Context, contact *Contact, pay Payment, inUse [][sha256.Size]byte) (*keyinit.KeyInit, *keyinit.Anchor, error) {
	if err := c.Trusted(contact); err != nil {
		return nil, nil, err
	}
	kept, err := c.fetchedOf(contact.Identity)
	if err != nil {
		return nil, nil, err
	}
	var good []*keyinit.KeyInit // still
	for _, k := range kept {
		if _, err := c.verifyKeyInit(contact, k); err == nil {
			good = append(good, k)
		}
	}
	for _, k := range good {
		if !slices.Contains(inUse, k.Digest()) {
			anchor, err := c.verifyKeyInit(contact, k)
			return k, anchor, err
		}
	}
	k, err := c.takeKeyInit(ctx, contact, pay)
	if err != nil {
		return nil, nil, err
	}
	anchor, err := c.verifyKeyInit(contact, k)
	if err == nil {
		err = c.keepFetched(contact.Identity, append(good, k))
	}
	if pay.Spent != nil {
		err = errors.Join(err, pay.Spent())
	}
	if err != nil {
		return nil, nil, err
	}
	return k, anchor, nil
}

// takeKeyInit takes a KeyInit from the keyserver, as it comes.
func (c *Client) takeKeyInit(ctx context.Context, contact *Contact, pay Payment) (*keyinit.KeyInit, error) {
	caps, err := c.online(ctx)
	if err != nil {
		return nil, err
	}
	token := ""
	if caps.KeyInitFetch == "token" {
		if pay.Take == nil {
			return nil, fmt.Errorf("%w: the keyserver hands out KeyInits for one each", ErrToken)
		}
		if token, err = pay.Take(); err != nil {
			return nil, err
		}
		if err := c.ready(ctx, token); err != nil {
			return nil, err
		}
	}
	k, err := c.wire.keyInit(ctx, caps, contact.SigKey(), token)
	if refusedWith(err, codeUnknown) {
		return nil, fmt.Errorf("%w: %s has none with the keyserver (%w): ask them, by other means, to publish some (keytree user keyinit add)", ErrNoKeyInits, contact.Identity, err)
	}
	return k, err
}

// verifyKeyInit checks that a first message to a contact can be made with a KeyInit.
func (c *Client) verifyKeyInit(contact *Contact, k *keyinit.KeyInit) (*keyinit.Anchor, error) {
	content, now := &contact.Message().Content, c.now()
	anchor, err := k.Verify(contact.SigKey(), content.RepoURIs, now)
	if err == nil {
		err = anchor.CheckAddress()
	}
	switch {
	case err != nil:
	case k.Contents.NotBefore > now+uint64(clockSkew/time.Second):
		err = fmt.Errorf("%w: NOTBEFORE %s is in the future", uid.ErrExpired, uid.Date(k.Contents.NotBefore))
	case k.Contents.Version != content.Version:
		err = fmt.Errorf("%w: VERSION: expected %q as in the UID message", uid.ErrInvalid, content.Version)
	}
	if err != nil {
		return nil, fmt.Errorf("the KeyInit that is shown for %s, by the keyserver or somebody between, is not good: %w", contact.Identity, err)
	}
	return anchor, nil
}
