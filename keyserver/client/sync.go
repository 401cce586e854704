package client

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// Sync downloads what the hashchain has grown by, verifies it, and follows the
// keyserver's keys through it. added is how many entries came; they stay, also if
// it fails later.
//
// A chain that is shorter than the copy, or has another entry somewhere, is
// Misbehaviour.
func (c *Client) Sync(ctx context.Context) (added uint64, err error) {
	caps, err := c.online(ctx)
	if err != nil {
		return 0, err
	}
	entry, last, err := c.wire.last(ctx, caps)
	if err != nil {
		return 0, err
	}
	size := c.Size()
	if last+1 <= size {
		if err := c.checkEnd(ctx, caps, &entry, last); err != nil {
			return 0, err
		}
	}
	err = inPieces(ctx, size, last+1, c.loader(caps), func(_ uint64, entries []hashchain.Entry) error {
		err := c.take(ctx, caps, entries)
		c.opt.Progress("downloading", c.Size(), last+1)
		return err
	})
	added = c.Size() - size
	if err != nil {
		return added, err
	}
	if mine, err := c.chain.at(last); err != nil {
		return added, err
	} else if mine != entry {
		return added, c.misbehaves(last, exhibit{theirs: &entry}, "FetchLastHashChain and FetchHashChain show different entries")
	}
	if !c.compared {
		err = c.checkCapabilities(caps)
		c.compared = err == nil
	}
	return added, err
}

const rewritten = "the entry was rewritten: the keyserver shows another history than before"

// checkEnd compares the keyserver's last entry with the copy, which has one there.
func (c *Client) checkEnd(ctx context.Context, caps *capabilities, entry *hashchain.Entry, last uint64) error {
	mine, err := c.chain.at(last)
	switch {
	case err != nil:
		return err
	case mine != *entry:
		return c.rewritten(ctx, caps, last, entry)
	case last+1 < c.Size():
		return c.misbehaves(last+1, exhibit{}, "the keyserver's chain ends before it, the copy has %d entries: entries are withheld", c.Size())
	}
	return nil
}

// rewritten tells where the keyserver's chain, which has another entry at position
// last, begins to differ.
func (c *Client) rewritten(ctx context.Context, caps *capabilities, last uint64, entry *hashchain.Entry) error {
	position, theirs, err := c.fork(ctx, caps, last)
	if err != nil {
		return errors.Join(c.misbehaves(last, exhibit{theirs: entry}, "the entry was rewritten, here or before"), err)
	}
	if position == last {
		theirs = entry
	}
	return c.misbehaves(position, exhibit{theirs: theirs}, "%s", rewritten)
}

// loader loads entries from the keyserver.
func (c *Client) loader(caps *capabilities) func(ctx context.Context, first, count uint64) ([]hashchain.Entry, error) {
	return func(ctx context.Context, first, count uint64) ([]hashchain.Entry, error) {
		return c.wire.entries(ctx, caps, first, count)
	}
}

