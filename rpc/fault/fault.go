// Package fault is what a client and the log are told of a call that is not answered,
// in the same words on every wire.
//
// What never belongs here: how an error looks on one wire, and which errors an audience has.
package fault

import (
	"fmt"
	"runtime/debug"
	"strings"
	"unicode/utf8"

	"github.com/rs/zerolog"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Internal is all that a client is told of what only the operator can do
// something about.
const Internal = "internal error; the server's log has the cause"

// ErrInternal is Internal as a gRPC status.
var ErrInternal = status.Error(codes.Internal, Internal)

// Field is a status about one field of a request. Its message names the
// field; the format says what was expected and what came.
func Field(code codes.Code, field, format string, args ...any) error {
	description := strings.ToValidUTF8(fmt.Sprintf(format, args...), "\uFFFD")
	st, err := status.New(code, field+": "+description).WithDetails(&errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: field, Description: description}},
	})
	if err != nil { // only for codes.OK
		return ErrInternal
	}
	return st.Err()
}

// Shortened returns what a client sent, cut to what an error may repeat of it.
func Shortened(s string) string {
	const most = 100
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= most {
		return s
	}
	cut := most
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "..."
}

// LogPanic tells the log that a call panicked, and why. The call is named as its wire has it,
// without what was asked for.
func LogPanic(to zerolog.Logger, call string, cause any) {
	to.Error().Str("call", call).Any("panic", cause).Bytes("stack", debug.Stack()).Msg("a call panicked")
}
