package identity_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/protocol"
	stateproof "github.com/keytree-bch/keytree/protocol/proof"
	format "github.com/keytree-bch/keytree/protocol/tlog"
	"github.com/keytree-bch/keytree/rpc"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// newProver runs a server with a state log that covers all blocks but the last ten, which have nothing.
func newProver(t *testing.T, c rpc.Config, chain *rpctest.Chain, blocks []graph.Block) (*rpctest.Rig, *format.Policy) {
	t.Helper()
	last := blocks[len(blocks)-1].Height
	for range 10 {
		blocks = append(blocks, chain.Block())
	}
	log := new(rpctest.StateLog)
	c.StateLog = log
	r := rpctest.NewOf(t, c, blocks...)
	log.Follow(t, r.Graph)
	log.Publish(t, last)
	return r, log.Policy(t)
}

// TestProofs proves every key and id of a chain with something of everything, as of each block, and compares with what is answered
// without a proof. REST and gRPC give the same file.
func TestProofs(t *testing.T) {
	chain, blocks := rpctest.Family()
	r, policy := newProver(t, rpc.Config{}, chain, blocks)
	ctx := t.Context()
	verified := func(p *keytreev1.StateProof, err error) *stateproof.ProvenState {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		proven, err := stateproof.VerifyState([]byte(p.Proof), policy)
		if err != nil {
			t.Fatal(err)
		}
		if proven.Entry.Height != p.AsOfHeight || proven.Entry.Block.String() != p.AsOfHash || proven.Checkpoint.Origin != p.Log || proven.Checkpoint.Size != uint64(p.LogSize) || len(p.Cut) > 0 {
			t.Errorf("%+v, proven is %+v", p, proven)
		}
		return proven
	}
	address := func(k protocol.KeyHash) string { return protocol.FormatAddress(k, rpctest.Net) }
	keys := []string{"child", "parent", "grandchild", "stranger", "nobody"}
	var addresses []string
	for _, name := range keys {
		addresses = append(addresses, rpctest.Address(name))
	}
	for height := range uint32(len(blocks)) {
		at := proto.Uint32(height)
		all := verified(r.Client.ProveAddresses(ctx, &keytreev1.ProveAddressesRequest{Addresses: addresses, AtHeight: at}))
		for i, name := range keys {
			want, err := r.Client.ResolveAddress(ctx, &keytreev1.ResolveAddressRequest{Address: addresses[i], AtHeight: at})
			if err != nil {
				t.Fatal(err)
			}
			one := verified(r.Client.ProveAddress(ctx, &keytreev1.ProveAddressRequest{Address: addresses[i], AtHeight: at}))
			for _, s := range []stateproof.ProvenSubject{one.Subjects[0], all.Subjects[i]} {
				got := &keytreev1.Resolution{Address: address(s.Key), MainAddress: address(s.Key), Path: []string{address(s.Key)}, AsOfHeight: want.AsOfHeight, AsOfHash: want.AsOfHash}
				for n, record := range s.Keys {
					if got.MainAddress = address(record.Key); n > 0 {
						got.Path = append(got.Path, got.MainAddress)
						got.Depth++
					}
					if n == 0 && record.HasParent() {
						got.ParentAddress, got.AcceptTxHash = address(record.Parent), record.Accept.String()
					}
					if !record.HasParent() {
						got.IdTxHash = record.ID.String()
					}
				}
				if !proto.Equal(got, want) {
					t.Errorf("%s as of %d: proven is %v, answered %v", name, height, got, want)
				}
			}
			_, answer := r.REST(t, "GET", fmt.Sprintf("/v1/addresses/%s/proof?at_height=%d", addresses[i], height), "")
			if text, _ := answer["proof"].(string); !strings.HasPrefix(text, "c2sp.org/tlog-proof@v1\nextra ") || answer["as_of_height"] != float64(height) {
				t.Errorf("over REST: %v", answer)
			} else if one := verified(r.Client.ProveAddress(ctx, &keytreev1.ProveAddressRequest{Address: addresses[i], AtHeight: at})); one.Entry.Height != height {
				t.Errorf("as of %d", one.Entry.Height)
			} else if again, err := r.Client.ProveAddress(ctx, &keytreev1.ProveAddressRequest{Address: addresses[i], AtHeight: at}); err != nil || again.Proof != text {
				t.Errorf("over REST %q, over gRPC %q", text, again.GetProof())
			}
		}
		for _, name := range []string{"mlr1", "mcr1", "mlr3", "nothing"} {
			id := rpctest.HashOf(name)
			s := verified(r.Client.ProveIdentity(ctx, &keytreev1.ProveIdentityRequest{IdTxHash: id.String(), AtHeight: at})).Subjects[0]
			want, err := r.Client.GetIdentity(ctx, &keytreev1.GetIdentityRequest{IdTxHash: id.String(), AtHeight: at})
			if status.Code(err) == codes.NotFound {
				if len(s.IDs) > 0 || s.ID != id {
					t.Errorf("%s as of %d: proven is %+v, and there is none", name, height, s)
				}
				continue
			}
			if err != nil || len(s.IDs) == 0 {
				t.Fatalf("%s as of %d: %+v, %v", name, height, s, err)
			}
			if last := s.IDs[len(s.IDs)-1]; address(last.Root) != want.MainAddress || s.IDs[0].Merged != (want.State == "MERGED") {
				t.Errorf("%s as of %d: proven is %+v, answered %v", name, height, last, want)
			}
		}
	}
	newest := verified(r.Client.ProveAddress(ctx, &keytreev1.ProveAddressRequest{Address: addresses[0]}))
	if newest.Entry.Height != blocks[len(blocks)-1].Height {
		t.Errorf("by default as of %d, want the newest that the checkpoint covers", newest.Entry.Height)
	}
	twice := append(slices.Clone(addresses), addresses...)
	if p := verified(r.Client.ProveAddresses(ctx, &keytreev1.ProveAddressesRequest{Addresses: twice})); len(p.Subjects) != len(addresses) {
		t.Errorf("of addresses that come twice %d subjects, want %d", len(p.Subjects), len(addresses))
	}
}

