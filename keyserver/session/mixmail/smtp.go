package mixmail

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/keytree-bch/keytree/keyserver/session"
)

// Why a letter was not sent.
var (
	// ErrRefused says that the mail server will not take it: another try will fail
	// like this one.
	ErrRefused = errors.New("mail server refuses")
	// ErrUnsent says that it did not work this time. If the connection was lost at
	// the very end the mail may have been taken all the same: it is session.ErrUnsure, too.
	ErrUnsent = errors.New("mail not sent")
)

// Security is how the connection to a mail server is protected.
type Security string

// The kinds of security. What is named is used or the letter is not sent: what a
// server does not offer may be somebody in between taking it out.
const (
	StartTLS Security = "starttls" // TLS after a greeting in clear text
	TLS      Security = "tls"      // from the first byte
	Plain    Security = "plain"    // none: for a server on this machine
)

// DefaultTimeout bounds sending a letter.
const DefaultTimeout = 2 * time.Minute

// readyTimeout bounds finding out whether one could be sent.
const readyTimeout = 15 * time.Second

// maxAnswers is the most bytes that a mail server may send.
const maxAnswers = 256 << 10

// SMTP hands letters to a mail server, which relays them to the mix. Its methods
// may be called concurrently.
type SMTP struct {
	Server   string // HOST:PORT
	Security Security
	// From is the mail address that the server sees, and the mix. Empty is the null
	// sender, which tells nothing but which many servers do not relay.
	From string
	// Username and Password are for servers that ask for them; never with Plain.
	Username, Password string
	TLS                *tls.Config   // nil for the system's roots; ServerName is Server's host by default
	Timeout            time.Duration // bounds each call; zero is DefaultTimeout, and less for Ready
}

// Ready finds out whether the server would take a mail: that it is there, as secure as it has
// to be, and lets this account and sender in. ErrRefused or ErrUnsent if not, or why ctx ended.
func (s *SMTP) Ready(ctx context.Context) error {
	return s.talk(ctx, readyTimeout, func(client *smtp.Client) error {
		if err := client.Mail(s.From, nil); err != nil {
			return err
		}
		return client.Reset()
	})
}

// Send sends a letter: ErrRefused or ErrUnsent if that fails, or why ctx ended. It is
// session.ErrUnsure, too, if the server may have taken it.
func (s *SMTP) Send(ctx context.Context, letter *session.Letter) error {
	if err := letter.To.Check(); err != nil {
		return err
	}
	var mail bytes.Buffer
	if err := Write(&mail, letter, s.From, time.Now()); err != nil {
		return err
	}
	return s.talk(ctx, DefaultTimeout, func(client *smtp.Client) error {
		if err := client.Mail(s.From, nil); err != nil {
			return err
		}
		if err := client.Rcpt(letter.To.Mix, nil); err != nil {
			return err
		}
		data, err := client.Data()
		if err != nil {
			return err
		}
		if _, err := mail.WriteTo(data); err != nil {
			return err // without the end of a mail there is none
		}
		err = data.Close()
		if err != nil && !errors.As(err, new(*smtp.SMTPError)) {
			err = fmt.Errorf("%w: %w", session.ErrUnsure, err)
		}
		return err
	})
}

// talk connects with the server and has say speak with it, for at most a time, by default.
func (s *SMTP) talk(ctx context.Context, most time.Duration, say func(*smtp.Client) error) error {
	host, _, err := net.SplitHostPort(s.Server)
	if err != nil {
		return fmt.Errorf("%w: mail server: expected HOST:PORT: %w", ErrUnsent, err)
	}
	if s.Security == Plain && s.Username != "" {
		return fmt.Errorf("%w: a password is not sent without TLS", ErrUnsent)
	}
	if s.Timeout != 0 {
		most = s.Timeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, most, fmt.Errorf("no end after %v", most))
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Server)
	if err != nil {
		return s.failed(ctx, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	client, err := s.client(&bounded{conn, maxAnswers}, host)
	if err != nil {
		return s.failed(ctx, err)
	}
	if err := say(client); err != nil {
		return s.failed(ctx, err)
	}
	_ = client.Quit() // all has been said, however the farewell goes
	return nil
}

// client greets the server.
func (s *SMTP) client(conn net.Conn, host string) (client *smtp.Client, err error) {
	config := s.TLS.Clone()
	if config == nil {
		config = new(tls.Config)
	}
	if config.ServerName == "" {
		config.ServerName = host
	}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	switch s.Security {
	case StartTLS:
		client, err = smtp.NewClientStartTLS(conn, config)
	case TLS:
		client = smtp.NewClient(tls.Client(conn, config))
	case Plain:
		client = smtp.NewClient(conn)
	default:
		return nil, fmt.Errorf("security: expected %s, %s or %s, got %q", StartTLS, TLS, Plain, s.Security)
	}
	if err == nil && s.Username != "" {
		err = client.Auth(sasl.NewPlainClient("", s.Username, s.Password))
	}
	return client, err
}

// failed says which kind of failure an error is.
func (s *SMTP) failed(ctx context.Context, err error) error {
	var answer *smtp.SMTPError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.Is(err, session.ErrUnsure):
		return fmt.Errorf("%w: %w: mail server %s: %w", ErrUnsent, session.ErrUnsure, s.Server, context.Cause(ctx))
	case ctx.Err() != nil:
		return fmt.Errorf("%w: mail server %s: %w", ErrUnsent, s.Server, context.Cause(ctx))
	case errors.As(err, &answer) && !answer.Temporary():
		return fmt.Errorf("%w: %s: %d %.200q", ErrRefused, s.Server, answer.Code, answer.Message)
	case errors.As(err, &answer):
		return fmt.Errorf("%w: mail server %s: try later: %d %.200q", ErrUnsent, s.Server, answer.Code, answer.Message)
	}
	return fmt.Errorf("%w: mail server %s: %w", ErrUnsent, s.Server, err)
}

// bounded is a connection of which only so much is read.
type bounded struct {
	net.Conn
	left int // owned by the goroutine that reads
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the server sent more than %d bytes", maxAnswers)
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
