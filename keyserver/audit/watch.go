package audit

import (
	"context"
	"fmt"
	"time"
)

// LongestAudit is how long one audit of many may take: who answers slowly for ever must not
// keep it from being noticed. The next one goes on from there.
const LongestAudit = time.Hour

// Watch audits again and again until ctx ends, whatever is found. once does one audit; hear
// gets its report, or why there is none, which is not the keyserver's fault, and how long it
// took. every is the pause between two. It returns the last report, nil if there is none, and
// the error of hear, which ends it; that ctx has ended is no error.
func Watch(ctx context.Context, every time.Duration, once func(context.Context) (*Report, error), hear func(*Report, error, time.Duration) error) (last *Report, err error) {
	for {
		began := time.Now()
		bounded, cancel := context.WithTimeoutCause(ctx, LongestAudit, fmt.Errorf("the audit was not done within %v", LongestAudit))
		report, err := once(bounded)
		cancel()
		if ctx.Err() != nil {
			return last, nil
		}
		if err := hear(report, err, time.Since(began)); err != nil {
			return last, err
		}
		if err == nil {
			last = report
		}
		select {
		case <-ctx.Done():
			return last, nil
		case <-time.After(every):
		}
	}
}
