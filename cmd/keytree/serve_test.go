package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/rpc/client"
)

// TestServe plays a small history with the commands alone, on a real node and a
// real server process, and looks at it with every command that asks.
func TestServe(t *testing.T) {
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	a, b, c, stranger := regtest.NewKey(), regtest.NewKey(), regtest.NewKey(), regtest.NewKey()
	fund(t.Context(), t, n, a, b, c, stranger)
	dataDir := t.TempDir()
	serving := startProgram(t, nil, serveArgs(n.URL(), dataDir)...)
	server, rest := serving.awaitServing()
	awaitTip(t, server, n)
	w := &linkWorld{t: t, node: n, server: server, rest: rest}

	t.Run("nothing linked", func(t *testing.T) {
		out := mustKeytree(t, "resolve", a.Address(), "--server", server)
		wantParts(t, out, a.Address(), "never linked, its own identity")
		out = mustKeytree(t, "tree", a.Address(), "--server", server)
		wantParts(t, out, "never linked", a.Address()+"  ◀\n")
		wantParts(t, mustKeytree(t, "history", a.Address(), "--server", server), "0 actions as of block")
		keytree(t, "tree", someTxID, "--server", server).wantError(t, exitFailed, "id_tx_hash: no identity "+someTxID)
		keytree(t, "history", someTxID, "--server", server).wantError(t, exitFailed, "id_tx_hash: no identity "+someTxID)
	})

	request := w.link(b, "request", "--parent", a.Address(), "--message", "please")
	w.refused(stranger, "NOT_THE_PARENT", "accept", request)
	w.refused(a, "WRONG_KIND", "revoke", request)
	if o := w.try(b, "request", "--parent", b.Address()); !strings.Contains(o.stderr, "SELF_LINK") {
		t.Errorf("a request to oneself: %+v", o)
	}
	w.try(a, "accept", someTxID).wantError(t, exitFailed, "neither the server nor the node knows a transaction")
	accept := w.link(a, "accept", request)
	w.refused(a, "REQUEST_USED", "accept", request)
	w.refused(a, "WRONG_KIND", "accept", accept)
	w.refused(b, "NOT_THE_PARENT", "revoke", accept)
	linkedAt, _, err := n.Tip(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	// Accepts of what is not confirmed yet are checked against the mempool.
	unconfirmed := w.send(c, "request", "--parent", b.Address())
	w.refused(a, "NOT_THE_PARENT", "accept", unconfirmed)
	w.refused(b, "WRONG_KIND", "revoke", unconfirmed)
	o := w.try(b, "accept", unconfirmed)
	if o.code != exitDone || !strings.Contains(o.stderr, "is not confirmed yet") {
		t.Errorf("accepting an unconfirmed request: %+v", o)
	}
	regtest.Await(t, func() string {
		if out := mustKeytree(t, "status", "--server", server); !strings.Contains(out, "2 transactions, 2 pending, stream") {
			return "the status is\n" + out
		}
		return ""
	})
	pending := mustKeytree(t, "resolve", c.Address(), "--unconfirmed", "--server", server)
	wantParts(t, pending, unconfirmed, b.Address())
	mine(t, server, n)

	// What can be accepted only later is noted, and refused when it is accepted.
	again := w.send(c, "request", "--parent", a.Address())
	if notes := w.notes; !strings.Contains(notes, "the child has a parent, "+b.Address()) {
		t.Errorf("notes %q", notes)
	}
	loop := w.send(a, "request", "--parent", c.Address())
	if notes := w.notes; !strings.Contains(notes, "is the root of the parent's own tree") {
		t.Errorf("notes %q", notes)
	}
	mine(t, server, n)
	w.refused(a, "CHILD_HAS_PARENT", "accept", again)
	w.refused(c, "LOOP", "accept", loop)
	forced := w.link(c, "accept", loop, "--force")
	wantParts(t, mustKeytree(t, "history", c.Address(), "--server", server), forced, "REFUSED, LOOP")
	w.refused(c, "ACCEPT_REFUSED", "revoke", forced)

	t.Run("tree", func(t *testing.T) {
		want := a.Address() + "\n└─ " + b.Address() + "  ◀\n   └─ " + c.Address() + "\n"
		wantParts(t, mustKeytree(t, "tree", b.Address(), "--server", server), "identity "+request+"\n3 keys, as of block ", want)
		wantParts(t, mustKeytree(t, "tree", strings.ToUpper(request), "--server", server), a.Address()+"\n└─ "+b.Address()+"\n")
		wantParts(t, mustKeytree(t, "tree", c.Address(), "--server", server, "--limit", "2"),
			"… 1 key more (--limit)", c.Address()+"  ◀ is not among them: 2 links below the root")
		wantParts(t, mustKeytree(t, "tree", c.Address(), "--server", server, "--at", fmt.Sprint(linkedAt)), "never linked")
	})
	t.Run("plain text", func(t *testing.T) {
		wantParts(t, mustKeytree(t, "status", "--server", "http://"+server), "regtest")
		keytree(t, "status", "--server", "https://"+server).wantError(t, exitFailed, "does it speak plain text?")
	})
	t.Run("resolve", func(t *testing.T) {
		out := mustKeytree(t, "resolve", c.Address(), "--server", server)
		wantParts(t, out, "identity      "+request, "main address  "+a.Address(), "child of      "+b.Address())
		all := mustKeytree(t, "resolve", a.Address(), b.Address(), stranger.Address(), "--server", server)
		lines := strings.Split(strings.TrimSpace(all), "\n")
		if len(lines) != 4 || !strings.HasSuffix(lines[2], "  1      "+request) || !strings.HasSuffix(lines[3], "  0      -") {
			t.Errorf("it printed\n%s", all)
		}
		stdin := keytreeWith(t, a.Address()+"\n"+b.Address()+" "+stranger.Address()+"\n", "resolve", "-", "--server", server)
		if stdin.stdout != all {
			t.Errorf("from standard input\n%s\nas arguments\n%s", stdin.stdout, all)
		}
		// More than one portion, as of one block.
		many := keytreeWith(t, strings.Repeat(b.Address()+"\n", client.MaxBatch+5), "resolve", "-", "--server", server)
		if many.code != exitDone || strings.Count(many.stdout, request) != client.MaxBatch+5 || strings.Count(many.stdout, "ADDRESS") != 2 {
			t.Errorf("%d addresses: exit code %d, %d answers; %s", client.MaxBatch+5, many.code, strings.Count(many.stdout, request), many.stderr)
		}
		bad := keytreeWith(t, strings.Repeat(b.Address()+"\n", client.MaxBatch)+wrongSum, "resolve", "-", "--server", server)
		if bad.code != exitUsage || !strings.Contains(bad.stderr, "after the first 10000 addresses: addresses[0]") {
			t.Errorf("a bad address in the second portion: exit code %d, %q", bad.code, bad.stderr)
		}
	})
	t.Run("history", func(t *testing.T) {
		out := mustKeytree(t, "history", request, "--server", server)
		wantParts(t, out, request, accept, unconfirmed, `message    "please"`, "USED by "+accept)
		if strings.Count(out, accept+"\n") < 1 || strings.Index(out, "MLR  "+request) > strings.Index(out, "MLA  "+accept) {
			t.Errorf("not in order:\n%s", out)
		}
		cut := keytree(t, "history", request, "--server", server, "--limit", "1")
		if !strings.Contains(cut.stderr, "there is more") {
			t.Errorf("--limit 1: %+v", cut)
		}
	})
	t.Run("JSON is REST's", func(t *testing.T) {
		at := fmt.Sprint(linkedAt)
		for path, command := range map[string][]string{
			"/v1/status":                   {"status"},
			"/v1/addresses/" + c.Address(): {"resolve", c.Address()},
			"/v1/addresses/" + c.Address() + "?at_height=100":     {"resolve", c.Address(), "--at", "100"},
			"/v1/identities/" + request + "/keys":                 {"tree", request},
			"/v1/identities/" + request + "/keys?at_height=" + at: {"tree", b.Address(), "--at", at},
			"/v1/addresses/" + a.Address() + "/actions":           {"history", a.Address()},
		} {
			got := mustKeytree(t, append(command, "--json", "--server", server)...)
			if want := w.get(path); !sameJSON(t, got, want) {
				t.Errorf("%q --json printed\n%s\nREST says\n%s", command, got, want)
			}
		}
		got := mustKeytree(t, "resolve", a.Address(), b.Address(), "--json", "--server", server)
		body, _ := json.Marshal(map[string][]string{"addresses": {a.Address(), b.Address()}})
		if want := w.post("/v1/addresses:batchResolve", body); !sameJSON(t, got, want) {
			t.Errorf("resolve of two printed\n%s\nREST says\n%s", got, want)
		}
	})
	t.Run("bad questions", func(t *testing.T) {
		for _, test := range []struct {
			args []string
			code int
			want string
		}{
			{[]string{"resolve", wrongSum}, exitUsage, "address: invalid address"},
			{[]string{"resolve", mainnetA}, exitUsage, `expected prefix "bchreg" of regtest`},
			{[]string{"resolve", a.Address(), mainnetA}, exitUsage, "addresses[1]: invalid address"},
			{[]string{"tree", wrongSum}, exitUsage, "address: invalid address"},
			{[]string{"history", wrongSum}, exitUsage, "address: invalid address"},
			{[]string{"resolve", a.Address(), "--at", "100000"}, exitFailed, "at_height: expected a height from 0"},
			{[]string{"tree", request, "--at", "100000"}, exitFailed, "at_height: expected a height from 0"},
			{[]string{"history", a.Address(), "--at", "100000"}, exitFailed, "at_height: expected a height from 0"},
			{[]string{"tree", accept}, exitFailed, "no identity " + accept},
		} {
			keytree(t, append(test.args, "--server", server)...).wantError(t, test.code, test.want)
		}
	})

	if o := keytree(t, "watch", "--from", "100000", "--server", server); o.code != exitFailed || !strings.Contains(o.stderr, "from_height: expected a height from 0") {
		t.Errorf("watch from beyond the tip: %+v", o)
	}

	revoke := w.link(a, "revoke", accept)
	w.refused(a, "ALREADY_REVOKED", "revoke", accept)
	wantParts(t, mustKeytree(t, "resolve", c.Address(), "--server", server), "identity      "+revoke, "main address  "+b.Address())

	t.Run("watch", func(t *testing.T) {
		watching := startProgram(t, nil, "watch", "--server", server, "--from", fmt.Sprint(linkedAt))
		watching.await(&watching.stdout, "LINK_FORMED      "+b.Address()+" is a child of "+a.Address()+", identity "+request+", tx "+accept)
		watching.await(&watching.stdout, "ACTION_REFUSED   MLA by "+c.Address()+": LOOP, tx "+forced)
		watching.await(&watching.stdout, "LINK_CUT         "+b.Address()+" is cut off from "+a.Address())
		asJSON := startProgram(t, nil, "watch", "--server", server, "--from", fmt.Sprint(linkedAt), "--json")
		line := asJSON.await(&asJSON.stdout, accept)
		var page struct{ Blocks []json.RawMessage }
		if err := json.Unmarshal(w.get(fmt.Sprintf("/v1/events?from_height=%d&to_height=%d", linkedAt, linkedAt)), &page); err != nil {
			t.Fatal(err)
		}
		if len(page.Blocks) != 1 || !sameJSON(t, line, page.Blocks[0]) {
			t.Errorf("watch printed\n%s\nREST says\n%s", line, page.Blocks)
		}
		if code := watching.signal(os.Interrupt); code != exitDone {
			t.Errorf("exit code %d after SIGINT", code)
		}
	})

	t.Run("two on one folder", func(t *testing.T) {
		o := keytree(t, append(serveArgs(n.URL(), dataDir), "--log-level", "error")...)
		o.wantError(t, exitFailed, "database in use")
	})
	t.Run("port taken", func(t *testing.T) {
		o := keytree(t, "serve", "--network", "regtest", "--node", n.URL(), "--data-dir", t.TempDir(), "--grpc-listen", server, "--log-level", "error")
		o.wantError(t, exitFailed, "--grpc-listen: listen tcp "+server)
	})
	t.Run("node of another network", func(t *testing.T) {
		o := keytree(t, append(serveArgs(n.URL(), t.TempDir()), "--network", "mainnet", "--log-level", "error")...)
		o.wantError(t, exitFailed, "it is on network regtest, expected mainnet")
	})

	// A watch that goes on survives a restart of the server, and misses nothing.
	following := startProgram(t, nil, "watch", "--server", server)
	following.await(&following.stderr, "watching "+server)
	mine(t, server, n)
	before, _, _ := n.Tip(t.Context())
	following.await(&following.stdout, fmt.Sprintf("+ %d  ", before))

	stateHash := field(t, mustKeytree(t, "status", "--json", "--server", server), "state_hash")
	if code := serving.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("exit code %d after SIGTERM; standard error:\n%s", code, serving.errors())
	}
	wantParts(t, serving.errors(), `"message":"stopped"`)
	following.await(&following.stderr, "trying again")
	if _, err := n.Mine(t.Context(), 2); err != nil {
		t.Fatal(err)
	}

	t.Run("folder of another start height", func(t *testing.T) {
		o := keytree(t, append(serveArgs(n.URL(), dataDir), "--start-height", "1", "--log-level", "error")...)
		o.wantError(t, exitFailed, "start height 0; asked for format")
	})

	restarted := startProgram(t, nil, append(serveArgs(n.URL(), dataDir), "--grpc-listen", server)...)
	restarted.awaitServing()
	awaitTip(t, server, n)
	following.await(&following.stdout, fmt.Sprintf("+ %d  ", before+1))
	following.await(&following.stdout, fmt.Sprintf("+ %d  ", before+2))
	if _, err := n.Reorg(t.Context(), 1, nil, nil); err != nil {
		t.Fatal(err)
	}
	following.await(&following.stdout, fmt.Sprintf("+ %d  ", before+3))
	awaitTip(t, server, n)
	var heights []string
	for line := range strings.Lines(following.output()) {
		if !strings.HasPrefix(line, " ") {
			heights = append(heights, strings.Join(strings.Fields(line)[:2], " "))
		}
	}
	want := fmt.Sprintf("[+ %d + %d + %d - %d + %d + %d]", before, before+1, before+2, before+2, before+2, before+3)
	if got := fmt.Sprint(heights); got != want {
		t.Errorf("watch printed the blocks %s, want %s", got, want)
	}
	var events struct {
		Blocks []struct {
			StateHash string `json:"state_hash"`
		}
	}
	if err := json.Unmarshal(mustGet(t, restarted, fmt.Sprintf("/v1/events?from_height=%d&to_height=%d", before, before)), &events); err != nil {
		t.Fatal(err)
	}
	if len(events.Blocks) != 1 || events.Blocks[0].StateHash != stateHash {
		t.Errorf("state hash of block %d after the restart: %+v, before it %s", before, events.Blocks, stateHash)
	}
	// It is indexed again beside the one that goes on answering.
	into := t.TempDir()
	o = keytree(t, append(serveArgs(n.URL(), dataDir), "--reindex-into", into)...)
	var status struct {
		StateHash string `json:"state_hash"`
	}
	if err := json.Unmarshal(mustGet(t, restarted, "/v1/status"), &status); err != nil {
		t.Fatal(err)
	}
	if o.code != exitDone || !strings.Contains(o.stderr, status.StateHash) || !strings.Contains(o.stderr, "put "+filepath.Join(into, "graph")+" in the place of") {
		t.Errorf("indexing again: %+v, want state hash %s", o, status.StateHash)
	}
	keytree(t, append(serveArgs(n.URL(), dataDir), "--reindex-into", dataDir)...).wantError(t, exitUsage, "expected another folder")
	if code := following.signal(os.Interrupt); code != exitDone {
		t.Errorf("watch: exit code %d after SIGINT", code)
	}
	if code := restarted.signal(os.Interrupt); code != exitDone {
		t.Errorf("exit code %d after SIGINT", code)
	}
}

