package audit

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
)

// TestJudgeState demands of a proof that it is about something, young enough, and on a chain of headers.
func TestJudgeState(t *testing.T) {
	w := newWorld(t)
	for range 5 {
		w.mine()
	}
	headers, err := ReadHeaders(t.Context(), bytes.NewReader(w.headers), int64(len(w.headers)), testNet, Checkpoint{100, w.header(0).Hash}, w.now)
	if err != nil {
		t.Fatal(err)
	}
	key, id := proof.StateSubject{Key: protocol.KeyHash{1}}, proof.StateSubject{IsID: true, ID: chainhash.Hash{2}}
	now := time.Unix(1_800_000_000, 0)
	proven := func(height uint32, block chainhash.Hash, age time.Duration) *proof.ProvenState {
		p := &proof.ProvenState{Entry: protocol.StateEntry{Height: height, Block: block}, Subjects: []proof.ProvenSubject{{StateSubject: key}, {StateSubject: id}}}
		if age >= 0 {
			p.CosignedAt = now.Add(-age)
		}
		return p
	}
	const uncosigned = -1
	good := proven(103, w.header(3).Hash, time.Hour)
	for name, test := range map[string]struct {
		p    *proof.ProvenState
		d    StateDemands
		want error // nil: it is as demanded
		old  bool
	}{
		"nothing":             {good, StateDemands{}, nil, false},
		"all":                 {good, StateDemands{Subjects: []proof.StateSubject{id, key}, MaxAge: time.Hour, Headers: headers}, nil, false},
		"another key":         {good, StateDemands{Subjects: []proof.StateSubject{key, {Key: protocol.KeyHash{3}}}}, ErrStateDemand, false},
		"another id":          {good, StateDemands{Subjects: []proof.StateSubject{{IsID: true, ID: chainhash.Hash{3}}}}, ErrStateDemand, false},
		"older":               {good, StateDemands{MaxAge: time.Hour - time.Second}, ErrStateDemand, false},
		"old":                 {proven(103, w.header(3).Hash, 25*time.Hour), StateDemands{}, nil, true},
		"of the future":       {proven(103, w.header(3).Hash, 0), StateDemands{MaxAge: time.Nanosecond}, nil, false},
		"not cosigned":        {proven(103, w.header(3).Hash, uncosigned), StateDemands{}, nil, false},
		"not cosigned, young": {proven(103, w.header(3).Hash, uncosigned), StateDemands{MaxAge: time.Hour}, ErrStateDemand, false},
		"another block":       {proven(103, w.header(4).Hash, 0), StateDemands{Headers: headers}, ErrNotOnBestChain, false},
		"beyond the headers":  {proven(107, w.header(3).Hash, 0), StateDemands{Headers: headers}, ErrNoHeader, false},
		"before the headers":  {proven(99, w.header(3).Hash, 0), StateDemands{Headers: headers}, ErrNoHeader, false},
	} {
		j, err := JudgeState(t.Context(), test.p, test.d, now)
		if !errors.Is(err, test.want) || err != nil && !errors.Is(err, ErrStateDemand) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
			continue
		}
		if err != nil {
			continue
		}
		if j.Old != test.old || (test.d.Headers != nil) != (j.Work != nil) {
			t.Errorf("%s: %+v", name, j)
		}
		if j.Work != nil && (j.Above != 3 || j.Work.Int64() != 8) {
			t.Errorf("%s: %d blocks above, work %v", name, j.Above, j.Work)
		}
	}
}
