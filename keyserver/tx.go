package keyserver

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"

	"github.com/dgraph-io/badger/v4"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// state is what is held in memory of what is on disk. It is never changed, only
// replaced.
type state struct {
	chain hashchain.Chain
	keys  *serverKeys
	// rotations are the keyserver's own entries, oldest first.
	rotations []rotation
	group     uint64 // that has made this state; they are counted from the start of the service
	keyInits  uint64 // how many are stored, expired ones included that are to be removed
}

// rotation is an entry of the keyserver's own identity: at position 0 or where
// the key was changed.
type rotation struct {
	position uint64
	public   ed25519.PublicKey // signs the entries behind it, and position 0
	notAfter uint64            // of the message
}

// signer returns the key that has signed the reply at a position.
func (s *state) signer(position uint64) ed25519.PublicKey {
	n := hashchain.InForce(position, len(s.rotations), func(i int) uint64 { return s.rotations[i].position })
	return s.rotations[n].public
}

// tx is one change in the making. It reads what the changes before it have written,
// whether that is on disk or not, but not what it writes itself.
type tx struct {
	txn    *badger.Txn // to read in
	now    uint64      // Unix seconds
	state  state       // as of this change
	writes []write
	// shelf returns a key's KeyInits before this change; shelved are those after it, of keys
	// where it changes them.
	shelf   func(sigKeyHash) ([]heldKeyInit, error)
	shelved map[sigKeyHash][]heldKeyInit
	// messages are those that the change, and those of its group before it, have entered;
	// recent are those of the group before. Their replies cannot be read yet.
	messages, recent map[hashchain.Hash]*uid.Message
}

type write struct {
	key, value []byte // value nil: delete the key, unless there is later
	// later, if not nil, makes the value, of at most size bytes, when the change is
	// decided; the first call does, others wait for it. Nobody reads it before it is on disk.
	later func() []byte
	size  int
}

// weight is how much of a transaction of Badger's something takes, of both that it
// counts: writes, and their bytes, at most.
type weight struct{ count, bytes int64 }

func (w weight) plus(other weight) weight {
	return weight{w.count + other.count, w.bytes + other.bytes}
}

// below tells whether there is less of both.
func (w weight) below(other weight) bool { return w.count < other.count && w.bytes < other.bytes }

// writeOverhead is how many bytes Badger counts for a write besides its key and value.
const writeOverhead = 12

// weigh returns the weight of some writes.
func weigh(writes []write) weight {
	w := weight{count: int64(len(writes))}
	for _, write := range writes {
		w.bytes += int64(len(write.key)+len(write.value)+write.size) + writeOverhead
	}
	return w
}

// endWeight is that of what Badger ends a transaction with.
func endWeight() weight { return weight{1, 32} }

// stampWeight is that of the stamp that every transaction ends with.
func stampWeight() weight { return weight{1, 1 + writeOverhead} }

func (t *tx) set(key, value []byte) {
	if value == nil {
		value = []byte{}
	}
	t.writes = append(t.writes, write{key: key, value: value})
}

// setLater sets a value of at most size bytes that value makes when the change was decided.
func (t *tx) setLater(key []byte, size int, value func() []byte) {
	t.writes = append(t.writes, write{key: key, later: sync.OnceValue(value), size: size})
}

func (t *tx) delete(key []byte) { t.writes = append(t.writes, write{key: key}) }

// put makes a write in a transaction of Badger's.
func put(txn *badger.Txn, key, value []byte) error {
	if value == nil {
		return txn.Delete(key)
	}
	return txn.Set(key, value)
}

// get returns a value; ok is false if there is none.
func get(txn *badger.Txn, key []byte) (value []byte, ok bool, err error) {
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	value, err = item.ValueCopy(nil)
	return value, err == nil, err
}

// keysUnder calls visit with each key that begins with a prefix, in order, until
// it returns false. The key is valid during the call only.
func keysUnder(txn *badger.Txn, prefix []byte, visit func(key []byte) bool) {
	opt := badger.DefaultIteratorOptions
	opt.Prefix = prefix
	opt.PrefetchValues = false
	it := txn.NewIterator(opt)
	defer it.Close()
	for it.Seek(prefix); it.Valid() && visit(it.Item().Key()); it.Next() {
	}
}

// has reports whether there is a key that begins with a prefix.
func has(txn *badger.Txn, prefix []byte) (found bool) {
	keysUnder(txn, prefix, func([]byte) bool { found = true; return false })
	return found
}

func readEntry(txn *badger.Txn, position uint64) (entryRecord, error) {
	b, ok, err := get(txn, entryKey(position))
	if err == nil && !ok {
		err = fmt.Errorf("%w: no entry at position %d", ErrDamaged, position)
	}
	if err != nil {
		return entryRecord{}, err
	}
	return decodeEntryRecord(b)
}

func readIdentity(txn *badger.Txn, identity string) (r identityRecord, ok bool, err error) {
	b, ok, err := get(txn, identityKey(identity))
	if !ok {
		return r, false, err
	}
	r, err = decodeIdentityRecord(b)
	return r, err == nil, err
}

// unspent returns ErrSpent if one of some tokens was spent.
func unspent(txn *badger.Txn, ids []token.ID) error {
	for i, id := range ids {
		_, spent, err := get(txn, tokenKey(id))
		if err != nil {
			return err
		}
		if spent {
			return fmt.Errorf("%w: token %d of the call", ErrSpent, i+1)
		}
	}
	return nil
}

// spend marks tokens, which are unspent, as spent.
func (t *tx) spend(ids []token.ID) {
	for _, id := range ids {
		t.set(tokenKey(id), number(t.now))
	}
}

// append adds an entry to the chain.
func (t *tx) append(e hashchain.Entry) error {
	position := t.state.chain.Size
	err := t.state.chain.Append([]hashchain.Entry{e}, func(id hashchain.NodeID, h hashchain.Hash) {
		t.set(nodeKey(id), h[:])
	})
	if err != nil {
		return err
	}
	record := entryRecord{e, t.now}
	t.set(entryKey(position), record.encode())
	t.set(byHashKey(e.Hash()), number(position))
	t.set([]byte{prefixHead}, headRecord(&t.state.chain))
	return nil
}
