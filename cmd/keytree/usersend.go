package main

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	keyclient "github.com/keytree-bch/keytree/keyserver/client"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/secretfile"
	"github.com/keytree-bch/keytree/keyserver/session"
	"github.com/keytree-bch/keytree/keyserver/session/mixmail"
)

// deliverer is how a letter leaves.
type deliverer interface {
	Send(ctx context.Context, letter *session.Letter) error
}

// mailFile keeps a letter as a mail in a file, for somebody else to send.
type mailFile struct{ path, from string }

// Send implements deliverer.
func (f mailFile) Send(_ context.Context, letter *session.Letter) error {
	var mail bytes.Buffer
	if err := mixmail.Write(&mail, letter, f.from, time.Now()); err != nil {
		return err
	}
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	_, err = file.Write(mail.Bytes())
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("--out: %w", errors.Join(err, os.Remove(f.path)))
	}
	return nil
}

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

// own returns the user's identity that as names.
func (u *userFlags) own(c *keyclient.Client, as string) (string, error) {
	if as != "" {
		return identityArgument(as)
	}
	names, err := c.Names()
	if err != nil {
		return "", err
	}
	if len(names) != 1 {
		return "", usagef("the folder has %d identities of yours: expected --as IDENTITY", len(names))
	}
	return names[0], nil
}

// openOwn opens the user's identity that as names.
func (u *userFlags) openOwn(ctx context.Context, c *keyclient.Client, as string, p passphraseFlag) (*keyclient.Identity, error) {
	name, err := u.own(c, as)
	if err != nil {
		return nil, err
	}
	if has, err := c.Has(name); err != nil {
		return nil, err
	} else if !has {
		return nil, fmt.Errorf("%w: %s", keyclient.ErrNoIdentity, name)
	}
	passphrase, err := p.read(ctx, name, false)
	if err != nil {
		return nil, err
	}
	return c.OpenIdentity(name, passphrase)
}

// draft is what a message needs besides its two sides.
type draft struct {
	reply session.Address
	text  []byte
	by    deliverer
}

// draft checks everything that can be checked before a KeyInit is used up.
func (f *sendFlags) draft() (d draft, err error) {
	d.reply.Mix = *f.mix
	if d.reply.Nym, err = canonical.Decode(*f.nym, -1); err != nil {
		return d, usagef("--nym-address: %w", err)
	}
	if err := d.reply.Check(); err != nil {
		return d, usagef("--mix-address, --nym-address: %w", err)
	}
	if *f.from != "" {
		if err := (&session.Address{Mix: *f.from}).Check(); err != nil {
			return d, usagef("--mail-from: %w", err)
		}
	}
	if (*f.out == "") == (f.smtp.value == "") {
		return d, usagef("expected one of --smtp HOST:PORT and --out FILE")
	}
	if *f.out != "" {
		d.by = mailFile{*f.out, *f.from}
	} else if d.by, err = f.mailServer(); err != nil {
		return d, err
	}
	d.text, err = f.readText()
	return d, err
}

func (f *sendFlags) mailServer() (deliverer, error) {
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
	password, err := secretfile.Read(*f.passwordFile)
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
	return f.print(o, func(out *output) {
		fmt.Fprintf(out, "%s wrote to %s by %s, session %s\n", o.From, o.To, o.MixAddress, o.Session)
	})
}

