package protocol

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

// RulesVersion is the version of the rules that protocol/SPEC.md has. It changes when the same blocks
// give another state hash or another state root than before.
const RulesVersion = 1

// StateEntrySize is how many bytes an entry of a state log has.
const StateEntrySize = len(stateEntryPrefix) + 4 + 3*chainhash.HashSize

// Every entry of a state log starts with the log's id, "KTS\0", and its version.
const stateEntryPrefix = "KTS\x00\x01"

// StateEntry is the entry of a block in a state log (protocol/STATELOG.md §1): what the rules make of the
// chain up to that block.
type StateEntry struct {
	Height    uint32
	Block     chainhash.Hash
	StateHash [32]byte // H, protocol/SPEC.md §9
	StateRoot [32]byte // R, protocol/SPEC.md §12
}

// Bytes are the entry as it is in the log.
func (e *StateEntry) Bytes() [StateEntrySize]byte {
	b := append(make([]byte, 0, StateEntrySize), stateEntryPrefix...)
	b = binary.LittleEndian.AppendUint32(b, e.Height)
	b = append(append(append(b, e.Block[:]...), e.StateHash[:]...), e.StateRoot[:]...)
	return [StateEntrySize]byte(b)
}

// DecodeStateEntry reads what Bytes returned. The error says what was expected.
func DecodeStateEntry(b []byte) (e StateEntry, err error) {
	if len(b) != StateEntrySize {
		return e, fmt.Errorf("entry of a state log: expected %d bytes, got %d", StateEntrySize, len(b))
	}
	if got := string(b[:len(stateEntryPrefix)]); got != stateEntryPrefix {
		return e, fmt.Errorf("entry of a state log: expected it to start with %x, got %x", stateEntryPrefix, got)
	}
	b = b[len(stateEntryPrefix):]
	e.Height = binary.LittleEndian.Uint32(b)
	for i, h := range []*[32]byte{(*[32]byte)(&e.Block), &e.StateHash, &e.StateRoot} {
		copy(h[:], b[4+32*i:])
	}
	return e, nil
}

// StateOrigin is the name of a host's state log (protocol/STATELOG.md §2): of the blocks of a network, under the
// rules of RulesVersion. epoch counts from 1 on.
func StateOrigin(host, network string, epoch uint32) string { return host + StatePath(network, epoch) }

// StatePath is where a state log is on its host: /state/NETWORK/RULES/EPOCH.
func StatePath(network string, epoch uint32) string {
	return fmt.Sprintf("/state/%s/%d/%d", network, RulesVersion, epoch)
}

// ParseStateOrigin reads the name of a state log as StateOrigin writes it. The error says what was expected.
func ParseStateOrigin(origin string) (host, network string, epoch uint32, err error) {
	parts := strings.Split(origin, "/")
	if len(parts) == 5 && parts[0] != "" {
		n, err := strconv.ParseUint(parts[4], 10, 32)
		_, unknown := Network(parts[2])
		if host, network, epoch = parts[0], parts[2], uint32(n); err == nil && unknown == nil && epoch > 0 && StateOrigin(host, network, epoch) == origin {
			return host, network, epoch, nil
		}
	}
	return "", "", 0, fmt.Errorf("name of a state log: expected HOST/state/NETWORK/%d/EPOCH, got %.120q", RulesVersion, origin)
}
