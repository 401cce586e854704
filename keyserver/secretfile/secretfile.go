// Package secretfile keeps a secret in a file that only its owner can read: mode
// 0600, whole or not there at all, on disk before it is relied on. It needs a system
// with Unix's modes; elsewhere no file is private enough for Read.
//
// What never belongs here: what the secret means, and databases.
package secretfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// MaxSize is the most bytes that are read of a file.
const MaxSize = 4096

// ErrReadable says that others than the owner can read, or write, a secret. Make a
// new one, or correct the mode if nobody has read it.
var ErrReadable = errors.New("file is open to others")

// Read returns a secret. fs.ErrNotExist if there is no such file, ErrReadable if
// its mode allows more than the owner to use it.
func Read(path string) ([]byte, error) {
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
	b, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err == nil && len(b) > MaxSize {
		err = fmt.Errorf("%s: more than %d bytes: not a secret that keytree wrote", path, MaxSize)
	}
	return b, err
}

// Create writes a secret to a new file. fs.ErrExist if there is one already: a
// secret is never overwritten. Nobody else may do so for the same path meanwhile.
func Create(path string, secret []byte) error {
	err := writeUnfinished(path, secret)
	if err == nil {
		err = os.Link(unfinished(path), path) // which, unlike a rename, does not replace what is there
	}
	return errors.Join(err, removeUnfinished(path), SyncFolder(filepath.Dir(path)))
}

// Write puts a secret in the place of whatever is at path, which is as it was before
// or as it is now, whole. Nobody else may do so for the same path meanwhile.
func Write(path string, secret []byte) error {
	if err := writeUnfinished(path, secret); err != nil {
		return err
	}
	return Replace(path, unfinished(path))
}

// writeUnfinished puts a secret on disk, yet to be given its name.
func writeUnfinished(path string, secret []byte) error {
	if err := removeUnfinished(path); err != nil {
		return err
	}
	f, err := os.OpenFile(unfinished(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(secret)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// unfinished is where a secret is until it is whole. A killed process may leave it.
func unfinished(path string) string { return path + ".tmp" }

func removeUnfinished(path string) error {
	if err := os.Remove(unfinished(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Replace puts the secret at next in the place of that at path, which is gone
// then.
func Replace(path, next string) error {
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return errors.Join(removeUnfinished(next), SyncFolder(filepath.Dir(path)))
}

// Remove deletes a secret, if there is one.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(removeUnfinished(path), SyncFolder(filepath.Dir(path)))
}

// SyncFolder puts on disk which files are in a folder.
func SyncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
