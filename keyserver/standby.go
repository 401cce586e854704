package keyserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keytree-bch/keytree/keyserver/store"
)

// A standby shares the store with the server that writes it. It answers what needs no writing,
// each time from what is stored then, and refuses the rest (ErrStandby). It verifies what the
// writer appends as it comes, so that little is left to do when it takes over.
//
// It takes over only with the key that the hashchain names last. The file is read again each
// time, so it is enough to put the right one there.

// followEvery is how often a standby looks what the writer has appended.
const followEvery = time.Second

// current returns why nothing may be shown now, as Ready does. On a standby it also takes over
// what the writer has appended.
func (s *Service) current(ctx context.Context) error {
	if err := s.Ready(); err != nil || !s.standby.Load() {
		return err
	}
	return s.follow(ctx)
}

// follow verifies what the writer has appended since. What contradicts what this standby has seen
// before is the end of it.
func (s *Service) follow(ctx context.Context) error {
	s.following.Lock()
	defer s.following.Unlock()
	known := s.writer.state.Load()
	err := s.viewHeld(ctx, func(view store.Reader) error {
		head, _, err := view.Get([]byte{prefixHead})
		if err != nil {
			return err
		}
		if bytes.Equal(head, headRecord(&known.chain)) {
			return s.readMarks(view)
		}
		next, err := s.load(ctx, view, known)
		if err != nil {
			return err
		}
		next.keys = known.keys
		s.writer.state.Store(next)
		s.acknowledge(&next.chain)
		return nil
	})
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrMismatch) {
		s.writer.fail(err)
	}
	return err
}

// followAlways follows until ctx ends, and says if the key file is not the one to take over with.
func (s *Service) followAlways(ctx context.Context) {
	timer := time.NewTicker(followEvery)
	defer timer.Stop()
	fits := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.writer.failed:
			return
		case <-timer.C:
		}
		if err := s.follow(ctx); err != nil {
			if ctx.Err() == nil {
				s.opt.Log.Warn().Err(err).Msg("following the keyserver that writes")
			}
			continue
		}
		err := s.fitKeys()
		if err != nil && fits {
			s.opt.Log.Error().Err(err).Msg("this standby cannot take over: copy the key file from the server that writes")
		}
		if fits = err == nil; fits && s.standby.Load() {
			select {
			case s.mayTakeOver <- struct{}{}:
			default:
			}
		}
	}
}

// fitKeys looks whether the key file has the keys that the hashchain names.
func (s *Service) fitKeys() error {
	state := s.writer.state.Load()
	keys, _, err := findKeys(s.opt.KeyFile, state.rotations[len(state.rotations)-1].public, state.agree)
	if err == nil && state.keys == nil || err == nil && !keys.public().Equal(state.keys.public()) {
		next := *state
		next.keys = keys
		s.following.Lock()
		if s.writer.state.Load() == state { // else the next one will see
			s.writer.state.Store(&next)
		}
		s.following.Unlock()
	}
	return err
}

// TakeOver makes a standby the server that writes, once there is no other, and its key file is
// the right one. Before it writes it is checked as at a start; with Options.Held it is held then
// until Release. It is called once. If it fails for anything but ctx, the service has failed.
func (s *Service) TakeOver(ctx context.Context) error {
	select {
	case <-s.mayTakeOver:
	case <-s.writer.failed:
		return s.writer.err
	case <-ctx.Done():
		return ctx.Err()
	}
	began := time.Now()
	if err := s.shared.TakeOver(ctx); err != nil {
		if ctx.Err() == nil {
			err = s.writer.fail(err)
		}
		return err
	}
	waited := time.Since(began)
	s.tookOver = true
	s.held.Store(s.opt.Held)
	s.stopWorking()
	s.working.Wait()
	if err := s.start(ctx); err != nil {
		return s.writer.fail(fmt.Errorf("taking over: %w", err))
	}
	s.standby.Store(false)
	s.work()
	s.opt.Log.Warn().Dur("waited_ms", waited).Dur("checked_ms", time.Since(began)-waited).Uint64("size", s.Chain().Size).
		Msg("this keyserver has taken over: it writes now")
	return nil
}

// Standby tells whether another server writes, for whom this one stands by.
func (s *Service) Standby() bool { return s.standby.Load() }

// watchLost has the service fail when another server has taken over from it.
func (s *Service) watchLost(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-s.writer.failed:
	case <-s.shared.Lost():
		s.writer.fail(fmt.Errorf("%w: another server has taken over", ErrLocked))
	}
}
