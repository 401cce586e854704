package audit

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
)

// earlier is a keyserver, and folders of its auditors, that the version before pins has
// written: in clean it is sound, in accused it was convicted by a head that the thief of
// a replaced key had signed, in cheat and first it has rewritten an entry, and in poisoned
// somebody between has appended one that he had made up.
const earlier = "testdata/earlier"

func earlierWorld(t *testing.T) *world {
	t.Helper()
	inMemory(t)
	read := func(name string) []byte {
		content, err := os.ReadFile(filepath.Join(earlier, name))
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	var saved struct {
		Entries []string
		Replies []*uid.Reply
		Own     []uint64
		Genesis string
		Now     int64
	}
	if err := json.Unmarshal(read("keyserver.json"), &saved); err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, key: newKey(2), own: saved.Own, replies: make(map[hashchain.Hash]*uid.Reply), signs: true, answers: true, anchorChain: saved.Genesis}
	for i, text := range saved.Entries {
		entry, err := hashchain.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		s.entries = append(s.entries, entry)
		s.replies[entry.UIDIndex()] = saved.Replies[i]
	}
	if err := s.chain.Append(s.entries, nil); err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, server: s, headers: read("headers"), now: time.Unix(saved.Now, 0)}
	if err := chainhash.Decode(&w.genesis, saved.Genesis); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(filepath.Join(earlier, "bundle"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	in, err := proof.NewBundleReader(file)
	if err != nil {
		t.Fatal(err)
	}
	for it, err := range in.Items() {
		if err != nil {
			t.Fatal(err)
		}
		w.items = append(w.items, it)
		w.baton.Hash = protocol.Tx(it.Raw).TxID()
	}
	w.height = uint32(len(w.headers)/protocol.HeaderSize - 1)
	if w.tip, err = protocol.ParseHeader(w.headers[len(w.headers)-protocol.HeaderSize:]); err != nil {
		t.Fatal(err)
	}
	return w
}

// earlierFolder is a copy of a folder that an earlier version has written.
func earlierFolder(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(earlier, name))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestEarlierFolders goes on in the folders of an earlier version.
func TestEarlierFolders(t *testing.T) {
	w := earlierWorld(t)
	first := w.server.entries[0].Hash()
	for name, test := range map[string]struct {
		verdict Verdict
		kind    Kind
		note    string // about evidence that does not convict any more
	}{
		"clean":   {Sound, "", ""},
		"accused": {Sound, "", "it convicts nobody"},
		"cheat":   {Misbehaviour, RewrittenEntry, ""},
		// What was made up is forgotten.
		"poisoned": {Sound, "", ""},
	} {
		dir := earlierFolder(t, name)
		w.server.fetched = 0
		r := w.audit(dir)
		r.want(t, test.verdict, test.kind)
		if noted := slices.ContainsFunc(r.Notes, func(n string) bool {
			return strings.Contains(n, "does not hold any more") && strings.Contains(n, test.note)
		}); noted != (test.note != "") {
			t.Errorf("%s: notes %q", name, r.Notes)
		}
		if w.server.fetched != 1 || r.Entries != uint64(len(w.server.entries)) {
			t.Errorf("%s: %d entries fetched, of %d", name, w.server.fetched, r.Entries)
		}
		a := w.open(dir)
		if p := a.pins(); p.Fingerprint == nil || *p.Fingerprint != first || !slices.Equal(p.Rotations, w.server.own[1:]) {
			t.Errorf("%s: pins %+v", name, p)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEarlierFolderFreshness goes on in the folder of a version that did not judge
// progress: what its anchors say is found, and what waits is known from now on.
func TestEarlierFolderFreshness(t *testing.T) {
	w := earlierWorld(t)
	dir := earlierFolder(t, "clean")
	w.server.grow(1)
	w.audit(dir).want(t, Sound, "")
	shown := w.server
	w.server = shown.twin(len(shown.entries) - 1)
	w.anchorAt(w.now.Add(schedule.Default().MaxWait() + time.Second))
	w.anchor()
	w.server = shown
	r := w.audit(dir)
	r.want(t, NotSound, TooSoon)
	r.want(t, NotSound, NotInTime)
	w.audit(t.TempDir()).want(t, NotSound, TooSoon)
}

// TestEarlierPoison goes on in the folder with the made-up entry, when the keyserver has
// grown and when it has not, whatever it signs now.
func TestEarlierPoison(t *testing.T) {
	for _, grown := range []int{0, 1, 5} {
		for _, signs := range []bool{false, true} {
			w := earlierWorld(t)
			w.server.grow(grown)
			w.server.signs, w.server.answers = signs, signs
			dir := earlierFolder(t, "poisoned")
			w.server.fetched = 0
			r := w.audit(dir)
			r.want(t, Sound, "")
			if r.Entries != uint64(len(w.server.entries)) || len(r.Findings) != 0 || w.server.fetched > 2*(grown+1) {
				t.Errorf("grown by %d: %d entries, %d fetched, %+v", grown, r.Entries, w.server.fetched, r.Findings)
			}
			w.audit(dir).want(t, Sound, "")
			for _, dir := range []string{dir, earlierFolder(t, "poisoned")} {
				pins, err := Reset(w.config(dir))
				if err != nil || pins.Fingerprint == nil || *pins.Fingerprint != w.server.entries[0].Hash() || len(pins.Rotations) != len(w.server.own)-1 {
					t.Errorf("reset: %+v, %v", pins, err)
				}
				w.audit(dir).want(t, Sound, "")
			}
		}
	}
}

// TestEarlierEvidence judges evidence of an earlier version by the rules of this one.
func TestEarlierEvidence(t *testing.T) {
	w := earlierWorld(t)
	for name, want := range map[string]struct {
		proof    Proof
		verdict  Verdict // for who has pinned all
		unpinned Verdict
	}{
		"accused": {ByHeads, ConvictsNobody, ConvictsNobody},
		"cheat":   {ByHeads, Misbehaviour, AboutWhom},
		"first":   {ByHeadAndAnchor, Misbehaviour, AboutWhom},
	} {
		files, err := filepath.Glob(filepath.Join(earlier, name, evidenceDir, "*.json"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%s: %q, %v", name, files, err)
		}
		e := readEvidence(t, files[0])
		if e.Proof != want.proof {
			t.Errorf("%s: by %q, expected %q", name, e.Proof, want.proof)
		}
		for _, reader := range []struct {
			pins    Pins
			verdict Verdict
		}{{w.pins(), want.verdict}, {Pins{}, want.unpinned}} {
			if c, err := e.Verify(t.Context(), reader.pins, w.headerFile()); err != nil || c.Verdict != reader.verdict {
				t.Errorf("%s: got %+v, %v, expected %q", name, c, err, reader.verdict)
			}
		}
	}
}
