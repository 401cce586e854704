package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	keyclient "github.com/keytree-bch/keytree/keyserver/client"
)

func (a *app) userPendingCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pending NAME",
		Short: "See what was begun for an identity and not finished; make it again, or cancel it",
		Long: `pending shows the message of one of the user's identities that is on its way into the
hashchain: which command goes on with it, when it was made, whether it may have been
sent, and why the keyserver would not take it as it is. The same command, called again,
makes such a message again by itself.

--remake makes it again, with the same keys and the present time, and sends nothing.
--cancel gives it up, and with it the keys that were made for it; a name that was never
registered is forgotten. Both look first whether the keyserver has taken it meanwhile.
If a keyserver enters a message after it was cancelled, the paper key, which was shown
before it was sent, recovers the identity.`,
		Example: `  keytree user pending alice@example.org
  keytree user pending alice@example.org --cancel`,
		Args: takes("NAME"),
	}
	u := a.userFlags(cmd)
	passphrase := u.passphraseFlag()
	remake := u.flags.Bool("remake", false, "make it again")
	cancel := u.flags.Bool("cancel", false, "give it up")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *remake && *cancel {
			return usagef("expected one of --remake and --cancel")
		}
		name, err := identityArgument(args[0])
		if err != nil {
			return err
		}
		who, err := u.owner(cmd.Context(), name, passphrase)
		if err != nil {
			return err
		}
		return u.withOwner(who, func(c *keyclient.Client, id *keyclient.Identity) error {
			o := newUserPending(id)
			switch {
			case *remake:
				done, err := c.Remake(cmd.Context(), id)
				if err != nil {
					return err
				}
				o = newUserPending(id)
				o.Done = done
			case *cancel:
				done, err := c.Cancel(cmd.Context(), id)
				if err != nil {
					return err
				}
				o.Done, o.Cancelled = done, !done
			}
			return u.print(o, o.text)
		})
	}
	return cmd
}

// userPending is what --json prints of a message on its way.
type userPending struct {
	Identity     string `json:"identity"`
	Pending      bool   `json:"pending"`           // there is one
	Call         string `json:"call,omitempty"`    // the command that goes on with it
	Made         uint64 `json:"made,omitempty"`    // Unix seconds
	NotAfter     uint64 `json:"not_after"`         // Unix seconds
	Sent         bool   `json:"sent"`              // it may have been
	Acknowledged bool   `json:"acknowledged"`      // the keyserver has signed that it took it
	Problem      string `json:"problem,omitempty"` // why it would not be taken as it is
	Done         bool   `json:"done,omitempty"`    // it is in the hashchain
	Cancelled    bool   `json:"cancelled,omitempty"`
}

func newUserPending(id *keyclient.Identity) userPending {
	o := userPending{Identity: id.Name()}
	p := id.Pending()
	if p == nil {
		return o
	}
	o.Pending, o.Call, o.Made, o.NotAfter, o.Sent, o.Acknowledged = true, p.Call, p.Made, p.NotAfter, p.Sent, p.Acknowledged
	if p.Unfit != nil {
		o.Problem = p.Unfit.Error()
	}
	return o
}

// text is what people read of it.
func (o userPending) text(out io.Writer) {
	switch {
	case o.Done:
		fmt.Fprintf(out, "the keyserver has taken it: %s stands in the hashchain, and nothing is pending\n", o.Identity)
		return
	case o.Cancelled:
		fmt.Fprintf(out, "cancelled: what was begun for %s by keytree user %s is forgotten\n", o.Identity, o.Call)
		return
	case !o.Pending:
		fmt.Fprintf(out, "nothing is pending for %s\n", o.Identity)
		return
	}
	fmt.Fprintf(out, "pending      keytree user %s %s\n", o.Call, o.Identity)
	fmt.Fprintf(out, "made         %s\n", date(o.Made))
	fmt.Fprintf(out, "valid until  %s\n", date(o.NotAfter))
	sent := "no"
	if o.Acknowledged {
		sent = "yes, and the keyserver has signed that it took it"
	} else if o.Sent {
		sent = "perhaps"
	}
	fmt.Fprintf(out, "sent         %s\n", sent)
	if o.Problem != "" {
		fmt.Fprintf(out, "problem      %s\n", o.Problem)
	}
	fmt.Fprintf(out, "Go on with keytree user %s %s, or give it up with keytree user pending %s --cancel\n", o.Call, o.Identity, o.Identity)
}
