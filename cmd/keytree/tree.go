package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/cmd/keytree/internal/draw"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

func (a *app) treeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tree ADDRESS|ID",
		Short: "Draw the keys of an identity",
		Long: `tree draws the keys of the identity with this id (an id_tx_hash, 64 hex
characters), or of the one behind this address, and marks the address.

--json prints the identity's list of keys, depth first; if next_page_token is
not empty, --limit has cut it.`,
		Example: `  keytree tree bitcoincash:qz...
  keytree tree 3f2c... --at 800000`,
		Args: takes("ADDRESS or ID"),
	}
	at := heightFlag(cmd.Flags(), "at", "as of this block (default the tip)")
	limit := numberFlag(cmd.Flags(), "limit", 200, 1, 1_000_000, "how many keys to show at most")
	unconfirmed := newUnconfirmedFlag(cmd.Flags(), at)
	asks(cmd, func(ctx context.Context, c *server, args []string, asJSON bool) error {
		if err := unconfirmed.use(c); err != nil {
			return err
		}
		address, id, err := parseSubject(args[0])
		if err != nil {
			return err
		}
		t, err := c.tree(ctx, address, id, at.value, limit.value)
		if err != nil {
			return err
		}
		if asJSON {
			return a.printJSON(t.list)
		}
		a.printTree(t)
		return nil
	})
	return cmd
}

// tree is an identity with its keys as of a block.
type tree struct {
	asked    *keytreev1.Resolution // of the address that was asked for, nil for an id
	identity *keytreev1.Identity   // nil for a key that was never linked
	list     *keytreev1.ListIdentityKeysResponse
}

// tree asks for the identity id, or for that behind address, and up to limit of
// its keys.
func (c *server) tree(ctx context.Context, address, id string, at *uint32, limit uint32) (*tree, error) {
	t := new(tree)
	if id == "" {
		r, err := c.asOf(at).Resolve(ctx, address)
		if err != nil {
			return nil, err
		}
		t.asked, id, at = r, r.IdTxHash, &r.AsOfHeight
		if id == "" {
			t.list = &keytreev1.ListIdentityKeysResponse{
				Keys:       []*keytreev1.IdentityKey{{Address: r.Address}},
				AsOfHeight: r.AsOfHeight, AsOfHash: r.AsOfHash, Unconfirmed: r.Unconfirmed,
			}
			return t, nil
		}
	}
	var err error
	if t.identity, err = c.asOf(at).Identity(ctx, id); err != nil {
		return nil, err
	}
	if t.list, err = c.keys(ctx, id, c.staying(&t.identity.AsOfHeight), limit); err != nil {
		return nil, err
	}
	if t.list.AsOfHash != t.identity.AsOfHash || t.asked != nil && t.asked.AsOfHash != t.identity.AsOfHash {
		return nil, fmt.Errorf("the chain moved on, or block %d was reorganised away, meanwhile: ask again", t.identity.AsOfHeight)
	}
	return t, nil
}

// keys lists the first keys of an identity as one page.
func (c *server) keys(ctx context.Context, id string, at *uint32, limit uint32) (*keytreev1.ListIdentityKeysResponse, error) {
	all := new(keytreev1.ListIdentityKeysResponse)
	for {
		left := limit - uint32(len(all.Keys))
		page, err := c.lists.ListIdentityKeys(ctx, &keytreev1.ListIdentityKeysRequest{
			IdTxHash: id, AtHeight: at, PageSize: min(left, maxPage), PageToken: all.NextPageToken, Unconfirmed: c.unconfirmed,
		})
		if err != nil {
			return nil, err
		}
		page.Keys = append(all.Keys, page.Keys...)
		all = page
		if all.NextPageToken == "" || uint32(len(all.Keys)) >= limit {
			return all, nil
		}
	}
}

func (a *app) printTree(t *tree) {
	marked, total := "", uint32(1)
	switch id := t.identity; {
	case id == nil:
		fmt.Fprintf(a.stdout, "never linked, its own identity, as of block %d\n\n", t.list.AsOfHeight)
	default:
		total = id.KeyCount
		if id.MergedInto != "" {
			fmt.Fprintf(a.stdout, "identity %s, merged into\n", id.IdTxHash)
			fmt.Fprintf(a.stdout, "identity %s\n", id.MergedInto)
		} else {
			fmt.Fprintf(a.stdout, "identity %s\n", id.IdTxHash)
		}
		fmt.Fprintf(a.stdout, "%s, as of block %d\n\n", counted(total, "key"), id.AsOfHeight)
	}
	if t.asked != nil {
		marked = t.asked.Address
	}
	shown := false
	keys := make([]draw.Branch, len(t.list.Keys))
	for i, k := range t.list.Keys {
		keys[i] = draw.Branch{Depth: k.Depth, Label: k.Address}
		if k.Address == marked {
			keys[i].Label += "  ◀"
			shown = true
		}
	}
	draw.Tree(a.stdout, keys, t.list.NextPageToken != "")
	if hidden := total - uint32(len(keys)); t.list.NextPageToken != "" {
		fmt.Fprintf(a.stdout, "… %s more (--limit)\n", counted(hidden, "key"))
	}
	if marked != "" && !shown {
		fmt.Fprintf(a.stdout, "\n%s  ◀ is not among them: %s below the root\n", marked, counted(t.asked.Depth, "link"))
	}
	if u := t.list.Unconfirmed; printUnconfirmed(a.stdout, u) {
		a.printUnconfirmedTree(u)
	}
}

// printUnconfirmedTree prints what an identity would be, and where keys would go.
func (a *app) printUnconfirmedTree(u *keytreev1.Unconfirmed) {
	if u.Resolution != nil { // of a key that was never linked
		a.printResolution(u.Resolution)
		return
	}
	if id := u.Identity; id.MergedInto != "" {
		fmt.Fprintf(a.stdout, "merged into %s\n", id.MergedInto)
	}
	fmt.Fprintf(a.stdout, "%s, main address %s\n", counted(u.Identity.KeyCount, "key"), u.Identity.MainAddress)
	for _, key := range u.Keys {
		if key.ParentAddress == "" {
			fmt.Fprintf(a.stdout, "%s would have no parent, as identity %s\n", key.Address, key.IdTxHash)
		} else {
			fmt.Fprintf(a.stdout, "%s would be below %s, in identity %s\n", key.Address, key.ParentAddress, key.IdTxHash)
		}
	}
}

// counted returns "1 key", "2 keys".
func counted(n uint32, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
