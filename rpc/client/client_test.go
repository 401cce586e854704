package client_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/client"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// newClient returns a client of a server that never waits, but notes how long it should.
func newClient(t *testing.T, address string, o client.Options) (c *client.Client, waited *[]time.Duration) {
	t.Helper()
	c, err := client.New(address, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	waited = new([]time.Duration)
	c.SetSleep(func(ctx context.Context, d time.Duration) error {
		*waited = append(*waited, d)
		return ctx.Err()
	})
	return c, waited
}

// all collects what an iteration brings.
func all[E any](t *testing.T, elements iter.Seq2[E, error]) (got []E) {
	t.Helper()
	for e, err := range elements {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	return got
}

// TestAnswers compares what a client says with what the server answers.
func TestAnswers(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	c, _ := newClient(t, r.Conn.Target(), client.Options{})
	ctx, id := t.Context(), rpctest.HashOf("mlr1").String()
	three := uint32(3)
	for _, test := range []struct {
		name string
		ask  func(client.View) (proto.Message, error)
		want func(at *uint32) (proto.Message, error)
	}{
		{"resolution", func(v client.View) (proto.Message, error) { return v.Resolve(ctx, rpctest.Address("child")) },
			func(at *uint32) (proto.Message, error) {
				return r.Client.ResolveAddress(ctx, &keytreev1.ResolveAddressRequest{Address: rpctest.Address("child"), AtHeight: at})
			}},
		{"identity", func(v client.View) (proto.Message, error) { return v.Identity(ctx, id) },
			func(at *uint32) (proto.Message, error) {
				return r.Client.GetIdentity(ctx, &keytreev1.GetIdentityRequest{IdTxHash: id, AtHeight: at})
			}},
		{"action", func(v client.View) (proto.Message, error) { return v.Action(ctx, rpctest.HashOf("mla1").String()) },
			func(at *uint32) (proto.Message, error) {
				return r.Client.GetAction(ctx, &keytreev1.GetActionRequest{TxHash: rpctest.HashOf("mla1").String(), AtHeight: at})
			}},
	} {
		for _, at := range []*uint32{nil, &three} {
			view := c.View
			if at != nil {
				view = c.At(*at)
			}
			want, err := test.want(at)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := test.ask(view); err != nil || !proto.Equal(got, want) {
				t.Errorf("%s: %v, %v; want %v", test.name, got, err, want)
			}
		}
	}
	if s, err := c.Status(ctx); err != nil || s.TipHeight != 6 || s.Network != rpctest.Net.Name {
		t.Errorf("status: %v, %v", s, err)
	}
	if _, err := c.Identity(ctx, rpctest.HashOf("nothing").String()); status.Code(err) != codes.NotFound {
		t.Errorf("no identity: %v", err)
	}
	if _, err := c.At(7).Resolve(ctx, rpctest.Address("child")); status.Code(err) != codes.OutOfRange {
		t.Errorf("beyond the tip: %v", err)
	}
	for range c.Keys(ctx, "no id") {
		return
	}
	t.Error("a list that cannot be is empty")
}

// TestUnconfirmed asks what would differ if some actions that are pending were mined, and lists those.
func TestUnconfirmed(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	c, _ := newClient(t, r.Conn.Target(), client.Options{})
	ctx, child := t.Context(), rpctest.Address("child")
	nothing, err := c.Unconfirmed().Resolve(ctx, child)
	if err != nil || nothing.Unconfirmed.GetAvailable() || nothing.Unconfirmed.GetReason() == "" {
		t.Errorf("without a mempool: %v, %v", nothing, err)
	}
	for _, list := range []iter.Seq2[*client.Action, error]{c.UnconfirmedActions(ctx, child), func(yield func(*client.Action, error) bool) {
		for _, err := range c.Mempool(ctx) {
			yield(nil, err)
		}
	}} {
		for _, err := range list {
			if !errors.Is(err, client.ErrMempool) {
				t.Errorf("a list without a mempool: %v", err)
			}
		}
	}

	var actions []links.Action
	for i := range 1500 {
		actions = append(actions, rpctest.MLR(fmt.Sprint("r", i), fmt.Sprint("c", i), "child", ""))
	}
	actions = append(actions, rpctest.MCR("cut", "parent", "mla3"))
	r.Suppose(t, "", nil, actions...)
	if n := len(all(t, c.Mempool(ctx))); n != len(actions) {
		t.Errorf("%d actions are pending, expected %d", n, len(actions))
	}
	// The cut one, which stands on the page, is another as well.
	differ := all(t, c.UnconfirmedActions(ctx, child))
	if !slices.ContainsFunc(differ, func(a *client.Action) bool { return a.State == "CUT" }) || len(differ) < 400 {
		t.Errorf("%d actions differ", len(differ))
	}
	asked, cut := all(t, c.UnconfirmedRequests(ctx, child, "open")), all(t, c.UnconfirmedLinks(ctx, rpctest.Address("parent")))
	if len(asked) != 400 || asked[0].Pending.GetTxHash() != asked[0].TxHash || len(cut) != 1 || cut[0].State != "CUT" || len(all(t, c.Requests(ctx, child, ""))) > 0 {
		t.Errorf("%d requests and the links %v differ", len(asked), cut)
	}
	v := c.Unconfirmed()
	resolutions, err := v.BatchResolve(ctx, []string{rpctest.Address("lone"), child}, false)
	if err != nil || resolutions[0].Unconfirmed != nil || resolutions[1].Unconfirmed.GetResolution().GetMainAddress() != child || resolutions[1].MainAddress != rpctest.Address("parent") {
		t.Errorf("%v, %v", resolutions, err)
	}
	identity, err := v.Identity(ctx, rpctest.HashOf("mlr1").String())
	if err != nil || identity.KeyCount != 3 || identity.Unconfirmed.GetIdentity().GetKeyCount() != 1 {
		t.Errorf("%v, %v", identity, err)
	}
	action, err := v.Action(ctx, rpctest.HashOf("cut").String())
	if err != nil || action.State != "UNCONFIRMED" || action.Unconfirmed.GetActions()[0].State != "DONE" {
		t.Errorf("%v, %v", action, err)
	}
}

// TestLists lists more than one page has.
func TestLists(t *testing.T) {
	const keys = 2100
	c := &rpctest.Chain{}
	var requests, accepts []links.Action
	for i := range keys {
		requests = append(requests, rpctest.MLR(fmt.Sprint("r", i), fmt.Sprint("c", i), "parent", ""))
		accepts = append(accepts, rpctest.MLA(fmt.Sprint("a", i), "parent", fmt.Sprint("r", i)))
	}
	anchors, genesis := rpctest.Long(t, c, 1100)
	r := rpctest.New(t, append(anchors, c.Block(requests...), c.Block(accepts...))...)
	var calls atomic.Int32
	counted := grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		calls.Add(1)
		return invoke(ctx, method, request, answer, conn, opts...)
	})
	asked, _ := newClient(t, r.Conn.Target(), client.Options{Dial: []grpc.DialOption{counted}})
	ctx := t.Context()
	parent, err := asked.Resolve(ctx, rpctest.Address("parent"))
	if err != nil {
		t.Fatal(err)
	}
	members := all(t, asked.Keys(ctx, parent.IdTxHash))
	seen := make(map[string]bool)
	for _, key := range members {
		seen[key.Address] = true
	}
	if len(members) != keys+1 || len(seen) != keys+1 || members[0].Address != rpctest.Address("parent") {
		t.Errorf("%d keys, %d of them different, the first one %s", len(members), len(seen), members[0].Address)
	}
	if actions := all(t, asked.Actions(ctx, rpctest.Address("parent"))); len(actions) != 2*keys || actions[0].TxHash != rpctest.HashOf("r0").String() {
		t.Errorf("%d actions, the first one %v", len(actions), actions[0])
	}
	asks, below := all(t, asked.Requests(ctx, rpctest.Address("parent"), "accepted")), all(t, asked.Links(ctx, rpctest.Address("parent")))
	if len(asks) != keys || asks[0].TxHash != rpctest.HashOf(fmt.Sprint("r", keys-1)).String() || len(below) != keys || below[0].AcceptTxHash != rpctest.HashOf("a0").String() {
		t.Errorf("%d requests, the first one %v; %d links, the first one %v", len(asks), asks[0], len(below), below[0])
	}
	for i, anchor := range all(t, asked.Anchors(ctx, rpctest.ID(genesis))) {
		if anchor.Number != uint32(i) {
			t.Fatalf("anchor %d is number %d", i, anchor.Number)
		}
	}
	chains := all(t, asked.AnchorChains(ctx, "example.org"))
	i := slices.IndexFunc(chains, func(c *client.AnchorChain) bool { return c.ChainTxHash == rpctest.ID(genesis) })
	if i < 0 || chains[i].AnchorCount != 1100 {
		t.Fatalf("chain %d of %d", i, len(chains))
	}
	if chain, err := asked.AnchorChain(ctx, rpctest.ID(genesis)); err != nil || !proto.Equal(chain, chains[i]) {
		t.Errorf("chain: %v, %v; want %v", chain, err, chains[i])
	}

	before := calls.Load()
	for range asked.Keys(ctx, parent.IdTxHash) {
		break
	}
	if made := calls.Load() - before; made != 1 {
		t.Errorf("%d calls for the first key", made)
	}
}

