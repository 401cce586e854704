package audit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/wire"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/keyserver/schedule"
)

// anchorAt anchors, or repeats the last record, in a block of a time.
func (w *world) anchorAt(at time.Time) {
	w.now = at.Add(-blockEvery)
	w.anchor()
}

// TestProgress has each rule of freshness at its limit and just beyond it.
func TestProgress(t *testing.T) {
	const second = time.Second
	s := schedule.Schedule{Interval: 30 * time.Minute, MaxEntries: 5, Heartbeat: 12 * time.Hour}
	repeat := func(after ...time.Duration) func(w *world, dir string) {
		return func(w *world, _ string) {
			for _, d := range after {
				w.anchorAt(w.now.Add(d))
			}
		}
	}
	// seen has an auditor see entries, and the keyserver repeat its old record in a block
	// that comes later.
	seen := func(after time.Duration) func(w *world, dir string) {
		return func(w *world, dir string) {
			began, shown := w.now, w.server
			old := shown.twin(5)
			shown.grow(3)
			w.audit(dir).want(w.t, Sound, "")
			w.server = old
			w.anchorAt(began.Add(after)) // late enough for a heartbeat
			w.server = shown
		}
	}
	// many has an auditor see entries, and look again later.
	many := func(n int, after time.Duration) func(w *world, dir string) {
		return func(w *world, dir string) {
			w.server.grow(n)
			w.audit(dir).want(w.t, Sound, "")
			w.now = w.now.Add(after)
		}
	}
	old := func(d time.Duration) func(w *world, dir string) {
		return func(w *world, _ string) { w.now = w.now.Add(d) }
	}
	for name, test := range map[string]struct {
		act     func(w *world, dir string)
		verdict Verdict
		kind    Kind
	}{
		"anchor as old as it may be": {old(s.MaxAge()), Sound, ""},
		"anchor older":               {old(s.MaxAge() + second), NotSound, Stale},

		"repeated as soon as it may be":     {repeat(s.MinRepeat()), Sound, ""},
		"repeated sooner":                   {repeat(s.MinRepeat() - second), NotSound, TooSoon},
		"one of many repeated sooner":       {repeat(s.MinRepeat(), s.MinRepeat()-second, s.MinRepeat()), NotSound, TooSoon},
		"repeated sooner, long ago":         {repeat(s.MinRepeat()-second, s.MaxAge()), Sound, ""},
		"repeated sooner, not yet long ago": {repeat(s.MinRepeat()-second, s.MaxAge()-second), NotSound, TooSoon},
		"repeated sooner, then progress": {func(w *world, _ string) {
			repeat(second)(w, "")
			w.server.grow(1)
			w.anchor()
		}, Sound, ""},
		"repeated sooner for another key": {func(w *world, _ string) {
			w.holder++
			repeat(second)(w, "")
		}, Sound, ""},
		"repeated sooner for another key, and again": {func(w *world, _ string) {
			w.holder++
			repeat(second, second)(w, "")
		}, NotSound, TooSoon},

		"entries left out no longer than they may be": {seen(s.MaxWait()), Sound, ""},
		"entries left out longer":                     {seen(s.MaxWait() + second), NotSound, NotInTime},

		"as many entries as there may be":         {many(5, schedule.Slack+second), Sound, ""},
		"more entries, not for long":              {many(6, schedule.Slack), Sound, ""},
		"more entries, for too long":              {many(6, schedule.Slack+second), NotSound, TooMany},
		"more entries, to who sees them only now": {func(w *world, _ string) { w.server.grow(600) }, Sound, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			*w.server.schedule = s
			dir := t.TempDir()
			w.audit(dir).want(t, Sound, "")
			test.act(w, dir)
			r := w.audit(dir)
			r.want(t, test.verdict, test.kind)
			if (r.SoundUpTo != nil) != (r.Verdict == Sound) || r.NotCoveredEntries != r.Entries-r.Covered {
				t.Errorf("sound up to %v, %d entries not covered", r.SoundUpTo, r.NotCoveredEntries)
			}
			if test.kind == NotInTime || test.kind == TooMany { // what only who has watched can know
				w.audit(t.TempDir()).want(t, Sound, "")
				return
			}
			w.audit(t.TempDir()).want(t, test.verdict, test.kind)
		})
	}
}

// TestContradictedIsNotLate has an anchor contradict what was seen long before it: that
// it does not cover it is no finding of its own.
func TestContradictedIsNotLate(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.server.grow(3)
	w.audit(dir).want(t, Sound, "")
	shown := w.server
	rewrite(w, 6)
	w.anchorAt(w.now.Add(schedule.Default().MaxWait() + time.Hour))
	w.server = shown
	if r := w.audit(dir); len(r.Findings) != 1 || r.Findings[0].Kind != RewrittenEntry {
		t.Errorf("findings %+v", r.Findings)
	}
}

