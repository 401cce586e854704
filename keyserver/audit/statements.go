package audit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/chainfile"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// serverKey is a public key of the keyserver's, and the position of the entry that
// named it.
type serverKey struct {
	position uint64
	public   ed25519.PublicKey
}

// serverKeys are the keyserver's keys, the present one last.
type serverKeys []serverKey

// readKeys follows the keyserver's keys through the replies to its own messages,
// those of keyserver@domain, from position 0 on (keyserver/WIRE.md §8):
// the first signs itself, each later one is signed by the key before it. Whether
// the entries are in a hashchain is to be checked besides.
func readKeys(domain string, replies []*uid.Reply) (serverKeys, error) {
	identity := uid.KeyserverLocalpart + "@" + domain
	var keys serverKeys
	var last *uid.Message
	for i, reply := range replies {
		if reply == nil {
			return nil, fmt.Errorf("%s: its message %d is empty", identity, i)
		}
		position := reply.Entry.HashchainPos
		if i == 0 && position != 0 || i > 0 && position <= keys[i-1].position {
			return nil, fmt.Errorf("%s: position %d is not where its message %d can be", identity, position, i)
		}
		entry, err := hashchain.Parse(reply.Entry.HashchainEntry)
		var m *uid.Message
		if err == nil {
			m, err = reply.OpenFor(identity, &entry)
		}
		if err != nil {
			return nil, fmt.Errorf("%s, position %d: %w", identity, position, err)
		}
		public := ed25519.PublicKey(m.Content.SigKey.Public())
		signer := public
		if last == nil {
			err = m.VerifyCreation()
		} else {
			signer, err = keys[i-1].public, m.VerifyUpdate(last)
		}
		if err == nil {
			err = reply.Verify(signer)
		}
		if err != nil {
			return nil, fmt.Errorf("%s, position %d: %w", identity, position, err)
		}
		keys = append(keys, serverKey{position, public})
		last = m
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no message of %s", identity)
	}
	return keys, nil
}

// inForce returns the key that signs while the hashchain has a number of entries.
func (k serverKeys) inForce(size uint64) serverKey {
	return k[hashchain.InForce(size, len(k), func(i int) uint64 { return k[i].position })]
}

// outOfForce returns what is wrong with a statement that a key has signed about a
// hashchain of some size; "" if the key was in force then, or is not among these. Who
// has stolen a key that was replaced can sign whatever he likes, so such a statement
// convicts nobody.
func (k serverKeys) outOfForce(by serverKey, size uint64) string {
	want := k.inForce(size)
	if want.public.Equal(by.public) || !slices.ContainsFunc(k, func(key serverKey) bool { return key.public.Equal(by.public) }) {
		return ""
	}
	return fmt.Sprintf("key %s, named by the entry at position %d, signed it, but after %d entries key %s was in force, named by the entry at position %d: who has stolen a key that was replaced can sign this, and it convicts nobody",
		canonical.Encode(by.public), by.position, size, canonical.Encode(want.public), want.position)
}

// by returns the key that made a signature, as verify finds out: the one in force at
// a size, or else any other. The error is that of the one in force.
func (k serverKeys) by(size uint64, verify func(ed25519.PublicKey) error) (serverKey, error) {
	key := k.inForce(size)
	err := verify(key.public)
	if err == nil {
		return key, nil
	}
	for _, other := range k {
		if verify(other.public) == nil {
			return other, nil
		}
	}
	return serverKey{}, err
}

// signed is a statement of the keyserver's about its hashchain.
type signed struct {
	*hashchain.SignedHead
	by              serverKey // in force or not
	entryHash, root hashchain.Hash
}

