package audit

import (
	"errors"
	"fmt"
	"time"
)

// Verdict is the result of an audit.
type Verdict string

// The verdicts.
const (
	// Sound speaks of positions: up to Report.SoundUpTo everybody has been shown the
	// same. Entries after that could still be replaced.
	Sound Verdict = "sound"
	// NotSound says that anchors do not come as they have to, so that it stays open for
	// too long what they will commit to, or witnesses do not cosign. It convicts nobody.
	NotSound      Verdict = "not sound"
	CouldNotCheck Verdict = "could not check"
	Misbehaviour  Verdict = "misbehaviour" // there is a file of evidence
)

// Kind names what was found.
type Kind string

// What a keyserver, or whoever holds the baton, can be convicted of.
const (
	RewrittenEntry     Kind = "rewritten entry"                   // before the last anchor
	TwoEntries         Kind = "two entries at one position"       // after the last anchor
	BrokenLink         Kind = "entry does not follow"             // the one before it
	OtherRoot          Kind = "another root than the anchor's"    // over the same entries
	TwoHistories       Kind = "signed head of another history"    // than the one shown
	LowerPosition      Kind = "anchor with a lower position"      // protocol.LowerPosition
	OtherHead          Kind = "another head at the same position" // protocol.OtherHead
	SpentWithoutRecord Kind = "baton spent without a record"      // protocol.NoRecord
	SpentForOther      Kind = "baton spent for another domain"    // protocol.OtherDomain
	SpentByOtherInput  Kind = "baton spent by another input"      // protocol.NotFirstInput
	OtherCheckpoint    Kind = "checkpoint of another history"     // than the one shown
)

// What is wrong with the progress of anchors and cosignatures.
const (
	Stale      Kind = "last anchor too old"           // beyond a limit
	TooMany    Kind = "too many entries not anchored" // for too long
	NotInTime  Kind = "entries not anchored in time"  // an anchor leaves out what was there long before
	TooSoon    Kind = "record repeated too soon"      // with the baton at the same key
	NextHidden Kind = "next anchor withheld"          // the node knows that the last baton is spent
	NoQuorum   Kind = "too few cosignatures"          // than the policy demands
	OldQuorum  Kind = "cosignatures too old"          // than tlog.MaxAge
)

// progress tells whether a finding is one of those.
func (k Kind) progress() bool {
	return k == Stale || k == TooMany || k == NotInTime || k == TooSoon || k == NextHidden || k == NoQuorum || k == OldQuorum
}

// What keeps an audit from being done.
const (
	Unavailable  Kind = "not available"           // a source failed
	Truncated    Kind = "truncated file"          // bundle.ErrTruncated
	BadBundle    Kind = "not a proof bundle"      // its form, its network
	WrongBranch  Kind = "wrong merkle branch"     // the tx is not shown to be in the block
	NoWork       Kind = "header without work"     // protocol.ErrWork
	NotOnChain   Kind = "block not on best chain" // ErrNotOnBestChain
	Unrelated    Kind = "unrelated anchors"       // they do not descend from the pinned genesis: no misbehaviour
	Gap          Kind = "gap in the anchor chain" // an anchor is missing, or the order is wrong
	Behind       Kind = "keyserver shows too few" // fewer entries than it has anchored, signed, or shown before
	OtherServer  Kind = "another keyserver"       // the chain begins differently
	NoStatement  Kind = "no signed statement"     // to compare with: no finding, but less is covered
	StaleHeaders Kind = "not enough headers"      // the file ends before a block
	OutOfForce   Kind = "key not in force"        // of a statement at its size: no misbehaviour
	OtherLog     Kind = "another log"             // than the keyserver has named, or the policy
	OtherTiles   Kind = "tile of other entries"   // than those shown
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Kind Kind   `json:"kind"`
	Text string `json:"text"`
	// Evidence is the file that convinces others; "" if there is nothing signed.
	Evidence string `json:"evidence,omitempty"`
	// Compare is what keeps statements about it from convicting, for the reader to
	// compare with what is known from elsewhere.
	Compare []string `json:"compare,omitempty"`
	// Assumes is what the evidence rests upon (Conviction.Assumes).
	Assumes []string `json:"assumes,omitempty"`
}

// Status is what became of a check.
type Status string

// What can become of a check.
const (
	Passed  Status = "passed"
	Failed  Status = "failed"
	NotDone Status = "not done" // something before it failed
)

// Check is one of the auditor's checks (protocol/ANCHORS.md §5).
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
}

