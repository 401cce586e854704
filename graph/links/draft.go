package links

import (
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// Draft is a ledger with what a change adds to it.
type Draft struct {
	ledger                           // as of the block before the change
	fresh   []storedAction           // the change's own actions, from the number known on
	numbers map[chainhash.Hash]int32 // of fresh
	fates   map[int32]lateFate
	cuts    map[int32]cutLink // by request
	names   map[chainhash.Hash]nameRecord
	waits   map[wanted][]int32
	met     map[protocol.KeyHash]bool // keys in no identity that the change is the first to mention
}

// NewDraft returns a draft for a change of so many actions, made of what the store has of a
// state, with blocks up to height next, that one excluded. The state may go on: it is the one that the
// change makes.
func NewDraft(txn *store.Txn, s *State, next uint32, actions int) *Draft {
	return &Draft{
		ledger: s.ledger(txn, next), fresh: make([]storedAction, 0, actions), numbers: make(map[chainhash.Hash]int32, actions),
		fates: make(map[int32]lateFate), cuts: make(map[int32]cutLink),
		names: make(map[chainhash.Hash]nameRecord), waits: make(map[wanted][]int32),
		met: make(map[protocol.KeyHash]bool),
	}
}

// HeightOf returns the height of the block that an action is in; ok is false if it is in none.
func (d *Draft) HeightOf(txid chainhash.Hash) (height uint32, ok bool, err error) {
	n, err := d.number(txid)
	if err != nil || n == none {
		return 0, false, err
	}
	return d.heightOf(n), true, nil
}

// add adds an action.
func (d *Draft) add(a storedAction) {
	d.numbers[a.txid] = d.known + int32(len(d.fresh))
	d.fresh = append(d.fresh, a)
}

func (d *Draft) number(txid chainhash.Hash) (int32, error) {
	if n, ok := d.numbers[txid]; ok {
		return n, nil
	}
	return d.ledger.number(txid)
}

// knows reports whether an action has mentioned a key, whose hash is given, while that was in no identity.
func (d *Draft) knows(key protocol.KeyHash, hash uint32) (bool, error) {
	if d.met[key] {
		return true, nil
	}
	n, err := d.firstByHash(key, hash)
	return n != none, err
}

// find returns the action that a reference means, none if none is confirmed.
func (d *Draft) find(ref protocol.Reference) (int32, error) {
	for _, txid := range ref.TxIDs() {
		if n, err := d.number(txid); err != nil || n != none {
			return n, err
		}
	}
	return none, nil
}

func (d *Draft) action(n int32) (storedAction, error) {
	if n >= d.known && int(n-d.known) < len(d.fresh) {
		return d.fresh[n-d.known], nil
	}
	return d.ledger.action(n)
}

func (d *Draft) late(n int32) (lateFate, bool, error) {
	if o, ok := d.fates[n]; ok || n >= d.known {
		return o, ok, nil
	}
	return d.ledger.late(n)
}

func (d *Draft) cut(request int32) (cutLink, bool, error) {
	if c, ok := d.cuts[request]; ok || request >= d.known {
		return c, ok, nil
	}
	return d.ledger.cut(request)
}

func (d *Draft) name(id chainhash.Hash) (nameRecord, error) {
	if r, ok := d.names[id]; ok {
		return r, nil
	}
	return d.ledger.name(id)
}

// waiters lists the actions of a kind that wait for what is referred to, in order of
// position.
func (d *Draft) waiters(w wanted) ([]int32, error) {
	before, err := d.ledger.waiters(w)
	all := append(before, d.waits[w]...)
	// They are released once. Those that are decided waited for the same in the other
	// byte order.
	return slices.DeleteFunc(all, func(n int32) bool {
		if err != nil {
			return false
		}
		var decided bool
		_, decided, err = d.late(n)
		return decided
	}), err
}

// representative returns the name that stands for all that merged with one, with its
// record. See merge.
func (d *Draft) representative(id chainhash.Hash) (chainhash.Hash, nameRecord, error) {
	for {
		r, err := d.name(id)
		if err != nil || r.up == (chainhash.Hash{}) {
			return id, r, err
		}
		id = r.up
	}
}

// merge makes one set of those of two names, of which id survives, and returns
// the names whose records changed.
//
// Names that merged form sets, found by union-find: each name points to another
// of its set, and the set's representative knows the identity that survives. A
// chain of merges, each into the next older identity, would otherwise make the
// first name as slow to resolve as an attacker likes. The smaller set goes under
// the larger, so a name is found in O(log n) steps; pointers are versioned and
// never moved, so that holds as of any height.
func (d *Draft) merge(merged, id chainhash.Hash) (changed [2]chainhash.Hash, err error) {
	small, a, err := d.representative(merged)
	if err != nil {
		return changed, err
	}
	large, b, err := d.representative(id)
	if err != nil {
		return changed, err
	}
	if a.weight > b.weight {
		small, large = large, small
	}
	d.names[small] = nameRecord{up: large}
	d.names[large] = nameRecord{weight: a.weight + b.weight, survivor: id}
	return [2]chainhash.Hash{small, large}, nil
}
