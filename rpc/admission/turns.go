package admission

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"maps"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/status"
)

// turns have so many go on at once, and the others wait. They are shared fairly: who wants less of them than his share has one as
// soon as one is free, whatever the others want, and who wants more comes as often as the others who do.
//
// The rule is start-time fair queueing (Goyal, Vin and Cheng, 1996): each client has a virtual time, which a turn moves on
// by as long as it lasts; that of all is when the last turn began. The client whose virtual time is the earliest is the next. Nobody's
// is further than mostDebt after that of all: whoever has had more waits for the others to have had so much, and no longer.
// Proxies and those who are unlimited go before all.
//
// In a crowd, all that a share is good for is one question now and then, and somebody who asks just that would wait for one round
// of all others after another. So whoever has nothing to wait for goes back in virtual time by earns, until he is
// mostCredit before the others: he has his next turns at once, as the handshake and the requests of a page. Who is new has earned
// nothing, and who was refused loses it and earns nothing for a while: he has asked for more than his share. Of those
// who have earned as much, who has used least in the last seconds goes first, and then who has waited longest.
//
// How long a turn lasts is what the clock says, also where the system or the collector of garbage had something else done
// meanwhile. So a turn that is much longer than the client's others counts as twice as long as these.
type turns struct {
	// longest is how long a turn lasts at least until it is given to others who wait, though it was not given back; 0: for
	// ever.
	longest time.Duration

	mu      sync.Mutex
	taken   []holding        // mu; of each turn that there is
	free    []int            // mu; those that nobody has
	lines   lines            // mu; of those who wait
	clients map[Client]*line // mu; those who wait, have a turn, or had one of late
	now     float64          // mu; the virtual time, in seconds: when the last turn that was given began
	joined  uint64           // mu; how often somebody has joined those who wait
	overdue *time.Timer      // mu; looks for turns that last too long; nil while nobody waits
	counted time.Time        // mu; when crowd was counted

	busy  atomic.Int64 // until when, in nanoseconds since 1970, there is more to do than is done
	crowd atomic.Int64 // how many clients have used more than crowdUse of late
}

// holding is of who has a turn, or had it last. The turns' mu owns it.
type holding struct {
	number uint64
	by     *line
	since  time.Time
}

// line is what a client has waiting, and has used. The turns' mu owns it.
type line struct {
	client Client
	calls  []*waiter
	place  int       // in lines, if there are calls
	start  float64   // there: when its next turn begins, in virtual time
	rank   float64   // there: what it had used
	joined uint64    // there: when it came, or had its last turn
	has    int       // turns
	until  float64   // the virtual time that it has moved on to, as of idle if it is
	idle   time.Time // since when it has neither calls nor turns, if so
	usual  float64   // seconds that a turn takes, of the last ones
	used   float64   // seconds, as of at; what is longer ago counts for less, and a turn as for until
	at     time.Time
	barred time.Time // until when it earns nothing
}

// isIdle reports whether the client has nothing to wait for.
func (l *line) isIdle() bool { return len(l.calls) == 0 && l.has == 0 }

// waiter is one that waits for a turn.
type waiter struct {
	client  Client
	granted func(turn) // called when it has one, with the turns' mu: it must not wait
	since   time.Time  // turns.mu
}

// turn is one that was taken. The zero value is none.
type turn struct {
	place  int
	number uint64 // 0 for none
}

const (
	// mostDebt is how many seconds a client's virtual time is after that of all at most: a page that asks for many things at once
	// waits for its share of the next ones, not of all that it had.
	mostDebt = 500e-6
	// mostCredit is how many it is before it at most: a handshake and some requests.
	mostCredit = 2e-3
	// earns is how many seconds of a turn a client earns in a second in which it waits for none.
	earns = 0.008
	// forgets is in how many seconds what a client has used counts for an e-th of it.
	forgets = 10.0
	// usualTurn is for how many seconds a turn counts from when it is taken until it is known how long it was.
	usualTurn = 100e-6
	// crowdUse is how many seconds somebody has used who counts for a crowd: ten calls or so. countEvery is how often these are counted.
	crowdUse   = 0.001
	countEvery = 250 * time.Millisecond
	// forfeits is for how long a client earns nothing after it was refused.
	forfeits = 10 * time.Second
	// turnsUsual is of about how many turns what a turn usually takes is the average.
	turnsUsual = 16
	// mostUsers is how many clients are remembered at most.
	mostUsers = 1 << 14
)

