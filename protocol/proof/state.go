package proof

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// A state proof shows what the map under the state root has of some keys and ids as of a block (protocol/SPEC.md §13,
// where each byte of it is told). These are the extra data of the file, which is a tlog-proof.

// Bounds of a state proof.
const (
	MaxStateSubjects     = 1000
	MaxStateRecords      = 10_000
	MaxStateTransactions = 2000
)

// statePrefix is what the extra data begins with: their id, "KTP\0", and version.
const statePrefix = "KTP\x00\x01"

// ErrState says that something is not a valid state proof: it proves nothing. The message says which check of
// protocol/SPEC.md §13 it fails, StateError.Check is its number.
var ErrState = errors.New("not a valid state proof")

// StateError is an ErrState.
type StateError struct {
	Check int   // of protocol/SPEC.md §13, 1 to 7
	Err   error // what is wrong
}

func (e *StateError) Error() string {
	return fmt.Sprintf("%v: check %d of protocol/SPEC.md §13: %v", ErrState, e.Check, e.Err)
}

// Unwrap lets it be told by errors.Is from ErrState, and from errors of package tlog.
func (e *StateError) Unwrap() []error { return []error{ErrState, e.Err} }

func failed(check int, format string, args ...any) error {
	return &StateError{check, fmt.Errorf(format, args...)}
}

// StateSubject is what a state proof is about: a key, or an id.
type StateSubject struct {
	IsID bool
	Key  protocol.KeyHash // zero of an id
	ID   chainhash.Hash   // zero of a key
}

// MapKey returns where the map has the record of the subject.
func (s *StateSubject) MapKey() protocol.MapKey {
	if s.IsID {
		return protocol.MapKeyOfID(s.ID)
	}
	return protocol.MapKeyOf(s.Key)
}

// String names the subject, as people write keys and ids.
func (s StateSubject) String() string {
	if s.IsID {
		return fmt.Sprintf("id %v", s.ID)
	}
	return fmt.Sprintf("key %x", s.Key[:])
}

// The first byte of a subject.
const (
	subjectKey = 1
	subjectID  = 2
)

// StateProof is the extra data of a state proof. Nothing vouches for it before VerifyState.
type StateProof struct {
	Entry        protocol.StateEntry
	Subjects     []StateSubject
	Tree         []byte             // StateTree.Bytes
	Transactions []StateTransaction // MLAs, each with its MLR behind it
}

// StateTransaction shows that a transaction is in a block that the state log has.
type StateTransaction struct {
	BundleItem
	StateHash, StateRoot [32]byte    // H and R of the entry of the block
	Inclusion            []tlog.Hash // of that entry in the checkpoint's tree, from the leaf's sibling up
}

// CheckSubjects returns ErrState unless so many subjects may be in one proof, each once.
func CheckSubjects(subjects []StateSubject) error {
	if len(subjects) == 0 || len(subjects) > MaxStateSubjects {
		return failed(1, "expected 1 to %d subjects, got %d", MaxStateSubjects, len(subjects))
	}
	seen := make(map[StateSubject]bool, len(subjects))
	for _, s := range subjects {
		if s.IsID && s.Key != (protocol.KeyHash{}) || !s.IsID && s.ID != (chainhash.Hash{}) {
			return failed(1, "%v is a key and an id at once", s)
		}
		if seen[s] {
			return failed(1, "%v comes twice", s)
		}
		seen[s] = true
	}
	return nil
}

// Marshal returns the extra data. ErrState, or ErrFormat for a transaction that cannot be in a proof.
func (p *StateProof) Marshal() ([]byte, error) {
	if err := CheckSubjects(p.Subjects); err != nil {
		return nil, err
	}
	if len(p.Transactions) > MaxStateTransactions {
		return nil, failed(1, "expected at most %d transactions, got %d", MaxStateTransactions, len(p.Transactions))
	}
	entry := p.Entry.Bytes()
	b := append([]byte(statePrefix), entry[:]...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(p.Subjects)))
	for _, s := range p.Subjects {
		if s.IsID {
			b = append(append(b, subjectID), s.ID[:]...)
		} else {
			b = append(append(b, subjectKey), s.Key[:]...)
		}
	}
	b = append(b, p.Tree...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(p.Transactions)))
	for i := range p.Transactions {
		var err error
		tx := &p.Transactions[i]
		if b, err = tx.appendUnmarked(b); err != nil {
			return nil, err
		}
		if len(tx.Inclusion) > tlog.MaxHashes {
			return nil, failed(1, "an inclusion proof has at most %d hashes, got %d", tlog.MaxHashes, len(tx.Inclusion))
		}
		b = append(append(append(b, tx.StateHash[:]...), tx.StateRoot[:]...), byte(len(tx.Inclusion)))
		for _, h := range tx.Inclusion {
			b = append(b, h[:]...)
		}
	}
	return b, nil
}

