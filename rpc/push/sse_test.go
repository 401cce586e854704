package push_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// event is one of server-sent events. Without a name it is an id alone.
type event struct{ name, id, data, retry string }

// sse reads server-sent events, as the HTML standard says.
type sse struct {
	lines *bufio.Reader
}

// next returns the next event. io.EOF if the stream has ended; what is not whole is none.
func (s *sse) next() (e event, err error) {
	for some := false; ; {
		line, err := s.lines.ReadString('\n')
		if err != nil {
			return event{}, err
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "":
			if some {
				return e, nil
			}
			continue
		case "event":
			e.name = value
		case "id":
			e.id = value
		case "data":
			e.data += value
		case "retry":
			e.retry = value
		}
		some = true
	}
}

// client is a stream that a test has asked for.
type client struct {
	t        *testing.T
	response *http.Response
	sse
}

// ask asks for a stream, with headers as NAME: VALUE, until the test or ctx ends.
func ask(ctx context.Context, t *testing.T, url, body string, headers ...string) *client {
	t.Helper()
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return &client{t, response, sse{bufio.NewReader(response.Body)}}
}

// message returns the next event, and its data.
func (c *client) message() (event, *keytreev1.WatchResponse) {
	c.t.Helper()
	e, err := c.next()
	if err != nil {
		c.t.Fatal(err)
	}
	m := new(keytreev1.WatchResponse)
	if e.data != "" && e.name != "fault" {
		if err := protojson.Unmarshal([]byte(e.data), m); err != nil {
			c.t.Fatal(err)
		}
	}
	return e, m
}

// line is an event in short.
func line(e event, m *keytreev1.WatchResponse) string {
	parts := []string{e.name}
	if m.Block != nil {
		parts = append(parts, fmt.Sprint(m.Block.Height))
		for _, event := range m.Block.Events {
			parts = append(parts, event.Type)
		}
	}
	changes := func(keys, ids []string) {
		for _, key := range keys {
			parts = append(parts, "*"+nameOf(key))
		}
		for _, id := range ids {
			parts = append(parts, "*"+id[:8])
		}
	}
	if m.Block.GetType() == "CONNECT" { // of others it may not be known
		changes(m.Changed, m.ChangedIds)
	}
	switch {
	case m.Pending != nil:
		parts = append(parts, m.Pending.Action.Kind, m.Pending.Action.State)
	case m.PendingEvent != nil:
		parts = append(parts, m.PendingEvent.Event.Type)
	case m.AllPending:
		parts = append(parts, "all")
	case m.PendingChanges != nil:
		changes(m.PendingChanges.Changed, m.PendingChanges.ChangedIds)
		parts = append(parts, fmt.Sprint("by ", len(m.PendingChanges.By)))
	case m.Dropped != "":
		parts = append(parts, m.Dropped[:8])
	}
	return strings.Join(parts, " ")
}

// nameOf is the name of a test key.
func nameOf(address string) string {
	for _, name := range []string{"child", "parent", "grandchild", "lone"} {
		if rpctest.Address(name) == address {
			return name
		}
	}
	return address
}

// expect reads the next events, ids alone but for the first left out.
func (c *client) expect(want ...string) {
	c.t.Helper()
	for i, want := range want {
		e, m := c.message()
		if got := line(e, m); got != want {
			c.t.Fatalf("event %d is %q, want %q", i, got, want)
		}
	}
}

func idOf(b graph.Block) string { return fmt.Sprintf("%d-%v-0", b.Height, b.Hash) }

func addresses(names ...string) string {
	var list []string
	for _, name := range names {
		list = append(list, rpctest.Address(name))
	}
	return strings.Join(list, ",")
}

