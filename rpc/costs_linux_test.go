package rpc_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/connect"
	"github.com/keytree-bch/keytree/rpc/explorer"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// mostPerCall is how much processor time one call takes at most, but for what is work by its size
// (cmd/keytree/OPERATING.md, "What one question may cost").
const mostPerCall = 100 * time.Millisecond

// mostAnswer is how many bytes an answer has at most, but for what is long by its size: 3 MB of gRPC, of which a character
// may take six bytes in JSON.
const mostAnswer = 10 << 20

// grpcAnswer is how many bytes a message has at most that clients of gRPC accept by default.
const grpcAnswer = 4 << 20

// cost is what a call may cost: why that is little whatever there is, or the questions of an adversary, who has paid for
// what they are about.
type cost struct {
	little string
	asked  []question
}

func little(why string) cost           { return cost{little: why} }
func asked(questions ...question) cost { return cost{asked: questions} }

// question is one that costs much. The zero values of what follows body are the usual.
type question struct {
	world        *costWorld
	method, path string
	body         func() any // makes that of a request, in JSON

	name       string // what is special about it
	list       string // the member of the answer that is a list
	full       int    // how many entries the fullest page has; 0: any number
	all        int    // how many entries all pages have; 0: any number
	size       int    // what is asked for is so many: its cost is by that, and counts as more calls
	each       string // is in an answer as often as its size is
	text       string // is in the answer
	code       int    // of the answer; 200
	unrepeated bool   // asked again, it would cost less
}

func (q question) as(name string) question     { q.name = name; return q }
func (q question) of(size int) question        { q.size = size; return q }
func (q question) ofEach(text string) question { q.each = text; return q }
func (q question) answers(code int) question   { q.code = code; return q }
func (q question) holds(text string) question  { q.text = text; return q }
func (q question) once() question              { q.unrepeated = true; return q }
func (q question) lists(list string, full, all int) question {
	q.list, q.full, q.all = list, full, all
	return q
}

// bySize tells whether the question is work by its size.
func (q question) bySize() bool { return q.size > 0 || q.each != "" }

