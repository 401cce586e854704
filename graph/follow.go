package graph

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// MaxFollowed is how many keys, and how many identities, one Following has at most.
const MaxFollowed = 10_000

// ErrFollowed says that a Following would have more than MaxFollowed keys or identities.
var ErrFollowed = errors.New("too many keys or identities to follow")

// Following is a set of keys and identities whose owner is told which of them a block changes, also by
// what happens far above a key. Its methods may be called concurrently. Close it.
type Following struct {
	g     *Graph
	keys  []protocol.KeyHash // ascending, each once
	ids   []chainhash.Hash   // likewise
	bytes int64              // that it takes

	number  int32   // followers.mu; among all, none once it has been closed
	entries []int32 // followers.mu; in the rolls, of keys, then of ids
	since   uint64  // followers.mu; the last step that it has no notes of
}

// Changes lists what a block changed of a Following, in ascending order of bytes, hashes being in internal
// byte order.
type Changes struct {
	// Keys are those with another root, parent or identity after the block than before.
	Keys []protocol.KeyHash
	// IDs are those of the identities whose links the block formed or cut, and which it named or
	// merged. An identity that merged before changes with the surviving one.
	IDs []chainhash.Hash
	// Unsure tells that some of them may not have changed. None that has changed is missing.
	Unsure bool
	// Compared is for how many keys and identities the answers before and after the block were asked for: none if it was
	// noted what the block has changed. One that took more steps (links.MaxWork) than ComparedSteps counts as often as it did.
	Compared int
}

// Follow returns a Following of keys and identities, by their id_tx_hash in internal byte order: of any, whether they
// are known or not. One that is given twice counts once. ErrFollowed if they are more than MaxFollowed of either.
// ErrMemory if there is no room for them: a fourth of what the graph may take is for all followings together, about 80 bytes
// for each key (MemoryUse.Followed).
func (g *Graph) Follow(keys []protocol.KeyHash, ids []chainhash.Hash) (*Following, error) {
	keys, ids = slices.Clone(keys), slices.Clone(ids)
	slices.SortFunc(keys, compareKeys)
	slices.SortFunc(ids, store.CompareHashes)
	f := &Following{g: g, keys: slices.Clip(slices.Compact(keys)), ids: slices.Clip(slices.Compact(ids)), number: none}
	if len(f.keys) > MaxFollowed || len(f.ids) > MaxFollowed {
		return nil, fmt.Errorf("%w: %d keys and %d identities, expected at most %d of each", ErrFollowed, len(f.keys), len(f.ids), MaxFollowed)
	}
	f.bytes = followingMemory + followedMemory*int64(len(f.keys)) + followedIDMemory*int64(len(f.ids))
	if err := g.followers.add(g, f); err != nil {
		return nil, fmt.Errorf("following %d keys and %d identities: %w", len(f.keys), len(f.ids), err)
	}
	return f, nil
}

func compareKeys(a, b protocol.KeyHash) int { return bytes.Compare(a[:], b[:]) }

// Close ends following. Closing twice does nothing.
func (f *Following) Close() { f.g.followers.remove(f) }

// HasKey reports whether a key is one of those followed.
func (f *Following) HasKey(key protocol.KeyHash) bool {
	_, ok := slices.BinarySearchFunc(f.keys, key, compareKeys)
	return ok
}

// HasID reports whether an identity is one of those followed.
func (f *Following) HasID(id chainhash.Hash) bool { return isAmong(f.ids, id) }

// changes returns what hits say.
func (f *Following) changes(h *hits) (c Changes) {
	for _, at := range slices.Sorted(slices.Values(h.keys)) {
		c.Keys = append(c.Keys, f.keys[at])
	}
	for _, at := range slices.Compact(slices.Sorted(slices.Values(h.ids))) {
		c.IDs = append(c.IDs, f.ids[at])
	}
	return c
}

