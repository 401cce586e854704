package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// TestServeWaits has a running server's node lose blocks, go away and come back: the
// server stays, answers what it knows, and says that it may be the past.
func TestServeWaits(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts one process after the other")
	}
	t.Parallel() // it waits for time-outs
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	p := startProgram(t, nil, serveArgs(n.URL(), t.TempDir())...)
	server, rest := p.awaitServing()
	awaitTip(t, server, n)
	ctx := t.Context()
	height, tip, err := n.Tip(ctx)
	if err != nil {
		t.Fatal(err)
	}

	// await waits until status and readiness say the same.
	await := func(synced bool, reason string) {
		t.Helper()
		var status struct {
			Synced    bool
			Unsynced  string
			TipHeight uint32 `json:"tip_height"`
			TipHash   string `json:"tip_hash"`
		}
		code := 0
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			r, err := http.Get("http://" + rest + "/readyz")
			if err != nil {
				t.Fatal(err)
			}
			code = r.StatusCode
			r.Body.Close()
			if err := json.Unmarshal(mustGet(t, p, "/v1/status"), &status); err != nil {
				t.Fatal(err)
			}
			if status.Synced == synced && strings.Contains(status.Unsynced, reason) && (code == http.StatusOK) == synced {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("status is %+v, /readyz answers %d; want synced %v, reason %q", status, code, synced, reason)
			}
		}
		if status.TipHeight != height || status.TipHash != tip.String() {
			t.Fatalf("the tip is %d %s, want %d %v", status.TipHeight, status.TipHash, height, tip)
		}
		if out := mustKeytree(t, "status", "--server", server); !synced {
			wantParts(t, out, "not synced: ", reason)
		}
	}
	await(true, "")

	var lost []chainhash.Hash
	for h := height - 4; h <= height; h++ {
		hash, err := n.BlockHash(ctx, h)
		if err != nil {
			t.Fatal(err)
		}
		lost = append(lost, hash)
	}
	if err := n.Invalidate(ctx, lost[0]); err != nil {
		t.Fatal(err)
	}
	await(false, "has lost blocks or reads them again")
	for _, hash := range lost { // bchd reconsiders each by itself
		if err := n.Reconsider(ctx, hash); err != nil {
			t.Fatal(err)
		}
	}
	await(true, "")

	if err := n.Halt(); err != nil {
		t.Fatal(err)
	}
	await(false, "")
	if err := n.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	await(true, "")
	if warnings := strings.Count(p.errors(), "waiting for the node"); warnings > 4 {
		t.Errorf("%d warnings:\n%s", warnings, p.errors())
	}
}
