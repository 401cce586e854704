package graph

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// View answers questions as of one block. Every answer of one view is about the
// same state, whatever is connected or disconnected meanwhile. A view holds
// resources of the store until Close. It is not safe for concurrent use; make
// one per request.
type View struct {
	g      *Graph
	txn    *badger.Txn
	block  blockRecord
	height uint32
	// memory is Graph.changed at the time of the snapshot if the view is as of
	// the tip, else nil: while it is still the same channel, the state in memory
	// is the view's.
	memory <-chan struct{}

	iterators map[byte]*badger.Iterator // by prefix, over txn
	known     map[protocol.KeyHash]place
}

// place is where a key stands in its tree, as found by walking stored parents.
type place struct {
	root  protocol.KeyHash
	depth uint32
}

// maxKnown bounds View.known, which lets many questions of one view share the
// upper part of their walks.
const maxKnown = 1 << 17

// At returns a view as of height, nil meaning the tip. ErrEmpty before the first
// block; ErrHeight before the start height and beyond the tip.
func (g *Graph) At(height *uint32) (*View, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.broken != nil {
		return nil, g.broken
	}
	if g.tip == nil {
		return nil, ErrEmpty
	}
	v := &View{g: g, height: g.tip.Height}
	if height != nil {
		v.height = *height
	}
	if v.height < g.params.StartHeight || v.height > g.tip.Height {
		return nil, fmt.Errorf("%w: expected %d to %d, got %d", ErrHeight, g.params.StartHeight, g.tip.Height, v.height)
	}
	if v.height == g.tip.Height {
		v.memory = g.changed
	}
	v.txn = g.db.NewTransaction(false)
	block, err := readBlock(v.txn, v.height)
	if err != nil {
		v.Close()
		return nil, err
	}
	v.block = block
	return v, nil
}

// Close releases the view. Closing twice does nothing.
func (v *View) Close() {
	for _, it := range v.iterators {
		it.Close()
	}
	v.iterators = nil
	v.txn.Discard()
}

// Height returns the height that the view is as of.
func (v *View) Height() uint32 { return v.height }

// Hash returns the hash of the block that the view is as of.
func (v *View) Hash() chainhash.Hash { return v.block.hash }

// iterator returns the view's iterator over a prefix, anywhere in it.
func (v *View) iterator(prefix byte) *badger.Iterator {
	it := v.iterators[prefix]
	if it == nil {
		it = newIterator(v.txn, []byte{prefix})
		if v.iterators == nil {
			v.iterators = make(map[byte]*badger.Iterator)
		}
		v.iterators[prefix] = it
	}
	return it
}

// version returns the version as of the view of the thing with the given stem,
// and since when it is so; nil if there is none, which is not the same as an
// empty one.
func (v *View) version(stem []byte) (value []byte, since uint32, err error) {
	it := v.iterator(stem[0])
	it.Seek(version(stem, v.height))
	if !it.ValidForPrefix(stem) {
		return nil, 0, nil
	}
	value, err = it.Item().ValueCopy(nil)
	if err != nil {
		return nil, 0, fmt.Errorf("reading the database: %w", err)
	}
	if value == nil {
		value = []byte{}
	}
	return value, versionHeight(it.Item().Key()), nil
}

// Resolve says which identity is behind a key (identity-rules §5, §6). A key
// that was never linked is its own. As of the tip it takes time logarithmic in
// the identity's size; as of an older block, linear in the key's depth then.
// Errors are the store's or the context's.
func (v *View) Resolve(ctx context.Context, key protocol.KeyHash) (Resolution, error) {
	if r, ok := v.resolveInMemory(key); ok {
		return r, nil
	}
	return v.resolveStored(ctx, key)
}

