package keyserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"time"

	"github.com/keytree-bch/keytree/keyserver/store"
)

// sweepEvery is how often KeyInits that nobody fetched any more are removed.
const sweepEvery = time.Hour

// sweep removes what has expired, from time to time, until ctx ends.
func (s *Service) sweep(ctx context.Context) {
	timer := time.NewTicker(sweepEvery)
	defer timer.Stop()
	for {
		// Also while the service is held: nothing of this is history, and nobody gets what
		// has expired.
		if err := s.forgetExpired(ctx); err != nil && ctx.Err() == nil {
			s.opt.Log.Error().Err(err).Msg("removing expired KeyInits")
		}
		s.warnExpiry()
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
	}
}

// What is removed in one transaction of what has expired: so many records, of so many keys.
const (
	forgetAtOnce = 1000
	forgetKeys   = 100
)

// forgetExpired removes KeyInits, and what is remembered of used ones, after their
// NOTAFTER. It looks for them while the writer does other things.
func (s *Service) forgetExpired(ctx context.Context) error {
	for from := []byte{prefixExpiry}; from != nil; {
		var expired map[sigKeyHash]map[[sha256.Size]byte]bool
		err := s.viewHeld(ctx, func(view store.Reader) (err error) {
			expired, from, err = expiredKeyInits(view, from, s.now())
			return err
		})
		if err == nil {
			err = s.whileOpen(func() error { return s.writer.fetchShelves(ctx, maps.Keys(expired)) })
		}
		if err == nil && len(expired) > 0 {
			err = s.writer.do(ctx, func(t *tx) error { return t.forgetExpired(expired) })
		}
		if err != nil {
			return err
		}
	}
	for from := []byte{prefixUsed}; from != nil; {
		var expired [][]byte
		err := s.viewHeld(ctx, func(view store.Reader) (err error) {
			expired, from, err = expiredKeys(view, from, s.now(), func([]byte) bool { return true })
			return err
		})
		if err == nil && len(expired) > 0 {
			err = s.writer.do(ctx, func(t *tx) error {
				for _, k := range expired {
					t.delete(k)
				}
				return nil
			})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// expiredKeys returns keys of one prefix that begin with a time that is over, from a key on
// and as long as take takes them, and the key to go on with; nil if there are no more.
func expiredKeys(view store.Reader, from []byte, now uint64, take func(k []byte) bool) (expired [][]byte, next []byte, err error) {
	for k, err := range view.Keys(from[:1], from) {
		if err != nil {
			return nil, nil, err
		}
		if binary.BigEndian.Uint64(k[1:]) > now {
			break
		}
		k = bytes.Clone(k)
		if len(expired) == forgetAtOnce || !take(k) {
			return expired, k, nil
		}
		expired = append(expired, k)
	}
	return expired, nil, nil
}

// expiredKeyInits returns the digests of KeyInits that have expired, by their keys.
func expiredKeyInits(view store.Reader, from []byte, now uint64) (of map[sigKeyHash]map[[sha256.Size]byte]bool, next []byte, err error) {
	of = make(map[sigKeyHash]map[[sha256.Size]byte]bool)
	_, next, err = expiredKeys(view, from, now, func(k []byte) bool {
		hash, h := readExpiryKey(k)
		if of[hash] == nil {
			if len(of) == forgetKeys {
				return false
			}
			of[hash] = make(map[[sha256.Size]byte]bool)
		}
		of[hash][h.digest] = true
		return true
	})
	return of, next, err
}

// forgetExpired removes some KeyInits, those that are still there.
func (t *tx) forgetExpired(expired map[sigKeyHash]map[[sha256.Size]byte]bool) error {
	for hash, digests := range expired {
		before, err := t.keyInits(hash)
		if err != nil {
			return err
		}
		after := make([]heldKeyInit, 0, len(before))
		for i := range before {
			if h := &before[i]; digests[h.digest] {
				t.forget(hash, h, false)
			} else {
				after = append(after, *h)
			}
		}
		t.keep(hash, after)
	}
	return nil
}
