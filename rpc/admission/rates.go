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

// networkBits is how many bits of an address its network has, of IPv6. No client's prefix has as few.
const networkBits = 48

// Rates is how fast each client may do something. It remembers those that came last, in two
// generations: so that its memory is bounded, it forgets an old one as a whole. It is safe
// for concurrent use.
type Rates struct {
	refusals

	mu         sync.Mutex
	every      rate.Limit                     // mu; per second; rate.Inf for no limits
	burst      int                            // mu
	young, old map[netip.Prefix]*rate.Limiter // mu
}

// NewRates allows each client one every so often, and burst at once, of what a name tells in
// refusals. A client that is unlimited is allowed everything.
func NewRates(name string, every time.Duration, burst int) *Rates {
	return &Rates{refusals: refusals{name: name}, every: rate.Every(every), burst: burst, young: make(map[netip.Prefix]*rate.Limiter)}
}

// Unlimited returns rates that allow everybody everything.
func Unlimited() *Rates { return &Rates{every: rate.Inf} }

// resize allows each client another rate and burst from now on. What it has used up stays used up.
func (r *Rates) resize(every time.Duration, burst int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.every, r.burst = rate.Every(every), burst
	for _, known := range []map[netip.Prefix]*rate.Limiter{r.young, r.old} {
		for of, l := range known {
			times := 1
			if of.Bits() == networkBits {
				times = networkShare
			}
			l.SetLimit(r.every * rate.Limit(times))
			l.SetBurst(r.burst * times)
		}
	}
}

// banish has a client wait for as long as it takes until it might have a burst.
func (r *Rates) banish(c Client) {
	if !c.bounded() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.every == rate.Inf {
		return
	}
	now, l := time.Now(), r.limiter(c.prefix, 1)
	for left := int(l.TokensAt(now)) + l.Burst(); left > 0; left -= l.Burst() {
		reserve(l, now, left)
	}
}

// Refused returns how often Take has refused something.
func (r *Rates) Refused() uint64 { return r.count.Load() }

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
	if !c.bounded() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.every == rate.Inf {
		return nil
	}
	now := time.Now()
	one := reserve(r.limiter(c.prefix, 1), now, n)
	if after := one.DelayFrom(now); after > 0 {
		one.CancelAt(now)
		return r.refuse(true, after)
	}
	if network, ok := c.network(); ok {
		all := reserve(r.limiter(network, networkShare), now, n)
		if after := all.DelayFrom(now); after > 0 {
			all.CancelAt(now)
			one.CancelAt(now)
			return r.refuse(true, after)
		}
	}
	return nil
}

// owe takes n out of a client's allowance, also if there is less.
func (r *Rates) owe(c Client, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.every != rate.Inf {
		reserve(r.limiter(c.prefix, 1), time.Now(), n)
	}
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
	quiet *Rates // what a client may do in any case, in units that count share times
	all   *rate.Limiter
	busy  func() bool // there is more to do than is done: nobody may do more than that
	crowd func() int  // how many clients have had much done of late

	mu   sync.Mutex
	size Budget // mu
}

const workName = "calls"

// quietShare is the part of its rate that a client has in any case, also when all clients
// together do more than the server can; where there are few of them, it has its share of half of what all may do.
const quietShare = 50

func newWork(size Budget, busy func() bool, crowd func() int) *work {
	second := func(n int) *Rates { return NewRates(workName, time.Second/time.Duration(n), 10*n) }
	return &work{
		one: second(size.One), quiet: second(size.One),
		all:  rate.NewLimiter(rate.Limit(size.All), size.All),
		busy: busy, crowd: crowd, size: size,
	}
}

func (w *work) resize(size Budget) {
	second := func(r *Rates, n int) { r.resize(time.Second/time.Duration(n), 10*n) }
	second(w.one, size.One)
	second(w.quiet, size.One)
	w.all.SetLimit(rate.Limit(size.All))
	w.all.SetBurst(size.All)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.size = size
}

// share is the part of its rate that a client has in any case now.
func (w *work) share() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return max(1, min(quietShare, w.size.One, (2*w.crowd()*w.size.One+w.size.All-1)/w.size.All))
}

// take takes so many units of work out of the client's budget, and out of that of all
// if it is not a quiet one. Of a server that is busy only quiet ones get anything.
func (w *work) take(c Client, units int) *Refusal {
	if !c.bounded() {
		return nil
	}
	if refusal := w.one.take(c, units); refusal != nil {
		return refusal
	}
	if w.isQuiet(c, units) || !w.busy() && w.all.AllowN(time.Now(), min(units, w.all.Burst())) {
		return nil
	}
	return w.one.refuse(false, time.Second)
}

// owe takes units of work that were done out of what a client may do, also if they are not there: it waits until it would have had
// them.
func (w *work) owe(c Client, units int) {
	if c.bounded() {
		w.one.owe(c, units)
		w.quiet.owe(c, units*w.share())
	}
}

// isQuiet tells whether so many units are in what a client may do in any case, and takes them out of that.
func (w *work) isQuiet(c Client, units int) bool { return w.quiet.take(c, units*w.share()) == nil }
