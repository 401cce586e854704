package coins_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/coins/coinstest"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// bchnEnv is the variable that names a bitcoind of BCHN 28.0.1, for TestRecordBCHN.
const bchnEnv = "KEYTREE_BCHN"

var record = flag.Bool("record", false, "write "+recordingFile+" anew, with the node that "+bchnEnv+" names")

const recordingFile = "testdata/bchn-28.0.1.json.gz"

// recording has the answers of a BCHN to each question, in the order in which it gave
// them. It is an HTTP handler that answers as the node did, the last answer again and again.
type recording struct {
	t       *testing.T
	forward string // HOST:PORT of the node that is recorded; empty: it was

	mu      sync.Mutex
	Answers map[string][]answer // mu; by method and parameters
}

type answer struct {
	Status int
	Body   json.RawMessage
}

// ServeHTTP implements http.Handler.
func (r *recording) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil || req.Method != http.MethodPost {
		w.WriteHeader(http.StatusNotFound) // it runs without -rest
		return
	}
	var call struct {
		Method string
		Params json.RawMessage
	}
	if err := json.Unmarshal(body, &call); err != nil {
		r.t.Errorf("a question that is no JSON: %v", err)
		return
	}
	question := call.Method + " " + string(call.Params)
	var a answer
	if r.forward != "" {
		a = r.ask(req.Context(), body)
		r.mu.Lock()
		r.Answers[question] = append(r.Answers[question], a)
		r.mu.Unlock()
	} else {
		a = r.next(question)
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // or the client has left
}

func (r *recording) next(question string) answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := r.Answers[question]
	if len(left) == 0 {
		r.t.Errorf("a question that was not recorded: %.300s", question)
		return answer{Status: http.StatusBadGateway}
	}
	if len(left) > 1 {
		r.Answers[question] = left[1:]
	}
	return left[0]
}

// ask asks the node that is being recorded.
func (r *recording) ask(ctx context.Context, body []byte) answer {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+r.forward, bytes.NewReader(body))
	if err != nil {
		r.t.Error(err)
		return answer{}
	}
	req.Close = true
	req.SetBasicAuth("keytree", "hush")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{Status: http.StatusServiceUnavailable} // it starts
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Error(err)
	}
	return answer{resp.StatusCode, bytes.TrimSpace(text)}
}

// run runs the suite against what answers.
func (r *recording) run() {
	server := httptest.NewServer(r)
	defer server.Close()
	url := "http://keytree:hush@" + server.Listener.Addr().String()
	faucet := regtest.KeyFromSeed("a faucet of a BCHN")
	call := func(ctx context.Context, method string, params ...any) error {
		question, err := json.Marshal(map[string]any{"id": 1, "method": method, "params": params})
		if err != nil {
			return err
		}
		resp, err := http.Post(server.URL, "application/json", bytes.NewReader(question))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: HTTP %s", method, resp.Status)
		}
		return nil
	}
	mine := func(ctx context.Context, count uint32) error {
		return call(ctx, "generatetoaddress", count, faucet.Address())
	}
	if err := mine(r.t.Context(), 110); err != nil {
		r.t.Fatal(err)
	}
	from := coins.NewBitcoind(dialBitcoind(r.t, url), regtest.Params, func(string) {})
	coinstest.Run(r.t, coinstest.World{Access: from, Faucet: faucet, Mine: mine, Tokens: true, Unindexed: true})
}

// TestBCHN runs the suite against what a BCHN without an index of transactions answered.
func TestBCHN(t *testing.T) {
	f, err := os.Open(recordingFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := &recording{t: t}
	z, err := gzip.NewReader(f)
	if err == nil {
		err = json.NewDecoder(z).Decode(&r.Answers)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Run("suite", func(t *testing.T) { r.t = t; r.run() })
}

// TestRecordBCHN has a BCHN answer all that TestBCHN asks, and writes it down.
func TestRecordBCHN(t *testing.T) {
	if !*record {
		t.Skip("without -record")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.Command(os.Getenv(bchnEnv), "-regtest", "-datadir="+t.TempDir(), "-listen=0", "-printtoconsole=0",
		"-rpcport="+port, "-rpcuser=keytree", "-rpcpassword=hush", "-expire=0") // releases refuse to serve after a while
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Signal(os.Interrupt)
	r := &recording{t: t, forward: address, Answers: make(map[string][]answer)}
	started := func() bool { // what is asked meanwhile is not recorded
		return r.ask(t.Context(), []byte(`{"id":1,"method":"getblockcount","params":[]}`)).Status == http.StatusOK
	}
	for deadline := time.Now().Add(time.Minute); !started(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the node does not start")
		}
	}
	t.Run("suite", func(t *testing.T) { r.t = t; r.run() })
	var file bytes.Buffer
	z, _ := gzip.NewWriterLevel(&file, gzip.BestCompression)
	if err := json.NewEncoder(z).Encode(r.Answers); err != nil { // in the order of the questions
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(recordingFile), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(recordingFile, file.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
}
