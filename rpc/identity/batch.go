package identity

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
)

const (
	// maxBatch is how many addresses a BatchResolve takes, longBatch above how many its
	// answer is a long one.
	maxBatch  = 10_000
	longBatch = 1000
	// unitBatch is how many addresses are as much work as another call.
	unitBatch = 20
	// maxRemembered bounds what a batch remembers to make it once: how many addresses,
	// 100 bytes each, and how many bytes of JSON. A client decides how much there is.
	maxRemembered     = 4096
	maxRememberedText = 1 << 20
)

// batch resolves the addresses of one request as of one block. One goroutine uses it.
type batch struct {
	service  *identityService
	view     *graph.View  // until close
	supposed *supposition // until close
	at       asOf
	keys     []protocol.KeyHash
	omitPath bool
	differs  bool // one that was resolved would be otherwise
	effort   effort

	often     map[protocol.KeyHash]bool   // the keys that occur more than once
	addresses map[protocol.KeyHash]string // some of those that are in several paths
}

// newBatch prepares the answer to a request. The caller closes it.
func (s *identityService) newBatch(ctx context.Context, request *keytreev1.BatchResolveRequest) (*batch, error) {
	b := &batch{service: s, omitPath: request.GetOmitPath(), addresses: make(map[protocol.KeyHash]string)}
	var err error
	if b.keys, err = s.batchOf(ctx, request.GetAddresses(), request.GetUnconfirmed()); err != nil {
		return nil, err
	}
	b.often = make(map[protocol.KeyHash]bool, len(b.keys))
	for _, key := range b.keys {
		_, again := b.often[key]
		b.often[key] = again
	}
	if b.view, err = s.viewAt(request.AtHeight); err != nil {
		return nil, err
	}
	if b.supposed, err = s.suppose(b.view, request.GetUnconfirmed(), request.AtHeight); err != nil {
		b.view.Close()
		return nil, err
	}
	b.at = asOfView(b.view)
	return b, nil
}

// batchOf reads the addresses of a request, and lets it in as the work that it is: twice as much if it asks for what is
// unconfirmed, too.
func (s *identityService) batchOf(ctx context.Context, addresses []string, unconfirmed bool) ([]protocol.KeyHash, error) {
	if len(addresses) == 0 || len(addresses) > maxBatch {
		return nil, fault.Field(codes.InvalidArgument, "addresses", "expected 1 to %d addresses, got %d", maxBatch, len(addresses))
	}
	work := len(addresses) / unitBatch
	if unconfirmed {
		work *= 2
	}
	if err := admission.Work(ctx, work); err != nil {
		return nil, err
	}
	if len(addresses) > longBatch {
		if err := admission.Long(ctx); err != nil {
			return nil, err
		}
	}
	keys := make([]protocol.KeyHash, len(addresses))
	for i, address := range addresses {
		var err error
		if keys[i], err = protocol.ParseAddress(address, s.net); err != nil {
			return nil, fault.Field(codes.InvalidArgument, fmt.Sprintf("addresses[%d]", i), "%v", err)
		}
	}
	return keys, nil
}

func (b *batch) close() {
	b.supposed.close()
	b.view.Close()
}

// unconfirmed says whether it is known what is pending, and whether a resolution differs.
func (b *batch) unconfirmed() *keytreev1.Unconfirmed {
	out := b.supposed.answer()
	if out != nil {
		out.Differs = b.differs
	}
	return out
}

func (b *batch) resolve(ctx context.Context, key protocol.KeyHash) (*keytreev1.Resolution, error) {
	if err := ctx.Err(); err != nil {
		return nil, b.service.fault(err)
	}
	resolution, err := b.view.Resolve(ctx, key)
	if err != nil {
		return nil, b.service.fault(err)
	}
	answer := b.service.render().resolution(resolution, b.at, b.omitPath, b.address)
	differs, err := b.supposed.resolution(ctx, resolution, b.omitPath)
	if err != nil {
		return nil, b.service.fault(err)
	}
	steps := b.view.Spent() + keySteps*len(answer.Path)
	if differs.GetDiffers() {
		answer.Unconfirmed, b.differs = differs, true
		steps += b.supposed.pending.Spent() + 3*keySteps*len(answer.Path) + causeSteps*len(differs.By) // it is rendered to be compared
	}
	return answer, b.effort.spend(ctx, steps)
}

// address renders the address of a key that others may be below.
func (b *batch) address(key protocol.KeyHash) string {
	if address, ok := b.addresses[key]; ok {
		return address
	}
	address := b.service.render().address(key)
	if len(b.addresses) == maxRemembered {
		clear(b.addresses)
	}
	b.addresses[key] = address
	return address
}

// BatchResolve implements IdentityService.
func (s *identityService) BatchResolve(ctx context.Context, request *keytreev1.BatchResolveRequest) (*keytreev1.BatchResolveResponse, error) {
	b, err := s.newBatch(ctx, request)
	if err != nil {
		return nil, err
	}
	defer b.close()
	held := admission.Make(ctx)
	defer held.Release()
	answer := &keytreev1.BatchResolveResponse{
		Resolutions: make([]*keytreev1.Resolution, len(b.keys)),
		AsOfHeight:  b.at.height,
		AsOfHash:    b.at.hash,
	}
	known := make(map[protocol.KeyHash]*keytreev1.Resolution)
	for i, key := range b.keys {
		resolution := known[key]
		if resolution == nil {
			if resolution, err = b.resolve(ctx, key); err != nil {
				return nil, err
			}
			if b.often[key] {
				known[key] = resolution
			}
		}
		if err := held.Grow(proto.Size(resolution)); err != nil {
			return nil, err
		}
		answer.Resolutions[i] = resolution
	}
	answer.Unconfirmed = b.unconfirmed()
	return answer, nil
}

// write writes the answer in JSON.
func (b *batch) write(ctx context.Context, out *rest.Answer) error {
	known, size := make(map[protocol.KeyHash][]byte), 0
	out.Text = append(out.Text, `{"resolutions":[`...)
	for i, key := range b.keys {
		if i > 0 {
			out.Text = append(out.Text, ',')
		}
		if text := known[key]; text != nil {
			out.Text = append(out.Text, text...)
		} else {
			resolution, err := b.resolve(ctx, key)
			if err != nil {
				return err
			}
			from := len(out.Text)
			out.Text = appendResolution(out.Text, resolution)
			if text := out.Text[from:]; b.often[key] && size+len(text) <= maxRememberedText {
				known[key] = append([]byte(nil), text...)
				size += len(text)
			}
		}
		if err := out.Pass(); err != nil {
			return err
		}
	}
	o := jsonObject(append(out.Text, ']'))
	o.number("as_of_height", b.at.height)
	o.text("as_of_hash", b.at.hash)
	if out := b.unconfirmed(); out != nil {
		o.message("unconfirmed", out)
	}
	out.Text = append(o, '}')
	return nil
}
