package tlog

import (
	"context"
	"maps"
	"time"
)

// Checkpoint returns the checkpoint that readers get, and whether it has the quorum of
// cosignatures that the policy demands: the newest that has; or, when there was none for an hour,
// the newest of all. ErrNone if nothing was signed yet; ErrBehind or ErrForked if the hashchain
// is not what was signed.
func (l *Log) Checkpoint() (signed []byte, witnessed bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	demands := l.opt.Policy != nil && l.opt.Policy.Demands() || l.opt.ReadOnly && l.quorum > 0
	switch {
	case l.state.Signed == "":
		return nil, false, ErrNone
	case l.stopped != nil && !l.checked:
		return nil, false, l.stopped
	case l.quorum == l.signed.Size, demands && l.quorum > 0 && !l.late():
		return []byte(l.state.Witnessed), true, nil
	}
	return []byte(l.state.Signed), !demands, nil
}

// late tells whether there was no quorum for so long that the newest checkpoint is served
// without. mu is held.
func (l *Log) late() bool {
	return l.opt.Now().Sub(time.Unix(int64(l.state.WitnessedAt), 0)) > loneAfter
}

// Status is how far a log has come.
type Status struct {
	Signed      uint64    // entries in the checkpoint that was signed last; 0 for none
	Witnessed   uint64    // entries in the last that had the policy's quorum; 0 for none
	WitnessedAt time.Time // when it had it; zero for never
	// Failures is how often each witness, by its name in the policy, was asked since the start and has
	// not cosigned.
	Failures map[string]uint64
}

// Status returns how far the log has come.
func (l *Log) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Status{Signed: l.signed.Size, Witnessed: l.quorum, Failures: maps.Clone(l.failures)}
	if l.quorum > 0 {
		s.WitnessedAt = time.Unix(int64(l.state.WitnessedAt), 0)
	}
	return s
}

// Witnesses are the names, as in the policy, of the witnesses that are asked.
func (l *Log) Witnesses() (names []string) {
	if l.opt.Policy == nil {
		return nil
	}
	for i := range l.opt.Policy.Witnesses {
		if w := &l.opt.Policy.Witnesses[i]; w.URL != "" {
			names = append(names, w.Name)
		}
	}
	return names
}

// Newest is Checkpoint, for who copies the log.
func (l *Log) Newest(context.Context) ([]byte, error) {
	signed, _, err := l.Checkpoint()
	return signed, err
}

// quorumOf returns the size of a checkpoint with cosignatures; 0 if it has not what the
// policy demands, which may be another than when it was stored.
func (l *Log) quorumOf(cosigned string) uint64 {
	if l.opt.Policy == nil || cosigned == "" {
		return 0
	}
	opened, err := l.opt.Policy.OpenOf(l.Key(), []byte(cosigned))
	if err != nil || opened.Quorum(0) != nil {
		return 0
	}
	return opened.Checkpoint.Size
}

// keep stores what witnesses have answered, and serves the checkpoint with their signatures if
// these are a quorum. It reports whether they are.
func (l *Log) keep(r *round) (quorum bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.state
	s.Sizes = maps.Clone(s.Sizes)
	if s.Sizes == nil {
		s.Sizes = make(map[string]uint64)
	}
	cosigned := string(r.signed)
	for key, a := range r.answers {
		cosigned += string(a.line)
		if a.err == nil {
			s.Sizes[key] = r.checkpoint.Size
		}
	}
	size := l.quorumOf(cosigned)
	switch {
	case size > 0:
		s.Witnessed, s.WitnessedAt = cosigned, uint64(max(0, l.opt.Now().Unix()))
	case maps.Equal(s.Sizes, l.state.Sizes):
		return false, nil
	}
	if err := s.write(l.opt.StateFile); err != nil {
		return false, err
	}
	if l.state = s; size > 0 {
		l.quorum = size
	}
	return size > 0, nil
}
