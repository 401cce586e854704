package audit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
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
			want, err := e.Verify(t.Context(), w.pins(), w.headerFile())
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
				got, err := tampered.Verify(t.Context(), w.pins(), w.headerFile())
				if err != nil && !errors.Is(err, ErrNoEvidence) && !errors.Is(err, ErrNoHeader) {
					t.Fatal(err)
				}
				if err == nil && (got.Verdict != Misbehaviour || !reflect.DeepEqual(got.Shows, want.Shows)) {
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
	defer file.Close()
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
		if c, err := e.Verify(t.Context(), w.pins(), nil); !errors.Is(err, ErrNoEvidence) {
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
	if _, err := e.Verify(t.Context(), w.pins(), nil); err != nil {
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
		if c, err := e.Verify(t.Context(), w.pins(), nil); !errors.Is(err, ErrNoEvidence) {
			t.Errorf("%s: got %+v, %v, expected %v", name, c, err, ErrNoEvidence)
		}
	}
	e.Keyserver, e.Domain = []*uid.Reply{own}, "example.net"
	if c, err := e.Verify(t.Context(), w.pins(), nil); !errors.Is(err, ErrNoEvidence) {
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

// TestPins verifies each kind of evidence for readers who know more or less. Evidence
// that says of a keyserver what its reader has not pinned convicts nobody, and of
// another one is none.
func TestPins(t *testing.T) {
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
			e := readEvidence(t, w.audit(dir).want(t, Misbehaviour, test.kind).Evidence)
			anchored, all, headers := e.Bundle != nil, w.pins(), w.headerFile()
			foreign, foreignChain := hashchain.Hash{1}, chainhash.Hash{1}
			for _, reader := range []struct {
				name    string
				pins    Pins
				headers Headers
				verdict Verdict // "" for ErrNoEvidence
			}{
				{"all", all, headers, Misbehaviour},
				{"nothing", Pins{}, nil, AboutWhom},
				{"headers alone", Pins{}, headers, AboutWhom},
				{"no fingerprint", Pins{Genesis: all.Genesis}, headers, AboutWhom},
				{"no genesis", Pins{Fingerprint: all.Fingerprint}, headers, map[bool]Verdict{true: AboutWhom, false: Misbehaviour}[anchored]},
				{"no headers", all, nil, map[bool]Verdict{true: OffChain, false: Misbehaviour}[anchored]},
				{"another keyserver", Pins{Fingerprint: &foreign, Genesis: all.Genesis}, headers, ""},
				{"another chain of anchors", Pins{Fingerprint: all.Fingerprint, Genesis: &foreignChain}, headers, map[bool]Verdict{false: Misbehaviour}[anchored]},
			} {
				c, err := e.Verify(t.Context(), reader.pins, reader.headers)
				if reader.verdict == "" {
					if !errors.Is(err, ErrNoEvidence) || !strings.Contains(err.Error(), "expected the pinned") {
						t.Errorf("%s: got %+v, %v, expected %v", reader.name, c, err, ErrNoEvidence)
					}
					continue
				}
				if err != nil || c.Verdict != reader.verdict || (len(c.Compare) == 0) != (c.Verdict == Misbehaviour) {
					t.Errorf("%s: got %+v, %v, expected %q", reader.name, c, err, reader.verdict)
				}
				if anchored && reader.headers == nil && slices.ContainsFunc(c.Shows, func(s string) bool {
					return strings.Contains(s, "both cannot be true") || strings.Contains(s, "in block")
				}) {
					t.Errorf("%s: without headers it shows %q", reader.name, c.Shows)
				}
			}
		})
	}
	if len(seen) != 6 {
		t.Errorf("proofs tested: %v", seen)
	}
}

