package main

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/durable/durabletest"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// TestVerifyIsOffline traces verify: it makes no connection, and no socket, whatever comes of it.
func TestVerifyIsOffline(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts processes")
	}
	strace, dir := durabletest.Strace(t), t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	log, err := format.GenerateKey(protocol.StateOrigin("keys.example.org", "mainnet", 1))
	if err != nil {
		t.Fatal(err)
	}
	witness, err := format.GenerateKey("w.example/w")
	if err != nil {
		t.Fatal(err)
	}
	// A policy with URLs, which are where somebody could be asked.
	write(t, file("policy"), fmt.Sprintf("log %s http://127.0.0.1:1/state/mainnet/1/1\nwitness w %s http://127.0.0.1:1/state\nquorum w\n", log.Log(), witness.Witness()))
	for name, root := range map[string][32]byte{"one.proof": protocol.EmptyMapHash(), "two.proof": {1}} {
		state := proof.StateProof{
			Entry: protocol.StateEntry{Height: 7, Block: chainhash.Hash{7}, StateRoot: root}, Subjects: []proof.StateSubject{{Key: protocol.KeyHash{1}}}, Tree: []byte{0},
		}
		extra, err := state.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		entry := state.Entry.Bytes()
		signed := log.Sign(format.Checkpoint{Origin: log.Name(), Size: 1, Root: sha256.Sum256(append([]byte{0}, entry[:]...))})
		p := format.Proof{Extra: extra, Checkpoint: append(signed, witness.Cosign(signed, time.Now())...)}
		write(t, file(name), string(p.Marshal()))
	}
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		files []string
		code  int
	}{{[]string{"one.proof"}, exitDone}, {[]string{"two.proof"}, exitFailed}, {[]string{"one.proof", "two.proof"}, exitMisbehaviour}} {
		args := []string{"--follow-forks", "--trace=execve,%network", "--output=" + file("trace"), executable, "verify", "--policy", file("policy")}
		for _, name := range test.files {
			args = append(args, file(name))
		}
		cmd := exec.Command(strace, args...)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != test.code {
			t.Errorf("%v: exit code %d, want %d: %s", test.files, code, test.code, out)
		}
		trace, err := os.ReadFile(file("trace"))
		if err != nil {
			t.Fatal(err)
		}
		executed := 0
		for line := range strings.Lines(string(trace)) {
			if executed += strings.Count(line, "execve("); strings.Contains(line, "socket(") || strings.Contains(line, "connect(") || strings.Contains(line, "send") {
				t.Errorf("%v: %s", test.files, line)
			}
		}
		if executed != 1 {
			t.Errorf("%v: traced %d programs:\n%s", test.files, executed, trace)
		}
	}
}
