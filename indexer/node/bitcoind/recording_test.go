package bitcoind_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/node/bitcoind"
	"github.com/keytree-bch/keytree/indexer/node/nodetest"
	"github.com/keytree-bch/keytree/protocol"
)

var record = flag.Bool("record", false, "write testdata/bchn-28.0.1 anew, with the node that "+bchnEnv+" names")

// answer is what a node answered to a question.
type answer struct {
	Status int
	Body   string
	Binary bool `json:",omitempty"` // then Body is in hex
}

// recording has the answers of a node, by question: the method and parameters, or the
// path. It is an HTTP handler that answers as the node did.
type recording struct {
	t  *testing.T
	of string // HOST:PORT of the node that is recorded; empty: it was

	mu      sync.Mutex
	answers map[string]answer // mu
	noREST  bool              // mu; answers as a node without -rest
}

// recordings are the files, and whether the node had an index of transactions.
func recordings() map[string]bool { return map[string]bool{"undo": false, "index": true} }

func recordingFile(name string) string {
	return filepath.Join("testdata", "bchn-28.0.1", name+".json.gz")
}

// replay returns what was recorded.
func replay(t *testing.T, name string) *recording {
	t.Helper()
	f := must[*os.File](t)(os.Open(recordingFile(name)))
	defer f.Close()
	r := &recording{t: t}
	check(t, json.NewDecoder(must[*gzip.Reader](t)(gzip.NewReader(f))).Decode(&r.answers))
	return r
}

func (r *recording) save(name string) {
	r.t.Helper()
	var file bytes.Buffer
	z := must[*gzip.Writer](r.t)(gzip.NewWriterLevel(&file, gzip.BestCompression))
	check(r.t, json.NewEncoder(z).Encode(r.answers)) // in the order of the questions
	check(r.t, z.Close())
	check(r.t, os.MkdirAll(filepath.Dir(recordingFile(name)), 0o777))
	check(r.t, os.WriteFile(recordingFile(name), file.Bytes(), 0o666))
}

// serve answers until the test ends, and returns how to reach it.
func (r *recording) serve() bitcoind.Config {
	server := httptest.NewServer(r)
	r.t.Cleanup(server.Close)
	return bitcoind.Config{Address: server.Listener.Addr().String(), User: "keytree", Password: "hush", Network: regtest.Params}
}

func (r *recording) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the client has left
	}
	question := req.URL.Path
	if req.Method == http.MethodPost {
		type call struct {
			Method string
			Params json.RawMessage
		}
		calls := make([]call, 1)
		if body[0] == '[' {
			err = json.Unmarshal(body, &calls)
		} else {
			err = json.Unmarshal(body, &calls[0])
		}
		if err != nil {
			r.t.Errorf("a question that is no JSON: %v", err)
			return
		}
		question = calls[0].Method + " " + string(calls[0].Params)
		for _, c := range calls[1:] { // a batch
			question += ", " + string(c.Params)
		}
	}
	r.mu.Lock()
	a, ok := r.answers[question]
	if r.noREST && req.Method == http.MethodGet {
		a, ok = answer{Status: http.StatusNotFound}, true
	}
	r.mu.Unlock()
	if !ok && r.of != "" {
		if a, err = r.ask(req, body); err != nil {
			return // the client has left
		}
		r.mu.Lock()
		r.answers[question] = a
		r.mu.Unlock()
	} else if !ok && question == "getnetworkinfo []" {
		// The recordings are from before it was asked, and the client can do without.
		w.WriteHeader(http.StatusNotFound)
		return
	} else if !ok {
		r.t.Errorf("a question that was not recorded: %s", question)
		w.WriteHeader(http.StatusNotImplemented)
		return
	}
	raw := []byte(a.Body)
	if a.Binary {
		if raw, err = hex.DecodeString(a.Body); err != nil {
			r.t.Error(err)
		}
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	w.WriteHeader(a.Status)
	_, _ = w.Write(raw)
}

// ask asks the node that is being recorded.
func (r *recording) ask(req *http.Request, body []byte) (answer, error) {
	forward := req.Clone(req.Context())
	forward.RequestURI, forward.URL.Scheme, forward.URL.Host = "", "http", r.of
	forward.Body, forward.Close = io.NopCloser(bytes.NewReader(body)), true
	resp, err := http.DefaultTransport.RoundTrip(forward)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusServiceUnavailable {
		r.t.Error("it had too many questions at a time")
	}
	raw, err := io.ReadAll(resp.Body)
	a := answer{Status: resp.StatusCode, Body: string(raw)}
	if resp.Header.Get("Content-Type") == "application/octet-stream" {
		a.Body, a.Binary = hex.EncodeToString(raw), true
	}
	return a, err
}

// TestRecord has a BCHN answer all that TestReplay asks, and writes it down.
func TestRecord(t *testing.T) {
	if !*record {
		t.Skip("without -record")
	}
	chain, made := nodetest.NewChain()
	for name, index := range recordings() {
		t.Run(name, func(t *testing.T) {
			p := startBCHN(t, chain, index)
			info := must[any](t)(p.call(t.Context(), "getnetworkinfo")).(map[string]any)
			if version := info["subversion"]; version != "/Bitcoin Cash Node:28.0.1(EB32.0)/" {
				t.Fatalf("it is %v: record another version in another folder", version)
			}
			r := &recording{t: t, of: p.cfg.Address, answers: make(map[string]answer)}
			r.askAll(chain, made, index)
			r.save(name)
		})
	}
}

