package keyserver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/dgraph-io/badger/v4"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/graph/durable"
)

// A backup is this mark, then each key and value with their lengths as varints
// before them, a zero where the next key's length would be, and the SHA-256 of all
// that.
const backupMark = "keytree keyserver backup 1\n"

// maxRecord is more than any key or value has, in bytes.
const maxRecord = 1 << 20

// Backup writes the database as it is at one moment, while the service goes on. It
// is not secret from the server's operator, but it tells who is registered. The
// server's key file is not in it. A service that is held is backed up, too: the
// operator may want to keep what he is about to replace.
//
// Whoever restores a backup that is not the newest state begins a second history:
// compare the restored head with what others have seen.
func (s *Service) Backup(ctx context.Context, to io.Writer) error {
	sum := sha256.New()
	w := bufio.NewWriter(io.MultiWriter(to, sum))
	w.WriteString(backupMark) // errors stay in w until Flush
	err := s.look(func(txn *badger.Txn) error {
		it := txn.NewIterator(badger.DefaultIteratorOptions)
		defer it.Close()
		var length []byte
		for it.Rewind(); it.Valid(); it.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			k := it.Item().Key()
			if k[0] == prefixNone {
				continue // see SetUnanchored
			}
			err := it.Item().Value(func(value []byte) error {
				length = binary.AppendUvarint(length[:0], uint64(len(k)))
				w.Write(length)
				w.Write(k)
				length = binary.AppendUvarint(length[:0], uint64(len(value)))
				w.Write(length)
				_, err := w.Write(value)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		w.WriteByte(0)
		err = w.Flush()
	}
	if err == nil {
		_, err = to.Write(sum.Sum(nil))
	}
	return err
}

// ErrBackup says that something is not a whole backup. Nothing was restored.
var ErrBackup = errors.New("not a whole backup")

// restoreMemTable is the size of a memtable while a backup is restored, in bytes.
const restoreMemTable = 32 << 20

// Restore makes a database in dir, which must not exist or be empty, from a
// backup. Only when it is whole and on disk does it appear there. Open verifies it
// then, and needs the key file that belongs to it.
func Restore(ctx context.Context, dir string, from io.Reader, log zerolog.Logger) error {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return fmt.Errorf("%w: %s is not empty", ErrMismatch, dir)
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	dir = filepath.Clean(dir)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	temporary, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".restoring-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temporary)
	db, err := openBadger(ctx, temporary, restoreMemTable, log)
	if err != nil {
		return err
	}
	if err := errors.Join(restore(ctx, db, from), db.Close()); err != nil {
		return err
	}
	return durable.Rename(temporary, dir)
}

func restore(ctx context.Context, db *badgerdb.DB, from io.Reader) error {
	r := &backupReader{r: bufio.NewReader(from), sum: sha256.New()}
	if mark, err := r.next(len(backupMark)); err != nil || string(mark) != backupMark {
		return fmt.Errorf("%w: it does not begin with %q", ErrBackup, backupMark)
	}
	txn := db.NewTransaction(true)
	defer func() { txn.Discard() }()
	size := 0
	commit := func() error {
		if err := db.Room(uint64(size)); err != nil {
			return err
		}
		return db.Commit(txn)
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		k, err := r.field()
		if err != nil {
			return err
		}
		if len(k) == 0 {
			break
		}
		value, err := r.field()
		if err != nil {
			return err
		}
		if err := txn.Set(k, value); err != nil {
			return err
		}
		if size += len(k) + len(value) + 64; size > 2<<20 {
			if err := commit(); err != nil {
				return err
			}
			txn, size = db.NewTransaction(true), 0
		}
	}
	want := r.sum.Sum(nil)
	if got, err := r.next(len(want)); err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("%w: its checksum is not that of its content", ErrBackup)
	}
	return commit()
}

// backupReader reads a backup and hashes what it reads.
type backupReader struct {
	r   *bufio.Reader
	sum hash.Hash
}

// ReadByte implements io.ByteReader.
func (r *backupReader) ReadByte() (byte, error) {
	b, err := r.r.ReadByte()
	if err == nil {
		r.sum.Write([]byte{b})
	}
	return b, err
}

// field reads a length and as many bytes.
func (r *backupReader) field() ([]byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil || n > maxRecord {
		return nil, fmt.Errorf("%w: expected a length up to %d, got %d: %v", ErrBackup, maxRecord, n, err)
	}
	return r.next(int(n))
}

func (r *backupReader) next(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(r.r, b); err != nil {
		return nil, fmt.Errorf("%w: it ends early: %w", ErrBackup, err)
	}
	r.sum.Write(b)
	return b, nil
}