// TestFilters follows a family from its beginning.
func TestFilters(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	quoted := func(names ...string) string { return `"` + strings.ReplaceAll(addresses(names...), ",", `","`) + `"` }
	mlr1, mcr1 := rpctest.HashOf("mlr1").String(), rpctest.HashOf("mcr1").String()
	for name, test := range map[string]struct {
		query, body string
		want        []string
	}{
		"everything": {query: "", want: []string{"connect 0", "connect 1 REQUEST_OPENED", "connect 2 LINK_FORMED IDENTITY_NAMED", "connect 3 REQUEST_OPENED LINK_FORMED",
			"connect 4 ACTION_REFUSED ACTION_WAITING", "connect 5 LINK_CUT IDENTITY_NAMED", "connect 6 REQUEST_OPENED LINK_FORMED IDENTITY_MERGED"}},
		"a key, by what happens above it as well": {query: "&addresses=" + addresses("grandchild"), want: []string{
			"connect 3 REQUEST_OPENED LINK_FORMED *grandchild", "connect 5 *grandchild", "connect 6 *grandchild"}},
		"two keys": {query: "&addresses=" + addresses("grandchild", "parent"), want: []string{
			"connect 1 REQUEST_OPENED", "connect 2 LINK_FORMED IDENTITY_NAMED *parent", "connect 3 REQUEST_OPENED LINK_FORMED *grandchild",
			"connect 4 ACTION_WAITING", "connect 5 LINK_CUT *grandchild", "connect 6 REQUEST_OPENED LINK_FORMED *grandchild"}},
		"an identity": {query: "&ids=" + mcr1, want: []string{"connect 5 IDENTITY_NAMED *" + mcr1[:8], "connect 6 IDENTITY_MERGED *" + mcr1[:8]}},
		"in a body":   {body: `{"addresses": [` + quoted("grandchild") + `], "ids": ["` + mcr1 + `"]}`, want: []string{"connect 3 REQUEST_OPENED LINK_FORMED *grandchild"}},
		"all in a body": {body: `{"from_height": 4, "ids": ["` + mlr1 + `"]}`,
			want: []string{"connect 5 LINK_CUT *" + mlr1[:8]}},
		"a key that nobody knows": {query: "&addresses=" + addresses("lone")},
	} {
		t.Run(name, func(t *testing.T) {
			url := r.URL + "/v1/stream?from_height=0" + test.query
			if strings.Contains(test.body, "from_height") {
				url = r.URL + "/v1/stream"
			}
			c := ask(t.Context(), t, url, test.body)
			if e, _ := c.message(); e.name != "" || e.id == "" || e.retry != "3000" {
				t.Errorf("the stream begins with %v, want an id and retry", e)
			}
			c.expect(test.want...)
		})
	}
}

// TestComingBack comes back after each event of a stream, also after blocks were taken back.
func TestComingBack(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	url := r.URL + "/v1/stream?addresses=" + addresses("child", "grandchild") + "&from_height=0"
	whole := ask(t.Context(), t, url, "")
	var ids, lines []string
	for len(lines) < 6 {
		e, m := whole.message()
		ids, lines = append(ids, e.id), append(lines, line(e, m))
	}
	if want := idOf(blocks[6]); ids[5] != want {
		t.Errorf("the last id is %q, want %q", ids[5], want)
	}
	for i, id := range ids[:5] {
		ask(t.Context(), t, url, "", "Last-Event-ID: "+id).expect(append([]string{""}, lines[i+1:]...)...)
		ask(t.Context(), t, url+"&last_id="+id, "").expect(append([]string{""}, lines[i+1:]...)...)
	}

	r.Disconnect(t, 2)
	fork := &rpctest.Chain{Next: 5, Prev: blocks[4].Hash, Salt: "fork"}
	r.Connect(t, fork.Block(), fork.Block(rpctest.MCR("again", "parent", "mla1")))
	want := []string{"disconnect 6", "disconnect 5", "connect 6 LINK_CUT IDENTITY_NAMED *grandchild *child"}
	if rpctest.Key("child")[0] < rpctest.Key("grandchild")[0] {
		want[2] = "connect 6 LINK_CUT IDENTITY_NAMED *child *grandchild"
	}
	whole.expect(want...)
	ask(t.Context(), t, url, "", "Last-Event-ID: "+ids[5]).expect(append([]string{""}, want...)...)
	ask(t.Context(), t, url, "", "Last-Event-ID: "+ids[4]).expect(append([]string{""}, want[1:]...)...)
	ask(t.Context(), t, url, "", "Last-Event-ID: "+ids[3]).expect("", want[2])
	// Who began where the fork is has no block that could be taken back.
	ask(t.Context(), t, r.URL+"/v1/stream?addresses="+addresses("child")+"&from_height=6", "", "Last-Event-ID: "+ids[5]).expect("", "disconnect 6", "connect 6 LINK_CUT IDENTITY_NAMED *child")
}

