package main

import (
	"encoding/hex"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	keyclient "github.com/keytree-bch/keytree/keyserver/client"
)

func (a *app) userSessionsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sessions",
		Short: "Show the sessions that are kept, with their first messages",
		Long: `sessions shows the sessions of one of the user's identities, the oldest first, each
with its first message: those that somebody else began, which can be answered, and
those that wait for an answer. Others are over, and nothing is kept of them, unless
the answer could not be printed when it came: it is shown until it was.`,
		Example: `  keytree user sessions
  keytree user sessions --as alice@example.org --json`,
		Args: takes(),
	}
	u := a.userFlags(cmd)
	as, passphrase := asFlag(u), u.passphraseFlag()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		u.looks = true
		who, err := u.owner(cmd.Context(), *as, passphrase)
		if err != nil {
			return err
		}
		return u.look(func(c *keyclient.Client) error {
			id, err := c.OpenIdentity(who.name, who.passphrase)
			if err != nil {
				return err
			}
			for _, kept := range id.Sessions() {
				o, err := newUserSession(id, &kept)
				if err != nil {
					return err
				}
				if err := u.print(o, o.text); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return cmd
}

// userSession is what --json prints of a session that is kept.
type userSession struct {
	Session string `json:"session"`
	From    string `json:"from"`
	To      string `json:"to"`
	Text    []byte `json:"text"`  // of the first message, base64
	Until   uint64 `json:"until"` // may be forgotten then
	// Unsent: nobody knows whether the first message was sent.
	Unsent bool `json:"unsent,omitempty"`
	// Answer is what came to the first message, and could not be printed.
	Answer []byte `json:"answer,omitempty"`
	// Where the other side can be reached, in a session that it began.
	MixAddress string `json:"mix_address,omitempty"`
	NymAddress []byte `json:"nym_address,omitempty"`
}

func newUserSession(id *keyclient.Identity, kept *keyclient.Session) (userSession, error) {
	peer, replyTo, begunHere, err := kept.Peer()
	o := userSession{
		Session: hex.EncodeToString(kept.ID[:]), From: peer, To: id.Name(), Text: kept.Text, Until: kept.Until,
		MixAddress: replyTo.Mix, NymAddress: replyTo.Nym, Unsent: kept.Unsent != nil,
	}
	if kept.Answer != nil {
		o.Answer = kept.Answer.Text
	}
	if begunHere {
		o.From, o.To = o.To, o.From
	}
	return o, err
}

// text is what people read of it.
func (o userSession) text(out io.Writer) {
	fmt.Fprintf(out, "%s wrote to %s, session %s, kept until %s:\n\n%s\n", o.From, o.To, o.Session, date(o.Until), quoted(o.Text))
	if o.Unsent {
		fmt.Fprintf(out, "Perhaps it was not sent: to send the same text again is harmless.\n\n")
	}
	if o.Answer != nil {
		fmt.Fprintf(out, "%s answered to %s, session %s:\n\n%s\n", o.To, o.From, o.Session, quoted(o.Answer))
	}
}
