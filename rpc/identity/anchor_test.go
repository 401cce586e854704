package identity_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/rs/zerolog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/rpc"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// anchoring is a chain on which keyservers anchor:
//
//	0  nothing
//	1  child asks parent (mlr1), parent accepts (mla1): identity mlr1
//	2  child begins chain a for example.org; a stranger without a key begins b for it
//	3  child goes on with a; c begins for other.example
//	4  parent cuts child off (mcr1): identity mcr1 is child; child goes on with a
//	5  child spends a's baton without a record (end); c goes on with a lower position
type anchoring struct {
	c                *rpctest.Chain
	blocks           []graph.Block
	a                []rpctest.AnchorTx
	b, end           rpctest.AnchorTx
	cGenesis, cLower rpctest.AnchorTx
}

func newAnchoring(t testing.TB) *anchoring {
	w := &anchoring{c: &rpctest.Chain{}}
	w.a = []rpctest.AnchorTx{rpctest.AnchorOf(t, "child", rpctest.Record("example.org", 1<<53+1))}
	w.a = append(w.a, rpctest.AnchorOf(t, "child", rpctest.Record("example.org", 1<<53+1), w.a[0]))
	w.a = append(w.a, rpctest.AnchorOf(t, "child", rpctest.Record("example.org", 1<<53+9), w.a[1]))
	w.b = rpctest.AnchorOf(t, "", rpctest.Record("example.org", 7))
	w.end = rpctest.AnchorOf(t, "child", nil, w.a[2])
	w.cGenesis = rpctest.AnchorOf(t, "lone", rpctest.Record("other.example", 20))
	w.cLower = rpctest.AnchorOf(t, "lone", rpctest.Record("other.example", 19), w.cGenesis)
	w.blocks = []graph.Block{
		w.c.Block(),
		w.c.Block(rpctest.MLR("mlr1", "child", "parent", ""), rpctest.MLA("mla1", "parent", "mlr1")),
		w.c.Anchored(t, nil, w.a[0], w.b),
		w.c.Anchored(t, nil, w.a[1], w.cGenesis),
		w.c.Anchored(t, []links.Action{rpctest.MCR("mcr1", "parent", "mla1")}, w.a[2]),
		w.c.Anchored(t, nil, w.end, w.cLower),
	}
	return w
}

// sameOverREST checks that REST answers a path with what gRPC has answered.
func sameOverREST(t *testing.T, r *rpctest.Rig, path string, message proto.Message) {
	t.Helper()
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]any
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if response, got := r.REST(t, http.MethodGet, path, ""); response.StatusCode != http.StatusOK || !reflect.DeepEqual(got, want) {
		t.Errorf("GET %s answers %d\n%v\nwant\n%v", path, response.StatusCode, got, want)
	}
}

