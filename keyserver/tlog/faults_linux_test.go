package tlog

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/graph/durable/durabletest"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// TestFaults has each system call on the key, the state and their folder fail, one after the other: at a
// first start, and as checkpoints are signed. What was shown before and after never contradicts. Every
// seventh call does, or each under KEYTREE_EXHAUSTIVE.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts many processes")
	}
	strace := durabletest.Strace(t)
	step := 7
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		step = 1
	}
	for _, call := range []string{"openat", "write", "fsync", "close", "renameat,renameat2", "linkat", "unlinkat"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			for when := 1; ; when += step {
				dir := t.TempDir()
				h := &history{t: t, roots: make(map[uint64]tlog.Hash)}
				cmd := signer(dir, "signed", 0, 7)
				trace := filepath.Join(t.TempDir(), "trace")
				args := []string{"--follow-forks", "--output=" + trace, "--trace=" + call, "--inject=" + call + fmt.Sprintf(":error=EIO:when=%d", when)}
				for _, name := range []string{"", "key", "key.tmp", "state", "state.tmp"} {
					args = append(args, "--trace-path="+filepath.Join(dir, name))
				}
				traced := exec.Command(strace, append(args, cmd.Args...)...)
				traced.Env = append(cmd.Env, "GOMAXPROCS=1")
				out, err := traced.Output()
				if err != nil && !errors.As(err, new(*exec.ExitError)) {
					t.Fatal(err)
				}
				h.add(string(out))
				out, err = signer(dir, "signed", 0, 8).Output()
				if again := h.add(string(out)); err != nil || len(again) > 0 {
					t.Errorf("call %d: the next start: %v: %s", when, err, strings.Join(again, "; "))
				}
				if made, err := os.ReadFile(trace); err != nil || !strings.Contains(string(made), "(INJECTED)") {
					if when == 1 {
						t.Errorf("no call has failed: %v", err)
					}
					return // there are no more such calls
				}
			}
		})
	}
}
