package explorer

import (
	"fmt"
	"slices"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// A timeline is drawn in so many columns, each a part of the time; their heights are of the most keys.
const (
	columns        = 120
	timelineHeight = 40
)

// timeline is how an identity grew and shrank: a column for each part of the time in which something
// changed, that leads to the last change in it.
type timeline struct {
	From, To uint32 // blocks
	Columns  []column
	Most     uint32 // keys
	Before   *uint32
	After    *uint32
}

// column is a part of the time.
type column struct {
	Block, Keys uint32
	Merged      bool
	X, Y        string // in hundredths of the picture's width, and from its top
	Width, High string
	Now         bool // the page is as of this column
}

// newTimeline draws an identity's changes, the newest first, between two blocks.
func newTimeline(changes []*keytreev1.IdentityChange, from, to, at uint32) *timeline {
	t := &timeline{From: from, To: to}
	length := float64(to-from) + 1
	for _, c := range changes {
		t.Most = max(t.Most, c.KeyCount)
	}
	for i, c := range slices.Backward(changes) {
		x := float64(c.Height-from) / length
		end := 1.0
		if i > 0 {
			end = float64(changes[i-1].Height-from) / length
		}
		high := 2.0
		if t.Most > 0 {
			high += float64(c.KeyCount) / float64(t.Most) * (timelineHeight - 2)
		}
		t.Columns = append(t.Columns, column{
			Block: c.Height, Keys: c.KeyCount, Merged: c.State == "MERGED",
			X: fmt.Sprintf("%.2f", 100*x), Width: fmt.Sprintf("%.2f", 100*(end-x)),
			Y: fmt.Sprintf("%.2f", timelineHeight-high), High: fmt.Sprintf("%.2f", high),
			Now: c.Height <= at && (i == 0 || changes[i-1].Height > at),
		})
	}
	return t
}
