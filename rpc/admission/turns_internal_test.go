package admission

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"

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
	g.turns = make(turns, n)
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
	if n := len(g.turns); n != 0 {
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
			if err := g.turns.take(t.Context()); err != nil {
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
			g.turns.give()
			if n := len(g.turns); n != 0 {
				t.Errorf("%d turns were not given back", n)
			}
		})
	}
}
