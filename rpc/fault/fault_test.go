package fault_test

import (
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/fault"
)

func TestShortened(t *testing.T) {
	for s, want := range map[string]string{
		"":                                 "",
		"short":                            "short",
		"\xff":                             "\uFFFD",
		strings.Repeat("x", 100):           strings.Repeat("x", 100),
		strings.Repeat("x", 101):           strings.Repeat("x", 100) + "...",
		strings.Repeat("x", 99) + "\u00e9": strings.Repeat("x", 99) + "...",
	} {
		if got := fault.Shortened(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}

func TestField(t *testing.T) {
	got := status.Convert(fault.Field(codes.OutOfRange, "at_height", "expected at most %d, got %q", 7, "\xff"))
	if got.Code() != codes.OutOfRange || got.Message() != `at_height: expected at most 7, got "\xff"` || len(got.Details()) != 1 {
		t.Fatalf("%v", got)
	}
	violations := got.Details()[0].(*errdetails.BadRequest).FieldViolations
	if len(violations) != 1 || violations[0].Field != "at_height" || violations[0].Description != `expected at most 7, got "\xff"` {
		t.Errorf("%v", violations)
	}
	if got := fault.Field(codes.InvalidArgument, "name", "\xff"); !strings.Contains(got.Error(), "name: \uFFFD") {
		t.Errorf("%v", got)
	}
}