// TestPending follows what is pending.
func TestPending(t *testing.T) {
	c, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	cut := rpctest.MCR("cut", "parent", "mla3")
	r.Suppose(t, "", nil, cut, rpctest.MLR("ask", "lone", "child", ""))
	url := r.URL + "/v1/stream?unconfirmed=true"
	all := ask(t.Context(), t, url, "")
	grandchild := ask(t.Context(), t, url+"&addresses="+addresses("grandchild"), "")
	lone := ask(t.Context(), t, url, `{"addresses": ["`+addresses("lone")+`"]}`)
	first := []string{"pending MCR DONE", "pending MLR OPEN"}
	for range 2 {
		e, m := all.message()
		if e.name == "" {
			e, m = all.message()
		}
		if i := slices.Index(first, line(e, m)); i >= 0 && e.id == "" {
			first = slices.Delete(first, i, i+1)
		}
	}
	if len(first) > 0 {
		t.Errorf("not told at first: %v", first)
	}
	all.expect("pending all", "")
	grandchild.expect("", "pending *grandchild by 1", "pending all", "")
	lone.expect("", "pending MLR OPEN", "pending by 0", "pending all", "")

	// The request goes, and an anchor comes.
	r.Suppose(t, "cut", []rpctest.AnchorTx{rpctest.AnchorOf(t, "lone", rpctest.Record("example.org", 1))}, cut)
	lone.expect("drop "+rpctest.HashOf("ask").String()[:8], "pending ANCHOR_ADDED")

	// The cut is mined: nothing is dropped.
	r.Connect(t, c.Block(cut))
	r.Suppose(t, "", nil)
	grandchild.expect("connect 7 *grandchild", "pending by 0")
	mined := false
	for !mined {
		e, m := all.message()
		if e.name == "drop" && m.Dropped == rpctest.HashOf("cut").String() {
			t.Error("what was mined was told as dropped")
		}
		mined = line(e, m) == "connect 7 LINK_CUT IDENTITY_NAMED"
	}
}

// fault reads a stream up to its fault, and to its end.
func (c *client) fault() (event, *keytreev1.StreamFault) {
	c.t.Helper()
	for {
		e, _ := c.message()
		if e.name != "fault" {
			continue
		}
		f := new(keytreev1.StreamFault)
		if err := protojson.Unmarshal([]byte(e.data), f); err != nil {
			c.t.Fatal(err)
		}
		if _, err := c.next(); err != io.EOF {
			c.t.Errorf("behind a fault: %v, want the end", err)
		}
		return e, f
	}
}

