package admission

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"
)

// places are a budget of things that are there or not, as connections.
type places struct {
	refusals
	vacated  atomic.Uint64 // places that were taken away
	patience time.Duration // for how long nobody has to make room for his like
	settle   time.Duration // for how long a place is left to who came to it or used it last by clients that have their share

	mu      sync.Mutex
	size    Budget             // mu
	few     int                // mu; up to how many places clients are alike, but for who came first
	taken   int                // mu
	of      map[Client]*holder // mu; clients with places
	nothing time.Time          // mu; when greediest last found no place to take away
}

// holder is what a client has of them. Places' mu owns it.
type holder struct {
	taken   int
	movable list.List // of *place, who came first in front
}

// place is one of them, until left or taken away.
type place struct {
	in     *places
	client Client
	vacate func() // has its owner end what has the place; called without locks, at most once

	since time.Time     // in.mu; when it became movable
	at    *list.Element // in.mu; in the holder's movable, nil if it is not there
	gone  bool          // in.mu
}

// lookEvery is how often somebody with places looks for another one among everybody's. Many
// who ask at once would wait for each other's looking around else, and others with them.
const lookEvery = time.Millisecond

// leastShare is how many places a client has at least in the share that it may take away from others at once: an app has several
// connections.
const leastShare = 4

// mostSettle is places.settle of connections at most.
const mostSettle = time.Second

func newPlaces(name string, size Budget, patience, settle time.Duration, few int) *places {
	return &places{refusals: refusals{name: name}, size: size, patience: patience, settle: settle, few: few, of: make(map[Client]*holder)}
}

func (p *places) resize(size Budget, few int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.size, p.few = size, few
}

// most is how many there are.
func (p *places) most() Budget {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.size
}

func (p *places) inUse() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken
}

// enter takes a place that may be taken away by calling vacate, until it is kept. If there is
// none, the oldest that is movable makes room: of the client's own if it has all it may have,
// else of the client that has most. The last quarter is for clients that have few. Who has as many as all clients would have
// if they had equally many takes none away that was used just now: else those who came again at once would take
// each other's places as fast as they can, and others wait for all the coming and going.
func (p *places) enter(c Client, vacate func()) (*place, *Refusal) {
	p.mu.Lock()
	own := p.of[c]
	if own == nil {
		own = new(holder)
	}
	var old *place
	switch {
	case !c.bounded():
	case c.Single() && own.taken >= p.size.One:
		if old = own.oldest(p.patience); old == nil {
			p.mu.Unlock()
			return nil, p.refuse(true, p.patience)
		}
	case p.taken >= p.size.All, own.taken >= p.few && p.taken >= p.size.All-p.size.All/4:
		settled := time.Duration(0)
		if own.taken >= max(leastShare, p.size.All/(len(p.of)+1)) {
			settled = p.settle
		}
		// Who has places already waits until it is worthwhile to look at everybody's again.
		if now := time.Now(); settled == 0 && own.taken < p.few || now.Sub(p.nothing) >= lookEvery {
			if old = p.greediest(own.taken, settled); old == nil {
				p.nothing = now
			}
		}
		if old == nil {
			p.mu.Unlock()
			return nil, p.refuse(false, p.patience)
		}
	}
	if old != nil {
		old.remove()
	}
	p.of[c] = own
	p.taken++
	own.taken++
	entered := &place{in: p, client: c, vacate: vacate}
	entered.release()
	p.mu.Unlock()
	if old != nil {
		p.vacated.Add(1)
		old.vacate()
	}
	return entered, nil
}

// oldest returns the place that has been movable for longest, nil if none has for long
// enough.
func (h *holder) oldest(patience time.Duration) *place {
	if front := h.movable.Front(); front != nil {
		if first := front.Value.(*place); time.Since(first.since) >= patience {
			return first
		}
	}
	return nil
}

// greediest returns the oldest place of the client that has most, if that is more than
// somebody has who asks for one; few are more than fewer. Where it is more by one only,
// patience goes first, and where both have few, settled. It looks at every client with a place, of which there are no more
// than places. The caller holds mu.
func (p *places) greediest(than int, settled time.Duration) (old *place) {
	own := than
	if than < p.few {
		than = 0
	}
	most := than
	for _, h := range p.of {
		taken := max(h.taken, p.few)
		if taken < most || taken == most && old == nil {
			continue
		}
		patience := p.patience
		if taken > than+1 {
			patience = 0
			if h.taken <= own+1 { // it has few, too
				patience = settled
			}
		}
		first := h.oldest(patience)
		if first != nil && (taken > most || first.since.Before(old.since)) {
			old, most = first, taken
		}
	}
	return old
}

// keep has a place stay its owner's until it is released. It tells whether it is that still.
func (l *place) keep() bool {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	if l.at != nil {
		l.in.of[l.client].movable.Remove(l.at)
		l.at = nil
	}
	return !l.gone
}

// free makes a place movable again, and tells whether it was not.
func (l *place) free() (kept bool) {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	kept = l.at == nil && !l.gone
	l.release()
	return kept
}

// release is free for who holds mu.
func (l *place) release() {
	if l.gone || l.at != nil {
		return
	}
	l.since = time.Now()
	l.at = l.in.of[l.client].movable.PushBack(l)
}

// leave gives a place back. It may be called again.
func (l *place) leave() {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	l.remove()
}

// remove is leave for who holds mu.
func (l *place) remove() {
	if l.gone {
		return
	}
	l.gone = true
	own := l.in.of[l.client]
	if l.at != nil {
		own.movable.Remove(l.at)
		l.at = nil
	}
	l.in.taken--
	if own.taken--; own.taken == 0 {
		delete(l.in.of, l.client)
	}
}
