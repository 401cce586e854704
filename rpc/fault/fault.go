// Package fault is what a client and the log are told of a call that is not answered,
// in the same words on every wire.
//
// What never belongs here: how an error looks on one wire, and which errors an audience has.
package fault

import (
	"fmt"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
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

// Later is Field for what may go well when it is asked again after a time, which the status says as well.
func Later(code codes.Code, after time.Duration, field, format string, args ...any) error {
	st, err := status.Convert(Field(code, field, format, args...)).WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	if err != nil { // only for codes.OK
		return ErrInternal
	}
	return st.Err()
}

// RetryAfter returns after what time to ask again, if err is a gRPC status that says so.
func RetryAfter(err error) (after time.Duration, said bool) {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}

// domain is whose the reasons of Reason are.
const domain = "keytree"

// Reason is Field with a reason for programs, as EXPIRED, in a google.rpc.ErrorInfo. The field
// is "" if the error is about none.
func Reason(code codes.Code, reason, field, format string, args ...any) error {
	st := status.Newf(code, format, args...)
	if field != "" {
		st = status.Convert(Field(code, field, format, args...))
	}
	detailed, err := st.WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: domain})
	if err != nil { // only for codes.OK
		return ErrInternal
	}
	return detailed.Err()
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