// inPieces loads the entries from begin up to end, which is not included, one piece
// ahead of what use does with them.
func inPieces(ctx context.Context, begin, end uint64, load func(ctx context.Context, first, count uint64) ([]hashchain.Entry, error),
	use func(first uint64, entries []hashchain.Entry) error) error {
	type piece struct {
		first   uint64
		entries []hashchain.Entry
		err     error
	}
	pieces := make(chan piece)
	loading, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		for range pieces { // until the other goroutine has ended
		}
	}()
	go func() {
		defer close(pieces)
		for first := begin; first < end && loading.Err() == nil; first += entriesAtOnce {
			entries, err := load(loading, first, min(end-first, entriesAtOnce))
			select {
			case pieces <- piece{first, entries, err}:
			case <-loading.Done():
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		if p.err != nil {
			return p.err
		}
		if err := use(p.first, p.entries); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// take verifies entries that follow the copy and adds them.
func (c *Client) take(ctx context.Context, caps *capabilities, entries []hashchain.Entry) error {
	size, prev := c.Size(), c.Head()
	for i := range entries {
		if !follows(&entries[i], prev) {
			return c.broken(ctx, caps, size+uint64(i), &entries[i])
		}
		prev = entries[i].Hash()
	}
	keys, message, err := c.followKeys(ctx, caps, size, entries)
	if err != nil {
		return err
	}
	before := *c.chain
	if err := c.chain.append(entries); err != nil {
		return err
	}
	c.state.Keys, c.state.Message = keys, message
	if err := c.saveState(); err != nil {
		*c.chain = before
		return err
	}
	return nil
}

// broken tells why the keyserver's entry at a position behind the copy does not follow
// the one before it.
func (c *Client) broken(ctx context.Context, caps *capabilities, position uint64, theirs *hashchain.Entry) error {
	if size := c.Size(); position == size && size > 0 {
		// It may follow another entry than the copy's last.
		if fork, other, err := c.fork(ctx, caps, size); err == nil && fork < size {
			return c.misbehaves(fork, exhibit{theirs: other}, "%s", rewritten)
		}
	}
	return c.misbehaves(position, exhibit{theirs: theirs}, "the entry does not follow the one before it: one of them was changed, or one between them is missing")
}

// SigKey is a public signature key and the position of the entry that named it.
type SigKey struct {
	Position uint64            `json:"position"`
	Public   ed25519.PublicKey `json:"public"`
}

// followKeys looks for the keyserver's own entries among those from a position on,
// and returns its keys and last message with them.
func (c *Client) followKeys(ctx context.Context, caps *capabilities, from uint64, entries []hashchain.Entry) (keys []SigKey, last *uid.Message, err error) {
	identity := uid.KeyserverLocalpart + "@" + c.state.Domain
	found, err := hashchain.Search(ctx, entries, identity)
	if err != nil {
		return nil, nil, err
	}
	keys, last = c.state.Keys, c.state.Message
	if from == 0 && (len(found) == 0 || found[0] != 0) {
		return nil, nil, c.misbehaves(0, exhibit{theirs: &entries[0]}, "the first entry is not of %s", identity)
	}
	for _, i := range found {
		position := from + uint64(i)
		reply, err := c.wire.reply(ctx, caps, entries[i].UIDIndex())
		if err != nil {
			return nil, nil, fmt.Errorf("position %d, %s: %w", position, identity, err)
		}
		m, err := c.openReply(identity, position, &entries[i], reply)
		if err != nil {
			return nil, nil, err
		}
		key := ed25519.PublicKey(m.Content.SigKey.Public())
		signer := key
		if last == nil {
			err = m.VerifyCreation()
		} else {
			signer, err = keys[len(keys)-1].Public, m.VerifyUpdate(last)
		}
		if err == nil {
			err = reply.Verify(signer)
		}
		if err != nil {
			return nil, nil, c.misbehaves(position, exhibit{theirs: &entries[i], reply: reply, cause: err}, "%s: %v", identity, err)
		}
		keys = append(keys[:len(keys):len(keys)], SigKey{position, key})
		last = m
	}
	return keys, last, nil
}

// checkCapabilities compares what the keyserver said of its chain and its keys with
// the chain.
func (c *Client) checkCapabilities(caps *capabilities) error {
	entry, err := hashchain.Parse(caps.KeyHashchainEntry)
	if err != nil {
		return fmt.Errorf("%w: KEYHASHCHAINENTRY: %w", ErrAnswer, err)
	}
	// The chain may have grown since then, but it did not end before the copy.
	begin := max(c.since, 1) - 1
	_, found, err := c.chain.find(&entry, begin, c.Size())
	if err != nil {
		return err
	}
	if !found {
		return c.misbehaves(c.Size()-1, exhibit{theirs: &entry}, "KEYHASHCHAINENTRY is not an entry of the hashchain, from position %d on", begin)
	}
	for _, text := range caps.SigPubKeys {
		known := false
		for _, k := range c.state.Keys {
			known = known || text == canonical.Encode(k.Public)
		}
		if !known {
			return c.misbehaves(c.Size()-1, exhibit{}, "SIGPUBKEYS names a key that no entry of %s@%s does: %.50q", uid.KeyserverLocalpart, c.state.Domain, text)
		}
	}
	return nil
}

// Recheck downloads the whole chain again and compares it with the copy. A
// keyserver that shows another entry somewhere now is Misbehaviour.
func (c *Client) Recheck(ctx context.Context) error {
	caps, err := c.online(ctx)
	if err != nil {
		return err
	}
	return inPieces(ctx, 0, c.Size(), c.loader(caps), func(first uint64, theirs []hashchain.Entry) error {
		mine, err := c.chain.read(first, uint64(len(theirs)))
		if err != nil {
			return err
		}
		for i := range mine {
			if mine[i] != theirs[i] {
				return c.misbehaves(first+uint64(i), exhibit{theirs: &theirs[i]}, "%s", rewritten)
			}
		}
		c.opt.Progress("comparing", first+uint64(len(theirs)), c.Size())
		return nil
	})
}
