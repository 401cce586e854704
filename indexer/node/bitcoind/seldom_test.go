package bitcoind

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/reach"
)

// nowhere refuses every connection.
const nowhere = "127.0.0.1:0"

// TestSeldom fails all the time, and counts how often the log hears of it.
func TestSeldom(t *testing.T) {
	t.Run("notifications", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var log strings.Builder
			ctx, cancel := context.WithCancel(t.Context())
			h := newHints(nowhere, 0, zerolog.New(&log))
			go h.follow(ctx)
			time.Sleep(25 * time.Minute)
			cancel()
			<-h.done
			if n := strings.Count(log.String(), "notifications interrupted"); n != 3 {
				t.Errorf("%d warnings in 25 minutes, want 3:\n%s", n, &log)
			}
		})
	})
	t.Run("notifications again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var log strings.Builder
			h := newHints(nowhere, 0, zerolog.New(&log))
			h.trouble.Warn(errors.New("a failure"))
			announced, failed := make(chan chainhash.Hash), make(chan error, 1)
			watched := make(chan error)
			go func() { watched <- h.watch(announced, failed) }()
			synctest.Wait()
			if strings.Contains(log.String(), "arrive again") {
				t.Error("a subscription alone was taken for a notification")
			}
			announced <- chainhash.Hash{1}
			failed <- errors.New("the end of the test")
			<-watched
			if !strings.Contains(log.String(), "arrive again") {
				t.Errorf("the log did not hear that notifications arrive again:\n%s", &log)
			}
		})
	})
	t.Run("waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var log strings.Builder
			c, err := newClient(Config{Address: nowhere, User: "me", Password: "hush", Network: &chaincfg.RegressionNetParams, Log: zerolog.New(&log)})
			if err != nil {
				t.Fatal(err)
			}
			defer c.close()
			ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute+30*time.Second)
			defer cancel()
			if err := reach.Wait(ctx, c.log, c.probe); !errors.Is(err, node.ErrUnavailable) {
				t.Errorf("got %v, want it unavailable", err)
			}
			// Attempts are up to reach.MaxPause and a half apart.
			if n := strings.Count(log.String(), "waiting for the node"); n < 9 || n > 10 {
				t.Errorf("%d warnings in 9.5 minutes, want one in a minute:\n%s", n, &log)
			}
		})
	})
}
