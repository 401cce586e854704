package keyserver

import (
	"context"
	"errors"
	"fmt"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// RotateKey replaces the server's signature key and makes its identity valid for
// another year: an update of keyserver@domain, whose entry the old key still
// signs, later ones the new one. The old key is deleted; replies that it signed
// stay as they are.
//
// Whenever it is interrupted, the next start goes on with the key that the chain
// names.
func (s *Service) RotateKey(ctx context.Context) (*uid.Reply, error) {
	s.rotating.Lock()
	defer s.rotating.Unlock()
	var previous *uid.Message
	err := s.view(ctx, func(view store.Reader) error {
		r, ok, err := readIdentity(view, s.identity())
		if err == nil && !ok {
			err = fmt.Errorf("%w: no record of %s", ErrDamaged, s.identity())
		}
		if err == nil {
			previous, err = readByHash(view, r.uidHash)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	last, _, err := s.LastEntry(ctx)
	if err != nil {
		return nil, err
	}
	old := s.writer.state.Load().keys
	sign, err := generateSign()
	if err != nil {
		return nil, err
	}
	next := &serverKeys{sign, old.agree}

	m := *previous
	m.Content.MsgCount++
	m.Content.NotAfter = s.yearAhead()
	m.Content.LastEntry = last.String()
	m.Content.SigKey = uid.NewKeyEntry(uid.Ed25519, next.public())
	m.Sign(next.sign)
	m.SignUser(old.sign)
	if err := errors.Join(m.Check(), m.VerifyUpdate(previous)); err != nil {
		return nil, err
	}
	a, err := prepare(&m)
	if err != nil {
		return nil, err
	}
	if _, err := settleKeys(s.opt.KeyFile, old.public(), old.agree.PublicKey().Bytes()); err != nil { // after a rotation that failed
		return nil, err
	}
	if err := next.create(nextFile(s.opt.KeyFile)); err != nil {
		return nil, err
	}
	var reply *uid.Reply
	// From here on the files must not be touched until it is known which key counts.
	err = s.change(context.WithoutCancel(ctx), func(t *tx) (err error) {
		position := t.state.chain.Size
		if reply, err = t.enter(a); err != nil {
			return err
		}
		t.state.keys = next
		t.state.rotations = append(t.state.rotations[:len(t.state.rotations):len(t.state.rotations)],
			rotation{position, next.public(), m.Content.NotAfter})
		return nil
	})
	if err != nil {
		return nil, err // the next rotation or start settles the files
	}
	if err := durable.Rename(nextFile(s.opt.KeyFile), s.opt.KeyFile); err != nil {
		return nil, fmt.Errorf("the key was rotated, but its file stays %s until the next start: %w", nextFile(s.opt.KeyFile), err)
	}
	return reply, nil
}
