package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/token"
)

// What happens to the files is found out, or does not matter.
func TestLocalFiles(t *testing.T) {
	f := newForger(t)
	f.fill(40)
	c, err := f.init()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(c.dir, f.options()); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		damage func(dir string) error
		want   error
		text   string
	}{
		"nothing": {func(string) error { return nil }, nil, ""},
		"a process was killed while it wrote": {func(dir string) error {
			file, err := os.OpenFile(dir+"/chain", os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = file.WriteString(strings.Repeat("x", 1000))
			return errors.Join(err, file.Close(), os.WriteFile(dir+"/keyserver.json.tmp", []byte("{"), 0o600))
		}, nil, ""},
		"a byte":          {flipByte(20*hashchain.EntrySize + 99), ErrDamaged, "position 20"},
		"the first entry": {flipByte(5), ErrDamaged, "position 0"},
		"the last entry":  {flipByte(40*hashchain.EntrySize + 5), ErrDamaged, "position 40"},
		"the end is gone": {func(dir string) error { return os.Truncate(dir+"/chain", 10*hashchain.EntrySize) }, ErrDamaged, "ends before position 40"},
		"all is gone":     {func(dir string) error { return os.Remove(dir + "/chain") }, ErrDamaged, "ends before"},
		"no state":        {func(dir string) error { return os.Remove(dir + "/keyserver.json") }, ErrNotInitialized, ""},
		"empty state":     {func(dir string) error { return os.WriteFile(dir+"/keyserver.json", nil, 0o600) }, ErrDamaged, "keyserver.json"},
		"a key that anybody can sign under": {func(dir string) error {
			var s state
			err := readJSON(dir+"/keyserver.json", &s)
			if err == nil {
				s.Keys[0].Public = append([]byte{1}, make([]byte, 31)...)
				err = writeJSON(dir+"/keyserver.json", s)
			}
			return err
		}, ErrDamaged, "small order"},
		"other state": {func(dir string) error {
			return os.WriteFile(dir+"/keyserver.json", []byte(`{"domain":"example.org","url":"http://127.0.0.1:1/","size":3,"head":""}`), 0o600)
		}, ErrDamaged, "end of the chain"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.CopyFS(dir, os.DirFS(c.dir)), test.damage(dir)); err != nil {
				t.Fatal(err)
			}
			size := len(f.entries)
			f.seal("bert@example.org", hashchain.Hash{2})
			defer func() { f.entries = f.entries[:size] }()
			c, err := Open(dir, f.options())
			if err == nil {
				defer c.Close()
				_, err = c.Sync(t.Context())
			}
			if err == nil {
				_, err = c.Search(t.Context(), "bert@example.org")
			}
			if !errors.Is(err, test.want) || err != nil && !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v, want %v, %s", err, test.want, test.text)
			}
		})
	}
}

func flipByte(at int64) func(dir string) error {
	return func(dir string) error {
		content, err := os.ReadFile(dir + "/chain")
		if err != nil {
			return err
		}
		content[at] ^= 1
		return os.WriteFile(dir+"/chain", content, 0o600)
	}
}

// A download and a search that were interrupted go on where they were.
func TestResume(t *testing.T) {
	f := newForger(t)
	for len(f.entries) < 3*entriesAtOnce {
		if len(f.entries) == 2*entriesAtOnce+7 {
			f.enter(firstMessage(alice, f.last(), f.now, newKey(1)))
			continue
		}
		f.fill(1)
	}
	opt := f.options()
	interrupt := func(at string) (context.Context, func(what string, done, all uint64)) {
		ctx, cancel := context.WithCancel(t.Context())
		return ctx, func(what string, done, all uint64) {
			if what == at && done < all {
				cancel()
			}
		}
	}
	ctx, progress := interrupt("downloading")
	opt.Progress = progress
	dir := t.TempDir()
	c, err := Init(ctx, dir, f.http.URL+"/", "", nil, opt)
	if !errors.Is(err, context.Canceled) || c.Size() == 0 || c.Size() == uint64(len(f.entries)) {
		t.Fatalf("%d entries, %v", c.Size(), err)
	}
	have := c.Size()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	opt.Progress = nil
	c = must(Init(t.Context(), dir, f.http.URL+"/", "", nil, opt))(t)
	defer c.Close()
	if sent, all := f.sent.Load(), int64(len(f.entries)*(hashchain.TextSize+3)); c.Size() != uint64(len(f.entries)) || sent > all*3/2 {
		t.Errorf("%d of %d entries, after %d: %d bytes were sent", c.Size(), len(f.entries), have, sent)
	}

	ctx, progress = interrupt("searching")
	c.opt.Progress = progress
	if _, err := c.Lookup(ctx, alice); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	begun := uint64(0)
	c.opt.Progress = func(what string, done, _ uint64) {
		if begun == 0 {
			begun = done
		}
	}
	contact, err := c.Lookup(t.Context(), alice)
	if err != nil || contact.Position() != 2*entriesAtOnce+7 || begun <= entriesAtOnce {
		t.Errorf("went on at %d, %v", begun, err)
	}
}

