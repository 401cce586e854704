package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol"
)

// uidReply is a reply about an entry that need not be good.
func uidReply(s *server, e *hashchain.Entry, position uint64) *uid.Reply {
	entry := uid.Entry{HashchainEntry: e.String(), HashchainPos: position, UIDMessageEncrypted: canonical.Encode(nil)}
	return &uid.Reply{Entry: entry, ServerSignature: canonical.Encode(ed25519.Sign(s.key, canonical.Marshal(entry)))}
}

// reseal makes a bundle's trailer fit.
func reseal(b []byte) {
	sum := sha256.Sum256(b[:len(b)-sha256.Size])
	copy(b[len(b)-sha256.Size:], sum[:])
}

// TestTamperedEvidence changes each byte of each kind of evidence file: it
// convinces of the same, or of nothing.
func TestTamperedEvidence(t *testing.T) {
	seen := make(map[Proof]bool)
	for _, test := range findings() {
		if test.proof == "" || seen[test.proof] {
			continue
		}
		seen[test.proof] = true
		t.Run(string(test.proof), func(t *testing.T) {
			w := newWorld(t)
			w.server.grow(5)
			w.anchor()
			w.server.grow(5)
			dir := t.TempDir()
			if test.seen {
				w.audit(dir)
			}
			test.wrong(w)
			f := w.audit(dir).want(t, Misbehaviour, test.kind)
			whole, err := os.ReadFile(f.Evidence)
			if err != nil {
				t.Fatal(err)
			}
			e := readEvidence(t, f.Evidence)
			want, err := e.Verify(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			step := 7
			if testing.Short() {
				step = 101
			}
			for at := 0; at < len(whole); at += step {
				b := bytes.Clone(whole)
				b[at] ^= 2
				tampered, err := ReadEvidence(bytes.NewReader(b))
				if err != nil {
					if !errors.Is(err, ErrNoEvidence) {
						t.Fatal(err)
					}
					continue
				}
				got, err := tampered.Verify(t.Context(), nil)
				if err != nil && !errors.Is(err, ErrNoEvidence) {
					t.Fatal(err)
				}
				if err == nil && !reflect.DeepEqual(got.Shows, want.Shows) {
					t.Errorf("byte %d, %q: it shows %q, expected %q", at, b[max(0, at-20):min(len(b), at+20)], got.Shows, want.Shows)
				}
			}
		})
	}
	if len(seen) != 6 {
		t.Errorf("proofs tested: %v", seen)
	}
}

// TestNoEvidence is what an honest keyserver could be accused with.
func TestNoEvidence(t *testing.T) {
	w := newWorld(t)
	w.server.grow(5)
	early := w.server.twin(6)
	w.anchor()
	s := w.server
	keys := []*uid.Reply{s.replies[s.entries[0].UIDIndex()]}
	reply := func(n int) *uid.Reply { return s.replies[s.entries[n].UIDIndex()] }
	heads := func(h ...*hashchain.SignedHead) []*hashchain.SignedHead { return h }
	path := t.TempDir() + "/entries"
	file, err := openEntries(path, 0, hashchain.Hash{})
	if err != nil {
		t.Fatal(err)
	}
	defer file.file.Close()
	if _, err := file.add(s.entries); err != nil {
		t.Fatal(err)
	}
	root6, proof6, err := prefixRoot(file, 6, 10)
	if err != nil {
		t.Fatal(err)
	}
	stranger := newServer(t, newKey(3))
	stranger.grow(9)
	for name, e := range map[string]*Evidence{
		"nothing":                  {},
		"the same head twice":      {Proof: ByHeads, Heads: heads(s.head(1), s.head(2))},
		"heads that continue":      {Proof: ByHeads, Heads: heads(early.head(1), s.head(2)), Root: root6, Consistency: proof6},
		"heads in the wrong order": {Proof: ByHeads, Heads: heads(s.head(1), early.head(2))},
		"a root of its own":        {Proof: ByHeads, Heads: heads(early.head(1), s.head(2)), Root: make([]byte, 32), Consistency: proof6},
		"no proof":                 {Proof: ByHeads, Heads: heads(early.head(1), s.head(2)), Root: make([]byte, 32)},
		"somebody else's head":     {Proof: ByHeads, Heads: heads(s.head(1), stranger.head(2))},
		"one head":                 {Proof: ByHeads, Heads: heads(s.head(1))},
		"empty heads":              {Proof: ByHeads, Heads: heads(nil, nil)},
		"the same reply":           {Proof: ByReplies, Replies: []*uid.Reply{reply(4), reply(4)}},
		"replies in a row":         {Proof: ByReplies, Replies: []*uid.Reply{reply(4), reply(5)}},
		"replies far apart":        {Proof: ByReplies, Replies: []*uid.Reply{reply(4), reply(7)}},
		"somebody else's reply":    {Proof: ByReplies, Replies: []*uid.Reply{reply(4), stranger.replies[stranger.entries[4].UIDIndex()]}},
		"empty replies":            {Proof: ByReplies, Replies: []*uid.Reply{nil, nil}},
		"reply and its head":       {Proof: ByReplyAndHead, Heads: heads(s.head(1)), Replies: []*uid.Reply{reply(9)}},
		"earlier reply":            {Proof: ByReplyAndHead, Heads: heads(s.head(1)), Replies: []*uid.Reply{reply(8)}},
		"inclusion of nothing":     {Proof: ByReplyAndHead, Heads: heads(s.head(1)), Replies: []*uid.Reply{reply(8)}, Inclusion: &Inclusion{Entry: stranger.entries[8].String()}},
		"head and its anchor":      {Proof: ByHeadAndAnchor, Heads: heads(s.head(1)), Bundle: w.bundle(0)},
		"head before the anchor":   {Proof: ByHeadAndAnchor, Heads: heads(early.head(1)), Bundle: w.bundle(0)},
		"reply and its anchor":     {Proof: ByReplyAndAnchor, Replies: []*uid.Reply{reply(9)}, Bundle: w.bundle(0)},
		"reply and another":        {Proof: ByReplyAndAnchor, Replies: []*uid.Reply{reply(8)}, Bundle: w.bundle(0)},
		"whole chain":              {Proof: ByAnchors, Bundle: w.bundle(0)},
		"half a chain":             {Proof: ByAnchors, Bundle: makeBundle(t, w.genesis, 1, w.items[1:])},
		"no chain":                 {Proof: ByAnchors, Bundle: makeBundle(t, w.genesis, 0, nil)},
	} {
		e.Version, e.Domain, e.Keyserver, e.Genesis = evidenceVersion, testDomain, keys, w.genesis.String()
		if c, err := e.Verify(t.Context(), nil); !errors.Is(err, ErrNoEvidence) {
			t.Errorf("%s: got %+v, %v, expected %v", name, c, err, ErrNoEvidence)
		}
	}
}

// TestForeignKeys is evidence that would hold, were the keys the keyserver's.
func TestForeignKeys(t *testing.T) {
	w := newWorld(t)
	s := w.server
	other := s.twin(3)
	other.grow(2)
	e := Evidence{Version: evidenceVersion, Proof: ByHeads, Domain: testDomain, Heads: []*hashchain.SignedHead{s.head(1), other.head(2)}}
	own := s.replies[s.entries[0].UIDIndex()]
	e.Keyserver = []*uid.Reply{own}
	if _, err := e.Verify(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	stranger := newServer(t, newKey(3))
	stranger.rotate(newKey(4))
	for name, replies := range map[string][]*uid.Reply{
		"none":              nil,
		"an empty one":      {nil},
		"twice":             {own, own},
		"somebody's":        {s.replies[s.entries[1].UIDIndex()]},
		"a stranger's":      {stranger.replies[stranger.entries[0].UIDIndex()]},
		"not the first":     {stranger.replies[stranger.entries[1].UIDIndex()]},
		"a stranger's next": {own, stranger.replies[stranger.entries[1].UIDIndex()]},
	} {
		e.Keyserver = replies
		if c, err := e.Verify(t.Context(), nil); !errors.Is(err, ErrNoEvidence) {
			t.Errorf("%s: got %+v, %v, expected %v", name, c, err, ErrNoEvidence)
		}
	}
	e.Keyserver, e.Domain = []*uid.Reply{own}, "example.net"
	if c, err := e.Verify(t.Context(), nil); !errors.Is(err, ErrNoEvidence) {
		t.Errorf("another domain: got %+v, %v, expected %v", c, err, ErrNoEvidence)
	}
}

// TestForeignAnchors: a head convicts by the chain of anchors that it names alone.
func TestForeignAnchors(t *testing.T) {
	w := newWorld(t)
	w.server.grow(1)
	r := w.record()
	r.Root[0] ^= 1
	w.spend(r)
	w.server.anchorChain = strings.Repeat("ab", 32)
	w.server.answers = false
	w.audit(t.TempDir()).want(t, CouldNotCheck, OtherRoot)
}

// TestImpostorsAnchors: what is signed of a chain of anchors is shown, and anybody else's
// chain convicts by no head of the keyserver's.
func TestImpostorsAnchors(t *testing.T) {
	w := newWorld(t)
	s := w.server
	head := s.head(testTime) // names the chain
	w.spend(nil)
	closed := &Evidence{Version: evidenceVersion, Proof: ByAnchors, Domain: testDomain, Genesis: w.genesis.String(), Bundle: w.bundle(0)}
	verify := func(e *Evidence) (*Conviction, error) { return e.Verify(t.Context(), w.headerFile()) }
	c, err := verify(closed)
	if err != nil || len(c.Compare) != 1 || !strings.Contains(c.Compare[0], "nothing here is signed") {
		t.Errorf("got %+v, %v, expected that the chain must be compared", c, err)
	}
	closed.Heads, closed.Keyserver = []*hashchain.SignedHead{head}, []*uid.Reply{s.replies[s.entries[0].UIDIndex()]}
	c, err = verify(closed)
	if err != nil || !slices.ContainsFunc(c.Shows, func(s string) bool { return strings.Contains(s, "it anchors in the chain") }) ||
		slices.ContainsFunc(c.Compare, func(s string) bool { return strings.Contains(s, "nothing here is signed") }) {
		t.Errorf("got %+v, %v, expected that the head names the chain", c, err)
	}

	// The same by an impostor, who has the keyserver's statements, too.
	reply := s.replies[s.entries[2].UIDIndex()]
	w.items, w.baton = nil, wire.OutPoint{}
	w.spend(&protocol.Anchor{Domain: testDomain, Position: 2})
	w.genesis = w.baton.Hash
	w.spend(nil)
	for _, e := range []*Evidence{
		{Proof: ByAnchors, Bundle: w.bundle(0)},
		{Proof: ByReplyAndAnchor, Bundle: makeBundle(t, w.genesis, 0, w.items[:1]), Replies: []*uid.Reply{reply}},
	} {
		e.Version, e.Domain, e.Genesis = evidenceVersion, testDomain, w.genesis.String()
		e.Heads, e.Keyserver = closed.Heads, closed.Keyserver
		if c, err := verify(e); !errors.Is(err, ErrNoEvidence) || !strings.Contains(err.Error(), "its head names the chain") {
			t.Errorf("%s: got %+v, %v, expected %v", e.Proof, c, err, ErrNoEvidence)
		}
	}
}

// TestAnchorsElsewhere has the keyserver sign that its chain of anchors is another one.
func TestAnchorsElsewhere(t *testing.T) {
	w := newWorld(t)
	w.server.anchorChain = strings.Repeat("ab", 32)
	w.audit(t.TempDir()).want(t, CouldNotCheck, Unrelated)
}

func TestRotatedKey(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.audit(dir).want(t, Sound, "")
	w.server.rotate(newKey(2))
	w.server.grow(3)
	w.audit(dir).want(t, Sound, "")
	rewrite(w, 7)
	e := readEvidence(t, w.audit(dir).want(t, Misbehaviour, TwoEntries).Evidence)
	if len(e.Keyserver) != 2 {
		t.Errorf("evidence with %d messages of the keyserver, expected 2", len(e.Keyserver))
	}
	old := *e
	old.Keyserver = e.Keyserver[:1]
	if _, err := old.Verify(t.Context(), nil); !errors.Is(err, ErrNoEvidence) {
		t.Errorf("without the second key: got %v, expected %v", err, ErrNoEvidence)
	}
}

func TestInclusionEvidence(t *testing.T) {
	w := newWorld(t)
	other := w.server.twin(3)
	other.grow(6)
	file, err := openEntries(t.TempDir()+"/entries", 0, hashchain.Hash{})
	if err != nil {
		t.Fatal(err)
	}
	defer file.file.Close()
	if _, err := file.add(other.entries); err != nil {
		t.Fatal(err)
	}
	proof, err := hashchain.InclusionProof(3, 9, file)
	if err != nil {
		t.Fatal(err)
	}
	s := w.server
	e := &Evidence{
		Version: evidenceVersion, Proof: ByReplyAndHead, Domain: testDomain,
		Keyserver: []*uid.Reply{s.replies[s.entries[0].UIDIndex()]},
		Heads:     []*hashchain.SignedHead{other.head(1)},
		Replies:   []*uid.Reply{s.replies[s.entries[3].UIDIndex()]},
		Inclusion: &Inclusion{Entry: other.entries[3].String(), Hashes: hashesOf(proof)},
	}
	if _, err := e.Verify(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	e.Replies[0] = other.replies[other.entries[3].UIDIndex()]
	if _, err := e.Verify(t.Context(), nil); !errors.Is(err, ErrNoEvidence) {
		t.Errorf("the same entry: got %v, expected %v", err, ErrNoEvidence)
	}
}

func TestReadEvidenceRefuses(t *testing.T) {
	for _, text := range []string{
		"", "{", "[]", `{"version":2}`, `{"version":1,"more":1}`, `{"version":1} {}`, `{"version":1,"root":"` + base64.StdEncoding.EncodeToString(make([]byte, 3)) + `!"}`,
	} {
		if _, err := ReadEvidence(strings.NewReader(text)); !errors.Is(err, ErrNoEvidence) {
			t.Errorf("%q: got %v, expected %v", text, err, ErrNoEvidence)
		}
	}
}
