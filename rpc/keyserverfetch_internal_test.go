package rpc

import (
	"context"
	"testing"
)

// What one client fetches is no other client's business.
func TestFetchLimitIsPerClient(t *testing.T) {
	from := func(remote string) context.Context { return withRemote(context.Background(), remote) }
	f := newFetches(nil, ClientLimits{CallRate: 1})
	for range fetchBurst {
		if !f.allowed(from("192.0.2.1:1000")) {
			t.Fatal("refused within the limit")
		}
	}
	refused := 0
	for range fetchBurst { // another one is allowed every ten seconds
		if !f.allowed(from("192.0.2.1:2000")) {
			refused++
		}
	}
	if refused == 0 {
		t.Error("all are allowed above the limit")
	}
	if !f.allowed(from("192.0.2.2:1000")) {
		t.Error("another client is refused")
	}
	unlimited := newFetches(nil, ClientLimits{})
	for range 2 * fetchBurst {
		if !unlimited.allowed(from("192.0.2.1:1000")) {
			t.Fatal("refused where clients are not told apart")
		}
	}
}
