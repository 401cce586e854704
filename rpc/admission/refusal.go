package admission

import (
	"fmt"
	"math"
	"net/http"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Refusal is the error for what a budget has no room for. Nothing was done; the same may be
// asked again After that time.
type Refusal struct {
	Budget string        // its name
	Yours  bool          // whether it is the client's own that is used up
	After  time.Duration // at least a second
}

func refused(budget string, yours bool, after time.Duration) *Refusal {
	return &Refusal{budget, yours, max(time.Second, after)}
}

// refusals counts what a budget had no room for.
type refusals struct {
	name  string // of the budget
	count atomic.Uint64
}

func (r *refusals) refuse(yours bool, after time.Duration) *Refusal {
	r.count.Add(1)
	return refused(r.name, yours, after)
}

// Error implements error.
func (r *Refusal) Error() string {
	whose := "of all clients together"
	if r.Yours {
		whose = "of your address"
	}
	return fmt.Sprintf("too many %s %s; try again in %d s", r.Budget, whose, r.Seconds())
}

// Seconds is After in whole seconds, as Retry-After has it.
func (r *Refusal) Seconds() int { return int(math.Ceil(r.After.Seconds())) }

// HTTPStatus is 429 if the client has asked for too much, else 503.
func (r *Refusal) HTTPStatus() int {
	if r.Yours {
		return http.StatusTooManyRequests
	}
	return http.StatusServiceUnavailable
}

// GRPCStatus is RESOURCE_EXHAUSTED if the client has asked for too much, else UNAVAILABLE;
// with a RetryInfo.
func (r *Refusal) GRPCStatus() *status.Status {
	code := codes.Unavailable
	if r.Yours {
		code = codes.ResourceExhausted
	}
	st := status.New(code, r.Error())
	if detailed, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(r.After)}); err == nil {
		return detailed
	}
	return st
}
