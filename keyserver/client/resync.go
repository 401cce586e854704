package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

// Resync begins the copy in a folder again, and downloads it from position 0. It is for a
// damaged copy, and for one that is wrong itself where the keyserver seems to contradict
// it. Resync keeps the user's own identities, evidence, the hash of the first entry
// (Client.Fingerprint), the pinned policy, and what the keyserver and its log had signed about the old copy. The new copy
// has to begin with that entry, and to agree with what was signed. Resync drops the entries
// and what was found in them.
//
// Nothing is dropped before the keyserver has shown the same first entry. Whenever the
// process is killed the folder has the old copy, or a new one that Sync goes on with.
//
// The client is returned, open, also with an error of the download. ErrNotInitialized,
// ErrLocked, ErrFingerprint; ErrDamaged if not even the first entry is known.
func Resync(ctx context.Context, dir string, opt Options) (*Client, error) {
	c, err := openState(dir, opt)
	if err != nil {
		return nil, err
	}
	if c.chain, err = openCopy(c.path(chainFile), 0, nil); err != nil {
		return nil, errors.Join(err, c.lock.Unlock())
	}
	if err := c.restart(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	_, err = c.Sync(ctx)
	return c, err
}

// restart makes the copy one without entries.
func (c *Client) restart(ctx context.Context) error {
	if c.pin == nil && c.state.Size == 0 {
		return nil // nothing was ever taken
	}
	if c.pin == nil {
		first, err := c.firstInFile()
		if err != nil {
			return err
		}
		c.pin = &first
	}
	if err := c.checkFirst(ctx, *c.pin); err != nil {
		return err
	}
	for _, step := range c.drop() {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// firstInFile is the hash of the first entry of a copy by an earlier version, of which
// the state does not speak.
func (c *Client) firstInFile() (hashchain.Hash, error) {
	first, err := c.chain.First()
	if err != nil {
		return hashchain.Hash{}, fmt.Errorf("%w: %s: the first entry, by which the keyserver is known: %w", ErrDamaged, c.chain.Name(), err)
	}
	return first.Hash(), nil
}

// drop is what makes the copy one without entries, step by step: after each the folder
// is a good one. Only the state makes the difference.
func (c *Client) drop() []func() error {
	return []func() error{
		func() error { return removeFiles(c.path(lookupsDir)) },
		func() error {
			next := state{Domain: c.state.Domain, URL: c.state.URL, Fingerprint: c.pin[:], Before: c.state.Covers}
			if next.Before == nil {
				next.Before = c.state.Before
			}
			next.Policy, next.LogKey = c.state.Policy, c.state.LogKey
			if last := c.state.Seen; last != nil { // which the new copy has to contain, too
				next.Seen = &seen{Signed: last.Signed}
			}
			c.state = next
			return c.saveState()
		},
		func() error { c.chain.Shorten(0, hashchain.Hash{}); return c.chain.Truncate() },
	}
}

// removeFiles empties a folder.
func removeFiles(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := durable.Remove(filepath.Join(dir, f.Name())); err != nil {
			return err
		}
	}
	return nil
}
