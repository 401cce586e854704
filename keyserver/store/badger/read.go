package badger

import (
	"bytes"
	"errors"
	"iter"

	"github.com/dgraph-io/badger/v4"

	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/keyserver/store"
)

// reader implements store.Reader.
type reader struct{ txn *badger.Txn }

// Get implements store.Getter.
func (r reader) Get(key []byte) ([]byte, bool, error) {
	item, err := r.txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	value, err := item.ValueCopy(nil)
	return value, err == nil, err
}

// Keys implements store.Reader.
func (r reader) Keys(prefix, from []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		r.items(badger.DefaultIteratorOptions, prefix, from, func(item *badger.Item) bool { return yield(item.Key(), nil) })
	}
}

// Pairs implements store.Reader.
func (r reader) Pairs(prefix, from []byte) iter.Seq2[store.Pair, error] {
	return func(yield func(store.Pair, error) bool) {
		r.items(badger.DefaultIteratorOptions, prefix, from, func(item *badger.Item) (more bool) {
			err := item.Value(func(value []byte) error {
				more = yield(store.Pair{Key: item.Key(), Value: value}, nil)
				return nil
			})
			if err != nil { // and there was no value
				yield(store.Pair{}, err)
			}
			return more
		})
	}
}

// KeysBackward implements store.Reader.
func (r reader) KeysBackward(prefix, before []byte) iter.Seq2[[]byte, error] {
	backward := badger.DefaultIteratorOptions
	backward.Reverse = true
	return func(yield func([]byte, error) bool) {
		if len(before) == 0 { // which Badger takes for the end
			return
		}
		r.items(backward, prefix, before, func(item *badger.Item) bool {
			return bytes.Equal(item.Key(), before) || yield(item.Key(), nil)
		})
	}
}

// items calls visit with what is under a prefix, from a key on, until it returns false.
func (r reader) items(opt badger.IteratorOptions, prefix, from []byte, visit func(*badger.Item) bool) {
	opt.Prefix = prefix
	opt.PrefetchValues = false // they are beside the keys
	it := r.txn.NewIterator(opt)
	defer it.Close()
	if string(from) < string(prefix) {
		from = prefix
	}
	for it.Seek(from); it.Valid(); it.Next() {
		if isStamp(it.Item().Key()) {
			continue
		}
		if !visit(it.Item()) {
			return
		}
	}
}

// isStamp tells whether a key is that of the stamp, which is no part of what is stored.
func isStamp(key []byte) bool { return len(key) == 1 && key[0] == badgerdb.Stamp }
