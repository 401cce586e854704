package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/protocol"
)

// Spending is what a node knows of who spends an output that the best chain has.
type Spending int

// What a node can know of an output.
const (
	NotAsked       Spending = iota // nobody could tell
	Unspent                        // by the best chain and by what waits for a block
	SpentInMempool                 // by a transaction that waits for a block
	SpentInBlock                   // by one of the best chain
)

// mark says that the auditor had seen the first Size entries, which the keyserver has
// signed, by a time: the first of them may have been seen earlier.
type mark struct {
	Size uint64    `json:"size"`
	Time time.Time `json:"time"`
}

// marks are since when entries that no anchor covers are known, in the order of sizes
// and of times, both of which grow.
type marks []mark

// maxMarks is how many of them are kept, however many audits there are between two
// anchors.
const maxMarks = 64

// inOrder tells whether they are as seen makes them.
func (m marks) inOrder() bool {
	for i := 1; i < len(m); i++ {
		if m[i].Size <= m[i-1].Size || !m[i].Time.After(m[i-1].Time) {
			return false
		}
	}
	return len(m) <= maxMarks
}

// checkProgress checks what freshness is judged by.
func (s *state) checkProgress() error {
	if !s.Waiting.inOrder() || s.RunBytes < 0 || s.RunBytes > s.AnchorBytes {
		return errors.New("the entries that wait, and the last anchors")
	}
	return nil
}

// seen returns the marks after an audit that has seen a number of entries, of which the
// first covered are covered by an anchor. What is not known exactly is taken to have
// been seen later. now must not be earlier than it is: marks after it are the work of a
// clock that was wrong, and count as now.
func (m marks) seen(size, covered uint64, now time.Time) marks {
	var next marks
	for _, k := range append(m[:len(m):len(m)], mark{size, now}) {
		k.Size = min(k.Size, size)
		if k.Time.After(now) {
			k.Time = now
		}
		last := len(next) - 1
		switch {
		case k.Size <= covered, last >= 0 && k.Size <= next[last].Size:
		case last >= 0 && !k.Time.After(next[last].Time):
			next[last].Size = k.Size // at one time
		default:
			next = append(next, k)
		}
	}
	for len(next) > maxMarks {
		// The first stays, since it is what says how long the longest has waited.
		drop := 1
		for i := 2; i < len(next)-1; i++ {
			if next[i+1].Time.Sub(next[i].Time) < next[drop+1].Time.Sub(next[drop].Time) {
				drop = i
			}
		}
		next = slices.Delete(next, drop, drop+1)
	}
	return next
}

// before returns how many entries had been seen before a time; 0 if that is not known
// of any that waits.
func (m marks) before(t time.Time) (size uint64) {
	for _, k := range m {
		if k.Time.Before(t) {
			size = k.Size
		}
	}
	return size
}

// Judged is the schedule of anchors that an audit went by, and where it comes from.
type Judged struct {
	Interval   uint64 `json:"interval_seconds"`
	Heartbeat  uint64 `json:"heartbeat_seconds"`
	MaxEntries uint64 `json:"max_entries"`
	// Published says that the keyserver publishes it, unsigned, so that whoever is
	// between it and the auditor may have changed it, within the bounds of package
	// schedule. Otherwise it is schedule.Default, and a note says why.
	Published bool `json:"published"`
}

// schedule learns the keyserver's schedule of anchors.
func (u *run) schedule(ctx context.Context) (s schedule.Schedule, err error) {
	published, err := u.from.Keyserver.Schedule(ctx)
	because := ""
	switch {
	case ctx.Err() != nil:
		return s, context.Cause(ctx)
	case err != nil:
		because = fmt.Sprintf("the keyserver could not be asked for its own: %v", err)
	case published == nil:
		because = "none of the keyserver's own is known: it publishes none, or it was not asked"
	case published.Check() != nil:
		because = fmt.Sprintf("what the keyserver publishes is out of bounds: %v", published.Check())
	default:
		s = *published
	}
	if because != "" {
		s = schedule.Default()
		u.report.Notes = append(u.report.Notes, "anchors are judged by the default schedule, since "+because)
	}
	u.report.Schedule = &Judged{
		Interval: uint64(s.Interval / time.Second), Heartbeat: uint64(s.Heartbeat / time.Second), MaxEntries: s.MaxEntries,
		Published: because == "",
	}
	return s, nil
}

