package sources

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// EntriesFile is a hashchain in a file, hashchain.EntrySize bytes for each entry, with
// which nothing signed comes.
type EntriesFile struct{ Path string }

var _ audit.Keyserver = EntriesFile{}

var errUnsigned = errors.New("a file of entries has nothing that is signed")

// Entries implements audit.Keyserver.
func (f EntriesFile) Entries(_ context.Context, from uint64) iter.Seq2[[]hashchain.Entry, error] {
	const atOnce = 1 << 14
	return func(yield func([]hashchain.Entry, error) bool) {
		file, err := os.Open(f.Path)
		if err != nil {
			yield(nil, err)
			return
		}
		defer file.Close()
		if _, err := file.Seek(int64(min(from, 1<<48)*hashchain.EntrySize), io.SeekStart); err != nil {
			yield(nil, err)
			return
		}
		buf := make([]byte, atOnce*hashchain.EntrySize)
		for {
			n, err := io.ReadFull(file, buf)
			if n%hashchain.EntrySize != 0 {
				yield(nil, fmt.Errorf("%s: expected a multiple of %d bytes: is the file cut short?", f.Path, hashchain.EntrySize))
				return
			}
			entries := make([]hashchain.Entry, n/hashchain.EntrySize)
			for i := range entries {
				entries[i] = hashchain.Entry(buf[i*hashchain.EntrySize:])
			}
			if n > 0 && !yield(entries, nil) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// Positions implements audit.Keyserver.
func (f EntriesFile) Positions(context.Context, string) ([]uint64, error) { return nil, errUnsigned }

// Reply implements audit.Keyserver.
func (f EntriesFile) Reply(context.Context, hashchain.Hash) (*uid.Reply, error) {
	return nil, errUnsigned
}

// Head implements audit.Keyserver.
func (f EntriesFile) Head(context.Context) (*hashchain.SignedHead, error) { return nil, nil }

// Schedule implements audit.Keyserver.
func (f EntriesFile) Schedule(context.Context) (*schedule.Schedule, error) { return nil, nil }
