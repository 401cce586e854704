package links

import (
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// IdentityVersion is how an identity stood from a block on: each block that changes its keys makes one.
type IdentityVersion struct {
	Since  uint32           // height of that block
	Merged bool             // into another identity; then the rest is zero
	Root   protocol.KeyHash // as its first key
	Keys   uint32           // keys in the tree, the root included
}

// IdentityVersions lists up to limit versions of an identity, the newest first, of those that came up to a
// height and up to the view's. ErrNotFound if id names no identity as of the view; ErrReorganised. It reads one
// record for each, and one more.
func (v *Identities) IdentityVersions(id chainhash.Hash, upTo uint32, limit int) (versions []IdentityVersion, more bool, err error) {
	if err := v.stillThere(); err != nil {
		return nil, false, err
	}
	stem := store.IdentityStem(id)
	n := len(stem)
	it := v.store.Over(store.PrefixIdentity)
	stem = store.Version(stem, min(upTo, v.height))
	for it.Seek(stem); it.ValidForPrefix(stem[:n]); it.Next() {
		if len(versions) >= limit {
			return versions, true, nil
		}
		value, err := store.Value(it.Item())
		if err != nil {
			return nil, false, err
		}
		r, err := decodeIdentityRecord(value)
		if err != nil {
			return nil, false, err
		}
		versions = append(versions, IdentityVersion{Since: store.VersionHeight(it.Item().Key()), Merged: r.merged(), Root: r.root, Keys: r.keys})
	}
	if len(versions) == 0 && limit > 0 && upTo >= v.height {
		return nil, false, fmt.Errorf("identity %v as of height %d: %w", id, v.height, store.ErrNotFound)
	}
	return versions, false, v.stillThere()
}
