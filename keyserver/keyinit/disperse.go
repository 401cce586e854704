package keyinit

import "math/rand/v2"

// Stored is what the dispersing rules look at in a stored message.
type Stored struct {
	Fallback            bool
	NotBefore, NotAfter uint64 // Unix seconds
}

// valid reports whether a message may be handed out at a time.
func (s Stored) valid(now uint64) bool { return s.NotBefore <= now && now < s.NotAfter }

// Choose applies the dispersing rules (keyserver/WIRE.md §12,
// FetchKeyInit) to the messages of one SIGKEYHASH, at a time in Unix
// seconds. It returns the index of the message to hand out and whether it is then
// to be deleted; -1 if there is none to hand out.
//
// Messages that are not for fallback go first, the one with the least remaining
// lifetime first, and are always deleted. Otherwise the valid fallback messages
// are tried in random order: with n seconds left to a message and m to the
// longest-lived, the coin says yes if r > n for a random r in (0, m). The first yes
// is handed out; if there is none, the first tried. It is deleted if another toss
// of the same coin says yes, but never if it is the last.
func Choose(stored []Stored, now uint64, random *rand.Rand) (index int, remove bool) {
	index = -1
	var fallback []int
	longest := uint64(0)
	for i, s := range stored {
		switch {
		case !s.valid(now):
		case s.Fallback:
			fallback = append(fallback, i)
			longest = max(longest, s.NotAfter-now)
		case index < 0 || s.NotAfter < stored[index].NotAfter:
			index = i
		}
	}
	if index >= 0 {
		return index, true
	}
	if len(fallback) == 0 {
		return -1, false
	}
	coin := func(i int) bool {
		return longest > 1 && 1+random.Uint64N(longest-1) > stored[i].NotAfter-now
	}
	random.Shuffle(len(fallback), func(i, j int) { fallback[i], fallback[j] = fallback[j], fallback[i] })
	index = fallback[0]
	for _, i := range fallback {
		if coin(i) {
			index = i
			break
		}
	}
	return index, len(fallback) > 1 && coin(index)
}
