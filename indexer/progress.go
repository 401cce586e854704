package indexer

import (
	"time"

	"github.com/rs/zerolog"
)

// progress reports on catching up: every block near the tip, and long work every
// few seconds.
type progress struct {
	log   zerolog.Logger
	every time.Duration

	target  uint32
	first   uint32 // height at which the work began
	began   time.Time
	logged  time.Time
	actions int // since logged
}

func newProgress(opt Options, first, target uint32) *progress {
	now := time.Now()
	return &progress{log: opt.Log, every: opt.Progress, target: target, first: first, began: now, logged: now}
}

// connected notes that the graph has reached height, with so many more actions.
func (p *progress) connected(height uint32, actions int) {
	p.actions += actions
	now := time.Now()
	if height < p.target && now.Sub(p.logged) < p.every {
		return
	}
	event := p.log.Info().Uint32("height", height).Int("actions", p.actions)
	if height < p.target {
		done, left := height-p.first+1, p.target-height
		elapsed := now.Sub(p.began)
		event.Uint32("of", p.target).
			Float64("blocks_per_s", float64(int(10*float64(done)/elapsed.Seconds()))/10).
			Stringer("time_left", (elapsed * time.Duration(left) / time.Duration(done)).Round(time.Second)).
			Msg("catching up")
	} else {
		event.Msg("indexed")
	}
	p.logged, p.actions = now, 0
}
