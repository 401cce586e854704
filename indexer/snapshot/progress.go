package snapshot

import (
	"fmt"
	"time"
)

// DefaultProgress is how often long work is reported.
const DefaultProgress = time.Second

// Stage is what is being done.
type Stage string

// What takes long.
const (
	StageCreate   Stage = "writing the snapshot"
	StageDownload Stage = "downloading the snapshot"
	StageLoad     Stage = "loading the snapshot"
)

// Progress is how far a stage is.
type Progress struct {
	Stage            Stage
	From, To, Height uint32 // of blocks: the first, the last, and the last that is done
	Txs              int64  // that these had
	Bytes, Size      int64  // of a download: that are there, and of all; 0 if that is not known
	Elapsed          time.Duration
}

// OnProgress hears of progress every DefaultProgress, by the goroutine that does the work; nil: nobody
// does.
type OnProgress func(Progress)

// Part is how much of the stage is done, from 0 to 1; 0 if that is not known.
func (p Progress) Part() float64 {
	switch {
	case p.Stage != StageDownload:
		return (float64(p.Height) - float64(p.From) + 1) / (float64(p.To) - float64(p.From) + 1)
	case p.Size > 0:
		return float64(p.Bytes) / float64(p.Size)
	}
	return 0
}

// String is the progress for people.
func (p Progress) String() string {
	var text string
	if p.Stage == StageDownload {
		text = fmt.Sprintf("%s  %.1f MB", p.Stage, float64(p.Bytes)/1e6)
		if p.Size > 0 {
			text += fmt.Sprintf(" of %.1f", float64(p.Size)/1e6)
		}
	} else {
		text = fmt.Sprintf("%s  block %d of %d  %d transactions", p.Stage, p.Height, p.To, p.Txs)
	}
	if part := p.Part(); part > 0 {
		text += fmt.Sprintf("  %.1f %%  %v left", 100*part, time.Duration(float64(p.Elapsed)*(1-part)/part).Round(time.Second))
	}
	return text
}

// meter tells of progress. It belongs to one goroutine.
type meter struct {
	progress Progress
	on       OnProgress
	began    time.Time
	told     time.Time
}

func newMeter(on OnProgress, p Progress) *meter {
	now := time.Now()
	return &meter{progress: p, on: on, began: now, told: now}
}

// tell tells, if it is time.
func (m *meter) tell() {
	now := time.Now()
	if m.on == nil || now.Sub(m.told) < DefaultProgress {
		return
	}
	m.told, m.progress.Elapsed = now, now.Sub(m.began)
	m.on(m.progress)
}

func (m *meter) elapsed() time.Duration { return time.Since(m.began).Round(time.Millisecond) }