// must fails the test with an error of a call.
func must[M any](answer M, err error) func(testing.TB) M {
	return func(t testing.TB) M {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
}

func TestAnchorAnswers(t *testing.T) {
	w := newAnchoring(t)
	r := rpctest.New(t, w.blocks...)
	client, ctx := keytreev1.NewAnchorServiceClient(r.Conn), t.Context()
	anchor := func(tx rpctest.AnchorTx, height, index, number uint32, chain rpctest.AnchorTx, in *protocol.Anchor) *keytreev1.Anchor {
		a := &keytreev1.Anchor{TxHash: rpctest.ID(tx), Height: height, TxIndex: index, ChainTxHash: rpctest.ID(chain), Number: number,
			Domain: in.Domain, Position: in.Position, Head: in.Head[:], Root: in.Root[:]}
		if tx.Author != "" {
			a.AuthorAddress, a.AuthorMainAddress = rpctest.Address(tx.Author), rpctest.Address(tx.Author)
		}
		return a
	}
	same, more := rpctest.Record("example.org", 1<<53+1), rpctest.Record("example.org", 1<<53+9)
	ofA := []*keytreev1.Anchor{anchor(w.a[0], 2, 1, 0, w.a[0], same), anchor(w.a[1], 3, 1, 1, w.a[0], same), anchor(w.a[2], 4, 1, 2, w.a[0], more)}
	// The identity behind each is that as of its own block: a link was cut later.
	for _, a := range ofA[:2] {
		a.AuthorIdTxHash, a.AuthorMainAddress = rpctest.HashOf("mlr1").String(), rpctest.Address("parent")
	}
	ofA[2].AuthorIdTxHash = rpctest.HashOf("mcr1").String()
	ofB := anchor(w.b, 2, 2, 0, w.b, rpctest.Record("example.org", 7))
	cGenesis, cLower := anchor(w.cGenesis, 3, 2, 0, w.cGenesis, rpctest.Record("other.example", 20)), anchor(w.cLower, 5, 2, 1, w.cGenesis, rpctest.Record("other.example", 19))
	cLower.BreakReason = "LOWER_POSITION"
	hash := func(height uint32) string { return w.blocks[height].Hash.String() }
	chainA := &keytreev1.AnchorChain{ChainTxHash: rpctest.ID(w.a[0]), Domain: "example.org", AnchorCount: 3, Genesis: ofA[0], Last: ofA[2],
		State: "BROKEN", BreakReason: "NO_RECORD", BrokenByTxHash: rpctest.ID(w.end), BrokenHeight: 5, AsOfHeight: 5, AsOfHash: hash(5)}
	chainB := &keytreev1.AnchorChain{ChainTxHash: rpctest.ID(w.b), Domain: "example.org", AnchorCount: 1, Genesis: ofB, Last: ofB,
		State: "OPEN", AsOfHeight: 5, AsOfHash: hash(5)}
	chainC := &keytreev1.AnchorChain{ChainTxHash: rpctest.ID(w.cGenesis), Domain: "other.example", AnchorCount: 2, Genesis: cGenesis, Last: cLower,
		State: "BROKEN", BreakReason: "LOWER_POSITION", BrokenByTxHash: rpctest.ID(w.cLower), BrokenHeight: 5, AsOfHeight: 5, AsOfHash: hash(5)}
	at3 := proto.Clone(chainA).(*keytreev1.AnchorChain)
	at3.AnchorCount, at3.Last, at3.State, at3.BreakReason, at3.BrokenByTxHash, at3.BrokenHeight = 2, ofA[1], "OPEN", "", "", 0
	at3.AsOfHeight, at3.AsOfHash = 3, hash(3)

	for _, test := range []struct {
		path string
		got  proto.Message
		want proto.Message
	}{
		{"/v1/anchors/chains?domain=example.org", must(client.ListAnchorChains(ctx, &keytreev1.ListAnchorChainsRequest{Domain: "example.org"}))(t),
			&keytreev1.ListAnchorChainsResponse{Chains: []*keytreev1.AnchorChain{chainA, chainB}, AsOfHeight: 5, AsOfHash: hash(5)}},
		{"/v1/anchors/chains?domain=nobody.example", must(client.ListAnchorChains(ctx, &keytreev1.ListAnchorChainsRequest{Domain: "nobody.example"}))(t),
			&keytreev1.ListAnchorChainsResponse{AsOfHeight: 5, AsOfHash: hash(5)}},
		{"/v1/anchors/chains/" + rpctest.ID(w.cGenesis), must(client.GetAnchorChain(ctx, &keytreev1.GetAnchorChainRequest{ChainTxHash: rpctest.ID(w.cGenesis)}))(t), chainC},
		{"/v1/anchors/chains/" + rpctest.ID(w.a[0]) + "?at_height=3",
			must(client.GetAnchorChain(ctx, &keytreev1.GetAnchorChainRequest{ChainTxHash: rpctest.ID(w.a[0]), AtHeight: proto.Uint32(3)}))(t), at3},
		{"/v1/anchors?chain_tx_hash=" + rpctest.ID(w.a[0]), must(client.ListAnchors(ctx, &keytreev1.ListAnchorsRequest{ChainTxHash: rpctest.ID(w.a[0])}))(t),
			&keytreev1.ListAnchorsResponse{Anchors: ofA, AsOfHeight: 5, AsOfHash: hash(5)}},
		{"/v1/anchors?domain=example.org&at_height=2", must(client.ListAnchors(ctx, &keytreev1.ListAnchorsRequest{Domain: "example.org", AtHeight: proto.Uint32(2)}))(t),
			&keytreev1.ListAnchorsResponse{Anchors: []*keytreev1.Anchor{ofA[0], ofB}, AsOfHeight: 2, AsOfHash: hash(2)}},
		{"/v1/anchors?domain=other.example", must(client.ListAnchors(ctx, &keytreev1.ListAnchorsRequest{Domain: "other.example"}))(t),
			&keytreev1.ListAnchorsResponse{Anchors: []*keytreev1.Anchor{cGenesis, cLower}, AsOfHeight: 5, AsOfHash: hash(5)}},
	} {
		if !proto.Equal(test.got, test.want) {
			t.Errorf("%s: got\n%v\nwant\n%v", test.path, test.got, test.want)
		}
		sameOverREST(t, r, test.path, test.got)
	}

	// What proves a transaction does so to who has the block header alone.
	for tx, anchor := range map[rpctest.AnchorTx]*keytreev1.Anchor{w.a[1]: ofA[1], w.cLower: cLower, w.end: nil} {
		got := must(client.GetAnchor(ctx, &keytreev1.GetAnchorRequest{TxHash: rpctest.ID(tx)}))(t)
		sameOverREST(t, r, "/v1/anchors/txs/"+rpctest.ID(tx), got)
		if !proto.Equal(got.Anchor, anchor) || (got.Anchor == nil) != (anchor == nil) {
			t.Errorf("anchor of %s: %v, want %v", rpctest.ID(tx), got.Anchor, anchor)
		}
		header := must(protocol.ParseHeader(got.BlockHeader))(t)
		var branch []chainhash.Hash
		for _, text := range got.MerkleBranch {
			branch = append(branch, *must(chainhash.NewHashFromStr(text))(t))
		}
		if err := protocol.CheckMerkleBranch(got.RawTx, got.TxIndex, branch, header.MerkleRoot); err != nil {
			t.Error(err)
		}
		if header.Hash != w.blocks[got.Height].Hash || chainhash.DoubleHashH(got.RawTx).String() != rpctest.ID(tx) {
			t.Errorf("%s: the proof is of another block or transaction", rpctest.ID(tx))
		}
	}
}

func TestAnchorRefusals(t *testing.T) {
	w := newAnchoring(t)
	r := rpctest.New(t, w.blocks...)
	client, ctx := keytreev1.NewAnchorServiceClient(r.Conn), t.Context()
	long := strings.Repeat("a", 60) + ".example"
	unknown := rpctest.HashOf("unknown").String()
	for _, test := range []struct {
		path   string
		status int
		want   string
	}{
		{"/v1/anchors/chains", 400, "domain: expected a host name in lower case"},
		{"/v1/anchors/chains?domain=Example.org", 400, "domain: expected a host name in lower case"},
		{"/v1/anchors/chains?domain=" + long, 400, "of 1 to 63 bytes"},
		{"/v1/anchors/chains?domain=example.org&page_size=1001", 400, "page_size: expected at most 1000"},
		{"/v1/anchors/chains?domain=example.org&chain=1", 400, "chain: unknown query parameter"},
		{"/v1/anchors/chains?domain=example.org&at_height=6", 400, "at_height: expected a height from 0"},
		{"/v1/anchors/chains/abc", 400, "chain_tx_hash: expected 64 hex characters, got 3"},
		{"/v1/anchors/chains/" + unknown, 404, "no chain of anchors " + unknown},
		{"/v1/anchors/chains/" + rpctest.ID(w.a[1]), 404, "no chain of anchors"}, // in a chain, but not its first
		{"/v1/anchors/chains/" + rpctest.ID(w.a[0]) + "?at_height=1", 404, "as of height 1"},
		{"/v1/anchors", 400, "domain: expected one of domain and chain_tx_hash"},
		{"/v1/anchors?domain=example.org&chain_tx_hash=" + unknown, 400, "expected one of domain and chain_tx_hash"},
		{"/v1/anchors?chain_tx_hash=" + unknown, 404, "no chain of anchors"},
		{"/v1/anchors?chain_tx_hash=xyz", 400, "chain_tx_hash: expected 64 hex characters"},
		{"/v1/anchors/txs/" + unknown, 404, "no anchor " + unknown},
		{"/v1/anchors/txs/" + rpctest.ID(w.end) + "?at_height=4", 404, "no anchor"},
		{"/v1/anchors/chains/" + unknown + "/bundle", 404, "no chain of anchors"},
		{"/v1/anchors/chains/x/bundle", 400, "chain_tx_hash: expected 64 hex characters"},
		{"/v1/anchors/chains/" + rpctest.ID(w.a[0]) + "/bundle?first_number=4", 400, "first_number: expected a number from 0 to 3"},
		{"/v1/anchors/chains/" + rpctest.ID(w.a[0]) + "/bundle?first_number=-1", 400, "first_number: expected a whole number"},
		{"/v1/anchors/chains/" + rpctest.ID(w.a[0]) + "/bundle?from=1", 400, "from: unknown query parameter, expected one of first_number"},
	} {
		response, answer := r.REST(t, http.MethodGet, test.path, "")
		if message, _ := answer["message"].(string); response.StatusCode != test.status || !strings.Contains(message, test.want) {
			t.Errorf("%s: %d %q, want %d %q", test.path, response.StatusCode, message, test.status, test.want)
		}
	}
	for want, request := range map[codes.Code]*keytreev1.GetProofBundleRequest{
		codes.InvalidArgument: {ChainTxHash: "x"},
		codes.NotFound:        {ChainTxHash: unknown},
		codes.OutOfRange:      {ChainTxHash: rpctest.ID(w.a[0]), FirstNumber: 4},
	} {
		stream := must(client.GetProofBundle(ctx, request))(t)
		if _, err := stream.Recv(); status.Code(err) != want {
			t.Errorf("%v: %v, want %v", request, err, want)
		}
	}
	page := must(client.ListAnchors(ctx, &keytreev1.ListAnchorsRequest{ChainTxHash: rpctest.ID(w.a[0]), PageSize: 1}))(t)
	for _, request := range []*keytreev1.ListAnchorsRequest{
		{Domain: "example.org", PageToken: page.NextPageToken},
		{ChainTxHash: rpctest.ID(w.b), PageToken: page.NextPageToken},
		{ChainTxHash: rpctest.ID(w.a[0]), PageToken: page.NextPageToken, AtHeight: proto.Uint32(5)},
	} {
		if _, err := client.ListAnchors(ctx, request); status.Code(err) != codes.InvalidArgument {
			t.Errorf("the token of another list: %v", err)
		}
	}
	r.Disconnect(t, 1)
	if _, err := client.ListAnchors(ctx, &keytreev1.ListAnchorsRequest{ChainTxHash: rpctest.ID(w.a[0]), PageToken: page.NextPageToken}); status.Code(err) != codes.Aborted {
		t.Errorf("after a reorganisation: %v", err)
	}
}

// TestAnchorPages lists in pages while the chain goes on, and expects what one page
// said before.
func TestAnchorPages(t *testing.T) {
	c := &rpctest.Chain{}
	blocks, genesis := rpctest.Long(t, c, 120)
	r := rpctest.New(t, blocks...)
	client, ctx := keytreev1.NewAnchorServiceClient(r.Conn), t.Context()
	for name, list := range map[string]func(size uint32, token string) ([]proto.Message, string){
		"chain": func(size uint32, token string) ([]proto.Message, string) {
			a := must(client.ListAnchors(ctx, &keytreev1.ListAnchorsRequest{ChainTxHash: rpctest.ID(genesis), PageSize: size, PageToken: token}))(t)
			return messages(a.Anchors), a.NextPageToken
		},
		"domain": func(size uint32, token string) ([]proto.Message, string) {
			a := must(client.ListAnchors(ctx, &keytreev1.ListAnchorsRequest{Domain: "example.org", PageSize: size, PageToken: token}))(t)
			return messages(a.Anchors), a.NextPageToken
		},
		"chains": func(size uint32, token string) ([]proto.Message, string) {
			a := must(client.ListAnchorChains(ctx, &keytreev1.ListAnchorChainsRequest{Domain: "example.org", PageSize: size, PageToken: token}))(t)
			return messages(a.Chains), a.NextPageToken
		},
	} {
		whole, next := list(1000, "")
		if least := map[string]int{"chain": 120, "domain": 123, "chains": 4}[name]; len(whole) < least || next != "" {
			t.Fatalf("%s: %d, %q", name, len(whole), next)
		}
		for _, size := range []uint32{1, 7, 60, uint32(len(whole))} {
			var got []proto.Message
			for token := ""; len(got) == 0 || token != ""; {
				var page []proto.Message
				page, token = list(size, token)
				if got = append(got, page...); len(got) == int(size) {
					more := rpctest.AnchorOf(t, "lone", rpctest.Record("example.org", uint64(c.Next)<<32))
					r.Connect(t, c.Anchored(t, nil, more))
				}
			}
			if !slices.EqualFunc(got, whole, proto.Equal) {
				t.Errorf("%s in pages of %d: %d differ from the whole %d", name, size, len(got), len(whole))
			}
			whole, _ = list(1000, "")
		}
	}
}

// download gets a bundle over REST.
func download(r *rpctest.Rig, path string) (*http.Response, []byte, error) {
	response, err := http.Get(r.URL + path)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return response, content, err
}

func TestProofBundle(t *testing.T) {
	w := newAnchoring(t)
	r := rpctest.New(t, w.blocks...)
	client := keytreev1.NewAnchorServiceClient(r.Conn)
	for _, test := range []struct {
		name  string
		first uint32
		txs   []rpctest.AnchorTx // the first is the genesis anchor
	}{
		{"broken by what is no anchor", 0, append(slices.Clone(w.a), w.end)},
		{"from the second", 1, append(slices.Clone(w.a), w.end)},
		{"nothing but the end", 3, append(slices.Clone(w.a), w.end)},
		{"broken by its last anchor", 0, []rpctest.AnchorTx{w.cGenesis, w.cLower}},
		{"open", 0, []rpctest.AnchorTx{w.b}},
		{"open and nothing new", 1, []rpctest.AnchorTx{w.b}},
	} {
		t.Run(test.name, func(t *testing.T) {
			stream := must(client.GetProofBundle(t.Context(), &keytreev1.GetProofBundleRequest{ChainTxHash: rpctest.ID(test.txs[0]), FirstNumber: test.first}))(t)
			var streamed []byte
			for {
				chunk, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					break
				}
				streamed = append(streamed, must(chunk, err)(t).Data...)
			}
			response, downloaded, err := download(r, fmt.Sprintf("/v1/anchors/chains/%s/bundle?first_number=%d", rpctest.ID(test.txs[0]), test.first))
			if err != nil || response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "application/octet-stream" {
				t.Fatalf("%v, %v", response, err)
			}
			if !bytes.Equal(streamed, downloaded) {
				t.Errorf("gRPC sent %d bytes, REST %d others", len(streamed), len(downloaded))
			}
			read := must(proof.NewBundleReader(bytes.NewReader(streamed)))(t)
			if read.Network != rpctest.Net.Name || read.Chain != test.txs[0].TxHash() || read.First != test.first {
				t.Errorf("header %+v", read.BundleHeader)
			}
			left := test.txs[test.first:]
			for item, err := range read.Items() {
				if err != nil || len(left) == 0 {
					t.Fatalf("%d are missing: %v", len(left), err)
				}
				header := must(protocol.ParseHeader(item.Header[:]))(t)
				if err := protocol.CheckMerkleBranch(item.Raw, item.Index, item.Branch, header.MerkleRoot); err != nil {
					t.Error(err)
				}
				if got := chainhash.DoubleHashH(item.Raw); got != left[0].TxHash() || header.Hash != w.blocks[item.Height].Hash {
					t.Errorf("item %v in block %v", got, header.Hash)
				}
				left = left[1:]
			}
			if len(left) > 0 {
				t.Errorf("%d are missing", len(left))
			}
		})
	}
}

