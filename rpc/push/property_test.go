package push_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// cutter lets so many bytes come from a server, and then breaks the connection off.
type cutter struct {
	net.Conn
	left int // -1 for no end
}

// Read implements io.Reader.
func (c *cutter) Read(b []byte) (int, error) {
	if c.left == 0 {
		c.Conn.Close()
		return 0, net.ErrClosed
	}
	if c.left > 0 {
		b = b[:min(len(b), c.left)]
	}
	n, err := c.Conn.Read(b)
	if c.left > 0 {
		c.left -= n
	}
	return n, err
}

// dialer makes connections to an address that end after so many bytes; -1 for never.
func dialer(to string, bytes int) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", to)
		if err != nil {
			return nil, err
		}
		return &cutter{conn, bytes}, nil
	}
}

// transport opens a stream over a connection that ends after so many bytes, and returns how to read it.
type transport func(ctx context.Context, r *rpctest.Rig, request *keytreev1.WatchRequest, bytes int) (read func() (*keytreev1.WatchResponse, error), end func(), err error)

func overSSE(ctx context.Context, r *rpctest.Rig, request *keytreev1.WatchRequest, bytes int) (func() (*keytreev1.WatchResponse, error), func(), error) {
	dial := dialer(strings.TrimPrefix(r.URL, "http://"), bytes)
	over := &http.Transport{DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, address) }}
	last := request.LastId
	request.LastId = ""
	body, err := protojson.Marshal(request)
	if err != nil {
		return nil, nil, err
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL+"/v1/stream", strings.NewReader(string(body)))
	if err != nil {
		return nil, nil, err
	}
	post.Header.Set("Content-Type", "application/json")
	if last != "" {
		post.Header.Set("Last-Event-ID", last)
	}
	response, err := over.RoundTrip(post)
	if err != nil {
		over.CloseIdleConnections()
		return nil, nil, io.EOF
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, nil, fmt.Errorf("the server answered %s", response.Status)
	}
	events := sse{bufio.NewReader(response.Body)}
	read := func() (*keytreev1.WatchResponse, error) {
		e, err := events.next()
		if err != nil {
			return nil, io.EOF
		}
		if e.name == "fault" {
			return nil, errors.New(e.data)
		}
		m := new(keytreev1.WatchResponse)
		if e.data != "" {
			err = protojson.Unmarshal([]byte(e.data), m)
		}
		m.Id = e.id
		return m, err
	}
	return read, func() { response.Body.Close(); over.CloseIdleConnections() }, nil
}

func overGRPC(ctx context.Context, r *rpctest.Rig, request *keytreev1.WatchRequest, bytes int) (func() (*keytreev1.WatchResponse, error), func(), error) {
	conn, err := grpc.NewClient(r.Conn.Target(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dialer(r.Conn.Target(), bytes)))
	if err != nil {
		return nil, nil, err
	}
	end := func() { conn.Close() }
	stream, err := keytreev1.NewIdentityServiceClient(conn).Watch(ctx, request)
	if err != nil {
		end()
		return nil, nil, io.EOF
	}
	return func() (*keytreev1.WatchResponse, error) {
		m, err := stream.Recv()
		if err != nil {
			return nil, io.EOF
		}
		return m, nil
	}, end, nil
}

// model is what a client makes of a stream: the blocks of the chain that concern it, by height.
type model struct {
	blocks  map[uint32]*keytreev1.BlockEvents // whole ones
	part    *keytreev1.BlockEvents            // of which more follows
	changed map[uint32][]string               // by height
	pending map[string]string                 // by txid, what would become of it
	fresh   map[string]string                 // the same of this connection
	whole   bool                              // whether this connection has told all that is pending
	id      string
}

func newModel() *model {
	return &model{blocks: make(map[uint32]*keytreev1.BlockEvents), changed: make(map[uint32][]string), pending: make(map[string]string)}
}

// connected begins another connection.
func (m *model) connected() { m.fresh, m.whole = make(map[string]string), false }