// TestOwnLimits has limits of the auditor's own, which have no slack and cannot be wider
// than the schedule's.
func TestOwnLimits(t *testing.T) {
	w := newWorld(t)
	w.server.grow(10)
	for name, test := range map[string]struct {
		age     time.Duration
		entries uint64
		later   time.Duration
		kind    Kind
	}{
		"none":                     {0, 0, time.Hour, ""},
		"at the limit":             {time.Hour, 10, time.Hour, ""},
		"too old":                  {time.Hour, 10, time.Hour + 1, Stale},
		"too many":                 {time.Hour, 9, time.Hour, TooMany},
		"wide":                     {1000 * time.Hour, 1000, schedule.Default().MaxAge(), ""},
		"wide, by the keyserver's": {1000 * time.Hour, 1000, schedule.Default().MaxAge() + 1, Stale},
	} {
		c := w.config(t.TempDir())
		c.MaxAge, c.MaxEntries = test.age, test.entries
		c.Now = func() time.Time { return w.now.Add(test.later) }
		r := auditAs(t, c, w.sources())
		verdict := NotSound
		if test.kind == "" {
			verdict = Sound
		}
		r.want(t, verdict, test.kind)
		if r.Age() != test.later || r.NotCoveredEntries != 10 {
			t.Errorf("%s: age %v, %d entries after it", name, r.Age(), r.NotCoveredEntries)
		}
	}
}

// auditAs does one audit of an auditor that is told something of the test's own.
func auditAs(t testing.TB, c Config, from Sources) *Report {
	t.Helper()
	a, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	r, err := a.Audit(t.Context(), from)
	if err := errors.Join(err, a.Close()); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSummary(t *testing.T) {
	w := newWorld(t)
	for n, want := range []string{
		"sound up to position 4; every entry shown is covered",
		"sound up to position 4; 1 entry after it is not covered and could still be replaced",
		"sound up to position 4; 2 entries after it are not covered and could still be replaced",
	} {
		if got := w.audit(t.TempDir()).Summary(); got != want {
			t.Errorf("%d entries after the anchor: %q, expected %q", n, got, want)
		}
		w.server.grow(1)
	}
	w.now = w.now.Add(1000 * time.Hour)
	if got := w.audit(t.TempDir()).Summary(); got != "not sound" {
		t.Errorf("an old anchor: %q", got)
	}
}

// TestSchedule has keyservers publish schedules, or not.
func TestSchedule(t *testing.T) {
	w := newWorld(t)
	short := schedule.Schedule{Interval: time.Minute, MaxEntries: 3, Heartbeat: time.Hour}
	for name, test := range map[string]struct {
		published *schedule.Schedule
		used      schedule.Schedule
		note      string
	}{
		"published":     {&short, short, ""},
		"not published": {nil, schedule.Default(), "it publishes none"},
		"out of bounds": {&schedule.Schedule{Interval: 1e6 * time.Hour, MaxEntries: 1, Heartbeat: 1e6 * time.Hour}, schedule.Default(), "out of bounds: not a schedule of anchors: interval"},
	} {
		w.server.schedule = test.published
		r := w.audit(t.TempDir())
		r.want(t, Sound, "")
		want := Judged{uint64(test.used.Interval / time.Second), uint64(test.used.Heartbeat / time.Second), test.used.MaxEntries, test.note == ""}
		if r.Schedule == nil || *r.Schedule != want {
			t.Errorf("%s: judged by %+v, expected %+v", name, r.Schedule, want)
		}
		if noted := slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, "default schedule") && strings.Contains(n, test.note) }); noted != (test.note != "") {
			t.Errorf("%s: notes %q", name, r.Notes)
		}
	}
}

