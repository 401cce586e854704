package keyserver

import (
	"crypto/ed25519"
	"fmt"
	"sync"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// state is what is held in memory of what is on disk. It is never changed, only
// replaced.
type state struct {
	chain hashchain.Chain
	keys  *serverKeys
	agree []byte // public key for key agreement that the keyserver's identity names
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
	view   store.Getter
	now    uint64 // Unix seconds
	state  state  // as of this change
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
	store.Write
	// later, if not nil, makes the value, of at most size bytes, when the change is
	// decided; the first call does, others wait for it. Nobody reads it before it is on disk.
	later func() []byte
	size  int
}

// weigh returns the weight of some writes, at most.
func weigh(writes []write) (w store.Weight) {
	for _, write := range writes {
		w = w.Plus(write.Weight()).Plus(store.Weight{Bytes: int64(write.size)})
	}
	return w
}

// decided are writes that are not on disk, or not known to be, by their keys.
type decided map[string]store.Write

// overlay reads what was decided, and where that says nothing what is on disk.
type overlay struct {
	decided []decided // the newer first
	disk    store.Getter
}

// Get implements store.Getter.
func (o overlay) Get(key []byte) ([]byte, bool, error) {
	for _, writes := range o.decided {
		if write, ok := writes[string(key)]; ok {
			return write.Value, !write.Delete, nil
		}
	}
	return o.disk.Get(key)
}

func (t *tx) set(key, value []byte) {
	t.writes = append(t.writes, write{Write: store.Write{Key: key, Value: value}})
}

// setLater sets a value of at most size bytes that value makes when the change was decided.
func (t *tx) setLater(key []byte, size int, value func() []byte) {
	t.writes = append(t.writes, write{Write: store.Write{Key: key}, later: sync.OnceValue(value), size: size})
}

func (t *tx) delete(key []byte) {
	t.writes = append(t.writes, write{Write: store.Write{Key: key, Delete: true}})
}

func readEntry(view store.Getter, position uint64) (entryRecord, error) {
	b, ok, err := view.Get(entryKey(position))
	if err == nil && !ok {
		err = fmt.Errorf("%w: no entry at position %d", ErrDamaged, position)
	}
	if err != nil {
		return entryRecord{}, err
	}
	return decodeEntryRecord(b)
}

func readIdentity(view store.Getter, identity string) (r identityRecord, ok bool, err error) {
	b, ok, err := view.Get(identityKey(identity))
	if !ok {
		return r, false, err
	}
	r, err = decodeIdentityRecord(b)
	return r, err == nil, err
}

// unspent returns ErrSpent if one of some tokens was spent.
func unspent(view store.Getter, ids []token.ID) error {
	for i, id := range ids {
		_, spent, err := view.Get(tokenKey(id))
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
