package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/mempool"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/rpc/metrics"
)

// runningIndex is an index and what feeds it. open, run and close follow each other. The
// server answers from the first moment on, before there is an indexer: health, status, and to
// everything else that nothing has been checked yet.
type runningIndex struct {
	part    *part
	config  serverConfig
	metrics *metrics.Metrics // nil: nobody looks
	graph   *graph.Graph     // nil if it could not be opened
	// stateLog publishes the graph's states, and cosigns others'; nil: neither was asked for, or there is no graph.
	stateLog *stateLog
	node     atomic.Pointer[openNode] // that feeds it; nil while it is not connected to one
	indexer  atomic.Pointer[indexer.Indexer]
	mempool  atomic.Pointer[mempool.Follower]
}

func (x *runningIndex) open(ctx context.Context) (err error) {
	c := x.config
	dir := filepath.Join(c.dataDir, "graph")
	x.graph, err = c.openGraph(ctx, dir)
	if errors.Is(err, graph.ErrMismatch) {
		err = fmt.Errorf("%w; keytree serve --reindex-into DIR indexes again while the version that made it goes on serving it", err)
	}
	if err == nil && x.metrics != nil {
		x.metrics.WatchIndex(x.graph, dir, x.Status)
		x.metrics.WatchMempool(x.Mempool)
	}
	return err
}

func (x *runningIndex) close() error {
	if x.graph == nil {
		return nil
	}
	if x.stateLog == nil {
		return x.graph.Close()
	}
	return errors.Join(x.stateLog.close(), x.graph.Close())
}

// failed returns a channel that is closed when the index has failed; nil if there is none.
func (x *runningIndex) failed() <-chan struct{} {
	if x == nil {
		return nil
	}
	return x.part.failed
}

// run feeds the graph from the node until ctx ends, or the index fails.
func (x *runningIndex) run(ctx context.Context) {
	if x.graph == nil {
		return
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { x.watch(ctx) })
	if x.stateLog != nil {
		watching.Go(func() { x.publish(ctx) })
	}
	if err := x.follow(ctx); err != nil {
		x.part.fail(err)
	}
}

// watch has the index fail when the graph is found damaged.
func (x *runningIndex) watch(ctx context.Context) {
	for {
		changed := x.graph.Changed()
		if err := x.graph.Err(); err != nil {
			x.part.fail(err)
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// follow feeds the graph from the node until ctx ends, which is no error.
func (x *runningIndex) follow(ctx context.Context) (err error) {
	c, from := x.config, x.config.startHeight
	if tip, started := x.graph.Tip(); started {
		from = tip.Height + 1
	}
	n, err := c.node.dial(ctx, c.network, from, c.log)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer func() {
		x.node.Store(nil)
		err = errors.Join(err, n.Close())
	}()
	x.node.Store(&n)
	opt := indexer.Options{Log: c.log, NodeName: c.node.address(), Memory: c.memory}
	if x.metrics != nil {
		opt.Observer = x.metrics
	}
	if c.line != nil {
		defer c.line.clear()
		opt.OnProgress = c.showProgress
	}
	ix := indexer.New(n, x.graph, opt)
	x.indexer.Store(ix)
	defer x.followMempool(ctx, n)()
	return ix.Run(ctx)
}

// followMempool follows the node's mempool until the function that it returns is called.
func (x *runningIndex) followMempool(ctx context.Context, n mempool.Node) (stop func()) {
	if x.config.mempoolActions == 0 {
		return func() {}
	}
	f := mempool.New(n, x.graph, x.config.network, mempool.Options{Log: x.config.log, MaxActions: x.config.mempoolActions})
	x.mempool.Store(f)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil && x.graph.Err() == nil { // else watch says so
			x.config.log.Error().Err(err).Msg("following the node's mempool")
		}
	}
}

// showProgress shows how far catching up is, on the terminal's last line.
func (c serverConfig) showProgress(p indexer.Progress) {
	if p.Height == p.Target {
		c.line.clear()
		return
	}
	if p.Headers {
		c.line.show("judging headers  %d of %d  %.0f headers/s  %v left", p.Height, p.Target, p.BlocksPerSecond, p.Left)
		return
	}
	all, done := float64(p.Target)-float64(p.First)+1, float64(p.Height)-float64(p.First)+1
	c.line.show("catching up  block %d of %d, %.1f %%  %.0f blocks/s  %.1f MB/s  %v left",
		p.Height, p.Target, 100*done/all, p.BlocksPerSecond, p.MegabytesPerSecond, p.Left)
}

// Block implements identity.Blocks.
func (x *runningIndex) Block(ctx context.Context, hash chainhash.Hash) ([]byte, error) {
	n := x.node.Load()
	if n == nil {
		return nil, fmt.Errorf("%w: %s", node.ErrUnavailable, x.Status().Reason)
	}
	return (*n).Block(ctx, hash)
}

// Status implements rpc.Indexer.
func (x *runningIndex) Status() indexer.Status {
	if ix := x.indexer.Load(); ix != nil {
		return ix.Status()
	}
	select {
	case <-x.part.failed:
		return indexer.Status{Reason: "the index has failed"}
	default:
		return indexer.Status{NodePeers: node.Untold, Reason: "waiting for the node to answer"}
	}
}

// Mempool implements rpc.Indexer.
func (x *runningIndex) Mempool() mempool.Status {
	switch f := x.mempool.Load(); {
	case f != nil:
		return f.Status()
	case x.config.mempoolActions == 0:
		return mempool.Status{Reason: "the server was told not to follow the mempool"}
	}
	return mempool.Status{Reason: x.Status().Reason}
}

// synced reports whether the index was compared with the node and has caught up.
func (x *runningIndex) synced() bool {
	s := x.Status()
	return s.Checked && s.Synced
}
