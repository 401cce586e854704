package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/keytree-bch/keytree/graph/durable"
	keyclient "github.com/keytree-bch/keytree/keyserver/client"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// identityFlags are those of commands that change an identity.
type identityFlags struct {
	*userFlags
	passphrase passphraseFlag
	tokens     tokensFlag
	forwardSec *parsed[string]
}

func (a *app) identityFlags(cmd *cobra.Command) *identityFlags {
	u := a.userFlags(cmd)
	f := &identityFlags{
		userFlags: u, passphrase: u.passphraseFlag(), tokens: u.tokensFlag(),
		forwardSec: newParsed("WHICH", "", parseForwardSec),
	}
	f.flags.Var(f.forwardSec, "forward-sec", "what those who write first have to use: strict (a KeyInit that nobody else got), or mandatory (a KeyInit) (default strict, or as before)")
	return f
}

// parseForwardSec refuses what keytree does not do: to begin a session without a KeyInit.
func parseForwardSec(s string) (string, error) {
	if s == uid.Optional {
		return "", errors.New("expected one of strict, mandatory: optional asks others to write without a KeyInit, which no client does yet")
	}
	return oneOf(uid.Strict, uid.Mandatory)(s)
}

func anchorFlags(flags *pflag.FlagSet, usage string) (mix, nym *string) {
	return flags.String("mix-address", "", "`ADDRESS`, "+usage),
		flags.String("nym-address", "", "`BASE64`, for whom they are at the mix address")
}

// registration is what the flags say, with a token.
func (f *identityFlags) registration(name string) (keyclient.Registration, error) {
	tokens, err := f.tokens.take(1)
	if err != nil {
		return keyclient.Registration{}, err
	}
	return keyclient.Registration{
		ForwardSec: f.forwardSec.value, Token: tokens[0],
		Paper: func(key string) error { return f.printPaper(name, key) },
	}, nil
}

// userPaper is what --json prints of a paper key, before anything is sent.
type userPaper struct {
	Identity string `json:"identity"`
	PaperKey string `json:"paper_key"`
}

// printPaper prints a private escrow key. Unless all of it was written, the key is
// not given up.
func (f *identityFlags) printPaper(name, key string) error {
	return f.print(userPaper{name, key}, func(out io.Writer) {
		half := len(key) / 2
		fmt.Fprintf(out, "Paper key of %s. Put it on paper, and nowhere else: it replaces lost keys,\n"+
			"and this is the only time that it is shown.\n\n    %s\n    %s\n\n", name, key[:half], key[half+1:])
	})
}

// userIdentity is what --json prints of an own identity.
type userIdentity struct {
	Identity string          `json:"identity"`
	Stage    keyclient.Stage `json:"stage"`
	Position uint64          `json:"position"`
	MsgCount uint64          `json:"msg_count"`
	NotAfter uint64          `json:"not_after"`
	SigKey   []byte          `json:"sig_key"` // public
}

func newUserIdentity(id *keyclient.Identity) userIdentity {
	c := &id.Message().Content
	return userIdentity{id.Name(), id.Stage(), id.Position(), c.MsgCount, c.NotAfter, c.SigKey.Public()}
}

// done prints an identity that was registered, and takes its token off the file.
func (f *identityFlags) done(id *keyclient.Identity, w keyclient.Registration) error {
	o := newUserIdentity(id)
	spent := f.tokens.spent([]string{w.Token})
	err := f.print(o, func(out io.Writer) {
		fmt.Fprintf(out, "%s stands in the hashchain at position %d, valid until %s.\n", o.Identity, o.Position, date(o.NotAfter))
		fmt.Fprintf(out, "Verify that it stays there before you rely on it: keytree user confirm %s\n", o.Identity)
	})
	return errors.Join(err, spent)
}

func (a *app) userCreateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Register an identity",
		Long: `create registers NAME@DOMAIN with the keyserver, if no entry of the hashchain has
the name yet. Names that look alike are one: in NAME, 0 is o, 1 is l and j is i, so
that j0hn is registered as iohn. It makes two keys: a signature key, which stays here, encrypted, and
an escrow key, which is printed for paper and deleted here when the entry has been
seen in the hashchain. The paper replaces lost keys (keytree user recover).

If it fails or is interrupted, call it again: it goes on with the same keys, and
looks first whether the keyserver took what was sent. A name that the keyserver gives
to nobody is forgotten; keytree user pending shows what was begun, and cancels it.

Tell nobody the name before keytree user confirm.`,
		Example: `  keytree user create alice@example.org
  keytree user create alice@example.org --tokens tokens.txt --passphrase-file pass.txt --json`,
		Args: takes("NAME"),
	}
	f := a.identityFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := identityArgument(args[0])
		if err != nil {
			return err
		}
		if err := uid.CheckReserved(name); err != nil {
			return fmt.Errorf("%w: choose another name", err)
		}
		w, err := f.registration(name)
		if err != nil {
			return err
		}
		if given := strings.TrimSpace(args[0]); !strings.EqualFold(given, name) {
			a.tell(fmt.Sprintf("%s is registered as %s: names that look alike are one", given, name))
		}
		o, err := f.newOwner(cmd.Context(), name, f.passphrase)
		if err != nil {
			return err
		}
		return f.with(func(c *keyclient.Client) error {
			id, err := c.Create(cmd.Context(), name, o.passphrase, w)
			if err != nil {
				return err
			}
			return f.done(id, w)
		})
	}
	return cmd
}

