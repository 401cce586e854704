package proof

import (
	"fmt"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// StateStatement is what a state log has said with its signature, in a state proof: a checkpoint, and which entry is in its
// tree. It is there whether witnesses have cosigned that or not, and whatever else the proof says.
type StateStatement struct {
	Key        string // of the log, as a policy has it
	Checkpoint tlog.Checkpoint
	Entry      *protocol.StateEntry // nil: the file does not show that the checkpoint has its entry
}

// ReadStateStatement reads what a log of a policy has said in a state proof. ErrState if none of them has signed its checkpoint.
func ReadStateStatement(file []byte, policy *tlog.Policy) (*StateStatement, error) {
	f, err := tlog.ParseProof(file)
	if err != nil {
		return nil, &StateError{1, err}
	}
	opened, err := policy.Open(f.Checkpoint)
	if err == nil {
		_, err = networkOf(opened.Checkpoint.Origin) // of these rules
	}
	if err != nil {
		return nil, &StateError{2, err}
	}
	s := &StateStatement{Key: opened.Log.Key.String(), Checkpoint: opened.Checkpoint}
	state, err := ParseStateProof(f.Extra)
	if err != nil {
		return s, nil
	}
	entry := state.Entry.Bytes()
	if tlog.CheckInclusion(s.Checkpoint, f.Index, entry[:], f.Hashes) == nil {
		s.Entry = &state.Entry
	}
	return s, nil
}

// Contradicts tells whether two statements convict one of their logs (protocol/STATELOG.md §5), and of what; "" if they do not. Two
// checkpoints of one size with two roots convict the log that has signed both. Two entries of one block with another state hash or state
// root convict that log whose entry is not what the rules make of the chain: which one that is is for those to say who have computed it.
func (s *StateStatement) Contradicts(other *StateStatement) string {
	if s.Key == other.Key && s.Checkpoint.Size == other.Checkpoint.Size && s.Checkpoint.Root != other.Checkpoint.Root {
		return fmt.Sprintf("%s has signed two roots of %d entries, %v and %v", s.Checkpoint.Origin, s.Checkpoint.Size, s.Checkpoint.Root, other.Checkpoint.Root)
	}
	if s.Entry == nil || other.Entry == nil || s.Entry.Height != other.Entry.Height || s.Entry.Block != other.Entry.Block || *s.Entry == *other.Entry {
		return ""
	}
	what, one, two := "state hash", s.Entry.StateHash, other.Entry.StateHash
	if one == two {
		what, one, two = "state root", s.Entry.StateRoot, other.Entry.StateRoot
	}
	return fmt.Sprintf("after block %d, %v, %s says the %s %x, and %s %x", s.Entry.Height, s.Entry.Block, s.Checkpoint.Origin, what, one, other.Checkpoint.Origin, two)
}
