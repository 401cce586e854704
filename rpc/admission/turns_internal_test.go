package admission

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// taker takes an answer by a function.
type taker struct {
	*httptest.ResponseRecorder
	take func()
}

// Write implements io.Writer.
func (t *taker) Write(b []byte) (int, error) {
	t.take()
	return len(b), nil
}

// gateOfTurns is a gate with so many processors for long answers.
func gateOfTurns(n int) *Gate {
	limits := DefaultLimits()
	limits.Long = Budget{100, 100}
	g := New(Config{Limits: limits})
	g.turns = newTurns(n, 0)
	return g
}

// answer has a handler answer a client that takes by a function, behind a gate.
func answer(g *Gate, take func(), handler http.HandlerFunc) {
	refuse := func(http.ResponseWriter, *http.Request, *Refusal) {}
	g.Handler(g.Answers(handler, refuse), Requests, refuse).ServeHTTP(&taker{httptest.NewRecorder(), take}, httptest.NewRequest("GET", "/", nil))
}

// TestTurns makes many long answers at once. One client takes nothing until all others have
// their answers.
func TestTurns(t *testing.T) {
	const processors, answers = 2, 20
	g := gateOfTurns(processors)
	piece := make([]byte, Piece)
	var working, most atomic.Int32
	work := func(w http.ResponseWriter, r *http.Request) {
		if err := Long(r.Context()); err != nil {
			t.Error(err)
			return
		}
		for range 50 {
			n := working.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			working.Add(-1)
			if _, err := w.Write(piece); err != nil {
				t.Error(err)
			}
		}
	}
	var slow, others sync.WaitGroup
	started, taken := make(chan struct{}), make(chan struct{})
	var once sync.Once
	slow.Go(func() {
		answer(g, func() { once.Do(func() { close(started) }); <-taken }, work)
	})
	<-started
	for range answers {
		others.Go(func() { answer(g, func() {}, work) })
	}
	others.Wait()
	close(taken)
	slow.Wait()
	if n := most.Load(); n > processors {
		t.Errorf("%d answers were made at once, expected %d at most", n, processors)
	}
	if n := g.turns.inUse(); n != 0 {
		t.Errorf("%d turns were not given back", n)
	}
	if u := g.Usage(); u.Long != 0 || u.BytesOut != 0 {
		t.Errorf("still in use: %+v", u)
	}
}

// TestTurnsEnd has a call end while it waits for a turn.
func TestTurnsEnd(t *testing.T) {
	for _, c := range []struct {
		name  string
		cause error
		code  codes.Code
	}{
		{"its client has gone", nil, codes.Canceled},
		{"others wait for its place", refused("long answers", false, 0), codes.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := gateOfTurns(1)
			taken, err := g.turns.take(t.Context(), Client{})
			if err != nil {
				t.Fatal(err)
			}
			answer(g, func() {}, func(_ http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithCancelCause(r.Context())
				cancel(c.cause)
				err := Long(ctx)
				if code := status.Code(err); code != c.code {
					t.Errorf("code %v (%v), expected %v", code, err, c.code)
				}
				var refusal *Refusal
				if errors.As(err, &refusal) != (c.code == codes.Unavailable) {
					t.Errorf("got %v", err)
				}
			})
			g.turns.give(taken)
			if n := g.turns.inUse(); n != 0 {
				t.Errorf("%d turns were not given back", n)
			}
		})
	}
}

// had has a client have had turns for so long.
func (t *turns) had(c Client, used time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	t.uses(t.of(c, now), used.Seconds(), now)
}

// queued takes a turn for a client in the background, which is told when it has one, and returns when it waits. It is called in a
// bubble of synctest.
func (t *turns) queued(ctx context.Context, c Client, told func(turn, error)) {
	go func() { told(t.take(ctx, c)) }()
	synctest.Wait()
}