// served are the names of all questions that strangers can ask over REST, gRPC and JSON-RPC: a call of gRPC has one name
// with its route of REST, and pages have their paths.
func served(t *testing.T) map[string]bool {
	t.Helper()
	routes, services, err := rpc.Served()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("web/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]map[string]struct{ OperationID string }
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	all := make(map[string]bool)
	pages := slices.Concat(explorer.Paths(), connect.Paths())
	for route := range routes {
		method, path, _ := strings.Cut(route, " ")
		if call := document.Paths[path][strings.ToLower(method)]; call.OperationID != "" {
			all[call.OperationID] = true
		} else if slices.Contains(pages, path) {
			all[path] = true
		} else {
			t.Errorf("%s has no name", route)
		}
	}
	for service, info := range services {
		for _, method := range info.Methods {
			if strings.HasPrefix(service, "keytree.") {
				all[method.Name] = true
			} else {
				all[service+"/"+method.Name] = true
			}
		}
	}
	var answer struct {
		Capabilities keyserver.Capabilities `json:"CAPABILITIES"`
	}
	rpctest.NewKeyserver(t, rpctest.KeyserverOptions{}).Call(t, "KeyRepository.Capabilities", rpctest.Object{}, &answer)
	for _, method := range answer.Capabilities.Methods {
		all[method] = true
	}
	for _, name := range elsewhere() {
		all[name] = true
	}
	return all
}

// TestEveryCallHasACost compares all questions that can be asked with the table of what they cost, costs. Whoever adds a call gives it a
// row there: questions that reach its bound, or why there is nothing that an adversary could make long.
func TestEveryCallHasACost(t *testing.T) {
	table, all := costs(newCostWorlds(t)), served(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if row, ok := table[name]; !ok || (row.little == "") == (len(row.asked) == 0) {
			t.Errorf("%s has neither an adversary's question nor a reason in the table of costs", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		if !all[name] {
			t.Errorf("%s is in the table of costs, and cannot be asked", name)
		}
	}
}

// TestAdversaryCalls asks the questions that cost most, of servers for whose contents somebody has paid: whatever these are, a
// page holds what a page may, its next page can be asked for, and together they have everything. The processor time of each is
// logged, and at full size it is bounded:
//
//	KEYTREE_EXHAUSTIVE=1 go test ./rpc -run AdversaryCalls -v -timeout 1h
func TestAdversaryCalls(t *testing.T) {
	if testing.Short() {
		t.Skip("it is about work, which goroutines do one by one")
	}
	w := newCostWorlds(t)
	w.fill(t)
	table := costs(w)
	for _, name := range slices.Sorted(maps.Keys(table)) {
		for _, q := range table[name].asked {
			t.Run(strings.TrimSuffix(name+", "+q.name, ", "), func(t *testing.T) { w.measure(t, name, q) })
		}
	}
}

// measure asks a question for all its pages, and logs what the longest took.
func (w *costWorlds) measure(t *testing.T, call string, q question) {
	most, fullest, all, pages := time.Duration(0), 0, 0, 0
	var longest []byte
	for token := ""; pages == 0 || token != ""; pages++ {
		at := q.path
		if token != "" {
			at = more(at, "page_token", token)
		}
		took, body := w.ask(t, q, at)
		if pages == 0 || took > most {
			most = took
		}
		if token = ""; len(body) > len(longest) {
			longest = body
		}
		if !bytes.Contains(body, []byte(q.text)) {
			t.Errorf("%s: expected %s in %.300s", at, q.text, body)
		}
		if q.each != "" {
			q.size = max(1, bytes.Count(body, []byte(q.each)))
		}
		if q.list != "" {
			var page map[string]json.RawMessage
			var entries []json.RawMessage
			err := json.Unmarshal(body, &page)
			if err == nil && page[q.list] != nil {
				err = json.Unmarshal(page[q.list], &entries)
			}
			if next := page["next_page_token"]; err == nil && next != nil {
				err = json.Unmarshal(next, &token)
			}
			if err != nil {
				t.Fatalf("%s: %v in %.300s", at, err, body)
			}
			fullest, all = max(fullest, len(entries)), all+len(entries)
		}
	}
	if q.full > 0 && fullest != q.full || q.all > 0 && all != q.all {
		t.Errorf("%d entries, %d on the fullest page; want %d and %d", all, fullest, q.all, q.full)
	}
	if !q.bySize() {
		if len(longest) > mostAnswer {
			t.Errorf("an answer of %d bytes", len(longest))
		}
		checkSize(t, call, longest)
	}
	if most > mostPerCall && !q.bySize() && exhaustive() {
		t.Errorf("%v of processor time, expected at most %v", most, mostPerCall)
	}
	each := ""
	if q.size > 0 {
		each = fmt.Sprintf(", %v for each of %d", most/time.Duration(q.size), q.size)
	}
	t.Logf("%s: %v of processor time%s, %d bytes, %d pages", t.Name(), most.Round(time.Microsecond), each, len(longest), pages)
}

// checkSize checks that an answer over REST is not too long for a client of gRPC, if the call is one of it, too.
func checkSize(t *testing.T, call string, body []byte) {
	t.Helper()
	protoregistry.GlobalFiles.RangeFilesByPackage("keytree.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			method := file.Services().Get(i).Methods().ByName(protoreflect.Name(call))
			if method == nil || method.IsStreamingServer() {
				continue
			}
			kind, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
			if err != nil {
				t.Fatal(err)
			}
			answer := kind.New().Interface()
			if err := protojson.Unmarshal(body, answer); err != nil {
				t.Fatal(err)
			}
			if size := proto.Size(answer); size > grpcAnswer {
				t.Errorf("a message of %d bytes, expected at most %d", size, grpcAnswer)
			}
		}
		return true
	})
}

// more adds a parameter to the query of a path.
func more(path, name, value string) string {
	mark := "?"
	if strings.Contains(path, "?") {
		mark = "&"
	}
	return path + mark + name + "=" + url.QueryEscape(value)
}

// ask asks a question for one page, some times, and returns the least processor time that it took: the rest is what other things of
// this process took meanwhile.
func (w *costWorlds) ask(t *testing.T, q question, path string) (took time.Duration, body []byte) {
	t.Helper()
	times := w.times
	if q.unrepeated {
		times = 1
	}
	for n := range times {
		text := []byte(nil)
		if q.body != nil {
			var err error
			if text, err = json.Marshal(q.body()); err != nil {
				t.Fatal(err)
			}
		}
		if strings.HasPrefix(path, "/v1/stream") {
			return w.follow(t, q.method, path, text)
		}
		request := httptest.NewRequestWithContext(t.Context(), q.method, path, bytes.NewReader(text))
		request.Header.Set("Content-Type", "application/json")
		answer := httptest.NewRecorder()
		this := processorTimeOf(t, func() { q.world.ServeHTTP(answer, request) })
		if want := cmp.Or(q.code, http.StatusOK); answer.Code != want {
			t.Fatalf("%s: %d, want %d: %.500s", path, answer.Code, want, answer.Body)
		}
		if n == 0 || this < took {
			took = this
		}
		body = answer.Body.Bytes()
	}
	if bytes.HasPrefix(body, []byte(`{"jsonrpc"`)) && bytes.Contains(body[:min(len(body), 100)], []byte(`"error"`)) {
		t.Fatalf("%s: %.500s", q.name, body)
	}
	return took, body
}

// follow follows a stream of the crowd until it has told of the tip, and returns the processor time of that, the client's included.
func (w *costWorlds) follow(t *testing.T, method, path string, body []byte) (took time.Duration, told []byte) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Minute)
	defer stop()
	request, err := http.NewRequestWithContext(ctx, method, w.names["crowd"]+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	took = processorTimeOf(t, func() {
		var response *http.Response
		if response, err = http.DefaultClient.Do(request); err != nil {
			return
		}
		defer response.Body.Close()
		lines := bufio.NewReader(response.Body)
		for line := []byte(nil); err == nil && !bytes.HasPrefix(line, []byte("id: "+w.names["tip"]+"-")); {
			line, err = lines.ReadBytes('\n')
			told = append(told, line...)
		}
	})
	if err != nil {
		t.Fatalf("%v after %.500s", err, told)
	}
	return took, told
}

// processorTimeOf returns what this process takes of the processor for a question.
func processorTimeOf(t *testing.T, ask func()) time.Duration {
	t.Helper()
	start := processorTime()
	if start == 0 {
		t.Fatal("the system does not tell")
	}
	ask()
	return processorTime() - start
}
