package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// reindex indexes the node's chain into another data folder, and answers nobody, until it
// has come to the node's tip. A server on the data folder goes on meanwhile: an earlier
// version serves what this version cannot read.
func reindex(ctx context.Context, c serverConfig, into string) (err error) {
	if same, err := sameFolder(c.dataDir, into); err != nil {
		return err
	} else if same {
		return usagef("--reindex-into %s: expected another folder than the data folder, which goes on being served", into)
	}
	if err := mayWrite(into, filepath.Join(into, "graph")); err != nil {
		return err
	}
	running, end := context.WithCancelCause(ctx)
	defer end(nil)
	served := c.dataDir
	c.dataDir, c.mempoolActions = into, 0
	x := &runningIndex{part: (&parts{log: c.log, end: end}).add("index"), config: c}
	if err := x.open(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.close()) }()
	c.log.Info().Str("into", into).Msg("indexing again, without answering")
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for running.Err() == nil && !x.Status().Synced {
			select {
			case <-running.Done():
			case <-tick.C:
			}
		}
		end(nil)
	})
	err = x.follow(running)
	end(nil)
	if err != nil || ctx.Err() != nil {
		return err
	}
	tip, _ := x.graph.Tip()
	c.log.Info().Uint32("height", tip.Height).Stringer("block", tip.Hash).Hex("state_hash", tip.StateHash[:]).
		Msgf("indexed up to the node's tip: stop what serves %s, put %s in the place of its folder graph, and start keytree serve again; it goes on from there",
			served, filepath.Join(into, "graph"))
	return nil
}

// sameFolder reports whether two paths, of which the second may be of nothing yet, are of
// one folder.
func sameFolder(a, b string) (bool, error) {
	other, err := os.Stat(b)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("--reindex-into: %w", err)
	}
	one, err := os.Stat(a)
	return err == nil && os.SameFile(one, other), nil
}
