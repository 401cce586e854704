package identity

import (
	"errors"
	"net/http"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/proto"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
)

// handleDirectly answers by itself the calls that are made most or have the longest
// answers, in place of the gateway, which holds an answer three times over. What is asked most
// comes last: the mux tries the newest first.
func (s *identityService) handleDirectly(mux *runtime.ServeMux) error {
	handle := func(verb, path string, request func(path map[string]string) proto.Message, answer func(r *http.Request, request proto.Message, out *rest.Answer) error) error {
		return mux.HandlePath(verb, path, func(w http.ResponseWriter, r *http.Request, path map[string]string) {
			out := s.answers.New(w)
			m := request(path)
			err := rest.ReadRequest(r, m)
			if err == nil {
				err = answer(r, m, out)
			}
			out.End(err)
		})
	}
	return errors.Join(
		handle(http.MethodPost, "/v1/addresses:changed", func(map[string]string) proto.Message { return new(keytreev1.ResolveChangedRequest) },
			func(r *http.Request, request proto.Message, out *rest.Answer) error {
				c, err := s.newChanges(r.Context(), request.(*keytreev1.ResolveChangedRequest))
				if err != nil {
					return err
				}
				defer c.close()
				return c.write(r.Context(), out)
			}),
		handle(http.MethodGet, "/v1/addresses/{address}/proof", func(path map[string]string) proto.Message {
			return &keytreev1.ProveAddressRequest{Address: path["address"]}
		},
			func(r *http.Request, request proto.Message, out *rest.Answer) error {
				p, err := s.ProveAddress(r.Context(), request.(*keytreev1.ProveAddressRequest))
				return sendProof(r.Context(), p, err, out)
			}),
		handle(http.MethodPost, "/v1/addresses:prove", func(map[string]string) proto.Message { return new(keytreev1.ProveAddressesRequest) },
			func(r *http.Request, request proto.Message, out *rest.Answer) error {
				p, err := s.ProveAddresses(r.Context(), request.(*keytreev1.ProveAddressesRequest))
				return sendProof(r.Context(), p, err, out)
			}),
		handle(http.MethodGet, "/v1/identities/{id_tx_hash}/proof", func(path map[string]string) proto.Message {
			return &keytreev1.ProveIdentityRequest{IdTxHash: path["id_tx_hash"]}
		},
			func(r *http.Request, request proto.Message, out *rest.Answer) error {
				p, err := s.ProveIdentity(r.Context(), request.(*keytreev1.ProveIdentityRequest))
				return sendProof(r.Context(), p, err, out)
			}),
		handle(http.MethodGet, "/v1/events", func(map[string]string) proto.Message { return new(keytreev1.ListEventsRequest) },
			func(r *http.Request, request proto.Message, out *rest.Answer) error {
				return s.writeEvents(r, request.(*keytreev1.ListEventsRequest), out)
			}),
		handle(http.MethodPost, "/v1/addresses:batchResolve", func(map[string]string) proto.Message { return new(keytreev1.BatchResolveRequest) },
			func(r *http.Request, request proto.Message, out *rest.Answer) error {
				b, err := s.newBatch(r.Context(), request.(*keytreev1.BatchResolveRequest))
				if err != nil {
					return err
				}
				defer b.close()
				return b.write(r.Context(), out)
			}),
		handle(http.MethodGet, "/v1/addresses/{address}", func(path map[string]string) proto.Message {
			return &keytreev1.ResolveAddressRequest{Address: path["address"]}
		},
			func(r *http.Request, request proto.Message, out *rest.Answer) error {
				resolution, err := s.ResolveAddress(r.Context(), request.(*keytreev1.ResolveAddressRequest))
				if err == nil {
					out.Text = appendResolution(out.Text, resolution)
				}
				return err
			}),
	)
}

// writeEvents writes a page of events in JSON.
func (s *identityService) writeEvents(r *http.Request, request *keytreev1.ListEventsRequest, out *rest.Answer) error {
	out.Text = append(out.Text, `{"blocks":[`...)
	blocks, size, more := 0, 0, false
	token, err := s.listEvents(r.Context(), request, func(part *keytreev1.BlockEvents, goesOn bool) (full bool, err error) {
		if !goesOn {
			if blocks > 0 {
				out.Text = append(appendBlockEnd(out.Text, false), ',')
			}
			out.Text = appendBlockStart(out.Text, part)
			blocks++
		}
		for i, event := range part.Events {
			if i > 0 || goesOn {
				out.Text = append(out.Text, ',')
			}
			out.Text = appendEvent(out.Text, event)
			if err := out.Pass(); err != nil {
				return false, err
			}
		}
		more = part.More
		size += proto.Size(part)
		return size >= maxAnswer, out.Pass()
	})
	if err != nil {
		return err
	}
	if blocks > 0 {
		out.Text = appendBlockEnd(out.Text, more)
	}
	next := ""
	if token.cursor != nil {
		next = token.String()
	}
	o := jsonObject(append(out.Text, ']'))
	o.text("next_page_token", next)
	o.number("as_of_height", token.height)
	o.text("as_of_hash", token.hash.String())
	out.Text = append(o, '}')
	return nil
}
