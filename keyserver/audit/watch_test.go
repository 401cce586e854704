package audit

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestWatch audits until it is ended, also after an audit that failed, and one that takes
// too long.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		failed, began := errors.New("the disk is full"), time.Now()
		reports := []*Report{{Entries: 1}, nil, nil, {Entries: 4}}
		audits, heard := 0, 0
		last, err := Watch(ctx, time.Minute, func(ctx context.Context) (*Report, error) {
			audits++
			switch audits {
			case 2:
				return nil, failed
			case 3:
				<-ctx.Done()
				return nil, context.Cause(ctx)
			case 5:
				cancel()
				return nil, ctx.Err()
			}
			return reports[audits-1], nil
		}, func(report *Report, err error, took time.Duration) error {
			heard++
			if report != reports[heard-1] || (err != nil) != (report == nil) || heard == 2 && !errors.Is(err, failed) || (took == LongestAudit) != (heard == 3) {
				t.Errorf("audit %d: heard of %v, %v, after %v", heard, report, err, took)
			}
			return nil
		})
		if err != nil || last != reports[3] || audits != 5 || heard != 4 {
			t.Errorf("%d audits, heard of %d; the last is %v (%v)", audits, heard, last, err)
		}
		if took := time.Since(began); took != LongestAudit+4*time.Minute {
			t.Errorf("it took %v", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("the pipe is broken")
		_, err := Watch(t.Context(), time.Minute, func(context.Context) (*Report, error) { return new(Report), nil },
			func(*Report, error, time.Duration) error { return broken })
		if !errors.Is(err, broken) {
			t.Errorf("got %v, want %v", err, broken)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		last, err := Watch(ctx, time.Minute, func(context.Context) (*Report, error) { return new(Report), nil },
			func(*Report, error, time.Duration) error { cancel(); return nil })
		if last == nil || err != nil {
			t.Errorf("ended in a pause: %v, %v", last, err)
		}
	})
}
