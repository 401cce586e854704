package web_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// stand stands before a server: it counts what is asked, and does to connections and to the chain what a
// case wants.
type stand struct {
	URL string
	rig *rpctest.Rig

	linkInHex string // of a transaction that the node knows

	mu    sync.Mutex
	chain *rpctest.Chain // mu
	salt  int            // mu; so that no two transactions or branches are the same
	play  play           // mu
}

// play is what a case has the stand do, and what it has seen since.
type play struct {
	Requests map[string]int `json:"requests"` // by method and path
	Answered map[string]int `json:"answered"` // bytes of their answers

	hidden     []string // paths that a server of an earlier version does not have
	lost       int      // how many connections are still to be lost
	refused    int      // how many requests are still to be refused
	status     int      // of a refusal
	retryAfter int      // seconds
}

func newStand(t *testing.T, rig *rpctest.Rig, c *rpctest.Chain) *stand {
	t.Helper()
	s := &stand{rig: rig, chain: c}
	s.reset()
	to, err := url.Parse(rig.URL)
	if err != nil {
		t.Fatal(err)
	}
	s.linkInHex = linkInHex(t)
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(to) },
		FlushInterval: -1,
		Transport:     &http.Transport{DisableCompression: true},
	}
	t.Cleanup(proxy.Transport.(*http.Transport).CloseIdleConnections)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodOptions || !s.meet(w, r) {
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
	s.play = play{Requests: make(map[string]int), Answered: make(map[string]int)}
}

// order is what a case says with what it wants.
type order struct {
	Names, Children, Paths                                []string
	Prefix, Parent                                        string
	Count, Blocks, Connections, Status, Times, RetryAfter int
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
			o.Names[i] = rpctest.Address(name)
		}
		return map[string]any{"addresses": o.Names}, nil
	case "link":
		return nil, s.link(o.Children, o.Parent)
	case "reorganise":
		return nil, s.reorganise(o.Blocks)
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

// link connects a block in which a parent accepts some children.
func (s *stand) link(children []string, parent string) error {
	var actions []links.Action
	for _, child := range children {
		s.salt++
		request, accept := fmt.Sprint("request ", s.salt), fmt.Sprint("accept ", child)
		actions = append(actions, rpctest.MLR(request, child, parent, ""), rpctest.MLA(accept, parent, request))
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