// head verifies that a head of a domain is signed by one of the keys.
func (k serverKeys) head(domain string, h *hashchain.SignedHead) (*signed, error) {
	if h.Head.Domain != domain {
		return nil, fmt.Errorf("the signed head is of %.100q, expected %q", h.Head.Domain, domain)
	}
	if h.Head.Size == 0 || h.Head.Size > chainfile.MaxEntries {
		return nil, fmt.Errorf("the signed head is of %d entries, which cannot be", h.Head.Size)
	}
	s := &signed{SignedHead: h}
	by, err := k.by(h.Head.Size, func(public ed25519.PublicKey) (err error) {
		s.entryHash, s.root, err = h.Verify(public)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.by = by
	return s, nil
}

// reply verifies that a reply is signed by one of the keys, and returns its entry.
func (k serverKeys) reply(r *uid.Reply) (hashchain.Entry, serverKey, error) {
	position := r.Entry.HashchainPos
	by, err := k.by(position, r.Verify)
	if err != nil {
		return hashchain.Entry{}, by, fmt.Errorf("position %d: %w", position, err)
	}
	entry, err := hashchain.Parse(r.Entry.HashchainEntry)
	return entry, by, err
}

// checkStatements compares what the keyserver has signed with the copy. It is
// beyond the five checks (protocol/ANCHORS.md §5): what is missing lets less be proved, and
// is noted.
func (u *run) checkStatements(ctx context.Context) error {
	if u.report.Domain == "" || u.copy.Size() == 0 {
		return nil
	}
	keys, err := u.keys(ctx)
	if err != nil {
		if err := u.unsigned(err); err != nil {
			return err
		}
		if keys, err = readKeys(u.report.Domain, u.state.Keyserver); err != nil {
			u.head = nil
			return nil
		}
	}
	var head *signed
	if u.head != nil {
		if head, err = keys.head(u.report.Domain, u.head); err != nil {
			u.head = nil
			if err := u.unsigned(problemf(NoStatement, "%w", err)); err != nil {
				return err
			}
		}
	}
	if head != nil {
		if wrong := keys.outOfForce(head.by, head.Head.Size); wrong != "" {
			u.report.outOfForce(fmt.Sprintf("the signed head of %d entries", head.Head.Size), wrong)
			head, u.head = nil, nil
		}
	}
	if u.forked {
		return nil // there is another history to compare with
	}
	if head != nil {
		if err := u.unsigned(u.checkHead(ctx, head)); err != nil {
			return err
		}
	}
	return u.unsigned(u.takeReply(ctx, keys))
}

// unsigned notes a problem that only means that less is signed.
func (u *run) unsigned(err error) error {
	p := new(problem)
	if errors.As(err, &p) && (p.kind == NoStatement || p.kind == Unavailable) {
		u.report.Notes = append(u.report.Notes, fmt.Sprintf("what the keyserver signs could not be compared: %v", err))
		return nil
	}
	return u.report.note(err)
}

// maxKeys is how often a keyserver's key may be replaced: far more often than once a
// day for a year.
const maxKeys = 1000

// keys learns the keyserver's keys from its own messages, whose entries must be in
// the copy.
func (u *run) keys(ctx context.Context) (serverKeys, error) {
	identity := uid.KeyserverLocalpart + "@" + u.report.Domain
	positions := []uint64{0}
	if u.copy.Size() > 1 {
		said, err := u.from.Keyserver.Positions(ctx, identity)
		if err != nil {
			return nil, unavailable(ctx, "the positions of "+identity, err)
		}
		positions = append(positions, said...)
	}
	replies := u.state.Keyserver
	for _, position := range positions {
		if n := len(replies); n > 0 && position <= replies[n-1].Entry.HashchainPos || position >= u.copy.Size() {
			continue
		}
		if len(replies) == maxKeys {
			return nil, problemf(NoStatement, "the keyserver has replaced its key more than %d times", maxKeys)
		}
		reply, err := u.fetchReply(ctx, u.copy, position)
		if err != nil {
			return nil, err
		}
		replies = append(replies[:len(replies):len(replies)], reply)
	}
	keys, err := readKeys(u.report.Domain, replies)
	if err != nil {
		return nil, problemf(NoStatement, "the keyserver's keys: %w", err)
	}
	if known := len(u.state.Keyserver); len(replies) > known {
		last, err := hashchain.Parse(replies[len(replies)-1].Entry.HashchainEntry)
		if err != nil {
			return nil, err
		}
		u.covers(keys[len(keys)-1].position, &last)
	}
	u.state.Keyserver = replies
	return keys, nil
}

// covers keeps the copy up to the entry at a position, about which the keyserver has
// signed something: an entry's hash covers the one before it. Before an anchor has said
// which hashchain is the keyserver's, anybody could have signed it.
func (u *run) covers(position uint64, entry *hashchain.Entry) {
	if u.state.Fingerprint != nil {
		u.copy.keep(position+1, entry.Hash())
	}
}

// fetchReply fetches the reply about the entry at a position of a history.
func (u *run) fetchReply(ctx context.Context, history *entryFile, position uint64) (*uid.Reply, error) {
	entry, err := history.At(position)
	if err != nil {
		return nil, err
	}
	return u.fetchReplyOf(ctx, &entry, position)
}

func (u *run) fetchReplyOf(ctx context.Context, entry *hashchain.Entry, position uint64) (*uid.Reply, error) {
	reply, err := u.from.Keyserver.Reply(ctx, entry.UIDIndex())
	if err != nil {
		return nil, unavailable(ctx, fmt.Sprintf("the message of position %d", position), err)
	}
	if reply.Entry.HashchainPos != position || reply.Entry.HashchainEntry != entry.String() {
		return nil, problemf(NoStatement, "the reply about position %d is about another entry, at position %d", position, reply.Entry.HashchainPos)
	}
	return reply, nil
}

// checkHead compares the signed head with the copy, and keeps it if they agree.
func (u *run) checkHead(ctx context.Context, head *signed) error {
	size := head.Head.Size
	if size > u.copy.Size() {
		return problemf(Behind, "the keyserver signs a history of %d entries, and shows %d", size, u.copy.Size())
	}
	if chain := head.Head.AnchorChain; chain != "" && chain != u.genesis.String() {
		problem := problemf(Unrelated, "the keyserver signs that it anchors in the chain %.100q, not in the pinned one, which binds it no more", chain)
		if err := u.report.note(problem); err != nil {
			return err
		}
	}
	root, err := u.rootAt(size)
	if err != nil {
		return err
	}
	last, err := u.copy.At(size - 1)
	if err != nil {
		return err
	}
	if root == head.root && last.Hash() == head.entryHash {
		if known := u.state.LastHead; known == nil || known.Head.Size <= size {
			u.state.LastHead = head.SignedHead
		}
		u.covers(size-1, &last)
		u.report.Notes = append(u.report.Notes, fmt.Sprintf("the keyserver signed at %s a history of %d entries, which is the one shown", unixTime(head.Head.Time), size))
		return nil
	}
	return u.convict(ctx, TwoHistories,
		fmt.Sprintf("the keyserver signed a history of %d entries with root %s that ends with %s; the one it shows has root %s and ends with %s", size, head.root, head.entryHash, root, last.Hash()),
		func() (*Evidence, error) { return u.byHeads(u.copy, nil) },
		func() (*Evidence, error) {
			if last.Hash() == head.entryHash {
				return nil, nil
			}
			reply, err := u.fetchReply(ctx, u.copy, size-1)
			return &Evidence{Proof: ByReplyAndHead, Heads: []*hashchain.SignedHead{head.SignedHead}, Replies: []*uid.Reply{reply}}, err
		},
	)
}

// rootAt returns the root over the first size entries of the copy, from where it
// was compared with the last anchor if that is before.
func (u *run) rootAt(size uint64) (hashchain.Hash, error) {
	if size < u.chain.Size {
		return u.copy.Root(size)
	}
	chain := u.chain
	err := u.copy.Advance(&chain, size)
	return chain.Root(), err
}

// takeReply keeps the reply about the copy's last entry: a signature that covers
// all of it.
func (u *run) takeReply(ctx context.Context, keys serverKeys) error {
	position := u.copy.Size() - 1
	if r := u.state.LastReply; r != nil && r.Entry.HashchainPos == position {
		return nil
	}
	reply, err := u.fetchReply(ctx, u.copy, position)
	if err != nil {
		return err
	}
	entry, by, err := keys.reply(reply)
	if err != nil {
		return problemf(NoStatement, "%w", err)
	}
	if wrong := keys.outOfForce(by, position); wrong != "" {
		u.report.outOfForce(fmt.Sprintf("the reply about position %d", position), wrong)
		return nil
	}
	u.state.LastReply = reply
	u.covers(position, &entry)
	return nil
}
