package identity

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// asOf is the block that an answer is as of, in wire form.
type asOf struct {
	height uint32
	hash   string
}

func asOfView(v *graph.View) asOf { return asOf{v.Height(), hashText(v.Hash())} }

// renderer puts what the graph answers into wire form, with the addresses of its
// network.
type renderer struct{ net *chaincfg.Params }

func (r renderer) address(key protocol.KeyHash) string { return protocol.FormatAddress(key, r.net) }

func (r renderer) addressOrNone(key *protocol.KeyHash) string {
	if key == nil {
		return ""
	}
	return r.address(*key)
}

// hashText is hash.String(), and allocates nothing but the text.
func hashText(hash chainhash.Hash) string {
	slices.Reverse(hash[:])
	var text [chainhash.MaxHashStringSize]byte
	hex.Encode(text[:], hash[:])
	return string(text[:])
}

func hashOrNone(hash *chainhash.Hash) string {
	if hash == nil {
		return ""
	}
	return hashText(*hash)
}

// resolution renders a resolution. address renders the keys above the one resolved, which
// may be above many.
func (r renderer) resolution(in links.Resolution, at asOf, omitPath bool, address func(protocol.KeyHash) string) *keytreev1.Resolution {
	out := &keytreev1.Resolution{
		Address:      r.address(in.Key),
		Depth:        in.Depth,
		AcceptTxHash: hashOrNone(in.Accept),
		AsOfHeight:   at.height,
		AsOfHash:     at.hash,
	}
	out.MainAddress = out.Address
	above := address
	if in.Parent != nil {
		out.ParentAddress = address(*in.Parent)
		out.MainAddress = out.ParentAddress
		if in.Root != *in.Parent {
			out.MainAddress = address(in.Root)
		}
		above = func(key protocol.KeyHash) string {
			switch key {
			case *in.Parent:
				return out.ParentAddress
			case in.Root:
				return out.MainAddress
			}
			return address(key)
		}
	}
	if in.ID != (chainhash.Hash{}) {
		out.IdTxHash = hashText(in.ID)
	}
	if !omitPath {
		out.PathTruncated = in.Truncated
		out.Path = make([]string, len(in.Path))
		out.Path[0] = out.Address
		for i, key := range in.Path[1:] {
			out.Path[i+1] = above(key)
		}
	}
	return out
}

func (r renderer) identity(in links.Identity, at asOf) *keytreev1.Identity {
	out := &keytreev1.Identity{
		IdTxHash:    hashText(in.ID),
		State:       "CURRENT",
		MainAddress: r.address(in.Root),
		KeyCount:    in.Keys,
		NamedBy:     &keytreev1.NamedBy{TxHash: hashText(in.ID), Height: in.NamedAt},
		AsOfHeight:  at.height,
		AsOfHash:    at.hash,
	}
	if in.MergedInto != nil {
		out.State, out.MergedInto = "MERGED", hashText(*in.MergedInto)
	}
	return out
}

func (r renderer) key(in links.Member) *keytreev1.IdentityKey {
	return &keytreev1.IdentityKey{
		Address:       r.address(in.Key),
		ParentAddress: r.addressOrNone(in.Parent),
		Depth:         in.Depth,
		AcceptTxHash:  hashOrNone(in.Accept),
		LinkedHeight:  in.Linked,
	}
}

func (r renderer) action(in links.ActionStatus, at asOf) *keytreev1.Action {
	out := &keytreev1.Action{
		TxHash:        hashText(in.TxID),
		Kind:          in.Kind.String(),
		AuthorAddress: r.addressOrNone(in.Author),
		ChildAddress:  r.addressOrNone(in.Child),
		ParentAddress: r.addressOrNone(in.Parent),
		RefTxHash:     hashOrNone(in.RefTx),
		Message:       strings.ToValidUTF8(string(in.Message), "\uFFFD"),
		MessageHex:    hex.EncodeToString(in.Message),
		State:         stateName(in.State),
		Reason:        reasonName(in.Reason),
		Height:        in.Height,
		TxIndex:       in.Index,
		DecidedHeight: in.Decided,
		ByTxHash:      hashOrNone(in.By),
		AsOfHeight:    at.height,
		AsOfHash:      at.hash,
	}
	if in.Ref != nil {
		out.Reference = in.Ref.String()
	}
	return out
}

func stateName(s links.ActionState) string {
	switch s {
	case links.StateOpen:
		return "OPEN"
	case links.StateUsed:
		return "USED"
	case links.StateInForce:
		return "IN_FORCE"
	case links.StateCut:
		return "CUT"
	case links.StateWaiting:
		return "WAITING"
	case links.StateRefused:
		return "REFUSED"
	case links.StateDone:
		return "DONE"
	}
	return fmt.Sprintf("STATE_%d", uint8(s))
}

