package identity

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	"github.com/keytree-bch/keytree/rpc/rest"
)

// exportPath is where REST has history as lines of JSON.
const exportPath = "/v1/export"

const (
	defaultExport = 10_000
	maxExport     = 100_000
	// exportFormat is raised when the bytes of a line change that a block has had.
	exportFormat = "1"
	// exportAtOnce is how many events of a block are held at a time.
	exportAtOnce = 500
)

// exporter writes the blocks of the chain from one height to another, each a line: a BlockEvents in JSON, whole but for the state root. It holds
// a piece of a line at a time, and no view while it writes: whoever reads slowly holds up nobody else.
type exporter struct {
	*graphReader
	next, last uint32
	have       *chainhash.Hash // of the block before next; nil if the client named none
	owed       int             // events, or blocks without, that are not counted as work yet
}

// exportAsked reads a request.
func (s *identityService) exportAsked(r *http.Request) (*exporter, error) {
	if err := rest.CheckQuery(r.URL.RawQuery, map[string]protoreflect.Kind{
		"after_height": protoreflect.Uint32Kind, "after_hash": protoreflect.StringKind, "count": protoreflect.Uint32Kind}); err != nil {
		return nil, err
	}
	query := r.URL.Query()
	asked, _ := strconv.ParseUint(query.Get("count"), 10, 32) // CheckQuery has read it, as after_height
	count, err := parseCount(uint32(asked))
	if err != nil {
		return nil, err
	}
	if err := s.unavailable(); err != nil {
		return nil, err
	}
	tip, ok := s.graph.Tip()
	if !ok {
		return nil, errNoBlock
	}
	e := &exporter{graphReader: &s.graphReader, next: s.graph.Params().StartHeight}
	switch {
	case query.Has("after_height"):
		after, _ := strconv.ParseUint(query.Get("after_height"), 10, 32)
		if after+1 < uint64(e.next) || after > uint64(tip.Height) {
			return nil, s.outOfRange("after_height", uint32(after))
		}
		e.next = uint32(after) + 1
	case query.Has("after_hash"):
		return nil, fault.Field(codes.InvalidArgument, "after_height", "expected the height of the block after_hash, got nothing")
	}
	if query.Has("after_hash") {
		if e.have, err = s.after(e.next-1, query.Get("after_hash")); err != nil {
			return nil, err
		}
	}
	e.last = uint32(min(uint64(tip.Height), uint64(e.next)+uint64(count)-1))
	return e, admission.Long(r.Context())
}

// parseCount reads how many blocks are asked for: 0 means the default.
func parseCount(count uint32) (uint32, error) {
	switch {
	case count == 0:
		return defaultExport, nil
	case count > maxExport:
		return 0, fault.Field(codes.InvalidArgument, "count", "expected at most %d, got %d", maxExport, count)
	}
	return count, nil
}

// after checks that the block at a height is the one that the client has.
func (s *identityService) after(height uint32, text string) (*chainhash.Hash, error) {
	hash, err := parseHash("after_hash", text)
	if err != nil {
		return nil, err
	}
	header, err := s.graph.BlockHeader(height)
	switch {
	case graph.OffChain(err):
		return nil, s.outOfRange("after_height", height)
	case err != nil:
		return nil, s.fault(err)
	case header.Hash != hash:
		return nil, fault.Field(codes.Aborted, "after_hash", "block %d is %s, not %s, which is not on the chain, or not any more: drop it, and ask after an earlier one", height, header.Hash, hash)
	}
	return &hash, nil
}

// errFork says that the next block does not follow the one before: the chain was reorganised between two lines.
var errFork = errors.New("the chain was reorganised between two blocks")

// export answers exportPath. It ends, with the end of a line, before a block that does not follow the line before; and
// when it has been more work than its client may ask for. A reorganisation within a line breaks the connection off.
func (s *identityService) export(w http.ResponseWriter, r *http.Request, _ map[string]string) {
	out := s.answers.New(w)
	e, err := s.exportAsked(r)
	if err == nil {
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.Header().Set("Keytree-Export-Format", exportFormat)
		// It outlives the call's time: admission has the client take each piece in time, and
		// when the connection ends, every write fails.
		err = e.write(context.WithoutCancel(r.Context()), out)
	}
	out.End(err)
}

func (e *exporter) write(ctx context.Context, out *rest.Answer) error {
	for ; e.next <= e.last; e.next++ {
		events, err := e.line(ctx, out)
		if errors.Is(err, errFork) {
			return nil
		}
		if err != nil {
			return err
		}
		if events == 0 {
			e.owed++
		}
		if e.pay(ctx) > 0 {
			return nil
		}
	}
	return nil
}

// pay takes what was written out of the budget of work of the client, and returns how long to wait until there is as
// much.
func (e *exporter) pay(ctx context.Context) (wait time.Duration) {
	if wait = demanded(ctx, e.owed/unitEvents); wait == 0 {
		e.owed %= unitEvents
	}
	return wait
}

// payWithin pays for a part of a line. A line is not broken off, however many events payers of fees put into a block:
// it waits until the client may ask for more. That is not long for a part.
func (e *exporter) payWithin(ctx context.Context) error {
	units := e.owed / unitEvents
	e.owed %= unitEvents
	return await(ctx, units)
}

// line writes the next block, and returns how many events it has. errFork if it is not to be written; else a gRPC status,
// or what writing fails with.
func (e *exporter) line(ctx context.Context, out *rest.Answer) (events int, err error) {
	block, err := e.graph.Events(e.next, 0, exportAtOnce)
	if graph.OffChain(err) || err == nil && e.have != nil && block.PrevHash != *e.have {
		return 0, errFork
	}
	if err != nil {
		return 0, e.fault(err)
	}
	hash := block.Hash
	e.have = &hash
	rendered := e.render().connected(block)
	out.Text = appendLineStart(out.Text, rendered)
	for {
		for _, event := range rendered.Events {
			if events++; events > 1 {
				out.Text = append(out.Text, ',')
			}
			out.Text = appendEvent(out.Text, event)
			if err := out.Pass(); err != nil {
				return events, err
			}
		}
		e.owed += len(rendered.Events)
		if !block.More {
			out.Text = append(appendBlockEnd(out.Text, false), '\n')
			return events, out.Pass()
		}
		if err := e.payWithin(ctx); err != nil {
			return events, err
		}
		if block, err = e.graph.Events(e.next, events, exportAtOnce); graph.OffChain(err) || err == nil && block.Hash != hash {
			err = graph.ErrReorganised
		}
		if err != nil {
			return events, e.fault(err)
		}
		rendered = e.render().connected(block)
	}
}
