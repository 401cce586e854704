package audit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// serverKeys are the keyserver's public keys, each with the position of the entry
// that named it.
type serverKeys []struct {
	position uint64
	public   ed25519.PublicKey
}

// readKeys follows the keyserver's keys through the replies to its own messages,
// those of keyserver@domain, from position 0 on (keyserver-wire, "Signatures"):
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
		m, err := openMessage(identity, reply)
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
		keys = append(keys, struct {
			position uint64
			public   ed25519.PublicKey
		}{position, public})
		last = m
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("no message of %s", identity)
	}
	return keys, nil
}

// openMessage opens the message of an identity in a reply with the entry that is
// there too.
func openMessage(identity string, reply *uid.Reply) (*uid.Message, error) {
	entry, err := hashchain.Parse(reply.Entry.HashchainEntry)
	if err != nil {
		return nil, err
	}
	uidHash, ok := entry.Open(identity)
	if !ok {
		return nil, errors.New("the entry is of somebody else")
	}
	m, err := reply.Open(uidHash)
	if err == nil {
		err = m.Check()
	}
	if err == nil && m.Content.Identity != identity {
		err = fmt.Errorf("the message is of %s", m.Content.Identity)
	}
	return m, err
}

// signer returns the key that must have signed a reply about a position: the one
// in use before that entry, of which the first signed itself.
func (k serverKeys) signer(position uint64) ed25519.PublicKey {
	public := k[0].public
	for _, key := range k[1:] {
		if key.position < position {
			public = key.public
		}
	}
	return public
}

// signed is a statement of the keyserver's about its hashchain.
type signed struct {
	*hashchain.SignedHead
	entryHash, root hashchain.Hash
}

// head verifies a signed head of a domain. Any key that was ever the keyserver's
// will do: a head may be older than the last of them.
func (k serverKeys) head(domain string, h *hashchain.SignedHead) (*signed, error) {
	if h.Head.Domain != domain {
		return nil, fmt.Errorf("the signed head is of %.100q, expected %q", h.Head.Domain, domain)
	}
	if h.Head.Size == 0 || h.Head.Size > maxEntries {
		return nil, fmt.Errorf("the signed head is of %d entries, which cannot be", h.Head.Size)
	}
	var err error
	for i := len(k) - 1; i >= 0; i-- {
		s := &signed{SignedHead: h}
		if s.entryHash, s.root, err = h.Verify(k[i].public); err == nil {
			return s, nil
		}
	}
	return nil, err
}

// reply verifies a reply, and returns its entry.
func (k serverKeys) reply(r *uid.Reply) (hashchain.Entry, error) {
	position := r.Entry.HashchainPos
	if err := r.Verify(k.signer(position)); err != nil {
		return hashchain.Entry{}, fmt.Errorf("position %d: %w", position, err)
	}
	return hashchain.Parse(r.Entry.HashchainEntry)
}

// checkStatements compares what the keyserver has signed with the copy. It is
// beyond the spec's checks: what is missing lets less be proved, and is noted.
func (u *run) checkStatements(ctx context.Context) error {
	if u.report.Domain == "" || u.copy.size == 0 {
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
	if u.copy.size > 1 {
		said, err := u.from.Keyserver.Positions(ctx, identity)
		if err != nil {
			return nil, unavailable(ctx, "the positions of "+identity, err)
		}
		positions = append(positions, said...)
	}
	replies := u.state.Keyserver
	for _, position := range positions {
		if n := len(replies); n > 0 && position <= replies[n-1].Entry.HashchainPos || position >= u.copy.size {
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
	u.state.Keyserver = replies
	return keys, nil
}

// fetchReply fetches the reply about the entry at a position of a history.
func (u *run) fetchReply(ctx context.Context, history *entryFile, position uint64) (*uid.Reply, error) {
	entry, err := history.at(position)
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
	if size > u.copy.size {
		return problemf(Behind, "the keyserver signs a history of %d entries, and shows %d", size, u.copy.size)
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
	last, err := u.copy.at(size - 1)
	if err != nil {
		return err
	}
	if root == head.root && last.Hash() == head.entryHash {
		if known := u.state.LastHead; known == nil || known.Head.Size <= size {
			u.state.LastHead = head.SignedHead
		}
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
		return u.copy.root(size)
	}
	chain := u.chain
	err := u.copy.advance(&chain, size)
	return chain.Root(), err
}

// takeReply keeps the reply about the copy's last entry: a signature that covers
// all of it.
func (u *run) takeReply(ctx context.Context, keys serverKeys) error {
	position := u.copy.size - 1
	if r := u.state.LastReply; r != nil && r.Entry.HashchainPos == position {
		return nil
	}
	reply, err := u.fetchReply(ctx, u.copy, position)
	if err != nil {
		return err
	}
	if _, err := keys.reply(reply); err != nil {
		return problemf(NoStatement, "%w", err)
	}
	u.state.LastReply = reply
	return nil
}
