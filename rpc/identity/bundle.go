package identity

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
)

// bundlePath is where REST has proof bundles to download.
const bundlePath = "/v1/anchors/chains/{chain_tx_hash}/bundle"

// bundleWriter writes the proof bundle of a chain of anchors as of one block. It
// holds a piece of it at a time, and no view while it writes: whoever reads slowly holds
// up nobody else.
type bundleWriter struct {
	*graphReader
	chain  anchors.Chain
	first  uint32
	height uint32 // the block that the bundle is as of
	hash   chainhash.Hash
}

// unitAnchors is how many anchors of a bundle are as much work as another call.
const unitAnchors = 10

// anchorsRead is how many anchors are held at once: fewer, down to one, if their
// transactions have more than admission.Piece bytes, which whoever pays for them decides.
const anchorsRead = 100

// bundleOf prepares the bundle of a chain, from the anchor of a number on.
func (s *anchorService) bundleOf(ctx context.Context, chainTxHash string, first uint32) (*bundleWriter, error) {
	id, view, err := s.viewOf("chain_tx_hash", chainTxHash, nil)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	chain, err := view.AnchorChain(id)
	if err != nil {
		return nil, s.notFoundOr(err, "chain_tx_hash", "chain of anchors", id, view)
	}
	if first > chain.Anchors {
		return nil, fault.Field(codes.OutOfRange, "first_number", "expected a number from 0 to %d (how many anchors there are), got %d", chain.Anchors, first)
	}
	if err := admission.Work(ctx, int(chain.Anchors-first)/unitAnchors); err != nil {
		return nil, err
	}
	if err := admission.Long(ctx); err != nil {
		return nil, err
	}
	return &bundleWriter{&s.graphReader, chain, first, view.Height(), view.Hash()}, nil
}

func (b *bundleWriter) write(ctx context.Context, out io.Writer) error {
	w, err := proof.NewBundleWriter(out, proof.BundleHeader{Network: b.net.Name, Chain: b.chain.ID, First: b.first})
	if err != nil {
		return err
	}
	for number := b.first; number < b.chain.Anchors; {
		items, err := b.items(ctx, number)
		if err != nil {
			return err
		}
		for i := range items {
			if err := w.Write(&items[i]); err != nil {
				return err
			}
		}
		number += uint32(len(items))
	}
	if breaker := b.chain.BrokenBy; breaker != b.chain.Last.TxID && breaker != (chainhash.Hash{}) {
		view, err := b.view()
		if err != nil {
			return err
		}
		proof, err := view.AnchorProof(breaker)
		view.Close()
		if err != nil {
			return err
		}
		item := bundleItem(proof)
		if err := w.Write(&item); err != nil {
			return err
		}
	}
	return w.Close()
}

// items reads the anchors from a number on, at least one and at most so many as are held
// at once.
func (b *bundleWriter) items(ctx context.Context, number uint32) (items []proof.BundleItem, err error) {
	view, err := b.view()
	if err != nil {
		return nil, err
	}
	defer view.Close()
	proofs, err := view.AnchorProofs(ctx, b.chain.ID, number, anchorsRead, admission.Piece)
	if err != nil {
		return nil, err
	}
	if len(proofs) == 0 {
		return nil, fmt.Errorf("chain of anchors %v has no anchor %d: %w", b.chain.ID, number, graph.ErrNotFound)
	}
	for _, p := range proofs {
		items = append(items, bundleItem(p))
	}
	return items, nil
}

func bundleItem(p anchors.Proof) proof.BundleItem {
	return proof.BundleItem{Height: p.Height, Header: p.Header, Index: p.Index, Branch: p.Branch, Raw: p.Raw}
}

// view opens a view as of the bundle's block: graph.ErrReorganised if that has left the
// chain. The caller closes it.
func (b *bundleWriter) view() (*graph.View, error) {
	view, err := b.graph.At(&b.height)
	if graph.OffChain(err) {
		return nil, graph.ErrReorganised
	}
	if err != nil {
		return nil, err
	}
	if view.Hash() != b.hash {
		view.Close()
		return nil, graph.ErrReorganised
	}
	return view, nil
}

// GetProofBundle implements AnchorService.
func (s *anchorService) GetProofBundle(request *keytreev1.GetProofBundleRequest, stream grpc.ServerStreamingServer[keytreev1.ProofBundleChunk]) error {
	b, err := s.bundleOf(stream.Context(), request.GetChainTxHash(), request.GetFirstNumber())
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(chunkWriter{stream}, admission.Piece)
	if err := b.write(stream.Context(), out); err != nil {
		if status.Code(err) != codes.Unknown { // the stream's own
			return err
		}
		return s.fault(err)
	}
	return out.Flush()
}

// chunkWriter sends what is written to it, each piece in a message.
type chunkWriter struct {
	stream grpc.ServerStreamingServer[keytreev1.ProofBundleChunk]
}

// Write implements io.Writer.
func (w chunkWriter) Write(b []byte) (int, error) {
	if err := w.stream.Send(&keytreev1.ProofBundleChunk{Data: bytes.Clone(b)}); err != nil {
		return 0, err
	}
	return len(b), nil
}

// download answers bundlePath. A bundle that cannot be completed breaks the
// connection off.
func (s *anchorService) download(w http.ResponseWriter, r *http.Request, path map[string]string) {
	b, err := s.bundleAsked(r, path)
	if err != nil {
		rest.WriteError(w, runtime.HTTPStatusFromCode(status.Code(err)), err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s.bundle"`, b.chain.ID))
	out := bufio.NewWriterSize(w, admission.Piece)
	// It outlives the call's time: admission has the client take each piece in time, and
	// when the connection ends, every write fails.
	err = b.write(context.WithoutCancel(r.Context()), out)
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		s.log.Debug().Err(err).Msg("a proof bundle was broken off")
		panic(http.ErrAbortHandler)
	}
}

func (s *anchorService) bundleAsked(r *http.Request, path map[string]string) (*bundleWriter, error) {
	if err := rest.CheckQuery(r.URL.RawQuery, map[string]protoreflect.Kind{"first_number": protoreflect.Uint32Kind}); err != nil {
		return nil, err
	}
	first := uint64(0)
	if text := r.URL.Query().Get("first_number"); text != "" {
		first, _ = strconv.ParseUint(text, 10, 32) // CheckQuery has read it
	}
	return s.bundleOf(r.Context(), path["chain_tx_hash"], uint32(first))
}