// TestBothForksRepeat has two forks of one keyserver re-anchor one old record three
// times: neither may be sound to its own clients, once they can know.
func TestBothForksRepeat(t *testing.T) {
	for name, test := range map[string]struct {
		every   time.Duration
		first   Verdict // of who begins when it has happened
		watched Verdict // of who has watched
	}{
		"in haste":      {time.Hour, NotSound, NotSound},
		"as heartbeats": {schedule.Default().MinRepeat(), Sound, NotSound},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.now = w.now.Add(time.Hour)
			anchored := w.server
			forks := []*server{anchored.twin(5), anchored.twin(5)}
			dirs := []string{t.TempDir(), t.TempDir()}
			for i, fork := range forks {
				fork.grow(2)
				w.server = fork
				w.audit(dirs[i]).want(t, Sound, "")
			}
			w.server = anchored
			for range 3 {
				w.anchorAt(w.now.Add(test.every))
			}
			for i, fork := range forks {
				w.server = fork
				w.audit(dirs[i]).want(t, test.watched, "")
				r := w.audit(t.TempDir())
				r.want(t, test.first, "")
				if r.NotCoveredEntries != 2 || test.first == Sound && !slices.ContainsFunc(r.NotCovered, func(s string) bool { return strings.Contains(s, "how long the first of them waits") }) {
					t.Errorf("not covered: %d, %q", r.NotCoveredEntries, r.NotCovered)
				}
			}
		})
	}
}

// TestSpentBaton asks a node whether the last baton is spent.
func TestSpentBaton(t *testing.T) {
	cause := errors.New("the node sleeps")
	for name, test := range map[string]struct {
		spending Spending
		err      error
		verdict  Verdict
		kind     Kind
		says     string // in a note or in what is not covered
	}{
		"unspent":              {Unspent, nil, Sound, "", ""},
		"spent in a block":     {SpentInBlock, nil, NotSound, NextHidden, ""},
		"spent in no block":    {SpentInMempool, nil, Sound, "", "the next anchor is on its way"},
		"node does not answer": {NotAsked, cause, Sound, "", "the node did not say: the node sleeps"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			from := w.sources()
			var asked []wire.OutPoint
			from.Spending = func(_ context.Context, out wire.OutPoint) (Spending, error) {
				asked = append(asked, out)
				return test.spending, test.err
			}
			r := w.auditOf(t.TempDir(), from)
			r.want(t, test.verdict, test.kind)
			if !slices.Equal(asked, []wire.OutPoint{w.baton}) {
				t.Errorf("asked for %v, expected the baton %v", asked, w.baton)
			}
			said := append(slices.Clone(r.Notes), r.NotCovered...)
			if test.says != "" && !slices.ContainsFunc(said, func(s string) bool { return strings.Contains(s, test.says) }) {
				t.Errorf("it says %q", said)
			}
			open := slices.ContainsFunc(r.NotCovered, func(s string) bool { return strings.Contains(s, "whether the baton") })
			if open != (test.err != nil) {
				t.Errorf("not covered: %q", r.NotCovered)
			}
		})
	}
}

// TestNextAnchorComes has the next anchors come between the first bundle and the
// question to the node.
func TestNextAnchorComes(t *testing.T) {
	w := newWorld(t)
	first := w.bundle(0)
	w.server.grow(1)
	w.anchor()
	w.server.grow(1)
	w.anchor()
	from := w.sources()
	opened := 0
	from.Bundle = func(_ context.Context, n uint32) (io.ReadCloser, error) {
		if opened++; opened == 1 {
			return io.NopCloser(bytes.NewReader(first)), nil
		}
		return io.NopCloser(bytes.NewReader(w.bundle(n))), nil
	}
	from.Spending = func(_ context.Context, out wire.OutPoint) (Spending, error) {
		if out == w.baton {
			return Unspent, nil
		}
		return SpentInBlock, nil
	}
	r := w.auditOf(t.TempDir(), from)
	r.want(t, Sound, "")
	if r.Anchors != 3 || opened != 2 {
		t.Errorf("%d anchors, the bundle was opened %d times", r.Anchors, opened)
	}
}

// TestClockBehind has the auditor's clock behind the chain: nothing counts as seen
// earlier, or as younger, than blocks allow.
func TestClockBehind(t *testing.T) {
	for late, verdict := range map[time.Duration]Verdict{0: Sound, time.Second: NotSound} {
		w := newWorld(t)
		c, shown := w.config(t.TempDir()), w.server
		w.server = shown.twin(5)
		shown.grow(1)
		w.now = w.now.Add(20 * time.Hour)
		seen := w.now
		from := w.sources()
		from.Keyserver = shown
		from.Newest = func(context.Context) (time.Time, error) { return seen, nil }
		c.Now = func() time.Time { return seen.Add(-100 * time.Hour) }
		r := auditAs(t, c, from)
		r.want(t, Sound, "")
		if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, "the clock of this machine is behind") }) {
			t.Errorf("notes %q", r.Notes)
		}
		w.anchorAt(seen.Add(schedule.Default().MaxWait() + late))
		w.server = shown
		w.audit(c.Dir).want(t, verdict, "")
	}
	for newest, verdict := range map[time.Duration]Verdict{33 * time.Hour: Sound, 33*time.Hour + time.Second: NotSound} {
		w := newWorld(t)
		c, from := w.config(t.TempDir()), w.sources()
		c.Now = func() time.Time { return w.now.Add(-100 * time.Hour) }
		from.Newest = func(context.Context) (time.Time, error) { return w.now.Add(newest), nil }
		auditAs(t, c, from).want(t, verdict, "")
	}
}

