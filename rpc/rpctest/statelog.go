package rpctest

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/statelog"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// StateLog publishes the states of a rig's graph, with a clock of its own. It has no checkpoint before Follow.
type StateLog struct {
	publisher atomic.Pointer[statelog.Publisher]
	clock     atomic.Int64 // Unix seconds
}

// Served implements identity.StateLog.
func (l *StateLog) Served() (*statelog.Served, error) {
	p := l.publisher.Load()
	if p == nil {
		return nil, tlog.ErrNone
	}
	return p.Served()
}

// Follow has the log follow a graph until the test ends, without witnesses.
func (l *StateLog) Follow(t testing.TB, g *graph.Graph) {
	t.Helper()
	dir := Dir(t)
	l.clock.Store(time.Now().Unix())
	p, err := statelog.Open(statelog.Options{
		Chain: g, Dir: filepath.Join(dir, "state"), KeyFile: filepath.Join(dir, "state.key"), Host: Domain,
		Now: func() time.Time { return time.Unix(l.clock.Load(), 0) }, Every: 5 * time.Millisecond, Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	l.publisher.Store(p)
}

// Publish lets hours pass until the checkpoint covers the blocks up to a height, which ten others are on top of.
func (l *StateLog) Publish(t testing.TB, height uint32) {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if s, err := l.Served(); err == nil && s.Newest() >= height {
			return
		}
		if time.Since(begun) > time.Minute {
			t.Fatalf("the state log does not come to block %d", height)
		}
		l.clock.Add(int64(time.Hour / time.Second))
	}
}

// Policy names the log and demands no witness.
func (l *StateLog) Policy(t testing.TB) *format.Policy {
	t.Helper()
	policy, err := format.ParsePolicy(fmt.Appendf(nil, "log %s\nquorum none\n", l.publisher.Load().Log(1).Key()))
	if err != nil {
		t.Fatal(err)
	}
	return policy
}
