package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// MaxSecret is the most bytes that are read of a secret.
const MaxSecret = 4096

// ErrReadable says that others than the owner can read, or write, a secret. Make a
// new one, or correct the mode if nobody has read it.
var ErrReadable = errors.New("file is open to others")

// ReadSecret returns a secret. It needs a system with Unix's modes; elsewhere no file is
// private enough. fs.ErrNotExist if there is no such file, ErrReadable if
// its mode allows more than the owner to use it.
func ReadSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: expected a file, got %s", path, info.Mode().Type())
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %04o: expected 0600", ErrReadable, path, mode)
	}
	b, err := io.ReadAll(io.LimitReader(f, MaxSecret+1))
	if err == nil && len(b) > MaxSecret {
		err = fmt.Errorf("%s: more than %d bytes: not a secret that keytree wrote", path, MaxSecret)
	}
	return b, err
}

// CreateSecret writes a secret to a new file. fs.ErrExist if there is one already: a secret
// is never overwritten.
func CreateSecret(path string, secret []byte) error {
	err := writeUnfinished(path, 0o600, func(f *os.File) error {
		_, err := f.Write(secret)
		return err
	})
	if err == nil {
		err = os.Link(unfinished(path), path) // which, unlike a rename, does not replace what is there
	}
	return errors.Join(err, removeUnfinished(path), SyncFolder(filepath.Dir(path)))
}