// TestStrangersAnchors has a stranger anchor what he likes for the keyserver's domain,
// with a coin of his own, and wrap it with statements that the keyserver gives to
// everybody.
func TestStrangersAnchors(t *testing.T) {
	w := newWorld(t)
	s, pins := w.server, w.pins()
	own := []*uid.Reply{s.replies[s.entries[0].UIDIndex()]}
	reply, head := s.replies[s.entries[2].UIDIndex()], s.head(testTime)
	s.anchorChain = ""
	unnaming := s.head(testTime)
	w.items, w.baton = nil, wire.OutPoint{}
	w.spend(&protocol.Anchor{Domain: testDomain, Position: 2, Head: [32]byte{1}})
	stranger := w.baton.Hash
	one := makeBundle(t, stranger, 0, w.items)
	w.spend(nil)
	broken := makeBundle(t, stranger, 0, w.items)
	file := fileOf(t, s.entries)
	root, consistency, err := prefixRoot(file, 3, 5)
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]*Evidence{
		"two replies":              {Proof: ByReplyAndAnchor, Bundle: one, Replies: []*uid.Reply{reply}},
		"a head that names his":    {Proof: ByReplyAndAnchor, Bundle: one, Replies: []*uid.Reply{reply}, Heads: []*hashchain.SignedHead{head}},
		"a head":                   {Proof: ByHeadAndAnchor, Bundle: one, Heads: []*hashchain.SignedHead{head}, Root: root, Consistency: consistency},
		"a head that names none":   {Proof: ByHeadAndAnchor, Bundle: one, Heads: []*hashchain.SignedHead{unnaming}, Root: root, Consistency: consistency},
		"broken":                   {Proof: ByAnchors, Bundle: broken},
		"broken, a head":           {Proof: ByAnchors, Bundle: broken, Heads: []*hashchain.SignedHead{head}},
		"broken, under the domain": {Proof: ByAnchors, Bundle: broken, Keyserver: own},
	} {
		e.Version, e.Domain, e.Genesis = evidenceVersion, testDomain, stranger.String()
		e.Keyserver = own
		if c, err := e.Verify(t.Context(), pins, w.headerFile()); !errors.Is(err, ErrNoEvidence) {
			t.Errorf("%s, to who has pinned the keyserver: got %+v, %v, expected %v", name, c, err, ErrNoEvidence)
		}
		for _, less := range []Pins{{}, {Fingerprint: pins.Fingerprint}} {
			if c, err := e.Verify(t.Context(), less, w.headerFile()); err == nil && c.Verdict != AboutWhom {
				t.Errorf("%s: got %+v, %v, expected %q", name, c, err, AboutWhom)
			}
		}
	}
}

// TestForgedKeyserver has somebody between a new auditor and the keyserver show one of
// his own making, which signs all he likes: nobody is convicted.
func TestForgedKeyserver(t *testing.T) {
	w := newWorld(t)
	forged := newServer(t, newKey(9))
	forged.grow(9)
	forged.anchorChain = w.genesis.String()
	w.server = forged
	f := w.audit(t.TempDir()).want(t, CouldNotCheck, RewrittenEntry)
	if f.Evidence != "" || len(f.Compare) != 1 || !strings.Contains(f.Compare[0], "anybody can begin a hashchain in its name") {
		t.Errorf("%+v", f)
	}
}

