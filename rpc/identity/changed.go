package identity

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
)

// changes are those of the addresses of one request that resolve otherwise as of the tip than as of a block. They
// are what a batch resolves, one after the other. One goroutine uses it.
type changes struct {
	batch
}

// newChanges prepares the answer to a request. The caller closes it.
func (s *identityService) newChanges(ctx context.Context, request *keytreev1.ResolveChangedRequest) (*changes, error) {
	hash, err := parseHash("since_hash", request.GetSinceHash())
	if err != nil {
		return nil, err
	}
	c := &changes{batch{service: s, omitPath: request.GetOmitPath(), addresses: make(map[protocol.KeyHash]string)}}
	keys, err := s.batchOf(ctx, request.GetAddresses(), false)
	if err != nil {
		return nil, err
	}
	seen := make(map[protocol.KeyHash]bool, len(keys))
	for _, key := range keys {
		if !seen[key] {
			c.keys, seen[key] = append(c.keys, key), true
		}
	}
	if err := s.unavailable(); err != nil {
		return nil, err
	}
	height := request.GetSinceHeight()
	switch c.view, err = s.graph.At(&height); {
	case errors.Is(err, graph.ErrHeight):
		return nil, s.outOfRange("since_height", height)
	case errors.Is(err, graph.ErrEmpty):
		return nil, errNoBlock
	case err != nil:
		return nil, s.fault(err)
	}
	if c.view.Hash() != hash {
		c.view.Close()
		return nil, fault.Field(codes.Aborted, "since_hash", "block %d is %s, not %s, which is not on the chain, or not any more: resolve again", height, c.view.Hash(), hash)
	}
	tip := c.view.Tip()
	c.at = asOf{tip.Height, tip.Hash.String()}
	return c, nil
}

// each calls do with those that differ, in their order.
func (c *changes) each(ctx context.Context, do func(*keytreev1.Resolution) error) error {
	for _, key := range c.keys {
		if err := ctx.Err(); err != nil {
			return c.service.fault(err)
		}
		now, differs, err := c.view.Since(ctx, key)
		steps := c.view.Spent()
		switch {
		case errors.Is(err, graph.ErrWork):
			return fault.Field(codes.FailedPrecondition, "since_height", "%v; or resolve again", err)
		case err != nil:
			return c.service.fault(err)
		case differs:
			resolution := c.service.render().resolution(now, c.at, c.omitPath, c.address)
			steps += keySteps * len(resolution.Path)
			err = do(resolution)
		}
		if err == nil {
			err = c.effort.spend(ctx, steps)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ResolveChanged implements IdentityService.
func (s *identityService) ResolveChanged(ctx context.Context, request *keytreev1.ResolveChangedRequest) (*keytreev1.ResolveChangedResponse, error) {
	c, err := s.newChanges(ctx, request)
	if err != nil {
		return nil, err
	}
	defer c.close()
	held := admission.Make(ctx)
	defer held.Release()
	answer := &keytreev1.ResolveChangedResponse{AsOfHeight: c.at.height, AsOfHash: c.at.hash}
	err = c.each(ctx, func(resolution *keytreev1.Resolution) error {
		answer.Resolutions = append(answer.Resolutions, resolution)
		return held.Grow(proto.Size(resolution))
	})
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// write writes the answer in JSON.
func (c *changes) write(ctx context.Context, out *rest.Answer) error {
	out.Text = append(out.Text, `{"resolutions":[`...)
	begun := false
	err := c.each(ctx, func(resolution *keytreev1.Resolution) error {
		if begun {
			out.Text = append(out.Text, ',')
		}
		begun = true
		out.Text = appendResolution(out.Text, resolution)
		return out.Pass()
	})
	if err != nil {
		return err
	}
	o := jsonObject(append(out.Text, ']'))
	o.number("as_of_height", c.at.height)
	o.text("as_of_hash", c.at.hash)
	out.Text = append(o, '}')
	return nil
}
