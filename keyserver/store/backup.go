package store

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
)

// backupMark begins a backup. What follows is each key and value with their lengths as
// varints before them, in the order of keys, a zero where the next key's length would be, and
// the SHA-256 of all that.
const backupMark = "keytree keyserver backup 1\n"

// ErrBackup says that something is not a whole backup. Nothing was restored.
var ErrBackup = errors.New("not a whole backup")

// restorePiece is how many bytes of a backup are restored in one commit, about.
const restorePiece = 2 << 20

// Backup writes what a reader reads, without the keys that begin with one of the bytes of
// except. It ends early if ctx does.
func Backup(ctx context.Context, to io.Writer, from Reader, except []byte) error {
	sum := sha256.New()
	w := bufio.NewWriter(io.MultiWriter(to, sum))
	w.WriteString(backupMark) // errors stay in w until Flush
	var length []byte
	field := func(b []byte) error {
		length = binary.AppendUvarint(length[:0], uint64(len(b)))
		w.Write(length)
		_, err := w.Write(b)
		return err
	}
	for pair, err := range from.Pairs(nil, nil) {
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		if bytes.IndexByte(except, pair.Key[0]) >= 0 {
			continue
		}
		if err := errors.Join(field(pair.Key), field(pair.Value)); err != nil {
			return err
		}
	}
	w.WriteByte(0)
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := to.Write(sum.Sum(nil))
	return err
}

// Restore writes what a backup has into a store, without the keys that begin with one of the
// bytes of except, in as many commits as it takes. If it fails, some of them were made: the
// store is to be thrown away then. ErrBackup, ErrDiskFull, ctx's error, or one of the store.
func Restore(ctx context.Context, to Store, from io.Reader, except []byte) error {
	r := &backupReader{r: bufio.NewReader(from), sum: sha256.New()}
	if mark, err := r.next(len(backupMark)); err != nil || string(mark) != backupMark {
		return fmt.Errorf("%w: it does not begin with %q", ErrBackup, backupMark)
	}
	limit := to.Limit()
	limit.Bytes = min(limit.Bytes, restorePiece)
	var (
		piece  []Write
		weight Weight
	)
	commit := func() error {
		if err := to.Room(uint64(weight.Bytes)); err != nil {
			return err
		}
		err := to.Commit(piece)
		piece, weight = piece[:0], Weight{}
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		key, err := r.field()
		if err != nil {
			return err
		}
		if len(key) == 0 {
			break
		}
		value, err := r.field()
		if err != nil {
			return err
		}
		if bytes.IndexByte(except, key[0]) >= 0 {
			continue
		}
		write := Write{Key: key, Value: value}
		if len(piece) > 0 && !weight.Plus(write.Weight()).Within(limit) {
			if err := commit(); err != nil {
				return err
			}
		}
		piece, weight = append(piece, write), weight.Plus(write.Weight())
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
	if err != nil || n > MaxRecord {
		return nil, fmt.Errorf("%w: expected a length up to %d, got %d: %v", ErrBackup, MaxRecord, n, err)
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