// askBaton asks one's own node whether the last baton is spent. If a block has spent it
// and the bundle has no more anchors even now, withheld says so.
func (u *run) askBaton(ctx context.Context) (withheld, err error) {
	for u.from.Spending != nil && u.closed == nil {
		last := u.state.Last
		baton := wire.OutPoint{Hash: last.TxID}
		if u.spending, u.silent = u.from.Spending(ctx, baton); u.silent != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			u.spending = NotAsked
			return nil, nil
		}
		if u.spending != SpentInBlock {
			return nil, nil
		}
		// It may be that the next anchor has come since the bundle was opened.
		if err := u.followAnchors(ctx); err != nil {
			return nil, err
		}
		if u.closed == nil && u.state.Last.TxID == last.TxID {
			return problemf(NextHidden, "the node says that a transaction of its best chain spends the baton %v of anchor %d, but the proof bundle ends with that anchor: whoever gives it leaves the next one out, or is behind: audit again, with a new bundle from another server", baton, last.Number), nil
		}
	}
	return nil, nil
}

// earliest and latest return what the time is, at the earliest and at the latest, as far
// as blocks tell more than the clock: one is at most protocol.MaxAhead ahead of the time
// when it is found.
func earliest(clock, newest time.Time) time.Time {
	if t := newest.Add(-protocol.MaxAhead); t.After(clock) {
		return t
	}
	return clock
}

func latest(clock, newest time.Time) time.Time {
	if newest.After(clock) {
		return newest
	}
	return clock
}

// newest returns the time of the newest block that is known.
func (u *run) newest(ctx context.Context) (time.Time, error) {
	t := u.state.Last.Time
	if u.from.Newest == nil {
		return t, nil
	}
	told, err := u.from.Newest(ctx)
	switch {
	case ctx.Err() != nil:
		return t, context.Cause(ctx)
	case err != nil:
		u.report.Notes = append(u.report.Notes, fmt.Sprintf("the time of the newest block is not known: %v", err))
	case told.After(t):
		t = told
	}
	return t, nil
}

// repeated is an anchor that has the record of the one before it.
type repeated struct {
	number uint32
	time   time.Time     // of its block
	after  time.Duration // that of the one before it
}

// lastRepeated returns the last of the anchors with the present record that came sooner
// after the one before it than the least, while the baton stayed with one key; nil if
// none did.
func (u *run) lastRepeated(least time.Duration) (found *repeated, err error) {
	var before *Anchored
	var holder []byte // of the baton of the one before
	n := uint32(0)
	for it, err := range u.items(u.state.RunBytes) {
		if err != nil {
			return nil, err
		}
		a, err := anchorOf(it, n)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, u.anchors.Name(), err)
		}
		var next []byte
		for _, out := range protocol.Tx(it.Raw).Outputs() {
			next = out.Script
			break
		}
		if before == nil || a.Position != before.Position {
			found = nil // RunBytes of earlier versions is 0
		} else if after := max(0, a.Time.Sub(before.Time)); after < least && bytes.Equal(next, holder) {
			found = &repeated{number: n, time: a.Time, after: after}
		}
		before, holder = a, next
		n++
	}
	if found != nil {
		found.number += u.count() - n
	}
	return found, nil
}

