package admission

import (
	"context"
	"errors"
	"runtime"

	"google.golang.org/grpc/status"
)

// turns are who may do long work now: half of the processors do at most, and one at least. The
// others are left to short calls, which would wait in line behind pieces of long ones else.
// Whoever waits for his client has no turn. Turns are taken in the order in which they were
// asked for.
type turns chan struct{}

func newTurns() turns { return make(turns, max(1, runtime.GOMAXPROCS(0)/2)) }

// take waits for a turn until ctx ends.
func (t turns) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t turns) give() { <-t }

// Turn waits until there is a processor for long work, as reading a large request or making a
// long answer, which the call then has until it ends, but for when it writes. It is called by the
// goroutine that answers. In a context of no call that a Gate let in, it does nothing.
func Turn(ctx context.Context) error {
	c := callOf(ctx)
	if c == nil || c.turn {
		return nil
	}
	if err := c.gate.turns.take(ctx); err != nil {
		var refusal *Refusal
		if errors.As(err, &refusal) {
			return refusal
		}
		return status.FromContextError(ctx.Err()).Err()
	}
	c.turn, c.work = true, ctx
	return nil
}

// EndTurn gives the turn of a call back, if it has one: what is left of the call is not long work.
// It is called by the goroutine that answers.
func EndTurn(ctx context.Context) {
	if c := callOf(ctx); c != nil {
		c.finish()
	}
}

// pause gives the call's turn back, if it has one, while the call waits for its client.
func (c *call) pause() {
	if c.turn {
		c.gate.turns.give()
	}
}

// proceed is the end of pause. The call goes on without a turn if it was ended meanwhile.
func (c *call) proceed() {
	if c.turn {
		c.turn = c.gate.turns.take(c.work) == nil
	}
}

// finish gives the call's turn back, if it has one, for good.
func (c *call) finish() {
	c.pause()
	c.turn = false
}