// TestClockAhead has the auditor's clock jump ahead and back: what it has seen meanwhile
// is no fault of anybody's, and is not forgotten.
func TestClockAhead(t *testing.T) {
	w := newWorld(t)
	c, shown := w.config(t.TempDir()), w.server
	w.server = shown.twin(5)
	shown.grow(1)
	w.now = w.now.Add(20 * time.Hour)
	from := w.sources()
	from.Keyserver = shown
	c.Now = func() time.Time { return w.now.Add(1000 * time.Hour) }
	auditAs(t, c, from).want(t, NotSound, Stale) // as far as it can know
	c.Now = func() time.Time { return w.now }
	auditAs(t, c, from).want(t, Sound, "")
	w.anchorAt(w.now.Add(schedule.Default().MaxWait() + time.Second))
	w.server = shown
	w.audit(c.Dir).want(t, NotSound, NotInTime)
}

func TestMarks(t *testing.T) {
	at := func(hours int) time.Time { return time.Unix(testTime, 0).Add(time.Duration(hours) * time.Hour) }
	for name, test := range map[string]struct {
		marks         marks
		size, covered uint64
		now           int
		want          marks
	}{
		"nothing waits":    {nil, 5, 5, 1, nil},
		"first":            {nil, 6, 5, 1, marks{{6, at(1)}}},
		"no more":          {marks{{6, at(1)}}, 6, 5, 2, marks{{6, at(1)}}},
		"more":             {marks{{6, at(1)}}, 9, 5, 2, marks{{6, at(1)}, {9, at(2)}}},
		"covered":          {marks{{6, at(1)}, {9, at(2)}}, 9, 6, 3, marks{{9, at(2)}}},
		"covered, and new": {marks{{6, at(1)}}, 8, 7, 3, marks{{8, at(3)}}},
		"uncovered again":  {nil, 9, 5, 3, marks{{9, at(3)}}},
		"at one time":      {marks{{6, at(1)}}, 9, 5, 1, marks{{9, at(1)}}},
		"clock jumps back": {marks{{6, at(1)}, {9, at(7)}, {10, at(8)}}, 11, 5, 3, marks{{6, at(1)}, {11, at(3)}}},
		"fewer entries":    {marks{{6, at(1)}, {9, at(2)}}, 7, 5, 3, marks{{6, at(1)}, {7, at(2)}}},
	} {
		got := test.marks.seen(test.size, test.covered, at(test.now))
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, expected %v", name, got, test.want)
		}
		if !got.inOrder() {
			t.Errorf("%s: %v", name, got)
		}
	}
	for name, bad := range map[string]marks{
		"times": {{6, at(2)}, {9, at(1)}}, "one time": {{6, at(1)}, {9, at(1)}}, "sizes": {{6, at(1)}, {6, at(2)}}, "many": make(marks, maxMarks+1),
	} {
		if bad.inOrder() {
			t.Errorf("%s: taken for good", name)
		}
	}
}

// TestMarksAreBounded has a property: whatever an auditor sees, few marks are kept, none
// says that something was seen earlier than it was, and the first stays exact.
func TestMarksAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type look struct {
			size uint64
			at   time.Time
		}
		var looks []look
		var m marks
		now, size := time.Unix(testTime, 0), uint64(5)
		for range rapid.IntRange(1, 300).Draw(t, "audits") {
			now = now.Add(time.Duration(rapid.IntRange(1, 7200).Draw(t, "seconds")) * time.Second)
			size += rapid.Uint64Range(0, 3).Draw(t, "entries")
			looks = append(looks, look{size, now})
			m = m.seen(size, 5, now)
		}
		if !m.inOrder() {
			t.Fatalf("%d marks: %v", len(m), m)
		}
		first := func(size uint64) time.Time {
			for _, l := range looks {
				if l.size >= size {
					return l.at
				}
			}
			return time.Time{}
		}
		for i, k := range m {
			if seen := first(k.Size); k.Time.Before(seen) || i == 0 && !k.Time.Equal(first(6)) {
				t.Fatalf("mark %d of %d entries at %v, which were seen at %v", i, k.Size, k.Time, seen)
			}
		}
		if len(m) > 0 != (size > 5) || len(m) > 0 && m[len(m)-1].Size != size {
			t.Fatalf("%v for %d entries", m, size)
		}
	})
}