// TestTurnsAreFair has clients want turns while one has the only one, and looks in which order they have theirs.
func TestTurnsAreFair(t *testing.T) {
	const usual = 300 * time.Microsecond
	operator := func(n int) Client {
		c := client(n)
		c.standing = unlimited
		return c
	}
	type wish struct {
		client Client
		lasts  time.Duration
	}
	for _, c := range []struct {
		name   string
		before func(turns *turns)
		wishes []wish
		want   []int // of the wishes, in the order in which they are fulfilled
	}{
		{"one after the other, in the order in which they came", nil, []wish{
			{client(1), usual}, {client(1), usual}, {client(1), usual}, {client(2), usual}, {client(3), usual}, {client(3), usual},
		}, []int{0, 3, 4, 1, 5, 2}},
		{"a long turn counts for more, but not much more than the client's others", nil, []wish{
			{client(1), 500 * time.Microsecond}, {client(1), usual}, {client(2), usual / 3}, {client(2), usual / 3}, {client(2), usual},
		}, []int{0, 2, 3, 1, 4}},
		{"who has long turns all the time has them counted in full", func(turns *turns) {
			for range 100 {
				taken, _ := turns.take(context.Background(), client(1))
				time.Sleep(usual)
				turns.give(taken)
			}
		}, []wish{
			{client(2), usual / 3}, {client(2), usual / 3}, {client(2), usual / 3}, {client(2), usual / 3}, {client(2), usual / 3}, {client(1), usual},
		}, []int{0, 1, 2, 3, 5, 4}},
		{"the operator's own before all", func(turns *turns) { turns.had(operator(2), time.Hour) }, []wish{
			{client(1), usual}, {operator(2), usual}, {operator(2), usual}, {client(3), usual},
		}, []int{1, 2, 0, 3}},
		{"who comes for the first time does not keep others waiting again and again", func(turns *turns) {
			for range 1000 { // it has used all of a processor
				taken, _ := turns.take(context.Background(), client(1))
				time.Sleep(usual)
				turns.give(taken)
			}
		}, []wish{
			{client(1), usual},
			{client(2), usual}, {client(2), usual}, {client(2), usual}, {client(2), usual},
			{client(3), usual}, {client(3), usual}, {client(3), usual}, {client(3), usual},
		}, []int{1, 5, 2, 6, 0, 3, 7, 4, 8}},
		{"who has paused has earned some turns, and who is new has not", func(turns *turns) {
			turns.had(client(1), time.Hour)
			time.Sleep(time.Second)
		}, []wish{
			{client(2), usual}, {client(2), usual}, {client(2), usual}, {client(1), usual}, {client(1), usual},
		}, []int{3, 4, 0, 1, 2}},
		{"who was refused has lost what it had earned", func(turns *turns) {
			turns.had(client(1), time.Hour)
			time.Sleep(time.Second)
			turns.forfeit(client(1))
			time.Sleep(forfeits)
		}, []wish{
			{client(2), usual}, {client(2), usual}, {client(2), usual}, {client(1), usual}, {client(1), usual},
		}, []int{0, 3, 1, 4, 2}},
		{"who owes more than mostDebt comes when the others have had that", func(turns *turns) { turns.had(client(1), time.Hour) }, []wish{
			{client(1), usual},
			{client(2), usual}, {client(2), usual}, {client(2), usual}, {client(2), usual}, {client(2), usual}, {client(2), usual},
		}, []int{1, 2, 3, 0, 4, 5, 6}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				turns := newTurns(1, time.Hour)
				if c.before != nil {
					c.before(turns)
				}
				own := operator(100)
				first, err := turns.take(t.Context(), own)
				if err != nil {
					t.Fatal(err)
				}
				var order []int // by who has the turn
				var done sync.WaitGroup
				for n, w := range c.wishes {
					done.Add(1)
					turns.queued(t.Context(), w.client, func(taken turn, err error) {
						defer done.Done()
						if err != nil {
							t.Error(err)
						}
						order = append(order, n)
						time.Sleep(w.lasts)
						turns.give(taken)
					})
				}
				turns.give(first)
				done.Wait()
				if !slices.Equal(order, c.want) {
					t.Errorf("the order is %v, expected %v", order, c.want)
				}
				if turns.inUse() != 0 || len(turns.lines) != 0 {
					t.Errorf("%d turns are taken, %d clients wait", turns.inUse(), len(turns.lines))
				}
				turns.overdue.Stop() // the bubble would wait for it
			})
		})
	}
}

// TestTurnsOfWhoWantsLittle has a client come now and then while many others want as many turns as they can have, so that its share is
// less than what it wants. It never waits for more than the turn that somebody has.
func TestTurnsOfWhoWantsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const others, lasts, pause = 500, 400 * time.Microsecond, 100 * time.Millisecond
		turns := newTurns(1, time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		for n := range others {
			all.Go(func() {
				for ctx.Err() == nil {
					taken, err := turns.take(ctx, client(n+1))
					if err != nil {
						return
					}
					time.Sleep(lasts)
					turns.give(taken)
				}
			})
		}
		time.Sleep(10 * others * lasts)
		for i := range 100 {
			time.Sleep(pause)
			since := time.Now()
			taken, err := turns.take(t.Context(), client(0))
			if err != nil {
				t.Fatal(err)
			}
			if waited := time.Since(since); waited > lasts {
				t.Fatalf("the %d-th time it waited %v", i, waited)
			}
			time.Sleep(lasts)
			turns.give(taken)
		}
		cancel()
		all.Wait()
		if turns.overdue != nil {
			turns.overdue.Stop()
		}
	})
}

