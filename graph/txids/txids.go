// Package txids tells which action has a txid, and which was the first to mention a key that is in no
// identity. Badger takes some 3.5 µs of processor time per record, so there is none for each of
// them: entries of 8 bytes stand in sorted runs.
//
// An entry is 32 bits of a keyed hash, of the txid or the key, and the action's number. What is found by
// hash may be another action, so whoever asks compares the action itself. An action has an entry for
// its txid, and one for each key of which it is the first to say something. A key has one at
// most, however many pay for mentioning it, so that nobody can make many entries of the same hash. The key is
// random and secret: nobody can choose txids or keys whose hashes lie close together, however much he
// computes. So hashes are spread evenly whatever somebody pays for, and chunks have about the same
// length. Even of 2^31 actions, which are as many as can be numbered, a lookup comes upon one
// other with the same hash every second time.
//
// The last actions are held in memory: at the start they are read back. Once they are many, a step
// writes them as a run, in chunks of some hundred entries; hashes that begin with the same bits
// share a chunk. Eight runs of about the same size become one, chunk by chunk: each run that is
// written lets each of these merges go on by some entries, so that no step waits for a large one.
// A chunk that has been merged is removed when the step is on disk. So an action is written once
// for each factor of eight in their number, and there are some ten runs of a size. A filter in
// memory tells which run may have a hash. When the filters of all would take too much, the largest
// runs have none, and a chunk of each is read.
//
// The index follows from the actions. It is no part of what two graphs of a chain have in common:
// where runs begin depends on steps, and the key is another in each. The record under PrefixRuns,
// the list of runs, says which chunks count. It is written after the chunks that it lists, and
// before the tip. So it may know of actions that the tip does not: they are passed over, and
// forgotten (Truncate) before others can take their numbers.
//
//	txids.go   the index: what is held, looking up, adding, taking back
//	runs.go    runs in the store: writing, merging, the list
//	filter.go  which run may have a hash
//	check.go   whether the runs are what the actions make of them
//
// What never belongs here: what actions are, and which keys are in an identity.
package txids

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sort"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// Index tells the numbers of actions by their txids, and by the keys that they are the first to mention. The zero Index is not one: New and Load make
// them. A copy is another version, which shares what it does not change: each may be read by any number
// of goroutines, together with the store as it was when that version became durable. One that
// changes belongs to one goroutine.
type Index struct {
	secret [16]byte
	// recent has the actions from the number flushed on: sorted entries, each list at least
	// twice as long as the next. Lists are never changed.
	recent  [][]uint64
	flushed int32
	next    int32 // the number behind the last action that was added
	runs    []run // by id; replaced, never changed, once another version may have it
	filters int   // how many bytes filters may take
}

// none stands for no action.
const none = -1

// New returns an index of no actions, with a key of its own.
func New() Index {
	var x Index
	rand.Read(x.secret[:]) // never fails
	return x
}

// Hash is the hash of a txid.
func (x *Index) Hash(txid chainhash.Hash) uint32 { return x.hash(txid[:]) }

// HashKey is the hash of a key.
func (x *Index) HashKey(key protocol.KeyHash) uint32 { return x.hash(key[:]) }

// hash is that of at most 32 bytes, whose number tells what they are.
func (x *Index) hash(what []byte) uint32 {
	var space [len(Index{}.secret) + chainhash.HashSize]byte
	sum := sha256.Sum256(append(append(space[:0], x.secret[:]...), what...))
	return binary.BigEndian.Uint32(sum[:])
}

// Mention is an action that is the first to mention a key, by the hash of the key.
type Mention struct {
	Hash   uint32
	Action int32
}

// entry puts a hash before a number, so that entries sort by hash.
func entry(hash uint32, number int32) uint64 { return uint64(hash)<<32 | uint64(uint32(number)) }

func hashOf(entry uint64) uint32 { return uint32(entry >> 32) }

func numberOf(entry uint64) int32 { return int32(uint32(entry)) }

// Find returns the number of the action that is meant, of those with an entry of a hash; none, -1,
// if there is none. is tells whether the action of a number is; the number may be of one that is
// not there any more, or not yet. txn reads the store. It reads one chunk of each run at most.
// store.ErrDamaged if a chunk is not there.
func (x *Index) Find(txn *store.Txn, hash uint32, is func(number int32) (bool, error)) (int32, error) {
	for _, list := range x.recent {
		if n, err := find(len(list), func(i int) uint64 { return list[i] }, hash, is); err != nil || n != none {
			return n, err
		}
	}
	for _, r := range slices.Backward(x.runs) {
		if !r.mayHave(hash) {
			continue
		}
		chunk, err := r.read(txn, r.chunkOf(hash))
		if err != nil {
			return none, err
		}
		current := func(number int32) (bool, error) {
			if number >= r.known {
				return false, nil
			}
			return is(number)
		}
		if n, err := find(chunk.len(), chunk.entry, hash, current); err != nil || n != none {
			return n, err
		}
	}
	return none, nil
}

// find looks for a hash among sorted entries.
func find(count int, at func(i int) uint64, hash uint32, is func(number int32) (bool, error)) (int32, error) {
	for i := sort.Search(count, func(i int) bool { return hashOf(at(i)) >= hash }); i < count && hashOf(at(i)) == hash; i++ {
		if ok, err := is(numberOf(at(i))); err != nil || ok {
			return numberOf(at(i)), err
		}
	}
	return none, nil
}

// Flushed returns the number below which all actions are in runs: Add passes over them.
func (x *Index) Flushed() int32 { return x.flushed }

// Add adds actions, by the hashes of their txids, which are numbered from first on, and what they are
// the first to mention. All before them must have been added.
func (x *Index) Add(first int32, hashes []uint32, mentions []Mention) {
	list := make([]uint64, 0, len(hashes)+len(mentions))
	add := func(hash uint32, n int32) {
		if n >= x.flushed {
			list = append(list, entry(hash, n))
		}
	}
	for i, hash := range hashes {
		add(hash, first+int32(i))
	}
	for _, m := range mentions {
		add(m.Hash, m.Action)
	}
	x.next = max(x.flushed, first+int32(len(hashes)))
	if len(list) == 0 {
		return
	}
	slices.Sort(list)
	keep := len(x.recent)
	for keep > 0 && len(x.recent[keep-1]) < 2*len(list) {
		keep--
		list = merged(x.recent[keep], list)
	}
	x.recent = append(slices.Clone(x.recent[:keep]), list)
}

// merged returns the entries of two sorted lists, sorted.
func merged(a, b []uint64) []uint64 {
	all := make([]uint64, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0] < b[0] {
			all, a = append(all, a[0]), a[1:]
		} else {
			all, b = append(all, b[0]), b[1:]
		}
	}
	return append(append(all, a...), b...)
}

// Truncate forgets the actions from a number on.
func (x *Index) Truncate(number int32) {
	var recent [][]uint64
	for _, list := range x.recent {
		if left := slices.DeleteFunc(slices.Clone(list), func(e uint64) bool { return numberOf(e) >= number }); len(left) > 0 {
			recent = append(recent, left)
		}
	}
	x.recent = recent
	x.flushed, x.next = min(x.flushed, number), min(x.next, number)
	x.runs = slices.Clone(x.runs)
	for i := range x.runs {
		x.runs[i].known = min(x.runs[i].known, number)
	}
}

// held is how many entries are in memory.
func (x *Index) held() (n int) {
	for _, list := range x.recent {
		n += len(list)
	}
	return n
}