// ParseStateProof reads extra data: their form, that of the tree and of the records in it (check 1). The error is
// a StateError. What it returns shares memory with extra.
func ParseStateProof(extra []byte) (*StateProof, error) {
	p, _, err := parseState(extra)
	return p, err
}

// parseState reads extra data, and the tree that is in them.
func parseState(extra []byte) (*StateProof, *shownTree, error) {
	in := stateReader{rest: extra}
	if got := in.take(len(statePrefix), "id and version"); in.err == nil && string(got) != statePrefix {
		return nil, nil, failed(1, "expected it to begin with %x, got %x", statePrefix, got)
	}
	p := new(StateProof)
	if entry := in.take(protocol.StateEntrySize, "entry"); in.err == nil {
		var err error
		if p.Entry, err = protocol.DecodeStateEntry(entry); err != nil {
			return nil, nil, &StateError{1, err}
		}
	}
	p.Subjects = in.subjects()
	if in.err == nil {
		in.err = CheckSubjects(p.Subjects)
	}
	from := in.rest
	tree := in.tree(p.Entry.Height)
	p.Tree = slices.Clip(from[:len(from)-len(in.rest)])
	p.Transactions = in.transactions()
	if in.err == nil && len(in.rest) > 0 {
		in.fail("%d bytes follow the last transaction", len(in.rest))
	}
	if in.err != nil {
		return nil, nil, in.err
	}
	return p, tree, nil
}

// stateReader reads the parts of extra data, up to the first error.
type stateReader struct {
	rest []byte
	err  error
}

func (r *stateReader) fail(format string, args ...any) {
	if r.err == nil {
		r.err, r.rest = failed(1, format, args...), nil
	}
}

// take returns the next n bytes, n zero bytes after an error.
func (r *stateReader) take(n int, what string) []byte {
	if r.err == nil && len(r.rest) < n {
		r.fail("it ends within the %s", what)
	}
	if r.err != nil {
		return make([]byte, n)
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *stateReader) byte(what string) byte { return r.take(1, what)[0] }
func (r *stateReader) uint16(what string) int {
	return int(binary.LittleEndian.Uint16(r.take(2, what)))
}
func (r *stateReader) uint32(what string) uint32 { return binary.LittleEndian.Uint32(r.take(4, what)) }

func (r *stateReader) subjects() (subjects []StateSubject) {
	count := r.uint16("count of subjects")
	for range count {
		switch kind := r.byte("subjects"); {
		case r.err != nil:
			return nil
		case kind == subjectKey:
			subjects = append(subjects, StateSubject{Key: protocol.KeyHash(r.take(len(protocol.KeyHash{}), "subjects"))})
		case kind == subjectID:
			subjects = append(subjects, StateSubject{IsID: true, ID: chainhash.Hash(r.take(chainhash.HashSize, "subjects"))})
		default:
			r.fail("expected a subject (%02x or %02x), got %02x", subjectKey, subjectID, kind)
		}
	}
	return subjects
}

func (r *stateReader) transactions() (txs []StateTransaction) {
	count := r.uint16("count of transactions")
	if count > MaxStateTransactions {
		r.fail("expected at most %d transactions, got %d", MaxStateTransactions, count)
	}
	for range count {
		const what = "transactions"
		var tx StateTransaction
		tx.BundleItem = BundleItem{Height: r.uint32(what), Header: [protocol.HeaderSize]byte(r.take(protocol.HeaderSize, what)), Index: r.uint32(what)}
		hashes := int(r.byte(what))
		if hashes > protocol.MaxBranch {
			r.fail("a branch has at most %d hashes, got %d", protocol.MaxBranch, hashes)
		}
		for range hashes {
			tx.Branch = append(tx.Branch, chainhash.Hash(r.take(chainhash.HashSize, what)))
		}
		size := uint64(r.uint32(what))
		if err := checkSize(size); err != nil {
			r.fail("%w", err)
		}
		if r.err != nil {
			return nil
		}
		tx.Raw = r.take(int(size), what)
		tx.StateHash, tx.StateRoot = [32]byte(r.take(32, what)), [32]byte(r.take(32, what))
		if hashes = int(r.byte(what)); hashes > tlog.MaxHashes {
			r.fail("an inclusion proof has at most %d hashes, got %d", tlog.MaxHashes, hashes)
		}
		for range hashes {
			tx.Inclusion = append(tx.Inclusion, tlog.Hash(r.take(len(tlog.Hash{}), what)))
		}
		txs = append(txs, tx)
	}
	if r.err != nil {
		return nil
	}
	return txs
}