// newTurns returns turns for n at once.
func newTurns(n int, longest time.Duration) *turns {
	t := &turns{longest: longest, taken: make([]holding, n), clients: make(map[Client]*line)}
	for i := range n {
		t.free = append(t.free, i)
	}
	return t
}

// uses moves a client on by what it uses, in seconds, or has not used after all. The caller holds mu.
func (t *turns) uses(l *line, seconds float64, now time.Time) {
	l.used, l.at = max(0, l.usedBy(now)+seconds), now
	l.until = min(l.until+seconds, t.now+mostDebt)
	if len(l.calls) > 0 {
		t.place(l)
		heap.Fix(&t.lines, l.place)
	}
}

// place says where a client that waits comes. The caller holds mu, and fixes lines.
func (t *turns) place(l *line) {
	if l.start, l.rank = l.until, l.used; !l.client.Single() { // a proxy stands for many, and who is unlimited is the operator's own
		l.start = math.Inf(-1)
	}
}

// usedBy is what a client has used as of now.
func (l *line) usedBy(now time.Time) float64 {
	return l.used * math.Exp(-now.Sub(l.at).Seconds()/forgets)
}

// earn has an idle client earn what it earns until now. The caller holds mu.
func (t *turns) earn(l *line, now time.Time) {
	if l.isIdle() {
		from := l.idle
		if l.barred.After(from) {
			from = l.barred
		}
		earned := earns * max(0, now.Sub(from).Seconds())
		l.until = max(l.until-earned, t.now-mostCredit)
		l.used, l.at, l.idle = l.usedBy(now), now, now
	}
}

// of returns the line of a client. The caller holds mu.
func (t *turns) of(c Client, now time.Time) *line {
	l := t.clients[c]
	if l == nil {
		if len(t.clients) >= mostUsers {
			t.forget(now)
		}
		l = &line{client: c, until: t.now, usual: usualTurn, idle: now, at: now}
		t.clients[c] = l
	}
	t.earn(l, now)
	return l
}

// forfeit has a client that was refused lose what it has earned, and earn nothing for a while.
func (t *turns) forfeit(c Client) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	l := t.of(c, now)
	l.barred = now.Add(forfeits)
	if l.until = max(l.until, t.now); len(l.calls) > 0 {
		t.place(l)
		heap.Fix(&t.lines, l.place)
	}
}

// forget forgets clients that have done nothing for long, and all idle ones if that does not help. The caller holds mu.
func (t *turns) forget(now time.Time) {
	maps.DeleteFunc(t.clients, func(_ Client, l *line) bool {
		t.earn(l, now)
		return l.isIdle() && l.until <= t.now && l.usedBy(now) < usualTurn && now.After(l.barred)
	})
	if len(t.clients) >= mostUsers/2 {
		maps.DeleteFunc(t.clients, func(_ Client, l *line) bool { return l.isIdle() })
	}
}

// count counts the clients that have used much. The caller holds mu.
func (t *turns) count(now time.Time) {
	n := 0
	for _, l := range t.clients {
		if l.usedBy(now) > crowdUse {
			n++
		}
	}
	t.counted = now
	t.crowd.Store(int64(n))
}

// take waits for a turn until ctx ends.
func (t *turns) take(ctx context.Context, client Client) (turn, error) {
	t.mu.Lock()
	now := time.Now()
	if has, ok := t.takeFree(client, now); ok {
		t.mu.Unlock()
		return has, nil
	}
	granted := make(chan turn, 1)
	w := &waiter{client: client, granted: func(has turn) { granted <- has }}
	t.enqueue(w, now)
	t.mu.Unlock()
	select {
	case taken := <-granted:
		// Go runs whom somebody has waited for before those who wait for the network: as long as one gives the next his turn,
		// a few of a thousand of these are run in a second. From here on it is behind them.
		runtime.Gosched()
		t.begin(taken)
		return taken, nil
	case <-ctx.Done():
	}
	if !t.withdraw(w) {
		t.give(<-granted)
	}
	return turn{}, context.Cause(ctx)
}

// want has somebody wait for a turn, until withdraw.
func (t *turns) want(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if has, ok := t.takeFree(w.client, now); ok {
		w.granted(has)
		return
	}
	t.enqueue(w, now)
}

