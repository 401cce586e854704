package identity_test

import (
	"bufio"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	"github.com/keytree-bch/keytree/rpc/identity"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// exportedSum is the SHA-256 of the export below. Who has to change it raises the export's format.
const exportedSum = "fed2d87c94353d96afe0536b949bdf7d586042b90822bc67544f83f11cebeed3"

// blocksIn reads an export.
func blocksIn(t *testing.T, text string) (blocks []*keytreev1.BlockEvents) {
	t.Helper()
	if text != "" && !strings.HasSuffix(text, "\n") {
		t.Errorf("the export ends within a line: %.100q", text[max(0, len(text)-100):])
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Buffer(nil, 16<<20); lines.Scan(); {
		block := new(keytreev1.BlockEvents)
		if err := protojson.Unmarshal(lines.Bytes(), block); err != nil {
			t.Fatalf("%v in %.100s", err, lines.Bytes())
		}
		if n := len(blocks); block.Type != "CONNECT" || block.More || n > 0 && block.PrevHash != blocks[n-1].Hash {
			t.Errorf("line %d: %s of block %d, after %s", n, block.Type, block.Height, block.PrevHash)
		}
		blocks = append(blocks, block)
	}
	return blocks
}

// TestExport exports a chain that has something of everything, in one answer and in many, compressed and not.
func TestExport(t *testing.T) {
	c, blocks := rpctest.Family()
	genesis := rpctest.AnchorOf(t, "child", rpctest.Record(rpctest.Domain, 1))
	blocks = append(blocks, c.Anchored(t, nil, genesis), c.Block())
	r := rpctest.New(t, blocks...)
	response, whole := r.Send(t, "GET", "/v1/export", "")
	if h := response.Header; response.StatusCode != 200 || h.Get("Content-Type") != "application/x-ndjson" || h.Get("Keytree-Export-Format") != "1" ||
		h.Get("Cache-Control") != "no-cache" || h.Get("Etag") != "" {
		t.Errorf("%s, %v", response.Status, h)
	}
	if sum := sha256.Sum256([]byte(whole)); hex.EncodeToString(sum[:]) != exportedSum {
		t.Errorf("the bytes are not those of format 1, but of SHA-256 %x:\n%s", sum, whole)
	}
	listed, err := r.Client.ListEvents(t.Context(), &keytreev1.ListEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range listed.Blocks {
		block.StateRoot = "" // which depends on whether the server keeps it
	}
	if got := blocksIn(t, whole); !proto.Equal(&keytreev1.ListEventsResponse{Blocks: got}, &keytreev1.ListEventsResponse{Blocks: listed.Blocks}) {
		t.Errorf("exported %v, listed %v", got, listed.Blocks)
	}
	_, packed := r.Send(t, "GET", "/v1/export", "", "Accept-Encoding: gzip")
	unpacked, err := gzip.NewReader(strings.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(unpacked); err != nil || string(text) != whole {
		t.Errorf("compressed: %d bytes of %d, %v", len(text), len(whole), err)
	}

	for count := 1; count <= len(blocks); count++ {
		var text strings.Builder
		for query, part := "?", ""; text.Len() == 0 || part != ""; text.WriteString(part) {
			if response, part = r.Send(t, "GET", fmt.Sprint("/v1/export", query, "count=", count), ""); response.StatusCode != 200 {
				t.Fatal(part)
			}
			if got := blocksIn(t, part); len(got) > 0 {
				last := got[len(got)-1]
				query = fmt.Sprintf("?after_height=%d&after_hash=%s&", last.Height, last.Hash)
			}
		}
		if text.String() != whole {
			t.Errorf("in parts of %d blocks: %s", count, text.String())
		}
	}
}

// TestExportRefused asks badly, and after a block that has left the chain.
func TestExportRefused(t *testing.T) {
	c, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	gone := c.Block()
	r.Connect(t, gone)
	r.Disconnect(t, 1)
	for query, want := range map[string]struct {
		status int
		field  string
	}{
		"count=100001":                     {400, "count"},
		"count=-1":                         {400, "count"},
		"after_height=7":                   {400, "after_height"},
		"after_height=4294967295":          {400, "after_height"},
		"after_hash=" + gone.Hash.String(): {400, "after_height"},
		"after_height=6&after_hash=x":      {400, "after_hash"},
		"after_height=6&after_hash=" + gone.Hash.String(): {409, "after_hash"},
		"until_height=6": {400, "until_height"},
	} {
		response, answer := r.REST(t, "GET", "/v1/export?"+query, "")
		if response.StatusCode != want.status || field(answer) != want.field {
			t.Errorf("%s: %s %v, want %d about %s", query, response.Status, answer, want.status, want.field)
		}
	}
}

// TestExportOfMuchWork has a client export more than it may ask for at once: the answer ends with a line.
func TestExportOfMuchWork(t *testing.T) {
	c := &rpctest.Chain{}
	limits := admission.DefaultLimits()
	limits.Work = admission.Budget{All: 1000, One: 1} // ten calls at once, of which a connection is two
	r := rpctest.NewOf(t, rpc.Config{Admission: admission.New(admission.Config{Limits: limits})},
		rpctest.RequestsOf(c, 300), rpctest.RequestsOf(c, 300), rpctest.RequestsOf(c, 300))
	response, text := r.Send(t, "GET", "/v1/export", "")
	if blocks := blocksIn(t, text); response.StatusCode != 200 || len(blocks) != 2 || len(blocks[1].Events) != 300 {
		t.Errorf("%s, %d blocks", response.Status, len(blocks))
	}
}

// TestExportOfALongBlock has a client export a block of more events than he may ask for at once: the line is whole,
// and he has nothing left afterwards, so that he cannot have it again and again for the price of a call.
func TestExportOfALongBlock(t *testing.T) {
	c := &rpctest.Chain{}
	limits := admission.DefaultLimits()
	limits.Work = admission.Budget{All: 1000, One: 8} // 80 calls at once, or 4,000 events
	r := rpctest.NewOf(t, rpc.Config{Admission: admission.New(admission.Config{Limits: limits})}, rpctest.RequestsOf(c, 4200))
	response, text := r.Send(t, "GET", "/v1/export", "")
	if blocks := blocksIn(t, text); response.StatusCode != 200 || len(blocks) != 1 || len(blocks[0].Events) != 4200 {
		t.Fatalf("%s, %d blocks", response.Status, len(blocks))
	}
	all := slices.Repeat([]string{strconv.Quote(rpctest.Address("somebody"))}, 800) // what there is again after five seconds
	if response, _ := r.Send(t, "POST", "/v1/addresses:batchResolve", `{"addresses":[`+strings.Join(all, ",")+`]}`, "Content-Type: application/json"); response.StatusCode != 429 {
		t.Errorf("afterwards: %s, expected 429", response.Status)
	}
}

// pieces calls each with the number of every piece of an answer.
type pieces struct {
	*httptest.ResponseRecorder
	each func(n int)
	n    int
}

// Write implements http.ResponseWriter.
func (p *pieces) Write(b []byte) (int, error) {
	p.n++
	p.each(p.n)
	return p.ResponseRecorder.Write(b)
}

// TestExportWhileBlocksGo takes blocks back while they are exported.
func TestExportWhileBlocksGo(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	for name, test := range map[string]struct {
		requests int // of each block: some 600 bytes each
		broken   bool
	}{"between lines": {20, false}, "within a line": {2000, true}} {
		t.Run(name, func(t *testing.T) {
			c := &rpctest.Chain{}
			r := rpctest.New(t, c.Block())
			fork := *c
			fork.Salt = "fork"
			for range 20 {
				r.Connect(t, rpctest.RequestsOf(c, test.requests))
			}
			w := &pieces{ResponseRecorder: httptest.NewRecorder(), each: func(n int) {
				if n == 1 {
					r.Disconnect(t, 20)
					for range 20 {
						r.Connect(t, rpctest.RequestsOf(&fork, test.requests))
					}
				}
			}}
			broken := func() (cause any) {
				defer func() { cause = recover() }()
				identity.NewExport(r.Graph, r.Follower)(w, httptest.NewRequest("GET", "/v1/export", nil))
				return nil
			}()
			if (broken != nil) != test.broken || broken != nil && broken != http.ErrAbortHandler {
				t.Fatalf("broken off by %v", broken)
			}
			if text := w.Body.String(); test.broken {
				blocksIn(t, text[:strings.LastIndexByte(text, '\n')+1])
			} else if blocks := blocksIn(t, text); len(blocks) < 2 || len(blocks) > 19 {
				t.Errorf("%d blocks", len(blocks))
			}
		})
	}
}
