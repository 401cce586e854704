package keyserver

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/store"
)

// acknowledged is the file that remembers how far a server has acknowledged its hashchain, apart
// from the store. A store that is behind it has lost entries that users were told of: a replica
// was promoted without the last transactions, for example, or an old backup was restored.
//
// The file has two lines of one length, of which each is a size, the head's hash and a checksum of
// both. They are written by turns, in place: one that is torn by a crash leaves the other. What was
// written is handed to the system before the calls are answered, and synced every second. So
// the end of the process loses none of it, and that of the machine the last second.
type acknowledged struct {
	mu    sync.Mutex
	file  *os.File // mu; nil until something is written
	path  string
	slot  int64 // mu; the line that is written next
	dirty bool  // mu; something was written and not synced
}

// acknowledgedLine is as long as each line, with its end.
const acknowledgedLine = 20 + 1 + 64 + 1 + 8 + 1

func formatAcknowledged(size uint64, head hashchain.Hash) string {
	text := fmt.Sprintf("%020d %x", size, head[:])
	return fmt.Sprintf("%s %08x\n", text, crc32.ChecksumIEEE([]byte(text)))
}

// parseAcknowledged reads one line; ok is false if it is torn.
func parseAcknowledged(line string) (size uint64, head hashchain.Hash, ok bool) {
	var text string
	if n, err := fmt.Sscanf(line, "%d %s", &size, &text); n != 2 || err != nil || len(text) != 2*len(head) {
		return 0, head, false
	}
	if _, err := hex.Decode(head[:], []byte(text)); err != nil {
		return 0, head, false
	}
	return size, head, formatAcknowledged(size, head) == line
}

// read returns what is remembered; size 0 if nothing is.
func (a *acknowledged) read() (size uint64, head hashchain.Hash, err error) {
	content, err := os.ReadFile(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, head, nil
	}
	if err != nil {
		return 0, head, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for slot := range int64(2) {
		at := min(slot*acknowledgedLine, int64(len(content)))
		line := content[at:min(at+acknowledgedLine, int64(len(content)))]
		if s, h, ok := parseAcknowledged(string(line)); ok && s >= size {
			size, head, a.slot = s, h, 1-slot
		}
	}
	if size == 0 {
		err = fmt.Errorf("%w: %s is not what a keyserver has written: restore it, or remove it if you know that the store has everything that was acknowledged",
			ErrMismatch, a.path)
	}
	return size, head, err
}

// check compares what is remembered with the hashchain that is stored: ErrMismatch if that has
// lost some of it.
func (a *acknowledged) check(view store.Getter, c *hashchain.Chain) error {
	size, head, err := a.read()
	if err != nil || size == 0 {
		return err
	}
	if size > c.Size {
		return a.lost(size, fmt.Sprintf("the stored one ends at %d", c.Size))
	}
	last, err := readEntry(view, size-1)
	if err != nil {
		return err
	}
	if got := last.entry.Hash(); got != head {
		return a.lost(size, fmt.Sprintf("the stored one has hash %x there, expected %x", got[:], head[:]))
	}
	return nil
}

func (a *acknowledged) lost(size uint64, what string) error {
	return fmt.Errorf("%w: this server has acknowledged the hashchain up to size %d (%s), but %s: "+
		"a replica was promoted without the last transactions, or an old backup was restored; nothing was served or changed. "+
		"Use the database server that has them", ErrMismatch, size, a.path, what)
}

// write remembers a size.
func (a *acknowledged) write(size uint64, head hashchain.Hash) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file == nil {
		if _, err := os.Stat(a.path); errors.Is(err, fs.ErrNotExist) {
			if err := durable.Write(a.path, []byte(strings.Repeat(formatAcknowledged(size, head), 2))); err != nil {
				return err
			}
		}
		file, err := os.OpenFile(a.path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		a.file = file
	}
	if _, err := a.file.WriteAt([]byte(formatAcknowledged(size, head)), a.slot*acknowledgedLine); err != nil {
		return err
	}
	a.slot, a.dirty = 1-a.slot, true
	return nil
}

// sync puts on disk what was written.
func (a *acknowledged) sync() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.dirty {
		return nil
	}
	a.dirty = false
	return a.file.Sync()
}

func (a *acknowledged) close() error {
	err := a.sync()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.file != nil {
		err = errors.Join(err, a.file.Close())
		a.file = nil
	}
	return err
}

// syncAcknowledgedEvery is the time whose acknowledgements the end of the machine may have
// forgotten.
const syncAcknowledgedEvery = time.Second

// syncAcknowledged syncs the file from time to time, until ctx ends.
func (s *Service) syncAcknowledged(ctx context.Context) {
	timer := time.NewTicker(syncAcknowledgedEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			s.warnForgets(s.acknowledged.sync())
		}
	}
}

// acknowledge remembers where the hashchain ends. It goes on where that fails: what is told is in
// the store.
func (s *Service) acknowledge(c *hashchain.Chain) {
	if s.acknowledged != nil {
		s.warnForgets(s.acknowledged.write(c.Size, c.Head))
	}
}

func (s *Service) warnForgets(err error) {
	if err != nil {
		s.opt.Log.Error().Err(err).Msg("what was acknowledged could not be remembered outside of the store: a store that loses entries will not be noticed by it")
	}
}
