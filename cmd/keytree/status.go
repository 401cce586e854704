package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Tell what a server has indexed",
		Long: `status asks a server, over gRPC, how far it is.

With --ready it asks the server on this machine, over REST, no more than whether it is
synced with its node and serves all that it was asked to run, and says why not: for health
checks, as of containers. Where that answers it knows from the settings that keytree serve has,
in the environment and in the config file of the data folder.`,
		Example: `  keytree status
  keytree status --server 127.0.0.1:8434 --json | jq .state_hash
  keytree status --ready`,
		Args: takes(),
	}
	ready := newReadyFlags(cmd.Flags())
	asks(cmd, func(ctx context.Context, c *server, _ []string, asJSON bool) error {
		s, err := c.Status(ctx)
		if err != nil {
			return err
		}
		if asJSON {
			return a.printJSON(s)
		}
		a.printStatus(s)
		return nil
	})
	status := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !*ready.ready {
			return status(cmd, args)
		}
		if err := ready.ask(cmd.Context()); err != nil {
			return err
		}
		_, err := fmt.Fprintln(a.stdout, "ready")
		return err
	}
	return cmd
}

func (a *app) printStatus(s *keytreev1.GetStatusResponse) {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	synced := "synced"
	if !s.Synced {
		synced = "not synced: " + s.Unsynced
	}
	node := fmt.Sprintf("%d", s.NodeHeight)
	if s.NodeHeaders > s.NodeHeight {
		node += fmt.Sprintf(" (headers up to %d)", s.NodeHeaders)
	}
	if s.NodePeers != nil {
		node += fmt.Sprintf(", %d peers", *s.NodePeers)
	}
	if s.NodeVersion != "" {
		node += ", " + harmless(s.NodeVersion)
	}
	if s.NodeAnsweredAgo != nil {
		node += fmt.Sprintf(", answered %d s ago", *s.NodeAnsweredAgo)
	}
	fmt.Fprintf(w, "network\t%s\n", s.Network)
	fmt.Fprintf(w, "start height\t%d\n", s.StartHeight)
	if s.TipHash == "" {
		fmt.Fprintf(w, "tip\tno block indexed yet\n")
	} else {
		fmt.Fprintf(w, "tip\t%d  %s\n", s.TipHeight, s.TipHash)
	}
	fmt.Fprintf(w, "node\t%s, %s\n", node, synced)
	fmt.Fprintf(w, "state hash\t%s\n", s.StateHash)
	if s.StateRoot != "" { // an older server does not tell, nor one with --state-root off
		fmt.Fprintf(w, "state root\t%s\n", s.StateRoot)
	}
	fmt.Fprintf(w, "links\t%d\n", s.Counts.GetLinks())
	fmt.Fprintf(w, "identities\t%d\n", s.Counts.GetIdentities())
	fmt.Fprintf(w, "refused\t%d\n", s.Counts.GetRefused())
	fmt.Fprintf(w, "waiting\t%d\n", s.Counts.GetWaiting())
	if m := s.Mempool; m != nil { // an older server does not tell
		fmt.Fprintf(w, "mempool\t%s\n", mempoolLine(m))
	}
	if m := s.Memory; m != nil { // nor one that is older still
		fmt.Fprintf(w, "memory\t%s of %s, room for %d more keys in links\n",
			humanize.IBytes(m.Links+m.Waiting+m.Fixed), humanize.IBytes(m.Most), m.KeysLeft)
	}
}

// mempoolLine says what is known of the mempool, in a line.
func mempoolLine(m *keytreev1.Mempool) string {
	if !m.Available {
		return "not known: " + m.Reason
	}
	line := fmt.Sprintf("%d transactions, %d pending", m.Listed, m.Transactions)
	for _, part := range []struct {
		count uint32
		what  string
	}{
		{m.Omitted, "left out"}, {m.Unestablished, "without a known author"}, {m.Conflicts, "in conflict"}, {m.Unread, "that the node does not give"},
	} {
		if part.count > 0 {
			line += fmt.Sprintf(", %d %s", part.count, part.what)
		}
	}
	if m.Hints != "" {
		line += ", " + m.Hints
	}
	return line
}