// TestBundleBrokenOff reorganises the chain while a bundle is under way: who gets it
// must see that it is none.
func TestBundleBrokenOff(t *testing.T) {
	c := &rpctest.Chain{}
	blocks, genesis := rpctest.Long(t, c, 2000) // more than what is on its way at once
	blocks = append(blocks, c.Block())
	r := rpctest.New(t, blocks...)
	client := keytreev1.NewAnchorServiceClient(r.Conn)

	stream := must(client.GetProofBundle(t.Context(), &keytreev1.GetProofBundleRequest{ChainTxHash: rpctest.ID(genesis)}))(t)
	must(stream.Recv())(t)
	reorganise(t, r, blocks, 1, "first")
	var err error
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Aborted {
		t.Errorf("the stream ended with %v", err)
	}

	// Over REST, by a connection that holds nothing back.
	pipe := newPipe()
	server := must(rpc.NewServer(rpc.Config{Graph: r.Graph, Indexer: r.Follower, Net: rpctest.Net, Log: zerolog.Nop()}))(t)
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, rpctest.Listen(t), pipe) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	transport := &http.Transport{DialContext: pipe.dial}
	defer transport.CloseIdleConnections()
	request := must(http.NewRequest(http.MethodGet, "http://keytree/v1/anchors/chains/"+rpctest.ID(genesis)+"/bundle", nil))(t)
	response := must((&http.Client{Transport: transport}).Do(request))(t)
	defer response.Body.Close()
	if _, err := io.ReadFull(response.Body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	r.Disconnect(t, 1)
	if _, err := io.Copy(io.Discard, response.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the download ended with %v", err)
	}
}

