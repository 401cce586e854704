package store

import (
	"encoding/json"
	"fmt"

	"github.com/keytree-bch/keytree/graph/badgerdb"
)

// Params are fixed in the database when it is made. They decide what the state
// hash can be compared with (protocol/SPEC.md §9).
type Params struct {
	Network     string `json:"network"`      // chaincfg.Params.Name
	StartHeight uint32 `json:"start_height"` // height of the first block that is applied
}

// formatVersion is raised with every change of schema.go that an older or newer
// keytree could misread, and with every change of the rules: what was indexed by
// others is not what is true by these.
//
// Version 4: a signature with ANYONECANPAY shows no author; a block's time and
// target are kept. Version 5: what became of actions is in the store alone. Version 6: an anchor has its
// author's identity; the undo record leaves out what follows from the block's records. Version 7: the
// numbers of actions by txid are in runs (package txids). Version 8: so is the first action that mentions a key
// in no identity; a chunk of effects has so many. Version 9: a block has its state root; a root's record says
// since when it has been that of its id, a merged identity's into which it merged. Version 10: where keys stand
// is in chunks of the block that has changed it.
const formatVersion = 10

// Format is the value under 'M', in JSON.
type Format struct {
	Format int `json:"format"`
	Params
}

// NewFormat returns the format that this version writes, for a database of these parameters.
func NewFormat(params Params) Format { return Format{formatVersion, params} }

// ParseFormat reads a format record. ErrDamaged if it is none.
func ParseFormat(value []byte) (f Format, err error) {
	if err := json.Unmarshal(value, &f); err != nil {
		return f, fmt.Errorf("%w: format record: %w", ErrDamaged, err)
	}
	return f, nil
}

// Encode returns the record.
func (f Format) Encode() []byte {
	value, err := json.Marshal(f)
	if err != nil {
		panic(err) // two numbers and a string have no way to fail
	}
	return value
}

// Matches returns ErrMismatch unless the database is of this format and has the
// parameters asked for.
func (f Format) Matches(params Params) error {
	if want := NewFormat(params); f != want {
		return fmt.Errorf("%w: it holds format %d, network %s, start height %d; asked for format %d, network %s, start height %d: use another folder, or remove this one and index again",
			ErrMismatch, f.Format, f.Network, f.StartHeight, want.Format, want.Network, want.StartHeight)
	}
	return nil
}

// Fix fixes the parameters of a new database, which begins with a record besides, and compares those
// of another with params: ErrMismatch, ErrDamaged.
func Fix(db *badgerdb.DB, st Committer, params Params, first Entry) error {
	txn := NewTxn(db.NewTransaction(false))
	defer txn.Discard()
	value, err := Read(txn, []byte{PrefixFormat})
	if err != nil {
		return err
	}
	if value == nil {
		return begin(txn, st, params, first)
	}
	have, err := ParseFormat(value)
	if err != nil {
		return err
	}
	return have.Matches(params)
}

// begin fixes the parameters of a new database. ErrDamaged if it is not new.
func begin(txn *Txn, st Committer, params Params, first Entry) error {
	it := NewIterator(txn, nil)
	defer it.Close()
	if it.Rewind(); it.Valid() && it.Item().Key()[0] != badgerdb.Stamp {
		return fmt.Errorf("%w: there are records, but not the one of the format", ErrDamaged)
	}
	var w Writes
	w.Set([]byte{PrefixFormat}, NewFormat(params).Encode())
	w.Set(first.Key, first.Value)
	w.SetNoTip()
	return Commit(st, w.Entries)
}
