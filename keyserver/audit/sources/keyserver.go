// Package sources are where an audit takes everything from: a keyserver or a file of
// entries, one's own node, a keytree server. None of them is trusted with more than its
// doc says; the auditor checks what they tell. Each has an error in the sense that the
// auditor's interfaces ask for.
//
// What never belongs here: a check, a verdict, and what the auditor keeps.
package sources

import (
	"context"

	"github.com/keytree-bch/keytree/keyserver/audit"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	keyclient "github.com/keytree-bch/keytree/keyserver/client"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// Keyserver asks a keyserver over its own wire and, for its signed head, over gRPC. It is
// for one goroutine at a time.
type Keyserver struct {
	*keyclient.Reader
	Heads keytreev1.KeyserverServiceClient // nil: it is not asked for one
}

var _ audit.Keyserver = (*Keyserver)(nil)

// Head implements audit.Keyserver.
func (k *Keyserver) Head(ctx context.Context) (*hashchain.SignedHead, error) {
	if k.Heads == nil {
		return nil, nil
	}
	h, err := k.Heads.GetSignedHead(ctx, &keytreev1.GetSignedHeadRequest{})
	if err != nil {
		return nil, err
	}
	return &hashchain.SignedHead{
		Head: hashchain.Head{
			AnchorChain: h.AnchorChain, Domain: h.Domain, EntryHash: canonical.Encode(h.EntryHash),
			Size: h.Size, Time: h.Time, TreeRoot: canonical.Encode(h.TreeRoot),
		},
		ServerSignature: canonical.Encode(h.ServerSignature),
	}, nil
}
