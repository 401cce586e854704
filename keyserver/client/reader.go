package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"time"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// Reader asks a keyserver for what it shows to everybody. Nothing of the answers
// has been verified: that is for who asks. It is for one goroutine at a time.
type Reader struct {
	wire *wire
	caps *capabilities // nil until the first call
}

// NewReader returns a reader of the keyserver under a URL (CheckURL). transport may
// be nil.
func NewReader(url string, transport http.RoundTripper) *Reader {
	return &Reader{wire: newWire(url, Options{Transport: transport})}
}

func (r *Reader) online(ctx context.Context) (*capabilities, error) {
	if r.caps == nil {
		caps, err := r.wire.capabilities(ctx)
		if err != nil {
			return nil, err
		}
		r.caps = caps
	}
	return r.caps, nil
}

// Schedule returns how often the keyserver says that it anchors its hashchain, which may
// be out of bounds (schedule.Schedule.Check); nil if it says nothing of it.
func (r *Reader) Schedule(ctx context.Context) (*schedule.Schedule, error) {
	caps, err := r.online(ctx)
	if err != nil || caps.AnchorInterval == 0 && caps.AnchorHeartbeat == 0 && caps.AnchorMaxEntries == 0 {
		return nil, err
	}
	return &schedule.Schedule{
		Interval:   time.Duration(caps.AnchorInterval) * time.Second,
		MaxEntries: uint64(caps.AnchorMaxEntries),
		Heartbeat:  time.Duration(caps.AnchorHeartbeat) * time.Second,
	}, nil
}

// errEnough ends a download that nobody wants more of.
var errEnough = errors.New("enough")

// Entries yields the hashchain from a position on, in pieces, to its end as of the
// call; nothing if it ends before.
func (r *Reader) Entries(ctx context.Context, from uint64) iter.Seq2[[]hashchain.Entry, error] {
	return func(yield func([]hashchain.Entry, error) bool) {
		caps, err := r.online(ctx)
		var last uint64
		if err == nil {
			_, last, err = r.wire.last(ctx, caps)
		}
		if err == nil {
			load := func(ctx context.Context, first, count uint64) ([]hashchain.Entry, error) {
				return r.wire.entries(ctx, caps, first, count)
			}
			err = inPieces(ctx, from, last+1, load, func(_ uint64, entries []hashchain.Entry) error {
				if !yield(entries, nil) {
					return errEnough
				}
				return nil
			})
		}
		if err != nil && !errors.Is(err, errEnough) {
			yield(nil, err)
		}
	}
}

// Positions returns where the keyserver says that the entries of an identity
// (mapped) are.
func (r *Reader) Positions(ctx context.Context, identity string) ([]uint64, error) {
	caps, err := r.online(ctx)
	if err != nil {
		return nil, err
	}
	method, err := caps.offers("KeyHashchain.LookupUID", "KeyRepository.LookupUID")
	if err != nil {
		return nil, err
	}
	answer, err := call[struct{ HCPositions []uint64 }](ctx, r.wire, method, struct{ Identity string }{identity}, maxAnswer)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", identity, err)
	}
	return answer.HCPositions, nil
}

// Reply returns what the key repository has under a UIDIndex.
func (r *Reader) Reply(ctx context.Context, index hashchain.Hash) (*uid.Reply, error) {
	caps, err := r.online(ctx)
	if err != nil {
		return nil, err
	}
	return r.wire.reply(ctx, caps, index)
}

// LogStatement asks which transparency log the keyserver says that its hashchain is served as
// (keyserver/TLOG.md §2); nil if it says nothing of it.
func (r *Reader) LogStatement(ctx context.Context) (*hashchain.SignedLogStatement, error) {
	caps, err := r.wire.capabilities(ctx) // now, since it speaks of a size
	if err != nil {
		return nil, err
	}
	return caps.LogStatement, nil
}

// Checkpoint returns the checkpoint that the keyserver's transparency log shows.
func (r *Reader) Checkpoint(ctx context.Context) ([]byte, error) { return r.wire.checkpoint(ctx) }

// Tile returns a tile or an entry bundle of the transparency log. Whether it has the width that
// was asked for has been checked.
func (r *Reader) Tile(ctx context.Context, t tlog.Tile) ([]byte, error) {
	size := int64(t.W * len(tlog.Hash{}))
	if t.L < 0 {
		size = int64(t.W * (2 + hashchain.EntrySize))
	}
	content, err := r.wire.get(ctx, logPath+tlog.Path(t), size)
	if err == nil && int64(len(content)) != size {
		err = fmt.Errorf("%w: expected %d bytes, got %d", ErrAnswer, size, len(content))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tlog.Path(t), err)
	}
	return content, nil
}