// TestRefusedProofs asks for what cannot be proven, or not here, or not yet.
func TestRefusedProofs(t *testing.T) {
	chain, blocks := rpctest.Family()
	log := new(rpctest.StateLog)
	for range 11 {
		blocks = append(blocks, chain.Block())
	}
	without := rpctest.New(t, blocks...)
	r := rpctest.NewOf(t, rpc.Config{StateLog: log}, blocks...)
	child := rpctest.Address("child")
	many := `{"addresses": ["` + strings.Repeat(child+`","`, 1000) + child + `"]}`
	check := func(r *rpctest.Rig, method, path, body string, want int, code codes.Code, says string) {
		t.Helper()
		response, answer := r.REST(t, method, path, body)
		if message, _ := answer["message"].(string); response.StatusCode != want || answer["code"] != float64(code) || !strings.Contains(message, says) {
			t.Errorf("%s %s: %s %v, want %d, %v, %q", method, path, response.Status, answer, want, code, says)
		}
		if cache := response.Header.Get("Cache-Control"); cache != "no-store" {
			t.Errorf("%s: Cache-Control %q", path, cache)
		}
	}
	proof := "/v1/addresses/" + child + "/proof"
	check(without, "GET", proof, "", 400, codes.FailedPrecondition, "publishes no state log")
	check(r, "GET", proof, "", 503, codes.Unavailable, "no checkpoint yet")
	check(r, "GET", proof+"?at_height=1", "", 503, codes.Unavailable, "no checkpoint yet")
	log.Follow(t, r.Graph)
	log.Publish(t, 7)
	check(r, "GET", proof+"?at_height=8", "", 400, codes.OutOfRange, "at_height: expected a height from 0 (start height) to 7 (the newest that the state log's checkpoint covers), got 8")
	check(r, "GET", proof+"?at_height=x", "", 400, codes.InvalidArgument, "whole number")
	check(r, "GET", "/v1/addresses/x/proof", "", 400, codes.InvalidArgument, "address: ")
	check(r, "GET", "/v1/identities/abc/proof", "", 400, codes.InvalidArgument, "id_tx_hash: ")
	check(r, "GET", "/v1/identities/"+rpctest.HashOf("x").String()+"/proof?transactions=true", "", 400, codes.InvalidArgument, "unknown query parameter")
	check(r, "POST", "/v1/addresses:prove", `{"addresses": []}`, 400, codes.InvalidArgument, "expected 1 to 1000 addresses, got 0")
	check(r, "POST", "/v1/addresses:prove", many, 400, codes.InvalidArgument, "expected 1 to 1000 addresses, got 1001")
	check(r, "POST", "/v1/addresses:prove", `{"addresses": ["`+child+`", "y"]}`, 400, codes.InvalidArgument, "addresses[1]: ")
	r.Follower.Set(indexer.Status{})
	check(r, "GET", proof, "", 503, codes.Unavailable, "not been compared")
}