func (a *app) userSendCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "send NAME --mix-address ADDRESS --smtp HOST:PORT",
		Short: "Begin a session with somebody: send the first message",
		Long: `send looks a name up, takes one of its KeyInits from the keyserver, verifies it, and
makes the first message of a session with it, which only the owner of the name can
open. It goes to the KeyInit's mix address, by the mail server --smtp. The text
comes from --text-file or standard input.

--mix-address and --nym-address are where the other side writes back, in this
session only. What is needed to open the answer is kept, encrypted, with the keys
of the identity --as.`,
		Example: `  keytree user send alice@example.org --mix-address mix@example.net --smtp mail.example.net:587 <text
  keytree user send alice@example.org --as bob@example.org --mix-address mix@example.net --out first.eml`,
		Args: takes("NAME"),
	}
	f := a.sendFlags(cmd)
	tokens := newTokensFlag(f.flags)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		name, err := identityArgument(args[0])
		if err != nil {
			return err
		}
		d, err := f.draft()
		if err != nil {
			return err
		}
		return f.with(func(c *keyclient.Client) error {
			id, err := f.openOwn(ctx, c, *f.as, f.passphrase)
			if err != nil {
				return err
			}
			letter, pending, err := begin(ctx, c, id, name, d, tokens)
			if err != nil {
				return err
			}
			if err := d.by.Send(ctx, letter); err != nil {
				if errors.Is(err, mixmail.ErrRefused) {
					err = errors.Join(err, id.EndSession(pending.ID))
				}
				return fmt.Errorf("%w: the KeyInit is used up, sending again takes another", err)
			}
			return f.sent(userSent{hex.EncodeToString(pending.ID[:]), id.Name(), pending.Peer, letter.To.Mix})
		})
	}
	return cmd
}

// begin makes the first message to a name, for a token if the keyserver wants one. What
// opens the answer is on disk when it returns.
func begin(ctx context.Context, c *keyclient.Client, id *keyclient.Identity, name string, d draft, tokens tokensFlag) (*session.Letter, *session.Pending, error) {
	to, err := lookUp(ctx, c, name, true)
	if err != nil {
		return nil, nil, err
	}
	self, err := c.Lookup(ctx, id.Name())
	if err != nil {
		return nil, nil, err
	}
	keys, err := id.PrivateKeys()
	if err != nil {
		return nil, nil, err
	}
	pay, spent := tokens.payer()
	k, _, err := c.FetchKeyInit(ctx, to, pay)
	if err != nil {
		return nil, nil, err
	}
	if err := spent(); err != nil {
		return nil, nil, err
	}
	letter, pending, err := session.Start(&session.Recipient{UID: to.Message(), KeyInit: k},
		&session.Self{History: self.History, Keys: keys}, d.reply, d.text, uint64(time.Now().Unix()), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	state, err := pending.MarshalBinary()
	if err != nil {
		return nil, nil, err
	}
	return letter, pending, id.BeginSession(keyclient.Session{
		ID: pending.ID, State: state, Text: d.text, Until: pending.Until + session.MaxDelay,
	})
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
		d, err := f.draft()
		if err != nil {
			return err
		}
		return f.with(func(c *keyclient.Client) error {
			id, err := f.openOwn(ctx, c, *f.as, f.passphrase)
			if err != nil {
				return err
			}
			letter, peer, err := answer(id, [sha256.Size]byte(sessionID), d)
			if err != nil {
				return err
			}
			if err := d.by.Send(ctx, letter); err != nil {
				return err
			}
			return f.sent(userSent{args[0], id.Name(), peer, letter.To.Mix})
		})
	}
	return cmd
}

// answer makes the answer in a session that was begun by somebody else.
func answer(id *keyclient.Identity, sessionID [sha256.Size]byte, d draft) (letter *session.Letter, peer string, err error) {
	kept, ok := id.Session(sessionID)
	if !ok || kept.KeyInit == [sha256.Size]byte{} {
		return nil, "", fmt.Errorf("%w: %s has received no first message in session %x", session.ErrUnknown, id.Name(), sessionID[:4])
	}
	s := new(session.Session)
	if err := s.UnmarshalBinary(kept.State); err != nil {
		return nil, "", err
	}
	letter, err = s.Answer(d.reply, d.text, rand.Reader)
	return letter, s.Peer, err
}

