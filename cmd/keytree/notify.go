package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer"
)

// notify tells systemd, if that has started the process with Type=notify, how it is (sd_notify(3)).
func notify(log zerolog.Logger, states ...string) {
	if _, err := daemon.SdNotify(false, strings.Join(states, "\n")); err != nil {
		log.Warn().Err(err).Strs("states", states).Msg("telling systemd how it is")
	}
}

// notifyReloading says that settings are being read; READY=1 ends that.
func notifyReloading(log zerolog.Logger) {
	notify(log, daemon.SdNotifyReloading, strings.TrimSpace(daemon.SdNotifyMonotonicUsec()))
}

// notifyEvery is how often systemd is told what the process does, if that has changed.
const notifyEvery = 5 * time.Second

// supervised is what systemd is told of.
type supervised struct {
	index     *runningIndex     // nil: none is run
	keyserver *runningKeyserver // nil: none is run, or it could not be opened
	log       zerolog.Logger
}

// run tells systemd that the process answers, what it does, and that it is alive, until ctx ends.
// The process is alive as long as the index loop turns: a watchdog that hears nothing starts
// it anew.
func (s *supervised) run(ctx context.Context) {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn().Err(err).Msg("systemd's watchdog is not told anything")
	}
	every := notifyEvery
	if watchdog > 0 {
		every = min(every, watchdog/3)
	}
	said := s.status()
	notify(s.log, daemon.SdNotifyReady, "STATUS="+said)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for stuck := false; ; {
		err := s.stuck()
		switch {
		case err == nil && watchdog > 0:
			notify(s.log, daemon.SdNotifyWatchdog)
		case err != nil && !stuck:
			s.log.Error().Err(err).Msg("it is stuck, and a watchdog is not told that all is well")
		}
		stuck = err != nil
		select {
		case <-ctx.Done():
			notify(s.log, daemon.SdNotifyStopping, "STATUS=stopping")
			return
		case <-tick.C:
		}
		if now := s.status(); now != said {
			said = now
			notify(s.log, "STATUS="+said)
		}
	}
}

// status is what the process does, in one line.
func (s *supervised) status() string {
	var parts []string
	if s.index != nil {
		parts = append(parts, s.index.does())
	}
	if s.keyserver != nil {
		parts = append(parts, s.keyserver.does())
	}
	return strings.ReplaceAll(strings.Join(parts, "; "), "\n", " ")
}

// stuck returns why the process should be started anew; nil if all is well. What has failed is no
// reason: it was said, and the rest goes on.
func (s *supervised) stuck() error {
	if s.index == nil {
		return nil
	}
	return s.index.stuck(time.Now())
}

// does says what the index does.
func (x *runningIndex) does() string {
	select {
	case <-x.part.failed:
		return "the index has failed"
	default:
	}
	height := "no block"
	if tip, ok := x.graph.Tip(); ok {
		height = fmt.Sprintf("block %d", tip.Height)
	}
	if status := x.Status(); !status.Synced {
		return fmt.Sprintf("%s is indexed, not synced: %s", height, status.Reason)
	}
	return height + " is indexed, synced"
}

// stuck returns an error if the index loop does not turn any more, though it has not failed.
func (x *runningIndex) stuck(now time.Time) error {
	ix := x.indexer.Load()
	select {
	case <-x.part.failed:
		return nil
	default:
	}
	if ix == nil { // the node is waited for
		return nil
	}
	if still := now.Sub(ix.Turned()); still > indexer.MaxTurn {
		return fmt.Errorf("the index loop has done nothing for %v, expected something every %v", still.Round(time.Second), indexer.MaxTurn)
	}
	return nil
}

// does says how it is with the keyserver.
func (k *runningKeyserver) does() string {
	if err := k.service.Ready(); err != nil {
		return "keyserver: " + err.Error()
	}
	if k.service.Standby() {
		return "the keyserver stands by"
	}
	return "the keyserver answers"
}
