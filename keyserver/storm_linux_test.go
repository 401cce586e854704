package keyserver

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/store/postgres/postgrestest"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// asStandby, in the environment, makes the test executable a keyserver that stands by in the
// folder that it names, takes over, and is under load then.
const asStandby = "KEYTREE_TEST_STANDBY"

// stormClients is how many calls a keyserver has at a time.
const stormClients = 64

// TestStormServer is not a test but the processes of TestStorm. It says, a line each:
//
//	writes
//	created IDENTITY UIDINDEX REPLY     in base64, when it was acknowledged
//	fetched KEYINIT                     in base64
func TestStormServer(t *testing.T) {
	dir := os.Getenv(asStandby)
	if dir == "" {
		t.Skip("part of TestStorm")
	}
	opt := testOptions(dir, newClock())
	opt.KeyFile, opt.Acknowledged = filepath.Join(filepath.Dir(dir), "key"), filepath.Join(dir, "acknowledged")
	opt = at(opt, filepath.Join(filepath.Dir(dir), "keyserver")) // the same for all
	opt.Tokens, opt.Standby = paid{}, true
	s, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.TakeOver(t.Context()); err != nil {
		t.Fatal(err)
	}
	var say sync.Mutex
	says := func(format string, args ...any) {
		say.Lock()
		defer say.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	says("writes")
	random := rand.Uint64()
	var load sync.WaitGroup
	for n := range uint64(stormClients) {
		load.Go(func() {
			for i := uint64(0); ; i++ {
				name := fmt.Sprintf("n%s%s@example.org", letters(random>>(n%8)+i), letters(random+n<<40+i))
				key := newKey(random + n<<40 + i)
				head, _, err := s.LastEntry(t.Context())
				if err != nil {
					return // it was replaced, or the database is away
				}
				m := messageAfter(s, head.String(), name, key)
				reply, err := s.CreateUID(t.Context(), m, payment(name))
				if errors.Is(err, ErrTaken) {
					continue
				}
				if err != nil {
					return
				}
				index := uid.Index(m.Hash())
				says("created %s %s %s", name, canonical.Encode(index[:]), canonical.Encode(reply.Canonical()))
				if n%8 != 0 {
					continue
				}
				if _, err := s.AddKeyInit(t.Context(), public(key), keyInits(t, s, key, 2), free(2)); err != nil {
					return
				}
				for range 2 {
					k, err := s.FetchKeyInit(t.Context(), uid.SigKeyHash(public(key)), "")
					if err != nil {
						return
					}
					says("fetched %s", canonical.Encode(k))
				}
			}
		})
	}
	load.Wait()
	t.Fatal(s.Err())
}

// stormServer is a process of TestStormServer.
type stormServer struct {
	cmd   *exec.Cmd
	link  *postgrestest.Link // to the database
	lines chan string        // what it says; closed when it has ended
}

func startStormServer(t *testing.T, dir string, link *postgrestest.Link, out io.Writer) *stormServer {
	t.Helper()
	executable, err := os.Executable()
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := &stormServer{link: link, cmd: exec.CommandContext(t.Context(), executable, "-test.run=^TestStormServer$", "-test.v"), lines: make(chan string, 1000)}
	s.cmd.Env = append(os.Environ(), asStandby+"="+dir, onPostgres+"="+link.URL("postgres", nil))
	s.cmd.Stderr = out
	pipe, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.lines)
		lines := bufio.NewReader(pipe)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return // a line that it was killed in has not been said
			}
			s.lines <- line
		}
	}()
	return s
}

func (s *stormServer) end() {
	s.cmd.Process.Kill()
	for range s.lines {
	}
	s.cmd.Wait()
}

// storm is what was acknowledged, by whichever server.
type storm struct {
	created map[string][2][]byte // by identity: UIDIndex, reply
	fetched map[string]bool
}