// take makes something of a message.
func (m *model) take(w *keytreev1.WatchResponse) error {
	b := w.Block
	switch {
	case b.GetType() == "CONNECT":
		if m.part != nil && m.part.Hash != b.Hash || m.part == nil && m.blocks[b.Height] != nil {
			return fmt.Errorf("block %d was told twice, or in the midst of another", b.Height)
		}
		if m.part == nil {
			m.part = &keytreev1.BlockEvents{Hash: b.Hash, Height: b.Height}
		}
		m.part.Events = append(m.part.Events, b.Events...)
		if !b.More {
			m.blocks[b.Height], m.changed[b.Height], m.part = m.part, w.Changed, nil
		}
	case b.GetType() == "DISCONNECT":
		has := m.blocks[b.Height]
		switch {
		case m.part != nil && m.part.Hash == b.Hash:
			m.part = nil
		case m.part != nil || has != nil && has.Hash != b.Hash:
			return fmt.Errorf("block %d is taken back, which is not the client's", b.Height)
		}
		for height := range m.blocks {
			if height > b.Height {
				return fmt.Errorf("block %d is taken back before block %d", b.Height, height)
			}
		}
		delete(m.blocks, b.Height)
		delete(m.changed, b.Height)
	case w.Pending != nil:
		tx, fate := w.Pending.Transaction.TxHash, w.Pending.Action.State+w.Pending.Action.Reason
		m.pending[tx], m.fresh[tx] = fate, fate
	case w.Dropped != "":
		delete(m.pending, w.Dropped)
		delete(m.fresh, w.Dropped)
	case w.AllPending:
		m.pending, m.whole = maps.Clone(m.fresh), true
	}
	if w.Id != "" {
		m.id = w.Id
	}
	return nil
}

// world makes up chains of a few keys.
type world struct {
	made     int
	requests []string // txids of all requests, by name
	accepts  []string
	parents  map[string]string // of requests, and of accepts
}

func name(i int) string { return fmt.Sprint("key", i) }

const keys = 6

// actions makes up the actions of a block.
func (w *world) actions(t *rapid.T) (list []links.Action) {
	for range rapid.IntRange(0, 5).Draw(t, "actions") {
		w.made++
		tx := fmt.Sprint("tx", w.made)
		switch what := rapid.IntRange(0, 3).Draw(t, "what"); {
		case what == 0 || len(w.requests) == 0:
			child, parent := name(rapid.IntRange(0, keys-1).Draw(t, "child")), name(rapid.IntRange(0, keys-1).Draw(t, "parent"))
			list = append(list, rpctest.MLR(tx, child, parent, ""))
			w.requests = append(w.requests, tx)
			w.parents[tx] = parent
		case what < 3 || len(w.accepts) == 0:
			request := w.requests[rapid.IntRange(max(0, len(w.requests)-4), len(w.requests)-1).Draw(t, "request")]
			list = append(list, rpctest.MLA(tx, w.parents[request], request))
			w.accepts = append(w.accepts, tx)
			w.parents[tx] = w.parents[request]
		default:
			accept := w.accepts[rapid.IntRange(0, len(w.accepts)-1).Draw(t, "accept")]
			list = append(list, rpctest.MCR(tx, w.parents[accept], accept))
		}
	}
	if rapid.IntRange(0, 9).Draw(t, "long") == 0 { // a block of several messages
		for range 50 {
			w.made++
			list = append(list, rpctest.MLR(fmt.Sprint("tx", w.made), name(keys-1), name(0), ""))
		}
	}
	return list
}

// TestPropertyComingBack: a client that is cut off at any byte, and comes back with the last id that it had, has in the
// end what a listing of the chain and of the mempool has for its filter, and was told of nothing twice.
func TestPropertyComingBack(t *testing.T) {
	for name, open := range map[string]transport{"server-sent events": overSSE, "gRPC": overGRPC} {
		t.Run(name, func(t *testing.T) {
			chains := 4
			if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
				chains = 200
			}
			for seed := range chains {
				comeBack(t, open, seed)
			}
		})
	}
}

// comeBack runs a server on a chain that is made up, and clients of it.
func comeBack(t *testing.T, open transport, seed int) {
	c := &rpctest.Chain{}
	first := c.Block()
	r := rpctest.New(t, first)
	defer r.Stop()
	blocks := []graph.Block{first}
	// It is no check of rapid's: a chain that failed cannot be made shorter, since the server has it.
	made := rapid.Custom(func(rt *rapid.T) error { return comeBackOn(rt, t, open, r, blocks, c) })
	if err := made.Example(seed); err != nil {
		t.Errorf("chain %d: %v", seed, err)
	}
}