// withdraw has somebody wait no longer, and reports whether he did.
func (t *turns) withdraw(w *waiter) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	its := t.clients[w.client]
	if its == nil {
		return false
	}
	i := slices.Index(its.calls, w)
	if i < 0 {
		return false
	}
	if its.calls = slices.Delete(its.calls, i, i+1); len(its.calls) == 0 {
		heap.Remove(&t.lines, its.place)
		its.idle = time.Now() // if it has no turn
	}
	return true
}

// takeFree takes a turn that is free, if there is one: so nobody waits. The caller holds mu.
func (t *turns) takeFree(client Client, now time.Time) (has turn, ok bool) {
	its := t.of(client, now)
	if now.Sub(t.counted) > countEvery {
		t.count(now)
	}
	n := len(t.free)
	if n == 0 {
		return turn{}, false
	}
	has = t.grant(t.free[n-1], its, now)
	t.free = t.free[:n-1]
	return has, true
}

// enqueue has somebody wait until there is a turn. The caller holds mu.
func (t *turns) enqueue(w *waiter, now time.Time) {
	its := t.of(w.client, now)
	w.since = now
	if its.calls = append(its.calls, w); len(its.calls) == 1 {
		t.join(its)
		t.place(its)
		heap.Push(&t.lines, its)
	}
	if t.longest > 0 && t.overdue == nil {
		t.overdue = time.AfterFunc(t.longest, t.takeBack)
	}
}

// join has a client come after all who wait, of those like it. The caller holds mu, and fixes lines.
func (t *turns) join(l *line) {
	t.joined++
	l.joined = t.joined
}

// grant has a client have a turn that is free. The caller holds mu.
func (t *turns) grant(place int, to *line, now time.Time) turn {
	h := &t.taken[place]
	h.number++
	h.by, h.since = to, now
	to.has++
	if to.client.Single() {
		t.now = max(t.now, to.until)
	}
	t.join(to)
	t.uses(to, usualTurn, now)
	return turn{place, h.number}
}

// begin has a turn count from now on.
func (t *turns) begin(taken turn) {
	t.mu.Lock()
	if h := &t.taken[taken.place]; h.number == taken.number {
		h.since = time.Now()
	}
	t.mu.Unlock()
}

// give gives a turn back: to who comes next. One that was taken back, or none, is left alone.
func (t *turns) give(taken turn) {
	if taken.number == 0 {
		return
	}
	t.mu.Lock()
	if t.taken[taken.place].number == taken.number {
		t.pass(taken.place, time.Now())
	}
	t.mu.Unlock()
}

// pass takes a turn from who has it, and gives it to who comes next. The caller holds mu.
func (t *turns) pass(place int, now time.Time) {
	h := &t.taken[place]
	h.by.has--
	took := now.Sub(h.since).Seconds()
	t.uses(h.by, min(took, 2*h.by.usual)-usualTurn, now)
	h.by.usual += (min(took, 4*h.by.usual) - h.by.usual) / turnsUsual // who has many long ones has them count in full soon
	if h.by.isIdle() {
		h.by.idle = now
	}
	h.by = nil
	if len(t.lines) == 0 {
		h.number++
		t.free = append(t.free, place)
		return
	}
	next := t.lines[0]
	first := next.calls[0]
	if now.Sub(first.since) > longWait {
		t.busy.Store(now.Add(busyFor).UnixNano())
	}
	if next.calls = next.calls[1:]; len(next.calls) == 0 {
		heap.Pop(&t.lines)
	}
	first.granted(t.grant(place, next, now))
}

// takeBack takes turns back that have lasted too long, as long as there is somebody to have them.
func (t *turns) takeBack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for place := range t.taken {
		if h := &t.taken[place]; len(t.lines) > 0 && h.by != nil && now.Sub(h.since) >= t.longest {
			t.pass(place, now)
		}
	}
	if len(t.lines) > 0 {
		t.overdue.Reset(t.longest / 2)
	} else {
		t.overdue = nil
	}
}

// lines are those with calls, in the order in which they have turns.
type lines []*line

// Len implements heap.Interface.
func (l lines) Len() int { return len(l) }

// Less implements heap.Interface.
func (l lines) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(l[i].start, l[j].start), cmp.Compare(l[i].rank, l[j].rank), cmp.Compare(l[i].joined, l[j].joined)) < 0
}

// Swap implements heap.Interface.
func (l lines) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].place, l[j].place = i, j
}

// Push implements heap.Interface.
func (l *lines) Push(x any) {
	one := x.(*line)
	one.place = len(*l)
	*l = append(*l, one)
}

