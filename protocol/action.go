package protocol

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
)

// Kind says which of the three MIP-0003 actions a script carries. The values
// are part of the canonical encoding (protocol/SPEC.md §9) and of the stored graph.
type Kind uint8

// The three actions of MIP-0003.
const (
	MLR Kind = 1 // link request, a child names the parent it asks
	MLA Kind = 2 // link accept, a parent answers a request
	MCR Kind = 3 // link revoke, a parent takes an accept back
)

// String returns the MIP's abbreviation: MLR, MLA or MCR.
func (k Kind) String() string {
	switch k {
	case MLR:
		return "MLR"
	case MLA:
		return "MLA"
	case MCR:
		return "MCR"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// KeyHash is the hash160 of a public key: a key's name in the identity rules.
type KeyHash [20]byte

// Reference is what an MLA or MCR pushes to name an earlier transaction, as it
// stands on the chain. Writers use display order; a reader takes it to mean the
// transaction whose txid equals it in display or in internal order
// (protocol/SPEC.md §1).
type Reference [32]byte

// RefersTo returns the reference that writers push for txid: display order.
func RefersTo(txid chainhash.Hash) Reference {
	return Reference(reversed(txid))
}

// Canonical returns the one spelling that both byte orders of a reference
// share, the bytewise smaller of the two. Two references mean the same
// transaction exactly if their canonical spellings are equal.
func (r Reference) Canonical() Reference {
	if other := Reference(reversed(r)); bytes.Compare(other[:], r[:]) < 0 {
		return other
	}
	return r
}

// TxIDs returns the two txids that a reference can mean: the one that writers
// mean first. At most one of them exists.
func (r Reference) TxIDs() [2]chainhash.Hash {
	return [2]chainhash.Hash{chainhash.Hash(reversed(r)), chainhash.Hash(r)}
}

// Means reports whether the reference names txid, in either byte order.
func (r Reference) Means(txid chainhash.Hash) bool {
	return [32]byte(r) == [32]byte(txid) || r == RefersTo(txid)
}

// String returns the reference in hex exactly as it was pushed, which is
// display order where the writer followed the rules.
func (r Reference) String() string { return fmt.Sprintf("%x", r[:]) }

func reversed(h [32]byte) (out [32]byte) {
	for i, b := range h {
		out[31-i] = b
	}
	return out
}

// Action is one decoded MIP-0003 action (protocol/SPEC.md §1).
type Action struct {
	Kind Kind
	// Malformed is nil for a well-formed action. Otherwise it says what is
	// wrong with it, and Parent, Ref and Message are zero.
	Malformed error
	Parent    KeyHash   // MLR: the key that is asked to become the parent
	Ref       Reference // MLA: the request; MCR: the accept
	Message   []byte    // any length, any bytes, nil when absent
}

// The message limits that MIP-0003 gives writers, in bytes. Readers accept any
// length (protocol/SPEC.md §1).
const (
	MaxRequestMessage = 196
	MaxAcceptMessage  = 149
	MaxRevokeMessage  = 184
)

// ErrMessageTooLong is returned by the Script functions for a message over the
// MIP's limit. Shorten the message.
var ErrMessageTooLong = errors.New("message too long")

// Every action script starts with these three bytes and one of the codes:
// OP_RETURN and a direct push of two bytes, 0x6d and the code.
const (
	pushesTwo = txscript.OP_DATA_2
	memoByte  = 0x6d

	codeMLR = 0x20
	codeMLA = 0x21
	codeMCR = 0x22

	prefixSize = 4
)

// actionKind returns the action whose prefix script starts with, 0 if none. The
// bytes must match exactly: deployed readers compare them so, and other
// spellings of the same pushes are not actions.
func actionKind(script []byte) Kind {
	if len(script) < prefixSize || script[0] != txscript.OP_RETURN || script[1] != pushesTwo || script[2] != memoByte {
		return 0
	}
	switch script[3] {
	case codeMLR:
		return MLR
	case codeMLA:
		return MLA
	case codeMCR:
		return MCR
	}
	return 0
}

// DecodeAction reads an output script, without its token prefix
// (StripTokenPrefix), as an action (protocol/SPEC.md §1). ok tells whether the
// script is an action at all, which the first four bytes decide; whether it is
// a well-formed one is told by Action.Malformed. Nothing in the Action aliases
// script.
func DecodeAction(script []byte) (a Action, ok bool) {
	kind := actionKind(script)
	if kind == 0 {
		return Action{}, false
	}
	a, err := decodeItems(kind, script[prefixSize:])
	if err != nil {
		return Action{Kind: kind, Malformed: fmt.Errorf("%v: %w", kind, err)}, true
	}
	return a, true
}

func decodeItems(kind Kind, script []byte) (Action, error) {
	a := Action{Kind: kind}
	want, what := len(a.Parent), "parent address"
	switch kind {
	case MLA:
		want, what = len(a.Ref), "request tx hash"
	case MCR:
		want, what = len(a.Ref), "accept tx hash"
	}
	if len(script) == 0 {
		return a, fmt.Errorf("expected a push of the %s (%d bytes), the script ends after the prefix", what, want)
	}
	first, rest, err := nextPush(script)
	if err != nil {
		return a, fmt.Errorf("%s: %w", what, err)
	}
	if len(first) != want {
		return a, fmt.Errorf("%s: expected %d bytes, got %d", what, want, len(first))
	}
	var message []byte
	if len(rest) > 0 {
		if message, rest, err = nextPush(rest); err != nil {
			return a, fmt.Errorf("message: %w", err)
		}
	}
	if len(rest) > 0 {
		return a, fmt.Errorf("expected at most two items after the prefix, got %d more bytes after the message, from 0x%02x on",
			len(rest), rest[0])
	}
	if kind == MLR {
		a.Parent = KeyHash(first)
	} else {
		a.Ref = Reference(first)
	}
	a.Message = bytes.Clone(message)
	return a, nil
}

// RequestScript returns the output script by which a child asks parent to
// accept it (MLR). An empty message is left out. It fails only with
// ErrMessageTooLong, for more than MaxRequestMessage bytes.
func RequestScript(parent KeyHash, message []byte) ([]byte, error) {
	return actionScript(codeMLR, parent[:], message, MaxRequestMessage)
}

// AcceptScript returns the output script by which a parent accepts the link
// request made by the transaction request (MLA). An empty message is left out.
// It fails only with ErrMessageTooLong, for more than MaxAcceptMessage bytes.
func AcceptScript(request chainhash.Hash, message []byte) ([]byte, error) {
	ref := RefersTo(request)
	return actionScript(codeMLA, ref[:], message, MaxAcceptMessage)
}

// RevokeScript returns the output script by which a parent takes back the link
// that the transaction accept put in force (MCR). An empty message is left out.
// It fails only with ErrMessageTooLong, for more than MaxRevokeMessage bytes.
func RevokeScript(accept chainhash.Hash, message []byte) ([]byte, error) {
	ref := RefersTo(accept)
	return actionScript(codeMCR, ref[:], message, MaxRevokeMessage)
}

func actionScript(code byte, item, message []byte, limit int) ([]byte, error) {
	script := []byte{txscript.OP_RETURN, pushesTwo, memoByte, code}
	if len(message) > limit {
		return nil, fmt.Errorf("%w: %v takes at most %d bytes, got %d", ErrMessageTooLong, actionKind(script), limit, len(message))
	}
	script = appendPush(script, item)
	if len(message) > 0 {
		script = appendPush(script, message)
	}
	return script, nil
}
