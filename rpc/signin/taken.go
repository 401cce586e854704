package signin

import (
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/keytree-bch/keytree/protocol/signin"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
)

// How many sign-ins are remembered at once, for five to six minutes each: anybody can make keys
// and sign. One takes up to 100 bytes, if each is of another client. Who has many addresses can fill all;
// then sign-ins are refused, and none is forgotten.
const (
	mostTaken    = 1 << 18
	mostTakenOne = 1 << 16 // of one client that has budgets of its own
)

// taken are the nonces with which somebody has signed in. It is safe for concurrent use.
type taken struct {
	most admission.Budget

	mu      sync.Mutex
	minutes map[int64]*minute // mu; by the minute, since 1970, before whose end all of them expire
	count   int               // mu; of all minutes
}

// minute has the nonces that expire in one minute. taken's mu owns it.
type minute struct {
	nonces map[signin.Nonce]struct{}
	of     map[admission.Client]int // how many are whose
}

func newTaken() *taken {
	return &taken{most: admission.Budget{All: mostTaken, One: mostTakenOne}, minutes: make(map[int64]*minute)}
}

// take takes the nonce of a challenge that can still be answered. It refuses one that was
// taken, and a client beyond what may be remembered.
func (t *taken) take(c admission.Client, m signin.Message, now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget(now)
	at := m.Expires().Unix() / 60
	in := t.minutes[at]
	if in == nil {
		in = &minute{make(map[signin.Nonce]struct{}), make(map[admission.Client]int)}
	}
	if _, used := in.nonces[m.Nonce]; used {
		return fault.Reason(codes.FailedPrecondition, "USED", "message", "somebody has signed in with nonce %v already: ask for another challenge", m.Nonce)
	}
	own, first := 0, at
	for at, in := range t.minutes {
		own += in.of[c]
		first = min(first, at)
	}
	room := time.Unix(60*(first+1), 0).Sub(now) // until the oldest are forgotten
	switch {
	case c.Single() && own >= t.most.One:
		return &admission.Refusal{Budget: "sign-ins", Yours: true, After: room}
	case t.count >= t.most.All:
		return &admission.Refusal{Budget: "sign-ins", After: room}
	}
	t.minutes[at] = in
	in.nonces[m.Nonce] = struct{}{}
	in.of[c]++
	t.count++
	return nil
}

// forget forgets what has expired. The caller holds mu.
func (t *taken) forget(now time.Time) {
	for at, in := range t.minutes {
		if at < now.Unix()/60 {
			t.count -= len(in.nonces)
			delete(t.minutes, at)
		}
	}
}
