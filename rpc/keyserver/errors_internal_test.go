package keyserver

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
	"github.com/keytree-bch/keytree/rpc/jsonrpc"
)

// TestFaults checks what a client is told of an error, on both wires, and what the log is.
func TestFaults(t *testing.T) {
	disk := errors.New("disk on fire at /dev/sda")
	for _, test := range []struct {
		name   string
		err    error
		code   int
		status codes.Code
		says   string
		logged bool
	}{
		{"unheard of", disk, jsonrpc.CodeInternal, codes.Internal, fault.Internal, true},
		{"a full disk", fmt.Errorf("%w: %w", keyserver.ErrDiskFull, disk), CodeDown, codes.Unavailable, keyserver.ErrDiskFull.Error(), true},
		{"a standby", keyserver.ErrStandby, CodeDown, codes.Unavailable, keyserver.ErrStandby.Error(), false},
		{"a database that is away", fmt.Errorf("%w: %w", keyserver.ErrUnavailable, disk), CodeDown, codes.Unavailable, keyserver.ErrUnavailable.Error(), true},
		{"the client's", fmt.Errorf("bob: %w", keyserver.ErrTaken), CodeTaken, codes.AlreadyExists, "bob: " + keyserver.ErrTaken.Error(), false},
		{"a parameter", fmt.Errorf("%w: Nonce", jsonrpc.ErrParams), jsonrpc.CodeInvalidParams, codes.InvalidArgument, "malformed message: Nonce", false},
	} {
		var log bytes.Buffer
		if got := callFault(test.err, zerolog.New(&log)); got.Code != test.code || got.Message != test.says {
			t.Errorf("%s: over JSON-RPC %+v, want %d %q", test.name, got, test.code, test.says)
		}
		if got := status.Convert(refusalStatus(test.err, zerolog.New(&log))); got.Code() != test.status || got.Message() != test.says {
			t.Errorf("%s: over gRPC %v, want %v %q", test.name, got, test.status, test.says)
		}
		if times := strings.Count(log.String(), "disk on fire"); (times == 2) != test.logged {
			t.Errorf("%s: the log has %s", test.name, log.String())
		}
	}
	for yours, code := range map[bool]int{true: CodeRate, false: CodeDown} {
		why := &admission.Refusal{Budget: "calls", Yours: yours, After: time.Second}
		if got := callFault(fmt.Errorf("calling: %w", why), zerolog.Nop()); got.Code != code || got.Message != why.Error() {
			t.Errorf("%+v: %+v, want %d %q", why, got, code, why)
		}
	}
}
