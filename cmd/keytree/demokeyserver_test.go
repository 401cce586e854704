package main

import (
	"os"
	"strings"
	"testing"
)

// TestDemoKeyserver runs the demo as a user does. That it checks what it says is
// what its end depends on.
func TestDemoKeyserver(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	tmp := t.TempDir()
	p := startProgram(t, []string{"TMPDIR=" + tmp}, "demo", "keyserver")
	if code := p.end(); code != exitDone {
		t.Fatalf("exit code %d: %s", code, p.errors())
	}
	wantParts(t, p.output(),
		"── 1. The hashchain", "have the same fingerprint", "── 2. Alice becomes a user", "puts the escrow key on paper",
		"── 3. Alice waits", "with 3 behind it", "── 4. Bob finds Alice", "neither the text nor a name can be read in it",
		"── 5. What is refused", "identity is taken", "position 1", "message does not open",
		"── 6. Alice opens and answers", "is stopped", `"Hello Alice, it is Bob."`, `"Hello Bob, it is Alice."`, "✓ as the use-case tells")
	if strings.Contains(p.output(), "✗") {
		t.Error(p.output())
	}
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	keytree(t, "demo", "keyserver", "now").wantError(t, exitUsage, `unexpected argument "now"`)
}
