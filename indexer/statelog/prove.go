package statelog

import (
	"context"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/protocol"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// Served is the checkpoint of the state log that readers get at a time, of one entry at least, with the entries that it
// covers. It may be used concurrently.
type Served struct {
	*tlog.Served
	epoch *epoch
	start uint32 // height of entry 0
}

// Served returns the checkpoint that readers get of the epoch that is not frozen. tlog.ErrNone if nothing was signed yet
// or without a key; else what tlog.Log.Served has.
func (p *Publisher) Served() (*Served, error) {
	e := p.current()
	if e.log == nil {
		return nil, fmt.Errorf("%w: this state log has no key", tlog.ErrNone)
	}
	s, err := e.log.Served()
	if err == nil && s.Size == 0 {
		err = tlog.ErrNone
	}
	if err != nil {
		return nil, err
	}
	return &Served{s, e, p.opt.Chain.Params().StartHeight}, nil
}

// Newest is the height of the newest block that the checkpoint covers.
func (s *Served) Newest() uint32 { return s.start + uint32(s.Size-1) }

// Entry returns that of the block at a height, from the start height to Newest, and the proof that it is in the log, without
// extra data. format.ErrProof for another height, or if the files do not have what was signed.
func (s *Served) Entry(ctx context.Context, height uint32) (protocol.StateEntry, *format.Proof, error) {
	if height < s.start || height > s.Newest() {
		return protocol.StateEntry{}, nil, fmt.Errorf("%w: the checkpoint covers blocks %d to %d, not %d", format.ErrProof, s.start, s.Newest(), height)
	}
	index := uint64(height - s.start)
	e, err := s.epoch.entry(index)
	if err != nil {
		return e, nil, err
	}
	b := e.Bytes()
	p, err := s.Prove(ctx, index, b[:])
	return e, p, err
}
