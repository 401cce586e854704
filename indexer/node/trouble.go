package node

import (
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// WarnEvery is how often the log hears of a Trouble that lasts, unless there is a
// reason for another time.
const WarnEvery = 10 * time.Minute

// changePause is how long the log hears nothing at least, also of a Trouble whose
// error changes, or which is over and comes back.
const changePause = time.Minute

// Trouble is something that goes wrong for a while. The log hears of it when it
// begins, rarely while it lasts, and when it is over. It may be used concurrently.
type Trouble struct {
	log   zerolog.Logger
	every time.Duration
	what  string
	over  string

	mu     sync.Mutex
	since  time.Time // mu; of the first failure; zero: all is well
	told   bool      // mu; the log has heard of it
	warned time.Time // mu; the last warning, perhaps of an earlier trouble
	text   string    // mu; the error in that warning
	untold int       // mu; failures after that warning
}

// NewTrouble returns a Trouble of which log hears once in every while it lasts.
// What is the message of the warnings, over that of its end.
func NewTrouble(log zerolog.Logger, every time.Duration, what, over string) *Trouble {
	return &Trouble{log: log, every: every, what: what, over: over}
}

// Warn says that it failed. The first failure is logged at once. Later ones are
// logged once in every, and once a minute while the text of the error changes or
// the trouble comes and goes: with how many failures were left out before.
func (t *Trouble) Warn(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, text := time.Now(), err.Error()
	if t.since.IsZero() {
		t.since = now
	}
	pause := t.every
	if !t.told || text != t.text {
		pause = min(changePause, t.every)
	}
	if !t.warned.IsZero() && now.Sub(t.warned) < pause {
		t.untold++
		return
	}
	event := t.log.Warn().Err(err)
	if t.untold > 0 {
		event = event.Int("left_out", t.untold).Stringer("lasts", now.Sub(t.since).Round(time.Second))
	}
	event.Msg(t.what)
	t.told, t.warned, t.text, t.untold = true, now, text, 0
}

// Over says that it works. That is logged if the log has heard that it did not.
func (t *Trouble) Over() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.told {
		t.log.Info().Stringer("lasted", time.Since(t.since).Round(time.Second)).Msg(t.over)
	}
	t.since, t.told = time.Time{}, false
}
