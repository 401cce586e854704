package admission

import (
	"sync"
	"time"
)

// bytes are a budget of memory.
type bytes struct {
	refusals
	after time.Duration // when to come back if there is no room

	mu    sync.Mutex
	size  Budget         // mu
	taken int            // mu
	of    map[Client]int // mu; clients that have some
}

func newBytes(name string, size Budget, after time.Duration) *bytes {
	return &bytes{refusals: refusals{name: name}, size: size, after: after, of: make(map[Client]int)}
}

func (b *bytes) resize(size Budget) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.size = size
}

func (b *bytes) inUse() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken
}

// take takes n bytes out of the budget, or none.
func (b *bytes) take(c Client, n int) *Refusal {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case n <= 0:
		return nil
	case !c.bounded():
	case c.Single() && b.of[c]+n > b.size.One:
		return b.refuse(true, b.after)
	case b.taken+n > b.size.All:
		return b.refuse(false, b.after)
	}
	b.add(c, n)
	return nil
}

// force takes n bytes that are there already.
func (b *bytes) force(c Client, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.add(c, n)
}

// give gives n bytes back.
func (b *bytes) give(c Client, n int) { b.force(c, -n) }

// add is force for who holds mu.
func (b *bytes) add(c Client, n int) {
	b.taken += n
	if b.of[c] += n; b.of[c] == 0 {
		delete(b.of, c)
	}
}