// Report is what an audit found.
type Report struct {
	Verdict Verdict `json:"verdict"`
	// SoundUpTo is the position of the last entry that the verdict speaks of: what the
	// last anchor commits to. nil unless the verdict is Sound.
	SoundUpTo *uint64 `json:"sound_up_to"`
	// NotCoveredEntries are those after it, or after the last anchor that was compared.
	NotCoveredEntries uint64 `json:"not_covered_entries"`

	Network  string    `json:"network"`
	Genesis  string    `json:"genesis"`          // txid of the pinned genesis anchor
	Domain   string    `json:"domain,omitempty"` // that it names
	Time     time.Time `json:"time"`             // of the audit
	Checks   []Check   `json:"checks"`           // in the order of protocol/ANCHORS.md §5
	Findings []Finding `json:"findings,omitempty"`
	Notes    []string  `json:"notes,omitempty"` // no fault of anybody's, but worth knowing

	Entries uint64    `json:"entries"` // of the hashchain, verified
	Anchors uint32    `json:"anchors"` // verified
	Last    *Anchored `json:"last,omitempty"`
	// Covered is how many entries the last anchor that was compared commits to.
	Covered uint64 `json:"covered"`
	// NotCovered says what this audit cannot know.
	NotCovered []string `json:"not_covered,omitempty"`
	// Schedule is what freshness was judged by; nil if it was not.
	Schedule *Judged `json:"schedule,omitempty"`

	NewEntries uint64 `json:"new_entries"` // since the audit before
	NewAnchors uint32 `json:"new_anchors"`
}

// Summary is the verdict with the positions that it speaks of, in one line.
func (r *Report) Summary() string {
	switch n := r.NotCoveredEntries; {
	case r.SoundUpTo == nil:
		return string(r.Verdict)
	case n == 0:
		return fmt.Sprintf("%s up to position %d; every entry shown is covered", r.Verdict, *r.SoundUpTo)
	case n == 1:
		return fmt.Sprintf("%s up to position %d; 1 entry after it is not covered and could still be replaced", r.Verdict, *r.SoundUpTo)
	default:
		return fmt.Sprintf("%s up to position %d; %d entries after it are not covered and could still be replaced", r.Verdict, *r.SoundUpTo, n)
	}
}

// Age is how old the last anchor is, by the time in its block, which may be ahead of
// the clock; 0 then, and if there is none.
func (r *Report) Age() time.Duration {
	if r.Last == nil {
		return 0
	}
	return max(r.Time.Sub(r.Last.Time), 0)
}

// problem is an error that ends up in a report. All other errors are the
// auditor's own, of its disk. Without a kind the finding is still to be made, with
// evidence (prove).
type problem struct {
	kind Kind
	err  error
}

func (p *problem) Error() string { return p.err.Error() }
func (p *problem) Unwrap() error { return p.err }

func problemf(kind Kind, format string, args ...any) error {
	return &problem{kind, fmt.Errorf(format, args...)}
}

// note adds a problem to the report and returns nil; any other error it returns.
func (r *Report) note(err error) error {
	if p := new(problem); errors.As(err, &p) {
		if p.kind == "" {
			return nil
		}
		r.Findings = append(r.Findings, Finding{Kind: p.kind, Text: err.Error()})
		return nil
	}
	return err
}

// outOfForce adds a statement by a key that was not in force, and what is wrong with it.
func (r *Report) outOfForce(statement, wrong string) {
	r.Findings = append(r.Findings, Finding{Kind: OutOfForce, Text: statement + " is not by the key that was in force", Compare: []string{wrong}})
}

// check adds what became of a check.
func (r *Report) check(name string, status Status, format string, args ...any) {
	r.Checks = append(r.Checks, Check{name, status, fmt.Sprintf(format, args...)})
}

// conclude sets the verdict.
func (r *Report) conclude() {
	r.NotCoveredEntries = r.Entries - min(r.Entries, r.Covered)
	r.Verdict = Sound
	for _, f := range r.Findings {
		switch {
		case f.Evidence != "":
			r.Verdict = Misbehaviour
			return
		case !f.Kind.progress():
			r.Verdict = CouldNotCheck
		case r.Verdict == Sound:
			r.Verdict = NotSound
		}
	}
	if r.Verdict == Sound {
		last := r.Covered - 1 // there is no sound audit without an anchor
		r.SoundUpTo = &last
	}
}

// unixTime writes a time in Unix seconds.
func unixTime(seconds uint64) string {
	return time.Unix(int64(min(seconds, 1<<40)), 0).UTC().Format("2006-01-02 15:04:05 MST")
}
