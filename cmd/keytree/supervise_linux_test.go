package main

import (
	"crypto/tls"
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
	"time"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// supervisor is what systemd is to a process.
type supervisor struct {
	t      *testing.T
	conn   *net.UnixConn
	states []string // that were told
	read   int      // of them that next has returned
}

func newSupervisor(t *testing.T) (s *supervisor, env []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	at := &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unixgram"}
	conn, err := net.ListenUnixgram("unixgram", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &supervisor{t: t, conn: conn}, []string{"NOTIFY_SOCKET=" + at.Name, "WATCHDOG_USEC=300000"}
}

// await waits for a state that begins with a text, behind the one that was awaited before.
func (s *supervisor) await(text string) string {
	s.t.Helper()
	for {
		for s.read < len(s.states) {
			state := s.states[s.read]
			if s.read++; strings.HasPrefix(state, text) {
				return state
			}
		}
		b := make([]byte, 4096)
		if err := s.conn.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
			s.t.Fatal(err)
		}
		n, err := s.conn.Read(b)
		if err != nil {
			s.t.Fatalf("%q is not told, but %q: %v", text, s.states, err)
		}
		s.states = append(s.states, strings.Split(string(b[:n]), "\n")...)
	}
}

// TestSupervised runs a server as systemd does.
func TestSupervised(t *testing.T) {
	n := regtest.ForTest(t, regtest.Options{Blocks: 5})
	s, env := newSupervisor(t)
	p := startProgram(t, env, serveArgs(n.URL(), t.TempDir())...)
	s.await("READY=1")
	s.await("STATUS=")
	s.await("WATCHDOG=1")
	s.await("STATUS=block 5 is indexed, synced")
	s.await("WATCHDOG=1")
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.await("RELOADING=1")
	s.await("MONOTONIC_USEC=")
	s.await("READY=1")
	if code := p.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("exit code %d: %s", code, p.errors())
	}
	s.await("STOPPING=1")
	if first := slices.Index(s.states, "WATCHDOG=1"); first < slices.Index(s.states, "READY=1") {
		t.Errorf("told %q", s.states)
	}
}

// TestStuck asks what the watchdog is told of an index whose loop does not turn.
func TestStuck(t *testing.T) {
	all := &parts{log: zerolog.Nop(), end: func(error) {}}
	x := &runningIndex{part: all.add("index")}
	late := time.Now().Add(indexer.MaxTurn + time.Minute)
	if err := x.stuck(late); err != nil {
		t.Errorf("while the node is waited for: %v", err)
	}
	x.indexer.Store(indexer.New(nil, nil, indexer.Options{}))
	if err := x.stuck(time.Now()); err != nil {
		t.Errorf("at once: %v", err)
	}
	if err := x.stuck(late); err == nil || !strings.Contains(err.Error(), "has done nothing for") {
		t.Errorf("late: %v", err)
	}
	x.part.fail(fmt.Errorf("a reason"))
	if err := x.stuck(late); err != nil {
		t.Errorf("when it has failed: %v", err)
	}
}

// TestReload changes settings and certificates under a running server, to what can be used and
// to what cannot.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile, _ := certificateFiles(t)
	settings := "unlimited: none\ntls-cert: " + certFile + "\ntls-key: " + keyFile + "\n"
	writeConfig(t, dir, settings)
	p := startProgram(t, nil, serveArgs(goodURL, dir)...)
	_, rest := p.awaitServing()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	t.Cleanup(client.CloseIdleConnections)
	// refused asks more often than the smaller budget of the test allows.
	refused := func() bool {
		t.Helper()
		for range 500 {
			response, err := client.Get("https://" + rest + "/v1/status")
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
			if response.StatusCode == http.StatusTooManyRequests {
				return true
			}
		}
		return false
	}
	reloads := 0
	reload := func(content string, want ...string) {
		t.Helper()
		writeConfig(t, dir, settings+content)
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		reloads++
		regtest.Await(t, func() string {
			lines := strings.Split(p.errors(), "\n")
			if n := strings.Count(p.errors(), "until the next start") + strings.Count(p.errors(), "those before hold"); n < reloads {
				return p.errors()
			}
			for _, text := range want {
				if !strings.Contains(lines[len(lines)-2], text) {
					t.Errorf("logged %s, want %q", lines[len(lines)-2], text)
				}
			}
			return ""
		})
	}
	if refused() {
		t.Fatal("refused by the default limits")
	}
	reload("limit-work: 20000/10\nlog-level: debug\n", `"changed":["limit-work 20000/10"]`, `"waiting_for_a_restart":["log-level"]`, `"certificates":1`)
	if !refused() {
		t.Error("the smaller budget does not hold")
	}
	for _, wrong := range []string{"limit-work: many\n", "limit-works: 1\n", "limit-connections: 100/10\n", "\t"} {
		reload(wrong, "those before hold")
	}
	if !refused() {
		t.Error("a wrong file has changed the budget")
	}
	reload("limit-work: 20000/1000\n", `"changed":["limit-work 20000/1000"]`, `"level":"info"`)

	if err := os.WriteFile(certFile, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	reload("limit-work: 20000/1000\n", `"changed":[]`)
	p.await(&p.stderr, "the TLS certificate's files cannot be used; the one before is")
	if response, err := client.Get("https://" + rest + "/healthz"); err != nil {
		t.Errorf("with files that cannot be used: %v", err)
	} else {
		response.Body.Close()
	}
	if code := p.signal(syscall.SIGTERM); code != exitDone {
		t.Errorf("exit code %d", code)
	}
}
