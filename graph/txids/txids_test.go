package txids

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// db is a store that is killed now and then.
type db struct {
	*badger.DB
	left int // how many entries are written before it is killed; -1: all
}

func newDB(t *testing.T) *db {
	t.Helper()
	b, err := badger.Open(badger.DefaultOptions("").WithInMemory(true).WithLogger(nil))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	d := &db{b, -1}
	if err := d.Commit([]store.Entry{Begin()}); err != nil {
		t.Fatal(err)
	}
	return d
}

var errKilled = errors.New("killed")

// Commit implements store.Committer.
func (d *db) Commit(entries []store.Entry) error {
	return d.Update(func(txn *badger.Txn) error {
		for _, e := range entries {
			var err error
			if e.Value == nil {
				err = txn.Delete(e.Key)
			} else {
				err = txn.Set(e.Key, e.Value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Limits implements store.Committer.
func (d *db) Limits() (entries, bytes int64) { return 1 << 20, 1 << 30 }

// write writes entries one by one, unless it is killed before the last.
func (d *db) write(entries []store.Entry) (written int, err error) {
	for n, e := range entries {
		if d.left == n {
			return n, errKilled
		}
		if err := d.Commit([]store.Entry{e}); err != nil {
			return n, err
		}
	}
	return len(entries), nil
}

// world is an index of a chain of actions, and what it must know.
type world struct {
	t       *testing.T
	r       *rand.Rand
	db      *db
	filters int
	x       Index
	chain   []chainhash.Hash // by number
	made    uint64

	mentions int // actions are the first to mention so many keys at most
}

// txid is another one each time. They begin alike, as whoever pays for it can have them.
func (w *world) txid() (h chainhash.Hash) {
	w.made++
	binary.BigEndian.PutUint64(h[8:], w.made)
	return h
}

// keysOf are the keys that an action is the first to mention.
func (w *world) keysOf(txid chainhash.Hash) (keys []protocol.KeyHash) {
	for i := range binary.BigEndian.Uint64(txid[8:]) % uint64(w.mentions+1) {
		keys = append(keys, protocol.KeyHash(append([]byte{byte(i)}, txid[:19]...)))
	}
	return keys
}

// lookUpKey looks for the first that mentions a key.
func (w *world) lookUpKey(txn *store.Txn, x *Index, chain []chainhash.Hash, key protocol.KeyHash) (int32, error) {
	return x.Find(txn, x.HashKey(key), func(n int32) (bool, error) {
		return int(n) < len(chain) && slices.Contains(w.keysOf(chain[n]), key), nil
	})
}

// lookUp looks for a txid in a version of the index of a chain.
func lookUp(txn *store.Txn, x *Index, chain []chainhash.Hash, txid chainhash.Hash) (int32, error) {
	return x.Find(txn, x.Hash(txid), func(n int32) (bool, error) {
		return int(n) < len(chain) && chain[n] == txid, nil
	})
}

// wantAll checks that a version finds what there was, and nothing else.
func (w *world) wantAll(txn *store.Txn, x *Index, chain []chainhash.Hash) {
	w.t.Helper()
	for n := 0; n < len(chain); n += 1 + w.r.IntN(1+len(chain)/20) {
		if have, err := lookUp(txn, x, chain, chain[n]); err != nil || int(have) != n {
			w.t.Fatalf("action %d of %d is found as %d, %v", n, len(chain), have, err)
		}
		for _, key := range w.keysOf(chain[n]) {
			if have, err := w.lookUpKey(txn, x, chain, key); err != nil || int(have) != n {
				w.t.Fatalf("action %d of %d is found as %d by its key, %v", n, len(chain), have, err)
			}
		}
	}
	for range 3 {
		if have, err := lookUp(txn, x, chain, w.txid()); err != nil || have != none {
			w.t.Fatalf("an action that is not there is found as %d, %v", have, err)
		}
	}
}

// open reads the index from the store, as at the start.
func (w *world) open() {
	w.t.Helper()
	w.read(func(txn *store.Txn) (err error) {
		if w.x, err = Load(txn, w.filters); err != nil {
			return err
		}
		if from := int(w.x.Flushed()); from < len(w.chain) {
			w.add(&w.x, w.chain, from)
		}
		w.x.Truncate(int32(len(w.chain)))
		return w.x.Tidy(txn, w.db)
	})
}

func (w *world) read(do func(txn *store.Txn) error) {
	w.t.Helper()
	if err := w.db.View(func(txn *badger.Txn) error { return do(store.NewTxn(txn)) }); err != nil {
		w.t.Fatal(err)
	}
}

// hashes are those of an action.
func (w *world) hashes(n int32) ([]uint32, error) {
	hashes := []uint32{w.x.Hash(w.chain[n])}
	for _, key := range w.keysOf(w.chain[n]) {
		hashes = append(hashes, w.x.HashKey(key))
	}
	return hashes, nil
}

// add adds the actions of a chain to a version, from a number on.
func (w *world) add(x *Index, chain []chainhash.Hash, from int) {
	var hashes []uint32
	var mentions []Mention
	for n, txid := range chain[from:] {
		hashes = append(hashes, x.Hash(txid))
		for _, key := range w.keysOf(txid) {
			mentions = append(mentions, Mention{x.HashKey(key), int32(from + n)})
		}
	}
	x.Add(int32(from), hashes, mentions)
}

// connect takes a step with so many new actions, in which the store may be killed. It reports
// whether the step has happened.
func (w *world) connect(actions, most int) (happened bool) {
	w.t.Helper()
	before := len(w.chain)
	chain := w.chain[:before:before]
	for range actions {
		chain = append(chain, w.txid())
	}
	next := w.x
	txn := store.NewTxn(w.db.NewTransaction(false))
	defer txn.Discard()
	w.add(&next, chain, before)
	var entries []store.Entry
	obsolete, err := next.Settle(txn, most, func(key, value []byte) { entries = append(entries, store.Entry{Key: key, Value: value}) })
	if err != nil {
		w.t.Fatal(err)
	}
	tip := len(entries)
	entries = append(entries, store.Entry{Key: []byte{store.PrefixTip}, Value: []byte{}})
	for _, key := range obsolete {
		entries = append(entries, store.Entry{Key: key})
	}
	written, err := w.db.write(entries)
	if err != nil && !errors.Is(err, errKilled) {
		w.t.Fatal(err)
	}
	w.wantAll(txn, &w.x, w.chain) // those who ask meanwhile have the version before
	if happened = written > tip; happened {
		w.x, w.chain = next, chain
	}
	return happened
}

// check checks that the store has the index as it should be.
func (w *world) check() {
	w.t.Helper()
	w.read(func(txn *store.Txn) error {
		w.wantAll(txn, &w.x, w.chain)
		if err := w.x.EachLeftover(txn, func(key []byte) error { w.t.Errorf("%x was left over", key); return nil }); err != nil {
			return err
		}
		records := 0
		err := w.x.Check(txn, int32(len(w.chain)), w.hashes,
			func([]byte) { records++ },
			func(key []byte, problem string) { w.t.Errorf("%x: %s", key, problem) })
		stored := 0
		for _, prefix := range []byte{store.PrefixRun, store.PrefixRuns} {
			err = errors.Join(err, store.EachKey(txn, []byte{prefix}, nil, func([]byte) error { stored++; return nil }))
		}
		if records != stored {
			w.t.Errorf("%d records are accounted for, there are %d", records, stored)
		}
		return err
	})
	if w.t.Failed() {
		w.t.FailNow()
	}
}

// TestIndex adds actions in steps of all sizes, takes some back, kills the store between any two
// writes and opens it again, and looks for all actions in between.
func TestIndex(t *testing.T) {
	rounds := 150
	if testing.Short() { // the race detector makes them slow
		rounds = 25
	}
	for seed, filters := range []int{0, 2000, 1 << 20} {
		w := &world{t: t, r: rand.New(rand.NewPCG(uint64(seed), 1)), db: newDB(t), filters: filters, mentions: seed}
		w.open()
		merges := 0
		for range rounds {
			before := w.x
			w.db.left = -1
			switch w.r.IntN(12) {
			case 0: // a block is taken back, or some
				w.chain = w.chain[:len(w.chain)-w.r.IntN(1+min(len(w.chain), 600))]
				w.x.Truncate(int32(len(w.chain)))
				w.read(func(txn *store.Txn) error { return w.x.Tidy(txn, w.db) })
			case 1:
				w.open()
			case 2, 3:
				w.db.left = w.r.IntN(20)
				if !w.connect(w.r.IntN(900), 100) && w.r.IntN(2) == 0 {
					w.read(func(txn *store.Txn) error { return w.x.Tidy(txn, w.db) }) // a failed step
				} else {
					w.open() // a kill
				}
			case 4:
				w.connect(w.r.IntN(2000), 100)
			default:
				w.connect(w.r.IntN(300), 100)
			}
			if len(before.runs) > len(w.x.runs) {
				merges++
			}
			if w.r.IntN(4) == 0 {
				w.check()
			}
		}
		w.check()
		if !testing.Short() && (merges < 3 || len(w.chain) < 10_000) {
			t.Errorf("%d merges, %d actions: the test is too dull", merges, len(w.chain))
		}
	}
}

// TestBounds adds many actions in equal steps, and sees that neither the runs, nor their chunks, nor
// what a step writes grow beyond what the package says.
func TestBounds(t *testing.T) {
	const step, steps = 256, 200
	w := &world{t: t, r: rand.New(rand.NewPCG(1, 1)), db: newDB(t), filters: 1 << 30}
	w.open()
	sizes := bits.Len(step*steps)/bits.Len(fanIn-1) + 1
	written, most := 0, 0
	for range steps {
		w.read(func(txn *store.Txn) error {
			first := len(w.chain)
			for range step {
				w.chain = append(w.chain, w.txid())
			}
			w.add(&w.x, w.chain, first)
			var entries []store.Entry
			count := 0
			obsolete, err := w.x.Settle(txn, step, func(key, value []byte) {
				entries = append(entries, store.Entry{Key: key, Value: value})
				if key[0] == store.PrefixRun {
					n := chunk(value).len()
					if n > 2*chunkEntries {
						t.Fatalf("a chunk of %d entries", n)
					}
					count += n
				}
			})
			for _, key := range obsolete {
				entries = append(entries, store.Entry{Key: key})
			}
			written += count
			most = max(most, count)
			_, writing := w.db.write(entries)
			return errors.Join(err, writing)
		})
		alike := make(map[int]int)
		for i := range w.x.runs {
			if r := &w.x.runs[i]; r.complete() {
				alike[bits.Len32(r.size)/bits.Len(fanIn-1)]++
			}
		}
		for size, n := range alike {
			if n > fanIn+3 {
				t.Fatalf("%d runs of size %d", n, size)
			}
		}
	}
	t.Logf("%d actions, %d runs, %.1f entries written per action, %d by a step of %d", steps*step, len(w.x.runs), float64(written)/(steps*step), most, step)
	if written > sizes*steps*step || most > step*(1+sizes*mergeRate)+sizes*2*chunkEntries {
		t.Errorf("%d entries written for %d actions, %d by a step of %d", written, steps*step, most, step)
	}
	// Almost nothing is read for a txid that is not there.
	maybe := 0
	for range 1000 {
		hash := w.x.Hash(w.txid())
		for i := range w.x.runs {
			if w.x.runs[i].mayHave(hash) {
				maybe++
			}
		}
	}
	if limit := 1000 * len(w.x.runs) / 300; maybe > limit {
		t.Errorf("%d chunks are read for 1000 txids that are not there, want %d at most", maybe, limit)
	}
	w.check()
	// Opened again it has the same filters.
	was := w.x
	w.open()
	if !slices.EqualFunc(was.runs, w.x.runs, func(a, b run) bool {
		return a.id == b.id && slices.EqualFunc(a.filters[a.first:], b.filters[b.first:], func(f, g filter) bool { return slices.Equal(f, g) })
	}) {
		t.Error("opened again it has other filters")
	}
}

// TestCheck finds what no checksum tells.
func TestCheck(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	w := &world{t: t, r: rand.New(rand.NewPCG(1, 1)), db: newDB(t), mentions: 2}
	w.open()
	for range 3 {
		w.connect(700, 100)
	}
	w.check()
	sound := w.x
	for name, change := range map[string]func(r *run, entries []uint64) []uint64{
		"an action is missing":      func(_ *run, e []uint64) []uint64 { return e[1:] },
		"two are in another order":  func(_ *run, e []uint64) []uint64 { e[0], e[1] = e[1], e[0]; return e },
		"one has another's number":  func(_ *run, e []uint64) []uint64 { e[3] ^= 1; return e },
		"one is in another's chunk": func(r *run, e []uint64) []uint64 { e[len(e)-1] ^= 1 << 63; return e },
	} {
		w.x = sound
		r := w.x.runs[1]
		w.read(func(txn *store.Txn) error {
			entries, err := r.entries(txn, 0)
			if err != nil {
				return err
			}
			was := store.Entry{Key: r.key(0), Value: nil}
			if was.Value, err = store.Read(txn, was.Key); err != nil {
				return err
			}
			again := run{id: r.id, bits: r.bits}
			again.write(change(&r, entries), func(key, value []byte) {
				if err := w.db.Commit([]store.Entry{{Key: key, Value: value}}); err != nil {
					t.Fatal(err)
				}
			})
			found := 0
			w.read(func(txn *store.Txn) error {
				return w.x.Check(txn, int32(len(w.chain)), w.hashes,
					func([]byte) {}, func([]byte, string) { found++ })
			})
			if found == 0 {
				t.Errorf("%s: nothing is found", name)
			}
			return w.db.Commit([]store.Entry{was})
		})
	}
	w.check()
}

// TestDamagedChunk changes a chunk, and removes it.
func TestDamagedChunk(t *testing.T) {
	w := &world{t: t, r: rand.New(rand.NewPCG(1, 1)), db: newDB(t)}
	w.open()
	w.connect(700, 100)
	r := &w.x.runs[0]
	hash := uint32(1) << 31 // its second chunk
	key := r.key(r.chunkOf(hash))
	var sound []byte
	w.read(func(txn *store.Txn) (err error) {
		sound, err = store.Read(txn, key)
		return err
	})
	for at := 0; at < len(sound); at += 101 {
		changed := slices.Clone(sound)
		changed[at] ^= 1 << (at % 8)
		if err := w.db.Commit([]store.Entry{{Key: key, Value: changed}}); err != nil {
			t.Fatal(err)
		}
		w.read(func(txn *store.Txn) error {
			if _, err := Load(txn, 1<<20); !errors.Is(err, store.ErrDamaged) {
				t.Errorf("byte %d changed: %v", at, err)
			}
			return nil
		})
	}
	if err := w.db.Commit([]store.Entry{{Key: key}}); err != nil {
		t.Fatal(err)
	}
	w.read(func(txn *store.Txn) error {
		_, loading := Load(txn, 1<<20)
		_, finding := w.x.Find(txn, hash, func(int32) (bool, error) { return false, nil })
		if !errors.Is(loading, store.ErrDamaged) || !errors.Is(finding, store.ErrDamaged) {
			t.Errorf("a chunk is missing: %v, %v", loading, finding)
		}
		return nil
	})
}

// TestDamagedList flips each byte of the list of runs.
func TestDamagedList(t *testing.T) {
	w := &world{t: t, r: rand.New(rand.NewPCG(1, 1)), db: newDB(t)}
	w.open()
	w.connect(700, 100)
	list := w.x.encode()
	for at := range list {
		changed := slices.Clone(list)
		changed[at] ^= 1 << (at % 8)
		if err := w.db.Commit([]store.Entry{{Key: []byte{store.PrefixRuns}, Value: changed}}); err != nil {
			t.Fatal(err)
		}
		w.read(func(txn *store.Txn) error {
			if _, err := Load(txn, 0); !errors.Is(err, store.ErrDamaged) {
				t.Errorf("byte %d changed: %v", at, err)
			}
			return nil
		})
	}
}