// TestCachedProofs has caches keep a proof until the checkpoint changes, also as of a block that is settled.
func TestCachedProofs(t *testing.T) {
	chain, blocks := rpctest.Family()
	for range 100 {
		blocks = append(blocks, chain.Block())
	}
	log := new(rpctest.StateLog)
	r := rpctest.NewOf(t, rpc.Config{StateLog: log, Version: "v1"}, blocks...)
	log.Follow(t, r.Graph)
	log.Publish(t, 96)
	id := "/v1/identities/" + rpctest.HashOf("mlr1").String() + "/proof"
	for _, path := range []string{"/v1/addresses/" + rpctest.Address("child") + "/proof", "/v1/addresses/" + rpctest.Address("child") + "/proof?at_height=3", id} {
		response, _ := r.Send(t, "GET", path, "")
		etag := response.Header.Get("Etag")
		if response.StatusCode != 200 || response.Header.Get("Cache-Control") != "no-cache" || etag == "" {
			t.Fatalf("%s: %s, %v", path, response.Status, response.Header)
		}
		if response, _ := r.Send(t, "GET", path, "", "If-None-Match: "+etag); response.StatusCode != 304 || response.Header.Get("Etag") != etag {
			t.Errorf("%s again: %s, %v", path, response.Status, response.Header)
		}
		tip, _ := r.Graph.Tip()
		r.Connect(t, chain.Block())
		if response, _ := r.Send(t, "GET", path, "", "If-None-Match: "+etag); response.StatusCode != 304 {
			t.Errorf("%s after another block: %s", path, response.Status)
		}
		log.Publish(t, tip.Height-9)
		if response, _ := r.Send(t, "GET", path, "", "If-None-Match: "+etag); response.StatusCode != 200 || response.Header.Get("Etag") == etag {
			t.Errorf("%s after another checkpoint: %s, %v", path, response.Status, response.Header)
		}
	}
}

// TestCutProof proves a path that is longer than a proof: it says which addresses are cut short, and shorter ones beside are whole.
func TestCutProof(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	const keys = stateproof.MaxStateRecords + 20
	name := func(n int) string { return fmt.Sprint("key ", n) }
	chain := &rpctest.Chain{}
	var blocks []graph.Block
	var form []links.Action
	for n := 1; n < keys; n++ {
		form = append(form, rpctest.MLR("mlr "+name(n), name(n), name(n-1), ""), rpctest.MLA("mla "+name(n), name(n-1), "mlr "+name(n)))
		if len(form) == 10_000 || n == keys-1 {
			blocks, form = append(blocks, chain.Block(form...)), nil
		}
	}
	r, policy := newProver(t, rpc.Config{}, chain, blocks)
	deepest, second, nobody := rpctest.Address(name(keys-1)), rpctest.Address(name(1)), rpctest.Address("nobody")
	p, err := r.Client.ProveAddresses(t.Context(), &keytreev1.ProveAddressesRequest{Addresses: []string{nobody, deepest, second, deepest}}, grpc.MaxCallRecvMsgSize(64<<20))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.Cut, []uint32{1, 3}) {
		t.Errorf("cut are %v", p.Cut)
	}
	proven, err := stateproof.VerifyState([]byte(p.Proof), policy)
	if err != nil {
		t.Fatal(err)
	}
	if s := proven.Subjects; len(s) != 3 || s[0].Cut || !s[1].Cut || s[2].Cut || len(s[2].Keys) != 2 || len(s[1].Keys) < stateproof.MaxStateRecords-10 {
		t.Errorf("%d subjects, cut %v %v %v, %d and %d keys", len(s), s[0].Cut, s[1].Cut, s[2].Cut, len(s[1].Keys), len(s[2].Keys))
	}
	response, answer := r.REST(t, "POST", "/v1/addresses:prove", `{"addresses": ["`+deepest+`"]}`)
	if response.StatusCode != 200 || fmt.Sprint(answer["cut"]) != "[0]" {
		t.Errorf("over REST: %s, cut %v", response.Status, answer["cut"])
	}
	if _, err := stateproof.VerifyState([]byte(answer["proof"].(string)), policy); err != nil {
		t.Error(err)
	}
}

