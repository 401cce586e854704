package hashchain

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// searchPiece is how many entries a core takes at a time: few enough to stop
// soon, many enough that taking them costs nothing.
const searchPiece = 1024

// Search returns the indexes, ascending, of the entries that are about an
// identity (mapped). It tries each, on all cores: a chain cannot be searched
// otherwise (see [Entry.Matches]). Who wants to resume or show progress searches
// piece by piece. It fails only if the context ends.
func Search(ctx context.Context, entries []Entry, identity string) ([]int, error) {
	var (
		next    atomic.Int64
		working sync.WaitGroup
		mu      sync.Mutex
		found   []int // mu
	)
	pieces := (len(entries) + searchPiece - 1) / searchPiece
	for range min(pieces, runtime.GOMAXPROCS(0)) {
		working.Go(func() {
			for ctx.Err() == nil {
				from := int(next.Add(1)-1) * searchPiece
				if from >= len(entries) {
					return
				}
				for i := from; i < min(from+searchPiece, len(entries)); i++ {
					if entries[i].Matches(identity) {
						mu.Lock()
						found = append(found, i)
						mu.Unlock()
					}
				}
			}
		})
	}
	working.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	slices.Sort(found)
	return found, nil
}