// An answer that is not one does no harm.
func TestBadAnswers(t *testing.T) {
	inMemory(t)
	var answer http.HandlerFunc
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r) }))
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	defer server.Close()
	text := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, s) }
	}
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		want   string
	}{
		"a page":         {text("<html>"), "makes no sense"},
		"nothing":        {text(""), "makes no sense"},
		"null":           {text("null"), "neither a result nor an error"},
		"null result":    {text(`{"jsonrpc":"2.0","result":null,"id":1}`), "neither a result nor an error"},
		"a list":         {text(`{"jsonrpc":"2.0","result":[],"id":1}`), "makes no sense"},
		"another's":      {text(`{"jsonrpc":"2.0","result":{"CAPABILITIES":{}},"id":2}`), "for another call"},
		"nobody's":       {text(`{"jsonrpc":"2.0","result":{"CAPABILITIES":{}}}`), "for another call"},
		"empty":          {text(`{"jsonrpc":"2.0","result":{},"id":1}`), "expected CAPABILITIES"},
		"a refusal":      {text("{\"error\":{\"code\":-1,\"message\":\"no\\u001b[2J\"},\"id\":1}"), `refuses: "no\x1b[2J"`},
		"a redirection":  {http.RedirectHandler("http://127.0.0.1:1/", http.StatusTemporaryRedirect).ServeHTTP, "HTTP status 307"},
		"too much":       {text(strings.Repeat(" ", maxAnswer+1)), "more than"},
		"a false length": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "9223372036854775807") }, "unexpected EOF"},
	} {
		answer = test.answer
		if _, err := Init(t.Context(), t.TempDir(), server.URL+"/", "", nil, Options{}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
	for _, url := range []string{"", "127.0.0.1:1", "ftp://127.0.0.1/", "http://", "http://me:secret@127.0.0.1/", "http://127.0.0.1/?x"} {
		if _, err := Init(t.Context(), t.TempDir(), url, "", nil, Options{}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", url, err)
		}
	}
}

// The keyserver may be another one than it was, but not of another chain.
func TestAnotherKeyserver(t *testing.T) {
	one, other := newServer(t, token.Open{}), newServer(t, token.Open{})
	one.fill(2)
	other.fill(3)
	dir := t.TempDir()
	if err := one.mustInit(dir).Close(); err != nil {
		t.Fatal(err)
	}
	var s state
	if err := readJSON(dir+"/"+stateFile, &s); err != nil {
		t.Fatal(err)
	}
	s.URL = other.url
	if err := writeJSON(dir+"/"+stateFile, s); err != nil {
		t.Fatal(err)
	}
	c := must(Open(dir, one.options()))(t)
	defer c.Close()
	_, err := c.Sync(t.Context())
	wantUnproven(t, dir, err, ErrContradiction, 0, "another entry")
}

// However an answer is cut, the same comes out as without.
func FuzzEntries(f *testing.F) {
	var e hashchain.Entry
	e[32] = 1
	one := `"` + e.String() + `"`
	for _, s := range []string{
		"[]", "[" + one + "]", "[" + one + "," + one + "]", "[ " + one + " , " + one + " ]", "null", `[""]`, "[1]", "[" + one + ",2]", "{}",
		"[" + one, "[" + one + ",", "[" + one + `],"x\"HCEntries":[` + one + "]",
	} {
		f.Add(`{"HCEntries":` + s + `,"HCFirstPos":0}`)
	}
	type result struct {
		HCEntries  entryTexts
		HCFirstPos *uint64
	}
	f.Fuzz(func(t *testing.T, s string) {
		var whole, cut result
		var plain struct{ HCEntries []string }
		wholeErr := json.Unmarshal([]byte(s), &whole)
		plainErr := json.Unmarshal([]byte(s), &plain)
		for i, text := range plain.HCEntries {
			if e, err := hashchain.Parse(text); wholeErr == nil && plainErr == nil && (err != nil || e != whole.HCEntries[i]) {
				t.Errorf("%q: entry %d: %v", s, i, err)
			}
		}
		list, rest := cutEntries([]byte(s))
		cutErr := json.Unmarshal(rest, &cut)
		if cut.HCEntries != nil && len(cut.HCEntries) == 0 {
			cut.HCEntries = list
		}
		if strings.Count(s, "HCEntries") == 1 && ((wholeErr == nil) != (cutErr == nil) || wholeErr == nil && fmt.Sprint(whole.HCEntries) != fmt.Sprint(cut.HCEntries)) {
			t.Errorf("%q: whole %v, %v; cut %v, %v", s, whole.HCEntries, wholeErr, cut.HCEntries, cutErr)
		}
	})
}
