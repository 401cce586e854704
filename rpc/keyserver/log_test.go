package keyserver_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	xtlog "golang.org/x/mod/sumdb/tlog"

	"github.com/keytree-bch/keytree/keyserver"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/tlog"
	"github.com/keytree-bch/keytree/keyserver/tlog/tlogtest"
	format "github.com/keytree-bch/keytree/protocol/tlog"
	keyserverrpc "github.com/keytree-bch/keytree/rpc/keyserver"
	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
	tlogrpc "github.com/keytree-bch/keytree/rpc/tlog"
)

// signedLog is a log that has signed all that a source has.
func signedLog(t *testing.T, source tlog.Source) *tlog.Log {
	t.Helper()
	dir := t.TempDir()
	l, err := tlog.Open(tlog.Options{
		Source: source, Origin: "example.org/keytree", KeyFile: filepath.Join(dir, "key"), StateFile: filepath.Join(dir, "state"), Log: zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestLogOverHTTP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chain := tlogtest.New(t, 1).Grow(300)
		l := signedLog(t, chain)
		handler := keyserverrpc.WithLog(l, http.NotFoundHandler(), zerolog.Nop())
		get := func(method, path string) *http.Response {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequest(method, path, nil))
			return w.Result()
		}
		if r := get("GET", "/keytree/checkpoint"); r.StatusCode != http.StatusNotFound || r.Header.Get("Cache-Control") != "" {
			t.Errorf("before the first checkpoint: %d, %v", r.StatusCode, r.Header)
		}
		go l.Run(t.Context())
		synctest.Wait()
		const forever = "public, max-age=31536000, immutable"
		for _, test := range []struct {
			method, path string
			code, length int
			kind, cache  string
		}{
			{"GET", "/keytree/checkpoint", 200, -1, "text/plain; charset=utf-8", "public, max-age=3"},
			{"GET", "/keytree/tile/0/000", 200, 256 * 32, "application/octet-stream", forever},
			{"GET", "/keytree/tile/0/001.p/44", 200, 44 * 32, "application/octet-stream", forever},
			{"GET", "/keytree/tile/0/001.p/1", 200, 32, "application/octet-stream", forever},
			{"GET", "/keytree/tile/1/000.p/1", 200, 32, "application/octet-stream", forever},
			{"GET", "/keytree/tile/entries/000", 200, 256 * 155, "application/octet-stream", forever},
			{"GET", "/keytree/tile/entries/001.p/44", 200, 44 * 155, "application/octet-stream", forever},
			{"HEAD", "/keytree/tile/0/000", 200, 0, "application/octet-stream", forever},
			{"GET", "/keytree/tile/0/001.p/45", 404, -1, "text/plain; charset=utf-8", ""},
			{"GET", "/keytree/tile/0/001", 404, -1, "text/plain; charset=utf-8", ""},
			{"GET", "/keytree/tile/0/0", 404, -1, "text/plain; charset=utf-8", ""},
			{"GET", "/keytree/", 404, -1, "text/plain; charset=utf-8", ""},
			{"POST", "/keytree/checkpoint", 405, -1, "text/plain; charset=utf-8", ""},
			{"GET", "/keytree", 404, -1, "text/plain; charset=utf-8", ""}, // what is behind
		} {
			r := get(test.method, test.path)
			body, err := io.ReadAll(r.Body)
			if err != nil || r.StatusCode != test.code || test.length >= 0 && len(body) != test.length ||
				r.Header.Get("Content-Type") != test.kind || r.Header.Get("Cache-Control") != test.cache {
				t.Errorf("%s %s: got %d, %d bytes, %v (%v)", test.method, test.path, r.StatusCode, len(body), r.Header, err)
			}
			if test.path != "/keytree" && r.Header.Get("Access-Control-Allow-Origin") != "*" {
				t.Errorf("%s: no page may read it", test.path)
			}
		}
		if r := get("GET", "/keytree/checkpoint"); r.Header.Get(tlogrpc.WitnessedHeader) != "" {
			t.Errorf("without a policy the checkpoint is marked: %v", r.Header)
		}
		chain.Wait(keyserver.ErrHeld)
	})
}

