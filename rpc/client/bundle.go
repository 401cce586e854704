package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/gcash/bchd/chaincfg"
	"google.golang.org/grpc"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// Bundle opens the proof bundle of the chain of anchors that begins with a transaction, from
// the anchor of a number on: the file that keytree audit takes. It comes as it is read. Only
// one that is read to io.EOF is whole; nothing of it is checked. Its user closes it.
func (c *Client) Bundle(ctx context.Context, genesis string, first uint32) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.anchors.GetProofBundle(ctx, &keytreev1.GetProofBundleRequest{ChainTxHash: genesis, FirstNumber: first})
	if err != nil {
		cancel()
		return nil, err
	}
	return &chunks{stream: stream, cancel: cancel}, nil
}

// chunks reads what the chunks of a stream hold one behind the other.
type chunks struct {
	stream grpc.ServerStreamingClient[keytreev1.ProofBundleChunk]
	cancel context.CancelFunc
	rest   []byte // of the last chunk
}

// Read implements io.Reader.
func (c *chunks) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		chunk, err := c.stream.Recv()
		if err != nil {
			return 0, err // io.EOF at the end
		}
		c.rest = chunk.GetData()
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (c *chunks) Close() error {
	c.cancel()
	return nil
}

// ErrProof says that an item of a bundle does not prove what it should: the server, or
// somebody on the way, has made it up.
var ErrProof = errors.New("the proof does not hold")

// Proofs yields the items of a bundle on a network, each once it was checked that the
// transaction is in the block whose header the item has, and that work was done for that
// header. ErrProof if it is not so; the errors of proof.BundleReader.Items if the bundle is not
// whole, before which there may have been items that are good.
//
// Whether the blocks are on the best chain, and whether the anchors follow each other, is for
// package keyserver/audit to say, which asks others for it.
func (c *Client) Proofs(ctx context.Context, net *chaincfg.Params, genesis string, first uint32) iter.Seq2[*proof.BundleItem, error] {
	return func(yield func(*proof.BundleItem, error) bool) {
		in, err := c.Bundle(ctx, genesis, first)
		if err != nil {
			yield(nil, err)
			return
		}
		defer in.Close()
		r, err := proof.NewBundleReader(in)
		if err == nil && (r.Network != net.Name || r.Chain.String() != genesis || r.First != first) {
			err = fmt.Errorf("%w: expected the bundle of chain %s on %s from anchor %d on, got that of %v on %s from %d on",
				ErrProof, genesis, net.Name, first, r.Chain, r.Network, r.First)
		}
		if err != nil {
			yield(nil, err)
			return
		}
		for item, err := range r.Items() {
			if err == nil {
				err = check(item, net)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(item, nil) {
				return
			}
		}
	}
}

func check(item *proof.BundleItem, net *chaincfg.Params) error {
	header, err := protocol.ParseHeader(item.Header[:])
	if err == nil {
		err = protocol.CheckMerkleBranch(item.Raw, item.Index, item.Branch, header.MerkleRoot)
	}
	if err == nil {
		err = header.CheckWork(net.PowLimit)
	}
	if err != nil {
		return fmt.Errorf("%w: block %d: %w", ErrProof, item.Height, err)
	}
	return nil
}
