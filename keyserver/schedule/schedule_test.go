package schedule

import (
	"errors"
	"testing"
	"time"
)

func TestCheck(t *testing.T) {
	for _, test := range []struct {
		name string
		s    Schedule
		ok   bool
	}{
		{"default", Default(), true},
		{"most", Schedule{MaxInterval, MostEntries, MaxHeartbeat}, true},
		{"least", Schedule{1, 1, 1}, true},
		{"empty", Schedule{}, false},
		{"interval of a year", Schedule{365 * 24 * time.Hour, 1, 365 * 24 * time.Hour}, false},
		{"negative interval", Schedule{-1, 1, time.Hour}, false},
		{"no entries", Schedule{time.Hour, 0, time.Hour}, false},
		{"too many entries", Schedule{time.Hour, MostEntries + 1, time.Hour}, false},
		{"heartbeat below the interval", Schedule{2 * time.Hour, 1, time.Hour}, false},
		{"heartbeat too long", Schedule{time.Hour, 1, MaxHeartbeat + 1}, false},
	} {
		if err := test.s.Check(); (err == nil) != test.ok || err != nil && !errors.Is(err, ErrSchedule) {
			t.Errorf("%s: got %v, expected it to be good: %v", test.name, err, test.ok)
		}
	}
}

func TestBounds(t *testing.T) {
	if s := Default(); s.MaxWait() != 7*time.Hour || s.MaxAge() != 31*time.Hour || s.MinRepeat() != 18*time.Hour {
		t.Errorf("got %v, %v and %v, expected 7 h, 31 h and 18 h", s.MaxWait(), s.MaxAge(), s.MinRepeat())
	}
	if s := (Schedule{time.Minute, 1, time.Hour}); s.MinRepeat() != 0 {
		t.Errorf("heartbeat within the slack: got %v, expected 0", s.MinRepeat())
	}
}
