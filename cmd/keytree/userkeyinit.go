package main

import (
	"errors"
	"fmt"
	"io"
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
encrypted, until they are used or expire.

--keep N adds as many as there have to be so that the keyserver has N, as often as it
is called, and so none if it has them. Where fetching costs nothing, anybody can use up
those that are not for fallback: keytree user status tells how many are left.`,
		Example: `  keytree user keyinit add alice@example.org --mix-address mix@example.net
  keytree user keyinit add alice@example.org --mix-address mix@example.net --tokens tokens.txt --keep 20
  keytree user keyinit add alice@example.org --mix-address mix@example.net --count 1 --fallback`,
		Args: takes("NAME"),
	}
	u := a.userFlags(cmd)
	passphrase, tokens := u.passphraseFlag(), u.tokensFlag()
	mix, nym := anchorFlags(u.flags, "where first messages go (needed)")
	count := numberFlag(u.flags, "count", 10, 1, keyclient.MaxKeyInits, "how many")
	keep := numberFlag(u.flags, "keep", 0, 0, keyclient.MaxKeyInits, "add so many that the keyserver has `N` of the kind, in place of --count")
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
		if u.flags.Changed("keep") && u.flags.Changed("count") {
			return usagef("expected one of --count and --keep")
		}
		if _, err := tokens.take(0); err != nil { // before a person is asked something
			return err
		}
		who, err := u.owner(cmd.Context(), name, passphrase)
		if err != nil {
			return err
		}
		return u.withOwner(who, func(c *keyclient.Client, id *keyclient.Identity) error {
			n := uint64(count.value)
			if u.flags.Changed("keep") {
				if n, err = c.MissingKeyInits(cmd.Context(), id, uint64(keep.value), *fallback); err != nil {
					return err
				}
			}
			o := userKeyInits{Identity: id.Name(), Fallback: *fallback}
			if n == 0 {
				return u.print(o, func(out io.Writer) {
					fmt.Fprintf(out, "the keyserver has %d KeyInits of %s: none was added\n", keep.value, o.Identity)
				})
			}
			pay, err := tokens.take(int(n))
			if err != nil {
				return err
			}
			valid := time.Duration(days.value) * 24 * time.Hour
			made, err := c.AddKeyInits(cmd.Context(), id, pay, keyclient.Anchor{MixAddress: *mix, NymAddress: *nym}, valid, *fallback)
			if err != nil {
				return err
			}
			spent := tokens.spent(pay)
			o.Added, o.NotAfter = len(made), made[0].Contents.NotAfter
			err = u.print(o, func(out io.Writer) {
				fmt.Fprintf(out, "%d KeyInits of %s were added, valid until %s\n", o.Added, o.Identity, date(o.NotAfter))
			})
			return errors.Join(err, spent)
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
	tokens := u.tokensFlag()
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
			k, anchor, err := c.FetchKeyInit(cmd.Context(), contact, tokens.payment())
			if err != nil {
				return err
			}
			err = u.print(userFetched{contact.Identity, k, anchor}, func(out io.Writer) {
				fmt.Fprintf(out, "KeyInit of %s, valid until %s, fallback %v\n", contact.Identity, date(k.Contents.NotAfter), k.Contents.Fallback)
				fmt.Fprintf(out, "mix address  %s %s\n", anchor.MixAddress, anchor.NymAddress)
				for i := range anchor.PFKeys {
					fmt.Fprintf(out, "public key   %x\n", anchor.PFKeys[i].Public())
				}
			})
			if err != nil {
				return fmt.Errorf("%w: the KeyInit is kept, and comes with the next fetch", err)
			}
			return c.UsedKeyInit(contact, k.Digest())
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
		who, err := u.owner(cmd.Context(), name, passphrase)
		if err != nil {
			return err
		}
		return u.withOwner(who, func(c *keyclient.Client, id *keyclient.Identity) error {
			if err := c.FlushKeyInits(cmd.Context(), id); err != nil {
				return err
			}
			return u.print(newUserIdentity(id), func(out io.Writer) { fmt.Fprintf(out, "the keyserver has no KeyInits of %s any more\n", id.Name()) })
		})
	}
	return cmd
}
