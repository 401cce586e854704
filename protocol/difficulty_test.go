package protocol

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg"
)

func TestASERT(t *testing.T) {
	text, err := os.ReadFile("testdata/asert.txt")
	if err != nil {
		t.Fatal(err)
	}
	net := chaincfg.MainNetParams
	checked := 0
	for line := range strings.Lines(string(text)) {
		var run int
		if strings.HasPrefix(line, "#") {
			continue
		}
		if n, _ := fmt.Sscanf(line, "run %d %d %d %x", &run, &net.AsertDifficultyAnchorHeight, &net.AsertDifficultyAnchorParentTimestamp, &net.AsertDifficultyAnchorBits); n == 4 {
			continue
		}
		var height, time, want uint32
		if _, err := fmt.Sscanf(line, "%d %d %x", &height, &time, &want); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if got := ASERTBits(&net, height, time); got != want {
			t.Errorf("%safter block %d of time %d: got %08x, expected %08x", line, height, time, got, want)
		}
		checked++
	}
	if checked < 300 {
		t.Errorf("%d vectors", checked)
	}
}
