package keyserver

import (
	"bytes"
	"context"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// Check compares everything stored with everything else, beyond what Open does:
// every node of the Merkle tree, every reply with its entry and the server's
// signature, every index of identities, every KeyInit. ErrDamaged names the first
// thing that is wrong, and the service has failed then. Until then it may go on.
//
// Identities with keys that are refused nowadays (uid.Message.CheckKeys) are logged, and
// are no damage: an earlier version has entered them.
func (s *Service) Check(ctx context.Context) error {
	state := s.writer.state.Load()
	return s.viewHeld(ctx, func(view store.Reader) error {
		var c hashchain.Chain
		tree := nodes{view}
		for position := range state.chain.Size {
			if err := ctx.Err(); err != nil {
				return err
			}
			r, err := readEntry(view, position)
			if err != nil {
				return err
			}
			var wrong error
			err = c.Append([]hashchain.Entry{r.entry}, func(id hashchain.NodeID, h hashchain.Hash) {
				if stored, err := tree.Node(id); err != nil || stored != h {
					wrong = fmt.Errorf("%w: Merkle tree: node %d of level %d: %v", ErrDamaged, id.Index, id.Level, err)
				}
			})
			if err != nil {
				return fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			if wrong == nil {
				wrong = checkReply(view, state, position, &r.entry)
			}
			if wrong != nil {
				return wrong
			}
		}
		if c.Head != state.chain.Head {
			return fmt.Errorf("%w: the last entry is not the head", ErrDamaged)
		}
		if err := checkIdentities(ctx, view, state.chain.Size, s.warnUnfit); err != nil {
			return err
		}
		return checkKeyInits(view, s.format)
	})
}

// checkReply checks what belongs to one entry.
func checkReply(view store.Getter, state *state, position uint64, e *hashchain.Entry) error {
	at, ok, err := view.Get(byHashKey(e.Hash()))
	if err != nil || !ok || !bytes.Equal(at, number(position)) {
		return fmt.Errorf("%w: the entry at position %d is not found by its hash: %v", ErrDamaged, position, err)
	}
	b, ok, err := view.Get(replyKey(e.UIDIndex()))
	if err != nil || !ok {
		return fmt.Errorf("%w: no reply for position %d: %v", ErrDamaged, position, err)
	}
	reply, err := uid.ParseReply(b)
	if err == nil {
		err = reply.Verify(state.signer(position))
	}
	if err != nil || reply.Entry.HashchainPos != position || reply.Entry.HashchainEntry != e.String() {
		return fmt.Errorf("%w: the reply for position %d is not: %v", ErrDamaged, position, err)
	}
	return nil
}

// warnUnfit says that nobody can rely on an identity's signatures.
func (s *Service) warnUnfit(identity string, position uint64, err error) {
	s.opt.Log.Warn().Err(err).Str("identity", identity).Uint64("position", position).
		Msg("an earlier keytree has entered a key that is refused now: clients do not trust the identity, and its owner has to register another")
}

// checkIdentities follows each identity through its messages. Those with keys that
// would be refused now go to unfit: what is signed under them is not checked.
func checkIdentities(ctx context.Context, view store.Reader, size uint64, unfit func(identity string, position uint64, err error)) (err error) {
	var identities []string
	for k, err := range view.Keys([]byte{prefixIdentity}, nil) {
		if err != nil {
			return err
		}
		identities = append(identities, string(k[1:]))
	}
	entries := uint64(0)
	for _, identity := range identities {
		if err := ctx.Err(); err != nil {
			return err
		}
		var last *uid.Message
		all, err := positions(view, identity)
		if err != nil {
			return err
		}
		for _, position := range all {
			m, err := readMessage(view, identity, position)
			if err != nil {
				return err
			}
			if m.Content.MsgCount == 0 {
				err = m.VerifyCreation()
			} else if last == nil {
				err = fmt.Errorf("MSGCOUNT %d at first", m.Content.MsgCount)
			} else {
				err = m.VerifyUpdate(last)
			}
			unreliable := m.CheckKeys()
			if unreliable != nil {
				unfit(identity, position, unreliable)
			}
			if err != nil && unreliable == nil && (last == nil || last.CheckKeys() == nil) {
				return fmt.Errorf("%w: %s at position %d: %w", ErrDamaged, identity, position, err)
			}
			last = m
		}
		entries += uint64(len(all))
		r, _, err := readIdentity(view, identity)
		if err != nil {
			return err
		}
		var owned bool
		if last != nil {
			if _, owned, err = view.Get(sigKeyKey(uid.SigKeyHash(last.Content.SigKey.Public()), identity)); err != nil {
				return err
			}
		}
		if !owned || r.position != all[len(all)-1] || r.uidHash != last.Hash() || r.notAfter != last.Content.NotAfter {
			return fmt.Errorf("%w: the record of %s is not of its last message", ErrDamaged, identity)
		}
	}
	if entries != size {
		return fmt.Errorf("%w: %d entries, but identities have %d", ErrDamaged, size, entries)
	}
	return nil
}
