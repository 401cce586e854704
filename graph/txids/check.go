package txids

import (
	"errors"
	"fmt"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
)

// Check compares the runs with so many actions, whose txids are given by number. exists is told the
// keys of the records that must be there, and are; report what is wrong with a record. It holds a bit for each
// action. Errors are the store's; actions that cannot be read, store.ErrDamaged, are passed over.
func (x *Index) Check(txn *store.Txn, actions int32, txid func(number int32) (chainhash.Hash, error), exists func(key []byte), report func(key []byte, problem string)) error {
	exists([]byte{store.PrefixRuns})
	seen := make([]uint64, (int(actions)+63)/64) // bits, by action
	for i := range x.runs {
		r := &x.runs[i]
		for n := r.first; n < r.end; n++ {
			value, err := store.Read(txn, r.key(n))
			if err != nil {
				return err
			}
			if value == nil {
				report(r.key(n), "missing")
				continue
			}
			exists(r.key(n))
			entries, err := r.entries(txn, n)
			if errors.Is(err, store.ErrDamaged) {
				report(r.key(n), err.Error())
				continue
			} else if err != nil {
				return err
			}
			if !slices.IsSorted(entries) {
				report(r.key(n), "its entries are not in order")
			}
			for _, e := range entries {
				number := numberOf(e)
				if r.chunkOf(hashOf(e)) != n {
					report(r.key(n), fmt.Sprintf("action %d belongs into another chunk", number))
				}
				if number < 0 || number >= min(r.known, actions) {
					continue // taken back, or not compared
				}
				id, err := txid(number)
				if errors.Is(err, store.ErrDamaged) {
					continue
				} else if err != nil {
					return err
				}
				if x.Hash(id) != hashOf(e) {
					report(r.key(n), fmt.Sprintf("action %d has another txid, %v", number, id))
				}
				seen[number/64] |= 1 << (number % 64)
			}
		}
	}
	for n := range min(x.flushed, actions) {
		if seen[n/64]&(1<<(n%64)) == 0 {
			report([]byte{store.PrefixRuns}, fmt.Sprintf("action %d is in none of the runs, as all below %d should be", n, x.flushed))
			break
		}
	}
	return nil
}
