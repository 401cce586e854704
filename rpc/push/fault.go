package push

import (
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/fault"
)

// Why streams end, in the words of StreamFault.
const (
	FutureCursor    = "FUTURE_CURSOR"
	OutdatedCursor  = "OUTDATED_CURSOR"
	ConsumerTooSlow = "CONSUMER_TOO_SLOW"
	Busy            = "BUSY"
	Unavailable     = "UNAVAILABLE"
	Stopping        = "STOPPING"
	Internal        = "INTERNAL"
)

// Fault is the error for a stream that cannot go on, for a reason that its client has to
// know. It is a gRPC status as well.
type Fault struct {
	Reason string // one of the constants
	err    error  // a status
}

// Error implements error.
func (f *Fault) Error() string { return f.Reason + ": " + f.err.Error() }

// GRPCStatus is for package status.
func (f *Fault) GRPCStatus() *status.Status { return status.Convert(f.err) }

// Unwrap returns the status.
func (f *Fault) Unwrap() error { return f.err }

// Lost is the fault of a follower whose block leads nowhere, on a chain with a tip.
func Lost(height uint32, hash string, tip uint32) *Fault {
	if height > tip {
		return &Fault{FutureCursor, fault.Field(codes.FailedPrecondition, "known_hash",
			"block %d, %s, is beyond the tip, block %d: wait, or ask a server that is further", height, hash, tip)}
	}
	return &Fault{OutdatedCursor, fault.Field(codes.FailedPrecondition, "known_hash",
		"block %d, %s, is not on the chain and not among the disconnected blocks that are kept; start again from a lower height", height, hash)}
}

// Shed is the fault of a follower whose place others have got.
func Shed(why *admission.Refusal) *Fault { return &Fault{ConsumerTooSlow, why} }

// NoRoom is the fault of a follower for whose filter there is no memory.
func NoRoom() *Fault {
	return &Fault{Busy, &admission.Refusal{Budget: "addresses and ids that streams follow", After: FarComeback}}
}

// Behind is the fault of a follower who has not taken so much of what became pending that
// the rest is not known any more.
func Behind() *Fault {
	return &Fault{ConsumerTooSlow, &admission.Refusal{Budget: "pending messages that you have not taken", Yours: true, After: time.Second}}
}