// resolveInMemory answers from the state in memory; ok is false if that is not
// the view's.
func (v *View) resolveInMemory(key protocol.KeyHash) (r Resolution, ok bool) {
	if v.memory == nil {
		return Resolution{}, false
	}
	v.g.mu.RLock()
	defer v.g.mu.RUnlock()
	if v.memory != (<-chan struct{})(v.g.changed) {
		v.memory = nil
		return Resolution{}, false
	}
	f := v.g.state.forest
	n := f.find(key)
	if n == none {
		return Resolution{Key: key, Root: key, Path: []protocol.KeyHash{key}}, true
	}
	root := f.root(n)
	r = Resolution{Key: key, ID: v.g.state.ids[root], Root: f.keys[root], Depth: uint32(f.depth(n))}
	r.Truncated = r.Depth >= MaxPath
	r.Path = make([]protocol.KeyHash, 0, min(r.Depth+1, MaxPath))
	if p := f.parent[n]; p != none {
		parent, accept := f.keys[p], f.accept[n]
		r.Parent, r.Accept = &parent, &accept
	}
	for at := n; at != none && len(r.Path) < MaxPath; at = f.parent[at] {
		r.Path = append(r.Path, f.keys[at])
	}
	return r, true
}

// resolveStored answers from the stored versions, walking up from parent to
// parent.
func (v *View) resolveStored(ctx context.Context, key protocol.KeyHash) (Resolution, error) {
	r := Resolution{Key: key}
	var walked []protocol.KeyHash // beyond known places, key first
	var top place
	for at := key; ; {
		if p, ok := v.known[at]; ok && len(r.Path) == MaxPath {
			top = p
			break
		}
		if len(r.Path) < MaxPath {
			r.Path = append(r.Path, at)
		}
		walked = append(walked, at)
		link, err := v.link(at)
		if err != nil {
			return r, err
		}
		if link == nil {
			top = place{root: at}
			walked = walked[:len(walked)-1]
			break
		}
		if at == key {
			r.Parent, r.Accept = &link.parent, &link.accept
		}
		at = link.parent
		if len(walked)%1024 == 0 && ctx.Err() != nil {
			return r, ctx.Err()
		}
	}
	r.Root, r.Depth = top.root, top.depth+uint32(len(walked))
	r.Truncated = r.Depth >= MaxPath
	if v.known == nil {
		v.known = make(map[protocol.KeyHash]place)
	}
	for i, at := range walked[:min(len(walked), max(0, maxKnown-len(v.known)))] {
		v.known[at] = place{top.root, r.Depth - uint32(i)}
	}
	id, _, err := v.version(rootStem(r.Root))
	if err != nil {
		return r, err
	}
	if len(id) == 32 {
		r.ID = chainhash.Hash(id)
	}
	return r, nil
}

// link returns the link from a key to its parent, nil if it has none.
func (v *View) link(key protocol.KeyHash) (*acceptRecord, error) {
	value, _, err := v.version(parentStem(key))
	if err != nil || len(value) == 0 {
		return nil, err
	}
	record, err := decodeAcceptRecord(value)
	return &record, err
}

// Identity describes an identity by its id_tx_hash. ErrNotFound if id names none
// as of the view.
func (v *View) Identity(id chainhash.Hash) (Identity, error) {
	value, _, err := v.version(identityStem(id))
	if err != nil {
		return Identity{}, err
	}
	if value == nil {
		return Identity{}, fmt.Errorf("identity %v as of height %d: %w", id, v.height, ErrNotFound)
	}
	answer := Identity{ID: id}
	if len(value) == 0 {
		_, name, err := representative(id, func(id chainhash.Hash) ([]byte, error) {
			value, _, err := v.version(nameStem(id))
			return value, err
		})
		if err != nil {
			return Identity{}, err
		}
		answer.MergedInto = &name.survivor
		if value, _, err = v.version(identityStem(name.survivor)); err != nil {
			return Identity{}, err
		}
	}
	record, err := decodeIdentityRecord(value)
	if err != nil {
		return Identity{}, err
	}
	answer.Root, answer.Keys = record.root, record.keys
	named, err := v.action(id)
	if err != nil {
		return Identity{}, err
	}
	answer.NamedAt = named.at.height
	return answer, nil
}