// TestBatchResolve resolves more than fits into one call, once while a block goes.
func TestBatchResolve(t *testing.T) {
	c, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	addresses := make([]string, 2*client.MaxBatch+500)
	for i := range addresses {
		addresses[i] = rpctest.Address("child")
	}
	lone := rpctest.Address("lone")
	addresses[0], addresses[client.MaxBatch], addresses[len(addresses)-1] = lone, lone, lone
	var between func() // before the second call
	var calls atomic.Int32
	interrupted := grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if calls.Add(1) == 2 {
			between()
		}
		return invoke(ctx, method, request, answer, conn, opts...)
	})
	asked, _ := newClient(t, r.Conn.Target(), client.Options{Dial: []grpc.DialOption{interrupted}})

	between = func() { r.Connect(t, c.Block(rpctest.MCR("late", "parent", "mla3"))) } // would change the answer
	got, err := asked.BatchResolve(t.Context(), addresses, false)
	if err != nil || len(got) != len(addresses) || calls.Load() != 3 {
		t.Fatalf("%d resolutions in %d calls, %v", len(got), calls.Load(), err)
	}
	for i, resolution := range got {
		if resolution.Address != addresses[i] || len(resolution.Path) != 0 || resolution.AsOfHash != blocks[6].Hash.String() {
			t.Fatalf("resolution %d: %v", i, resolution)
		}
	}
	if got, err := asked.At(2).BatchResolve(t.Context(), addresses[:2], true); err != nil || len(got) != 2 || len(got[1].Path) != 2 || got[1].AsOfHeight != 2 {
		t.Errorf("two: %v, %v", got, err)
	}
	if got, err := asked.BatchResolve(t.Context(), nil, true); len(got) != 0 || err != nil {
		t.Errorf("none: %v, %v", got, err)
	}

	calls.Store(0)
	fork := &rpctest.Chain{Next: 7, Prev: blocks[6].Hash, Salt: "fork"}
	between = func() { r.Disconnect(t, 1); r.Connect(t, fork.Block()) }
	if _, err := asked.BatchResolve(t.Context(), addresses, false); !errors.Is(err, client.ErrReorganised) {
		t.Errorf("with a block that goes: %v, want ErrReorganised", err)
	}
	addresses[len(addresses)-1] = "no address"
	if _, err := asked.BatchResolve(t.Context(), addresses, false); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a bad address: %v", err)
	}
}

