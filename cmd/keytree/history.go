package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

func (a *app) historyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history ADDRESS|ID",
		Short: "List the actions of and about a key or an identity",
		Long: `history lists link requests (MLR), accepts (MLA) and revokes (MCR) in the order
of their place on the chain, with what has become of each.

For an address: the actions that its key signed or that are about it. For an
identity (an id_tx_hash, 64 hex characters): those of all keys that belong to it
as of the block, also from before they joined. What concerned keys that have left
it is in the history of their identity, and of the parent that cut them off.

--json prints them as GET /v1/addresses/{address}/actions does.`,
		Example: `  keytree history bitcoincash:qz...
  keytree history 3f2c... --json`,
		Args: takes("ADDRESS or ID"),
	}
	at := heightFlag(cmd.Flags(), "at", "as of this block (default the tip)")
	limit := numberFlag(cmd.Flags(), "limit", 1000, 1, 1_000_000, "how many actions of a key, and keys of an identity, to ask for at most")
	unconfirmed := newUnconfirmedFlag(cmd.Flags(), at)
	asks(cmd, func(ctx context.Context, c *server, args []string, asJSON bool) error {
		if err := unconfirmed.use(c); err != nil {
			return err
		}
		address, id, err := parseSubject(args[0])
		if err != nil {
			return err
		}
		h, err := c.history(ctx, address, id, at.value, limit.value)
		if err != nil {
			return err
		}
		if h.cut {
			fmt.Fprintf(a.stderr, "keytree: there is more: only the first %s of the history (--limit) are shown\n", counted(limit.value, h.unit))
		}
		if asJSON {
			return a.printJSON(h.list)
		}
		for _, action := range h.list.Actions {
			printAction(a.stdout, action)
		}
		fmt.Fprintf(a.stdout, "%s as of block %d\n", counted(uint32(len(h.list.Actions)), "action"), h.list.AsOfHeight)
		if u := h.list.Unconfirmed; printUnconfirmed(a.stdout, u) {
			for _, action := range u.Actions {
				printAction(a.stdout, action)
			}
		}
		return nil
	})
	return cmd
}

// history is a list of actions in order of position.
type history struct {
	list *keytreev1.ListAddressActionsResponse
	cut  bool   // there are more than the limit
	unit string // of what there are more
}

// history asks for the actions of a key, or of the first keys of an identity.
func (c *server) history(ctx context.Context, address, id string, at *uint32, limit uint32) (*history, error) {
	if id == "" {
		list, err := c.actions(ctx, address, at, limit)
		if err != nil {
			return nil, err
		}
		return &history{list, list.NextPageToken != "", "action"}, nil
	}
	keys, err := c.keys(ctx, id, at, limit)
	if err != nil {
		return nil, err
	}
	h := &history{
		list: &keytreev1.ListAddressActionsResponse{AsOfHeight: keys.AsOfHeight, AsOfHash: keys.AsOfHash},
		cut:  keys.NextPageToken != "", unit: "key",
	}
	seen := make(map[string]bool) // an action between two keys of the identity is in both lists
	for _, key := range keys.Keys {
		list, err := c.actions(ctx, key.Address, c.staying(&keys.AsOfHeight), limit)
		if err != nil {
			return nil, err
		}
		if list.AsOfHash != keys.AsOfHash {
			return nil, fmt.Errorf("the chain moved on, or block %d was reorganised away, meanwhile: ask again", keys.AsOfHeight)
		}
		if list.NextPageToken != "" {
			h.cut, h.unit = true, "action"
		}
		h.list.Unconfirmed = joinUnconfirmed(h.list.Unconfirmed, list.Unconfirmed)
		for _, action := range list.Actions {
			if !seen[action.TxHash] {
				seen[action.TxHash] = true
				h.list.Actions = append(h.list.Actions, action)
			}
		}
	}
	slices.SortFunc(h.list.Actions, func(x, y *keytreev1.Action) int {
		return cmp.Or(cmp.Compare(x.Height, y.Height), cmp.Compare(x.TxIndex, y.TxIndex))
	})
	return h, nil
}

// actions lists the first actions of a key as one page.
func (c *server) actions(ctx context.Context, address string, at *uint32, limit uint32) (*keytreev1.ListAddressActionsResponse, error) {
	all := new(keytreev1.ListAddressActionsResponse)
	for {
		left := limit - uint32(len(all.Actions))
		page, err := c.lists.ListAddressActions(ctx, &keytreev1.ListAddressActionsRequest{
			Address: address, AtHeight: at, PageSize: min(left, maxPage), PageToken: all.NextPageToken, Unconfirmed: c.unconfirmed,
		})
		if err != nil {
			return nil, err
		}
		page.Actions, page.Unconfirmed = append(all.Actions, page.Actions...), joinUnconfirmed(all.Unconfirmed, page.Unconfirmed)
		all = page
		if all.NextPageToken == "" || uint32(len(all.Actions)) >= limit {
			return all, nil
		}
	}
}

// printAction prints an action as a paragraph. Messages come from strangers and
// are quoted, so that they cannot control the terminal.
func printAction(w io.Writer, action *keytreev1.Action) {
	fmt.Fprintf(w, "%d  %s  %s\n", action.Height, action.Kind, action.TxHash)
	state := action.State
	switch {
	case action.Reason != "":
		state += ", " + action.Reason
	case action.ByTxHash != "":
		state += " by " + action.ByTxHash
	}
	if action.DecidedHeight != action.Height {
		state += fmt.Sprintf(" at %d", action.DecidedHeight)
	}
	for _, line := range [][2]string{
		{"state", state},
		{"author", action.AuthorAddress},
		{"child", action.ChildAddress},
		{"parent", action.ParentAddress},
		{"refers to", cmp.Or(action.RefTxHash, action.Reference)},
	} {
		if line[1] != "" {
			fmt.Fprintf(w, "    %-9s  %s\n", line[0], line[1])
		}
	}
	if action.MessageHex != "" {
		fmt.Fprintf(w, "    %-9s  %q\n", "message", action.Message)
	}
	fmt.Fprintln(w)
}
