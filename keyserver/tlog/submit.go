package tlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"sync"
	"time"

	"github.com/keytree-bch/keytree/protocol/tlog"
)

// round is one time that all witnesses were asked.
type round struct {
	checkpoint tlog.Checkpoint
	signed     []byte            // the checkpoint
	answers    map[string]answer // by the witnesses' public keys
}

// answer is what a witness has said: a line with its signature, or err.
type answer struct {
	line []byte
	err  error
}

// complete tells whether all witnesses have signed.
func (r *round) complete() bool {
	for _, a := range r.answers {
		if a.err != nil {
			return false
		}
	}
	return true
}

// askFirst asks all witnesses about what was signed last, before anything else is signed. It
// returns false if nothing is to be signed.
func (l *Log) askFirst(ctx context.Context) bool {
	l.mu.Lock()
	nothing := l.signed.Size == 0
	l.mu.Unlock()
	if l.opt.Policy == nil || nothing && !l.opt.Shared {
		return true
	}
	l.unmet = make(map[string]bool)
	for i := range l.opt.Policy.Witnesses {
		l.unmet[l.opt.Policy.Witnesses[i].Key.String()] = true
	}
	if nothing { // by this server: they say more when it has
		return true
	}
	l.mu.Lock()
	err := l.check(ctx)
	l.mu.Unlock()
	if err == nil {
		err = l.meet(l.ask(ctx))
	}
	if err != nil && ctx.Err() == nil {
		l.stop(err)
	}
	return err == nil && ctx.Err() == nil
}

// meet looks at the first answer of each witness since the start: it may know that everything here is out of
// an old backup. Later, one that says so contradicts what it has cosigned for this process, and only lies.
func (l *Log) meet(r *round) error {
	for key, a := range r.answers {
		switch {
		case !l.unmet[key]:
		case errors.Is(a.err, ErrOutgrown), errors.Is(a.err, ErrForked):
			return a.err
		case a.err == nil:
			delete(l.unmet, key)
		}
	}
	return nil
}

// stop has nothing signed any more.
func (l *Log) stop(err error) {
	l.mu.Lock()
	l.stopped = err
	l.mu.Unlock()
	l.opt.Log.Error().Err(err).Msg("transparency log: nothing is signed until the next start")
}

// askAgain asks witnesses until ctx ends.
func (l *Log) askAgain(ctx context.Context) {
	var (
		last    *round
		lastAt  time.Time
		between = time.NewTicker(min(l.opt.Interval, l.opt.WitnessInterval))
	)
	defer between.Stop()
	for {
		l.mu.Lock()
		size := l.signed.Size
		l.mu.Unlock()
		now := l.opt.Now()
		waited := now.Sub(lastAt)
		news := last == nil || last.checkpoint.Size != size || !last.complete()
		if size > 0 && (last == nil || waited >= l.opt.WitnessInterval && news || waited >= witnessAgain) {
			last, lastAt = l.ask(ctx), now
			if err := l.meet(last); err != nil && ctx.Err() == nil {
				l.stop(err)
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-between.C:
		}
	}
}

// ask has all witnesses cosign what was signed last, at the same time, and keeps what they say.
func (l *Log) ask(ctx context.Context) *round {
	l.mu.Lock()
	r := &round{checkpoint: l.signed, signed: []byte(l.state.Signed), answers: make(map[string]answer)}
	sizes := l.state.Sizes // which is replaced, not changed
	l.mu.Unlock()
	var (
		asking sync.WaitGroup
		mu     sync.Mutex // guards r.answers
	)
	within, cancel := context.WithTimeout(ctx, l.opt.WitnessTimeout)
	defer cancel()
	for i := range l.opt.Policy.Witnesses {
		w := &l.opt.Policy.Witnesses[i]
		if w.URL == "" {
			continue // others may have it sign what is served
		}
		asking.Go(func() {
			line, err := l.submit(within, w, r, sizes[w.Key.String()])
			if err != nil && ctx.Err() == nil {
				l.opt.Log.Warn().Err(err).Str("witness", w.Name).Uint64("size", r.checkpoint.Size).Msg("transparency log: a witness has not cosigned")
				l.mu.Lock()
				l.failures[w.Name]++
				l.mu.Unlock()
			}
			mu.Lock()
			defer mu.Unlock()
			r.answers[w.Key.String()] = answer{line, err}
		})
	}
	asking.Wait()
	if ctx.Err() != nil {
		return r
	}
	quorum, err := l.keep(r)
	switch {
	case err != nil:
		l.opt.Log.Error().Err(err).Msg("transparency log: storing cosignatures")
	case !quorum && l.opt.Policy.Demands():
		l.opt.Log.Warn().Uint64("size", r.checkpoint.Size).Msg("transparency log: too few witnesses have cosigned: the last checkpoint with a quorum is served on, for an hour")
	}
	return r
}

// submit has a witness cosign the checkpoint of a round, with a proof from the size on that it
// has cosigned last, or from where it says that it stands. ErrOutgrown if it says that it has cosigned more,
// ErrForked if it says that it has cosigned another root.
func (l *Log) submit(ctx context.Context, w *tlog.PolicyWitness, r *round, old uint64) (line []byte, err error) {
	size := r.checkpoint.Size
	for corrected := false; ; corrected = true {
		s := tlog.Submission{Old: min(old, size), Checkpoint: r.signed}
		if old > 0 && old < size {
			if s.Proof, err = l.opt.Tree.Consistency(ctx, old, size); err != nil {
				return nil, err
			}
		}
		code, kind, body, err := post(ctx, l.opt.Transport, w.URL+"/add-checkpoint", s.Marshal())
		if err != nil {
			return nil, err
		}
		switch {
		case code == http.StatusOK:
			line, _, err := tlog.ParseCosignatures(r.signed, body, w.Key)
			return line, err
		case code == http.StatusUnprocessableEntity && (s.Old == size || l.opt.Shared && corrected):
			return nil, fmt.Errorf("%w: %s says that it has cosigned another root of %d entries", ErrForked, w.Name, s.Old)
		case code != http.StatusConflict || kind != tlog.SizeType:
			return nil, fmt.Errorf("%s has answered %d: %.200q", w.Name, code, body)
		}
		has, err := tlog.ParseSize(body)
		switch {
		case err != nil:
			return nil, err
		case has > size && l.opt.Shared && has <= l.opt.Tree.Size():
			return nil, fmt.Errorf("%s says that it has cosigned %d entries, which another server has signed: it is asked again about the next checkpoint", w.Name, has)
		case has > size:
			return nil, fmt.Errorf("%w: %s says that it has cosigned %d entries, the log has signed %d", ErrOutgrown, w.Name, has, size)
		case has == s.Old && has == size:
			return nil, fmt.Errorf("%w: %s says that it has cosigned another root of %d entries", ErrForked, w.Name, size)
		case corrected || has == s.Old:
			return nil, fmt.Errorf("%s answers that it has cosigned %d entries, and refuses a proof from %d on", w.Name, has, s.Old)
		}
		old = has
	}
}

// post sends a body and returns the answer, of which no more is read than a witness may say. It
// follows no redirects.
func post(ctx context.Context, transport http.RoundTripper, url string, body []byte) (code int, kind string, answer []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return 0, "", nil, err
	}
	request.Header.Set("Content-Type", "text/plain; charset=utf-8")
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, "", nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, tlog.MaxCosignatures+1))
	kind, _, _ = mime.ParseMediaType(response.Header.Get("Content-Type"))
	return response.StatusCode, kind, answer, err
}
