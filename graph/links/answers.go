package links

import (
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// MaxPath is how many keys of a path Resolution.Path holds at most.
const MaxPath = 100

// Resolution is the answer to "which identity is behind this key?" as of a
// block (protocol/SPEC.md §5, §6).
type Resolution struct {
	Key    protocol.KeyHash
	ID     chainhash.Hash   // id_tx_hash, zero for a key that was never linked
	Root   protocol.KeyHash // the identity's main key, Key itself if it has no parent
	Parent *protocol.KeyHash
	Accept *chainhash.Hash // the MLA of the link to Parent, nil without a parent
	// Path runs from Key up to Root, both included. It holds the first MaxPath
	// keys; Truncated tells whether there are more.
	Path      []protocol.KeyHash
	Truncated bool
	Depth     uint32 // links between Key and Root
}

// Equal tells whether two resolutions are the same in every field.
func (r Resolution) Equal(o Resolution) bool {
	return r.Key == o.Key && r.ID == o.ID && r.Root == o.Root && r.Truncated == o.Truncated && r.Depth == o.Depth &&
		equal(r.Parent, o.Parent) && equal(r.Accept, o.Accept) && slices.Equal(r.Path, o.Path)
}

// equal tells whether both are nil, or the same.
func equal[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }

// Identity is one identity as of a block. For a merged one, MergedInto names
// the surviving identity, and Root and Keys are that one's.
type Identity struct {
	ID         chainhash.Hash
	MergedInto *chainhash.Hash // nil while CURRENT
	Root       protocol.KeyHash
	Keys       uint32 // keys in the tree, the root included
	NamedAt    uint32 // height of the tx ID, the transaction that names the identity
}

// Member is one key of an identity as of a block.
type Member struct {
	Key    protocol.KeyHash
	Depth  uint32            // links between Key and the root
	Parent *protocol.KeyHash // nil for the root, as the next two
	Accept *chainhash.Hash   // the MLA of the link to Parent
	Linked uint32            // height at which that link came into force, 0 for the root
}

// MemberCursor is a place in the listing of an identity's members, which runs
// depth first, children in the order in which they were linked: a member up to which all are listed.
type MemberCursor struct {
	Key  protocol.KeyHash
	Done bool // those below it are listed as well
}

// ActionState is what has become of an action as of a block (protocol/SPEC.md §3).
type ActionState uint8

// The states. Values are part of the stored graph.
const (
	StateOpen    ActionState = 1 // MLR: may be accepted
	StateUsed    ActionState = 2 // MLR: an MLA put it in force
	StateInForce ActionState = 3 // MLA: its link is in force
	StateCut     ActionState = 4 // MLA: its link was in force and was cut
	StateWaiting ActionState = 5 // MLA, MCR: what it refers to is not confirmed, or waits itself
	StateRefused ActionState = 6 // any: for the reason given, for good
	StateDone    ActionState = 7 // MCR: it cut a link
)

// Reason says why an action was refused: the first that applies, in the order
// of protocol/SPEC.md §3. Values are part of the canonical encoding.
type Reason uint8

// The reasons.
const (
	NoReason       Reason = 0 // not refused
	Malformed      Reason = 1
	NoAuthor       Reason = 2
	SelfLink       Reason = 3
	WrongKind      Reason = 4
	RequestRefused Reason = 5
	NotTheParent   Reason = 6
	RequestUsed    Reason = 7
	ChildHasParent Reason = 8
	Loop           Reason = 9
	AcceptRefused  Reason = 10
	AlreadyRevoked Reason = 11
)

// ActionStatus is one indexed action and what has become of it as of a block.
type ActionStatus struct {
	TxID    chainhash.Hash
	Kind    protocol.Kind
	Height  uint32            // of its own block
	Index   uint32            // of its tx in the block
	Author  *protocol.KeyHash // nil if it has none
	Message []byte            // as on the chain; may not be UTF-8

	// What it is about. A well-formed MLR names its Parent, and its author is the
	// Child; an MLA or MCR is about the keys of what it refers to, once that is
	// known, unless that is of the WrongKind.
	Child  *protocol.KeyHash
	Parent *protocol.KeyHash
	Ref    *protocol.Reference // MLA, MCR, when well-formed: as pushed
	RefTx  *chainhash.Hash     // the action that Ref means, once known

	State   ActionState
	Reason  Reason
	Decided uint32          // height at which State was entered
	By      *chainhash.Hash // Used: the MLA; Cut: the MCR
}
