package rpc

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/rpc/fault"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// handleDirectly answers by itself the calls that are made most or have the longest
// answers, in place of the gateway, which holds an answer three times over.
func (s *identityService) handleDirectly(mux *runtime.ServeMux) error {
	handle := func(verb, path string, request func() proto.Message, answer func(r *http.Request, request proto.Message, out *restAnswer) error) error {
		return mux.HandlePath(verb, path, func(w http.ResponseWriter, r *http.Request, path map[string]string) {
			out := &restAnswer{w: w}
			m := request()
			err := readRequest(r, path, m)
			if err == nil {
				err = answer(r, m, out)
			}
			out.end(err)
		})
	}
	return errors.Join(
		handle(http.MethodGet, "/v1/addresses/{address}", func() proto.Message { return new(keytreev1.ResolveAddressRequest) },
			func(r *http.Request, request proto.Message, out *restAnswer) error {
				resolution, err := s.ResolveAddress(r.Context(), request.(*keytreev1.ResolveAddressRequest))
				if err == nil {
					out.text = appendResolution(out.text, resolution)
				}
				return err
			}),
		handle(http.MethodPost, "/v1/addresses:batchResolve", func() proto.Message { return new(keytreev1.BatchResolveRequest) },
			func(r *http.Request, request proto.Message, out *restAnswer) error {
				b, err := s.newBatch(r.Context(), request.(*keytreev1.BatchResolveRequest))
				if err != nil {
					return err
				}
				defer b.close()
				return b.write(r.Context(), out)
			}),
		handle(http.MethodGet, "/v1/events", func() proto.Message { return new(keytreev1.ListEventsRequest) },
			func(r *http.Request, request proto.Message, out *restAnswer) error {
				return s.writeEvents(r, request.(*keytreev1.ListEventsRequest), out)
			}),
	)
}

// readRequest reads what a body, a path and a query say that the middlewares have found
// well formed.
func readRequest(r *http.Request, path map[string]string, into proto.Message) error {
	if r.Method == http.MethodPost {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = protojson.Unmarshal(body, into)
		}
		if err != nil {
			return bodyError(err.Error())
		}
		return nil
	}
	for name, value := range path {
		if err := runtime.PopulateFieldFromPath(into, name, value); err != nil {
			return fault.Field(codes.InvalidArgument, name, "%v", err)
		}
	}
	if r.URL.RawQuery == "" {
		return nil
	}
	if err := runtime.PopulateQueryParameters(into, r.URL.Query(), utilities.NewDoubleArray(nil)); err != nil {
		return fault.Field(codes.InvalidArgument, "query", "%v", err)
	}
	return nil
}

// bodyError is what is wrong with a body that is JSON, but not the request's.
func bodyError(message string) error {
	// protojson puts a no-break space into its messages to keep them from being relied on.
	return fault.Field(codes.InvalidArgument, "body", "%s", strings.ReplaceAll(message, "\u00a0", " "))
}

// writeEvents writes a page of events in JSON.
func (s *identityService) writeEvents(r *http.Request, request *keytreev1.ListEventsRequest, out *restAnswer) error {
	out.text = append(out.text, `{"blocks":[`...)
	blocks, size, more := 0, 0, false
	token, err := s.listEvents(r.Context(), request, func(part *keytreev1.BlockEvents, goesOn bool) (full bool, err error) {
		if !goesOn {
			if blocks > 0 {
				out.text = append(appendBlockEnd(out.text, false), ',')
			}
			out.text = appendBlockStart(out.text, part)
			blocks++
		}
		for i, event := range part.Events {
			if i > 0 || goesOn {
				out.text = append(out.text, ',')
			}
			out.text = appendEvent(out.text, event)
			if err := out.pass(); err != nil {
				return false, err
			}
		}
		more = part.More
		size += proto.Size(part)
		return size >= maxAnswer, out.pass()
	})
	if err != nil {
		return err
	}
	if blocks > 0 {
		out.text = appendBlockEnd(out.text, more)
	}
	next := ""
	if token.cursor != nil {
		next = token.String()
	}
	o := jsonObject(append(out.text, ']'))
	o.text("next_page_token", next)
	o.number("as_of_height", token.height)
	o.text("as_of_hash", token.hash.String())
	out.text = append(o, '}')
	return nil
}
