package client

import (
	"context"
	"errors"
	"io"
	"iter"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// Filter is what an app wants to be told. The zero value is every block after the tip.
type Filter struct {
	// Addresses and IDs, of identities, are up to 10,000 of each: only what concerns one of them
	// is told, also by what happens far above an address. None of both: everything.
	Addresses, IDs []string
	// Unconfirmed tells of what is pending as well.
	Unconfirmed bool

	// After is the block that an app has, as in Watch; nil for none.
	After *Cursor
	// From, without After, is the first block that is told, from the server's start height to one
	// beyond the tip; nil: only what is new.
	From *uint32
	// LastID is the last Message.Id that an app has taken in, after which it goes on; "" for none. Who
	// must miss nothing stores it together with what was made of the message.
	LastID string
}

// Message is what Follow brings: one of its fields Block, Pending, PendingEvent, PendingChanges, AllPending and
// Dropped, or an Id alone.
type Message = keytreev1.WatchResponse

// Follow yields what a server tells of what a filter has. A DISCONNECT may be of a block that did
// not concern it, and of which it was not told. It goes on until ctx ends or the loop does.
//
// When the server goes away or refuses, it tries again as Watch does, and goes on where it was: no
// block is missed, and none comes twice. What is pending comes again from the beginning, up to the message
// with AllPending. What a second try does not change ends it with an error, as Watch.
func (c *Client) Follow(ctx context.Context, f Filter) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		c.follow(ctx, f, func() {}, yield)
	}
}

// follow is Follow. It calls began before each stream.
func (c *Client) follow(ctx context.Context, f Filter, began func(), yield func(*Message, error) bool) {
	request := &keytreev1.WatchRequest{FromHeight: f.From, Addresses: f.Addresses, Ids: f.IDs, Unconfirmed: f.Unconfirmed, LastId: f.LastID}
	if f.After != nil {
		after(request, *f.After)
	}
	pause := newPause()
	for {
		err := func() error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			if err := c.placed(ctx, request); err != nil {
				return err
			}
			stream, err := c.identities.Watch(ctx, request)
			if err != nil {
				return err
			}
			began()
			for {
				m, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return errEnded
				}
				if err != nil {
					return err
				}
				pause.Reset()
				if m.Id != "" {
					request.LastId = m.Id
				}
				if !yield(m, nil) {
					return errEnough
				}
			}
		}()
		switch {
		case errors.Is(err, errEnough):
			return
		case ctx.Err() != nil:
			yield(nil, ctx.Err())
			return
		case final(err):
			yield(nil, err)
			return
		}
		if err := c.sleep(ctx, c.longer(pause, err)); err != nil {
			yield(nil, err)
			return
		}
	}
}

// placed sees to it that a request is one for ids: a stream of blocks alone begins without one.
func (c *Client) placed(ctx context.Context, request *keytreev1.WatchRequest) error {
	if len(request.Addresses)+len(request.Ids) > 0 || request.Unconfirmed || request.LastId != "" || request.FromHeight != nil {
		return nil
	}
	s, err := c.Status(ctx)
	if err != nil {
		return err
	}
	if s.TipHash != "" {
		after(request, Cursor{Height: s.TipHeight, Hash: s.TipHash})
	}
	return nil
}

// after has a stream go on after a block.
func after(request *keytreev1.WatchRequest, c Cursor) {
	next := c.Height + 1
	request.FromHeight, request.KnownHash = &next, c.Hash
}