// TestRefusals has calls refused, as admission does it.
func TestRefusals(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	refusal := func(after time.Duration) error {
		return (&admission.Refusal{Budget: "calls", Yours: true, After: after}).GRPCStatus().Err()
	}
	for name, test := range map[string]struct {
		refuse  error // the first calls
		times   int
		timeout time.Duration // 0: none
		waits   []time.Duration
		ok      bool
	}{
		"never":             {nil, 0, 0, nil, true},
		"twice":             {refusal(3 * time.Second), 2, 0, []time.Duration{3 * time.Second, 3 * time.Second}, true},
		"for ever":          {refusal(time.Second), 100, 0, []time.Duration{time.Second, time.Second, time.Second}, false},
		"for too long":      {refusal(time.Hour), 1, 0, nil, false},
		"for longer than I": {refusal(20 * time.Second), 1, 10 * time.Second, nil, false},
		"without a time":    {status.Error(codes.Unavailable, "stopping"), 1, 0, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			left := test.times
			refused := grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, request, answer any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				if left--; left >= 0 {
					return test.refuse
				}
				return invoke(ctx, method, request, answer, conn, opts...)
			})
			c, waited := newClient(t, r.Conn.Target(), client.Options{Dial: []grpc.DialOption{refused}})
			ctx := t.Context()
			if test.timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, test.timeout)
				defer cancel()
			}
			if _, err := c.Resolve(ctx, rpctest.Address("child")); (err == nil) != test.ok || err != nil && status.Code(err) != status.Code(test.refuse) {
				t.Errorf("%v, want it to end well: %v", err, test.ok)
			}
			if !slices.Equal(*waited, test.waits) {
				t.Errorf("waited %v, want %v", *waited, test.waits)
			}
		})
	}
}

