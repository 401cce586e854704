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
// keyserver's keys through it. Entries come unsigned, in pieces: a piece is added when
// the keyserver has signed a reply about its last entry, else it is ErrUnsigned. added
// is how many came; they stay, also if it fails later.
//
// A chain that is shorter than the copy, or has another entry somewhere, is
// ErrContradiction; or Misbehaviour, if the keyserver has signed the other entry.
//
// The copy has to contain the checkpoint that the keyserver's log shows: else this is
// ErrContradiction, or Misbehaviour, too, and what came is taken back. If a policy is pinned (Pin), its
// quorum must have cosigned one that the copy contains, not too long ago: ErrNoQuorum or ErrOldQuorum
// otherwise. What is behind that stays, and is not witnessed yet (Witnessed).
//
// Of a copy by an earlier version, which took entries that nothing signed covers, those
// at the end are cut off, if there are any (Options.Notice).
func (c *Client) Sync(ctx context.Context) (added uint64, err error) {
	caps, err := c.online(ctx)
	if err != nil {
		return 0, err
	}
	checkpoint := c.askCheckpoint(ctx, caps)
	entry, last, err := c.wire.last(ctx, caps)
	if err != nil {
		return 0, err
	}
	if err := c.coverCopy(ctx, caps, last); err != nil {
		return 0, err
	}
	size := c.Size()
	before := &snapshot{size, c.state}
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
	if mine, err := c.chain.At(last); err != nil {
		return added, err
	} else if mine != entry {
		return added, c.contradicts(ctx, caps, last, &entry)
	}
	if !c.compared {
		if err := c.checkCapabilities(ctx, caps); err != nil {
			c.caps = nil // they are asked for again
			return added, err
		}
		c.compared = true
	}
	if err := c.compareCheckpoint(ctx, caps, checkpoint, before); err != nil {
		return c.Size() - size, err
	}
	return added, nil
}

// checkEnd compares the keyserver's last entry with the copy, which has one there.
func (c *Client) checkEnd(ctx context.Context, caps *capabilities, entry *hashchain.Entry, last uint64) error {
	mine, err := c.chain.At(last)
	switch {
	case err != nil:
		return err
	case mine != *entry:
		return c.rewritten(ctx, caps, last, entry)
	case last+1 < c.Size():
		return unproven(ErrContradiction, last+1, "the hashchain ends before it, the copy has %d entries: entries are withheld, or this is an old state", c.Size())
	}
	return nil
}

// rewritten says what it means that another entry than the copy's is shown at position
// last. What convicts is the signed reply about that, or about the first that differs.
func (c *Client) rewritten(ctx context.Context, caps *capabilities, last uint64, entry *hashchain.Entry) error {
	position, theirs, err := c.fork(ctx, caps, last)
	if err != nil || theirs == nil {
		return errors.Join(c.contradicts(ctx, caps, last, entry), err)
	}
	first := c.contradicts(ctx, caps, position, theirs)
	if errors.Is(first, ErrContradiction) {
		if err := c.contradicts(ctx, caps, last, entry); errors.Is(err, ErrMisbehaviour) {
			return err
		}
	}
	return first
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
		if !entries[i].Follows(prev) {
			return c.broken(ctx, caps, entries[:i+1])
		}
		prev = entries[i].Hash()
	}
	if first := entries[0].Hash(); size == 0 && c.pin != nil && first != *c.pin {
		return fmt.Errorf("%w: it begins with %s", ErrFingerprint, first)
	}
	f, err := c.follow(ctx, caps, size, entries)
	if err != nil {
		return err
	}
	if err := c.checkBefore(size, entries, f); err != nil {
		return err
	}
	chain, state, pin := *c.chain, c.state, c.pin
	if err := c.chain.append(entries); err != nil {
		return err
	}
	c.state.Keys, c.state.Message, c.state.Covers = f.keys, f.message, f.covers
	if b := c.state.Before; b != nil && b.Entry.HashchainPos < c.Size() {
		c.state.Before = nil
	}
	first := c.Fingerprint()
	c.pin = &first
	if err := c.saveState(); err != nil {
		*c.chain, c.state, c.pin = chain, state, pin
		return err
	}
	return nil
}

