package proof

import (
	"errors"
	"fmt"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// ProvenState is what a state proof shows: after the block of Entry, the rules make this of the chain. It says nothing of
// any later block. That the block is on the best chain is the witnesses' word, until Entry.Block is compared with headers.
type ProvenState struct {
	Entry      protocol.StateEntry
	Network    string // mainnet, …: of the log's name
	Checkpoint tlog.Checkpoint
	Cosigners  []string // witnesses, by their names in the policy
	// CosignedAt is the latest time such that enough witnesses, as the policy demands, have cosigned then or later: how old
	// the proof is. It is zero if the policy demands none. Witnesses whose clocks are wrong may put it into the future, up to
	// the year 9999.
	CosignedAt   time.Time
	Subjects     []ProvenSubject // in the order of the file
	Transactions []ProvenTransaction
}

// ProvenSubject is what is shown of a key or an id.
type ProvenSubject struct {
	StateSubject
	// Cut: the walk comes to what the proof does not show, since it shows MaxStateRecords records. Keys or IDs have what the
	// walk has come by, perhaps nothing. The last of them is not the root, and nothing shows that the subject has none.
	Cut bool
	// Keys are the records from the key up to the root. If there are none, and the walk is not cut: the key was in no link,
	// it is its own root, without an id.
	Keys []*protocol.KeyRecord
	// IDs are the records from the id on: those that have merged, and the last one, which is current. If there are none, and
	// the walk is not cut: the id names nothing.
	IDs []*protocol.IDRecord
}

// ProvenTransaction is an MLA or MLR that is in a block that the log has, with a header that carries the work that it claims.
type ProvenTransaction struct {
	TxID   chainhash.Hash
	Height uint32
	Header protocol.Header
	Index  uint32 // in the block
}

// VerifyState checks a state proof, of at most tlog.MaxProof bytes, as protocol/SPEC.md §13 says. It asks nobody: what it
// trusts are the logs and witnesses of the policy. The error is a StateError: then nothing is shown.
//
// Whether the proof is about what was asked for, recent enough, and of a block of the best chain is for the caller to see.
// It takes a small multiple of the file's size in memory, and for each subject a pointer for each record of its walk.
func VerifyState(file []byte, policy *tlog.Policy) (*ProvenState, error) {
	p, err := tlog.ParseProof(file)
	if err != nil {
		return nil, &StateError{1, err}
	}
	state, tree, err := parseState(p.Extra)
	if err != nil {
		return nil, err
	}
	opened, network, err := openState(p, policy)
	if err != nil {
		return nil, err
	}
	proven, err := showState(p, state, tree, opened.Checkpoint, network)
	if err != nil {
		return nil, err
	}
	proven.Cosigners = opened.Cosigners()
	if at := opened.CosignedSince(); at > 0 {
		const year9999 = 253402300799
		proven.CosignedAt = time.Unix(int64(min(at, year9999)), 0).UTC()
	}
	return proven, nil
}

// ShowState makes all checks of a state proof but those of signatures, for who has no policy. What it returns, without
// cosigners, is true if the checkpoint in the file is, which nothing vouches for. The error is a StateError.
func ShowState(file []byte) (*ProvenState, error) {
	p, err := tlog.ParseProof(file)
	if err != nil {
		return nil, &StateError{1, err}
	}
	state, tree, err := parseState(p.Extra)
	if err != nil {
		return nil, err
	}
	checkpoint, err := tlog.Stated(p.Checkpoint)
	if err != nil {
		return nil, &StateError{1, err}
	}
	network, err := networkOf(checkpoint.Origin)
	if err != nil {
		return nil, &StateError{2, err}
	}
	return showState(p, state, tree, checkpoint, network)
}

// showState returns what a state proof shows under its checkpoint (checks 3 to 7).
func showState(p *tlog.Proof, state *StateProof, tree *shownTree, checkpoint tlog.Checkpoint, network *chaincfg.Params) (*ProvenState, error) {
	entry := state.Entry.Bytes()
	if err := tlog.CheckInclusion(checkpoint, p.Index, entry[:], p.Hashes); err != nil {
		return nil, &StateError{3, err}
	}
	if tree.hash != state.Entry.StateRoot {
		return nil, failed(4, "the tree has the hash %x, the entry of block %d the state root %x", tree.hash, state.Entry.Height, state.Entry.StateRoot)
	}
	shown := &ProvenState{Entry: state.Entry, Network: network.Name, Checkpoint: checkpoint}
	var err error
	if shown.Subjects, err = tree.walkAll(state.Subjects); err != nil {
		return nil, err
	}
	if shown.Transactions, err = tree.transactions(state, p.Index, checkpoint, network); err != nil {
		return nil, &StateError{7, err}
	}
	return shown, nil
}

// openState opens the checkpoint of a proof (check 2, and the form of it).
func openState(p *tlog.Proof, policy *tlog.Policy) (*tlog.Opened, *chaincfg.Params, error) {
	opened, err := policy.Open(p.Checkpoint)
	if errors.Is(err, tlog.ErrFormat) {
		return nil, nil, &StateError{1, err}
	}
	if err == nil {
		err = opened.SignedOnce()
	}
	if err == nil {
		err = opened.Quorum(0)
	}
	if err != nil {
		return nil, nil, &StateError{2, err}
	}
	network, err := networkOf(opened.Checkpoint.Origin)
	if err != nil {
		return nil, nil, &StateError{2, err}
	}
	return opened, network, nil
}

// networkOf returns the network of a state log's name.
func networkOf(origin string) (*chaincfg.Params, error) {
	_, name, _, err := protocol.ParseStateOrigin(origin)
	if err != nil {
		return nil, err
	}
	return protocol.Network(name)
}

// Walk returns what the proof's tree shows of its subjects, and checks that it shows nothing else (checks 1, 5 and 6).
// Nothing vouches for the tree: whoever has made it learns by this which walks are cut short.
func (p *StateProof) Walk() ([]ProvenSubject, error) {
	in := stateReader{rest: p.Tree}
	tree := in.tree(p.Entry.Height)
	if in.err == nil && len(in.rest) > 0 {
		in.fail("%d bytes follow the tree", len(in.rest))
	}
	if in.err != nil {
		return nil, in.err
	}
	return tree.walkAll(p.Subjects)
}

// walker walks the ways of subjects.
type walker struct {
	*shownTree
	used []bool  // by record: a look-up has ended there
	seen []int32 // by record: the number of the last walk, from 1 on, that has come by
	next []found // by record: where the look-up after it ends
}

// found is where a look-up ends.
type found struct {
	known  bool
	hidden bool  // it comes to what is not shown
	absent bool  // the map has no record with that map key
	record int32 // else
}

func (w *walker) lookup(key protocol.MapKey) found {
	if w.empty {
		return found{known: true, absent: true}
	}
	n, ok := w.shownTree.lookup(&key)
	if !ok {
		return found{known: true, hidden: true}
	}
	w.used[n] = true
	return found{known: true, record: n, absent: w.records[n].at != key}
}

// after returns where the look-up after a record ends; last: there is none.
func (w *walker) after(n int32) (at found, last bool) {
	r := &w.records[n]
	if w.next[n].known {
		return w.next[n], false
	}
	switch {
	case r.key != nil && r.key.HasParent():
		at = w.lookup(protocol.MapKeyOf(r.key.Parent))
	case r.id != nil && r.id.Merged:
		at = w.lookup(protocol.MapKeyOfID(r.id.Into))
	default:
		return at, true
	}
	w.next[n] = at
	return at, false
}

// walkAll walks the ways of all subjects.
func (t *shownTree) walkAll(subjects []StateSubject) ([]ProvenSubject, error) {
	w := walker{t, make([]bool, len(t.records)), make([]int32, len(t.records)), make([]found, len(t.records))}
	proven := make([]ProvenSubject, len(subjects))
	for i, s := range subjects {
		proven[i].StateSubject = s
		if err := w.walk(&proven[i], int32(i+1)); err != nil {
			return nil, err
		}
	}
	for n, used := range w.used {
		if !used {
			return nil, failed(6, "the record with map key %x belongs to no walk", t.records[n].at[:])
		}
	}
	return proven, nil
}

// walk is the walk of a number.
func (w *walker) walk(s *ProvenSubject, number int32) error {
	at := w.lookup(s.MapKey())
	if at.absent {
		return nil
	}
	for last := false; !last; at, last = w.after(at.record) {
		switch {
		case at.hidden && len(w.records) < MaxStateRecords:
			return failed(5, "the walk of %v comes to what is not shown", s.StateSubject)
		case at.hidden:
			s.Cut = true
			return nil
		case at.absent:
			return failed(5, "the walk of %v comes to what has no record", s.StateSubject)
		case w.seen[at.record] == number:
			return failed(5, "the walk of %v comes twice to one record", s.StateSubject)
		}
		w.seen[at.record] = number
		if r := &w.records[at.record]; r.key != nil {
			s.Keys = append(s.Keys, r.key)
		} else {
			s.IDs = append(s.IDs, r.id)
		}
	}
	return nil
}

// transactions checks the transactions of a proof (check 7).
func (t *shownTree) transactions(state *StateProof, index uint64, checkpoint tlog.Checkpoint, network *chaincfg.Params) ([]ProvenTransaction, error) {
	items := state.Transactions
	if len(items)%2 != 0 {
		return nil, fmt.Errorf("expected an MLR behind each MLA, got %d transactions", len(items))
	}
	accepted := make(map[chainhash.Hash]*protocol.KeyRecord)
	for i := range t.records {
		if r := t.records[i].key; len(items) > 0 && r != nil && r.HasParent() {
			accepted[r.Accept] = r
		}
	}
	proven := make([]ProvenTransaction, 0, len(items))
	for i := 0; i < len(items); i += 2 {
		for n := range 2 {
			tx, err := inBlock(&items[i+n], network)
			if err == nil {
				err = items[i+n].inLog(&tx, &state.Entry, index, checkpoint)
			}
			if err != nil {
				return nil, fmt.Errorf("transaction %d: %w", i+n, err)
			}
			proven = append(proven, tx)
		}
		accept, request := &proven[i], &proven[i+1]
		r := accepted[accept.TxID]
		if r == nil {
			return nil, fmt.Errorf("transaction %d, %v, is the MLA of no record that is shown, or comes twice", i, accept.TxID)
		}
		delete(accepted, accept.TxID)
		if accept.Height > r.Height || request.Height > r.Height {
			return nil, fmt.Errorf("the record of key %x is of height %d, its MLA of %d and its MLR of %d", r.Key[:], r.Height, accept.Height, request.Height)
		}
		mla, mlr := action(items[i].Raw), action(items[i+1].Raw)
		switch {
		case mla.Kind != protocol.MLA || mla.Malformed != nil:
			return nil, fmt.Errorf("transaction %d, %v, is no MLA", i, accept.TxID)
		case mlr.Kind != protocol.MLR || mlr.Malformed != nil || !mla.Ref.Means(request.TxID):
			return nil, fmt.Errorf("transaction %d, %v, is not the MLR that MLA %v refers to", i+1, request.TxID, accept.TxID)
		case mlr.Parent != r.Parent:
			return nil, fmt.Errorf("MLR %v asks for the parent %x, the record of key %x has %x", request.TxID, mlr.Parent[:], r.Key[:], r.Parent[:])
		}
	}
	return proven, nil
}

// inBlock checks that a transaction is in the block with its header.
func inBlock(it *StateTransaction, network *chaincfg.Params) (ProvenTransaction, error) {
	h, err := protocol.ParseHeader(it.Header[:])
	if err == nil {
		err = h.CheckWork(network.PowLimit)
	}
	if err == nil {
		err = protocol.CheckMerkleBranch(it.Raw, it.Index, it.Branch, h.MerkleRoot)
	}
	if err != nil {
		return ProvenTransaction{}, err
	}
	return ProvenTransaction{TxID: protocol.Tx(it.Raw).TxID(), Height: it.Height, Header: h, Index: it.Index}, nil
}

// inLog checks that the state log has the block of a transaction. entry is the one that the proof is about, and has the index.
func (it *StateTransaction) inLog(tx *ProvenTransaction, entry *protocol.StateEntry, index uint64, checkpoint tlog.Checkpoint) error {
	below := uint64(entry.Height) - uint64(tx.Height)
	if tx.Height > entry.Height || below > index {
		return fmt.Errorf("it is said to be in block %d, of which the log, with block %d at index %d, has no entry", tx.Height, entry.Height, index)
	}
	e := protocol.StateEntry{Height: tx.Height, Block: tx.Header.Hash, StateHash: it.StateHash, StateRoot: it.StateRoot}
	b := e.Bytes()
	return tlog.CheckInclusion(checkpoint, index-below, b[:], it.Inclusion)
}

// action returns the action of a transaction that was checked.
func action(raw []byte) protocol.Action {
	a, _ := protocol.Tx(raw).Action()
	return a
}
