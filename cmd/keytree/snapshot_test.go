package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// TestSnapshot makes a snapshot of an index with the commands alone, has other servers begin with it, from a
// file and from a URL, by a state that they were told and by what a state log has signed, and has them follow
// the node on, through a reorganisation.
func TestSnapshot(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts processes")
	}
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	a, b, c := regtest.NewKey(), regtest.NewKey(), regtest.NewKey()
	fund(t.Context(), t, n, a, b, c)
	data := t.TempDir()
	file := func(name string) string { return filepath.Join(data, name) }
	first := append(serveArgs(n.URL(), data), "--state-log-key", file("state.key"), "--state-log-host", "keys.example.org")
	s := startProgram(t, nil, first...)
	server, rest := s.awaitServing()
	awaitTip(t, server, n)
	w := &linkWorld{t: t, node: n, server: server, rest: rest}
	request := w.link(b, "request", "--parent", a.Address(), "--message", "please")
	w.link(a, "accept", request)
	w.link(c, "request", "--parent", b.Address())
	if _, err := n.Mine(t.Context(), 12); err != nil {
		t.Fatal(err)
	}
	awaitTip(t, server, n)
	shot := file("shot")
	create := []string{"snapshot", "create", "--out", shot, "--network", "regtest", "--node", n.URL(), "--data-dir", data}
	beside := mustKeytree(t, create...)
	besideFile, err := os.ReadFile(shot)
	if err != nil {
		t.Fatal(err)
	}
	if o := keytree(t, append(create, "--start-height", "7")...); o.code != exitFailed || !strings.Contains(o.stderr, "expected regtest from height 7 on") {
		t.Errorf("of another index than the server's: %+v", o)
	}
	type answers struct{ status, tree, inbox string }
	ask := func(server string) (got answers) {
		t.Helper()
		awaitTip(t, server, n)
		var status struct {
			TipHeight uint32 `json:"tip_height"`
			StateHash string `json:"state_hash"`
			StateRoot string `json:"state_root"`
		}
		if err := json.Unmarshal([]byte(mustKeytree(t, "status", "--json", "--server", server)), &status); err != nil {
			t.Fatal(err)
		}
		return answers{fmt.Sprintf("%+v", status), mustKeytree(t, "tree", b.Address(), "--server", server), mustKeytree(t, "inbox", b.Address(), "--server", server)}
	}
	want := ask(server)
	wantParts(t, want.tree, a.Address()+"\n└─ "+b.Address())
	if code := s.signal(syscall.SIGTERM); code != exitDone {
		t.Fatalf("ended with %d: %s", code, s.errors())
	}

	state := strings.TrimSpace(mustKeytree(t, create...))
	if stopped, err := os.ReadFile(shot); err != nil || state != strings.TrimSpace(beside) || !bytes.Equal(stopped, besideFile) {
		t.Errorf("beside the server it was state %s in %d bytes, without one %s in %d (%v)", beside, len(besideFile), state, len(stopped), err)
	}
	height, _, err := n.Tip(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if at := fmt.Sprint(height - 10); !strings.HasPrefix(state, at+":") || len(state) != len(at)+1+64 {
		t.Fatalf("state %q, expected one of height %s", state, at)
	}
	if o := keytree(t, append(create, "--at", fmt.Sprint(height-9))...); o.code != exitFailed || !strings.Contains(o.stderr, "10 below the index's tip") {
		t.Errorf("a snapshot that is not deep enough: %+v", o)
	}
	if got := strings.TrimSpace(mustKeytree(t, append(create, "--at", "112", "--spent-outputs", "--out", file("early"))...)); !strings.HasPrefix(got, "112:") {
		t.Errorf("state %q, expected one of height 112", got)
	}

	// By a state. The same command goes on with what it made.
	other := t.TempDir()
	second := append(serveArgs(n.URL(), other), "--from-snapshot", shot, "--expect-state", state)
	for _, said := range []string{"loaded the snapshot", "has an index already"} {
		s = startProgram(t, nil, second...)
		server, _ = s.awaitServing()
		if got := ask(server); got != want {
			t.Errorf("it answers %+v\nexpected %+v", got, want)
		}
		if !strings.Contains(s.errors(), said) {
			t.Errorf("it does not say that it %s:\n%s", said, s.errors())
		}
		if said != "loaded the snapshot" {
			break
		}
		if code := s.signal(syscall.SIGTERM); code != exitDone {
			t.Fatalf("ended with %d: %s", code, s.errors())
		}
		mustKeytree(t, "fsck", "--network", "regtest", "--data-dir", other)
	}
	mine(t, server, n)
	// Into the blocks that came with the snapshot.
	if _, err := n.Reorg(t.Context(), 12, make([][]*wire.MsgTx, 13)...); err != nil {
		t.Fatal(err)
	}
	reorganised := ask(server)
	if code := s.signal(syscall.SIGTERM); code != exitDone {
		t.Fatalf("ended with %d: %s", code, s.errors())
	}
	s = startProgram(t, nil, first...)
	server, _ = s.awaitServing()
	if got := ask(server); got != reorganised {
		t.Errorf("after a reorganisation the index of a snapshot answers %+v\nthe other one %+v", reorganised, got)
	}

	// By a state log, which has to have had two hours.
	tip, hash, err := n.Tip(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if code := s.signal(syscall.SIGTERM); code != exitDone {
		t.Fatalf("ended with %d: %s", code, s.errors())
	}
	write(t, file("state-log/known.json"), fmt.Sprintf(`[{"time":%d,"height":%d,"block":"%v"}]`, time.Now().Add(-2*time.Hour).Unix(), tip, hash))
	s = startProgram(t, nil, first...)
	_, rest = s.awaitServing()
	log := "http://" + rest + "/state/regtest/1/1"
	proven := []string{"snapshot", "create", "--out", file("proven"), "--network", "regtest", "--node", n.URL(), "--data-dir", data, "--state-log", log}
	regtest.Await(t, func() string {
		if o := keytree(t, proven...); o.code != exitDone {
			return o.stderr
		}
		return ""
	})
	write(t, file("policy"), "log "+publicKey(t, file("state.key"))+"\nquorum none\n")
	third := append(serveArgs(n.URL(), t.TempDir()), "--from-snapshot", file("proven"), "--snapshot-policy", file("policy"))
	p := startProgram(t, nil, third...)
	server, _ = p.awaitServing()
	if got := ask(server); got != reorganised {
		t.Errorf("by a state log: it answers %+v\nexpected %+v", got, reorganised)
	}
	p.signal(syscall.SIGTERM)
	unproven := t.TempDir()
	keytree(t, append(serveArgs(n.URL(), unproven), "--from-snapshot", shot, "--snapshot-policy", file("policy"))...).wantFailure(t, "no proof that its state is in a state log")

	// From a URL whose server ends the first answer early.
	content, err := os.ReadFile(shot)
	if err != nil {
		t.Fatal(err)
	}
	var asked, ranges atomic.Int32
	host := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			ranges.Add(1)
		}
		rw.Header().Set("ETag", `"1"`)
		if asked.Add(1) == 1 {
			rw.Header().Set("Content-Length", fmt.Sprint(len(content)))
			rw.Write(content[:len(content)/2])
			return
		}
		http.ServeContent(rw, r, "", time.Time{}, bytes.NewReader(content))
	}))
	defer host.Close()
	fourth := t.TempDir()
	p = startProgram(t, nil, append(serveArgs(n.URL(), fourth), "--from-snapshot", host.URL+"/shot", "--expect-state", state)...)
	server, _ = p.awaitServing()
	if got := ask(server); got != reorganised || ranges.Load() != 1 {
		t.Errorf("from a URL: it answers %+v\nexpected %+v; %d requests went on where one had ended", got, reorganised, ranges.Load())
	}
	p.signal(syscall.SIGTERM)
	if left, err := filepath.Glob(filepath.Join(fourth, "graph.*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}

	// What is refused leaves nothing behind.
	wrong := t.TempDir()
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"--from-snapshot", shot, "--expect-state", "100:" + strings.Repeat("ab", 32)}, "snapshot refused: expected state 100:abab"},
		{[]string{"--from-snapshot", shot, "--expect-state", state, "--start-height", "5"}, "expected one of regtest from height 5 on"},
		{[]string{"--from-snapshot", file("state.key"), "--expect-state", state}, "snapshot refused"},
		{[]string{"--from-snapshot", file("nothing"), "--expect-state", state}, "no such file"},
		{[]string{"--from-snapshot", host.URL + "/%zz", "--expect-state", state}, "downloading"},
	} {
		keytree(t, append(serveArgs(n.URL(), wrong), test.args...)...).wantFailure(t, test.want)
		if left, err := os.ReadDir(wrong); err != nil || len(left) > 0 {
			t.Errorf("%v: left behind: %v, %v", test.args, left, err)
		}
	}
	keytree(t, append(serveArgs(n.URL(), other), "--from-snapshot", shot, "--expect-state", "100:"+strings.Repeat("ab", 32))...).wantFailure(t, "remove this folder to begin with the snapshot")
}

