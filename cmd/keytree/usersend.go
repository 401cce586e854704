package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	keyclient "github.com/keytree-bch/keytree/keyserver/client"
	"github.com/keytree-bch/keytree/keyserver/session"
	"github.com/keytree-bch/keytree/keyserver/session/mixmail"
)

// sendFlags are those of commands that send a message.
type sendFlags struct {
	*userFlags
	as         *string
	passphrase passphraseFlag
	mix, nym   *string
	text       *string

	out          *string
	smtp         *parsed[string]
	security     *parsed[string]
	from         *string
	smtpUser     *string
	passwordFile *string
}

func (a *app) sendFlags(cmd *cobra.Command) *sendFlags {
	u := a.userFlags(cmd)
	f := &sendFlags{
		userFlags: u, as: asFlag(u), passphrase: u.passphraseFlag(),
		text:         u.flags.String("text-file", "", "`FILE` with the text (default standard input)"),
		out:          u.flags.String("out", "", "write the mail to a new `FILE` instead of sending it"),
		smtp:         newParsed("HOST:PORT", "", parseHostPort(false)),
		security:     newParsed("WHICH", string(mixmail.StartTLS), oneOf(string(mixmail.StartTLS), string(mixmail.TLS), string(mixmail.Plain))),
		from:         u.flags.String("mail-from", "", "mail `ADDRESS` that mail server and mix see as the sender's (default none)"),
		smtpUser:     u.flags.String("smtp-user", "", "`NAME` of an account at the mail server"),
		passwordFile: u.flags.String("smtp-password-file", "", "`FILE` with its password, readable by its owner alone"),
	}
	f.mix, f.nym = anchorFlags(u.flags, "where the other side writes back, in this session (needed)")
	u.flags.Var(f.smtp, "smtp", "mail server that takes mail for the mix")
	u.flags.Var(f.security, "smtp-security", "starttls, tls, or plain: only for a mail server on this machine")
	setting(u.flags, "smtp", "smtp-security", "mail-from", "smtp-user", "smtp-password-file")
	return f
}

// asFlag tells which of the user's identities is meant.
func asFlag(u *userFlags) *string {
	return u.flags.String("as", "", "own `IDENTITY` (default the only one)")
}

// outgoing is a message to be made, and how it leaves.
type outgoing struct {
	keyclient.Draft
	by keyclient.Deliverer
}

// outgoing checks everything that can be checked before a KeyInit is used up.
func (f *sendFlags) outgoing() (m outgoing, err error) {
	m.ReplyTo.Mix = *f.mix
	if m.ReplyTo.Nym, err = canonical.Decode(*f.nym, -1); err != nil {
		return m, usagef("--nym-address: %w", err)
	}
	if err := m.ReplyTo.Check(); err != nil {
		return m, usagef("--mix-address, --nym-address: %w", err)
	}
	if *f.from != "" {
		if err := (&session.Address{Mix: *f.from}).Check(); err != nil {
			return m, usagef("--mail-from: %w", err)
		}
	}
	if (*f.out == "") == (f.smtp.value == "") {
		return m, usagef("expected one of --smtp HOST:PORT and --out FILE")
	}
	if *f.out != "" {
		m.by = mixmail.File{Path: *f.out, From: *f.from}
	} else if m.by, err = f.mailServer(); err != nil {
		return m, err
	}
	m.Text, err = f.readText()
	return m, err
}

func (f *sendFlags) mailServer() (*mixmail.SMTP, error) {
	if (*f.smtpUser == "") != (*f.passwordFile == "") {
		return nil, usagef("expected both or none of --smtp-user and --smtp-password-file")
	}
	s := &mixmail.SMTP{Server: f.smtp.value, Security: mixmail.Security(f.security.value), From: *f.from, Username: *f.smtpUser}
	if *f.passwordFile == "" {
		return s, nil
	}
	if s.Security == mixmail.Plain {
		return nil, usagef("--smtp-security plain: a password is not sent without TLS")
	}
	password, err := durable.ReadSecret(*f.passwordFile)
	if err != nil {
		return nil, fmt.Errorf("--smtp-password-file: %w", err)
	}
	s.Password = strings.TrimRight(string(password), "\r\n")
	return s, nil
}

