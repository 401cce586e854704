package client

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/keytree-bch/keytree/keyserver/uid"
)

const (
	// clockSkew is how much clocks may differ before that is told. A KeyInit's NOTBEFORE
	// may be as far ahead, and the order to flush may be as old (keyserver/WIRE.md §13).
	clockSkew = 300 * time.Second
	// maxClockSkew is how much they may differ for what is valid for months to be
	// accepted (keyserver/WIRE.md §11).
	maxClockSkew = 24 * time.Hour
)

// ErrClock says that the clocks of this machine and of the keyserver differ too much for
// something to be signed: the keyserver would refuse it. Set the clock that is wrong, and
// make the same call again. Nothing was made.
var ErrClock = errors.New("this machine's clock and the keyserver's differ")

// clocks compares this machine's clock with a keyserver's, as its answers have it in
// their Date. It may be used concurrently. Nobody has signed that Date: it serves to name a
// difference, and to do nothing.
type clocks struct {
	mu           sync.Mutex
	ours, theirs time.Time // mu; zero before the first answer with a Date
}

// note takes an answer that has just come.
func (c *clocks) note(answer *http.Response, now time.Time) {
	if theirs, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.ours, c.theirs = now, theirs
	}
}

// check returns ErrClock if the clocks differ by more than some time.
func (c *clocks) check(most time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	ahead := c.ours.Sub(c.theirs)
	if ahead.Abs() <= most {
		return nil
	}
	how := "ahead"
	if ahead < 0 {
		how = "behind"
	}
	return fmt.Errorf("%w: this one is %s, %v %s of the keyserver's %s: set the one that is wrong, and try again",
		ErrClock, uid.Date(uint64(c.ours.Unix())), ahead.Abs().Round(time.Second), how, uid.Date(uint64(c.theirs.Unix())))
}
