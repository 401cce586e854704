package keyserver

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/graph/durable/durabletest"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/keyinit"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// asServer, in the environment, makes the test executable a keyserver under load,
// in the folder that it names.
const asServer = "KEYTREE_TEST_KEYSERVER"

// payment returns the token that an identity is paid with.
func payment(identity string) string { return "for " + identity }

// TestServer is not a test but the process that TestKill kills. It says what has
// been answered, a line each, until it is killed:
//
//	created IDENTITY UIDINDEX REPLY     in base64
//	fetched KEYINIT                     in base64
//	rotated PUBLIC-KEY                  in base64
func TestServer(t *testing.T) {
	dir := os.Getenv(asServer)
	if dir == "" {
		t.Skip("part of TestKill")
	}
	opt := testOptions(dir, newClock())
	opt.memTable, opt.Tokens = 2<<20, paid{} // so that tables are written too
	s, err := Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	var say sync.Mutex
	says := func(format string, args ...any) {
		say.Lock()
		defer say.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	random := rand.Uint64()
	var load sync.WaitGroup
	for n := range uint64(16) {
		load.Go(func() {
			for i := uint64(0); ; i++ {
				name := fmt.Sprintf("n%s%s@example.org", letters(random>>(n*7)+i), letters(random+n<<40+i))
				key := newKey(random + n<<40 + i)
				m := message(s, name, key)
				reply, err := s.CreateUID(t.Context(), m, payment(name))
				if errors.Is(err, ErrTaken) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				index := uid.Index(m.Hash())
				says("created %s %s %s", name, canonical.Encode(index[:]), canonical.Encode(reply.Canonical()))
				if n > 1 {
					continue
				}
				if _, err := s.AddKeyInit(t.Context(), public(key), keyInits(t, s, key, 5), free(5)); err != nil {
					t.Error(err)
					return
				}
				var fetching sync.WaitGroup
				for range 4 {
					fetching.Go(func() {
						k, err := s.FetchKeyInit(t.Context(), uid.SigKeyHash(public(key)), "")
						if err == nil {
							says("fetched %s", canonical.Encode(k))
						} else if !errors.Is(err, ErrUnknown) {
							t.Error(err)
						}
					})
				}
				fetching.Wait()
			}
		})
	}
	load.Go(func() {
		for range 1000 {
			if _, err := s.RotateKey(t.Context()); err != nil {
				t.Error(err)
				return
			}
			says("rotated %s", canonical.Encode(s.writer.state.Load().keys.public()))
			time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		}
	})
	load.Wait()
}

// checkLeft checks what a killed keyserver has left, and that reading it changes none of it. It
// returns the head; nil if there is no entry yet.
func checkLeft(t *testing.T, opt Options) *hashchain.Hash {
	t.Helper()
	before := durabletest.Files(t, filepath.Dir(opt.Dir))
	s, err := Open(t.Context(), readingOnly(opt))
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, ErrMismatch):
		return nil
	case err != nil:
		t.Fatal(err)
	}
	mustCheck(t, s)
	head := s.Chain().Head
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(before, durabletest.Files(t, filepath.Dir(opt.Dir))) {
		t.Error("reading has changed something")
	}
	return &head
}

