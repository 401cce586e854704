package identity

import (
	"context"
	"encoding/binary"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// Sizes of pages of events.
const (
	defaultEvents = 1000
	maxEvents     = 10_000
	// unitEvents is how many events of an export, or of a stream that catches up, are as much work as another call.
	unitEvents = unitEntries
)

// eventsAtOnce is how many events of a block are held at a time: 50 kB in the form in which
// they are sent, and several times that before. There may be as many streams as admission
// allows that hold so much.
const eventsAtOnce = 100

// watchedAtOnce is how many events a message of a Watch has: 4 kB, and several times that
// while it is made. gRPC takes messages of 64 kB off a stream, and one more, before it makes
// it wait: the shorter they are, the less is held for who does not read.
const watchedAtOnce = 20

// eventCursor is a place in a listing of events: how many disconnects have been
// listed, and, once all have, the next block and the next of its events.
type eventCursor struct {
	disconnects uint32
	height      uint32
	event       uint32
}

// ListEvents implements IdentityService.
func (s *identityService) ListEvents(ctx context.Context, request *keytreev1.ListEventsRequest) (*keytreev1.ListEventsResponse, error) {
	answer := new(keytreev1.ListEventsResponse)
	bytes := 0
	token, err := s.listEvents(ctx, request, func(part *keytreev1.BlockEvents, goesOn bool) (full bool, err error) {
		bytes += proto.Size(part)
		if last := len(answer.Blocks) - 1; goesOn {
			answer.Blocks[last].Events = append(answer.Blocks[last].Events, part.Events...)
			answer.Blocks[last].More = part.More
		} else {
			answer.Blocks = append(answer.Blocks, part)
		}
		return bytes >= maxAnswer, nil
	})
	if err != nil {
		return nil, err
	}
	answer.AsOfHeight, answer.AsOfHash = token.height, token.hash.String()
	if token.cursor != nil {
		answer.NextPageToken = token.String()
	}
	return answer, nil
}

// take is given the blocks of a page part by part. A part that goes on belongs to the
// block of the part before it. The page ends when it is full.
type take func(part *keytreev1.BlockEvents, goesOn bool) (full bool, err error)

// listEvents lists a page, and returns the token of the next one, without a cursor if
// there is none. If it fails, what was taken is worth nothing.
func (s *identityService) listEvents(ctx context.Context, request *keytreev1.ListEventsRequest, take take) (*pageToken, error) {
	if err := s.unavailable(); err != nil {
		return nil, err
	}
	room, err := parsePageSize(request.GetPageSize(), defaultEvents, maxEvents)
	if err != nil {
		return nil, err
	}
	if room > defaultEvents {
		if err := admission.Long(ctx); err != nil {
			return nil, err
		}
	}
	query := queryDigest("ListEvents", nil, request.FromHeight, request.ToHeight)
	token, err := parsePageTokenFor(query, request.GetPageToken())
	if err != nil {
		return nil, err
	}
	if err := awaitPage(ctx, room); err != nil {
		return nil, err
	}
	from := s.graph.Params().StartHeight
	if request.FromHeight != nil {
		from = *request.FromHeight
	}
	if token == nil {
		if token, err = s.firstEventPage(query, from, request.ToHeight); err != nil {
			return nil, err
		}
	}
	cursor, err := parseEventCursor(token.cursor, from, token.height)
	if err != nil {
		return nil, err
	}
	next, err := s.eventPage(ctx, from, token.height, cursor, room, take)
	// Whatever was read is about the chain of the token only if its last block is
	// on the chain still.
	if header, headerErr := s.graph.BlockHeader(token.height); graph.OffChain(headerErr) || headerErr == nil && header.Hash != token.hash {
		return nil, errReorganised(token.height, token.hash)
	} else if headerErr != nil {
		return nil, s.fault(headerErr)
	}
	if err != nil {
		return nil, err
	}
	token.cursor = nil
	if next != nil {
		token.cursor = appendEventCursor(*next)
	}
	return token, nil
}

// firstEventPage checks the range asked for, and holds the listing to the block
// at its end.
func (s *identityService) firstEventPage(query [16]byte, from uint32, toHeight *uint32) (*pageToken, error) {
	tip, ok := s.graph.Tip()
	if !ok {
		return nil, errNoBlock
	}
	if from < s.graph.Params().StartHeight || from > tip.Height {
		return nil, s.outOfRange("from_height", from)
	}
	token := &pageToken{query: query, height: tip.Height, hash: tip.Hash}
	if toHeight == nil {
		return token, nil
	}
	switch to := *toHeight; {
	case to < from:
		return nil, fault.Field(codes.InvalidArgument, "to_height", "expected at least from_height, %d, got %d", from, to)
	case to > tip.Height:
		return nil, s.outOfRange("to_height", to)
	case to < tip.Height:
		header, err := s.graph.BlockHeader(to)
		if graph.OffChain(err) {
			return nil, s.outOfRange("to_height", to) // the tip has just moved back
		}
		if err != nil {
			return nil, s.fault(err)
		}
		token.height, token.hash = to, header.Hash
	}
	return token, nil
}

// eventPage lists from cursor on until room events are listed, or the page is full, or
// block to is listed. next is nil at the end of the listing.
func (s *identityService) eventPage(ctx context.Context, from, to uint32, cursor eventCursor, room int, take take) (next *eventCursor, err error) {
	full := false
	if cursor.height == from && cursor.event == 0 {
		gone, err := s.graph.Disconnects(from, to)
		if err != nil {
			return nil, s.fault(err)
		}
		for _, d := range gone[min(int(cursor.disconnects), len(gone)):] {
			if room <= 0 || full {
				return &cursor, nil
			}
			if full, err = take(disconnected(d), false); err != nil {
				return nil, err
			}
			room--
			cursor.disconnects++
		}
	}
	var before, part *chainhash.Hash // the block before; the one of which a part was listed
	for cursor.height <= to {
		if err := ctx.Err(); err != nil {
			return nil, s.fault(err)
		}
		if room <= 0 || full {
			return &cursor, nil
		}
		block, err := s.graph.Events(cursor.height, int(cursor.event), min(room, eventsAtOnce))
		if graph.OffChain(err) || err == nil && (before != nil && block.PrevHash != *before || part != nil && block.Hash != *part) {
			return nil, status.Error(codes.Aborted, "the chain was reorganised while the page was read; ask again")
		}
		if err != nil {
			return nil, s.fault(err)
		}
		rendered := s.render().connected(block)
		if cursor.event > 0 && len(rendered.Events) == 0 {
			return nil, errCursor()
		}
		if full, err = take(rendered, part != nil); err != nil {
			return nil, err
		}
		room -= max(1, len(rendered.Events))
		if block.More {
			cursor.event += uint32(len(rendered.Events))
			part = &block.Hash
			continue
		}
		before, part = &block.Hash, nil
		cursor.height, cursor.event = cursor.height+1, 0
	}
	return nil, nil
}

func appendEventCursor(c eventCursor) []byte {
	b := binary.BigEndian.AppendUint32(nil, c.disconnects)
	b = binary.BigEndian.AppendUint32(b, c.height)
	return binary.BigEndian.AppendUint32(b, c.event)
}

func parseEventCursor(b []byte, from, to uint32) (eventCursor, error) {
	if len(b) == 0 {
		return eventCursor{height: from}, nil
	}
	if len(b) != 12 {
		return eventCursor{}, errCursor()
	}
	c := eventCursor{
		disconnects: binary.BigEndian.Uint32(b),
		height:      binary.BigEndian.Uint32(b[4:]),
		event:       binary.BigEndian.Uint32(b[8:]),
	}
	if c.height < from || c.height > to {
		return eventCursor{}, errCursor()
	}
	return c, nil
}