func (a *app) userReceiveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "receive FILE",
		Short: "Open a message: the first of a session, or the answer",
		Long: `receive opens a message for one of the user's identities, from a file with the mail
as it arrived, or with the message alone. A message opens once; keytree user
sessions shows the first one of a session again.

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
		return u.with(func(c *keyclient.Client) error {
			id, err := u.openOwn(ctx, c, *as, passphrase)
			if err != nil {
				return err
			}
			o, err := receive(ctx, c, id, m, !*noSync)
			if err != nil {
				return err
			}
			return u.print(o, func(out *output) {
				fmt.Fprintf(out, "%s wrote to %s, session %s:\n\n%s\n", o.From, o.To, o.Session, harmless(o.Text))
			})
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
	if m, err := session.Parse(content); err == nil {
		return m, nil
	}
	_, message, err := mixmail.Read(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return session.Parse(message)
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

	id [sha256.Size]byte // Session
}

func newUserReceived(kind string, session [sha256.Size]byte, from string, to *keyclient.Identity, text []byte, reply session.Address) userReceived {
	return userReceived{kind, hex.EncodeToString(session[:]), from, to.Name(), text, reply.Mix, reply.Nym, session}
}

// receive opens a message for one of the user's identities.
func receive(ctx context.Context, c *keyclient.Client, id *keyclient.Identity, m *session.Message, sync bool) (userReceived, error) {
	keys, err := id.PrivateKeys()
	if err != nil {
		return userReceived{}, err
	}
	now := uint64(time.Now().Unix())
	if m.Kind == session.Answer {
		return receiveAnswer(id, keys, m, now)
	}
	if sync {
		if _, err := c.Sync(ctx); err != nil {
			return userReceived{}, err
		}
	}
	inbox := session.Inbox{Identity: id.Name(), Keys: keys, Hashchain: c, KeyInits: ownKeyInits{id}}
	s, text, err := inbox.Open(ctx, m, now)
	if err != nil {
		return userReceived{}, err
	}
	return newUserReceived("first", s.ID, s.Peer, id, text, s.ReplyTo), nil
}

func receiveAnswer(id *keyclient.Identity, keys []*ecdh.PrivateKey, m *session.Message, now uint64) (userReceived, error) {
	kept, ok := id.Session(m.For)
	if !ok || kept.KeyInit != [sha256.Size]byte{} {
		return userReceived{}, fmt.Errorf("%w: %s waits for no answer in session %x", session.ErrUnknown, id.Name(), m.For[:4])
	}
	pending := new(session.Pending)
	if err := pending.UnmarshalBinary(kept.State); err != nil {
		return userReceived{}, err
	}
	reply, text, err := pending.Open(m, keys, now)
	if err != nil {
		return userReceived{}, err
	}
	if err := id.EndSession(m.For); err != nil { // before it is shown: it opens once
		return userReceived{}, err
	}
	return newUserReceived("answer", m.For, pending.Peer, id, text, reply), nil
}

// ownKeyInits are the KeyInits of an own identity, as package session asks for them.
type ownKeyInits struct{ id *keyclient.Identity }

// Find implements session.KeyInits.
func (o ownKeyInits) Find(_ context.Context, digest [sha256.Size]byte) (*keyinit.KeyInit, *ecdh.PrivateKey, error) {
	k, private, err := o.id.KeyInit(digest)
	if errors.Is(err, keyclient.ErrUnknown) {
		err = fmt.Errorf("%w: it was for another identity, or was used up", session.ErrUnknown)
	}
	return k, private, err
}

// Begin implements session.KeyInits.
func (o ownKeyInits) Begin(_ context.Context, s *session.Session, text []byte) error {
	state, err := s.MarshalBinary()
	if err != nil {
		return err
	}
	err = o.id.BeginSession(keyclient.Session{ID: s.ID, KeyInit: s.KeyInit, State: state, Text: text, Until: s.Until + session.MaxDelay})
	if errors.Is(err, keyclient.ErrUsed) {
		err = session.ErrReplay
	}
	return err
}

// harmless returns a stranger's text without what a terminal would take for commands.
func harmless(text []byte) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, strings.TrimRight(strings.ToValidUTF8(string(text), string(unicode.ReplacementChar)), "\n"))
}