// TestServiceIsSource serves a keyserver's own log: its tiles are those of its entries, and the
// keyserver vouches for the log's key, also after it has another key itself.
func TestServiceIsSource(t *testing.T) {
	r := rpctest.NewKeyserver(t, rpctest.KeyserverOptions{})
	l := signedLog(t, r.Service)
	r.Service.AnnounceLog("example.org/keytree", l.Key().String())
	for i := range 20 {
		r.Register(t, strings.Repeat("a", i+3)+"@example.org", rpctest.NewKey(byte(i+1)), time.Now())
	}
	if _, err := r.Service.RotateKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.Run(ctx) // which signs once
	signed, _, err := l.Checkpoint()
	if err != nil {
		t.Fatal(err)
	}
	c, err := format.Open(signed, l.Key())
	state := r.Service.Chain()
	if err != nil || c.Size != 22 || c.Root != format.Hash(state.Root()) {
		t.Fatalf("the checkpoint is %v (%v)", c, err)
	}
	chain, _ := r.Chain(t)
	tile, err := l.Tile(t.Context(), format.NewTile(0, 0, 22))
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := l.Tile(t.Context(), format.NewTile(-1, 0, 22))
	if err != nil {
		t.Fatal(err)
	}
	entries, err := format.ParseBundle(bundle, 22)
	if err != nil {
		t.Fatal(err)
	}
	for i := range chain {
		leaf := hashchain.LeafHash(&chain[i])
		if !bytes.Equal(entries[i], chain[i][:]) || !bytes.Equal(tile[32*i:32*(i+1)], leaf[:]) {
			t.Errorf("entry %d is another in the log", i)
		}
	}
	for level := uint(1); level <= 4; level++ {
		hashes, err := r.Service.TreeHashes(t.Context(), level, 0, 22>>level)
		if err != nil {
			t.Fatal(err)
		}
		for i, h := range hashes {
			below, err := r.Service.TreeHashes(t.Context(), level-1, 2*uint64(i), 2)
			if err != nil || xtlog.NodeHash(format.Hash(below[0]), format.Hash(below[1])) != format.Hash(h) {
				t.Errorf("level %d, hash %d: got %s (%v)", level, i, h, err)
			}
		}
	}
	for _, ask := range [][3]uint64{{0, 22, 1}, {0, 0, 23}, {0, 1, 0}, {5, 0, 1}, {0, 1 << 63, 1 << 63}} {
		if _, err := r.Service.TreeHashes(t.Context(), uint(ask[0]), ask[1], ask[2]); !errors.Is(err, keyserver.ErrRange) {
			t.Errorf("hashes %v: %v", ask, err)
		}
	}
	var answer struct {
		Capabilities keyserver.Capabilities `json:"CAPABILITIES"`
	}
	r.Call(t, "KeyRepository.Capabilities", rpctest.Object{}, &answer)
	caps := answer.Capabilities
	key, err := canonical.Decode(caps.SigPubKeys[0], ed25519.PublicKeySize)
	if err != nil || caps.LogVKey != l.Key().String() || caps.LogStatement == nil {
		t.Fatalf("capabilities %+v (%v)", caps, err)
	}
	root, err := caps.LogStatement.Verify(key)
	if got := caps.LogStatement.Statement; err != nil || format.Hash(root) != c.Root || got.Size != 22 || got.LogVKey != caps.LogVKey ||
		got.LogOrigin != "example.org/keytree" || got.Domain != rpctest.Domain || got.Time == 0 {
		t.Errorf("the statement is %+v (%v)", got, err)
	}
	old, err := canonical.Decode(caps.SigPubKeys[1], ed25519.PublicKeySize)
	if _, wrong := caps.LogStatement.Verify(old); err != nil || !errors.Is(wrong, hashchain.ErrProof) {
		t.Errorf("by the key before: %v (%v)", wrong, err)
	}
	also, err := r.Client.GetCapabilities(t.Context(), &keytreev1.GetCapabilitiesRequest{})
	if err != nil || also.LogVkey != caps.LogVKey || also.LogStatement == nil {
		t.Fatalf("over gRPC: %+v (%v)", also, err)
	}
	said := also.LogStatement
	again := hashchain.SignedLogStatement{ServerSignature: canonical.Encode(said.ServerSignature), Statement: hashchain.LogStatement{
		Domain: said.Domain, LogOrigin: said.LogOrigin, LogVKey: said.LogVkey, Root: canonical.Encode(said.Root), Size: said.Size, Time: said.Time,
	}}
	if root, err := again.Verify(key); err != nil || format.Hash(root) != c.Root {
		t.Errorf("over gRPC the statement is %+v (%v)", said, err)
	}
	caps.LogStatement.Statement.Size++
	if _, err := caps.LogStatement.Verify(key); !errors.Is(err, hashchain.ErrProof) {
		t.Errorf("changed: %v", err)
	}
}
