package main

import (
	"context"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

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

--unconfirmed prints as well each action of the node's mempool (?) and what would
become of it in the next block, again when that changes, and if it leaves the
mempool without being confirmed (dropped). The server is asked every second.

--json prints one object a line, as GET /v1/events lists them under blocks. A
block of which more is true goes on in the next line, whatever happens to the
server in between. With --unconfirmed, lines of what is pending are as GET
/v1/mempool lists them under actions, and {"dropped": TXID} is one that is gone.`,
		Example: `  keytree watch
  keytree watch --from 800000 --json`,
		Args: takes(),
	}
	from := heightFlag(cmd.Flags(), "from", "begin with this block (default the next one)")
	unconfirmed := cmd.Flags().Bool("unconfirmed", false, "print what is in the node's mempool as well")
	asks(cmd, func(ctx context.Context, c *server, _ []string, asJSON bool) error {
		w := watching{app: a, server: c, asJSON: asJSON}
		return w.run(ctx, from.value, *unconfirmed)
	})
	return cmd
}

// watching prints what a server tells of blocks and of its node's mempool.
type watching struct {
	app    *app
	server *server
	asJSON bool

	printing sync.Mutex // to the app's output
}

// run prints until ctx ends, which is no error.
func (w *watching) run(ctx context.Context, from *uint32, unconfirmed bool) error {
	s, err := w.server.Status(ctx)
	if err != nil {
		return err
	}
	w.server.retrying = func(err error, after time.Duration) {
		w.printing.Lock()
		defer w.printing.Unlock()
		fmt.Fprintf(w.app.stderr, "keytree: %s; trying again in %v\n", oneLine(w.server.explain(err)), after.Round(time.Second))
	}
	var updates iter.Seq2[*client.Update, error]
	both, ctx := errgroup.WithContext(ctx)
	var first uint32
	if from == nil && s.TipHash != "" {
		first, updates = s.TipHeight+1, w.server.Watch(ctx, &client.Cursor{Height: s.TipHeight, Hash: s.TipHash})
	} else {
		if first = s.StartHeight; from != nil {
			first = *from
		}
		updates = w.server.WatchFrom(ctx, first)
	}
	fmt.Fprintf(w.app.stderr, "keytree: watching %s from block %d\n", w.server.address, first)
	both.Go(func() error { return printAll(ctx, w, updates, w.printUpdate) })
	if unconfirmed {
		both.Go(func() error { return printAll(ctx, w, w.server.WatchMempool(ctx), w.printPending) })
	}
	return both.Wait()
}

// printAll prints what comes until ctx ends, which is no error.
func printAll[T any](ctx context.Context, w *watching, updates iter.Seq2[T, error], print func(T) error) error {
	for update, err := range updates {
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return w.server.explain(err)
		}
		if err := print(update); err != nil {
			return err
		}
	}
	return nil
}

func (w *watching) printUpdate(u *client.Update) error {
	w.printing.Lock()
	defer w.printing.Unlock()
	if w.asJSON {
		return w.app.printJSON(u.Block)
	}
	printBlock(w.app.stdout, u.Block)
	return nil
}

func (w *watching) printPending(u *client.PendingUpdate) error {
	w.printing.Lock()
	defer w.printing.Unlock()
	out := w.app.stdout
	switch {
	case w.asJSON && u.Pending != nil:
		return w.app.printJSON(u.Pending)
	case w.asJSON:
		fmt.Fprintf(out, "{\"dropped\":%q}\n", u.Dropped)
	case u.Pending != nil:
		fmt.Fprintf(out, "? %s\n", describePending(u.Pending))
	default:
		fmt.Fprintf(out, "? dropped, tx %s\n", u.Dropped)
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
