package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/gcash/bchd/txscript"
)

// Anchor is the record by which a keyserver commits to its hashchain on chain
// (protocol/SPEC.md §10): up to Position its entries are those that lead to
// Head and Root.
type Anchor struct {
	Domain   string   // that the keyserver serves
	Position uint64   // of the entry committed to, from 0 on
	Head     [32]byte // that entry's hash
	Root     [32]byte // RFC 6962 Merkle tree hash over the entries 0 to Position
}

// MaxAnchorDomain is how many bytes the domain of an anchor has at most.
const MaxAnchorDomain = 63

// ErrAnchor says that an anchor cannot be written as it is. The message says why.
var ErrAnchor = errors.New("no such anchor can be")

// Every anchor script starts with OP_RETURN and a direct push of the protocol's
// id, "KHC\0".
const anchorPrefix = "\x6a\x04KHC\x00"

// anchorVersion is the only one there is.
const anchorVersion = 1

// isAnchor reports whether a script starts like an anchor's.
func isAnchor(script []byte) bool {
	return len(script) >= len(anchorPrefix) && string(script[:len(anchorPrefix)]) == anchorPrefix
}

// DecodeAnchor reads an output script, without its token prefix
// (StripTokenPrefix), as an anchor. Whatever is not exactly one is none: there
// are no malformed anchors. As with actions the prefix must match byte for byte,
// and any push opcode may carry the items.
func DecodeAnchor(script []byte) (a Anchor, ok bool) {
	if !isAnchor(script) {
		return Anchor{}, false
	}
	rest := script[len(anchorPrefix):]
	var items [5][]byte
	for i := range items {
		if len(rest) == 0 {
			return Anchor{}, false
		}
		var err error
		if items[i], rest, err = nextPush(rest); err != nil {
			return Anchor{}, false
		}
	}
	version, domain, position, head, root := items[0], items[1], items[2], items[3], items[4]
	if len(rest) > 0 || len(version) != 1 || version[0] != anchorVersion || len(domain) > MaxAnchorDomain ||
		!isHostName(string(domain)) || len(position) != 8 || len(head) != len(a.Head) || len(root) != len(a.Root) {
		return Anchor{}, false
	}
	return Anchor{
		Domain: string(domain), Position: binary.LittleEndian.Uint64(position),
		Head: [32]byte(head), Root: [32]byte(root),
	}, true
}

// Script returns the output script of the anchor. It fails only with ErrAnchor,
// for a domain that is no host name in lower case or longer than MaxAnchorDomain.
func (a *Anchor) Script() ([]byte, error) {
	if len(a.Domain) > MaxAnchorDomain || !isHostName(a.Domain) {
		return nil, fmt.Errorf("%w: its domain must be a host name in lower case of 1 to %d bytes, got %q", ErrAnchor, MaxAnchorDomain, a.Domain)
	}
	script := append([]byte(anchorPrefix), txscript.OP_DATA_1, anchorVersion)
	script = appendPush(script, []byte(a.Domain))
	script = appendPush(script, binary.LittleEndian.AppendUint64(nil, a.Position))
	script = appendPush(script, a.Head[:])
	return appendPush(script, a.Root[:]), nil
}

// AnchorScriptSize returns how many bytes Script takes for an anchor of a domain.
func AnchorScriptSize(domain string) int {
	return len(anchorPrefix) + 2 + (1 + len(domain)) + (1 + 8) + 2*(1+32)
}

// isHostName reports whether s consists of labels of lower-case letters, digits
// and inner hyphens.
func isHostName(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			if c := label[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
				return false
			}
		}
	}
	return true
}

// Break is how a chain of anchors was closed (protocol/SPEC.md §10).
// The values are part of the canonical encoding (protocol/SPEC.md §9) and of the stored graph.
type Break uint8

// The ways in which a chain of anchors ends, as far as its baton, output 0 of
// its last anchor, has been spent.
const (
	Unbroken      Break = 0
	NoRecord      Break = 1 // the tx that spends the baton carries no record
	OtherDomain   Break = 2 // its record is another domain's
	NotFirstInput Break = 3 // its record is the domain's, but input 0 is not what spends the baton
	LowerPosition Break = 4 // its record's position is lower than the last one's
	OtherHead     Break = 5 // its record has the last one's position, and another head or root
)

var breakTexts = [...]string{
	Unbroken:      "unbroken",
	NoRecord:      "baton spent without a record",
	OtherDomain:   "baton spent for another domain's record",
	NotFirstInput: "baton spent by another input than the first",
	LowerPosition: "lower position than before",
	OtherHead:     "another head or root at the same position",
}

func (b Break) String() string {
	if int(b) < len(breakTexts) {
		return breakTexts[b]
	}
	return fmt.Sprintf("Break(%d)", uint8(b))
}

// BelongsToChain reports whether the tx that broke a chain is its last anchor
// nevertheless. Otherwise its record, if it has one, begins a chain of its own.
func (b Break) BelongsToChain() bool { return b == LowerPosition || b == OtherHead }

// Follow judges the transaction that spends a chain's baton by the given input,
// where a is the chain's last anchor and next is the record that the transaction
// carries, nil for none.
func (a *Anchor) Follow(next *Anchor, input uint32) Break {
	switch {
	case next == nil:
		return NoRecord
	case next.Domain != a.Domain:
		return OtherDomain
	case input != 0:
		return NotFirstInput
	case next.Position < a.Position:
		return LowerPosition
	case next.Position == a.Position && (next.Head != a.Head || next.Root != a.Root):
		return OtherHead
	}
	return Unbroken
}

// Anchor returns the transaction's anchor, which is its first output that is one.
// ok is false if there is none.
func (t Tx) Anchor() (a Anchor, ok bool) {
	for _, output := range t.Outputs() {
		if a, ok := DecodeAnchor(StripTokenPrefix(output.Script)); ok {
			return a, true
		}
	}
	return Anchor{}, false
}
