package push_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// cutting stands before a server, and breaks connections off after any byte of what the server sends. It has browsers
// come back sooner than the server says, for the test to take less long.
type cutting struct {
	listener net.Listener
	to       string
	cuts     chan int // after so many bytes; of the next connections
	asked    atomic.Int32
	ends     context.CancelFunc
	running  sync.WaitGroup

	mu   sync.Mutex
	open map[net.Conn]bool // mu; to the browser
}

func newCutting(t *testing.T, to string) *cutting {
	ctx, cancel := context.WithCancel(context.Background())
	p := &cutting{listener: rpctest.Listen(t), to: strings.TrimPrefix(to, "http://"), cuts: make(chan int, 100), ends: cancel, open: make(map[net.Conn]bool)}
	p.running.Go(func() {
		for {
			c, err := p.listener.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.pass(ctx, c) })
		}
	})
	t.Cleanup(func() {
		p.ends()
		p.listener.Close()
		p.running.Wait()
	})
	return p
}

// breakOff breaks all connections off.
func (p *cutting) breakOff() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.Close()
	}
}

// Write counts requests: a browser sends each at once.
func (p *cutting) Write(b []byte) (int, error) {
	if strings.HasPrefix(string(b), "GET ") {
		p.asked.Add(1)
	}
	return len(b), nil
}

// pass passes on what one connection brings.
func (p *cutting) pass(ctx context.Context, c net.Conn) {
	p.mu.Lock()
	p.open[c] = true
	p.mu.Unlock()
	defer func() {
		c.Close()
		p.mu.Lock()
		delete(p.open, c)
		p.mu.Unlock()
	}()
	to, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer to.Close()
	defer context.AfterFunc(ctx, func() { c.Close(); to.Close() })()
	gone := make(chan struct{})
	defer func() { <-gone }()
	defer c.Close()
	go func() {
		defer close(gone)
		io.Copy(io.MultiWriter(to, p), c)
		to.Close()
	}()
	left := -1
	select {
	case left = <-p.cuts:
	default:
	}
	for b := make([]byte, 64<<10); ; {
		n, err := to.Read(b)
		sent := sooner(b[:n])
		if left >= 0 && len(sent) >= left {
			c.Write(sent[:left])
			return
		}
		if left >= 0 {
			left -= len(sent)
		}
		if _, failed := c.Write(sent); err != nil || failed != nil {
			return
		}
	}
}

var retryLine = regexp.MustCompile(`retry: \d+`)

// sooner makes of every time to come back 50 ms, in as many bytes.
func sooner(b []byte) []byte {
	return retryLine.ReplaceAllFunc(b, func(line []byte) []byte {
		return fmt.Appendf(nil, "retry: %0*d", len(line)-len("retry: "), 50)
	})
}

func (p *cutting) url() string { return "http://" + p.listener.Addr().String() }

// report is what the page says of a stream: open, broken (the browser comes back), closed (it does not), or an event.
type report struct{ Stream, Event, ID, Data string }

// page is what the browser's page is told, and what it tells.
type page struct {
	Streams map[string]string `json:"streams"`
	Fetched struct {
		URL string `json:"url"`
		ID  string `json:"id"`
	} `json:"fetched"`
	told chan report
}

// ServeHTTP implements http.Handler.
func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/streams":
		json.NewEncoder(w).Encode(p)
	case "/told":
		var reports []report
		if err := json.NewDecoder(r.Body).Decode(&reports); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for _, one := range reports {
			select {
			case p.told <- one:
			case <-r.Context().Done():
			}
		}
	default:
		http.ServeFile(w, r, "testdata/eventsource.html")
	}
}

// browse opens a page in a browser that ends with the test, and tells when it has ended.
func browse(t *testing.T, page string) (ended <-chan struct{}) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a browser")
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil && os.Getenv("KEYTREE_CLIENTS") != "" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip("chromium is not installed; .ci/run installs it")
	}
	profile, err := os.MkdirTemp("", "keytree-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	cmd := exec.Command(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--user-data-dir="+profile, page)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &said, &said, time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		cmd.Wait() // how it ends does not matter
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM) // it ends its children then
		force := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
		<-gone
		force.Stop()
		os.RemoveAll(profile) // which a child that is not gone yet may hinder
		if t.Failed() {
			t.Logf("the browser said:\n%.4000s", said.String())
		}
	})
	return gone
}

// follower is a stream of the page's, with what it should have in the end.
type follower struct {
	*model
	filter []string
	before *cutting
	opened int
	closed int // by the browser for good: then the page has come back
}

// take makes something of what the page says of the stream.
func (f *follower) report(r report) error {
	switch r.Event {
	case "open":
		f.opened++
		f.connected()
		return nil
	case "broken":
		return nil
	case "closed":
		f.closed++
		return nil
	case "fault":
		return fmt.Errorf("%s %s", r.Event, r.Data)
	}
	m := new(keytreev1.WatchResponse)
	if err := protojson.Unmarshal([]byte(r.Data), m); err != nil {
		return err
	}
	m.Id = r.ID
	return f.take(m)
}