func (f *sendFlags) readText() ([]byte, error) {
	in := f.app.stdin
	if *f.text != "" {
		file, err := os.Open(*f.text)
		if err != nil {
			return nil, fmt.Errorf("--text-file: %w", err)
		}
		defer file.Close()
		in = file
	}
	if file, ok := in.(*os.File); ok && isTerminal(file) {
		f.app.tell("write the text; a line with Ctrl-D alone ends it, Ctrl-C sends nothing")
	}
	text, err := io.ReadAll(io.LimitReader(in, session.MaxText+1))
	if err != nil {
		return nil, fmt.Errorf("text: %w", err)
	}
	if len(text) > session.MaxText {
		return nil, fmt.Errorf("text: expected at most %d bytes, got more", session.MaxText)
	}
	return text, nil
}

// userSent is what --json prints of a message that was sent.
type userSent struct {
	Session    string `json:"session"`
	From       string `json:"from"`
	To         string `json:"to"`
	MixAddress string `json:"mix_address"` // where the message went
}

func (f *sendFlags) sent(o userSent) error {
	err := f.print(o, func(out io.Writer) {
		fmt.Fprintf(out, "%s wrote to %s by %s, session %s\n", o.From, o.To, o.MixAddress, o.Session)
	})
	if err != nil {
		f.app.tell("the message was sent all the same: do not send it again")
	}
	return err
}

func (a *app) userSendCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "send NAME --mix-address ADDRESS --smtp HOST:PORT",
		Short: "Begin a session with somebody: send the first message",
		Long: `send looks a name up, takes one of its KeyInits from the keyserver, verifies it, and
makes the first message of a session with it, which only the owner of the name can
open. You have to be somebody yourself (keytree user create). The message goes to the KeyInit's mix address, by the mail server --smtp. The text
comes from --text-file or standard input.

--mix-address and --nym-address are where the other side writes back, in this
session only. What is needed to open the answer is kept, encrypted, with the keys
of the identity --as.

No KeyInit is taken before the mail server, or --out, would take a mail. If it fails
afterwards, call it again: the KeyInit that was fetched is kept for the next try.`,
		Example: `  keytree user send alice@example.org --mix-address mix@example.net --smtp mail.example.net:587 <text
  keytree user send alice@example.org --as bob@example.org --mix-address mix@example.net --out first.eml`,
		Args: takes("NAME"),
	}
	f := a.sendFlags(cmd)
	tokens := f.tokensFlag()
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		name, err := identityArgument(args[0])
		if err != nil {
			return err
		}
		m, err := f.outgoing()
		if err != nil {
			return err
		}
		who, err := f.owner(ctx, *f.as, f.passphrase)
		if err != nil {
			return err
		}
		return f.withOwner(who, func(c *keyclient.Client, id *keyclient.Identity) error {
			sent, err := c.Send(ctx, id, name, m.Draft, tokens.payment(), m.by)
			if err != nil {
				return err
			}
			return f.sent(userSent{hex.EncodeToString(sent.Session[:]), id.Name(), sent.To, sent.By.Mix})
		})
	}
	return cmd
}