// TestKill kills a keyserver under load, again and again. Every reply that it gave
// is in the chain afterwards, which is sound; no KeyInit was handed out twice, and no token is
// good that was taken; and the key that signs is the one that the chain names.
func TestKill(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a process for each kill")
	}
	inMemory(t)
	dir := t.TempDir()
	opt := testOptions(dir, newClock())
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	type created struct {
		identity string
		index    hashchain.Hash
		reply    []byte
	}
	var (
		replies []created
		fetched = make(map[string]bool)
		rotated string
		later   int // KeyInits that were fetched after a kill
	)
	unbase := func(s string) []byte {
		b, err := canonical.Decode(s, -1)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		return b
	}
	const kills = 6
	for n := range kills {
		cmd := exec.CommandContext(t.Context(), executable, "-test.run=^TestServer$", "-test.v")
		cmd.Env = append(os.Environ(), asServer+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Some lives end after so many replies, some while it opens, or soon after.
		lives := 10 + rand.IntN(150)
		if exhaustive() {
			lives = 3000 + rand.IntN(500)
		}
		if n%3 == 1 {
			time.AfterFunc(time.Duration(rand.IntN(100))*time.Millisecond, func() { cmd.Process.Kill() })
		}
		var said []string
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				break // a line that it was killed in has not been said
			}
			said = append(said, line)
			fields := strings.Fields(line)
			switch {
			case len(fields) == 4 && fields[0] == "created":
				replies = append(replies, created{fields[1], hashchain.Hash(unbase(fields[2])), unbase(fields[3])})
				if lives--; lives == 0 {
					cmd.Process.Kill()
				}
			case len(fields) == 2 && fields[0] == "fetched":
				if fetched[fields[1]] {
					t.Errorf("handed out twice: %.60s", unbase(fields[1]))
				}
				fetched[fields[1]] = true
			case len(fields) == 2 && fields[0] == "rotated":
				rotated = fields[1]
			}
		}
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Exited() {
			t.Fatalf("the process ended by itself: %v\n%s", err, strings.Join(said, ""))
		}

		opt.memTable, opt.Tokens = 2<<20, paid{}
		seen := checkLeft(t, opt)
		s, err := Open(t.Context(), opt)
		if err != nil {
			t.Fatalf("after kill %d: %v", n+1, err)
		}
		if chain := s.Chain(); seen != nil && *seen != chain.Head || seen == nil && chain.Size > 1 {
			t.Errorf("after kill %d: a reader saw another chain", n+1)
		}
		for _, c := range replies {
			if stored, err := s.FetchUID(t.Context(), c.index); err != nil || !bytes.Equal(stored, c.reply) {
				t.Fatalf("%s: %v", c.identity, err)
			}
			if _, err := s.unspentTokens(t.Context(), []string{payment(c.identity)}); !errors.Is(err, ErrSpent) {
				t.Fatalf("the token of %s is as good as new: %v", c.identity, err)
			}
			reply, err := uid.ParseReply(c.reply)
			if err != nil {
				t.Fatal(err)
			}
			if got, _, err := s.LookupUID(t.Context(), c.identity, math.MaxUint64); err != nil || len(got) != 1 || got[0] != reply.Entry.HashchainPos {
				t.Fatalf("%s: at %d, is at %v, %v", c.identity, reply.Entry.HashchainPos, got, err)
			}
		}
		// What was handed out before the kill is not handed out again; what is left, once.
		keys := make(map[sigKeyHash]bool)
		for text := range fetched {
			k, err := keyinit.Parse(unbase(text))
			if err != nil {
				t.Fatal(err)
			}
			keys[sigKeyHash(unbase(k.Contents.SigKeyHash))] = true
		}
		for hash := range keys {
			for {
				k, err := s.FetchKeyInit(t.Context(), hash, "")
				if errors.Is(err, ErrUnknown) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				if fetched[canonical.Encode(k)] {
					t.Fatalf("handed out twice: %.60s", k)
				}
				fetched[canonical.Encode(k)] = true
				later++
			}
		}
		if rotated != "" {
			caps, err := s.Capabilities(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			// One rotation may have landed that it did not live to report.
			if i := strings.Index(strings.Join(caps.SigPubKeys[:min(2, len(caps.SigPubKeys))], " "), rotated); i < 0 {
				t.Errorf("the key is %s, %s was reported", caps.SigPubKeys[0], rotated)
			}
		}
		mustCheck(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills: %d replies, %d KeyInits, %d of them after a kill", kills, len(replies), len(fetched), later)
	if len(fetched) == 0 {
		t.Error("no KeyInit was handed out")
	}
	if exhaustive() && len(replies) < 10_000 {
		t.Errorf("only %d replies", len(replies))
	}
}
