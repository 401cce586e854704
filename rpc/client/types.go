package client

import keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"

// What a server answers, as identity.proto and anchor.proto document it, field by field.
type (
	// Status is what a server has indexed.
	Status = keytreev1.GetStatusResponse
	// Resolution is the identity behind one key as of a block.
	Resolution = keytreev1.Resolution
	// Identity is one identity as of a block.
	Identity = keytreev1.Identity
	// Key is one key of an identity.
	Key = keytreev1.IdentityKey
	// Action is a link request, accept or revoke, and what has become of it.
	Action = keytreev1.Action
	// LinkRequest is a link request that a key was asked for, and what has become of it and of its link.
	LinkRequest = keytreev1.LinkRequest
	// ChildLink is a link from a child to the key that was asked about.
	ChildLink = keytreev1.ChildLink
	// Unconfirmed is what would differ from an answer if what is pending were the next block.
	Unconfirmed = keytreev1.Unconfirmed
	// PendingAction is an action of the mempool, and what would become of it.
	PendingAction = keytreev1.PendingAction
	// Block is a block that was connected or disconnected, with what it changed.
	Block = keytreev1.BlockEvents
	// Event is one change.
	Event = keytreev1.Event
	// StateProof is a state proof, with what it says of itself.
	StateProof = keytreev1.StateProof
	// Anchor is one anchor of a keyserver.
	Anchor = keytreev1.Anchor
	// AnchorChain is one chain of anchors.
	AnchorChain = keytreev1.AnchorChain
)
