package indexer

import (
	"context"
	"sync"
)

// budget bounds the bytes of the blocks in flight. A block has its share from
// before it is asked for until the graph has it; how large it is shows only when
// it has arrived, so until then its share is a guess. If it turns out larger,
// the budget is overdrawn, and no other block is asked for until it is not.
type budget struct {
	limit int64
	freed chan struct{} // holds a value after bytes came back

	mu    sync.Mutex
	used  int64 // mu
	guess int64 // mu; bytes of a block that has yet to arrive
}

// guessDecay is how slowly a guess falls: by one part in so many for each
// smaller block. It rises to the size of a larger one at once.
const guessDecay = 4

// newBudget returns a budget of limit bytes that takes the first block to be of
// guess bytes.
func newBudget(limit, guess int64) *budget {
	return &budget{limit: limit, guess: guess, freed: make(chan struct{}, 1)}
}

// reserve takes the share of one block, and waits until there is room for it. A
// block larger than the budget gets all of it. It has to be called by one
// goroutine, in the order in which blocks will be given back: then the first of
// those in flight always has its share.
func (b *budget) reserve(ctx context.Context) (int64, error) {
	for {
		if share, ok := b.tryReserve(); ok {
			return share, nil
		}
		select {
		case <-b.freed:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (b *budget) tryReserve() (int64, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used > 0 && b.used+b.guess > b.limit {
		return 0, false
	}
	b.used += b.guess
	return b.guess, true
}

// learn tells the size of a block that has arrived.
func (b *budget) learn(size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.guess = max(size, b.guess-b.guess/guessDecay)
}

// change adds to the bytes in use, or gives bytes back.
func (b *budget) change(bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used += bytes
	if bytes < 0 {
		select {
		case b.freed <- struct{}{}:
		default: // whoever waits has not looked yet
		}
	}
}