// Connected returns what the block at a height changed when it was connected. Of the last blocks that is known, or will be
// soon: then it waits. Of older ones the answers before and after it are compared: a key that has stayed where it was
// costs next to nothing, others what View.Resolve takes twice, all of them a second or so at most. ErrReorganised if another block is
// there now, or it is taken back meanwhile; ErrHeight if there is none. Other errors are the store's or the context's.
func (f *Following) Connected(ctx context.Context, height uint32, hash chainhash.Hash) (Changes, error) {
	c, ok, err := f.g.followers.noted(ctx, f.g, f, func(n *note) bool {
		return n.pending == nil && !n.undone && n.height == height && n.hash == hash
	})
	if ok || err != nil {
		return c, err
	}
	after, err := f.g.At(&height)
	if err != nil {
		return Changes{}, err
	}
	defer after.Close()
	if after.Hash() != hash {
		return Changes{}, fmt.Errorf("%w: at height %d is block %v, not %v", ErrReorganised, height, after.Hash(), hash)
	}
	var was asked = never{}
	stayed := func(protocol.KeyHash) bool { return false }
	touched, err := f.g.recent.of(after)
	if err != nil {
		return Changes{}, err
	}
	if height > f.g.params.StartHeight {
		before := height - 1
		v, err := after.back(before)
		if err != nil {
			return Changes{}, err
		}
		defer v.Close()
		was, stayed = v, func(key protocol.KeyHash) bool {
			// What has stayed where it was has changed only if its root has got another name, which
			// is of one of those that the block touched, whatever that has merged into since.
			name, ok := v.Stayed(key)
			return ok && !isAmong(touched.now, name)
		}
	}
	return f.compare(ctx, was, after, touched.ids, stayed)
}

// Disconnected returns what taking a block back changed, which is what connecting it did. ErrNotFound if it is not known to
// have been taken off the chain. Of one that was taken back before the Following was there, or long ago, the changes are Unsure. Other
// errors are the store's or the context's.
func (f *Following) Disconnected(ctx context.Context, height uint32, hash chainhash.Hash) (Changes, error) {
	c, ok, err := f.g.followers.noted(ctx, f.g, f, func(n *note) bool {
		return n.undone && n.height == height && n.hash == hash
	})
	if ok || err != nil {
		return c, err
	}
	s, err := f.g.hold()
	if err != nil {
		return Changes{}, err
	}
	defer s.release()
	changed, fork, ok, err := s.offChain(height, hash)
	switch {
	case err != nil:
		return Changes{}, err
	case !ok:
		return Changes{Keys: slices.Clone(f.keys), IDs: slices.Clone(f.ids), Unsure: true}, nil
	case len(changed.Keys) == 0 && len(changed.IDs) == 0:
		return Changes{}, nil
	}
	watch := links.NewWatch(s.state.Links)
	for _, key := range f.keys {
		watch.Add(key)
	}
	c = Changes{Keys: watch.Below(changed.Keys, f.keys, fork), Unsure: true}
	merged, err := s.survivors(f.ids, fork)
	if err != nil {
		return Changes{}, err
	}
	slices.SortFunc(changed.IDs, store.CompareHashes)
	for i, id := range f.ids {
		if isAmong(changed.IDs, id) || isAmong(changed.IDs, merged[i]) {
			c.IDs = append(c.IDs, id)
		}
	}
	return c, nil
}

// offChain returns what a block had changed that was taken off the chain, together with those between the chain and it, and the
// height at which they had left the chain. ok is false if that is not known of all of them.
func (s *snapshot) offChain(height uint32, hash chainhash.Hash) (changed store.StaleChange, fork uint32, ok bool, err error) {
	for first := true; ; first = false {
		block, found, err := readStale(s.txn, height, hash)
		switch {
		case err != nil:
			return changed, 0, false, err
		case !found && first:
			return changed, 0, false, fmt.Errorf("stale block %v at height %d: %w", hash, height, store.ErrNotFound)
		case !found || height == 0 || s.tip == nil:
			return changed, 0, false, nil
		}
		c, known, err := store.ReadStaleChange(s.txn, height, hash)
		if err != nil || !known {
			return changed, 0, false, err
		}
		changed.Keys, changed.IDs = append(changed.Keys, c.Keys...), append(changed.IDs, c.IDs...)
		height, hash = height-1, block.PrevHash
		if height > s.tip.Height {
			continue
		}
		value, err := store.Read(s.txn, store.HeightKey(store.PrefixBlock, height))
		if err != nil {
			return changed, 0, false, err
		}
		if value == nil { // before the start height
			return changed, 0, false, nil
		}
		record, err := store.DecodeBlock(value)
		if err != nil || record.Hash == hash {
			return changed, height, err == nil, err
		}
	}
}

