package keyserver

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/rs/zerolog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/token"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	"github.com/keytree-bch/keytree/rpc/jsonrpc"
)

// The codes of errors over JSON-RPC, beside those that JSON-RPC 2.0 names: one for each
// reason for which a keyserver refuses a call.
const (
	CodeSignature = -32001 // uid.ErrSignature
	CodeExpired   = -32002 // uid.ErrExpired
	CodeTaken     = -32003 // keyserver.ErrTaken
	CodeUnknown   = -32004 // keyserver.ErrUnknown
	CodeReserved  = -32005 // keyserver.ErrReserved
	CodeDomain    = -32006 // keyserver.ErrDomain
	CodeLastEntry = -32007 // keyserver.ErrLastEntry
	CodeToken     = -32008 // token.ErrInvalid
	CodeSpent     = -32009 // keyserver.ErrSpent
	CodeUsed      = -32010 // keyserver.ErrUsed
	CodeFull      = -32011 // keyserver.ErrFull, keyserver.ErrTooBig
	CodeRate      = -32012 // keyserver.ErrRate, or too many calls by one client
	CodeRange     = -32013 // keyserver.ErrRange
	CodeTimeout   = -32014 // the call took too long; it may have been stored
	CodeDown      = -32015 // keyserver.ErrClosed, keyserver.ErrFailed, keyserver.ErrHeld, keyserver.ErrStandby, keyserver.ErrUnavailable, a full disk, or too busy
)

// refusals is what becomes of a keyserver's errors on the two wires. An error that
// wraps several of them is the first.
var refusals = []struct {
	err     error
	jsonRPC int
	grpc    codes.Code
}{
	{keyserver.ErrFailed, CodeDown, codes.Unavailable},
	{keyserver.ErrClosed, CodeDown, codes.Unavailable},
	{keyserver.ErrHeld, CodeDown, codes.Unavailable},
	{keyserver.ErrStandby, CodeDown, codes.Unavailable},
	{keyserver.ErrUnavailable, CodeDown, codes.Unavailable},
	{keyserver.ErrDiskFull, CodeDown, codes.Unavailable},
	{context.DeadlineExceeded, CodeTimeout, codes.DeadlineExceeded},
	{context.Canceled, CodeTimeout, codes.Canceled},
	{keyserver.ErrTaken, CodeTaken, codes.AlreadyExists},
	{keyserver.ErrUnknown, CodeUnknown, codes.NotFound},
	{keyserver.ErrReserved, CodeReserved, codes.InvalidArgument},
	{keyserver.ErrDomain, CodeDomain, codes.InvalidArgument},
	{keyserver.ErrLastEntry, CodeLastEntry, codes.InvalidArgument},
	{keyserver.ErrSpent, CodeSpent, codes.AlreadyExists},
	{keyserver.ErrUsed, CodeUsed, codes.AlreadyExists},
	{keyserver.ErrFull, CodeFull, codes.ResourceExhausted},
	{keyserver.ErrTooBig, CodeFull, codes.ResourceExhausted},
	{keyserver.ErrRate, CodeRate, codes.ResourceExhausted},
	{keyserver.ErrRange, CodeRange, codes.OutOfRange},
	{token.ErrInvalid, CodeToken, codes.InvalidArgument},
	{uid.ErrSignature, CodeSignature, codes.InvalidArgument},
	{uid.ErrExpired, CodeExpired, codes.InvalidArgument},
	{uid.ErrInvalid, jsonrpc.CodeInvalidParams, codes.InvalidArgument},
	{jsonrpc.ErrParams, jsonrpc.CodeInvalidParams, codes.InvalidArgument},
	{canonical.ErrMalformed, jsonrpc.CodeInvalidParams, codes.InvalidArgument},
}

// maxRefusal is how many bytes of an error a client gets.
const maxRefusal = 500

// refusal returns the codes of a keyserver's error, and what the client may read
// of it: all, unless no client can do anything about it, which is logged instead.
func refusal(err error, log zerolog.Logger) (jsonRPC int, grpc codes.Code, text string) {
	for _, r := range refusals {
		if !errors.Is(err, r.err) {
			continue
		}
		if r.jsonRPC == CodeDown && r.err != keyserver.ErrHeld && r.err != keyserver.ErrStandby { // which are no surprise
			log.Warn().Err(err).Msg("the keyserver refused a call")
			return r.jsonRPC, r.grpc, r.err.Error() // what a disk says is not for clients
		}
		if text = err.Error(); len(text) > maxRefusal {
			text = strings.ToValidUTF8(text[:maxRefusal], "") + "..."
		}
		return r.jsonRPC, r.grpc, text
	}
	log.Error().Err(err).Msg("the keyserver could not answer")
	return jsonrpc.CodeInternal, codes.Internal, fault.Internal
}

// refusalStatus is a keyserver's error as a gRPC status.
func refusalStatus(err error, log zerolog.Logger) error {
	_, code, text := refusal(err, log)
	return status.Error(code, text)
}

// callFault is a keyserver's error, or what admission refuses, as JSON-RPC has it.
func callFault(err error, log zerolog.Logger) *jsonrpc.Error {
	var why *admission.Refusal
	if errors.As(err, &why) {
		return refusedCall(why)
	}
	code, _, text := refusal(err, log)
	return &jsonrpc.Error{Code: code, Message: text}
}

// refusedCall is the error for what admission refuses.
func refusedCall(why *admission.Refusal) *jsonrpc.Error {
	if why.Yours {
		return jsonrpc.Errorf(CodeRate, "%v", why)
	}
	return jsonrpc.Errorf(CodeDown, "%v", why)
}

// Refuse answers a request on the wire that was not let in.
func Refuse(w http.ResponseWriter, _ *http.Request, why *admission.Refusal) {
	jsonrpc.Refuse(w, why.HTTPStatus(), refusedCall(why))
}
