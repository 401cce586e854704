package demo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"github.com/emersion/go-smtp"

	"github.com/keytree-bch/keytree/keyserver/session/mixmail"
)

// MixAddress is the mail address of the mix.
const MixAddress = "mix@mix.example"

// Mix is a mail server in place of a mix: it takes mail for MixAddress, and keeps
// the message in it for whoever the nym belongs to.
type Mix struct {
	server   *smtp.Server
	listener net.Listener
	ended    chan struct{}

	mu       sync.Mutex
	messages map[string][]byte // mu; the last for each nym
}

// StartMix starts one on the local machine. The caller closes it.
func StartMix() (*Mix, error) {
	m := &Mix{ended: make(chan struct{}), messages: make(map[string][]byte)}
	var err error
	if m.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	m.server = smtp.NewServer(m)
	m.server.Domain, m.server.MaxMessageBytes = "mix.example", mixmail.MaxMail
	go func() {
		defer close(m.ended)
		_ = m.server.Serve(m.listener) // until Close
	}()
	return m, nil
}

// Close ends the server. It is called once.
func (m *Mix) Close() error {
	err := m.server.Close()
	m.listener.Close() // in case that Serve has not begun
	<-m.ended
	return err
}

// Client returns what sends to the mix.
func (m *Mix) Client() *mixmail.SMTP {
	return &mixmail.SMTP{Server: m.listener.Addr().String(), Security: mixmail.Plain}
}

// Fetch takes the message for a nym.
func (m *Mix) Fetch(nym string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	message, ok := m.messages[nym]
	if !ok {
		return nil, fmt.Errorf("the mix has no message for the nym %q", nym)
	}
	delete(m.messages, nym)
	return message, nil
}

// NewSession implements smtp.Backend.
func (m *Mix) NewSession(*smtp.Conn) (smtp.Session, error) { return mixSession{m}, nil }

type mixSession struct{ mix *Mix }

func (mixSession) Reset()                               {}
func (mixSession) Logout() error                        { return nil }
func (mixSession) Mail(string, *smtp.MailOptions) error { return nil }

func (mixSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	if to != MixAddress {
		return &smtp.SMTPError{Code: 550, Message: "no such mix"}
	}
	return nil
}

func (s mixSession) Data(r io.Reader) error {
	nym, message, err := mixmail.Read(r)
	if err != nil {
		return &smtp.SMTPError{Code: 554, Message: err.Error()}
	}
	s.mix.mu.Lock()
	defer s.mix.mu.Unlock()
	s.mix.messages[string(nym)] = message
	return nil
}

// tampering is a way to the keyserver on which somebody changes one entry of the
// hashchain.
type tampering struct{ to http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t tampering) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := t.to.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	const list = `"HCEntries":["`
	if i := bytes.Index(content, []byte(list)); i >= 0 {
		// Somewhere in the second entry: one letter of base64 for another.
		at := i + len(list) + 204 + 3 + 100
		if at >= len(content) {
			return nil, errors.New("expected two entries to change one of")
		}
		if content[at] != 'A' {
			content[at] = 'A'
		} else {
			content[at] = 'B'
		}
	}
	answer.Body, answer.ContentLength = io.NopCloser(bytes.NewReader(content)), int64(len(content))
	return answer, nil
}
