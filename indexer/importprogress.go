package indexer

import (
	"context"
	"sync"
	"time"
)

// ImportStage is what an import is doing.
type ImportStage string

// The stages of an import, which repeat for each range of blocks.
const (
	stageActions ImportStage = "finding actions"
	stageSpent   ImportStage = "finding the outputs that they spend"
	stageFalse   ImportStage = "looking into false claims"
	stageConnect ImportStage = "writing"
)

// ImportProgress says how far an import is.
type ImportProgress struct {
	Stage ImportStage
	// From and To are the heights between which the stage goes, up or down, Height is
	// where it is. A stage may end before it gets to To: when the actions fill the
	// memory set aside for them, or all outputs are found.
	From, To, Height uint32
	// MegabytesPerSecond is what the stage gets through. A megabyte is a million
	// bytes.
	MegabytesPerSecond float64
	Left               time.Duration // until To, if it goes on like this
}

// meter measures an import.
type meter struct {
	opt  ImportOptions
	size func(height uint32) int // of a block, in bytes

	mu       sync.Mutex
	progress ImportProgress // mu; but the rates
	began    time.Time      // mu; the stage
	bytes    int64          // mu; read in the stage
	all      int64          // mu; to read in the stage
}

// run reports from time to time until the returned function is called.
func (m *meter) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		tick := time.NewTicker(m.opt.Progress)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				m.report()
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		cancel()
		running.Wait()
	}
}

// begin notes that a stage begins, which goes over the blocks between two heights.
func (m *meter) begin(stage ImportStage, from, to int64) {
	all := int64(0)
	for height := min(from, to); height <= max(from, to); height++ {
		all += int64(m.size(uint32(height)))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.progress = ImportProgress{Stage: stage, From: uint32(from), To: uint32(to), Height: uint32(from)}
	m.began, m.bytes, m.all = time.Now(), 0, all
}

// done notes that the stage is done with a block.
func (m *meter) done(height int64) {
	size := m.size(uint32(height))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.progress.Height = uint32(height)
	m.bytes += int64(size)
}

// report tells what is known now.
func (m *meter) report() {
	m.mu.Lock()
	p, elapsed, bytes, all := m.progress, time.Since(m.began), m.bytes, m.all
	m.mu.Unlock()
	if p.Stage == "" || bytes == 0 {
		return
	}
	p.MegabytesPerSecond = float64(bytes) / elapsed.Seconds() / 1e6
	p.Left = time.Duration(float64(elapsed) / float64(bytes) * float64(all-bytes)).Round(time.Second)
	if m.opt.OnProgress != nil {
		m.opt.OnProgress(p)
		return
	}
	m.opt.Log.Info().Uint32("height", p.Height).Uint32("from", p.From).Uint32("to", p.To).
		Float64("mb_per_s", round(p.MegabytesPerSecond)).Stringer("time_left", p.Left).Msg(string(p.Stage))
}
