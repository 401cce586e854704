package snapshot

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// State is the state hash (protocol/SPEC.md §9) after the block at a height. Who has it has all of
// history up to there.
type State struct {
	Height uint32
	Hash   [32]byte
}

// ParseState reads HEIGHT:HASH, the hash in hex.
func ParseState(text string) (State, error) {
	expected := func() (State, error) {
		return State{}, fmt.Errorf("expected HEIGHT:HASH, a state hash of 64 hexadecimal digits as keytree status shows it, got %.100q", text)
	}
	height, hash, _ := strings.Cut(text, ":")
	h, err := strconv.ParseUint(height, 10, 32)
	if err != nil || len(hash) != 64 {
		return expected()
	}
	s := State{Height: uint32(h)}
	if _, err := hex.Decode(s.Hash[:], []byte(hash)); err != nil {
		return expected()
	}
	return s, nil
}

// String is what ParseState reads.
func (s State) String() string { return fmt.Sprintf("%d:%x", s.Height, s.Hash) }

// Expected is what is known about a snapshot by other means: its state, or who has to have
// stated and cosigned it. One of them is not nil.
type Expected struct {
	State  *State
	Policy *tlog.Policy
}

// Check checks that a snapshot says of itself that it ends with what is expected, for an index of
// the network that begins at a height. It is only the snapshot's word until Load has
// returned nil. ErrRefused.
func (e Expected) Check(head *Head, network string, start uint32) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("%w: %w", ErrRefused, fmt.Errorf(format, args...))
	}
	if head.Network != network || head.Start != start {
		return refuse("expected one of %s from height %d on, got one of %s from height %d on", network, start, head.Network, head.Start)
	}
	if e.State != nil {
		if got := (State{head.State.Height, head.State.StateHash}); got != *e.State {
			return refuse("expected state %v, got one of state %v", *e.State, got)
		}
	}
	if e.Policy == nil {
		return nil
	}
	if head.Proof == nil {
		return refuse("it has no proof that its state is in a state log: expected one that was made with keytree snapshot create --state-log, or the state itself (--expect-state)")
	}
	proof, err := tlog.ParseProof(head.Proof)
	if err != nil {
		return refuse("its proof: %w", err)
	}
	if want := uint64(head.State.Height - head.Start); proof.Index != want {
		return refuse("its proof is of entry %d of a state log, expected %d", proof.Index, want)
	}
	entry := head.State.Bytes()
	opened, err := proof.Verify(entry[:], e.Policy)
	if err != nil {
		return refuse("its proof: %w", err)
	}
	// A policy may name logs of several networks.
	origin := opened.Checkpoint.Origin
	epoch, err := strconv.ParseUint(origin[strings.LastIndex(origin, "/")+1:], 10, 32)
	if err != nil || !strings.HasSuffix(origin, protocol.StatePath(network, uint32(epoch))) {
		return refuse("its proof is of the log %s, expected one of the states of %s, HOST%s and so on", origin, network, protocol.StatePath(network, 1))
	}
	return nil
}