func (a *app) userUpdateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "update NAME",
		Short: "Replace an identity's signature key, for another year",
		Long: `update registers the next message of an identity: a new signature key, signed by
the one before, valid for another year. The paper key stays good. If it fails or is
interrupted, call it again.

KeyInits belong to the signature key: add new ones afterwards.`,
		Example: `  keytree user update alice@example.org
  keytree user update alice@example.org --forward-sec mandatory --tokens tokens.txt`,
		Args: takes("NAME"),
	}
	f := a.identityFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := identityArgument(args[0])
		if err != nil {
			return err
		}
		w, err := f.registration(name)
		if err != nil {
			return err
		}
		o, err := f.owner(cmd.Context(), name, f.passphrase)
		if err != nil {
			return err
		}
		return f.withOwner(o, func(c *keyclient.Client, id *keyclient.Identity) error {
			if err := c.Update(cmd.Context(), id, w); err != nil {
				return err
			}
			return f.done(id, w)
		})
	}
	return cmd
}

func (a *app) userRecoverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recover NAME",
		Short: "Replace an identity's lost or stolen keys, with its paper key",
		Long: `recover registers new keys for an identity, signed by the escrow key that was put on
paper when it was created. It works in a folder that knows nothing of the identity.
The paper key comes from --paper-key-file or the terminal; case, spaces and hyphens
do not matter. If it fails or is interrupted, call it again.

The paper stays good, unless --new-paper-key replaces it, too.`,
		Example: `  keytree user recover alice@example.org
  keytree user recover alice@example.org --paper-key-file paper.txt --new-paper-key`,
		Args: takes("NAME"),
	}
	f := a.identityFlags(cmd)
	file := f.flags.String("paper-key-file", "", "`FILE` with the paper key, readable by its owner alone")
	newPaper := f.flags.Bool("new-paper-key", false, "make another paper key; the old one is good no more")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := identityArgument(args[0])
		if err != nil {
			return err
		}
		w, err := f.registration(name)
		if err != nil {
			return err
		}
		if _, err := f.mayUse(); err != nil { // before a person types a long key
			return err
		}
		text, err := f.readPaper(cmd.Context(), name, *file)
		if err != nil {
			return err
		}
		paper, err := keyclient.ParsePaperKey(string(text))
		if err != nil {
			return err
		}
		o, err := f.newOwner(cmd.Context(), name, f.passphrase)
		if err != nil {
			return err
		}
		return f.with(func(c *keyclient.Client) error {
			id, err := c.Recover(cmd.Context(), name, o.passphrase, paper, *newPaper, w)
			if err != nil {
				return err
			}
			return f.done(id, w)
		})
	}
	return cmd
}

func (f *identityFlags) readPaper(ctx context.Context, name, file string) (text []byte, err error) {
	if file != "" {
		text, err = durable.ReadSecret(file)
	} else if text, err = f.app.ask(ctx, "Paper key of "+name+": "); err != nil {
		err = fmt.Errorf("%w; or give --paper-key-file FILE", err)
	}
	if err != nil {
		return nil, fmt.Errorf("paper key: %w", err)
	}
	return text, nil
}

func (a *app) userConfirmCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "confirm NAME",
		Short: "Verify that an identity stands in the hashchain; then tell its name",
		Long: `confirm waits until further entries have followed the identity's, which others make,
so that it may take long; other commands can use the folder meanwhile. Then it verifies
on the local copy, brought up to date, that its entry is there as the keyserver
acknowledged it, that no other follows it, and that the keyserver gives out the
same message to who asks. Then it prints the name, which can be told to others.`,
		Example: `  keytree user confirm alice@example.org
  keytree user confirm alice@example.org --entries 20 --poll 60 --json`,
		Args: takes("NAME"),
	}
	u := a.userFlags(cmd)
	passphrase := u.passphraseFlag()
	entries := numberFlag(u.flags, "entries", 3, 0, 1_000_000, "how many further entries to wait for")
	poll := numberFlag(u.flags, "poll", 10, 1, 24*60*60, "how often to ask the keyserver, in seconds")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := identityArgument(args[0])
		if err != nil {
			return err
		}
		o, err := u.owner(cmd.Context(), name, passphrase)
		if err != nil {
			return err
		}
		return u.withOwner(o, func(c *keyclient.Client, id *keyclient.Identity) error {
			if err := c.Confirm(cmd.Context(), id, uint64(entries.value), time.Duration(poll.value)*time.Second); err != nil {
				return err
			}
			return u.print(newUserIdentity(id), func(out io.Writer) { fmt.Fprintln(out, id.Name()) })
		})
	}
	return cmd
}
