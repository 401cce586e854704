package bitcoind

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"
)

// TestWatch plays what Tip sees and what is announced, in a time of its own.
func TestWatch(t *testing.T) {
	seen := func(block byte) func(*hints, chan chainhash.Hash) {
		return func(h *hints, _ chan chainhash.Hash) { h.seen(chainhash.Hash{block}) }
	}
	announced := func(block byte) func(*hints, chan chainhash.Hash) {
		return func(_ *hints, announced chan chainhash.Hash) { announced <- chainhash.Hash{block} }
	}
	const stallAfter = 30 * time.Second
	pause := func(d time.Duration) func(*hints, chan chainhash.Hash) {
		return func(*hints, chan chainhash.Hash) { time.Sleep(d) }
	}
	type steps []func(*hints, chan chainhash.Hash)
	for name, test := range map[string]struct {
		steps  steps
		silent bool
	}{
		"nothing happens":                   {steps{pause(time.Hour)}, false},
		"the tip from before":               {steps{seen(1), pause(time.Hour)}, false},
		"announced, then seen":              {steps{seen(1), announced(2), seen(2), pause(time.Hour), seen(2), pause(time.Hour)}, false},
		"seen, then announced":              {steps{seen(1), seen(2), pause(stallAfter - 1), announced(2), pause(time.Hour)}, false},
		"the next one announced":            {steps{seen(1), seen(2), pause(stallAfter - 1), announced(3), seen(3), pause(time.Hour)}, false},
		"never announced":                   {steps{seen(1), pause(time.Hour), seen(2), pause(stallAfter + 1)}, true},
		"another block does not reset it":   {steps{seen(1), seen(2), pause(stallAfter - 1), seen(3), pause(2)}, true},
		"announced once, then silent":       {steps{seen(1), announced(2), seen(2), pause(time.Hour), seen(3), pause(stallAfter + 1)}, true},
		"announced, seen only after others": {steps{seen(1), announced(2), announced(3), seen(3), pause(time.Hour)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHints("", stallAfter, zerolog.Nop())
				announced, failed := make(chan chainhash.Hash), make(chan error, 1)
				result := make(chan error, 1)
				go func() { result <- h.watch(announced, failed) }()
				for _, step := range test.steps {
					step(h, announced)
					synctest.Wait()
				}
				cause := errors.New("the end of the test")
				failed <- cause
				if err := <-result; errors.Is(err, errSilent) != test.silent {
					t.Errorf("got %v, want it taken for silent: %v", err, test.silent)
				}
			})
		})
	}
}
