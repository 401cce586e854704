package mixmail

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/textproto"
	"strings"
	"time"

	"github.com/keytree-bch/keytree/keyserver/session"
)

// ErrMail says that something is not a mail with a session message in it.
var ErrMail = errors.New("not a mail with a session message")

// The names of the two parts of a mail.
const (
	nymPart     = "nymaddress"
	messagePart = "session-message"
)

const (
	// MaxMail is the most bytes that a mail is read of: a message in base64 with its
	// line breaks, and as much as mail servers may add.
	MaxMail = int64(session.MaxMessage*3/2 + 128<<10)

	lineLength = 76   // of base64, RFC 2045 §6.8
	maxNym     = 3072 // bytes, as session.Address has it
	maxParts   = 16
)

// nobody is the author of mails that have none: RFC 5322 demands one.
const nobody = "anonymous@invalid"

// Write writes a letter as a mail: a multipart/mixed of NYMADDRESS, for the mix, and
// the message, for whom the mix knows by it. from, a mail address, may be empty. The
// date is that of the hour, to tell less of the author. session.ErrRecipient if an
// address is not one.
func Write(w io.Writer, letter *session.Letter, from string, now time.Time) error {
	if from == "" {
		from = nobody
	}
	if err := (&session.Address{Mix: from}).Check(); err != nil {
		return fmt.Errorf("sender's mail address: %w", err)
	}
	if err := letter.To.Check(); err != nil {
		return err
	}
	var body bytes.Buffer
	parts := multipart.NewWriter(&body)
	for _, part := range []struct {
		name    string
		content []byte
	}{{nymPart, letter.To.Nym}, {messagePart, letter.Message}} {
		p, err := parts.CreatePart(textproto.MIMEHeader{
			"Content-Type":              {"application/octet-stream"},
			"Content-Transfer-Encoding": {"base64"},
			"Content-Disposition":       {mime.FormatMediaType("attachment", map[string]string{"filename": part.name})},
		})
		if err != nil {
			return err
		}
		text := base64.StdEncoding.EncodeToString(part.content)
		for len(text) > 0 {
			n := min(len(text), lineLength)
			if _, err := io.WriteString(p, text[:n]+"\r\n"); err != nil {
				return err
			}
			text = text[n:]
		}
	}
	if err := parts.Close(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "From: <%s>\r\nTo: <%s>\r\nDate: %s\r\nMIME-Version: 1.0\r\nContent-Type: %s\r\n\r\n%s",
		from, letter.To.Mix, now.UTC().Truncate(time.Hour).Format(time.RFC1123Z),
		mime.FormatMediaType("multipart/mixed", map[string]string{"boundary": parts.Boundary()}), body.Bytes())
	return err
}

// Read reads a mail as it arrived, with what servers on its way have added. Nym is
// nil if the mix has taken NYMADDRESS off. To whom it was sent is not read: the
// headers prove nothing. ErrMail if it is something else.
func Read(r io.Reader) (nym, message []byte, err error) {
	limited := &io.LimitedReader{R: r, N: MaxMail + 1}
	nym, message, err = read(limited)
	if limited.N <= 0 {
		return nil, nil, fmt.Errorf("%w: more than %d bytes", ErrMail, MaxMail)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrMail, err)
	}
	return nym, message, nil
}

func read(r io.Reader) (nym, message []byte, err error) {
	m, err := mail.ReadMessage(r)
	if err != nil {
		return nil, nil, err
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(kind, "multipart/") || params["boundary"] == "" {
		return nil, nil, errors.New("expected a mail in several parts")
	}
	parts := multipart.NewReader(m.Body, params["boundary"])
	for range maxParts {
		p, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		switch p.FileName() {
		case nymPart:
			err = readPart(&nym, p, maxNym)
		case messagePart:
			err = readPart(&message, p, session.MaxMessage)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	if message == nil {
		return nil, nil, fmt.Errorf("no part is called %q", messagePart)
	}
	return nym, message, nil
}

// readPart reads a part that must come once.
func readPart(into *[]byte, p *multipart.Part, most int) error {
	name := p.FileName()
	if *into != nil {
		return fmt.Errorf("two parts are called %q", name)
	}
	if encoding := p.Header.Get("Content-Transfer-Encoding"); !strings.EqualFold(encoding, "base64") {
		return fmt.Errorf("part %q: expected it in base64", name)
	}
	b, err := io.ReadAll(io.LimitReader(base64.NewDecoder(base64.StdEncoding, p), int64(most)+1))
	if err != nil {
		return fmt.Errorf("part %q: %w", name, err)
	}
	if len(b) > most {
		return fmt.Errorf("part %q: more than %d bytes", name, most)
	}
	*into = b
	return nil
}
