package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signin"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// stand stands before a server: it counts what is asked, and does to connections and to the chain what a
// case wants.
type stand struct {
	URL string
	rig *rpctest.Rig

	linkInHex   string       // of a transaction that the node knows
	person      *regtest.Key // who signs in
	statePolicy string       // that its proofs are checked by

	mu      sync.Mutex
	chain   *rpctest.Chain    // mu
	accepts map[string]string // mu; by child, the transaction of the last accept
	salt    int               // mu; so that no two transactions or branches are the same
	play    play              // mu

	streams map[int]context.CancelFunc // mu; those that are open, by a number
}

// play is what a case has the stand do, and what it has seen since.
type play struct {
	Requests map[string]int `json:"requests"` // by method and path
	Answered map[string]int `json:"answered"` // bytes of their answers

	Streams int `json:"streams"` // how many are open

	hidden     []string // paths that a server of an earlier version does not have
	lost       int      // how many connections are still to be lost
	refused    int      // how many requests are still to be refused
	status     int      // of a refusal
	retryAfter int      // seconds
}

func newStand(t *testing.T, rig *rpctest.Rig, c *rpctest.Chain) *stand {
	t.Helper()
	s := &stand{rig: rig, chain: c, person: regtest.NewKey(), streams: make(map[int]context.CancelFunc), accepts: make(map[string]string)}
	s.reset()
	to, err := url.Parse(rig.URL)
	if err != nil {
		t.Fatal(err)
	}
	s.linkInHex = linkInHex(t)
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(to) },
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // streams are lost on purpose
		Transport:     &http.Transport{DisableCompression: true},
	}
	t.Cleanup(proxy.Transport.(*http.Transport).CloseIdleConnections)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodOptions || !s.meet(w, r) {
			if r.Method == http.MethodPost && r.URL.Path == "/v1/stream" {
				ctx, leave := s.streamed(r.Context())
				defer leave()
				r = r.WithContext(ctx)
			}
			proxy.ServeHTTP(&counted{w, s, r.Method + " " + r.URL.Path}, r)
		}
	}))
	t.Cleanup(front.Close)
	s.URL = front.URL
	return s
}

