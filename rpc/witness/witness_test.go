package witness_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/keyserver/tlog/tlogtest"
	"github.com/keytree-bch/keytree/keyserver/witness"
	"github.com/keytree-bch/keytree/protocol/tlog"
	witnessrpc "github.com/keytree-bch/keytree/rpc/witness"
)

// TestProtocol has one request for each answer that C2SP's tlog-witness lists.
func TestProtocol(t *testing.T) {
	key, err := tlog.GenerateKey("example.org/keytree")
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := tlog.GenerateKey("example.org/keytree")
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := tlog.GenerateKey("example.net/keytree")
	if err != nil {
		t.Fatal(err)
	}
	policy, err := tlog.ParsePolicy([]byte("log " + key.Log().String() + "\nquorum none"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w, err := witness.Open(witness.Options{KeyFile: filepath.Join(dir, "key"), StateFile: filepath.Join(dir, "state"), Name: "witness.example", Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	handler := witnessrpc.NewHandler(w, zerolog.Nop())
	chain := tlogtest.New(t, 1).Grow(20)
	signed := func(by *tlog.Key, size uint64) []byte {
		c, err := chain.ChainAt(t.Context(), size)
		if err != nil {
			t.Fatal(err)
		}
		return by.Sign(tlog.Checkpoint{Origin: by.Name(), Size: size, Root: tlog.Hash(c.Root())})
	}
	first := &tlog.Submission{Checkpoint: signed(key, 10)}
	for _, test := range []struct {
		name, method, path string
		body               []byte
		code               int
		kind, answer       string
	}{
		{"unknown log", "POST", "/add-checkpoint", (&tlog.Submission{Checkpoint: signed(unknown, 10)}).Marshal(), 404, "", ""},
		{"another's key", "POST", "/add-checkpoint", (&tlog.Submission{Checkpoint: signed(stranger, 10)}).Marshal(), 403, "", ""},
		{"good", "POST", "/add-checkpoint", first.Marshal(), 200, "text/plain; charset=utf-8", "— witness.example "},
		{"old size too small", "POST", "/add-checkpoint", first.Marshal(), 409, "text/x.tlog.size", "10\n"},
		{"no proof", "POST", "/add-checkpoint", (&tlog.Submission{Old: 10, Checkpoint: signed(key, 20)}).Marshal(), 422, "", ""},
		{"old size too large", "POST", "/add-checkpoint", (&tlog.Submission{Old: 10, Checkpoint: signed(key, 5)}).Marshal(), 400, "", ""},
		{"nonsense", "POST", "/add-checkpoint", []byte("old\n"), 400, "", ""},
		{"too long", "POST", "/add-checkpoint", bytes.Repeat([]byte("x"), 1<<20), 400, "", ""},
		{"another method", "GET", "/add-checkpoint", nil, 405, "", ""},
		{"another path", "POST", "/", nil, 404, "", ""},
	} {
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, httptest.NewRequest(test.method, test.path, bytes.NewReader(test.body)))
		r := recorder.Result()
		answer, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != test.code || test.kind != "" && r.Header.Get("Content-Type") != test.kind || !strings.HasPrefix(string(answer), test.answer) {
			t.Errorf("%s: got %d, %v, %q (%v)", test.name, r.StatusCode, r.Header, answer, err)
		}
		if r.StatusCode != http.StatusOK && bytes.Contains(answer, []byte("— ")) {
			t.Errorf("%s: refused with a signature: %q", test.name, answer)
		}
		if test.code == 200 {
			if _, _, err := tlog.ParseCosignatures(first.Checkpoint, answer, w.Key()); errors.Is(err, tlog.ErrSignature) || err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
		}
	}
}
