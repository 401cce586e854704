package txids

import (
	"errors"
	"fmt"
	"slices"

	"github.com/keytree-bch/keytree/graph/store"
)

// Check compares the runs with so many actions; hashes returns those of an action's entries, 8 at most. exists is told the
// keys of the records that must be there, and are; report what is wrong with a record. It holds a byte for each
// action. Errors are the store's; actions that cannot be read, store.ErrDamaged, are passed over.
func (x *Index) Check(txn *store.Txn, actions int32, hashes func(number int32) ([]uint32, error), exists func(key []byte), report func(key []byte, problem string)) error {
	exists([]byte{store.PrefixRuns})
	seen := make([]uint8, actions) // which of its entries, in bits, by action
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
				of, err := hashes(number)
				if errors.Is(err, store.ErrDamaged) {
					continue
				} else if err != nil {
					return err
				}
				at := slices.Index(of, hashOf(e))
				if at < 0 {
					report(r.key(n), fmt.Sprintf("action %d has another txid, and is not the first to mention the key", number))
					continue
				}
				seen[number] |= 1 << at
			}
		}
	}
	for n := range min(x.flushed, actions) {
		of, err := hashes(n)
		if err != nil && !errors.Is(err, store.ErrDamaged) {
			return err
		}
		if err == nil && seen[n] != 1<<len(of)-1 {
			report([]byte{store.PrefixRuns}, fmt.Sprintf("action %d is not in the runs with all that it should be found by, as all below %d should be", n, x.flushed))
			break
		}
	}
	return nil
}
