package admission

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxKnown is how many clients a Rates remembers at least and, twice, at most. One takes
// about 200 bytes.
const maxKnown = 1 << 15

// networkShare is for how many clients a /48 of IPv6 counts at most: a subscriber may have
// all of its 65,536 networks.
const networkShare = 16

// Rates is how fast each client may do something. It remembers those that came last, in two
// generations: so that its memory is bounded, it forgets an old one as a whole. It is safe
// for concurrent use.
type Rates struct {
	name  string
	every rate.Limit // per second; rate.Inf for no limits
	burst int

	mu         sync.Mutex
	young, old map[netip.Prefix]*rate.Limiter // mu
}

// NewRates allows each client one every so often, and burst at once, of what a name tells in
// refusals. A client that is unlimited is allowed everything.
func NewRates(name string, every time.Duration, burst int) *Rates {
	return &Rates{name: name, every: rate.Every(every), burst: burst, young: make(map[netip.Prefix]*rate.Limiter)}
}

// Unlimited returns rates that allow everybody everything.
func Unlimited() *Rates { return &Rates{every: rate.Inf} }

func (r *Rates) remembered() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.young) + len(r.old)
}

// Take takes n out of a client's allowance, or returns a *Refusal that tells when there is as
// much. More than there ever is counts as all there is.
func (r *Rates) Take(c Client, n int) error {
	if refusal := r.take(c, n); refusal != nil {
		return refusal
	}
	return nil
}

func (r *Rates) take(c Client, n int) *Refusal {
	if r.every == rate.Inf || !c.bounded() {
		return nil
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	one := reserve(r.limiter(c.prefix, 1), now, n)
	if after := one.DelayFrom(now); after > 0 {
		one.CancelAt(now)
		return refused(r.name, true, after)
	}
	if network, ok := c.network(); ok {
		all := reserve(r.limiter(network, networkShare), now, n)
		if after := all.DelayFrom(now); after > 0 {
			all.CancelAt(now)
			one.CancelAt(now)
			return refused(r.name, true, after)
		}
	}
	return nil
}

func reserve(l *rate.Limiter, now time.Time, n int) *rate.Reservation {
	return l.ReserveN(now, min(n, l.Burst()))
}

// limiter returns what a client, or so many of them together, may do. The caller holds mu.
func (r *Rates) limiter(of netip.Prefix, times int) *rate.Limiter {
	l := r.young[of]
	if l == nil {
		if len(r.young) >= maxKnown {
			r.young, r.old = make(map[netip.Prefix]*rate.Limiter), r.young
		}
		if l = r.old[of]; l == nil {
			l = rate.NewLimiter(r.every*rate.Limit(times), r.burst*times)
		}
		r.young[of] = l
	}
	return l
}

// work is the budget of what is done in a second.
type work struct {
	one   *Rates
	quiet *Rates // what a client may do in any case
	all   *rate.Limiter
}

const workName = "calls"

// quietShare is the part of its rate that a client has in any case, also when all clients
// together do more than the server can.
const quietShare = 50

func newWork(size Budget) *work {
	second := func(n int) *Rates { return NewRates(workName, time.Second/time.Duration(n), 10*n) }
	return &work{
		one: second(size.One), quiet: second(max(1, size.One/quietShare)),
		all: rate.NewLimiter(rate.Limit(size.All), size.All),
	}
}

// take takes so many units of work out of the client's budget, and out of that of all
// if it is not a quiet one.
func (w *work) take(c Client, units int) *Refusal {
	if !c.bounded() {
		return nil
	}
	if refusal := w.one.take(c, units); refusal != nil {
		return refusal
	}
	if w.quiet.take(c, units) == nil || w.all.AllowN(time.Now(), min(units, w.all.Burst())) {
		return nil
	}
	return refused(workName, false, time.Second)
}

// drain leaves a client nothing but its rate.
func (w *work) drain(c Client) {
	for units := w.one.burst; units > 0 && w.one.take(c, units) != nil; units /= 2 {
	}
}