// TestTLS asks a server that has TLS.
func TestTLS(t *testing.T) {
	config, pool := rpctest.Certificate(t, "127.0.0.1")
	_, blocks := rpctest.Family()
	r := rpctest.NewOf(t, rpc.Config{TLS: config}, blocks...)
	for name, test := range map[string]struct {
		address string
		trusted bool
		ok      bool
	}{
		"trusted":    {"https://" + r.Conn.Target(), true, true},
		"unknown":    {"https://" + r.Conn.Target(), false, false},
		"plain text": {r.Conn.Target(), true, false},
	} {
		o := client.Options{}
		if test.trusted {
			o.TLS = &tls.Config{RootCAs: pool}
		}
		c, _ := newClient(t, test.address, o)
		if _, err := c.Status(t.Context()); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBundle compares a bundle with the download, and reads its proofs.
func TestBundle(t *testing.T) {
	c := &rpctest.Chain{}
	blocks, genesis := rpctest.Long(t, c, 120)
	r := rpctest.New(t, blocks...)
	asked, _ := newClient(t, r.Conn.Target(), client.Options{})
	in, err := asked.Bundle(t.Context(), rpctest.ID(genesis), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	got, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	response, want := r.Send(t, http.MethodGet, "/v1/anchors/chains/"+rpctest.ID(genesis)+"/bundle", "")
	if response.StatusCode != http.StatusOK || string(got) != want {
		t.Errorf("a bundle of %d bytes, the download has %d: %s", len(got), len(want), response.Status)
	}

	if items := all(t, asked.Proofs(t.Context(), rpctest.Net, rpctest.ID(genesis), 20)); len(items) != 100 {
		t.Errorf("%d items from number 20 on, want 100", len(items))
	}
	for range asked.Proofs(t.Context(), rpctest.Net, rpctest.ID(genesis), 0) {
		break // which ends the stream, as TestMain sees
	}
	other := *rpctest.Net
	other.Name = "mainnet"
	for _, err := range asked.Proofs(t.Context(), &other, rpctest.ID(genesis), 0) {
		if !errors.Is(err, client.ErrProof) {
			t.Errorf("on another network: %v, want ErrProof", err)
		}
	}
	for _, err := range asked.Proofs(t.Context(), rpctest.Net, rpctest.HashOf("none").String(), 0) {
		if status.Code(err) != codes.NotFound {
			t.Errorf("of no chain: %v, want NOT_FOUND", err)
		}
	}
}

// TestWatchMempool sees actions become pending, become something else, drop and be mined, over a
// server that does not know the mempool for a while.
func TestWatchMempool(t *testing.T) {
	c, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	request, accept := rpctest.MLR("request", "lone", "child", ""), rpctest.MLA("accept", "child", "request")
	other := rpctest.MLR("other", "stranger", "child", "")
	// Each step waits until what the one before has changed was told.
	steps := []struct {
		change func()
		want   []string
	}{
		{func() { r.Suppose(t, "", nil, request, other) }, []string{"other OPEN", "request OPEN"}},
		{func() { r.Suppose(t, "other", nil, request, accept, other) }, []string{"accept IN_FORCE", "other OPEN spent twice", "request USED"}},
		{func() { r.Suppose(t, "", nil, request, accept) }, []string{"dropped other"}},
		{func() {
			r.Connect(t, c.Block(request, accept))
			r.Suppose(t, "", nil, rpctest.MCR("cut", "child", "accept"))
		}, []string{"cut DONE"}},
	}
	names := make(map[string]string)
	for _, name := range []string{"request", "accept", "other", "cut"} {
		names[rpctest.HashOf(name).String()] = name
	}
	var got []string
	asked, _ := newClient(t, r.Conn.Target(), client.Options{
		Retrying: func(err error, _ time.Duration) { t.Errorf("told of %v", err) },
		Dial: []grpc.DialOption{grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := streamer(ctx, desc, conn, method, opts...)
			steps[0].change() // nothing was known of the mempool
			return stream, err
		})},
	})
	for update, err := range asked.WatchMempool(t.Context()) {
		switch {
		case err != nil:
			t.Fatal(err)
		case update.Pending == nil:
			got = append(got, "dropped "+names[update.Dropped])
		default:
			line := names[update.Pending.Transaction.TxHash] + " " + update.Pending.Action.State
			if update.Pending.Transaction.DoubleSpend {
				line += " spent twice"
			}
			got = append(got, line)
		}
		slices.Sort(got)
		if !slices.Equal(got, steps[0].want) {
			continue
		}
		if steps, got = steps[1:], nil; len(steps) == 0 {
			return
		}
		steps[0].change()
	}
}
