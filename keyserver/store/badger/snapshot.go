package badger

import (
	"sync"

	"github.com/dgraph-io/badger/v4"

	"github.com/keytree-bch/keytree/keyserver/store"
)

// snapshots hand the state that was stored last to readers. A transaction that a reader
// began itself would wait for the one that is being committed, and so for the disk.
type snapshots struct {
	mu   sync.Mutex
	last *snapshot // mu; nil before the first, and after the end
}

// snapshot is a transaction for any number of readers. The mu of its snapshots owns it.
type snapshot struct {
	txn     *badger.Txn
	readers int
	old     bool // nobody begins to read it any more
}

// replace has readers see txn from now on; nil is for the end.
func (s *snapshots) replace(txn *badger.Txn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil {
		s.last.old = true
		s.last.discard()
	}
	s.last = nil
	if txn != nil {
		s.last = &snapshot{txn: txn}
	}
}

// read calls a function with the last snapshot.
func (s *snapshots) read(read func(*badger.Txn) error) error {
	s.mu.Lock()
	snapshot := s.last
	if snapshot == nil {
		s.mu.Unlock()
		return store.ErrClosed
	}
	snapshot.readers++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		snapshot.readers--
		snapshot.discard()
	}()
	return read(snapshot.txn)
}

// discard ends the transaction when nobody needs it any more. It is for who holds mu.
func (s *snapshot) discard() {
	if s.old && s.readers == 0 {
		s.txn.Discard()
	}
}