// TestFaults ends streams for each reason.
func TestFaults(t *testing.T) {
	_, blocks := rpctest.Family()
	limits := admission.DefaultLimits()
	limits.Streams, limits.Patience = admission.Budget{All: 1, One: 1}, 1
	full := rpctest.NewOf(t, rpc.Config{Admission: admission.New(admission.Config{Limits: limits})}, blocks...)
	r := rpctest.New(t, blocks...)
	other := strings.Repeat("ab", 32)

	e, f := ask(t.Context(), t, r.URL+"/v1/stream", "", "Last-Event-ID: 6-"+other+"-0").fault()
	if f.Reason != "OUTDATED_CURSOR" || f.RetryAfter != 0 {
		t.Errorf("a block that nobody knows: %v", f)
	}
	if back := ask(t.Context(), t, r.URL+"/v1/stream", "", "Last-Event-ID: "+e.id); back.response.StatusCode != http.StatusNoContent {
		t.Errorf("who comes back after that: %s, want 204", back.response.Status)
	}
	e, f = ask(t.Context(), t, r.URL+"/v1/stream", "", "Last-Event-ID: 7-"+other+"-0").fault()
	if f.Reason != "FUTURE_CURSOR" || f.RetryAfter < 10 || e.retry < "10000" || e.id != "" {
		t.Errorf("a block beyond the tip: %v, %v", e, f)
	}

	// The first has its place for as long as patience wants; then the second has it.
	first := ask(t.Context(), t, full.URL+"/v1/stream", "")
	ask(t.Context(), t, full.URL+"/v1/stream", "").expect("")
	if e, f = first.fault(); f.Reason != "CONSUMER_TOO_SLOW" || e.retry == "" || f.RetryAfter == 0 {
		t.Errorf("a stream whose place another has got: %v, %v", e, f)
	}
	limits.Streams, limits.Patience = admission.Budget{All: 1, One: 1}, admission.DefaultLimits().Patience
	busy := new(rpctest.Rig)
	busy.Serve(t, rpc.Config{Graph: r.Graph, Indexer: r.Follower, Net: rpctest.Net, Admission: admission.New(admission.Config{Limits: limits})})
	ask(t.Context(), t, busy.URL+"/v1/stream", "").expect("")
	second := ask(t.Context(), t, busy.URL+"/v1/stream", "")
	if e, f = second.fault(); f.Reason != "BUSY" || second.response.Header.Get("Retry-After") == "" || e.retry == "" {
		t.Errorf("too many streams: %v, %v, %v", e, f, second.response.Header)
	}

	open := ask(t.Context(), t, r.URL+"/v1/stream", "")
	open.expect("")
	r.Follower.Set(indexer.Status{})
	if _, f = ask(t.Context(), t, r.URL+"/v1/stream", "").fault(); f.Reason != "UNAVAILABLE" {
		t.Errorf("before the blocks were compared with the node's: %v", f)
	}
	r.Stop()
	if e, f = open.fault(); f.Reason != "STOPPING" || e.id != "" || f.RetryAfter < 3 {
		t.Errorf("a server that stops: %v, %v", e, f)
	}
}

// TestRefusedStreams asks for what is none.
func TestRefusedStreams(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	many := strings.Repeat(rpctest.Address("child")+",", 100) + rpctest.Address("child")
	for _, test := range []struct{ query, body, header, field string }{
		{query: "addresses=x", field: "addresses[0]"},
		{query: "addresses=" + many, field: "addresses"},
		{query: "ids=x", field: "ids[0]"},
		{query: "from_height=8", field: "from_height"},
		{query: "from_height=x", field: "from_height"},
		{query: "known_hash=" + strings.Repeat("ab", 32), field: "from_height"},
		{query: "last_id=x", field: "last_id"},
		{query: "last_id=1-00-0", field: "last_id"},
		{query: "last_id=4294967295-" + strings.Repeat("ab", 32) + "-0", field: "last_id"},
		{header: "Last-Event-ID: 1-2", field: "last_id"},
		{query: "nonsense=1", field: "nonsense"},
		{query: "unconfirmed=maybe", field: "query"},
		{query: "addresses=" + addresses("child"), body: `{}`, field: "addresses"},
		{body: `{"addresses": "x"}`, field: "body"},
		{body: `{"addresses": [` + strings.Repeat(`"x",`, graph.MaxFollowed) + `"x"]}`, field: "addresses"},
	} {
		headers := []string{"Accept: text/event-stream"}
		if test.header != "" {
			headers = append(headers, test.header)
		}
		c := ask(t.Context(), t, r.URL+"/v1/stream?"+test.query, test.body, headers...)
		body, err := io.ReadAll(c.response.Body)
		if err != nil || c.response.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), `"`+test.field+`"`) {
			t.Errorf("%.100s %.100s: %s %.300s, want 400 about %s", test.query, test.body, c.response.Status, body, test.field)
		}
	}
	if response, body := r.Send(t, "HEAD", "/v1/stream", ""); response.StatusCode != 200 || body != "" || response.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("HEAD: %s, %v", response.Status, response.Header)
	}
}