// TestRotationLeftOut has a thief of the first key sign what he likes, and leave out
// that it was replaced. Who knows of the rotation is not fooled.
func TestRotationLeftOut(t *testing.T) {
	e := newEpochs(t)
	pins := e.pins()
	own := e.own[:1]
	lie := func(size uint64, keyserver []*uid.Reply, key int) *Evidence {
		return &Evidence{
			Version: evidenceVersion, Proof: ByHeads, Domain: testDomain, Keyserver: keyserver,
			Heads: []*hashchain.SignedHead{signedHeadOf(e.server, size, e.keys[key]), signedHeadOf(e.fork, size, e.keys[key])},
		}
	}
	for _, test := range []struct {
		name      string
		evidence  *Evidence
		rotations []uint64
		verdict   Verdict
	}{
		{"nothing known", lie(lastOfSecond, own, 0), nil, Misbehaviour}, // the rest that is left
		{"known", lie(lastOfSecond, own, 0), []uint64{lastOfFirst}, ConvictsNobody},
		{"known, first size after", lie(firstOfSecond, own, 0), []uint64{lastOfFirst}, ConvictsNobody},
		{"known, before it", lie(lastOfFirst, own, 0), []uint64{lastOfFirst}, Misbehaviour},
		{"second key, both known", lie(lastOfSecond, e.own[:2], 1), []uint64{lastOfFirst, lastOfSecond}, Misbehaviour},
		{"second key, its end left out", lie(epochsSize, e.own[:2], 1), []uint64{lastOfFirst, lastOfSecond}, ConvictsNobody},
		{"third key, all known", lie(epochsSize, e.own, 2), []uint64{lastOfFirst, lastOfSecond}, Misbehaviour},
	} {
		pins.Rotations = test.rotations
		if c, err := test.evidence.Verify(t.Context(), pins, nil); err != nil || c.Verdict != test.verdict {
			t.Errorf("%s: got %+v, %v, expected %q", test.name, c, err, test.verdict)
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
	if _, err := old.Verify(t.Context(), w.pins(), nil); !errors.Is(err, ErrNoEvidence) {
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
	defer file.Close()
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
	if _, err := e.Verify(t.Context(), w.pins(), nil); err != nil {
		t.Fatal(err)
	}
	e.Replies[0] = other.replies[other.entries[3].UIDIndex()]
	if _, err := e.Verify(t.Context(), w.pins(), nil); !errors.Is(err, ErrNoEvidence) {
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

// TestHugeEvidence refuses files of 64 MB that somebody made to exhaust the memory.
func TestHugeEvidence(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	const size, most = 64 << 20, 256 << 20
	inMemory(t)
	fill := func(before, again, after string) func(w io.Writer) {
		return func(w io.Writer) {
			piece := []byte(strings.Repeat(again, 1<<20/len(again)))
			io.WriteString(w, before)
			for range size / len(piece) {
				w.Write(piece)
			}
			io.WriteString(w, after)
		}
	}
	for name, write := range map[string]func(w io.Writer){
		"a bundle":       fill(`{"version":1,"proof":"chain of anchors","domain":"example.org","bundle":"`, "AAAA", `"}`),
		"two bundles":    fill(`{"version":1,"bundle":"","bundle":"`, "AAAA", `"}`),
		"half a bundle":  fill(`{"version":1,"bundle":"`, "AAAA", ``),
		"a text":         fill(`{"version":1,"text":"`, "xxxx", `"}`),
		"empty heads":    fill(`{"version":1,"heads":[`, "{},", `{}]}`),
		"empty messages": fill(`{"version":1,"keyserver":[`, "{},", `{}]}`),
		"empty hashes":   fill(`{"version":1,"consistency":[`, `"",`, `""]}`),
		"brackets":       fill(`{"version":1,"text":`, "[", ``),
		"white space":    fill(`{"version":1,`, " ", `}`),
		"zeros":          fill("", "\x00", ""),
	} {
		file, err := os.Create(t.TempDir() + "/evidence")
		if err != nil {
			t.Fatal(err)
		}
		write(file)
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		e, err := ReadEvidence(file)
		if err == nil {
			_, err = e.Verify(t.Context(), Pins{}, nil)
		}
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used >= most {
			t.Errorf("%s: it took %d bytes of memory, expected less than %d", name, used, most)
		}
		if !errors.Is(err, ErrNoEvidence) {
			t.Errorf("%s: got %v, expected %v", name, err, ErrNoEvidence)
		}
		if err := errors.Join(file.Close(), os.Remove(file.Name())); err != nil {
			t.Fatal(err)
		}
	}
}
