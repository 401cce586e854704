// Package reach is what the adapters of nodes have in common on the way to a node: how they
// wait for it and ask again, whose certificates they trust, what a URL may look like, and
// how a secret is read from a file.
//
// What never belongs here: a protocol, and what a node answers.
package reach

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node"
)

const (
	// RetryFor is how long one call goes on trying to reach a node, by default.
	RetryFor = 30 * time.Second
	// FirstPause and MaxPause are the shortest and the longest time between attempts to
	// reach a node.
	FirstPause = 100 * time.Millisecond
	MaxPause   = 3 * time.Second
	// waitNotice is how often Wait says what it waits for.
	waitNotice = time.Minute
)

// Pauses are growing pauses without an end. One goroutine uses them.
type Pauses struct{ backoff *backoff.ExponentialBackOff }

// NewPauses returns pauses from FirstPause up to MaxPause.
func NewPauses() Pauses {
	return Pauses{backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(FirstPause),
		backoff.WithMaxInterval(MaxPause),
		backoff.WithMaxElapsedTime(0),
	)}
}

// Reset begins with the shortest pause again.
func (p Pauses) Reset() { p.backoff.Reset() }

// Sleep makes the next pause, and reports whether it came to its end before ctx did.
func (p Pauses) Sleep(ctx context.Context) bool { return sleep(ctx, p.backoff.NextBackOff()) }

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Retry makes attempts, for a while, as long as they fail with node.ErrUnavailable and
// neither ctx nor closed ends. The error is that of the last attempt, with why ctx ended if
// it did during a pause.
func Retry(ctx context.Context, closed <-chan struct{}, retryFor time.Duration, attempt func() error) error {
	pauses := NewPauses()
	pauses.backoff.MaxElapsedTime = retryFor
	for {
		err := attempt()
		if err == nil || !errors.Is(err, node.ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		select {
		case <-closed:
			return err
		default:
		}
		pause := pauses.backoff.NextBackOff()
		if pause == backoff.Stop {
			return err
		}
		if !sleep(ctx, pause) {
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
}

// Wait makes attempts without an end, as long as they fail with node.ErrUnavailable and ctx
// does not end. log hears what it waits for. The error is that of the last attempt, with why
// ctx ended if it did during a pause.
func Wait(ctx context.Context, log zerolog.Logger, attempt func(context.Context) error) error {
	pauses := NewPauses()
	trouble := node.NewTrouble(log, waitNotice, "waiting for the node to answer", "the node answers")
	for {
		err := attempt(ctx)
		if err == nil {
			trouble.Over()
			return nil
		}
		if !errors.Is(err, node.ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		trouble.Warn(err)
		if !pauses.Sleep(ctx) {
			return fmt.Errorf("%w: %w", err, context.Cause(ctx))
		}
	}
}
