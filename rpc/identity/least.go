package identity

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/grpc/codes"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
)

// MinHeight is the name, of a header over REST and of metadata over gRPC, by which a request says which block its answer
// has to know at least: HEIGHT or HEIGHT-HASH. So a client that is balanced over servers does not go back in time.
const MinHeight = "keytree-min-height"

const (
	// MinHeightWait is how long a request waits for the block that it names.
	MinHeightWait = 2 * time.Second
	// minHeightAgain is after what time to ask again that has waited in vain.
	minHeightAgain = time.Second
)

// least is a block that a request names.
type least struct {
	height uint32
	hash   *chainhash.Hash // nil: any at the height
}

func parseLeast(text string) (l least, err error) {
	number, hash, named := strings.Cut(text, "-")
	height, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return l, fault.Field(codes.InvalidArgument, MinHeight, "expected HEIGHT or HEIGHT-HASH, got %q", fault.Shortened(text))
	}
	l.height = uint32(height)
	if named {
		parsed, err := parseHash(MinHeight, hash)
		if err != nil {
			return l, err
		}
		l.hash = &parsed
	}
	return l, nil
}

// Await waits until the graph has the block that a request names, for MinHeightWait at most. UNAVAILABLE if it is not that
// far then, ABORTED if it has another block there: both say when to ask again. "" names none. What the services
// are then asked may still be answered as of a lower height if that is what is asked for.
func (s *Services) Await(ctx context.Context, named string) error {
	if named == "" || s.reader.graph == nil || s.reader.graph.Err() != nil { // what is asked then says so itself
		return nil
	}
	l, err := parseLeast(named)
	if err != nil {
		return err
	}
	defer admission.Wait(ctx)()
	timeout := time.NewTimer(MinHeightWait)
	defer timeout.Stop()
	for {
		changed := s.reader.graph.Changed() // before looking, so that no change between the two is missed
		err := s.reader.has(l)
		if _, later := fault.RetryAfter(err); !later {
			return err
		}
		select {
		case <-changed:
		case <-timeout.C:
			return err
		case <-ctx.Done():
			if refusal := new(admission.Refusal); errors.As(context.Cause(ctx), &refusal) {
				return refusal
			}
			return s.reader.fault(ctx.Err())
		}
	}
}

// has returns nil if the graph has a block, and else what it has.
func (r *graphReader) has(l least) error {
	tip, ok := r.graph.Tip()
	switch {
	case !ok:
		return fault.Later(codes.Unavailable, minHeightAgain, MinHeight, "block %d is asked for, and none is indexed yet: ask again later, or another server", l.height)
	case tip.Height < l.height:
		return fault.Later(codes.Unavailable, minHeightAgain, MinHeight, "block %d is asked for, and the server is at %d: ask again later, or another server", l.height, tip.Height)
	case l.hash == nil:
		return nil
	}
	header, err := r.graph.BlockHeader(l.height)
	switch {
	case graph.OffChain(err) && l.height >= r.graph.Params().StartHeight: // the tip has just moved back
		return fault.Later(codes.Unavailable, minHeightAgain, MinHeight, "block %d is asked for, and the chain is being reorganised: ask again later, or another server", l.height)
	case graph.OffChain(err):
		return r.outOfRange(MinHeight, l.height)
	case err != nil:
		return r.fault(err)
	case header.Hash != *l.hash:
		return fault.Later(codes.Aborted, minHeightAgain, MinHeight, "block %d is %s here, a different branch from %s, of which one was or will be reorganised away: ask again later, or another server", l.height, header.Hash, l.hash)
	}
	return nil
}
