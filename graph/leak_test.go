package graph

import (
	"errors"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"testing"

	"go.uber.org/goleak"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/fsck"
)

// footprint is what this process holds.
type footprint struct {
	goroutines, files int
	heap, resident    int64 // bytes; resident without maps of files
}

func takeFootprint() footprint {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	f := footprint{goroutines: runtime.NumGoroutine(), heap: int64(m.HeapAlloc)}
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil {
		f.files = len(entries)
	}
	status, _ := os.ReadFile("/proc/self/status")
	if m := regexp.MustCompile(`RssAnon:\s*(\d+) kB`).FindSubmatch(status); m != nil {
		f.resident, _ = strconv.ParseInt(string(m[1]), 10, 64)
		f.resident <<= 10
	}
	return f
}

// TestNothingLeaks opens, uses and closes a graph 100 times, and as often fails
// to open it.
func TestNothingLeaks(t *testing.T) {
	inMemory(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	dir := t.TempDir()
	r := newRandomBlocks(11)
	var prev chainhash.Hash
	cycle := func(height uint32) {
		g, err := Open(dir, testParams, faultOptions())
		if err != nil {
			t.Fatal(err)
		}
		b := r.next(t, height, prev, 10)
		prev = b.Hash
		if err := g.Connect(b); err != nil {
			t.Fatal(err)
		}
		v, err := g.At(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := v.ActionsOf(t.Context(), key("key1"), nil, 3); err != nil {
			t.Error(err)
		}
		v.Close()
		if height%10 == 0 { // which takes its time
			if _, err := Open(dir, testParams, faultOptions()); !errors.Is(err, ErrLocked) {
				t.Error(err)
			}
		}
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Params{Network: "another"}, faultOptions()); !errors.Is(err, ErrMismatch) {
			t.Error(err)
		}
	}
	var early footprint
	for height := range uint32(100) {
		if height == 20 {
			early = takeFootprint()
		}
		cycle(height)
	}
	late := takeFootprint()
	t.Logf("after 20 cycles %+v, after 100 %+v", early, late)
	if late.goroutines > early.goroutines+2 || late.files > early.files || late.heap > early.heap+4<<20 {
		t.Errorf("after 20 cycles %+v, after 100 %+v", early, late)
	}
	report, err := fsck.Check(t.Context(), dir, testParams, faultOptions().fsck(), nil)
	if err != nil || len(report.Findings) > 0 {
		t.Errorf("%v\n%v", err, lines(report))
	}
}