// meet counts a request, and tells whether it has answered it in place of the server.
func (s *stand) meet(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.play.Requests[r.Method+" "+r.URL.Path]++
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.Header().Set("Access-Control-Expose-Headers", "Retry-After")
	switch {
	case s.play.lost > 0:
		s.play.lost--
		panic(http.ErrAbortHandler)
	case s.play.refused > 0:
		s.play.refused--
		if s.play.retryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(s.play.retryAfter))
		}
		w.WriteHeader(s.play.status)
		return true
	case slices.Contains(s.play.hidden, r.URL.Path):
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"code": 5, "message": "no such path"}`)
		return true
	}
	w.Header().Del("Access-Control-Allow-Origin") // the server's own go with its answer
	w.Header().Del("Access-Control-Expose-Headers")
	return false
}

// streamed counts a stream, which ends when it is lost, until leave is called.
func (s *stand) streamed(ctx context.Context) (_ context.Context, leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, lose := context.WithCancel(ctx)
	s.salt++
	number := s.salt
	s.streams[number] = lose
	s.play.Streams++
	return ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		lose()
		delete(s.streams, number)
		s.play.Streams--
	}
}

// counted counts the bytes of an answer.
type counted struct {
	http.ResponseWriter
	stand *stand
	call  string
}

// Write implements http.ResponseWriter.
func (c *counted) Write(text []byte) (int, error) {
	c.stand.mu.Lock()
	c.stand.play.Answered[c.call] += len(text)
	c.stand.mu.Unlock()
	return c.ResponseWriter.Write(text)
}

// Unwrap lets http.ResponseController flush.
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// reset lets everything pass, and counts from 0 on. The mutex is held.
func (s *stand) reset() {
	s.play = play{Requests: make(map[string]int), Answered: make(map[string]int), Streams: len(s.streams)}
}

// order is what a case says with what it wants.
type order struct {
	Names, Children, Paths         []string
	Prefix, Parent, Child, Message string
	Count, Blocks, Connections     int
	Status, Times, RetryAfter      int
}

// control does what a case wants, and answers what it wants to know.
func (s *stand) control(w http.ResponseWriter, r *http.Request) {
	var o order
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := s.obey(r.PathValue("what"), o)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	json.NewEncoder(w).Encode(answer)
}

func (s *stand) obey(what string, o order) (answer any, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch what {
	case "reset":
		s.reset()
	case "seen":
		return s.play, nil
	case "hide":
		s.play.hidden = o.Paths
	case "lose":
		s.play.lost = o.Connections
	case "refuse":
		s.play.refused, s.play.status, s.play.retryAfter = o.Times, o.Status, o.RetryAfter
	case "addresses":
		for i := range o.Count {
			o.Names = append(o.Names, fmt.Sprint(o.Prefix, i))
		}
		for i, name := range o.Names {
			o.Names[i] = protocol.FormatAddress(s.key(name), rpctest.Net)
		}
		return map[string]any{"addresses": o.Names}, nil
	case "link":
		return nil, s.link(o.Children, o.Parent)
	case "cut":
		return nil, s.rig.Graph.Connect(s.chain.Block(s.cut(o)))
	case "pend":
		return nil, s.pend(s.cut(o))
	case "drop":
		return nil, s.pend()
	case "lose-streams":
		for _, lose := range s.streams {
			lose()
		}
	case "sign":
		signature, err := signin.Sign(o.Message, protocol.WIF{Private: s.person.PrivateKey()})
		return map[string]any{"signature": signature}, err
	case "reorganise":
		return nil, s.reorganise(o.Blocks)
	case "state-policy":
		return map[string]any{"policy": s.statePolicy}, nil
	case "link-in-hex":
		return map[string]any{"hex": s.linkInHex}, nil
	case "signatures":
		text, err := os.ReadFile("../../protocol/signin/testdata/signatures.json")
		return map[string]any{"signatures": json.RawMessage(text)}, err
	default:
		return nil, fmt.Errorf("nobody can do %q", what)
	}
	return nil, nil
}

// key is that of a name. The person's can sign.
func (s *stand) key(name string) protocol.KeyHash {
	if name == "person" {
		return s.person.Hash()
	}
	return rpctest.Key(name)
}

// cut is the revocation of a child's link by its parent.
func (s *stand) cut(o order) links.Action {
	accept := s.accepts[o.Child]
	return rpctest.MCR("cut "+accept, o.Parent, accept)
}

// pend lets actions be pending, and nothing else.
func (s *stand) pend(actions ...links.Action) error {
	tip, _ := s.rig.Graph.Tip()
	return s.rig.Graph.SetPending(&graph.PendingBlock{
		Height: tip.Height + 1, PrevHash: tip.Hash, Actions: actions,
		Coverage: graph.Coverage{AsOf: time.Now().Add(time.Hour)}, // however long the test takes
	})
}

// link connects a block in which a parent accepts some children.
func (s *stand) link(children []string, parent string) error {
	var actions []links.Action
	for _, child := range children {
		s.salt++
		request := fmt.Sprint("request ", s.salt)
		ask := rpctest.MLR(request, child, parent, "")
		author := s.key(child)
		ask.Author = &author
		s.accepts[child] = fmt.Sprint("accept ", s.salt)
		actions = append(actions, ask, rpctest.MLA(s.accepts[child], parent, request))
	}
	return s.rig.Graph.Connect(s.chain.Block(actions...))
}

// reorganise takes the last blocks off the chain, and puts one empty block more in their place.
func (s *stand) reorganise(blocks int) error {
	for range blocks {
		if err := s.rig.Graph.Disconnect(); err != nil {
			return err
		}
	}
	left, _ := s.rig.Graph.Tip()
	s.salt++
	s.chain.Next, s.chain.Prev, s.chain.Salt = left.Height+1, left.Hash, fmt.Sprint("branch ", s.salt, " ")
	for range blocks + 1 {
		if err := s.rig.Graph.Connect(s.chain.Block()); err != nil {
			return err
		}
	}
	return nil
}