// Pop implements heap.Interface.
func (l *lines) Pop() any {
	n := len(*l) - 1
	last := (*l)[n]
	(*l)[n] = nil
	*l = (*l)[:n]
	return last
}

// isBusy reports whether somebody has waited long for his turn just now.
func (t *turns) isBusy() bool { return time.Now().UnixNano() < t.busy.Load() }

// inUse is how many turns are taken.
func (t *turns) inUse() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.taken) - len(t.free)
}

// turnsOfProcessors returns turns of the processors, for what clients make the server compute: handshakes, reading requests, refusals,
// calls before their first write, and each piece of long ones. Everything else waits, before it has had any memory: thousands that go on
// at the same time wait for each other while garbage is collected. There are as many as processors: with fewer, those that wait for the collector
// leave a processor idle; and while all are in use, Go looks at the network every 10 ms only. Who waits for something
// else, and has forgotten to say so, keeps others waiting for no longer than overdueTurn.
func turnsOfProcessors() *turns {
	return newTurns(max(2, runtime.GOMAXPROCS(0)), overdueTurn)
}

const (
	// longWait is how long nobody waits for a turn of a server that can do what it is asked for.
	longWait = 10 * time.Millisecond
	// busyFor is for how long a server is taken for one that cannot, when somebody has waited longer.
	busyFor = 100 * time.Millisecond
	// overdueTurn is how long a turn lasts if others wait for it.
	overdueTurn = 5 * time.Millisecond
)

// Turn says that the call is long work from here on, as reading a large request or making a
// long answer: it waits for its turn, which it then has until it ends, but for when it writes. It is called by the
// goroutine that answers. In a context of no call that a Gate let in, it does nothing.
func Turn(ctx context.Context) error {
	c := callOf(ctx)
	if c == nil || c.work != nil {
		return nil
	}
	if c.turn == (turn{}) {
		taken, err := c.gate.turns.take(ctx, c.client)
		if err != nil {
			return withoutTurn(ctx, err)
		}
		c.turn = taken
	}
	c.work, c.since = ctx, time.Now()
	return nil
}

// withoutTurn is the error of a call for which ctx ended while it waited for a turn.
func withoutTurn(ctx context.Context, err error) error {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		return refusal
	}
	return status.FromContextError(ctx.Err()).Err()
}

// EndTurn gives the turn of a call back, if it has one: what is left of the call is not long work.
// It is called by the goroutine that answers.
func EndTurn(ctx context.Context) {
	if c := callOf(ctx); c != nil {
		c.finish()
	}
}

// Elsewhere says that the call waits for others from here on, as for a disk to have written or for a node: it keeps nobody from
// computing. It is called by the goroutine that answers.
func Elsewhere(ctx context.Context) {
	if c := callOf(ctx); c != nil {
		c.rest()
		c.elsewhere = true
	}
}

// compute waits until the call may have a processor, which it has until rest, or ctx ends. What comes on no connection needs none.
func (c *call) compute(ctx context.Context) (err error) {
	if c.conn == nil || c.kind != Request || c.elsewhere || c.turn != (turn{}) {
		return nil
	}
	if c.turn = c.conn.takeOver(c.client); c.turn == (turn{}) {
		c.turn, err = c.gate.turns.take(ctx, c.client)
	}
	return err
}

// rest gives the call's turn back, if it has one.
func (c *call) rest() {
	c.gate.turns.give(c.turn)
	c.turn = turn{}
}

// pause gives the call's turn back, if it has one, while the call waits for its client.
func (c *call) pause() {
	if c.work != nil {
		c.spent += time.Since(c.since)
	}
	c.rest()
}

// proceed is the end of pause for long work. The call goes on without a turn if it was ended meanwhile.
func (c *call) proceed() {
	if c.work != nil {
		c.turn, _ = c.gate.turns.take(c.work, c.client)
		c.since = time.Now()
	}
}

// finish gives the call's turn back, if it has one, for good. Where the server is busy, the client owes what long work took longer
// than it has counted as.
func (c *call) finish() {
	c.pause()
	c.work = nil
	if units := int(c.spent/unitTime) - c.counts; units > 0 && c.gate.turns.isBusy() {
		c.gate.work.owe(c.client, units)
		c.counts += units
	}
}

// unitTime is how long a processor works for a unit of work.
const unitTime = 50 * time.Microsecond