// Pending returns what the supposed block of a view, which is of the same graph, would change. Errors are the store's or the
// context's.
func (f *Following) Pending(ctx context.Context, view *PendingView) (Changes, error) {
	c, ok, err := f.g.followers.noted(ctx, f.g, f, func(n *note) bool { return n.pending == view.supposed })
	if ok || err != nil {
		return c, err
	}
	return f.compare(ctx, view.tip, view, view.supposed.touchedIDs(), func(protocol.KeyHash) bool { return false })
}

// asked is what is asked before and after a block.
type asked interface {
	Resolve(ctx context.Context, key protocol.KeyHash) (links.Resolution, error)
	Identity(id chainhash.Hash) (links.Identity, error)
	Spent() int
}

// never is the graph before the first block.
type never struct{}

func (never) Resolve(_ context.Context, key protocol.KeyHash) (links.Resolution, error) {
	return links.Resolution{Key: key, Root: key}, nil
}

func (never) Identity(chainhash.Hash) (links.Identity, error) {
	return links.Identity{}, store.ErrNotFound
}

func (never) Spent() int { return 0 }

// ComparedSteps is how many steps the answers of one key before and after a block take, if little above it has changed: some 2.5 µs.
const ComparedSteps = 25

// compareWork bounds the work of comparing answers, in steps of links.MaxWork: it takes a second or so, where somebody has paid
// for thousands of links above each key and has cut them since. Else a key takes one step.
const compareWork = 20 * links.MaxWork

// compare returns what is otherwise after a block than before; touched are the identities that it touched, in ascending
// order. Of what has stayed nothing is asked.
func (f *Following) compare(ctx context.Context, before, after asked, touched []chainhash.Hash, stayed func(protocol.KeyHash) bool) (c Changes, err error) {
	if len(touched) == 0 {
		return c, nil // it formed no link and cut none
	}
	work := 0
	for _, key := range f.keys {
		if stayed(key) {
			continue
		}
		if work > compareWork {
			c.Keys, c.Unsure = append(c.Keys, key), true
			continue
		}
		same, err := sameAnswer(ctx, before, after, key)
		if errors.Is(err, ErrWork) {
			c.Unsure = true
		} else if err != nil {
			return Changes{}, err
		}
		if !same {
			c.Keys = append(c.Keys, key)
		}
		spent := before.Spent() + after.Spent()
		work += spent
		c.Compared += 1 + spent/ComparedSteps
	}
	c.Compared += len(f.ids)
	for _, id := range f.ids {
		changed, err := isTouched(touched, id, before, after)
		if err != nil {
			return Changes{}, err
		}
		if changed {
			c.IDs = append(c.IDs, id)
		}
	}
	return c, nil
}

// sameAnswer tells whether a key has the same root, parent and identity before and after.
func sameAnswer(ctx context.Context, before, after asked, key protocol.KeyHash) (bool, error) {
	was, err := before.Resolve(ctx, key)
	if err != nil {
		return false, err
	}
	is, err := after.Resolve(ctx, key)
	if err != nil {
		return false, err
	}
	return was.Root == is.Root && was.ID == is.ID && (was.Parent == nil) == (is.Parent == nil) &&
		(was.Parent == nil || *was.Parent == *is.Parent), nil
}

// isTouched tells whether an identity, or the one that it has merged into before or after, is among those touched.
func isTouched(touched []chainhash.Hash, id chainhash.Hash, before, after asked) (bool, error) {
	if isAmong(touched, id) {
		return true, nil
	}
	for _, at := range []asked{before, after} {
		i, err := at.Identity(id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		if i.MergedInto != nil && isAmong(touched, *i.MergedInto) {
			return true, nil
		}
	}
	return false, nil
}

// isAmong tells whether an id is among others, which are in ascending order.
func isAmong(ids []chainhash.Hash, id chainhash.Hash) bool {
	_, ok := slices.BinarySearchFunc(ids, id, store.CompareHashes)
	return ok
}