// hear takes one line, and tells whether a call was acknowledged.
func (s *storm) hear(t *testing.T, line string) bool {
	t.Helper()
	decode := func(text string) []byte {
		b, err := canonical.Decode(text, -1)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	switch fields := strings.Fields(line); {
	case len(fields) == 4 && fields[0] == "created":
		s.created[fields[1]] = [2][]byte{decode(fields[2]), decode(fields[3])}
		return true
	case len(fields) == 2 && fields[0] == "fetched":
		if s.fetched[fields[1]] {
			t.Errorf("handed out twice: %.60s", decode(fields[1]))
		}
		s.fetched[fields[1]] = true
		return true
	}
	return false
}

// TestStorm has two keyservers on one PostgreSQL, and again and again, under load by 64 clients,
// kills the one that writes, pauses it, cuts it off from the database, and so from the other one,
// or has the database end its connections while it is paused. The other one takes over each
// time. There is one chain in the end, with every reply that was acknowledged by either in it; no
// KeyInit was handed out twice and no token taken twice; and a writer that was paused or cut off
// and goes on acknowledges nothing more.
func TestStorm(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts processes")
	}
	if os.Getenv(onPostgres) != "" {
		t.Skip("it has a server of its own")
	}
	rounds := 4
	if exhaustive() {
		rounds = 200
	}
	cluster := postgrestest.Start(t)
	t.Setenv(onPostgres, cluster.URL("postgres", url.Values{}))
	dir := t.TempDir()
	opt := at(testOptions(dir, newClock()), filepath.Join(dir, "keyserver"))
	opt.Tokens = paid{}
	first, err := Open(t.Context(), opt)
	if err == nil {
		err = first.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	var told bytes.Buffer
	heard := &storm{created: make(map[string][2][]byte), fetched: make(map[string]bool)}
	admin := cluster.Connect(t, "postgres", nil)
	servers := 0
	takeOvers := make(map[string][]time.Duration) // by how the writer before ended
	start := func() *stormServer {
		servers++
		return startStormServer(t, filepath.Join(dir, fmt.Sprint(servers)), cluster.Link(t), &told)
	}
	writer := start()
	await := func(s *stormServer, until func(line string) bool) {
		t.Helper()
		for line := range s.lines {
			heard.hear(t, line)
			if until(line) {
				return
			}
		}
		t.Fatalf("a server ended by itself: %s", told.String())
	}
	isWriting := func(line string) bool { return line == "writes\n" }
	await(writer, isWriting)
	for round := range rounds {
		standby := start()
		acknowledged := 20 + rand.IntN(100)
		await(writer, func(line string) bool {
			if strings.HasPrefix(line, "created") {
				acknowledged--
			}
			return acknowledged <= 0
		})
		began := time.Now()
		how := []string{"killed", "paused", "cut off", "disconnected"}[round%4]
		switch how {
		case "killed":
			err = writer.cmd.Process.Kill()
		case "paused":
			err = writer.cmd.Process.Signal(syscall.SIGSTOP)
		case "cut off":
			writer.link.Cut(true)
		case "disconnected": // its connections end, and it is paused while it would make others
			err = writer.cmd.Process.Signal(syscall.SIGSTOP)
			if err == nil {
				_, err = admin.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'keytree' AND pid = (SELECT pid FROM "+schemaOf(opt.Dir)+".writer)")
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		await(standby, isWriting)
		took := time.Since(began).Round(10 * time.Millisecond)
		t.Logf("round %d: %s, taken over after %v", round+1, how, took)
		takeOvers[how] = append(takeOvers[how], took)
		switch how {
		case "cut off":
			writer.link.Cut(false)
		case "paused", "disconnected":
			if err := writer.cmd.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
		}
		// What it has said before is heard, and whatever it says now: it must be in the chain.
		if how == "killed" {
			writer.end()
		}
		for line := range writer.lines {
			heard.hear(t, line)
		}
		writer.cmd.Wait()
		writer = standby
	}
	writer.cmd.Process.Kill()
	for line := range writer.lines {
		heard.hear(t, line)
	}
	writer.cmd.Wait()

	s := openTest(t, opt)
	mustCheck(t, s)
	for identity, c := range heard.created {
		if stored, err := s.FetchUID(t.Context(), hashchain.Hash(c[0])); err != nil || !bytes.Equal(stored, c[1]) {
			t.Fatalf("%s: acknowledged, and not stored: %v", identity, err)
		}
		if _, err := s.unspentTokens(t.Context(), []string{payment(identity)}); !errors.Is(err, ErrSpent) {
			t.Fatalf("the token of %s is as good as new: %v", identity, err)
		}
	}
	if len(heard.created) < 20*rounds {
		t.Errorf("only %d replies", len(heard.created))
	}
	for how, took := range takeOvers {
		slices.Sort(took)
		t.Logf("%s: %d take-overs, median %v, the longest %v", how, len(took), took[len(took)/2], took[len(took)-1])
	}
	t.Logf("%d replies and %d KeyInits were acknowledged, the chain has %d entries", len(heard.created), len(heard.fetched), s.Chain().Size)
}
