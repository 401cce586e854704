package identity

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strconv"

	"github.com/gcash/bchd/chaincfg/chainhash"
	gateway "github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
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
// holds a piece of it at a time, and one transaction more, whose size whoever pays for it decides. It holds no
// view while it writes: whoever reads slowly holds up nobody else.
type bundleWriter struct {
	*graphReader
	chain  anchors.Chain
	first  uint32
	height uint32 // the block that the bundle is as of
	hash   chainhash.Hash
}

// unitAnchors is how many anchors of a bundle are as much work as another call.
const unitAnchors = 10

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

// write writes the bundle to out piece by piece, each at once.
func (b *bundleWriter) write(ctx context.Context, out io.Writer) error {
	piece := bytes.NewBuffer(make([]byte, 0, admission.Piece+usualItem))
	w, err := proof.NewBundleWriter(piece, proof.BundleHeader{Network: b.net.Name, Chain: b.chain.ID, First: b.first})
	if err != nil {
		return err
	}
	for number := b.first; number < b.chain.Anchors; {
		anchors, err := b.fill(ctx, piece, w, number)
		if err != nil {
			return err
		}
		number += anchors
		runtime.Gosched() // as rest.Answer does
		if _, err := piece.WriteTo(out); err != nil {
			return err
		}
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
		if err := w.Write(bundleItem(&proof)); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	_, err = piece.WriteTo(out)
	return err
}

// usualItem is more than most items of a bundle have, in bytes.
const usualItem = 2 << 10

// fill has w write the anchors from a number on, one at least, until there is a piece, and returns how many.
func (b *bundleWriter) fill(ctx context.Context, piece *bytes.Buffer, w *proof.BundleWriter, number uint32) (written uint32, err error) {
	view, err := b.view()
	if err != nil {
		return 0, err
	}
	defer view.Close()
	err = view.EachAnchorProof(ctx, b.chain.ID, number, func(p *anchors.Proof) (more bool, err error) {
		written++
		err = w.Write(bundleItem(p))
		return piece.Len() < admission.Piece, err
	})
	if err == nil && written == 0 {
		err = fmt.Errorf("chain of anchors %v has no anchor %d: %w", b.chain.ID, number, graph.ErrNotFound)
	}
	return written, err
}

func bundleItem(p *anchors.Proof) *proof.BundleItem {
	return &proof.BundleItem{Height: p.Height, Header: p.Header, Index: p.Index, Branch: p.Branch, Raw: p.Raw}
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
	err = b.write(stream.Context(), chunkWriter{stream})
	if err != nil && status.Code(err) == codes.Unknown { // else the stream's own
		return s.fault(err)
	}
	return err
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
		rest.WriteError(w, gateway.HTTPStatusFromCode(status.Code(err)), err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s.bundle"`, b.chain.ID))
	// It outlives the call's time: admission has the client take each piece in time, and
	// when the connection ends, every write fails.
	if err := b.write(context.WithoutCancel(r.Context()), w); err != nil {
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
