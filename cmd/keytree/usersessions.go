package main

import (
	"encoding/hex"
	"fmt"

	"github.com/spf13/cobra"

	keyclient "github.com/keytree-bch/keytree/keyserver/client"
)

func (a *app) userSessionsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sessions",
		Short: "Show the sessions that are kept, with their first messages",
		Long: `sessions shows the sessions of one of the user's identities, the oldest first, each
with its first message: those that somebody else began, which can be answered, and
those that wait for an answer. Others are over, and nothing is kept of them.`,
		Example: `  keytree user sessions
  keytree user sessions --as alice@example.org --json`,
		Args: takes(),
	}
	u := a.userFlags(cmd)
	as, passphrase := asFlag(u), u.passphraseFlag()
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return u.look(func(c *keyclient.Client) error {
			id, err := u.openOwn(cmd.Context(), c, *as, passphrase)
			if err != nil {
				return err
			}
			for _, kept := range id.Sessions() {
				o, err := newUserSession(id, &kept)
				if err != nil {
					return err
				}
				err = u.print(o, func(out *output) {
					fmt.Fprintf(out, "%s wrote to %s, session %s, kept until %s:\n\n%s\n\n", o.From, o.To, o.Session, date(o.Until), harmless(o.Text))
				})
				if err != nil {
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
	// Where the other side can be reached, in a session that it began.
	MixAddress string `json:"mix_address,omitempty"`
	NymAddress []byte `json:"nym_address,omitempty"`
}

func newUserSession(id *keyclient.Identity, kept *keyclient.Session) (userSession, error) {
	peer, replyTo, begunHere, err := kept.Peer()
	o := userSession{
		Session: hex.EncodeToString(kept.ID[:]), From: peer, To: id.Name(), Text: kept.Text, Until: kept.Until,
		MixAddress: replyTo.Mix, NymAddress: replyTo.Nym,
	}
	if begunHere {
		o.From, o.To = o.To, o.From
	}
	return o, err
}