// TestEventSource is TestPropertyComingBack for a browser's own EventSource, on a page of another origin: it comes back by itself,
// with the id that it had. And it sees how a browser takes the ends of streams.
func TestEventSource(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	const streams, rounds, cuts = 4, 4, 3
	c := &rpctest.Chain{}
	blocks := []graph.Block{c.Block()}
	origins := []string{"*"}
	r := rpctest.NewOf(t, rpc.Config{Origins: origins}, blocks...)
	limits := admission.DefaultLimits()
	limits.Streams, limits.Patience = admission.Budget{All: 1, One: 1}, time.Hour
	full := new(rpctest.Rig)
	full.Serve(t, rpc.Config{Graph: r.Graph, Indexer: r.Follower, Net: rpctest.Net, Origins: origins, Admission: admission.New(admission.Config{Limits: limits})})
	here, leave := context.WithCancel(t.Context())
	defer leave()
	ask(here, t, full.URL+"/v1/stream", "").expect("")

	p := &page{Streams: make(map[string]string), told: make(chan report)}
	followers := make(map[string]*follower)
	pick := rand.New(rand.NewPCG(1, 2))
	for i := range streams {
		f := &follower{model: newModel(), before: newCutting(t, r.URL)}
		for n := range keys {
			if i > 0 && pick.IntN(2) == 0 {
				f.filter = append(f.filter, rpctest.Address(name(n)))
			}
		}
		followers[fmt.Sprint("cut", i)] = f
		p.Streams[fmt.Sprint("cut", i)] = f.before.url() + "/v1/stream?" + url.Values{"from_height": {"0"}, "unconfirmed": {"true"}, "addresses": {strings.Join(f.filter, ",")}}.Encode()
	}
	outdated, bad, busy := newCutting(t, r.URL), newCutting(t, r.URL), newCutting(t, full.URL)
	p.Streams["outdated"] = outdated.url() + "/v1/stream?last_id=0-" + strings.Repeat("ab", 32) + "-0"
	p.Streams["bad"] = bad.url() + "/v1/stream?addresses=nobody"
	p.Streams["busy"] = busy.url() + "/v1/stream?from_height=0"
	p.Fetched.URL, p.Fetched.ID = r.URL+"/v1/stream", idOf(blocks[0])
	home := httptest.NewServer(p)
	t.Cleanup(home.Close)
	gone := browse(t, home.URL)

	others := make(map[string][]string)
	// hear takes what the page says until something holds.
	hear := func(what string, holds func() bool) {
		t.Helper()
		for late := time.After(2 * time.Minute); !holds(); {
			select {
			case one := <-p.told:
				f := followers[one.Stream]
				if f == nil {
					others[one.Stream] = append(others[one.Stream], strings.TrimSpace(one.Event+" "+reasonIn(one)))
				} else if err := f.report(one); err != nil {
					t.Fatalf("stream %s: %v", one.Stream, err)
				}
			case <-gone:
				t.Fatal("the browser has ended")
			case <-late:
				t.Fatalf("in vain: %s; of others the page has said %q", what, others)
			}
		}
	}
	has := func(stream, event string) func() bool {
		return func() bool { return slices.Contains(others[stream], event) }
	}

	// What comes back to a place that nobody knows is told so, and then to stay away; what asks for nonsense never comes back;
	// what found no room does.
	hear("the end of a stream that is outdated", has("outdated", "closed"))
	hear("the end of a bad one", has("bad", "closed"))
	hear("another try where there is no room", func() bool { return len(others["busy"]) >= 6 && busy.asked.Load() >= 2 })
	leave()
	hear("room", has("busy", "connect"))
	if got := strings.Join(others["outdated"], ", "); got != "open, fault OUTDATED_CURSOR, broken, closed" || outdated.asked.Load() > 2 {
		t.Errorf("an outdated stream: %s, by %d requests", got, outdated.asked.Load())
	}
	if got := strings.Join(others["bad"], ", "); got != "closed" || bad.asked.Load() != 1 {
		t.Errorf("a bad one: %s, by %d requests", got, bad.asked.Load())
	}
	if got := strings.Join(others["busy"], ", "); !strings.HasPrefix(got, "open, fault BUSY, broken, open, fault BUSY, broken") {
		t.Errorf("one without room: %s", got)
	}
	hear("an answer to fetch", func() bool { return len(others["fetch"]) > 0 })
	if got := others["fetch"][0]; !strings.HasPrefix(got, "200 retry: ") || !strings.Contains(got, "id: "+p.Fetched.ID) {
		t.Errorf("fetch with Last-Event-ID: %s", got)
	}

	// The chain changes, and connections break, in between and meanwhile.
	w := &world{parents: make(map[string]string)}
	var supposed []links.Action
	made := rapid.Custom(func(rt *rapid.T) bool {
		for range rounds {
			if n := rapid.IntRange(0, min(3, len(blocks)-1)).Draw(rt, "taken back"); n > 0 {
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
			for _, f := range followers {
				for range cuts {
					f.before.cuts <- rapid.IntRange(1, 6000).Draw(rt, "bytes")
				}
				f.before.breakOff()
			}
			before := opened(followers)
			hear("the browser, back", func() bool { return opened(followers) >= before+streams })
		}
		return true
	})
	seed := int(time.Now().UnixNano() % 1000)
	t.Logf("chain %d", seed)
	made.Example(seed)
	for name, f := range followers {
		want := newModel()
		if err := want.ofGraph(t, r.Graph, f.filter, supposed); err != nil {
			t.Fatal(err)
		}
		hear("all of stream "+name, func() bool { return f.whole && f.text() == want.text() })
	}
	closed := 0
	for _, f := range followers {
		closed += f.closed
	}
	t.Logf("%d streams were opened %d times, and closed for good %d times", streams, opened(followers), closed)
}

func opened(all map[string]*follower) (n int) {
	for _, f := range all {
		n += f.opened
	}
	return n
}

// reasonIn is what is to be known of an event's data.
func reasonIn(r report) string {
	f := new(keytreev1.StreamFault)
	switch {
	case r.Event == "fault" && protojson.Unmarshal([]byte(r.Data), f) == nil:
		return f.Reason
	case r.Stream == "fetch":
		return r.Data
	}
	return ""
}
