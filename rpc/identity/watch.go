package identity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/push"
)

// comparedEvents is how many events cost what it costs to compare two answers about a key or an identity: unitBatch answers,
// or unitEvents events, are another call.
const comparedEvents = 2 * unitEvents / unitBatch

// Watch implements IdentityService.
func (s *identityService) Watch(request *keytreev1.WatchRequest, stream grpc.ServerStreamingServer[keytreev1.WatchResponse]) error {
	// Who knows of blocks alone is told of nothing else.
	marked := len(request.GetAddresses())+len(request.GetIds()) > 0 || request.GetUnconfirmed() || request.GetLastId() != ""
	f, err := s.newFollower(stream.Context(), request, marked, stream.Send)
	if err != nil {
		return err
	}
	if err := stream.SendHeader(nil); err != nil { // the stream has begun
		f.filter.Close()
		return err
	}
	return f.tell(stream.Context())
}

// Follow implements push.Source.
func (s *identityService) Follow(ctx context.Context, request *keytreev1.WatchRequest, send func(*keytreev1.WatchResponse) error) (tell func() error, err error) {
	f, err := s.newFollower(ctx, request, true, send)
	if err != nil {
		return nil, err
	}
	return func() error { return f.tell(ctx) }, nil
}

// tell tells send what was asked for until ctx ends or send fails, and ends the follower.
func (f *follower) tell(ctx context.Context) error {
	defer f.filter.Close()
	var beat <-chan time.Time
	if f.marked {
		ticker := time.NewTicker(f.heartbeat)
		defer ticker.Stop()
		beat = ticker.C
		if err := f.mark(); err != nil {
			return err
		}
	}
	for {
		// Taken before looking, so that no change between the two is missed.
		changed, pending := f.graph.Changed(), f.graph.PendingChanged()
		wait, err := f.advance(ctx, beat)
		if err != nil {
			return err
		}
		var again <-chan time.Time
		if wait > 0 {
			again = time.After(wait)
		}
		if f.place == nil {
			pending = nil
		}
		select {
		case <-ctx.Done():
			return f.gone(ctx)
		case <-changed:
		case <-pending:
		case <-again:
		case <-beat:
			if err := f.mark(); err != nil {
				return err
			}
		}
	}
}

// follower is one stream. It holds no more than its places and its filter, and the message being
// sent: what a slow client has yet to be sent stays in the graph. One goroutine uses it.
type follower struct {
	*identityService
	send   func(*keytreev1.WatchResponse) error
	marked bool // whether the client is told what it has, even if there is nothing else to tell
	cursor *push.Cursor
	filter *push.Filter
	place  *push.Place // nil for a follower of blocks alone
	would  []byte      // digest of what the client was told that all that is pending would do; nil for nothing
	asked  uint64      // generation of what is pending for which that was asked
	listed bool        // whether the client was told that it has all that was pending at first

	old  uint32 // height of the tip when the follower began: work for blocks up to there is the client's
	owed int    // of such work: events, or what costs as much

	id   string // of what the client has
	open bool   // whether the client was told a part of a block, of which more follows
}

// newFollower returns what tells send what a request asks for. It has to be told, or its filter closed.
func (s *identityService) newFollower(ctx context.Context, request *keytreev1.WatchRequest, marked bool, send func(*keytreev1.WatchResponse) error) (f *follower, err error) {
	if err := s.unavailable(); err != nil {
		return nil, err
	}
	f = &follower{identityService: s, send: send, marked: marked}
	if f.cursor, err = s.newCursor(request, marked); err != nil {
		return nil, err
	}
	if tip, ok := s.graph.Tip(); ok {
		f.old = tip.Height
	}
	f.id, f.open = f.cursor.ID(), f.cursor.Within()
	if request.GetUnconfirmed() {
		f.place = new(push.Place)
	}
	f.filter, err = s.newFilter(ctx, request)
	return f, err
}

