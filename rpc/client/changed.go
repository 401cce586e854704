package client

import (
	"context"
	"fmt"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// Changed resolves those of any number of addresses whose resolution is not what it was as of a past block, as of the
// tip, each with its path only if paths are wanted: what an app takes in that keeps resolutions. The cursor is the tip;
// all that the app keeps is as of it then. Name addresses as resolutions do, to find them again.
//
// ABORTED if the block has left the chain, OUT_OF_RANGE if the server is not that far: resolve all again, or ask later.
// FAILED_PRECONDITION if too much has changed since. More than MaxBatch are asked for in pieces, and
// again if a block comes between two of them: ErrReorganised if that goes on.
func (c *Client) Changed(ctx context.Context, addresses []string, since Cursor, paths bool) ([]*Resolution, *Cursor, error) {
	if len(addresses) == 0 {
		return nil, &since, nil
	}
	for range MaxTries {
		var all []*Resolution
		var tip *Cursor
		together := true
		for from := 0; from < len(addresses) && together; from += MaxBatch {
			piece, err := c.identities.ResolveChanged(ctx, &keytreev1.ResolveChangedRequest{
				Addresses: addresses[from:min(from+MaxBatch, len(addresses))], SinceHeight: since.Height, SinceHash: since.Hash, OmitPath: !paths})
			if err != nil {
				return nil, nil, err
			}
			as := Cursor{piece.AsOfHeight, piece.AsOfHash}
			together = tip == nil || as == *tip
			all, tip = append(all, piece.Resolutions...), &as
		}
		if together {
			return all, tip, nil
		}
	}
	return nil, nil, fmt.Errorf("%w, or another one came, %d times", ErrReorganised, MaxTries)
}
