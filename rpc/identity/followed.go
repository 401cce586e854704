package identity

import (
	"time"

	"google.golang.org/protobuf/proto"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// followed adds to what is known of the node's mempool how that is followed.
func (r *graphReader) followed(m *keytreev1.Mempool) *keytreev1.Mempool {
	s := r.indexer.Mempool()
	if !s.Followed {
		if !m.Available && s.Reason != "" {
			m.Reason = s.Reason
		}
		return m
	}
	m.Hints, m.DoubleSpendProofs = s.Hints, s.DoubleSpendProofs
	m.ComparedAgo = proto.Uint32(uint32(max(0, time.Since(s.AsOf)/time.Second)))
	m.Listed, m.Conflicts, m.Unestablished, m.Unread = uint32(s.Transactions), uint32(s.Conflicts), uint32(s.Unestablished), uint32(s.Unread)
	return m
}
