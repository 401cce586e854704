package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// asProgram, in the environment, makes the test executable the program itself:
// so tests can send signals to a real process of exactly this code.
const asProgram = "RUN_AS_KEYTREE"

// exhaustiveEnv is the variable that makes some tests as long as they can be.
const exhaustiveEnv = envPrefix + "EXHAUSTIVE"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	// What the user of the machine has set up must not matter, but for what is said to tests.
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, envPrefix) && name != clientsEnv && name != exhaustiveEnv {
			os.Unsetenv(name)
		}
	}
	os.Setenv("XDG_DATA_HOME", filepath.Join(os.TempDir(), "keytree-test-has-no-data-here"))
	// What publishes for ZeroMQ in the imitation of a BCHN leaves it behind.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/go-zeromq/zmq4.(*pubMWriter).run"))
}

// outcome is what came of a command line.
type outcome struct {
	code           int
	stdout, stderr string
}

// keytree runs a command line in this process.
func keytree(t *testing.T, args ...string) outcome {
	t.Helper()
	return keytreeWith(t, "", args...)
}

func keytreeWith(t *testing.T, stdin string, args ...string) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, strings.NewReader(stdin), &stdout, &stderr)
	return outcome{code, stdout.String(), stderr.String()}
}

// mustKeytree runs a command line that must succeed and returns its output.
func mustKeytree(t *testing.T, args ...string) string {
	t.Helper()
	o := keytree(t, args...)
	if o.code != exitDone {
		t.Fatalf("keytree %q: exit code %d: %s", args, o.code, o.stderr)
	}
	return o.stdout
}

// wantError checks the exit code and that there is one line of error, which
// holds text.
func (o outcome) wantError(t *testing.T, code int, text string) {
	t.Helper()
	if o.code != code {
		t.Errorf("exit code %d, want %d", o.code, code)
	}
	if !strings.HasPrefix(o.stderr, "keytree: ") || strings.Count(o.stderr, "\n") != 1 || !strings.Contains(o.stderr, text) {
		t.Errorf("standard error %q, want one line that starts with keytree: and holds %q", o.stderr, text)
	}
	if o.stdout != "" {
		t.Errorf("standard output %q, want none", o.stdout)
	}
}

// program is keytree as a process of its own. It ends with the test.
type program struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended

	closeOutput func() // stops reading standard output

	mu     sync.Mutex
	stdout bytes.Buffer  // mu
	stderr bytes.Buffer  // mu
	wrote  chan struct{} // mu; closed and replaced when one of them has grown
}

func startProgram(t *testing.T, env []string, args ...string) *program {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(executable, args...)
	cmd.Env = append(append(os.Environ(), asProgram+"=1"), env...)
	return startCommand(t, cmd)
}

func startCommand(t *testing.T, cmd *exec.Cmd) *program {
	t.Helper()
	p := &program{t: t, cmd: cmd, done: make(chan struct{}), wrote: make(chan struct{})}
	p.cmd.SysProcAttr = dieWithParent()
	var err error
	outputs := map[*bytes.Buffer]io.ReadCloser{}
	for buffer, pipe := range map[*bytes.Buffer]func() (io.ReadCloser, error){&p.stdout: p.cmd.StdoutPipe, &p.stderr: p.cmd.StderrPipe} {
		if outputs[buffer], err = pipe(); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.closeOutput = func() { outputs[&p.stdout].Close() }
	var reading sync.WaitGroup
	for buffer, r := range outputs {
		reading.Go(func() { p.collect(buffer, r) })
	}
	go func() {
		reading.Wait()
		p.cmd.Wait() // the exit code is in ProcessState
		close(p.done)
	}()
	t.Cleanup(func() { p.kill() })
	return p
}

func (p *program) collect(buffer *bytes.Buffer, r io.Reader) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		p.mu.Lock()
		buffer.Write(line)
		close(p.wrote)
		p.wrote = make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// await returns the first line of an output that holds text.
func (p *program) await(buffer *bytes.Buffer, text string) string {
	p.t.Helper()
	timeout := time.After(2 * time.Minute)
	for {
		p.mu.Lock()
		content, wrote := buffer.String(), p.wrote
		p.mu.Unlock()
		for line := range strings.Lines(content) {
			if strings.Contains(line, text) && strings.HasSuffix(line, "\n") {
				return line
			}
		}
		select {
		case <-wrote:
		case <-p.done:
			p.t.Fatalf("%q ended (%v) without %q; standard error:\n%s", p.cmd.Args[1:], p.cmd.ProcessState, text, p.errors())
		case <-timeout:
			p.t.Fatalf("%q did not print %q; standard error:\n%s", p.cmd.Args[1:], text, p.errors())
		}
	}
}

func (p *program) output() string { p.mu.Lock(); defer p.mu.Unlock(); return p.stdout.String() }
func (p *program) errors() string { p.mu.Lock(); defer p.mu.Unlock(); return p.stderr.String() }

// awaitServing returns the addresses that a server logs.
func (p *program) awaitServing() (grpc, http string) {
	p.t.Helper()
	var line struct{ GRPC, HTTP string }
	if err := json.Unmarshal([]byte(p.await(&p.stderr, `"message":"serving"`)), &line); err != nil {
		p.t.Fatal(err)
	}
	return line.GRPC, line.HTTP
}

// end waits for the process and returns its exit code, -1 after a signal.
func (p *program) end() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(2 * time.Minute):
		p.t.Fatalf("%q does not end; standard error:\n%s", p.cmd.Args[1:], p.errors())
		return 0
	}
}

// signal sends a signal and returns the exit code.
func (p *program) signal(s os.Signal) int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
	return p.end()
}

func (p *program) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// serveArgs are the arguments of a server on a private chain, which logs JSON.
func serveArgs(node, dataDir string) []string {
	return []string{"serve", "--network", "regtest", "--node", node, "--data-dir", dataDir,
		"--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--log-format", "json"}
}

// awaitTip waits until the server has indexed the node's tip.
func awaitTip(t *testing.T, server string, n *regtest.Node) {
	t.Helper()
	_, want, err := n.Tip(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	regtest.Await(t, func() string {
		o := keytree(t, "status", "--json", "--server", server)
		if strings.Contains(o.stdout, `"tip_hash":"`+want.String()+`"`) && strings.Contains(o.stdout, `"synced":true`) {
			return ""
		}
		return "the server does not reach " + want.String() + ": " + o.stdout + o.stderr
	})
}

// mine mines what the mempool holds and waits for the server.
func mine(t *testing.T, server string, n *regtest.Node) {
	t.Helper()
	if _, err := n.Mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	awaitTip(t, server, n)
}

// fund gives each key a confirmed coin.
func fund(ctx context.Context, t *testing.T, n *regtest.Node, keys ...*regtest.Key) {
	t.Helper()
	for _, key := range keys {
		if _, err := n.FundKey(ctx, key, 100_000); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.Mine(ctx, 1); err != nil {
		t.Fatal(err)
	}
}
