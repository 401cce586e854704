package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/rpc/client"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

func (a *app) watchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Print what changes, block by block",
		Long: `watch prints each block that is connected or disconnected, and what it changed,
until it is interrupted. When the server goes away it waits for it, saying so on
standard error, and goes on where it was: no block is missed. The first
connection has to succeed.

--json prints one object a line, as GET /v1/events lists them under blocks. A
block of which more is true goes on in the next line, whatever happens to the
server in between.`,
		Example: `  keytree watch
  keytree watch --from 800000 --json`,
		Args: takes(),
	}
	from := heightFlag(cmd.Flags(), "from", "begin with this block (default the next one)")
	asks(cmd, func(ctx context.Context, c *server, _ []string, asJSON bool) error {
		return a.watch(ctx, c, from.value, asJSON)
	})
	return cmd
}

// watch prints blocks until ctx ends, which is no error.
func (a *app) watch(ctx context.Context, c *server, from *uint32, asJSON bool) error {
	s, err := c.Status(ctx)
	if err != nil {
		return err
	}
	c.retrying = func(err error, after time.Duration) {
		fmt.Fprintf(a.stderr, "keytree: %s; trying again in %v\n", oneLine(c.explain(err)), after.Round(time.Second))
	}
	var updates iter.Seq2[*client.Update, error]
	var first uint32
	if from == nil && s.TipHash != "" {
		first, updates = s.TipHeight+1, c.Watch(ctx, &client.Cursor{Height: s.TipHeight, Hash: s.TipHash})
	} else {
		if first = s.StartHeight; from != nil {
			first = *from
		}
		updates = c.WatchFrom(ctx, first)
	}
	fmt.Fprintf(a.stderr, "keytree: watching %s from block %d\n", c.address, first)
	for update, err := range updates {
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return c.explain(err)
		case asJSON:
			if err := a.printJSON(update.Block); err != nil {
				return err
			}
		default:
			printBlock(a.stdout, update.Block)
		}
	}
	return nil
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
