package proof

import (
	"fmt"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// StateStatement is what a state log has said with its signature, in a state proof: which entry its tree has at an index. It is
// there whether witnesses have cosigned that or not, and whatever else the proof says.
type StateStatement struct {
	Key        string // of the log, as a policy has it
	Checkpoint tlog.Checkpoint
	Index      uint64
	Entry      protocol.StateEntry
}

// ReadStateStatement reads what the log of a policy has said in a state proof. ErrState if none of them has, or what it has signed
// does not have the entry.
func ReadStateStatement(file []byte, policy *tlog.Policy) (*StateStatement, error) {
	wrong := func(err error) (*StateStatement, error) { return nil, fmt.Errorf("%w: %w", ErrState, err) }
	f, err := tlog.ParseProof(file)
	if err != nil {
		return wrong(err)
	}
	opened, err := policy.Open(f.Checkpoint)
	if err != nil {
		return wrong(err)
	}
	if _, _, _, err := protocol.ParseStateOrigin(opened.Checkpoint.Origin); err != nil { // of these rules
		return wrong(err)
	}
	if len(f.Extra) < len(statePrefix)+protocol.StateEntrySize || string(f.Extra[:len(statePrefix)]) != statePrefix {
		return wrong(fmt.Errorf("expected extra data that begin with %x and an entry", statePrefix))
	}
	s := &StateStatement{Key: opened.Log.Key.String(), Checkpoint: opened.Checkpoint, Index: f.Index}
	entry := f.Extra[len(statePrefix):][:protocol.StateEntrySize]
	if s.Entry, err = protocol.DecodeStateEntry(entry); err != nil {
		return wrong(err)
	}
	if err := tlog.CheckInclusion(s.Checkpoint, s.Index, entry, f.Hashes); err != nil {
		return wrong(err)
	}
	return s, nil
}

// Contradicts tells whether two statements convict one of their logs (protocol/STATELOG.md §5), and of what; "" if they do not. Two
// checkpoints of one size with two roots convict the log that has signed both. Two entries of one block with another state hash or state
// root convict that log whose entry is not what the rules make of the chain: which one that is is for those to say who have computed it.
func (s *StateStatement) Contradicts(other *StateStatement) string {
	switch a, b := s, other; {
	case a.Key == b.Key && a.Checkpoint.Size == b.Checkpoint.Size && a.Checkpoint.Root != b.Checkpoint.Root:
		return fmt.Sprintf("%s has signed two roots of %d entries, %v and %v", a.Checkpoint.Origin, a.Checkpoint.Size, a.Checkpoint.Root, b.Checkpoint.Root)
	case a.Entry.Height != b.Entry.Height || a.Entry.Block != b.Entry.Block || a.Entry == b.Entry:
		return ""
	case a.Entry.StateHash != b.Entry.StateHash:
		return fmt.Sprintf("after block %d, %v, %s says the state hash %x, and %s %x", a.Entry.Height, a.Entry.Block, a.Checkpoint.Origin, a.Entry.StateHash, b.Checkpoint.Origin, b.Entry.StateHash)
	default:
		return fmt.Sprintf("after block %d, %v, %s says the state root %x, and %s %x", a.Entry.Height, a.Entry.Block, a.Checkpoint.Origin, a.Entry.StateRoot, b.Checkpoint.Origin, b.Entry.StateRoot)
	}
}
