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
	// the very end the mail may have been taken all the same; sending it again is
	// harmless, because a message opens once.
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
	Timeout            time.Duration // DefaultTimeout if zero
}

// Send sends a letter: ErrRefused or ErrUnsent if that fails, or why ctx ended.
func (s *SMTP) Send(ctx context.Context, letter *session.Letter) error {
	host, _, err := net.SplitHostPort(s.Server)
	if err != nil {
		return fmt.Errorf("%w: mail server: expected HOST:PORT: %w", ErrUnsent, err)
	}
	if err := letter.To.Check(); err != nil {
		return err
	}
	if s.Security == Plain && s.Username != "" {
		return fmt.Errorf("%w: a password is not sent without TLS", ErrUnsent)
	}
	timeout := s.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no end after %v", timeout))
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Server)
	if err != nil {
		return s.failed(ctx, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	return s.failed(ctx, s.send(&bounded{conn, maxAnswers}, host, letter))
}

// send speaks with the server.
func (s *SMTP) send(conn net.Conn, host string, letter *session.Letter) error {
	config := s.TLS.Clone()
	if config == nil {
		config = new(tls.Config)
	}
	if config.ServerName == "" {
		config.ServerName = host
	}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)

	var client *smtp.Client
	var err error
	switch s.Security {
	case StartTLS:
		client, err = smtp.NewClientStartTLS(conn, config)
	case TLS:
		client = smtp.NewClient(tls.Client(conn, config))
	case Plain:
		client = smtp.NewClient(conn)
	default:
		return fmt.Errorf("security: expected %s, %s or %s, got %q", StartTLS, TLS, Plain, s.Security)
	}
	if err != nil {
		return err
	}
	if s.Username != "" {
		if err := client.Auth(sasl.NewPlainClient("", s.Username, s.Password)); err != nil {
			return err
		}
	}
	var mail bytes.Buffer
	if err := Write(&mail, letter, s.From, time.Now()); err != nil {
		return err
	}
	if err := client.SendMail(s.From, []string{letter.To.Mix}, &mail); err != nil {
		return err
	}
	_ = client.Quit() // the letter has been taken, however the farewell goes
	return nil
}

// failed says which kind of failure an error is.
func (s *SMTP) failed(ctx context.Context, err error) error {
	var answer *smtp.SMTPError
	switch {
	case err == nil:
		return nil
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
