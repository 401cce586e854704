// Keytree indexes MIP-0003 delegated keys on Bitcoin Cash, answers which
// identity is behind an address, and publishes link transactions.
//
// This package is the command line: it wires the other packages together, and
// owns how answers look on a terminal. What never belongs here: a rule, a wire
// format, anything that another program could want to import.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// stopLimit is how long a command may take to end after the first signal. The
// slowest part is a private bchd writing its caches (demo).
const stopLimit = 45 * time.Second

// errInterrupted is the cause of a context that a signal ended.
var errInterrupted = errors.New("interrupted")

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	// Where SIGPIPE is asked for, a write to a closed pipe fails instead of killing
	// the process, which may have something to clear away.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	go func() {
		<-signals
		cancel(errInterrupted)
		select {
		case <-signals:
		case <-time.After(stopLimit):
			fmt.Fprintf(os.Stderr, "keytree: did not stop within %v\n", stopLimit)
		}
		os.Exit(exitFailed)
	}()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
