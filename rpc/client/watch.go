package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/cenkalti/backoff/v4"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

const (
	// FirstPause is about how long an interrupted Watch waits the first time. It waits twice
	// as long each time after that, up to LongestPause; if the server wants more time, up to
	// MostPatience.
	FirstPause   = time.Second
	LongestPause = time.Minute
	MostPatience = 10 * time.Minute
)

// Cursor is where an app stands: the last block that it has taken in whole. Who must miss
// nothing stores it together with what was made of the block.
type Cursor struct {
	Height uint32
	Hash   string
}

// Update is what a Watch brings: a block, or a part of one that has many events.
type Update struct {
	*Block
	// Cursor is where the app stands when it has taken the update in. nil as long as more
	// parts of the block follow, and when the first block that it had was disconnected.
	Cursor *Cursor
}

// Watch yields each block that is connected or disconnected after the one of a cursor; after
// the tip, if it is nil. If that block has left the chain, it begins with the DISCONNECTs
// that lead back to the fork. It goes on until ctx ends or the loop does.
//
// When the server goes away or refuses, it tries again until it is back, as often as is good
// for both, and goes on where it was: nothing is missed, and nothing comes twice. What a
// second try does not change ends it with an error: FAILED_PRECONDITION if the server does
// not know the cursor's block any more, when an app has to begin again from a lower height.
// The error is that of ctx if that has ended.
func (c *Client) Watch(ctx context.Context, after *Cursor) iter.Seq2[*Update, error] {
	return func(yield func(*Update, error) bool) {
		(&watch{client: c, yield: yield, after: after}).run(ctx)
	}
}

// WatchFrom is Watch from the block at a height on, from the server's start height to one
// beyond the tip. OUT_OF_RANGE if it is another one.
func (c *Client) WatchFrom(ctx context.Context, height uint32) iter.Seq2[*Update, error] {
	return func(yield func(*Update, error) bool) {
		(&watch{client: c, yield: yield, placed: true, next: height, floor: height}).run(ctx)
	}
}

// watch is one iteration. One goroutine uses it.
type watch struct {
	client *Client
	yield  func(*Update, error) bool
	after  *Cursor // where to begin; nil for the tip

	placed bool   // the next three are known
	next   uint32 // height of the next block
	have   string // hash of the block before it; "" if the app has none
	floor  uint32 // height of the first block that the app can have

	part  *Block // of which a part was yielded, without its events; else nil
	shown int    // how many of its events were
	skip  int    // how many of those this stream has yet to repeat
	again bool   // this stream has said nothing yet, and the server does not know of part
}

var (
	// errEnough says that the loop has ended.
	errEnough = errors.New("the loop has ended")
	errEnded  = status.Error(codes.Unavailable, "the server ended the stream")
)

// run streams until there is a reason not to.
func (w *watch) run(ctx context.Context) {
	pause := newPause()
	for {
		err := w.stream(ctx, pause.Reset)
		switch {
		case errors.Is(err, errEnough):
			return
		case ctx.Err() != nil:
			w.yield(nil, ctx.Err())
			return
		case final(err):
			w.yield(nil, err)
			return
		}
		if err := w.client.sleep(ctx, w.client.longer(pause, err)); err != nil {
			w.yield(nil, err)
			return
		}
	}
}

// newPause returns the pauses of a watch that is interrupted again and again.
func newPause() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(FirstPause), backoff.WithMultiplier(2), backoff.WithMaxInterval(LongestPause), backoff.WithMaxElapsedTime(0))
}

// longer returns the next pause of a watch that was interrupted, longer if the server wants so, and
// tells of it.
func (c *Client) longer(pause *backoff.ExponentialBackOff, interrupted error) time.Duration {
	after := pause.NextBackOff()
	if wanted, refused := RetryAfter(interrupted); refused {
		after = max(after, min(wanted, MostPatience))
	}
	if c.retrying != nil {
		c.retrying(interrupted, after)
	}
	return after
}