// pipe is a listener whose connections have no buffers.
type pipe struct {
	conns  chan net.Conn
	closed chan struct{}
	close  sync.Once
}

func newPipe() *pipe { return &pipe{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipe) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements net.Listener.
func (p *pipe) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (p *pipe) Close() error {
	p.close.Do(func() { close(p.closed) })
	return nil
}

// Addr implements net.Listener.
func (p *pipe) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func TestAnchorEvents(t *testing.T) {
	w := newAnchoring(t)
	r := rpctest.New(t, w.blocks...)
	from := func(height uint32) *keytreev1.ListEventsRequest {
		return &keytreev1.ListEventsRequest{FromHeight: proto.Uint32(height)}
	}
	all := must(r.Client.ListEvents(t.Context(), from(2)))(t)
	var got []string
	for _, block := range all.Blocks {
		got = append(got, line(block))
	}
	want := []string{
		connectLine(w.blocks[2], "ANCHOR_ADDED", "ANCHOR_ADDED"),
		connectLine(w.blocks[3], "ANCHOR_ADDED", "ANCHOR_ADDED"),
		connectLine(w.blocks[4], "LINK_CUT", "IDENTITY_NAMED", "ANCHOR_ADDED"),
		connectLine(w.blocks[5], "ANCHOR_ADDED", "ANCHOR_CHAIN_BROKEN", "ANCHOR_CHAIN_BROKEN"),
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	watch(t, r, &keytreev1.WatchRequest{FromHeight: proto.Uint32(2)})(want...)

	added := rpctest.Record("example.org", 1<<53+9)
	for _, test := range []struct{ got, want *keytreev1.Event }{
		{all.Blocks[2].Events[2], &keytreev1.Event{Type: "ANCHOR_ADDED", TxHash: rpctest.ID(w.a[2]), AuthorAddress: rpctest.Address("child"), Anchor: &keytreev1.AnchorEvent{
			ChainTxHash: rpctest.ID(w.a[0]), Domain: "example.org", Position: added.Position, Head: added.Head[:], Root: added.Root[:]}}},
		{all.Blocks[3].Events[1], &keytreev1.Event{Type: "ANCHOR_CHAIN_BROKEN", TxHash: rpctest.ID(w.cLower), Anchor: &keytreev1.AnchorEvent{
			ChainTxHash: rpctest.ID(w.cGenesis), BreakReason: "LOWER_POSITION"}}},
		{all.Blocks[3].Events[2], &keytreev1.Event{Type: "ANCHOR_CHAIN_BROKEN", TxHash: rpctest.ID(w.end), Anchor: &keytreev1.AnchorEvent{
			ChainTxHash: rpctest.ID(w.a[0]), BreakReason: "NO_RECORD"}}},
	} {
		if !proto.Equal(test.got, test.want) {
			t.Errorf("event is %v, want %v", test.got, test.want)
		}
	}

	// One at a time, also where those of anchors begin.
	var types []string
	request := from(4)
	request.PageSize = 1
	for first := true; first || request.PageToken != ""; first = false {
		page := must(r.Client.ListEvents(t.Context(), request))(t)
		for _, block := range page.Blocks {
			for _, event := range block.Events {
				types = append(types, event.Type)
			}
		}
		request.PageToken = page.NextPageToken
	}
	if got, want := strings.Join(types, " "), "LINK_CUT IDENTITY_NAMED ANCHOR_ADDED ANCHOR_ADDED ANCHOR_CHAIN_BROKEN ANCHOR_CHAIN_BROKEN"; got != want {
		t.Errorf("one at a time: %s, want %s", got, want)
	}
}
