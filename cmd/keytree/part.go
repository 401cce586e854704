package main

import (
	"context"
	"errors"
	"sync"
	"syscall"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/anchor"
	"github.com/keytree-bch/keytree/rpc"
)

// parts are what a program was asked to run, an index, a keyserver or both. Each fails by
// itself; when all have, the program ends.
type parts struct {
	log zerolog.Logger
	end context.CancelCauseFunc // is told why, when all have failed

	mu       sync.Mutex
	alive    int     // mu
	failures []error // mu
}

// part is one of them.
type part struct {
	rpc.Part
	name   string
	of     *parts
	once   sync.Once
	failed chan struct{} // closed when it has failed
}

// add adds a part, which lives. All are added before one can fail.
func (p *parts) add(name string) *part {
	p.alive++
	return &part{name: name, of: p, failed: make(chan struct{})}
}

// fail says that a part has failed for good. The first cause counts.
func (p *part) fail(cause error) {
	p.once.Do(func() {
		p.Fail()
		close(p.failed)
		all := p.of
		all.mu.Lock()
		defer all.mu.Unlock()
		all.failures = append(all.failures, cause)
		if all.alive--; all.alive == 0 {
			all.end(errors.Join(all.failures...))
			return
		}
		all.log.Error().Err(cause).Msg("the " + p.name + " has failed, and answers nothing, or only what it knew, until keytree is started anew; the rest goes on")
	})
}

// begun takes what came of opening a part. It returns what the operator has to correct
// before anything can begin; what can befall a part at any time is a failure of this one.
func (p *part) begun(err error) error {
	for _, failure := range []error{graph.ErrDamaged, graph.ErrDiskFull, keyserver.ErrDamaged, keyserver.ErrDiskFull, anchor.ErrMismatch, syscall.EIO, syscall.EROFS} {
		if errors.Is(err, failure) {
			p.fail(err)
			return nil
		}
	}
	return err
}