// TestServeWithoutNode checks that a server answers what it can while there is
// no node, and stops when it is told to.
func TestServeWithoutNode(t *testing.T) {
	p := startProgram(t, nil, append(serveArgs(goodURL, t.TempDir()), "--start-height", "5")...)
	server, rest := p.awaitServing()
	wantParts(t, p.errors(), "the state hash cannot be compared")
	w := &linkWorld{t: t, server: server, rest: rest}
	wantParts(t, string(w.get("/healthz")), "ok")
	wantParts(t, string(w.get("/readyz")), `"ready":false`)
	wantParts(t, mustKeytree(t, "status", "--server", server), "no block indexed yet", "not synced")
	keytree(t, "resolve", regtest.NewKey().Address(), "--server", server).wantError(t, exitFailed, "try again later")
	if code := p.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("exit code %d after SIGTERM; standard error:\n%s", code, p.errors())
	}
}

// TestSecondSignal stops a server that still has a client to wait for.
func TestSecondSignal(t *testing.T) {
	p := startProgram(t, nil, serveArgs(goodURL, t.TempDir())...)
	_, rest := p.awaitServing()
	client, err := net.Dial("tcp", rest)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	// A request without an end. The answer to another one shows that the server
	// has begun to read it.
	if _, err := io.WriteString(client, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /hea"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.await(&p.stderr, `"message":"stopping"`)
	if code := p.signal(syscall.SIGTERM); code != exitFailed {
		t.Errorf("exit code %d after the second signal, want %d; standard error:\n%s", code, exitFailed, p.errors())
	}
}

// linkWorld runs link commands against a node and a server.
type linkWorld struct {
	t            *testing.T
	node         *regtest.Node
	server, rest string
	notes        string // what the last command sent by send wrote to standard error
}

func (w *linkWorld) try(key *regtest.Key, command ...string) outcome {
	w.t.Helper()
	return keytreeWith(w.t, key.WIF(), slices.Concat([]string{"link"}, command,
		[]string{"--key-stdin", "--network", "regtest", "--node", w.node.URL(), "--server", w.server})...)
}

// send publishes a transaction and returns its txid.
func (w *linkWorld) send(key *regtest.Key, command ...string) string {
	w.t.Helper()
	o := w.try(key, command...)
	txid := strings.TrimSpace(o.stdout)
	if _, err := parseTxID(txid); o.code != exitDone || err != nil {
		w.t.Fatalf("link %q: exit code %d, printed %q, standard error %q", command, o.code, o.stdout, o.stderr)
	}
	w.notes = o.stderr
	return txid
}

// link publishes a transaction and mines it.
func (w *linkWorld) link(key *regtest.Key, command ...string) string {
	w.t.Helper()
	txid := w.send(key, command...)
	mine(w.t, w.server, w.node)
	return txid
}

// refused checks that a command is stopped for the reason, and sends nothing.
func (w *linkWorld) refused(key *regtest.Key, reason string, command ...string) {
	w.t.Helper()
	before, err := w.node.Mempool(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	o := w.try(key, command...)
	if last := o.stderr[strings.LastIndex(strings.TrimSuffix(o.stderr, "\n"), "\n")+1:]; o.code != exitFailed || o.stdout != "" ||
		!strings.HasPrefix(last, "keytree: it would be refused, "+reason+": ") {
		w.t.Errorf("link %q: %+v, want it refused as %s", command, o, reason)
	}
	if after, err := w.node.Mempool(w.t.Context()); err != nil || len(after) != len(before) {
		w.t.Errorf("link %q: the mempool went from %d to %d transactions (%v)", command, len(before), len(after), err)
	}
}

func (w *linkWorld) get(path string) []byte {
	w.t.Helper()
	r, err := http.Get("http://" + w.rest + path)
	return w.body(r, err)
}

func (w *linkWorld) post(path string, body []byte) []byte {
	w.t.Helper()
	r, err := http.Post("http://"+w.rest+path, "application/json", bytes.NewReader(body))
	return w.body(r, err)
}

func (w *linkWorld) body(r *http.Response, err error) []byte {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	defer r.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	content, err := io.ReadAll(r.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return content
}

func mustGet(t *testing.T, p *program, path string) []byte {
	t.Helper()
	_, rest := p.awaitServing()
	return (&linkWorld{t: t, rest: rest}).get(path)
}

func sameJSON[A, B string | []byte | json.RawMessage](t *testing.T, a A, b B) bool {
	t.Helper()
	var x, y any
	for into, from := range map[*any][]byte{&x: []byte(a), &y: []byte(b)} {
		if err := json.Unmarshal(from, into); err != nil {
			t.Fatalf("%v: %s", err, from)
		}
	}
	p, _ := json.Marshal(x)
	q, _ := json.Marshal(y)
	return bytes.Equal(p, q)
}

func field(t *testing.T, object, name string) string {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal([]byte(object), &fields); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(fields[name])
}

func wantParts(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in\n%s", part, text)
		}
	}
}