func comeBackOn(rt *rapid.T, t *testing.T, open transport, r *rpctest.Rig, blocks []graph.Block, c *rpctest.Chain) error {
	w := &world{parents: make(map[string]string)}
	var followed []string
	for i := range keys {
		if rapid.Bool().Draw(rt, "followed") {
			followed = append(followed, rpctest.Address(name(i)))
		}
	}
	request := &keytreev1.WatchRequest{FromHeight: new(uint32), Addresses: followed, Unconfirmed: true}
	m := newModel()
	var supposed []links.Action
	for range 6 {
		// The chain changes,
		if n := rapid.IntRange(0, min(3, len(blocks)-1)).Draw(rt, "taken back"); n > 0 && rapid.Bool().Draw(rt, "reorganised") {
			r.Disconnect(t, n)
			blocks = blocks[:len(blocks)-n]
			last := blocks[len(blocks)-1]
			c.Next, c.Prev, c.Salt = last.Height+1, last.Hash, fmt.Sprint("fork", w.made)
		}
		for range rapid.IntRange(1, 3).Draw(rt, "blocks") {
			b := c.Block(w.actions(rt)...)
			r.Connect(t, b)
			blocks = append(blocks, b)
		}
		supposed = w.actions(rt)
		r.Suppose(t, "", nil, supposed...)
		// and a client is cut off some times, before it has all.
		for range rapid.IntRange(0, 3).Draw(rt, "cuts") {
			if _, err := m.follow(t, open, r, request, rapid.IntRange(1, 6000).Draw(rt, "bytes"), nil); err != nil {
				return err
			}
		}
	}
	want := newModel()
	tip := blocks[len(blocks)-1]
	if err := want.ofGraph(t, r.Graph, followed, supposed); err != nil {
		return err
	}
	got, err := m.follow(t, open, r, request, -1, func(m *model) bool { return m.id == idOf(tip) && m.whole && m.text() == want.text() })
	if err != nil || !got {
		return fmt.Errorf("%v: the client has\n%s\nand the server\n%s", err, m.text(), want.text())
	}
	return nil
}

// follow comes back with the last id, until the connection is cut off, or done.
func (m *model) follow(t *testing.T, open transport, r *rpctest.Rig, request *keytreev1.WatchRequest, bytes int, done func(*model) bool) (bool, error) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	again := &keytreev1.WatchRequest{FromHeight: request.FromHeight, Addresses: request.Addresses, Unconfirmed: true, LastId: m.id}
	read, end, err := open(ctx, r, again, bytes)
	if errors.Is(err, io.EOF) { // cut off before it began
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer end()
	m.connected()
	for {
		w, err := read()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if err := m.take(w); err != nil {
			return false, err
		}
		if done != nil && done(m) {
			return true, nil
		}
		if m.whole && done == nil { // nothing more comes
			return false, nil
		}
	}
}

// ofGraph makes of a graph what a client should have.
func (m *model) ofGraph(t *testing.T, g *graph.Graph, followed []string, supposed []links.Action) error {
	tip, _ := g.Tip()
	var keys []protocol.KeyHash
	for _, address := range followed {
		key, err := protocol.ParseAddress(address, rpctest.Net)
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	has := func(of ...protocol.KeyHash) bool {
		return len(keys) == 0 || slices.ContainsFunc(of, func(k protocol.KeyHash) bool { return slices.Contains(keys, k) })
	}
	for height := range tip.Height + 1 {
		b, err := g.Events(height, 0, 10_000)
		if err != nil {
			return err
		}
		told := &keytreev1.BlockEvents{Height: height, Hash: b.Hash.String()}
		for _, e := range b.Effects {
			if has(e.Child, e.Parent, e.Author, e.Root) {
				told.Events = append(told.Events, &keytreev1.Event{Type: fmt.Sprint(e.Type)})
			}
		}
		var changed []string
		for i, key := range keys {
			was, is := "", ""
			for at, text := range map[uint32]*string{height - 1: &was, height: &is} {
				if height == 0 {
					continue
				}
				v, err := g.At(&at)
				if err != nil {
					return err
				}
				r, err := v.Resolve(t.Context(), key)
				v.Close()
				if err != nil {
					return err
				}
				parent := protocol.KeyHash{}
				if r.Parent != nil {
					parent = *r.Parent
				}
				*text = fmt.Sprint(r.Root, parent, r.ID)
			}
			if was != is {
				changed = append(changed, followed[i])
			}
		}
		if len(keys) == 0 || len(told.Events)+len(changed) > 0 {
			m.blocks[height], m.changed[height] = told, changed
		}
	}
	view, ok := g.Pending()
	if !ok {
		return errors.New("nothing is known to be pending")
	}
	defer view.Close()
	for _, a := range supposed {
		s, err := view.Action(a.TxID)
		if err != nil {
			return err
		}
		var of []protocol.KeyHash
		for _, key := range []*protocol.KeyHash{s.Author, s.Child, s.Parent} {
			if key != nil {
				of = append(of, *key)
			}
		}
		if has(of...) {
			m.pending[a.TxID.String()] = ""
		}
	}
	return nil
}

// text is what a model has, to be compared.
func (m *model) text() string {
	var out strings.Builder
	for _, height := range slices.Sorted(maps.Keys(m.blocks)) {
		changed := slices.Clone(m.changed[height])
		slices.Sort(changed)
		fmt.Fprintf(&out, "%d %s %d events %v\n", height, m.blocks[height].Hash[:8], len(m.blocks[height].Events), changed)
	}
	pending := slices.Sorted(maps.Keys(m.pending))
	fmt.Fprintf(&out, "pending %v\n", pending)
	return out.String()
}