// wantFailure checks that a server ended with an error, which it told last.
func (o outcome) wantFailure(t *testing.T, text string) {
	t.Helper()
	if o.code != exitFailed || !strings.Contains(o.stderr, text) {
		t.Errorf("exit code %d, %q; expected %q", o.code, o.stderr, text)
	}
}

// publicKey is the public key of the log that has a key file.
func publicKey(t *testing.T, path string) string {
	t.Helper()
	secret, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	key, err := format.ParseKey(strings.TrimSpace(string(secret)))
	if err != nil {
		t.Fatal(err)
	}
	return key.Log().String()
}

func TestSnapshotUsage(t *testing.T) {
	serve := []string{"serve", "--node", goodURL, "--data-dir", t.TempDir()}
	create := []string{"snapshot", "create", "--data-dir", t.TempDir()}
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{append(serve, "--expect-state", "5:"+strings.Repeat("00", 32)), exitUsage, "go with --from-snapshot"},
		{append(serve, "--snapshot-policy", "p"), exitUsage, "go with --from-snapshot"},
		{append(serve, "--from-snapshot", "f"), exitUsage, "a snapshot is not believed by itself"},
		{append(serve, "--from-snapshot", "f", "--expect-state", "5:00"), exitUsage, "expected HEIGHT:HASH"},
		{append(serve, "--from-snapshot", "f", "--expect-state", strings.Repeat("00", 32)), exitUsage, "expected HEIGHT:HASH"},
		{append(serve, "--from-snapshot", "f", "--snapshot-policy", filepath.Join(t.TempDir(), "none")), exitFailed, "no such file"},
		{create, exitUsage, "no file given: expected --out FILE"},
		{append(create, "--out", "f"), exitUsage, "no node given"},
		{append(create, "--out", "f", "--node", goodURL), exitFailed, "there is no index"},
	} {
		keytree(t, test.args...).wantError(t, test.code, test.want)
	}
}