func (a *app) userAnswerCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "answer SESSION --mix-address ADDRESS --smtp HOST:PORT",
		Short: "Answer the first message of a session",
		Long: `answer answers a message that keytree user receive opened, to the address that came
with it. The keyserver is not asked for anything. The other side takes one answer.`,
		Example: `  keytree user answer 3f2c... --mix-address mix@example.net --smtp mail.example.net:587 <text`,
		Args:    takes("SESSION"),
	}
	f := a.sendFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		sessionID, err := hex.DecodeString(args[0])
		if err != nil || len(sessionID) != sha256.Size {
			return usagef("expected a session, 64 hex characters, got %q", shortened(args[0]))
		}
		m, err := f.outgoing()
		if err != nil {
			return err
		}
		who, err := f.owner(ctx, *f.as, f.passphrase)
		if err != nil {
			return err
		}
		return f.withOwner(who, func(_ *keyclient.Client, id *keyclient.Identity) error {
			letter, peer, err := id.Answer([sha256.Size]byte(sessionID), m.Draft)
			if err != nil {
				return err
			}
			if err := m.by.Send(ctx, letter); err != nil {
				return fmt.Errorf("%w: nothing is lost, call it again", err)
			}
			return f.sent(userSent{args[0], id.Name(), peer, letter.To.Mix})
		})
	}
	return cmd
}

func (a *app) userReceiveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "receive FILE",
		Short: "Open a message: the first of a session, or the answer",
		Long: `receive opens a message for one of the user's identities, from a file with the mail
as it arrived, or with the message alone. A message opens once; keytree user
sessions shows the first one of a session again, and an answer that could not be
printed.

Of a first message it verifies, on the copy of the hashchain, brought up to date,
that the sender is who it says: the keyserver learns nothing of it. --no-sync takes
the copy as it is.`,
		Example: `  keytree user receive mail.eml
  keytree user receive mail.eml --as alice@example.org --no-sync --json`,
		Args: takes("FILE"),
	}
	u := a.userFlags(cmd)
	as, passphrase := asFlag(u), u.passphraseFlag()
	noSync := u.flags.Bool("no-sync", false, "verify the sender on the copy as it is")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		m, err := readMessage(args[0])
		if err != nil {
			return err
		}
		who, err := u.owner(ctx, *as, passphrase)
		if err != nil {
			return err
		}
		return u.withOwner(who, func(c *keyclient.Client, id *keyclient.Identity) error {
			if m.Kind == session.First && !*noSync {
				if _, err := c.Sync(ctx); err != nil {
					return err
				}
			}
			received, err := c.Receive(ctx, id, m)
			if errors.Is(err, session.ErrUnknown) || errors.Is(err, session.ErrReplay) {
				return fmt.Errorf("%w: keytree user sessions shows what has come and is kept", err)
			}
			if err != nil {
				return err
			}
			o := newUserReceived(received, id)
			err = u.print(o, func(out io.Writer) {
				fmt.Fprintf(out, "%s wrote to %s, session %s:\n\n%s\n", o.From, o.To, o.Session, quoted(o.Text))
			})
			if err != nil {
				a.tell("the message has come, and is kept: keytree user sessions shows it")
				return err
			}
			if received.Kind == session.Answer { // the session is over
				return id.EndSession(received.Session)
			}
			return nil
		})
	}
	return cmd
}

// readMessage reads a message, in a mail or alone.
func readMessage(path string) (*session.Message, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, mixmail.MaxMail+1))
	if err != nil {
		return nil, err
	}
	m, err := mixmail.Parse(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}

// userReceived is what --json prints of a message.
type userReceived struct {
	Kind       string `json:"kind"` // first or answer
	Session    string `json:"session"`
	From       string `json:"from"`
	To         string `json:"to"`
	Text       []byte `json:"text"`        // base64
	MixAddress string `json:"mix_address"` // where the other side can be reached, in this session
	NymAddress []byte `json:"nym_address"`
}

func newUserReceived(m *keyclient.Received, to *keyclient.Identity) userReceived {
	kind := "first"
	if m.Kind == session.Answer {
		kind = "answer"
	}
	return userReceived{kind, hex.EncodeToString(m.Session[:]), m.From, to.Name(), m.Text, m.ReplyTo.Mix, m.ReplyTo.Nym}
}
