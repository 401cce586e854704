package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

func (a *app) inboxCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "inbox ADDRESS",
		Short: "List the link requests asked of a key, and the links below it",
		Long: `inbox lists the link requests that name this address as the parent, the newest
first, and the links in force directly below it, each with the transaction that
link accept or link revoke takes.

Anybody can send requests to anybody. What one calls itself is its own word and
not verified: of that, 40 characters of printable ASCII are shown.

--json prints the answers of GET /v1/addresses/{address}/requests and of
/v1/addresses/{address}/links, a line each; if next_page_token is not empty,
--limit has cut it.`,
		Example: `  keytree inbox bitcoincash:qz... --unconfirmed
  keytree inbox bitcoincash:qz... --state refused`,
		Args: takes("ADDRESS"),
	}
	at := heightFlag(cmd.Flags(), "at", "as of this block (default the tip)")
	limit := numberFlag(cmd.Flags(), "limit", 100, 1, 1_000_000, "how many requests, and links, to ask for at most")
	state := newParsed("STATE", "open", oneOf("open", "accepted", "cut", "refused", "all"))
	cmd.Flags().Var(state, "state", "list requests that are open, accepted, cut (accepted, and revoked since), refused, or all")
	unconfirmed := newUnconfirmedFlag(cmd.Flags(), at)
	asks(cmd, func(ctx context.Context, c *server, args []string, asJSON bool) error {
		if err := unconfirmed.use(c); err != nil {
			return err
		}
		requests, err := c.requests(ctx, args[0], state.value, at.value, limit.value)
		if err != nil {
			return err
		}
		links, err := c.links(ctx, args[0], c.staying(&requests.AsOfHeight), limit.value)
		if err != nil {
			return err
		}
		if links.AsOfHash != requests.AsOfHash {
			return fmt.Errorf("the chain moved on, or block %d was reorganised away, meanwhile: ask again", requests.AsOfHeight)
		}
		if asJSON {
			if err := a.printJSON(requests); err != nil {
				return err
			}
			return a.printJSON(links)
		}
		return a.printInbox(requests, links)
	})
	return cmd
}

// requests lists the first requests asked of a key as one page.
func (c *server) requests(ctx context.Context, address, state string, at *uint32, limit uint32) (*keytreev1.ListAddressRequestsResponse, error) {
	all := new(keytreev1.ListAddressRequestsResponse)
	for first := true; ; first = false {
		page, err := c.lists.ListAddressRequests(ctx, &keytreev1.ListAddressRequestsRequest{
			Address: address, State: state, AtHeight: at, PageSize: min(limit-uint32(len(all.Requests)), maxPage), PageToken: all.NextPageToken,
			Unconfirmed: c.unconfirmed && first, // the first page has all of that
		})
		if err != nil {
			return nil, err
		}
		if page.Requests = append(all.Requests, page.Requests...); !first {
			page.Unconfirmed = all.Unconfirmed
		}
		all = page
		if all.NextPageToken == "" || uint32(len(all.Requests)) >= limit {
			return all, nil
		}
	}
}

// links lists the first links below a key as one page.
func (c *server) links(ctx context.Context, address string, at *uint32, limit uint32) (*keytreev1.ListAddressLinksResponse, error) {
	all := new(keytreev1.ListAddressLinksResponse)
	for first := true; ; first = false {
		page, err := c.lists.ListAddressLinks(ctx, &keytreev1.ListAddressLinksRequest{
			Address: address, AtHeight: at, PageSize: min(limit-uint32(len(all.Links)), maxPage), PageToken: all.NextPageToken,
			Unconfirmed: c.unconfirmed && first, // the first page has all of that
		})
		if err != nil {
			return nil, err
		}
		if page.Links = append(all.Links, page.Links...); !first {
			page.Unconfirmed = all.Unconfirmed
		}
		all = page
		if all.NextPageToken == "" || uint32(len(all.Links)) >= limit {
			return all, nil
		}
	}
}

// printInbox prints both lists as tables. The pending requests come first.
func (a *app) printInbox(requests *keytreev1.ListAddressRequestsResponse, links *keytreev1.ListAddressLinksResponse) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HEIGHT\tREQUEST\tSTATE\tCHILD\t")
	pending, would := 0, requests.Unconfirmed.GetRequests()
	for ; pending < len(would) && would[pending].Pending != nil; pending++ {
		fmt.Fprintf(w, "pending\t%s%s\n", requestRow(would[pending]), spentTwice(would[pending].Pending))
	}
	for _, r := range requests.Requests {
		fmt.Fprintf(w, "%d\t%s\n", r.Height, requestRow(r))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%s as of block %d, %d pending%s\n\n", counted(uint32(len(requests.Requests)), "request"), requests.AsOfHeight, pending, beyond(requests.NextPageToken))
	fmt.Fprintln(w, "HEIGHT\tACCEPT\tCHILD")
	for _, l := range links.Links {
		fmt.Fprintf(w, "%d\t%s\t%s\n", l.LinkedHeight, l.AcceptTxHash, l.ChildAddress)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "%s in force%s\n", counted(uint32(len(links.Links)), "link"), beyond(links.NextPageToken))
	if !printUnconfirmed(a.stdout, joinUnconfirmed(requests.Unconfirmed, links.Unconfirmed)) {
		return nil
	}
	for _, r := range would[pending:] {
		fmt.Fprintf(a.stdout, "request %s would be %s\n", r.TxHash, r.State)
	}
	for _, l := range links.Unconfirmed.GetLinks() {
		fmt.Fprintf(a.stdout, "the link of %s, accepted by %s, would be %s\n", l.ChildAddress, l.AcceptTxHash, l.State)
	}
	return nil
}

// requestRow is what a table says of a request, but for its height.
func requestRow(r *keytreev1.LinkRequest) string {
	state, self := r.State, ""
	if r.Reason != "" {
		state += ", " + r.Reason
	}
	if r.MessageHex != "" {
		self = fmt.Sprintf(`it calls itself "%s" (unverified)`, calledItself(r.Message))
	}
	return strings.Join([]string{r.TxHash, state, r.ChildAddress, self}, "\t")
}

// maxSelf is how much of what a stranger calls itself is shown, in characters.
const maxSelf = 40

// calledItself returns what a stranger wrote, so that it can neither control a terminal, nor end the quotation in which
// it stands, nor look like another script's letters.
func calledItself(message string) string {
	var shown []byte
	for _, r := range message {
		if len(shown) == maxSelf {
			return string(shown[:maxSelf-3]) + "..."
		}
		switch {
		case r == '"':
			r = '\''
		case r < ' ' || r > '~':
			r = '?'
		}
		shown = append(shown, byte(r))
	}
	return string(shown)
}

// beyond says that a list goes on.
func beyond(token string) string {
	if token == "" {
		return ""
	}
	return "; there are more (--limit)"
}
