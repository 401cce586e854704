package audit

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/keytree-bch/keytree/protocol/proof"
)

// OldCosignatures is from what age on cosignatures are called old: a state log that goes on has new ones every hour.
const OldCosignatures = 24 * time.Hour

// ErrStateDemand says that a state proof is valid, and is not what its reader demands. Get a newer one, or one about what
// was asked for.
var ErrStateDemand = errors.New("the state proof holds, and is not what is demanded")

// StateDemands are what a reader demands of a state proof that is valid. The zero value demands nothing.
type StateDemands struct {
	Subjects []proof.StateSubject // it has to be about each of them
	MaxAge   time.Duration        // of the cosignatures that the policy demands; 0: any
	Headers  *HeaderFile          // its block has to be on this chain; nil: that is the witnesses' word
}

// StateJudgement is what a reader makes of a state proof.
type StateJudgement struct {
	Age   time.Duration // of the cosignatures that the policy demands, 0 at least; 0 if it demands none
	Old   bool          // Age is more than OldCosignatures
	Above uint32        // how many blocks are on top of the proof's block; 0 without headers
	Work  *big.Int      // how many hashes it takes on average to find these and the block itself; nil without headers
}

// JudgeState decides, at a time, whether a state proof that proof.VerifyState has let pass is what its reader demands. It asks nobody.
// ErrStateDemand, with ErrNoHeader or ErrNotOnBestChain if it is the headers that say no; or an error of reading these.
func JudgeState(ctx context.Context, p *proof.ProvenState, d StateDemands, now time.Time) (*StateJudgement, error) {
	wrong := func(format string, args ...any) (*StateJudgement, error) {
		return nil, fmt.Errorf("%w: %w", ErrStateDemand, fmt.Errorf(format, args...))
	}
	about := make(map[proof.StateSubject]bool, len(p.Subjects))
	for i := range p.Subjects {
		about[p.Subjects[i].StateSubject] = true
	}
	for _, s := range d.Subjects {
		switch {
		case about[s]:
		case s.IsID:
			return wrong("it is not about the id %v", s.ID)
		default:
			return wrong("it is not about the key %x", s.Key)
		}
	}
	j := new(StateJudgement)
	if !p.CosignedAt.IsZero() {
		j.Age = max(0, now.Sub(p.CosignedAt))
		j.Old = j.Age > OldCosignatures
	}
	switch {
	case d.MaxAge > 0 && p.CosignedAt.IsZero():
		return wrong("the policy demands no witness, so nothing tells how old it is")
	case d.MaxAge > 0 && j.Age > d.MaxAge:
		return wrong("its cosignatures are of %s, expected none older than %v: get a newer one", p.CosignedAt.UTC().Format(time.RFC3339), d.MaxAge)
	}
	if d.Headers == nil {
		return j, nil
	}
	err := d.Headers.OnBestChain(ctx, p.Entry.Height, p.Entry.Block)
	if errors.Is(err, ErrNoHeader) || errors.Is(err, ErrNotOnBestChain) {
		return wrong("block %d: %w", p.Entry.Height, err)
	}
	if err == nil {
		j.Above = d.Headers.Height() - p.Entry.Height
		j.Work, err = d.Headers.WorkFrom(p.Entry.Height)
	}
	return j, err
}
