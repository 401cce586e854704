package client

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// earlier is a keyserver, and folders of one of its users that the version before Covers
// has written. In poisoned, somebody between had appended an entry of bert@example.org
// that he had made up, and the user has looked for that.
const earlier = "testdata/earlier"

// earlierKeyserver shows size entries of the keyserver that those folders are of; 0 for
// all, which are 3 more than clean has.
func earlierKeyserver(t *testing.T, size int) *forger {
	t.Helper()
	return keyserverFrom(t, "keyserver.json", size)
}

// keyserverFrom is a keyserver of which a file in earlier tells.
func keyserverFrom(t *testing.T, file string, size int) *forger {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(earlier, file))
	if err != nil {
		t.Fatal(err)
	}
	var saved struct {
		Entries []string
		Replies []*uid.Reply
		Size    int
		Now     uint64
	}
	if err := json.Unmarshal(content, &saved); err != nil {
		t.Fatal(err)
	}
	f := newForger(t)
	f.now, f.entries = saved.Now, nil
	if size == 0 {
		size = len(saved.Entries)
	}
	for i, text := range saved.Entries[:size] {
		e := must(hashchain.Parse(text))(t)
		index := e.UIDIndex()
		f.entries = append(f.entries, e)
		f.replies[canonical.Encode(index[:])] = saved.Replies[i]
	}
	return f
}

// earlierFolder is a copy of a folder that an earlier version has written.
func earlierFolder(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := errors.Join(os.CopyFS(dir, os.DirFS(filepath.Join(earlier, name))), os.MkdirAll(filepath.Join(dir, evidenceDir), 0o700)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestEarlierFolders goes on in folders of an earlier version: with what was made up
// there nobody is convicted, and it does not stay.
func TestEarlierFolders(t *testing.T) {
	const cleanSize, grown = 8, 11
	for _, test := range []struct {
		folder string
		size   int // that the keyserver shows
		cut    uint64
	}{
		{"clean", cleanSize, 0}, {"clean", grown, 0}, {"poisoned", cleanSize, 1}, {"poisoned", cleanSize + 1, 1}, {"poisoned", grown, 1},
	} {
		t.Run(test.folder, func(t *testing.T) {
			f, dir := earlierKeyserver(t, test.size), earlierFolder(t, test.folder)
			// Before it is brought up to date, nobody is convicted either.
			c := must(Open(dir, f.options()))(t)
			c.wire = newWire(f.http.URL, f.options())
			if test.cut > 0 { // somebody answers with what the keyserver has signed about its own
				madeUp := must(c.chain.At(c.Size() - 1))(t)
				f.replies[indexOf(&madeUp)] = f.replies[indexOf(&f.entries[len(f.entries)-1])]
			}
			_, err := c.Lookup(t.Context(), "bert@example.org")
			if (err != nil) != (test.cut > 0) || errors.Is(err, ErrMisbehaviour) {
				t.Errorf("looked up: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			f.sent.Store(0)
			opt := f.options()
			var notices []string
			opt.Notice = func(text string) { notices = append(notices, text) }
			c = must(Init(t.Context(), dir, f.http.URL+"/", "", nil, opt))(t)
			defer c.Close()
			if c.Size() != uint64(test.size) || c.Head() != f.entries[test.size-1].Hash() {
				t.Errorf("%d entries", c.Size())
			}
			if len(notices) != int(test.cut) || test.cut > 0 && !strings.Contains(notices[0], "the last 1 entries of the copy, from position 8 on") {
				t.Errorf("notices %q", notices)
			}
			if sent := f.sent.Load() / hashchain.TextSize; sent > int64(test.size-cleanSize+8) {
				t.Errorf("%d entries were downloaded", sent)
			}
			contact := must(c.Lookup(t.Context(), "bert@example.org"))(t)
			if len(contact.Positions) != 1 || contact.Position() != 4 {
				t.Errorf("found at %d", contact.Positions)
			}
			id := must(c.OpenIdentity(alice, testPassphrase))(t)
			if err := c.Confirm(t.Context(), id, 1, 1); err != nil {
				t.Error(err)
			}
			wantNoEvidence(t, dir)
			if err := c.Recheck(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestEarlierFork has a keyserver whose entries a client of an earlier version has taken,
// and which signs other ones now. Unless it still gives out what it had signed before,
// it is a stranger's word against the copy, which stays: nothing is cut off.
func TestEarlierFork(t *testing.T) {
	f, dir := earlierKeyserver(t, 0), earlierFolder(t, "clean")
	f.withheld = []uint64{7}
	_, err := Init(t.Context(), dir, f.http.URL+"/", "", nil, f.options())
	if !errors.Is(err, ErrUnsigned) || !strings.Contains(err.Error(), "position 7") {
		t.Errorf("got %v", err)
	}
	wantNoEvidence(t, dir)
}