// checkFreshness is check 5: that anchors follow what the keyserver shows, by its own
// schedule.
func (u *run) checkFreshness(ctx context.Context) error {
	const name = "freshness"
	r, last := u.report, u.state.Last
	if last == nil {
		r.check(name, NotDone, "there is no anchor")
		return nil
	}
	s, err := u.schedule(ctx)
	if err != nil {
		return err
	}
	newest, err := u.newest(ctx)
	if err != nil {
		return err
	}
	clock := u.now()
	now := earliest(clock, newest)
	if now.After(clock) {
		r.Notes = append(r.Notes, fmt.Sprintf("the clock of this machine is behind: it says %s, and there is a block of %s", clock.UTC().Format(time.DateTime), newest.UTC().Format(time.DateTime)))
	}
	// What was only shown waits for nothing: somebody between may have made it up.
	u.state.Waiting = u.state.Waiting.seen(u.copy.kept, u.chain.Size, latest(clock, newest))
	repeated, err := u.lastRepeated(s.MinRepeat())
	if err != nil {
		return err
	}
	age, behind := max(0, now.Sub(last.Time)), u.copy.Size()-min(u.copy.Size(), u.chain.Size)
	wrong := []error{u.tooOld(s, age), u.tooMany(s, now, behind), u.notInTime(s)}
	if repeated != nil && now.Sub(repeated.time) < s.MaxAge() {
		wrong = append(wrong, problemf(TooSoon, "anchor %d, in a block of %s, has the record of the one before it and comes %v after it, with the baton at the same key: expected at least %v while nothing is new",
			repeated.number, repeated.time.Format(time.DateTime), repeated.after, s.MinRepeat()))
	}
	u.sayNotCovered(behind)
	if err := errors.Join(wrong...); err != nil {
		for _, err := range wrong {
			if err := r.note(err); err != nil {
				return err
			}
		}
		r.check(name, Failed, "%s", strings.ReplaceAll(err.Error(), "\n", "; "))
		return nil
	}
	r.check(name, Passed, "the last anchor is %v old, %d entries come after it", age.Round(time.Second), behind)
	return nil
}

// tooOld judges the last anchor's age.
func (u *run) tooOld(s schedule.Schedule, age time.Duration) error {
	limit := s.MaxAge()
	if own := u.config.MaxAge; own > 0 {
		limit = min(limit, own)
	}
	if age <= limit {
		return nil
	}
	return problemf(Stale, "the last anchor is %v old, expected at most %v: the keyserver has stopped to anchor, or the proof bundle is not a new one", age.Round(time.Second), limit)
}

// tooMany judges how many entries come after the last anchor. There may be more of them
// than the schedule says until a block has come.
func (u *run) tooMany(s schedule.Schedule, now time.Time, behind uint64) error {
	if own := u.config.MaxEntries; own > 0 && behind > own {
		return problemf(TooMany, "%d entries come after the last anchor, expected at most %d", behind, own)
	}
	if had := u.state.Waiting.before(now.Add(-schedule.Slack)); had > u.chain.Size && had-u.chain.Size > s.MaxEntries {
		return problemf(TooMany, "%d entries come after the last anchor and were seen more than %v ago, expected at most %d: the keyserver has stopped to anchor, or the proof bundle is not a new one", had-u.chain.Size, schedule.Slack, s.MaxEntries)
	}
	return nil
}

// notInTime judges what the last anchor leaves out.
func (u *run) notInTime(s schedule.Schedule) error {
	last := u.state.Last
	had := u.state.Waiting.before(last.Time.Add(-s.MaxWait()))
	if u.state.Compared < u.count() || had <= u.chain.Size {
		return nil
	}
	return problemf(NotInTime, "anchor %d, in a block of %s, does not cover %d entries from position %d on that were seen more than %v before, the first of them at %s: the keyserver anchors less than it shows, or something else",
		last.Number, last.Time.Format(time.DateTime), had-u.chain.Size, u.chain.Size, s.MaxWait(), u.state.Waiting[0].Time.UTC().Format(time.DateTime))
}

// sayNotCovered says what freshness leaves open.
func (u *run) sayNotCovered(behind uint64) {
	r, last := u.report, u.state.Last
	if behind > 0 {
		since := "how long the first of them waits for an anchor"
		if w := u.state.Waiting; len(w) > 0 {
			since += ": this auditor knows it since " + w[0].Time.UTC().Format(time.DateTime+" MST")
		}
		r.NotCovered = append(r.NotCovered, fmt.Sprintf("%d entries after the last anchor, from position %d on: they can still be replaced by others", behind, u.chain.Size), since)
	}
	switch {
	case u.closed != nil:
	case u.spending == SpentInMempool:
		r.Notes = append(r.Notes, fmt.Sprintf("the next anchor is on its way: a transaction that waits for a block spends the baton of anchor %d", last.Number))
	case u.spending == NotAsked:
		text := fmt.Sprintf("whether the baton, output 0 of tx %v, was spent after the bundle was made", last.TxID)
		if u.silent != nil {
			text += fmt.Sprintf(": the node did not say: %v", u.silent)
		}
		r.NotCovered = append(r.NotCovered, text)
	}
}
