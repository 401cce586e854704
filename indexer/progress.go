package indexer

import (
	"math"
	"time"

	"github.com/rs/zerolog"
)

// Progress says how far catching up is.
type Progress struct {
	// Headers says that the chain's headers are being judged, before any block is
	// asked for: heights and BlocksPerSecond are those of headers then.
	Headers bool

	First  uint32 // height of the first block of this catch-up
	Height uint32 // of the graph's tip
	Target uint32 // of the node's tip when the catch-up began; Height is at most that

	// Rates of the last moments. A megabyte is a million bytes.
	BlocksPerSecond, MegabytesPerSecond float64
	// Left is how long the rest takes if blocks go on coming as they have since the
	// beginning of the catch-up.
	Left time.Duration
}

// rateWindow is how far back the rates of Progress look.
const rateWindow = 10 * time.Second

// progress reports on one catch-up: every step to OnProgress, or long work to the
// log every few seconds; and to the log that the target is reached.
type progress struct {
	log    zerolog.Logger
	turned func()
	hear   func(Progress) // nil: nobody
	every  time.Duration  // between log lines

	began  sample
	height uint32   // of the target
	recent []sample // of the last rateWindow and one before, or began; oldest first

	logged  time.Time
	actions int // since logged
}

// sample is how far the catch-up was at some time.
type sample struct {
	at     time.Time
	height int64 // of the graph's tip
	bytes  int64 // of all blocks connected
}

// newProgress begins a catch-up that connects the blocks from height first to
// height target.
func newProgress(opt Options, first, target uint32) *progress {
	began := sample{at: time.Now(), height: int64(first) - 1}
	return &progress{log: opt.Log, turned: opt.turned, hear: opt.OnProgress, every: opt.Progress,
		began: began, height: target, recent: []sample{began}, logged: began.at}
}

// connected notes that the graph has reached height, with so many more actions
// and bytes of blocks.
func (p *progress) connected(height uint32, actions int, bytes int64) {
	p.turned()
	p.actions += actions
	now := sample{time.Now(), int64(height), p.recent[len(p.recent)-1].bytes + bytes}
	p.recent = append(p.recent, now)
	for len(p.recent) > 2 && now.at.Sub(p.recent[1].at) > rateWindow {
		p.recent = p.recent[1:]
	}
	if p.hear != nil {
		p.hear(p.state(now))
	}
	switch {
	case height == p.height:
		p.log.Info().Uint32("height", height).Int("actions", p.actions).Msg("indexed")
	case p.hear != nil || now.at.Sub(p.logged) < p.every:
		return
	default:
		s := p.state(now)
		p.log.Info().Uint32("height", height).Uint32("of", p.height).Int("actions", p.actions).
			Float64("blocks_per_s", round(s.BlocksPerSecond)).Float64("mb_per_s", round(s.MegabytesPerSecond)).
			Stringer("time_left", s.Left).Msg("catching up")
	}
	p.logged, p.actions = now.at, 0
}

func (p *progress) state(now sample) Progress {
	since := p.recent[0]
	seconds := now.at.Sub(since.at).Seconds()
	done, left := now.height-p.began.height, int64(p.height)-now.height
	return Progress{
		First: uint32(p.began.height + 1), Height: uint32(now.height), Target: p.height,
		BlocksPerSecond:    float64(now.height-since.height) / seconds,
		MegabytesPerSecond: float64(now.bytes-since.bytes) / seconds / 1e6,
		Left:               time.Duration(float64(now.at.Sub(p.began.at)) / float64(done) * float64(left)).Round(time.Second),
	}
}

// headerProgress reports on the judging of headers: every batch to OnProgress, or
// long work to the log every few seconds.
type headerProgress struct {
	opt          Options
	first, last  uint32
	began, spoke time.Time
}

// shortHeaders is how many headers are judged without a word.
const shortHeaders = 10_000

// newHeaderProgress begins to report on the headers behind one height up to another.
func newHeaderProgress(opt Options, from, last uint32) *headerProgress {
	now := time.Now()
	return &headerProgress{opt: opt, first: from + 1, last: last, began: now, spoke: now}
}

// judged notes that all headers up to a height have been judged.
func (p *headerProgress) judged(height uint32) {
	p.opt.turned()
	if int64(p.last)-int64(p.first) < shortHeaders {
		return
	}
	done, left := float64(height-p.first+1), float64(p.last-height)
	elapsed := time.Since(p.began)
	state := Progress{
		Headers: true, First: p.first, Height: height, Target: p.last,
		BlocksPerSecond: done / elapsed.Seconds(), Left: time.Duration(float64(elapsed) / done * left).Round(time.Second),
	}
	if p.opt.OnProgress != nil {
		p.opt.OnProgress(state)
	}
	switch {
	case height == p.last:
		p.opt.Log.Info().Uint32("from", p.first).Uint32("height", height).Stringer("took", elapsed.Round(time.Millisecond)).Msg("judged the headers of the chain")
	case p.opt.OnProgress != nil || time.Since(p.spoke) < p.opt.Progress:
	default:
		p.spoke = time.Now()
		p.opt.Log.Info().Uint32("height", height).Uint32("of", p.last).Float64("headers_per_s", round(state.BlocksPerSecond)).
			Stringer("time_left", state.Left).Msg("judging the headers of the chain")
	}
}

// round rounds to one decimal.
func round(x float64) float64 { return math.Round(10*x) / 10 }