// final tells whether the same would be answered again.
func final(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.OutOfRange, codes.FailedPrecondition, codes.Unimplemented,
		codes.PermissionDenied, codes.Unauthenticated, codes.DataLoss:
		return true
	}
	return false
}

// stream yields what one stream brings, and calls began when it brings something.
func (w *watch) stream(ctx context.Context, began func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := w.place(ctx); err != nil {
		return err
	}
	w.skip, w.again = w.shown, w.part != nil
	stream, err := w.client.identities.Watch(ctx, &keytreev1.WatchRequest{FromHeight: &w.next, KnownHash: w.have})
	if err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errEnded
		}
		if err != nil {
			return err
		}
		began()
		if err := w.take(answer.GetBlock()); err != nil {
			return err
		}
	}
}

// place finds out where to begin.
func (w *watch) place(ctx context.Context) error {
	if w.placed {
		return nil
	}
	s, err := w.client.Status(ctx)
	if err != nil {
		return err
	}
	w.placed, w.floor = true, s.StartHeight
	switch {
	case w.after != nil:
		w.client.seen.reached(w.after.Height)
		w.next, w.have = w.after.Height+1, w.after.Hash
	case s.TipHash == "":
		w.next = s.StartHeight
	default:
		w.next, w.have = s.TipHeight+1, s.TipHash
	}
	return nil
}

// take yields a message of the server's, but for what was yielded before, and for what is
// below the first block.
func (w *watch) take(b *Block) error {
	connect := b.GetType() == "CONNECT"
	if !connect && b.GetType() != "DISCONNECT" {
		return broken("a block that is connected or disconnected", b)
	}
	goesOn := connect && w.part != nil && b.Hash == w.part.Hash
	if w.again && !goesOn { // the block was reorganised away in the meantime
		if err := w.disconnect(&Block{Type: "DISCONNECT", Height: w.part.Height, Hash: w.part.Hash, PrevHash: w.part.PrevHash}); err != nil {
			return err
		}
	}
	w.again = false
	switch {
	case b.Height < w.floor:
		return nil
	case connect:
		return w.connect(b, goesOn)
	}
	return w.disconnect(b)
}

func (w *watch) connect(b *Block, goesOn bool) error {
	if b.Height != w.next || w.have != "" && b.PrevHash != w.have || w.part != nil && !goesOn {
		return broken(fmt.Sprintf("block %d after %s", w.next, w.have), b)
	}
	repeated := min(w.skip, len(b.Events))
	w.skip -= repeated
	b.Events = b.Events[repeated:]
	if repeated > 0 && len(b.Events) == 0 && b.More {
		return nil
	}
	if b.More {
		w.part = &Block{Height: b.Height, Hash: b.Hash, PrevHash: b.PrevHash}
		w.shown += len(b.Events)
		return w.give(&Update{Block: b})
	}
	w.part, w.shown, w.skip = nil, 0, 0
	w.next, w.have = b.Height+1, b.Hash
	return w.give(&Update{b, &Cursor{b.Height, b.Hash}})
}

func (w *watch) disconnect(b *Block) error {
	switch {
	case w.part != nil && b.Hash == w.part.Hash:
		w.part, w.shown, w.skip = nil, 0, 0
	case w.part != nil || b.Hash != w.have || b.Height+1 != w.next:
		return broken(fmt.Sprintf("no disconnect but of block %s", w.have), b)
	}
	w.next = b.Height
	if b.Height == w.floor {
		w.have = "" // the app has no block now
		return w.give(&Update{Block: b})
	}
	w.have = b.PrevHash
	return w.give(&Update{b, &Cursor{b.Height - 1, b.PrevHash}})
}

func (w *watch) give(u *Update) error {
	if !w.yield(u, nil) {
		return errEnough
	}
	return nil
}

// broken is the error for a server that does not send what follows.
func broken(expected string, got *Block) error {
	return status.Errorf(codes.DataLoss, "the server has lost its thread: expected %s, got %s of block %d, %s, after %s",
		expected, got.GetType(), got.GetHeight(), got.GetHash(), got.GetPrevHash())
}
