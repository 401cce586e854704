package client

import (
	"context"
	"fmt"
	"io"
	"time"
)

const (
	// patience is how long a keyserver may say nothing.
	patience = 15 * time.Second
	// leastRate is how many bytes each further second has to bring, in both directions
	// together: a network that is slower than this is no good, and somebody who sends a
	// byte now and then would hold a client for ever.
	leastRate = 1 << 10
)

// patient reads an answer, and gives the call up when it comes too slowly.
type patient struct {
	answer io.Reader
	begun  time.Time
	bytes  int64 // that have gone and come
	quiet  time.Duration
	giveUp *time.Timer
}

// hurry returns a context for a call that sends some bytes. It ends when the keyserver
// takes too long, unless the answer is read from what read returns.
func hurry(ctx context.Context, url string, sent int, quiet time.Duration) (_ context.Context, read func(io.Reader) io.Reader, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	p := &patient{begun: time.Now(), bytes: int64(sent), quiet: quiet}
	p.giveUp = time.AfterFunc(p.allowed(), func() { cancel(slow(url, quiet)) })
	read = func(answer io.Reader) io.Reader {
		p.answer = answer
		return p
	}
	return ctx, read, func() { p.giveUp.Stop(); cancel(nil) }
}

func slow(url string, quiet time.Duration) error {
	return fmt.Errorf("keyserver %s: it says nothing for %v, or less than %d bytes a second: try again later, or on another network", url, quiet, leastRate)
}

// allowed is for how long the call may go on as far as it has come.
func (p *patient) allowed() time.Duration {
	return p.quiet + time.Duration(p.bytes)*time.Second/leastRate
}

// Read implements io.Reader.
func (p *patient) Read(b []byte) (int, error) {
	n, err := p.answer.Read(b)
	p.bytes += int64(n)
	p.giveUp.Reset(time.Until(p.begun.Add(p.allowed())))
	return n, err
}
