package graph

import (
	"errors"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// Errors of questions, to be matched with errors.Is.
var (
	// ErrNotFound says that no such identity, action or anchor is indexed as of the
	// height asked for. (An address is never "not found": a key that was never
	// linked is its own identity.)
	ErrNotFound = errors.New("not found")
	// ErrEmpty says that no block has been applied yet. Try again later.
	ErrEmpty = errors.New("no block indexed yet")
	// ErrHeight says that the height asked for is before the start height or
	// beyond the tip. Ask for a height within the range that the message names.
	ErrHeight = errors.New("height out of range")
	// ErrReorganised says that the block which a view is as of has been taken off
	// the chain. Make another view.
	ErrReorganised = errors.New("block taken off the chain")
)

// MaxPath is how many keys of a path Resolution.Path holds at most.
const MaxPath = 100

// Tip is the last block applied, with what the graph adds up to there.
type Tip struct {
	Height    uint32
	Hash      chainhash.Hash
	StateHash [32]byte // identity-rules §9
	Counts    Counts
}

// Counts are totals as of a block.
type Counts struct {
	Links      uint32 // links in force
	Identities uint32 // identities that are CURRENT
	Refused    uint32 // actions refused, ever
	Waiting    uint32 // actions waiting for what they refer to
}

// Resolution is the answer to "which identity is behind this key?" as of a
// block (identity-rules §5, §6).
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
// depth first, children in the order in which they were linked: the member last returned.
type MemberCursor struct {
	Key protocol.KeyHash
}

// State is what has become of an action as of a block (identity-rules §3).
type State uint8

// The states. Values are part of the stored graph.
const (
	StateOpen    State = 1 // MLR: may be accepted
	StateUsed    State = 2 // MLR: an MLA put it in force
	StateInForce State = 3 // MLA: its link is in force
	StateCut     State = 4 // MLA: its link was in force and was cut
	StateWaiting State = 5 // MLA, MCR: what it refers to is not confirmed, or waits itself
	StateRefused State = 6 // any: for the reason given, for good
	StateDone    State = 7 // MCR: it cut a link
)

// Reason says why an action was refused: the first that applies, in the order
// of identity-rules §3. Values are part of the canonical encoding.
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

	State   State
	Reason  Reason
	Decided uint32          // height at which State was entered
	By      *chainhash.Hash // Used: the MLA; Cut: the MCR
}

// ActionCursor is a place in the listing of a key's actions, which runs in
// order of position: the action last returned.
type ActionCursor struct {
	Height, Index uint32
}

// BlockEvents is what one connected block changed, or a part of it.
type BlockEvents struct {
	Height    uint32
	Hash      chainhash.Hash
	PrevHash  chainhash.Hash
	StateHash [32]byte
	Effects   []Effect       // in the order of the canonical encoding
	Anchors   []AnchorEffect // likewise, after Effects
	More      bool           // whether the block has events behind these
}

// Disconnected is a block that was taken off the best chain.
type Disconnected struct {
	Height   uint32
	Hash     chainhash.Hash
	PrevHash chainhash.Hash
}