// TestTurnsForget has more clients take turns than are remembered.
func TestTurnsForget(t *testing.T) {
	turns := newTurns(1, 0)
	turns.had(client(0), time.Minute)
	for n := range 3 * mostUsers {
		taken, err := turns.take(t.Context(), client(n+1))
		if err != nil {
			t.Fatal(err)
		}
		turns.give(taken)
		if len(turns.clients) > mostUsers {
			t.Fatalf("%d clients are remembered", len(turns.clients))
		}
	}
	held, err := turns.take(t.Context(), client(0))
	if err != nil {
		t.Fatal(err)
	}
	for n := range 2 * mostUsers {
		turns.had(client(n+1), time.Minute)
	}
	turns.give(held) // whoever has a turn is not forgotten
	if turns.inUse() != 0 || len(turns.clients) > mostUsers {
		t.Errorf("%d turns are taken, %d clients are remembered", turns.inUse(), len(turns.clients))
	}
}

// TestTurnsWithdrawn has clients go while they wait.
func TestTurnsWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns(1, 0)
		first, err := turns.take(t.Context(), client(1))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		for _, n := range []int{1, 2, 2} {
			turns.queued(ctx, client(n), func(_ turn, err error) {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
			})
		}
		had := make(chan turn, 1)
		turns.queued(t.Context(), client(2), func(taken turn, _ error) { had <- taken })
		cancel()
		synctest.Wait()
		if len(turns.lines) != 1 || len(turns.lines[0].calls) != 1 {
			t.Errorf("%d clients wait, expected one for one turn", len(turns.lines))
		}
		turns.give(first)
		turns.give(<-had)
		if turns.inUse() != 0 {
			t.Error("the turn was not given back")
		}
	})
}

// TestTurnsTakenBack has nobody give a turn back that others wait for.
func TestTurnsTakenBack(t *testing.T) {
	turns := newTurns(2, 2*longWait)
	forgetful := make([]turn, 2)
	for i := range forgetful {
		forgetful[i], _ = turns.take(t.Context(), client(1))
	}
	if turns.isBusy() {
		t.Error("it is busy before anybody has waited")
	}
	taken, err := turns.take(t.Context(), client(2)) // waits longer than longWait
	if err != nil {
		t.Fatal(err)
	}
	if !turns.isBusy() {
		t.Error("it is not busy, though somebody has waited long")
	}
	for turns.isBusy() {
		time.Sleep(busyFor / 10)
	}
	for _, f := range forgetful { // one of them was taken back
		turns.give(f)
	}
	if n := turns.inUse(); n != 1 {
		t.Errorf("%d turns are taken, expected one", n)
	}
	turns.give(taken)
	turns.give(taken)
	if n := turns.inUse(); n != 0 || len(turns.free) != 2 {
		t.Errorf("%d turns are taken, %d are free", n, len(turns.free))
	}
}

// TestReadTakesTurns has a connection wait for a processor when something has come, and give it back when it
// reads, writes, is closed, or when a call on it takes it over.
func TestReadTakesTurns(t *testing.T) {
	g := New(Config{Limits: DefaultLimits()})
	g.turns = newTurns(1, 0)
	server, other := net.Pipe()
	defer other.Close()
	c, refusal := g.connect(dialled{server, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}})
	if refusal != nil {
		t.Fatal(refusal)
	}
	read := func(size int) {
		t.Helper()
		go other.Write([]byte("abcdefgh")[:size])
		if _, err := c.Read(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(n int, when string) {
		t.Helper()
		if got := g.turns.inUse(); got != n {
			t.Errorf("%s: %d turns are taken, expected %d", when, got, n)
		}
	}
	read(8)
	expect(1, "after reading")
	read(8)
	expect(1, "after reading again")
	go other.Read(make([]byte, 8))
	if _, err := c.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); g.turns.inUse() != 0; time.Sleep(soon) {
		if time.Now().After(deadline) {
			t.Fatal("the turn is not given back after writing")
		}
	}
	read(1)
	expect(0, "after looking whether the client is there")
	read(8)
	g.turns.give(c.hand())
	expect(0, "after handing the turn over")
	c.answers(true)
	read(8)
	expect(0, "while a call is answered")
	c.answers(false)
	read(8)
	c.Close()
	expect(0, "after closing")
}
