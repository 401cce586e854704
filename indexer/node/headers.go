package node

import (
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// CheckHeaders checks that headers which a node sent are an answer to Headers: each
// follows the one before, the first the block after. It returns ErrNotFound if the
// first does not or if there are none, as when that block has left the best chain,
// and ErrInvalid if another does not.
func CheckHeaders(after chainhash.Hash, headers []protocol.Header) error {
	if len(headers) == 0 || headers[0].PrevBlock != after {
		return fmt.Errorf("%w: nothing follows block %v in its best chain", ErrNotFound, after)
	}
	for i := range headers[1:] {
		if h := &headers[i+1]; h.PrevBlock != headers[i].Hash {
			return fmt.Errorf("%w: it sent block %v behind %v, which it does not follow", ErrInvalid, h.Hash, headers[i].Hash)
		}
	}
	return nil
}
