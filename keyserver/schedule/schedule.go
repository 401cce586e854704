// Package schedule says how often a keyserver anchors its hashchain, and how late an
// anchor may be before an auditor has to say so. Who publishes and who audits take it
// from here, so that an honest keyserver never looks late.
//
// What never belongs here: clocks, the chain, publishing, judging.
package schedule

import (
	"errors"
	"fmt"
	"time"
)

// Defaults, and the most that a keyserver can choose: what anybody may publish about
// himself has to have an end, since auditors go by it.
const (
	DefaultInterval   = time.Hour
	MaxInterval       = 24 * time.Hour
	DefaultHeartbeat  = 24 * time.Hour
	MaxHeartbeat      = 7 * 24 * time.Hour
	DefaultMaxEntries = 1000
	MostEntries       = 1 << 20

	// Slack is how long miners may take with an anchor. The times in blocks, which can
	// be two hours off, are part of it.
	Slack = 6 * time.Hour
)

// ErrSchedule says that a schedule is outside of the bounds.
var ErrSchedule = errors.New("not a schedule of anchors")

// Schedule is how often a keyserver anchors its hashchain.
type Schedule struct {
	// Interval is how long an entry waits at most until an anchor that commits to it is
	// made, up to MaxInterval.
	Interval time.Duration
	// MaxEntries is after how many entries an anchor is made before Interval is over, 1
	// to MostEntries.
	MaxEntries uint64
	// Heartbeat is after how long, by the times of blocks, the last record is made
	// again though no entry has come: Interval to MaxHeartbeat.
	Heartbeat time.Duration
}

// Default returns the schedule of a keyserver that was told nothing.
func Default() Schedule {
	return Schedule{Interval: DefaultInterval, MaxEntries: DefaultMaxEntries, Heartbeat: DefaultHeartbeat}
}

// Check returns ErrSchedule, with what was expected, if a schedule is out of bounds.
func (s Schedule) Check() error {
	switch {
	case s.Interval <= 0 || s.Interval > MaxInterval:
		return fmt.Errorf("%w: interval: expected more than 0 and at most %v, got %v", ErrSchedule, MaxInterval, s.Interval)
	case s.MaxEntries < 1 || s.MaxEntries > MostEntries:
		return fmt.Errorf("%w: entries that wait: expected 1 to %d, got %d", ErrSchedule, MostEntries, s.MaxEntries)
	case s.Heartbeat < s.Interval || s.Heartbeat > MaxHeartbeat:
		return fmt.Errorf("%w: heartbeat: expected the interval, %v, to %v, got %v", ErrSchedule, s.Interval, MaxHeartbeat, s.Heartbeat)
	}
	return nil
}

// MaxWait is how long after an entry is there the block comes, at the latest, whose
// anchor commits to it.
func (s Schedule) MaxWait() time.Duration { return s.Interval + Slack }

// MaxAge is how old the last anchor gets, by the time in its block, even if no entry
// comes: after Heartbeat a block has to come before the record is made again.
func (s Schedule) MaxAge() time.Duration { return s.Heartbeat + s.Interval + Slack }

// MinRepeat is how long after an anchor's block, at the soonest, the block of one with
// the same record can come while the baton stays with one key.
func (s Schedule) MinRepeat() time.Duration { return max(0, s.Heartbeat-Slack) }
