package audit

import (
	"fmt"
	"strings"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// OtherState says that a state log has signed a state of a block that the rules do not give it.
const OtherState Kind = "another state of a block"

// StateLog is what a state log has signed, against what somebody else has computed. Binary fields are base64.
type StateLog struct {
	Key        string `json:"key"`        // the log's public key
	Checkpoint string `json:"checkpoint"` // that it has signed
	// Index is that of the first entry which differs, Entry the log's there, Inclusion what shows that (RFC 6962
	// §2.1.1), and Computed the other one's. Without Entry it was not found out, as when the log did not answer.
	Index     uint64   `json:"index"`
	Entry     []byte   `json:"entry,omitempty"`
	Inclusion [][]byte `json:"inclusion,omitempty"`
	Computed  []byte   `json:"computed,omitempty"`
}

// NewStateEvidence returns evidence of a host's state log, whose entry at Index the log has signed and
// somebody else has computed otherwise, noticed at a time in Unix seconds. Without an entry, it is kept for when there is one.
func NewStateEvidence(host string, s StateLog, at uint64) *Evidence {
	e := &Evidence{Version: stateLogVersion, Proof: ByStateEntry, Finding: OtherState, Domain: host, Time: at, StateLog: &s}
	e.Text = "the state log of " + host + " has signed another tree than was computed here; which entry differs was not found out"
	if entry, err := protocol.DecodeStateEntry(s.Entry); err == nil {
		e.Text = fmt.Sprintf("the state log of %s differs first at block %d, %v", host, entry.Height, entry.Block)
	}
	return e
}

// stateText says what an entry says.
func stateText(e protocol.StateEntry) string {
	return fmt.Sprintf("block %d, %v, has the state hash %x and the state root %x", e.Height, e.Block, e.StateHash, e.StateRoot)
}

func (e *Evidence) byStateEntry(r *reading) error {
	s := e.StateLog
	if s == nil {
		return disproved("it has nothing of a state log")
	}
	key, err := tlog.ParseLogKey(s.Key)
	if err != nil {
		return disproved("the key of the state log: %w", err)
	}
	if !strings.HasPrefix(key.Name(), e.Domain+"/state/") {
		return disproved("the key is of %.100q, expected that of a state log of %s", key.Name(), e.Domain)
	}
	switch pinned := r.pins.StateLog; {
	case pinned == nil:
		r.doubt(AboutWhom, "the key of the state log is %s: anybody can make one in that name", key)
	case pinned.String() != key.String():
		return disproved("it is about the state log with the key %s, expected the pinned %s", key, pinned)
	}
	c, err := tlog.Open([]byte(s.Checkpoint), key)
	if err != nil {
		return disproved("its checkpoint: %w", err)
	}
	r.shows("the state log %s has signed that its first %d entries have the root %s", c.Origin, c.Size, c.Root)
	if len(s.Entry) == 0 {
		r.doubt(ConvictsNobody, "which entry differs from what was computed was not found out")
		return nil
	}
	signed, err := protocol.DecodeStateEntry(s.Entry)
	if err != nil {
		return disproved("%w", err)
	}
	computed, err := protocol.DecodeStateEntry(s.Computed)
	if err != nil {
		return disproved("what was computed: %w", err)
	}
	inclusion, err := toHashes(s.Inclusion)
	if err != nil {
		return err
	}
	hashes := make([]tlog.Hash, len(inclusion))
	for i := range inclusion {
		hashes[i] = tlog.Hash(inclusion[i])
	}
	if err := tlog.CheckInclusion(c, s.Index, s.Entry, hashes); err != nil {
		return disproved("%w", err)
	}
	r.shows("of these, entry %d says that %s", s.Index, stateText(signed))
	switch own := r.pins.State; {
	case signed == computed:
		return disproved("what the log has signed is what was computed")
	case signed.Height != computed.Height || signed.Block != computed.Block:
		r.doubt(ConvictsNobody, "computed was that %s: another block is a fork of the chain, and nobody's guilt", stateText(computed))
	case own == nil:
		r.doubt(WhichState, "computed was that %s: compare both with an index of your own, or with several", stateText(computed))
	case own.Block != signed.Block:
		r.doubt(WhichState, "the state that you have given is of block %v, expected that of %v", own.Block, signed.Block)
	case own.StateHash == signed.StateHash && own.StateRoot == signed.StateRoot:
		r.doubt(ConvictsNobody, "the log has signed what you have given as the state of block %v", own.Block)
	default:
		r.shows("by what you have given it has the state hash %x and the state root %x", own.StateHash, own.StateRoot)
	}
	return nil
}