// newFilter reads what concerns a follower.
func (s *identityService) newFilter(ctx context.Context, request *keytreev1.WatchRequest) (*push.Filter, error) {
	for field, n := range map[string]int{"addresses": len(request.GetAddresses()), "ids": len(request.GetIds())} {
		if n > graph.MaxFollowed {
			return nil, fault.Field(codes.InvalidArgument, field, "expected at most %d, got %d", graph.MaxFollowed, n)
		}
	}
	keys := make([]protocol.KeyHash, len(request.GetAddresses()))
	for i, address := range request.GetAddresses() {
		var err error
		if keys[i], err = parseAddress(fmt.Sprintf("addresses[%d]", i), address, s.net); err != nil {
			return nil, err
		}
	}
	ids := make([]chainhash.Hash, len(request.GetIds()))
	for i, id := range request.GetIds() {
		var err error
		if ids[i], err = parseHash(fmt.Sprintf("ids[%d]", i), id); err != nil {
			return nil, err
		}
	}
	if err := admission.Keep(ctx, push.Bytes(len(keys), len(ids))); err != nil {
		return nil, err
	}
	filter, err := push.NewFilter(s.graph, keys, ids)
	switch {
	case errors.Is(err, graph.ErrMemory):
		return nil, push.NoRoom()
	case err != nil:
		return nil, s.fault(err)
	}
	return filter, nil
}

// newCursor returns the place from which a request wants to go on. Who asks for what is new alone has the
// tip, if he is told what he has.
func (s *identityService) newCursor(request *keytreev1.WatchRequest, marked bool) (*push.Cursor, error) {
	tip, ok := s.graph.Tip()
	if !ok {
		return nil, errNoBlock
	}
	start, next := s.graph.Params().StartHeight, tip.Height+1
	if id := request.GetLastId(); id != "" {
		cursor, err := push.ParseID(s.graph, id)
		if err != nil {
			return nil, fault.Field(codes.InvalidArgument, "last_id", "%v, got %q", err, fault.Shortened(id))
		}
		if request.FromHeight != nil && request.GetKnownHash() == "" {
			cursor.Began(*request.FromHeight)
		}
		return cursor, nil
	}
	switch {
	case request.FromHeight != nil:
		next = *request.FromHeight
	case marked && request.GetKnownHash() == "":
		return push.After(s.graph, tip.Height, tip.Hash), nil
	}
	if request.GetKnownHash() == "" {
		if next < start || next > tip.Height+1 {
			return nil, fault.Field(codes.OutOfRange, "from_height",
				"expected a height from %d (start height) to %d (one beyond the tip), got %d", start, tip.Height+1, next)
		}
		return push.From(s.graph, next), nil
	}

	known, err := parseHash("known_hash", request.GetKnownHash())
	switch {
	case err != nil:
		return nil, err
	case request.FromHeight == nil:
		return nil, fault.Field(codes.InvalidArgument, "from_height", "expected the height after the block known_hash, got nothing")
	case next <= start:
		return nil, fault.Field(codes.OutOfRange, "from_height",
			"expected more than %d (start height) together with known_hash, got %d: no earlier block is indexed", start, next)
	}
	return push.After(s.graph, next-1, known), nil
}

// mark tells the client what it has.
func (f *follower) mark() error { return f.send(&keytreev1.WatchResponse{Id: f.id}) }

// advance tells of what lies between the follower's places and now. If wait is not 0, there may be
// more then. It takes turns with others: of all whom a block concerns a few only have their messages made at once.
func (f *follower) advance(ctx context.Context, beat <-chan time.Time) (wait time.Duration, err error) {
	defer admission.EndTurn(ctx)
	for {
		admission.EndTurn(ctx)
		if err := admission.Turn(ctx); err != nil {
			return 0, f.gone(ctx)
		}
		if wait := f.pay(ctx); wait > 0 {
			return wait, nil
		}
		select {
		case <-beat:
			if err := f.mark(); err != nil {
				return 0, err
			}
		default:
		}
		message, more, err := f.nextBlock(ctx)
		switch {
		case err != nil:
			return 0, err
		case !more && f.place == nil:
			return 0, nil
		case !more:
			if wait, more, err = f.advancePending(ctx); err != nil || !more {
				return wait, err
			}
		case message != nil:
			// While the message waits for a slow client, nothing is kept of what it was made of.
			if err := f.send(message); err != nil {
				return 0, err
			}
		}
	}
}

