package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/rpc/client"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

func (a *app) watchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch [ADDRESS…]",
		Short: "Print what changes, block by block",
		Long: `watch prints each block that is connected or disconnected, and what it changed,
until it is interrupted. When the server goes away it waits for it, saying so on
standard error, and goes on where it was: no block is missed. The first
connection has to succeed.

With addresses it prints only what concerns one of them: events that name it, and
(*) that its main address, its parent or its identity is another one, also by what
happens far above it.

--unconfirmed prints as well each action of the node's mempool (?) and what would
become of it in the next block, again when that changes, and if it leaves the
mempool without being confirmed (dropped); with addresses also which of them (?*)
all of that would change.

--json prints one object a line, as GET /v1/events lists them under blocks. A
block of which more is true goes on in the next line, whatever happens to the
server in between. With --unconfirmed, lines of what is pending are as GET
/v1/mempool lists them under actions and anchors, and {"dropped": TXID} is one that
is gone. With addresses, each line is as the data of GET /v1/stream.`,
		Example: `  keytree watch
  keytree watch bitcoincash:qz... --unconfirmed
  keytree watch --from 800000 --json`,
		Args: cobra.ArbitraryArgs,
	}
	from := heightFlag(cmd.Flags(), "from", "begin with this block (default the next one)")
	unconfirmed := cmd.Flags().Bool("unconfirmed", false, "print what is in the node's mempool as well")
	asks(cmd, func(ctx context.Context, c *server, addresses []string, asJSON bool) error {
		w := watching{app: a, server: c, asJSON: asJSON}
		return w.run(ctx, client.Filter{Addresses: addresses, From: from.value, Unconfirmed: *unconfirmed})
	})
	return cmd
}

// watching prints what a server tells.
type watching struct {
	app    *app
	server *server
	asJSON bool
}

// run prints what a filter wants until ctx ends, which is no error.
func (w *watching) run(ctx context.Context, filter client.Filter) error {
	s, err := w.server.Status(ctx)
	if err != nil {
		return err
	}
	w.server.retrying = func(err error, after time.Duration) {
		fmt.Fprintf(w.app.stderr, "keytree: %s; trying again in %v\n", oneLine(w.server.explain(err)), after.Round(time.Second))
	}
	switch {
	case filter.From != nil:
	case s.TipHash != "":
		filter.After = &client.Cursor{Height: s.TipHeight, Hash: s.TipHash}
	default:
		filter.From = &s.StartHeight
	}
	first := s.TipHeight + 1
	if filter.From != nil {
		first = *filter.From
	}
	fmt.Fprintf(w.app.stderr, "keytree: watching %s from block %d\n", w.server.address, first)
	for m, err := range w.server.Follow(ctx, filter) {
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return w.server.explain(err)
		}
		print := w.print
		switch {
		case proto.Equal(m, &client.Message{Id: m.Id}): // the server is there
			continue
		case w.asJSON && len(filter.Addresses) > 0:
			print = func(m *client.Message) error { return w.app.printJSON(m) }
		case w.asJSON:
			print = w.printJSON
		}
		if err := print(m); err != nil {
			return err
		}
	}
	return nil
}

// printJSON prints what the lists of REST have of a message.
func (w *watching) printJSON(m *client.Message) error {
	switch {
	case m.Block != nil:
		return w.app.printJSON(m.Block)
	case m.Pending != nil:
		return w.app.printJSON(m.Pending)
	case m.PendingEvent != nil:
		return w.app.printJSON(m.PendingEvent)
	case m.Dropped != "":
		fmt.Fprintf(w.app.stdout, "{\"dropped\":%q}\n", m.Dropped)
	}
	return nil
}

// print prints a message for people.
func (w *watching) print(m *client.Message) error {
	out := w.app.stdout
	changes := func(sign string, addresses []string) {
		for _, address := range addresses {
			fmt.Fprintf(out, "%s%s resolves otherwise\n", sign, address)
		}
	}
	switch {
	case m.Block != nil:
		printBlock(out, m.Block)
		changes("    * ", m.Changed)
	case m.Pending != nil:
		fmt.Fprintf(out, "? %s\n", describePending(m.Pending))
	case m.PendingEvent != nil:
		fmt.Fprintf(out, "? %-15s  %s%s\n", m.PendingEvent.Event.Type, describe(m.PendingEvent.Event), spentTwice(m.PendingEvent.Transaction))
	case m.PendingChanges != nil:
		changes("?* ", m.PendingChanges.Changed)
	case m.Dropped != "":
		fmt.Fprintf(out, "? dropped, tx %s\n", m.Dropped)
	}
	return nil
}

// describePending says in one line what is pending, and what would become of it.
func describePending(p *keytreev1.PendingAction) string {
	a, state := p.Action, p.Action.State
	if a.Reason != "" {
		state += ", " + a.Reason
	}
	line := fmt.Sprintf("%s  %s", a.Kind, state)
	for _, of := range [][2]string{{"by", a.AuthorAddress}, {"child", a.ChildAddress}, {"parent", a.ParentAddress}} {
		if of[1] != "" && !(of[0] == "child" && of[1] == a.AuthorAddress) {
			line += fmt.Sprintf(" %s %s", of[0], of[1])
		}
	}
	return line + ", tx " + p.Transaction.TxHash + spentTwice(p.Transaction)
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