func reasonName(r links.Reason) string {
	switch r {
	case links.NoReason:
		return ""
	case links.Malformed:
		return "MALFORMED"
	case links.NoAuthor:
		return "NO_AUTHOR"
	case links.SelfLink:
		return "SELF_LINK"
	case links.WrongKind:
		return "WRONG_KIND"
	case links.RequestRefused:
		return "REQUEST_REFUSED"
	case links.NotTheParent:
		return "NOT_THE_PARENT"
	case links.RequestUsed:
		return "REQUEST_USED"
	case links.ChildHasParent:
		return "CHILD_HAS_PARENT"
	case links.Loop:
		return "LOOP"
	case links.AcceptRefused:
		return "ACCEPT_REFUSED"
	case links.AlreadyRevoked:
		return "ALREADY_REVOKED"
	}
	return fmt.Sprintf("REASON_%d", uint8(r))
}

func (r renderer) event(in links.Effect) *keytreev1.Event {
	switch in.Type {
	case links.RequestOpened:
		return &keytreev1.Event{Type: "REQUEST_OPENED", TxHash: hashText(in.Tx),
			ChildAddress: r.address(in.Child), ParentAddress: r.address(in.Parent)}
	case links.LinkFormed:
		return &keytreev1.Event{Type: "LINK_FORMED", TxHash: hashText(in.Tx), RefTxHash: hashText(in.Ref),
			ChildAddress: r.address(in.Child), ParentAddress: r.address(in.Parent), IdTxHash: hashText(in.ID)}
	case links.LinkCut:
		return &keytreev1.Event{Type: "LINK_CUT", TxHash: hashText(in.Tx), RefTxHash: hashText(in.Ref),
			ChildAddress: r.address(in.Child), ParentAddress: r.address(in.Parent), IdTxHash: hashText(in.ID)}
	case links.ActionRefused:
		out := &keytreev1.Event{Type: "ACTION_REFUSED", TxHash: hashText(in.Tx), Kind: in.Kind.String(), Reason: reasonName(in.Reason)}
		if in.Author != (protocol.KeyHash{}) {
			out.AuthorAddress = r.address(in.Author)
		}
		return out
	case links.ActionWaiting:
		return &keytreev1.Event{Type: "ACTION_WAITING", TxHash: hashText(in.Tx), Kind: in.Kind.String(),
			AuthorAddress: r.address(in.Author), Reference: in.Reference.String()}
	case links.IdentityNamed:
		return &keytreev1.Event{Type: "IDENTITY_NAMED", IdTxHash: hashText(in.ID), MainAddress: r.address(in.Root)}
	case links.IdentityMerged:
		return &keytreev1.Event{Type: "IDENTITY_MERGED", IdTxHash: hashText(in.ID), MergedInto: hashText(in.Into)}
	}
	return &keytreev1.Event{Type: fmt.Sprintf("EFFECT_%d", uint8(in.Type))}
}

func (r renderer) anchorEvent(in anchors.Effect) *keytreev1.Event {
	switch in.Type {
	case anchors.AnchorAdded:
		return &keytreev1.Event{Type: "ANCHOR_ADDED", TxHash: hashText(in.Tx), AuthorAddress: r.addressOrNone(in.Author),
			Anchor: &keytreev1.AnchorEvent{ChainTxHash: hashText(in.Chain), Domain: in.Anchor.Domain,
				Position: in.Anchor.Position, Head: in.Anchor.Head[:], Root: in.Anchor.Root[:]}}
	case anchors.ChainBroken:
		return &keytreev1.Event{Type: "ANCHOR_CHAIN_BROKEN", TxHash: hashText(in.Tx),
			Anchor: &keytreev1.AnchorEvent{ChainTxHash: hashText(in.Chain), BreakReason: breakName(in.Break)}}
	}
	return &keytreev1.Event{Type: fmt.Sprintf("EFFECT_%d", uint8(in.Type))}
}

func disconnected(in graph.Disconnected) *keytreev1.BlockEvents {
	return &keytreev1.BlockEvents{
		Type:     "DISCONNECT",
		Height:   in.Height,
		Hash:     hashText(in.Hash),
		PrevHash: hashText(in.PrevHash),
	}
}

// stateRoot renders a state root, "" if none was kept.
func stateRoot(root [32]byte) string {
	if root == [32]byte{} {
		return ""
	}
	return hex.EncodeToString(root[:])
}

// connected renders a block with those of its events that were read: first those of
// identities, then those of anchors.
func (r renderer) connected(in graph.BlockEvents) *keytreev1.BlockEvents {
	out := &keytreev1.BlockEvents{
		Type:      "CONNECT",
		Height:    in.Height,
		Hash:      hashText(in.Hash),
		PrevHash:  hashText(in.PrevHash),
		StateHash: hex.EncodeToString(in.StateHash[:]),
		StateRoot: stateRoot(in.StateRoot),
		Time:      in.Time,
		Events:    make([]*keytreev1.Event, 0, len(in.Effects)+len(in.Anchors)),
		More:      in.More,
	}
	for i := range in.Effects {
		out.Events = append(out.Events, r.event(in.Effects[i]))
	}
	for i := range in.Anchors {
		out.Events = append(out.Events, r.anchorEvent(in.Anchors[i]))
	}
	return out
}
