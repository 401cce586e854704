package identity

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/rpc/admission"
)

// What answers about many keys take is counted in steps (links.MaxWork), of which a unit of work has so many.
const (
	unitSteps = graph.ComparedSteps * unitBatch
	// keySteps is how many a key of a way takes to be rendered, causeSteps what is pending because of which an answer would be otherwise.
	keySteps, causeSteps = 10, 25
)

// effort is what the answers of one call take. A call has paid for each as if little were above the key that it is about, since
// that is usual: what somebody has paid fees to make long, effort has it pay for as it comes. One goroutine uses it.
type effort struct{ owed int }

// spend pays for an answer that took so many steps.
func (e *effort) spend(ctx context.Context, steps int) error {
	e.owed += max(0, steps-graph.ComparedSteps)
	if e.owed < unitSteps {
		return nil
	}
	units := e.owed / unitSteps
	e.owed %= unitSteps
	return await(ctx, units)
}

// await takes units of work out of the budget of the client, within an answer that is not to be broken off: it waits until
// the client may ask for as many. Who has gone is found by writing, or when ctx ends. The error is a gRPC status, or a *admission.Refusal.
func await(ctx context.Context, units int) error {
	wait := demanded(ctx, units)
	if wait == 0 {
		return nil
	}
	admission.EndTurn(ctx)
	ended := admission.Wait(ctx)
	defer ended()
	for ; wait > 0; wait = demanded(ctx, units) {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			var refusal *admission.Refusal
			if errors.As(context.Cause(ctx), &refusal) { // others have got its place
				return refusal
			}
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	return admission.Turn(ctx)
}

// demanded takes units of work out of the budget of the client, or says how long to wait until there are as many.
func demanded(ctx context.Context, units int) (wait time.Duration) {
	var refusal *admission.Refusal
	if errors.As(admission.Work(ctx, units), &refusal) {
		return refusal.After
	}
	return 0
}