// blockless is a node without blocks, which notes that it was asked.
type blockless struct {
	asked atomic.Int32
	err   error
	raw   []byte
}

// Block implements identity.Blocks.
func (b *blockless) Block(context.Context, chainhash.Hash) ([]byte, error) {
	b.asked.Add(1)
	return b.raw, b.err
}

// TestProofWithoutNode asks for transactions where the node gives none: it is told why, and nobody asks the node who did not want them.
func TestProofWithoutNode(t *testing.T) {
	chain, blocks := rpctest.Family()
	nodeOf := &blockless{}
	r, _ := newProver(t, rpc.Config{Blocks: nodeOf}, chain, blocks)
	for _, test := range []struct {
		err  error
		raw  []byte
		says string
	}{
		{fmt.Errorf("bchd at 10.0.0.7:8335: %w", node.ErrUnavailable), nil, "the node does not answer"},
		{errors.Join(node.ErrNotFound), nil, "is it pruned?"},
		{nil, []byte("no block"), "something else"},
		{nil, make([]byte, 81), "something else"},
	} {
		nodeOf.err, nodeOf.raw = test.err, test.raw
		_, err := r.Client.ProveAddress(t.Context(), &keytreev1.ProveAddressRequest{Address: rpctest.Address("child"), Transactions: true})
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), test.says) || strings.Contains(err.Error(), "10.0.0.7") || !strings.Contains(err.Error(), "block 6") {
			t.Errorf("%v: %v", test.err, err)
		}
	}
	asked := nodeOf.asked.Load()
	for _, address := range []string{"child", "parent", "nobody"} {
		if _, err := r.Client.ProveAddress(t.Context(), &keytreev1.ProveAddressRequest{Address: rpctest.Address(address), Transactions: address != "child"}); err != nil {
			t.Error(err)
		}
	}
	if now := nodeOf.asked.Load(); now != asked {
		t.Errorf("the node was asked %d times for no transactions", now-asked)
	}
}

// TestTooOldToProve asks for a proof as of a block whose map would have to be made of more keys than the operator allows.
func TestTooOldToProve(t *testing.T) {
	dir, params := t.TempDir(), graph.Params{Network: rpctest.Net.Name}
	open := func() *graph.Graph {
		t.Helper()
		g, err := graph.Open(dir, params, graph.Options{MemTable: 8 << 20, UndoBlocks: 5, ProofRebuildKeys: 1, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	chain, blocks := rpctest.Family()
	for range 20 {
		blocks = append(blocks, chain.Block())
	}
	g := open()
	if err := errors.Join(g.Connect(blocks...), g.Close()); err != nil {
		t.Fatal(err)
	}
	g = open()
	t.Cleanup(func() { g.Close() })
	log, r := new(rpctest.StateLog), &rpctest.Rig{Graph: g, Follower: &rpctest.Follower{}}
	r.Follower.Set(indexer.Status{Checked: true, Synced: true})
	log.Follow(t, g)
	log.Publish(t, 16)
	r.Serve(t, rpc.Config{Graph: g, Indexer: r.Follower, Net: rpctest.Net, StateLog: log})
	_, err := r.Client.ProveAddress(t.Context(), &keytreev1.ProveAddressRequest{Address: rpctest.Address("child"), AtHeight: proto.Uint32(2)})
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "at_height: ") || !strings.Contains(err.Error(), graph.ErrRebuild.Error()) {
		t.Error(err)
	}
}
