package keyserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/store"
)

// A database that an earlier keytree has made is converted where it is, when it is
// opened with Options.Migrate:
//
//  1. It is verified as at every start, and a backup of it is written beside its folder.
//  2. What the next format keeps in another form is written under prefixes that the
//     format before does not know, in as many transactions as it takes.
//  3. One transaction makes the next format count. With it the database is of the next
//     format, before it of the one before.
//  4. What only the format before knows is removed.
//
// Whoever is killed before 3 has a database that the earlier keytree still opens and
// changes, so step 2 begins anew then. Who is killed later has step 4 done at the next
// start.

// migratePiece is how many records a migration reads for one transaction.
const migratePiece = 1000

// migration leads from one format to the next.
type migration struct {
	old, new []byte // prefixes that only the format before has, and only the next
	// convert returns what becomes of a record under one of old.
	convert func(key, value []byte) (store.Write, error)
}

// migrations are those from format 1 to 2, from 2 to 3 and so on.
func migrations() []migration {
	return []migration{
		{[]byte{prefixExpiry1, prefixFlush1}, []byte{prefixExpiry, prefixFlush}, convertTo2},
	}
}

// convertTo2 gives every KeyInit a time of adding, zero where format 1 does not say, and
// every flush a time of execution, which format 1 never says.
func convertTo2(k, value []byte) (store.Write, error) {
	if k[0] == prefixExpiry1 && len(value) == 0 {
		value = number(0)
	}
	n, err := decodeNumber(value)
	if err != nil {
		return store.Write{}, err
	}
	if k[0] == prefixExpiry1 {
		return store.Write{Key: key(prefixExpiry, k[1:]), Value: number(n)}, nil
	}
	record := flushRecord{nonce: n}
	return store.Write{Key: key(prefixFlush, k[1:]), Value: record.encode()}, nil
}

// earlierBackup is where the backup of a database goes before it is converted.
func earlierBackup(dir string, format int) string {
	return fmt.Sprintf("%s.format-%d.backup", filepath.Clean(dir), format)
}

// migrate converts the database, which is of an earlier format, to this keytree's.
func (s *Service) migrate(ctx context.Context) error {
	path := earlierBackup(s.opt.Dir, s.format)
	if err := s.writer.room(s.db.Size()); err != nil {
		return err
	}
	if err := s.backupTo(ctx, path); err != nil {
		return fmt.Errorf("the backup that is made before the database is converted: %w", err)
	}
	for ; s.format < formatVersion; s.format++ {
		if err := s.convert(ctx, migrations()[s.format-1], s.format+1); err != nil {
			return fmt.Errorf("converting the database to format %d: %w", s.format+1, err)
		}
	}
	s.opt.Log.Warn().Int("format", formatVersion).Str("backup", path).
		Msg("the keyserver's database was converted: an earlier keytree cannot open it any more, but restore the backup")
	return nil
}

// convert takes the database from one format to the next.
func (s *Service) convert(ctx context.Context, m migration, format int) error {
	if err := s.clear(ctx, m.new); err != nil { // of a migration that was interrupted
		return err
	}
	for _, prefix := range m.old {
		for from := []byte{prefix}; from != nil; {
			var err error
			if from, err = s.convertPiece(ctx, m, prefix, from); err != nil {
				return err
			}
		}
	}
	record, err := json.Marshal(formatRecord{format, s.opt.Domain})
	if err != nil {
		return err
	}
	if err := s.commitAll([]write{{Write: store.Write{Key: []byte{prefixFormat}, Value: record}}}); err != nil {
		return err
	}
	return s.clear(ctx, m.old)
}

// convertPiece converts the records under a prefix from a key on, some of them, and
// returns the key to go on with, nil if there is none.
func (s *Service) convertPiece(ctx context.Context, m migration, prefix byte, from []byte) (next []byte, err error) {
	var writes []write
	err = s.db.View(ctx, func(view store.Reader) error {
		for pair, err := range view.Pairs([]byte{prefix}, from) {
			if err == nil && len(writes) == s.opt.migratePiece {
				next = bytes.Clone(pair.Key)
				return nil
			}
			var w store.Write
			if err == nil {
				w, err = m.convert(pair.Key, pair.Value)
			}
			if err != nil {
				return err
			}
			writes = append(writes, write{Write: w})
		}
		return nil
	})
	if err = errors.Join(err, ctx.Err()); err != nil {
		return nil, err
	}
	return next, s.commitAll(writes)
}

// clear removes all records under some prefixes.
func (s *Service) clear(ctx context.Context, prefixes []byte) error {
	for _, prefix := range prefixes {
		// It goes on where it was: Badger would step over all that was removed before.
		for from := []byte{prefix}; from != nil; {
			var writes []write
			err := s.db.View(ctx, func(view store.Reader) error {
				for k, err := range view.Keys([]byte{prefix}, from) {
					if err != nil {
						return err
					}
					writes = append(writes, write{Write: store.Write{Key: bytes.Clone(k), Delete: true}})
					if len(writes) == s.opt.migratePiece {
						break
					}
				}
				return ctx.Err()
			})
			if err != nil {
				return err
			}
			if err := s.commitAll(writes); err != nil {
				return err
			}
			from = nil
			if len(writes) == s.opt.migratePiece {
				from = writes[len(writes)-1].Key
			}
		}
	}
	return nil
}

// clearEarlier finishes the last step of migrations that were interrupted.
func (s *Service) clearEarlier(ctx context.Context) error {
	for _, m := range migrations() {
		if err := s.clear(ctx, m.old); err != nil {
			return err
		}
	}
	return nil
}

// commitAll makes some writes in one transaction, if there is any, before the writer runs.
func (s *Service) commitAll(writes []write) error {
	if len(writes) == 0 {
		return nil
	}
	if err := s.writer.room(uint64(weigh(writes).Bytes)); err != nil {
		return err
	}
	return s.writer.commitAll(writes)
}

// backupTo writes a backup to a file, which is there, in place of another that may be,
// only when it is whole and on disk.
func (s *Service) backupTo(ctx context.Context, path string) error {
	// Nobody else writes it: the database is locked.
	return durable.Replace(path, 0o600, func(out io.Writer) error { return s.Backup(ctx, out) })
}
