package links

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"

	"github.com/keytree-bch/keytree/graph/cow"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// wanted is what actions wait for. Those of different kinds do not wait together: an
// MLA waits for a transaction until it is confirmed, an MCR until it is decided. All
// that wait for the same are released together when it is there.
type wanted struct {
	by   protocol.Kind      // of the actions
	what protocol.Reference // canonical
}

// wantedStemSize is the size of a stem in bytes.
const wantedStemSize = 1 + 1 + len(protocol.Reference{})

// stem is what the keys of those who wait begin with.
func (w wanted) stem() []byte {
	return append(append(make([]byte, 0, wantedStemSize+4), store.PrefixWaiting, byte(w.by)), w.what[:]...)
}

// key is that of one who waits.
func (w wanted) key(action int32) []byte {
	return binary.BigEndian.AppendUint32(w.stem(), uint32(action))
}

// waiting tells what somebody waits for. The store has who waits. Anybody who pays for an
// action can let it wait for what he likes; that takes 20 bytes here.
type waiting struct {
	counts cow.Map[uint64, int32] // how many wait, by the hash of what they want
	secret [16]byte               // nobody can make hashes collide who does not know it
}

func newWaiting() waiting {
	w := waiting{counts: cow.NewMap[uint64, int32]()}
	rand.Read(w.secret[:]) // never fails
	return w
}

func (w *waiting) fork() waiting { return waiting{w.counts.Fork(), w.secret} }

// hash is the beginning of SHA-256 of the secret and what is wanted. A checkpoint holds hashes, so they must not
// be of this process alone, as those of maphash are.
func (w *waiting) hash(what wanted) uint64 {
	var b [len(waiting{}.secret) + 1 + len(protocol.Reference{})]byte
	n := copy(b[:], w.secret[:])
	b[n] = byte(what.by)
	copy(b[n+1:], what.what[:])
	sum := sha256.Sum256(b[:])
	return binary.BigEndian.Uint64(sum[:])
}

// any reports whether somebody waits, by a hash that another may share.
func (w *waiting) any(what wanted) bool {
	if w.counts.Len() == 0 {
		return false
	}
	_, ok := w.counts.Get(w.hash(what))
	return ok
}

// add lets one more wait.
func (w *waiting) add(what wanted) {
	hash := w.hash(what)
	n, _ := w.counts.Get(hash)
	w.counts.Set(hash, n+1)
}

// remove lets one wait no longer.
func (w *waiting) remove(what wanted) {
	hash := w.hash(what)
	switch n, _ := w.counts.Get(hash); n {
	case 0:
	case 1:
		w.counts.Delete(hash)
	default:
		w.counts.Set(hash, n-1)
	}
}