// Members lists up to limit keys of an identity, of the surviving one if it
// merged, after the cursor; a nil cursor starts with the root. next is nil at
// the end. ErrNotFound if there is no such identity, or the cursor is not one of
// its keys.
func (v *View) Members(ctx context.Context, id chainhash.Hash, after *MemberCursor, limit int) (members []Member, next *MemberCursor, err error) {
	identity, err := v.Identity(id)
	if err != nil {
		return nil, nil, err
	}
	var at Member
	if after == nil {
		at = Member{Key: identity.Root}
		members = append(members, at)
	} else {
		r, err := v.Resolve(ctx, after.Key)
		if err != nil {
			return nil, nil, err
		}
		if r.Root != identity.Root {
			return nil, nil, fmt.Errorf("cursor %x in identity %v: %w", after.Key, id, ErrNotFound)
		}
		at = Member{Key: r.Key, Depth: r.Depth, Parent: r.Parent}
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		following, err := v.nextMember(ctx, at)
		if err != nil {
			return nil, nil, err
		}
		if following == nil {
			return members, nil, nil
		}
		if len(members) >= limit {
			return members, &MemberCursor{at.Key}, nil
		}
		members = append(members, *following)
		at = *following
	}
}

// nextMember returns the key after at, depth first: its first child, else the
// next child of the nearest ancestor that has one. nil after the last.
func (v *View) nextMember(ctx context.Context, at Member) (*Member, error) {
	child, err := v.nextChild(ctx, at.Key, nil)
	if err != nil {
		return nil, err
	}
	if child != nil {
		child.Depth = at.Depth + 1
		return child, nil
	}
	for at.Parent != nil {
		sibling, err := v.nextChild(ctx, *at.Parent, &at.Key)
		if err != nil {
			return nil, err
		}
		if sibling != nil {
			sibling.Depth = at.Depth
			return sibling, nil
		}
		up := Member{Key: *at.Parent, Depth: at.Depth - 1}
		link, err := v.link(up.Key)
		if err != nil {
			return nil, err
		}
		if link != nil {
			up.Parent = &link.parent
		}
		at = up
	}
	return nil, nil
}

