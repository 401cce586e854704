package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/keyserver/anchor"
	"github.com/keytree-bch/keytree/rpc/operator"
)

func (a *app) anchorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "anchor",
		Short: "Look after the anchors of a keyserver",
		Long: `anchor asks the server that anchors a keyserver's hashchain, keytree serve with
--anchor-key-file, through a socket in the data folder that only its owner can open.
How it anchors is told there; keytree audit checks anchors, anybody's.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usagef("expected one of: anchor status, anchor list, anchor rotate")
		},
	}
	cmd.AddCommand(a.anchorStatusCommand(), a.anchorListCommand(), a.anchorRotateCommand())
	return cmd
}

// asksAnchors completes a command that asks the server that anchors.
func (a *app) asksAnchors(cmd *cobra.Command, ask func(context.Context, *operator.Client) error) *cobra.Command {
	return a.onKeyserver(cmd, func(ctx context.Context, c *keyserverConfig, _ []string) error {
		err := ask(ctx, operator.NewClient(c.operator))
		if notRunning(err) {
			return fmt.Errorf("no server is running on this data folder: start keytree serve with --anchor-key-file (%w)", err)
		}
		return err
	})
}

func (a *app) anchorStatusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell how the anchoring stands, and where to pay for it",
		Long: `status tells the address that pays for anchors, for how many its funds are enough,
which chain of anchors it is, its last anchor, when that is repeated at the earliest, and
what is not anchored yet.`,
		Example: `  keytree anchor status --keyserver-domain example.org
  keytree anchor status --qr --config /etc/keytree.yaml`,
		Args: takes(),
	}
	asJSON := cmd.Flags().Bool("json", false, "print one JSON object")
	qr := cmd.Flags().Bool("qr", false, "draw the address as a QR code, too")
	return a.asksAnchors(cmd, func(ctx context.Context, o *operator.Client) error {
		s, err := o.AnchorStatus(ctx)
		if err != nil {
			return err
		}
		if *asJSON {
			return json.NewEncoder(a.stdout).Encode(s)
		}
		if err := a.printAnchorStatus(&s); err != nil || !*qr {
			return err
		}
		_, err = fmt.Fprintf(a.stdout, "\n%s\n%s", s.URI, qrCode(s.URI))
		return err
	})
}

func (a *app) printAnchorStatus(s *anchor.Status) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "domain\t%s\n", s.Domain)
	fmt.Fprintf(w, "address\t%s\n", s.Address)
	fmt.Fprintf(w, "balance\t%d satoshi, enough for %d anchors of %d\n", s.Balance, s.Left, s.Cost)
	if s.OldKey {
		fmt.Fprintf(w, "key\treplaced not long ago; the old one is kept until that cannot be undone\n")
	}
	if s.Chain == "" {
		fmt.Fprintf(w, "chain\tnone yet: it begins with a payment to the address\n")
	} else {
		fmt.Fprintf(w, "chain\t%s\n", s.Chain)
	}
	if s.Broken != "" {
		fmt.Fprintf(w, "broken\t%s\n", s.Broken)
	}
	if l := s.Last; l != nil {
		fmt.Fprintf(w, "last anchor\tnumber %d, position %d, block %d, %d confirmations, %s\n", l.Number, l.Position, l.Height, l.Confirmations, l.TxID)
	}
	for _, p := range s.Pending {
		fmt.Fprintf(w, "unconfirmed\tnumber %d, position %d, %s\n", p.Number, p.Position, p.TxID)
	}
	if at := s.Heartbeat; at != nil {
		fmt.Fprintf(w, "heartbeat\twith a block of %s or later, unless an entry comes before\n", at.UTC().Format(time.RFC3339))
	}
	fmt.Fprintf(w, "not anchored\t%d of %d entries\n", s.NotAnchored, s.Entries)
	if s.Problem != "" {
		fmt.Fprintf(w, "problem\t%s\n", oneLine(errors.New(s.Problem)))
	}
	return w.Flush()
}

func (a *app) anchorListCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the anchors that are confirmed",
		Long: `list prints the confirmed anchors of the keyserver's chain, in its order: number,
position in the hashchain, block, txid.`,
		Example: `  keytree anchor list --keyserver-domain example.org
  keytree anchor list --json --keyserver-domain example.org | tail -1`,
		Args: takes(),
	}
	asJSON := cmd.Flags().Bool("json", false, "print one JSON object a line")
	return a.asksAnchors(cmd, func(ctx context.Context, o *operator.Client) error {
		out := json.NewEncoder(a.stdout)
		for found, err := range o.Anchors(ctx, 0) {
			if err == nil && *asJSON {
				err = out.Encode(found)
			} else if err == nil {
				_, err = fmt.Fprintf(a.stdout, "%d\t%d\t%d\t%s\n", found.Number, found.Position, found.Height, found.TxID)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (a *app) anchorRotateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Hand the chain of anchors to a new key",
		Long: `rotate makes a new anchor key, and an anchor at once that hands the baton with all
funds to it. The key file then holds the new key; the old one is kept beside it, as
FILE.previous, until the new key's first anchor is 10 blocks deep and payments to the
old address are taken up. Keep a copy of the new one. What is paid to the old address
after that is lost.`,
		Example: `  keytree anchor rotate --keyserver-domain example.org`,
		Args:    takes(),
	}
	return a.asksAnchors(cmd, func(ctx context.Context, o *operator.Client) error {
		txid, err := o.RotateAnchorKey(ctx)
		if err != nil {
			return err
		}
		s, err := o.AnchorStatus(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "the anchor key was replaced by transaction %s; pay for anchors to %s from now on\n", txid, s.Address)
		return nil
	})
}
