package keyserver

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/keytree-bch/keytree/keyserver/store"
)

// notInBackups are what keys begin with that are not for a backup: what SetUnanchored said,
// and the stamp that backups of earlier versions have.
func notInBackups() []byte { return []byte{prefixNone, prefixStamp} }

// Backup writes the database as it is at one moment, while the service goes on. It
// is not secret from the server's operator, but it tells who is registered. The
// server's key file is not in it. A service that is held is backed up, too: the
// operator may want to keep what he is about to replace.
//
// Whoever restores a backup that is not the newest state begins a second history:
// compare the restored head with what others have seen.
func (s *Service) Backup(ctx context.Context, to io.Writer) error {
	return s.viewHeld(ctx, func(view store.Reader) error { return store.Backup(ctx, to, view, notInBackups()) })
}

// ErrBackup says that something is not a whole backup. Nothing was restored.
var ErrBackup = store.ErrBackup

// restoreMemTable is the size of a memtable while a backup is restored, in bytes.
const restoreMemTable = 32 << 20

// Restore makes a database from a backup, of a keyserver with any store, where opt.Place or
// opt.Dir says. None may be there. Only when it is whole and on disk does it appear. Open
// verifies it then, and needs the key file that belongs to it.
func Restore(ctx context.Context, opt Options, from io.Reader) error {
	opt.memTable = restoreMemTable
	err := opt.place().Create(ctx, func(s store.Store) error { return store.Restore(ctx, s, from, notInBackups()) })
	if errors.Is(err, store.ErrNotEmpty) {
		err = fmt.Errorf("%w: %w", ErrMismatch, err)
	}
	return err
}