// pay takes what the follower owes out of the budget of work of its client, and returns how long to wait until
// there is some: then the client is behind for so long.
func (f *follower) pay(ctx context.Context) (wait time.Duration) {
	if wait = demanded(ctx, f.owed/unitEvents); wait == 0 {
		f.owed %= unitEvents
	}
	return wait
}

// gone is the error for a stream whose context has ended.
func (f *follower) gone(ctx context.Context) error {
	var refusal *admission.Refusal
	if errors.As(context.Cause(ctx), &refusal) {
		return push.Shed(refusal)
	}
	return f.fault(ctx.Err())
}

// nextBlock moves on, and returns what the client is to be told; nil if it does not concern it.
// more is false at the tip.
func (f *follower) nextBlock(ctx context.Context) (message *keytreev1.WatchResponse, more bool, err error) {
	height, hash, _ := f.cursor.At()
	step, more, err := f.cursor.Next(watchedAtOnce)
	switch {
	case errors.Is(err, push.ErrUnknown):
		tip, _ := f.graph.Tip()
		return nil, false, push.Lost(height, hash.String(), tip.Height)
	case err != nil:
		return nil, false, f.fault(err)
	case !more:
		return nil, false, nil
	case step.Disconnected != nil:
		message, err = f.disconnected(ctx, step.Disconnected)
	default:
		message, err = f.connected(ctx, step.Connected)
	}
	if message != nil || !f.cursor.Within() {
		f.id = f.cursor.ID()
	}
	if message != nil {
		message.Id = f.id
	}
	return message, true, err
}

// disconnected tells of a block that was taken back. Whether something in it concerned the
// client, nobody knows any more.
func (f *follower) disconnected(ctx context.Context, gone *graph.Disconnected) (*keytreev1.WatchResponse, error) {
	f.open = false
	changes, err := f.filter.Disconnected(ctx, gone)
	if err != nil {
		return nil, f.fault(err)
	}
	return f.changed(&keytreev1.WatchResponse{Block: disconnected(*gone)}, changes), nil
}

// connected tells of a part of a block, nil if nothing in it concerns the client.
func (f *follower) connected(ctx context.Context, block *graph.BlockEvents) (*keytreev1.WatchResponse, error) {
	changes, err := f.filter.Connected(ctx, block)
	switch {
	case errors.Is(err, graph.ErrReorganised), errors.Is(err, graph.ErrHeight): // its DISCONNECT comes next
		changes = graph.Changes{Unsure: true}
	case err != nil:
		return nil, f.fault(err)
	}
	if block.Height <= f.old {
		f.owed += max(1, len(block.Effects)+len(block.Anchors)) + comparedEvents*changes.Compared
	}
	f.filter.Pick(block)
	concerns := f.filter == nil || f.open || len(block.Effects)+len(block.Anchors)+len(changes.Keys)+len(changes.IDs) > 0 || changes.Unsure
	if !concerns {
		return nil, nil
	}
	f.open = block.More
	return f.changed(&keytreev1.WatchResponse{Block: f.render().connected(*block)}, changes), nil
}

// changed adds to a message what changed of the filter. If not all of that is sure, it says so in place of what may be
// everything.
func (f *follower) changed(m *keytreev1.WatchResponse, changes graph.Changes) *keytreev1.WatchResponse {
	if m.Unsure = changes.Unsure; changes.Unsure && m.Block.GetType() == "DISCONNECT" {
		return m
	}
	for _, key := range changes.Keys {
		m.Changed = append(m.Changed, f.render().address(key))
	}
	for _, id := range changes.IDs {
		m.ChangedIds = append(m.ChangedIds, id.String())
	}
	return m
}