// nextChild returns the child of parent that follows after in the order of
// hashes, the first one if after is nil, or nil if there is none.
func (v *View) nextChild(ctx context.Context, parent protocol.KeyHash, after *protocol.KeyHash) (*Member, error) {
	stem := childrenStem(parent)
	it := v.iterator(prefixChild)
	seek := stem
	if after != nil {
		seek = version(childStem(parent, *after), 0) // the oldest version there can be
	}
	for it.Seek(seek); it.ValidForPrefix(stem); {
		key := it.Item().KeyCopy(nil)
		if bytes.Equal(key, seek) {
			it.Next()
			continue
		}
		child := protocol.KeyHash(key[21:41])
		if versionHeight(key) > v.height {
			// The newest version is too new; look at the one as of the view.
			it.Seek(version(childStem(parent, child), v.height))
			if !it.ValidForPrefix(childStem(parent, child)) {
				continue // it came to stand on the next child, if any
			}
		}
		accept, err := it.Item().ValueCopy(nil)
		if err != nil {
			return nil, fmt.Errorf("reading the database: %w", err)
		}
		if len(accept) == 32 {
			hash := chainhash.Hash(accept)
			return &Member{Key: child, Parent: &parent, Accept: &hash, Linked: versionHeight(it.Item().Key())}, nil
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		seek = version(childStem(parent, child), 0)
		it.Seek(seek)
	}
	return nil, nil
}

// action returns the record of an action that was confirmed by the view's
// height. ErrNotFound if there is none.
func (v *View) action(txid chainhash.Hash) (*actionRecord, error) {
	value, err := read(v.txn, actionKey(txid))
	if err != nil {
		return nil, err
	}
	if value != nil {
		record, err := decodeActionRecord(value)
		if err != nil {
			return nil, err
		}
		if record.at.height <= v.height {
			return record, nil
		}
	}
	return nil, fmt.Errorf("action %v as of height %d: %w", txid, v.height, ErrNotFound)
}

// Action describes an action by its txid. ErrNotFound if no action of that txid
// was confirmed as of the view.
func (v *View) Action(txid chainhash.Hash) (ActionStatus, error) {
	r, err := v.action(txid)
	if err != nil {
		return ActionStatus{}, err
	}
	state, since, _ := r.stateAt(v.height)
	a := ActionStatus{
		TxID: txid, Kind: r.kind, Height: r.at.height, Index: r.at.index,
		Message: r.message, State: state, Decided: since,
	}
	if state == StateRefused {
		a.Reason = r.reason
	}
	if r.hasAuthor {
		a.Author = &r.author
	}
	if r.hasReference {
		a.Ref = &r.reference
	}
	// What a waiting action concerns is not known yet.
	if state != StateWaiting {
		if r.hasParent {
			a.Parent = &r.parent
		}
		if r.hasChild {
			a.Child = &r.child
		}
		if r.refersTo != (chainhash.Hash{}) {
			a.RefTx = &r.refersTo
		}
	}
	if state == StateUsed || state == StateCut {
		a.By = &r.endedBy
	}
	if r.messageLen > inlineMessage {
		if a.Message, err = v.longMessage(txid, r.messageLen); err != nil {
			return ActionStatus{}, err
		}
	}
	return a, nil
}

func (v *View) longMessage(txid chainhash.Hash, length uint32) ([]byte, error) {
	var message []byte
	for n := uint32(0); uint32(len(message)) < length; n++ {
		chunk, err := read(v.txn, messageKey(txid, n))
		if err != nil {
			return nil, err
		}
		if len(chunk) == 0 {
			return nil, fmt.Errorf("%w: the message of %v is cut short", ErrDamaged, txid)
		}
		message = append(message, chunk...)
	}
	return message, nil
}

// concerns reports whether the action is by or about key, as far as is known.
func (a *ActionStatus) concerns(key protocol.KeyHash) bool {
	for _, k := range []*protocol.KeyHash{a.Author, a.Child, a.Parent} {
		if k != nil && *k == key {
			return true
		}
	}
	return false
}

// maxPageBytes is where ActionsOf ends a page early for the size of its
// messages.
const maxPageBytes = 1 << 20

// ActionsOf lists up to limit actions by and about a key, in order of position,
// after the cursor; a nil cursor starts with the first. next is nil at the end.
// A page of very long messages holds fewer than limit.
func (v *View) ActionsOf(ctx context.Context, key protocol.KeyHash, after *ActionCursor, limit int) (actions []ActionStatus, next *ActionCursor, err error) {
	stem := mentionKey(key, position{})[:21]
	seek := stem
	if after != nil {
		seek = append(mentionKey(key, position{after.Height, after.Index}), 0)
	}
	size := 0
	it := v.iterator(prefixMention)
	for it.Seek(seek); it.ValidForPrefix(stem); it.Next() {
		if readPosition(it.Item().Key()).height > v.height {
			break
		}
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		txid, err := it.Item().ValueCopy(nil)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the database: %w", err)
		}
		if len(txid) != 32 {
			return nil, nil, fmt.Errorf("%w: an action in a key's list has the wrong length", ErrDamaged)
		}
		a, err := v.Action(chainhash.Hash(txid))
		if err != nil {
			return nil, nil, err
		}
		if !a.concerns(key) {
			continue // it waits as of the view: that it is about key came out later
		}
		if len(actions) >= limit || size > maxPageBytes {
			last := actions[len(actions)-1]
			return actions, &ActionCursor{last.Height, last.Index}, nil
		}
		actions = append(actions, a)
		size += len(a.Message)
	}
	return slices.Clip(actions), nil, nil
}