// TestReplay asks a BCHN with an index of transactions and one without, as they were
// recorded. Both must lead to the state that the imitation leads to.
func TestReplay(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	chain, made := nodetest.NewChain()
	n := newBCHN(t)
	n.take(chain)
	want := stateOf(t, dial(t, n.config()), chain, made)
	for name, index := range recordings() {
		t.Run(name, func(t *testing.T) {
			if got := replay(t, name).askAll(chain, made, index); got != want {
				t.Errorf("state hash is %x, want %x", got, want)
			}
		})
	}
}

// askAll asks everything, and returns the state hash that the chain leads to.
func (r *recording) askAll(chain *nodetest.Chain, made nodetest.Links, index bool) [32]byte {
	r.t.Helper()
	cfg := r.serve()
	runSuite(r.t, cfg, chain, index, 0)
	r.mu.Lock()
	r.noREST = true
	r.mu.Unlock()
	runSuite(r.t, cfg, chain, index, 0)
	c := dial(r.t, cfg)
	checkClaims(r.t, c, chain)
	return stateOf(r.t, c, chain, made)
}

// checkClaims checks the signatures of all transactions, given what the node tells of
// the outputs that they spend. BCHN has checked them too, those over tokens and over
// all outputs that are spent among them.
func checkClaims(t *testing.T, c *bitcoind.Client, chain *nodetest.Chain) {
	t.Helper()
	overAll, overTokens := 0, 0
	for height := range chain.Height() + 1 {
		block := must[*protocol.Block](t)(protocol.ReadBlock(must[[]byte](t)(c.Block(t.Context(), chain.Hash(height)))))
		for _, tx := range block.Txs() {
			claim, ok := tx.Claim()
			if !ok {
				continue // a coinbase
			}
			spent := outputsOf(t, c, chain.Hash(height), tx.TxID(), claim.Inputs)
			if !claim.HeldBy(spent[0].Script) {
				continue // a false claim
			}
			if err := claim.Verify(regtest.Params, height, spent); err != nil {
				t.Errorf("block %d, transaction %v: %v", height, tx.TxID(), err)
			}
			if len(spent) > 1 {
				overAll++
			}
			if protocol.HasTokenPrefix(spent[0].Script) {
				overTokens++
			}
			spent[len(spent)-1].Value++
			if err := claim.Verify(regtest.Params, height, spent); !errors.Is(err, protocol.ErrSignature) {
				t.Errorf("block %d, transaction %v, with a satoshi more: %v", height, tx.TxID(), err)
			}
		}
	}
	if overAll == 0 || overTokens == 0 {
		t.Errorf("%d signatures over several outputs and %d over tokens were checked, want some", overAll, overTokens)
	}
}

// outputsOf returns what a transaction spends: where only the output of input 0 is
// proven, the others from the transactions that have them.
func outputsOf(t *testing.T, c *bitcoind.Client, block, spender chainhash.Hash, outs []wire.OutPoint) []protocol.Output {
	t.Helper()
	outputs := must[node.Spent](t)(spendsOf(t.Context(), c, block, spender, outs...)).Outputs
	for _, out := range outs[len(outputs):] {
		tx := must[protocol.Tx](t)(c.Previous(t.Context(), block, spender, out))
		outputs = append(outputs, must[protocol.Output](t)(protocol.SpentOutput(tx, out)))
	}
	return outputs
}

// stateOf indexes the chain, looks for its links, and returns the state hash.
func stateOf(t *testing.T, n node.Node, chain *nodetest.Chain, made nodetest.Links) [32]byte {
	t.Helper()
	g := must[*graph.Graph](t)(graph.Open(t.TempDir(), graph.Params{Network: regtest.Params.Name}, graph.Options{MemTable: 8 << 20, BlockCache: 4 << 20}))
	defer func() { check(t, g.Close()) }()
	ix := indexer.New(n, g, indexer.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error)
	go func() { done <- ix.Run(ctx) }()
	for {
		changed := g.Changed()
		if tip, _ := g.Tip(); tip.Height == chain.Height() {
			break
		}
		select {
		case <-changed:
		case err := <-done:
			t.Fatalf("the indexer has ended with %+v: %v", ix.Status(), err)
		}
	}
	cancel()
	check(t, <-done)

	v := must[*graph.View](t)(g.At(nil))
	defer v.Close()
	for _, key := range slices.Concat(made.Children, made.WithTokens, []protocol.KeyHash{made.Forged}) {
		path := must[links.Resolution](t)(v.Resolve(t.Context(), key)).Path
		if linked := len(path) == 2 && path[1] == made.Parent; linked == (key == made.Forged) {
			t.Errorf("the path of %x is %x", key, path)
		}
	}
	tip, _ := g.Tip()
	return tip.StateHash
}
