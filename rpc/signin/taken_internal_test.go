package signin

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/protocol/signin"
	"github.com/keytree-bch/keytree/rpc/admission"
)

// TestTaken fills what is remembered. Nothing of it is forgotten before it expires, and
// all of it after that.
func TestTaken(t *testing.T) {
	start := time.Date(2026, 11, 27, 12, 0, 30, 0, time.UTC)
	message := func(n uint64, issued time.Time) signin.Message {
		return signin.Message{Nonce: signin.Nonce(binary.BigEndian.AppendUint64(nil, n)), IssuedAt: issued}
	}
	used := func(err error) bool { return err != nil && strings.Contains(err.Error(), "already") }
	full := func(err error, yours bool) (after time.Duration, ok bool) {
		var refusal *admission.Refusal
		if !errors.As(err, &refusal) || refusal.Yours != yours {
			return 0, false
		}
		return refusal.After, true
	}

	for _, test := range []struct {
		name  string
		most  admission.Budget
		yours bool
	}{
		{"of one client", admission.Budget{All: 100, One: 3}, true},
		{"of all", admission.Budget{All: 3, One: 100}, false},
	} {
		taken := newTaken()
		taken.most = test.most
		var c admission.Client
		for n := range uint64(3) {
			if err := taken.take(c, message(n, start.Add(time.Duration(n)*time.Minute)), start.Add(2*time.Minute)); err != nil {
				t.Errorf("%s: %d: %v", test.name, n, err)
			}
		}
		now := start.Add(2 * time.Minute)
		// The first expires at 12:05:30, and is forgotten when that minute ends.
		if after, ok := full(taken.take(c, message(9, now), now), test.yours); !ok || after != 3*time.Minute+30*time.Second {
			t.Errorf("%s: one too many: to come back after %v, %v", test.name, after, ok)
		}
		for n := range uint64(3) {
			issued := start.Add(time.Duration(n) * time.Minute)
			if err := taken.take(c, message(n, issued), issued.Add(signin.Lifetime-1)); !used(err) {
				t.Errorf("%s: %d again, when it is about to expire: %v", test.name, n, err)
			}
		}
		later := start.Add(2*time.Minute + signin.Lifetime)
		for n := range uint64(3) {
			if err := taken.take(c, message(10+n, later), later.Add(time.Minute)); err != nil {
				t.Errorf("%s: %d, when the others have expired: %v", test.name, n, err)
			}
		}
		if len(taken.minutes) != 1 || taken.count != 3 {
			t.Errorf("%s: %d are remembered in %d minutes", test.name, taken.count, len(taken.minutes))
		}
	}
}

// TestTakenAtOnce has many take one nonce at once: one of them gets it.
func TestTakenAtOnce(t *testing.T) {
	taken, now := newTaken(), time.Now()
	m := signin.Message{Nonce: signin.Nonce{1}, IssuedAt: now}
	errs := make(chan error)
	for range 8 {
		go func() { errs <- taken.take(admission.Client{}, m, now) }()
	}
	good := 0
	for range 8 {
		if <-errs == nil {
			good++
		}
	}
	if good != 1 {
		t.Errorf("%d have taken it", good)
	}
}
