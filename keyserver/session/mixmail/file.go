package mixmail

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/session"
)

// File keeps a letter as a mail in a new file, for somebody else to send.
type File struct {
	Path string // which must not be there
	From string // mail address that the mix sees as the sender's; "" for nobody's
}

// Ready returns an error unless a new file can be made. It leaves none.
func (f File) Ready(context.Context) error {
	file, err := os.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(file.Close(), os.Remove(f.Path))
}

// Send writes the mail. It is on disk, whole, or there is no file.
func (f File) Send(_ context.Context, letter *session.Letter) error {
	var mail bytes.Buffer
	if err := Write(&mail, letter, f.From, time.Now()); err != nil {
		return err
	}
	file, err := os.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(mail.Bytes())
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Path))
	}
	return durable.SyncFolder(filepath.Dir(f.Path))
}

// Parse reads a message that comes in a mail, or alone. content is at most MaxMail bytes.
func Parse(content []byte) (*session.Message, error) {
	if m, err := session.Parse(content); err == nil {
		return m, nil
	}
	_, message, err := Read(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	return session.Parse(message)
}
