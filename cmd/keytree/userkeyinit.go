package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	keyclient "github.com/keytree-bch/keytree/keyserver/client"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
)

func (a *app) userKeyInitCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keyinit",
		Short: "Publish, fetch and flush keys for the beginning of sessions",
		Long: `A KeyInit is a key and an address for the first message of one session. Users
publish some with the keyserver, which hands each out once; those for fallback may
be handed out again when there are no others.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return usagef("expected one of: user keyinit add, user keyinit fetch, user keyinit flush")
		},
	}
	cmd.AddCommand(a.keyInitAddCommand(), a.keyInitFetchCommand(), a.keyInitFlushCommand())
	return cmd
}

// userKeyInits is what --json prints of an addition.
type userKeyInits struct {
	Identity string `json:"identity"`
	Added    int    `json:"added"`
	Fallback bool   `json:"fallback"`
	NotAfter uint64 `json:"not_after"`
}

func (a *app) keyInitAddCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add NAME --mix-address ADDRESS",
		Short: "Publish KeyInits",
		Long: `add makes KeyInits of one of the user's identities and gives them to the keyserver,
each paid with a token, and verifies its receipts. The private keys are kept,
encrypted, until they are used or expire.`,
		Example: `  keytree user keyinit add alice@example.org --mix-address mix@example.net
  keytree user keyinit add alice@example.org --mix-address mix@example.net --count 1 --fallback`,
		Args: takes("NAME"),
	}
	u := a.userFlags(cmd)
	passphrase, tokens := u.passphraseFlag(), newTokensFlag(u.flags)
	mix, nym := anchorFlags(u.flags, "where first messages go (needed)")
	count := numberFlag(u.flags, "count", 10, 1, keyclient.MaxKeyInits, "how many")
	days := numberFlag(u.flags, "days", 90, 1, uint32(keyclient.MaxKeyInitValidity/(24*time.Hour)), "for how many days they are valid")
	fallback := u.flags.Bool("fallback", false, "may be handed out more than once; not for an identity with --forward-sec strict")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := identityArgument(args[0])
		if err != nil {
			return err
		}
		if *mix == "" {
			return usagef("no address given: expected --mix-address ADDRESS")
		}
		if err := (&keyinit.Anchor{MixAddress: *mix, NymAddress: *nym}).CheckAddress(); err != nil {
			return usagef("--mix-address, --nym-address: %w", err)
		}
		pay, err := tokens.take(int(count.value))
		if err != nil {
			return err
		}
		return u.withIdentity(cmd.Context(), name, passphrase, func(c *keyclient.Client, id *keyclient.Identity) error {
			valid := time.Duration(days.value) * 24 * time.Hour
			made, err := c.AddKeyInits(cmd.Context(), id, pay, keyclient.Anchor{MixAddress: *mix, NymAddress: *nym}, valid, *fallback)
			if err != nil {
				return err
			}
			o := userKeyInits{id.Name(), len(made), *fallback, made[0].Contents.NotAfter}
			err = u.print(o, func(out *output) {
				fmt.Fprintf(out, "%d KeyInits of %s, valid until %s\n", o.Added, o.Identity, date(o.NotAfter))
			})
			return errors.Join(err, tokens.spent(pay))
		})
	}
	return cmd
}

// userFetched is what --json prints of a KeyInit.
type userFetched struct {
	Identity string           `json:"identity"`
	KeyInit  *keyinit.KeyInit `json:"key_init"`
	Anchor   *keyinit.Anchor  `json:"anchor"`
}

func (a *app) keyInitFetchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fetch NAME",
		Short: "Take a KeyInit of somebody, to begin a session",
		Long: `fetch looks a name up, takes one of its KeyInits from the keyserver and verifies
that it is signed by the signature key that the hashchain has for the name. The
keyserver gives it to nobody else then: print it with --json and keep it. A keyserver
that wants a token for it gets the first of --tokens.`,
		Example: `  keytree user keyinit fetch alice@example.org --json >keyinit.json`,
		Args:    takes("NAME"),
	}
	u := a.userFlags(cmd)
	noSync := u.flags.Bool("no-sync", false, "look the name up in the copy as it is")
	tokens := newTokensFlag(u.flags)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := identityArgument(args[0])
		if err != nil {
			return err
		}
		return u.with(func(c *keyclient.Client) error {
			contact, err := lookUp(cmd.Context(), c, name, !*noSync)
			if err != nil {
				return err
			}
			pay := tokens.payment()
			k, anchor, err := c.FetchKeyInit(cmd.Context(), contact, pay.Take)
			if err != nil {
				return err
			}
			if err := pay.Spent(); err != nil {
				return err
			}
			return u.print(userFetched{contact.Identity, k, anchor}, func(out *output) {
				fmt.Fprintf(out, "KeyInit of %s, valid until %s, fallback %v\n", contact.Identity, date(k.Contents.NotAfter), k.Contents.Fallback)
				fmt.Fprintf(out, "mix address  %s %s\n", anchor.MixAddress, anchor.NymAddress)
				for i := range anchor.PFKeys {
					fmt.Fprintf(out, "public key   %x\n", anchor.PFKeys[i].Public())
				}
			})
		})
	}
	return cmd
}

func (a *app) keyInitFlushCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "flush NAME",
		Short: "Have the keyserver forget an identity's KeyInits",
		Long: `flush has the keyserver forget all KeyInits of the present signature key of one of
the user's identities, so that none of them is handed out any more.`,
		Example: `  keytree user keyinit flush alice@example.org`,
		Args:    takes("NAME"),
	}
	u := a.userFlags(cmd)
	passphrase := u.passphraseFlag()
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := identityArgument(args[0])
		if err != nil {
			return err
		}
		return u.withIdentity(cmd.Context(), name, passphrase, func(c *keyclient.Client, id *keyclient.Identity) error {
			if err := c.FlushKeyInits(cmd.Context(), id); err != nil {
				return err
			}
			return u.print(newUserIdentity(id), func(out *output) { fmt.Fprintf(out, "the keyserver has no KeyInits of %s any more\n", id.Name()) })
		})
	}
	return cmd
}