// broken says what it means that the last of the entries that are shown behind the copy
// does not follow the one before it: misbehaviour, if the keyserver has signed both.
func (c *Client) broken(ctx context.Context, caps *capabilities, entries []hashchain.Entry) error {
	size, n := c.Size(), len(entries)-1
	position, theirs := size+uint64(n), &entries[n]
	x := exhibit{theirs: theirs, keys: c.state.Keys}
	if n == 0 && size > 0 {
		// It may follow another entry than the copy's last.
		if fork, other, err := c.fork(ctx, caps, size); err == nil && fork < size {
			return c.contradicts(ctx, caps, fork, other)
		}
	}
	const problem = "the entry does not follow the one before it: one of them was changed, or one between them is missing"
	var err error
	if n > 0 {
		var f followed
		f, err = c.follow(ctx, caps, size, entries[:n])
		x.keys, x.covers = f.keys, f.covers
	}
	if err == nil && position > 0 {
		if x.reply, err = c.cover(ctx, caps, x.keys, position, theirs); err == nil {
			return c.misbehaves(position, x, problem)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, ErrMisbehaviour) {
		return err
	}
	return unproven(ErrUnsigned, position, problem)
}

// checkBefore compares entries from a position on, which are covered, with what the
// keyserver had signed about the copy before a Resync.
func (c *Client) checkBefore(from uint64, entries []hashchain.Entry, f followed) error {
	b := c.state.Before
	if b == nil || b.Entry.HashchainPos < from || b.Entry.HashchainPos-from >= uint64(len(entries)) {
		return nil
	}
	position := b.Entry.HashchainPos
	theirs := &entries[position-from]
	if b.Entry.HashchainEntry == theirs.String() || b.Verify(f.keys.inForce(position)) != nil {
		return nil
	}
	return c.misbehaves(position, exhibit{theirs: theirs, reply: b, covers: f.covers, keys: f.keys},
		"the keyserver has signed that another entry is there, before this copy was begun")
}

// coverCopy has a copy by an earlier version covered by what the keyserver has signed.
// What is not covered is cut off: so is what somebody between has made up.
func (c *Client) coverCopy(ctx context.Context, caps *capabilities, last uint64) error {
	size := c.Size()
	if size == 0 || c.state.Covers != nil {
		return nil
	}
	covered := func() (reply *uid.Reply, err error) {
		entry, err := c.chain.At(size - 1)
		if err == nil {
			reply, err = c.cover(ctx, caps, c.state.Keys, size-1, &entry)
		}
		return reply, err
	}
	reply, err := covered()
	if errors.Is(err, ErrUnsigned) {
		var forked error
		if size, _, forked = c.fork(ctx, caps, min(size, last+1)); forked != nil {
			return forked
		}
		if size == 0 || size <= c.state.Keys[len(c.state.Keys)-1].Position {
			return unproven(ErrContradiction, size, "%s", anotherEntry)
		}
		if size < c.Size() {
			reply, err = covered()
		}
	}
	if err != nil {
		return err
	}
	cut := c.Size() - size
	if cut > 0 {
		if err := c.cut(size); err != nil {
			return err
		}
	}
	c.state.Covers = reply
	if err := c.saveState(); err != nil {
		return err
	}
	if cut > 0 {
		c.opt.Notice(fmt.Sprintf("the last %d entries of the copy, from position %d on, were cut off: an earlier version took them, but nothing that the keyserver has signed covers them", cut, size))
	}
	return nil
}

// cut takes back all entries from a position on, which is not 0, and what was found
// among them. It counts when the state is saved.
func (c *Client) cut(size uint64) error {
	last, err := c.chain.At(size - 1)
	if err != nil {
		return err
	}
	if err := removeFiles(c.path(lookupsDir)); err != nil {
		return err
	}
	c.chain.Shorten(size, last.Hash())
	c.since = min(c.since, size)
	return nil
}

// SigKey is a public signature key and the position of the entry that named it.
type SigKey struct {
	Position uint64            `json:"position"`
	Public   ed25519.PublicKey `json:"public"`
}

// serverKeys are the keyserver's keys, the present one last.
type serverKeys []SigKey

// inForce returns the key that a reply about a position must be signed by: the one in
// use before that entry, of which the first signed itself. nil if there are none.
func (k serverKeys) inForce(position uint64) ed25519.PublicKey {
	if len(k) == 0 {
		return nil
	}
	return k[hashchain.InForce(position, len(k), func(i int) uint64 { return k[i].Position })].Public
}

// followed is what entries say of the keyserver.
type followed struct {
	keys    serverKeys
	message *uid.Message // its last
	covers  *uid.Reply   // signed, about the last entry
}

// follow looks for the keyserver's own entries among those from a position on, which
// follow the copy, and has all of them covered by what it has signed.
func (c *Client) follow(ctx context.Context, caps *capabilities, from uint64, entries []hashchain.Entry) (followed, error) {
	f := followed{keys: c.state.Keys, message: c.state.Message}
	identity := uid.KeyserverLocalpart + "@" + c.state.Domain
	found, err := hashchain.Search(ctx, entries, identity)
	if err != nil {
		return f, err
	}
	if from == 0 && (len(found) == 0 || found[0] != 0) {
		return f, unproven(ErrUnsigned, 0, "the first entry is not of %s", identity)
	}
	for _, i := range found {
		position := from + uint64(i)
		if position == 0 {
			if err := c.followFirst(ctx, caps, identity, &entries[0], &f); err != nil {
				return f, err
			}
			continue
		}
		reply, err := c.cover(ctx, caps, f.keys, position, &entries[i])
		if err != nil {
			return f, err
		}
		m, err := reply.OpenFor(identity, &entries[i])
		if err == nil {
			err = m.VerifyUpdate(f.message)
		}
		if err != nil {
			return f, c.misbehaves(position, exhibit{theirs: &entries[i], reply: reply, keys: f.keys, cause: err}, "%s: %v", identity, err)
		}
		f.keys = append(f.keys[:len(f.keys):len(f.keys)], SigKey{position, m.Content.SigKey.Public()})
		f.message, f.covers = m, reply
	}
	last := len(entries) - 1
	if n := len(found); n > 0 && found[n-1] == last {
		return f, nil
	}
	f.covers, err = c.cover(ctx, caps, f.keys, from+uint64(last), &entries[last])
	return f, err
}

// followFirst learns the keyserver's first key from its first message, which signs
// itself.
func (c *Client) followFirst(ctx context.Context, caps *capabilities, identity string, entry *hashchain.Entry, f *followed) error {
	reply, err := c.wire.reply(ctx, caps, entry.UIDIndex())
	if err != nil {
		return fmt.Errorf("position 0, %s: %w", identity, err)
	}
	m, err := reply.OpenFor(identity, entry)
	if err == nil {
		err = m.VerifyCreation()
	}
	if err == nil {
		f.keys, f.message, f.covers = serverKeys{{0, m.Content.SigKey.Public()}}, m, reply
		err = f.keys.signed(reply, 0, entry)
	}
	if err != nil {
		return unproven(ErrUnsigned, 0, "%s: %v", identity, err)
	}
	return nil
}

// checkCapabilities compares what the keyserver said of its chain and its keys with
// the chain.
func (c *Client) checkCapabilities(ctx context.Context, caps *capabilities) error {
	entry, err := hashchain.Parse(caps.KeyHashchainEntry)
	if err != nil {
		return fmt.Errorf("%w: KEYHASHCHAINENTRY: %w", ErrAnswer, err)
	}
	// The chain may have grown since then, but it did not end before the copy.
	begin := max(c.since, 1) - 1
	_, found, err := c.chain.Find(&entry, begin, c.Size())
	if err != nil {
		return err
	}
	if !found {
		problem := fmt.Errorf("KEYHASHCHAINENTRY is not an entry of the hashchain, from position %d on", begin)
		if reply, err := c.wire.reply(ctx, caps, entry.UIDIndex()); err == nil {
			return c.otherReply(c.Size()-1, reply, problem)
		}
		return unproven(ErrUnsigned, c.Size()-1, "%v", problem)
	}
	for _, text := range caps.SigPubKeys {
		known := false
		for _, k := range c.state.Keys {
			known = known || text == canonical.Encode(k.Public)
		}
		if !known {
			return unproven(ErrUnsigned, c.Size()-1, "SIGPUBKEYS names a key that no entry of %s@%s does: %.50q", uid.KeyserverLocalpart, c.state.Domain, text)
		}
	}
	return nil
}

// Recheck downloads the whole chain again and compares it with the copy. Another entry
// somewhere is ErrContradiction; or Misbehaviour, if the keyserver has signed it.
func (c *Client) Recheck(ctx context.Context) error {
	caps, err := c.online(ctx)
	if err != nil {
		return err
	}
	return inPieces(ctx, 0, c.Size(), c.loader(caps), func(first uint64, theirs []hashchain.Entry) error {
		mine, err := c.chain.Read(first, uint64(len(theirs)))
		if err != nil {
			return err
		}
		for i := range mine {
			if mine[i] != theirs[i] {
				return c.contradicts(ctx, caps, first+uint64(i), &theirs[i])
			}
		}
		c.opt.Progress("comparing", first+uint64(len(theirs)), c.Size())
		return nil
	})
}
