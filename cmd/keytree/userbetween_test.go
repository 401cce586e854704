package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

// between stands between a keyserver and its users. What lie makes of an answer is passed
// on, unless that is nil: then the connection is cut.
type between struct {
	t  *testing.T
	to string

	mu  sync.Mutex                                                // held while lie is called, too
	lie func(method string, answer map[string]any) map[string]any // mu; nil: nothing is changed
}

func (b *between) setLie(lie func(method string, answer map[string]any) map[string]any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lie = lie
}

// ServeHTTP implements http.Handler.
func (b *between) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	reads := r.Method == http.MethodGet // the log, of which nobody lies here
	var response *http.Response
	if reads {
		response, err = client.Get(strings.TrimSuffix(b.to, "/") + r.URL.Path)
	} else {
		response, err = client.Post(b.to, "application/json", bytes.NewReader(body))
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lie == nil || reads {
		w.Write(raw)
		return
	}
	var call struct{ Method string }
	answer := make(map[string]any)
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if json.Unmarshal(body, &call) != nil || d.Decode(&answer) != nil {
		b.t.Errorf("%s: %s", body, raw)
	}
	_, method, _ := strings.Cut(call.Method, ".")
	if answer = b.lie(method, answer); answer == nil {
		panic(http.ErrAbortHandler)
	}
	json.NewEncoder(w).Encode(answer)
}

// TestUserTroubles: each kind of trouble has an exit code and words of its own, and what
// was only shown leaves nothing behind.
func TestUserTroubles(t *testing.T) {
	withPassphrase(t)
	p := startKeyserver(t, "keyserver", "serve", "--data-dir", t.TempDir(), "--keyserver-tokens", "open")
	b := &between{t: t, to: p.url}
	front := httptest.NewServer(b)
	defer front.Close()
	dir := t.TempDir()
	user := func(args ...string) []string { return append(append([]string{"user"}, args...), "--user-dir", dir) }
	mustKeytree(t, user("init", "--keyserver", front.URL+"/")...)
	mustKeytree(t, user("create", "alice@example.org")...)
	before := decoded[userStatus](t, user("status")...)

	var last hashchain.Entry
	madeUp := func(entry string) string {
		e, err := hashchain.Parse(entry)
		if err != nil {
			t.Fatal(err)
		}
		made, err := hashchain.Seal(e.Hash(), "bert@example.org", hashchain.Hash{1}, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		last = made
		return made.String()
	}
	damage := func(name, with string) func() {
		return func() {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(with), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, test := range []struct {
		name   string
		lie    func(method string, answer map[string]any) map[string]any
		damage func()
		words  []string
	}{
		{"made up entry", func(method string, answer map[string]any) map[string]any {
			result, _ := answer["result"].(map[string]any)
			switch method {
			case "FetchLastHashChain":
				result["HCEntry"], result["HCPos"] = madeUp(result["HCEntry"].(string)), before.Entries
			case "FetchHashChain": // of what lies behind the end it gives the last
				result["HCEntries"], result["HCFirstPos"] = []string{last.String()}, before.Entries
			}
			return answer
		}, nil, []string{"the keyserver, or somebody between, shows what the keyserver has not signed: position 2: no signed message", "nothing of it was taken; try again"}},
		{"another history", func(method string, answer map[string]any) map[string]any {
			if method == "FetchLastHashChain" {
				result := answer["result"].(map[string]any)
				result["HCEntry"] = madeUp(result["HCEntry"].(string))
			}
			return answer
		}, nil, []string{"the keyserver, or somebody between, shows another history than before: position 1: another entry", "try another network, and compare keytree user status", "keytree user resync"}},
		{"refusal", func(string, map[string]any) map[string]any {
			return map[string]any{"jsonrpc": "2.0", "id": 1, "error": map[string]any{"code": -1, "message": "closed on Sundays"}}
		}, nil, []string{`keyserver refuses: "closed on Sundays"`}},
		{"commands for terminals", func(string, map[string]any) map[string]any {
			return map[string]any{"jsonrpc": "2.0", "id": 1, "error": map[string]any{"code": -1, "message": "\x1b[2J\u009b0m\u202e\r\nkeytree: all is well"}}
		}, nil, []string{`keyserver refuses: "\x1b[2J`}},
		{"cut", func(string, map[string]any) map[string]any { return nil }, nil, []string{"keyserver " + front.URL}},
		{"damaged copy", nil, damage("chain", "x"), []string{"local file damaged", "keytree user resync downloads it again"}},
		{"damaged state", nil, damage("keyserver.json", "x"), []string{"local file damaged", "take it from a backup"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			kept := t.TempDir()
			if err := os.CopyFS(filepath.Join(kept, "kept"), os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			b.setLie(test.lie)
			if test.damage != nil {
				test.damage()
			}
			o := keytree(t, user("sync")...)
			for _, words := range test.words {
				o.wantError(t, exitFailed, words)
			}
			if strings.ContainsFunc(strings.TrimSuffix(o.stderr, "\n"), func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("commands for the terminal: %q", o.stderr)
			}
			if strings.Contains(o.stderr, "misbehaves") {
				t.Errorf("standard error %q", o.stderr)
			}
			b.setLie(nil)
			if test.name == "damaged copy" {
				resynced := keytree(t, user("resync", "--json")...)
				if resynced.code != exitDone || !strings.Contains(resynced.stderr, "kept the fingerprint, your identities, and evidence; dropped the copy") {
					t.Errorf("%+v", resynced)
				}
			} else if test.damage != nil {
				if err := os.CopyFS(dir+"2", os.DirFS(filepath.Join(kept, "kept"))); err != nil {
					t.Fatal(err)
				}
				dir += "2"
			}
			after := decoded[userStatus](t, user("sync")...)
			if after.Head != before.Head || after.Fingerprint != before.Fingerprint || len(after.Identities) != 1 {
				t.Errorf("%+v, before %+v", after, before)
			}
			if files, err := os.ReadDir(filepath.Join(dir, "evidence")); err != nil || len(files) > 0 {
				t.Errorf("%d files of evidence, %v", len(files), err)
			}
		})
	}
}
