package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// watchRetry is the pause before a broken watch is taken up again.
const watchRetry = time.Second

func (a *app) watchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Print what changes, block by block",
		Long: `watch prints each block that is connected or disconnected, and what it changed,
until it is interrupted. When the server goes away it waits for it, saying so on
standard error, and goes on where it was: no block is missed. The first
connection has to succeed.

--json prints one object a line, as GET /v1/events lists them under blocks. A
block of which more is true goes on in the next line. A block that was
interrupted half-way comes again from its beginning.`,
		Example: `  keytree watch
  keytree watch --from 800000 --json`,
		Args: takes(),
	}
	from := heightFlag(cmd.Flags(), "from", "begin with this block (default the next one)")
	asks(cmd, func(ctx context.Context, c *client, _ []string, asJSON bool) error {
		return a.watch(ctx, c, from.value, asJSON)
	})
	return cmd
}

// place is where a watcher stands on the chain.
type place struct {
	next uint32 // height of the next block
	hash string // of the block before it
}

// watch prints blocks until ctx ends, which is no error.
func (a *app) watch(ctx context.Context, c *client, from *uint32, asJSON bool) error {
	s, err := c.GetStatus(ctx, &keytreev1.GetStatusRequest{})
	if err != nil {
		return err
	}
	var at *place // nil before the first whole block, if from tells where to begin
	switch {
	case from != nil:
	case s.TipHash == "":
		from = &s.StartHeight
	default:
		at = &place{s.TipHeight + 1, s.TipHash}
		from = &at.next
	}
	fmt.Fprintf(a.stderr, "keytree: watching %s from block %d\n", c.address, *from)
	for {
		request := &keytreev1.WatchRequest{FromHeight: from}
		if at != nil {
			request.FromHeight, request.KnownHash = &at.next, at.hash
		}
		err := c.watchOnce(ctx, request, func(b *keytreev1.BlockEvents) error {
			if asJSON {
				if err := a.printJSON(b); err != nil {
					return err
				}
			} else {
				printBlock(a.stdout, b)
			}
			switch {
			case b.More:
			case b.Type == "DISCONNECT":
				at = &place{b.Height, b.PrevHash}
			default:
				at = &place{b.Height + 1, b.Hash}
			}
			return nil
		})
		if ctx.Err() != nil {
			return nil
		}
		if code := status.Code(err); code != codes.Unavailable {
			return err
		}
		fmt.Fprintf(a.stderr, "keytree: %s; trying again\n", oneLine(err))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchRetry):
		}
	}
}

// watchOnce passes what one stream brings on to got. It returns what ended the
// stream.
func (c *client) watchOnce(ctx context.Context, request *keytreev1.WatchRequest, got func(*keytreev1.BlockEvents) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Watch(ctx, request)
	if err != nil {
		return c.explain(err)
	}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return status.Errorf(codes.Unavailable, "server %s ended the stream", c.address)
		}
		if err != nil {
			return c.explain(err)
		}
		if err := got(answer.Block); err != nil {
			return err
		}
	}
}

func printBlock(w io.Writer, b *keytreev1.BlockEvents) {
	sign := "+"
	if b.Type == "DISCONNECT" {
		sign = "-"
	}
	fmt.Fprintf(w, "%s %d  %s\n", sign, b.Height, b.Hash)
	for _, e := range b.Events {
		fmt.Fprintf(w, "    %-15s  %s\n", e.Type, describe(e))
	}
}

// describe says in one line what an event says in fields.
func describe(e *keytreev1.Event) string {
	switch e.Type {
	case "REQUEST_OPENED":
		return fmt.Sprintf("%s asks %s, tx %s", e.ChildAddress, e.ParentAddress, e.TxHash)
	case "LINK_FORMED":
		return fmt.Sprintf("%s is a child of %s, identity %s, tx %s", e.ChildAddress, e.ParentAddress, e.IdTxHash, e.TxHash)
	case "LINK_CUT":
		return fmt.Sprintf("%s is cut off from %s, which stays identity %s, tx %s", e.ChildAddress, e.ParentAddress, e.IdTxHash, e.TxHash)
	case "ACTION_REFUSED":
		by := ""
		if e.AuthorAddress != "" {
			by = " by " + e.AuthorAddress
		}
		return fmt.Sprintf("%s%s: %s, tx %s", e.Kind, by, e.Reason, e.TxHash)
	case "ACTION_WAITING":
		return fmt.Sprintf("%s by %s for %s, tx %s", e.Kind, e.AuthorAddress, e.Reference, e.TxHash)
	case "IDENTITY_NAMED":
		return fmt.Sprintf("%s, main address %s", e.IdTxHash, e.MainAddress)
	case "IDENTITY_MERGED":
		return fmt.Sprintf("%s into %s", e.IdTxHash, e.MergedInto)
	case "ANCHOR_ADDED":
		by := ""
		if e.AuthorAddress != "" {
			by = " by " + e.AuthorAddress
		}
		return fmt.Sprintf("%s at position %d%s, chain %s, tx %s", e.GetAnchor().GetDomain(), e.GetAnchor().GetPosition(), by, e.GetAnchor().GetChainTxHash(), e.TxHash)
	case "ANCHOR_CHAIN_BROKEN":
		return fmt.Sprintf("chain %s: %s, tx %s", e.GetAnchor().GetChainTxHash(), e.GetAnchor().GetBreakReason(), e.TxHash)
	}
	// A type of a later version.
	var fields []string
	for _, field := range []string{e.Kind, e.Reason, e.ChildAddress, e.ParentAddress, e.AuthorAddress, e.IdTxHash, e.TxHash} {
		if field != "" {
			fields = append(fields, field)
		}
	}
	return strings.Join(fields, " ")
}
