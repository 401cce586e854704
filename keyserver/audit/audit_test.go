package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
)

func TestHonestKeyserverIsSound(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	r := w.audit(dir)
	r.want(t, Sound, "")
	if r.Entries != 5 || r.Anchors != 1 || r.Covered != 5 || r.Domain != testDomain || r.NotCoveredEntries != 0 {
		t.Errorf("first audit: %+v", r)
	}
	for i := range 30 {
		w.server.grow(i % 4)
		if i%4 == 0 { // nothing new, until it is time for a heartbeat
			w.now = w.now.Add(schedule.DefaultHeartbeat)
		}
		if i == 10 {
			w.server.rotate(newKey(2))
		}
		w.anchor()
		if i%3 == 0 {
			w.mine()
		}
		if i%5 == 0 {
			w.audit(dir).want(t, Sound, "")
		}
	}
	w.server.grow(3)
	one, whole := w.audit(dir), w.audit(t.TempDir())
	one.want(t, Sound, "")
	whole.want(t, Sound, "")
	if one.Entries != whole.Entries || one.Anchors != whole.Anchors || one.Covered != whole.Covered || one.Last.TxID != whole.Last.TxID || one.NotCoveredEntries != 3 {
		t.Errorf("step by step %+v, at once %+v", one, whole)
	}
	if one.Checks[0].Name != "entries" || len(one.Checks) != 5 {
		t.Errorf("checks %+v", one.Checks)
	}
	for _, c := range one.Checks {
		if c.Status != Passed {
			t.Errorf("%+v", c)
		}
	}
	if len(one.Notes) != 1 || !strings.Contains(one.Notes[0], fmt.Sprintf("of %d entries, which is the one shown", len(w.server.entries))) {
		t.Errorf("notes %q", one.Notes)
	}
	if len(one.NotCovered) != 3 {
		t.Errorf("not covered: %q", one.NotCovered)
	}
}

func TestWhatWasVerifiedIsNotFetchedAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	w := newWorld(t)
	w.server.grow(2500)
	w.anchor()
	dir := t.TempDir()
	w.audit(dir).want(t, Sound, "")
	w.server.grow(7)
	w.anchor()
	w.server.fetched = 0
	asked := uint32(0)
	from := w.sources()
	open := from.Bundle
	from.Bundle = func(ctx context.Context, first uint32) (io.ReadCloser, error) {
		asked = first
		return open(ctx, first)
	}
	r := w.auditOf(dir, from)
	r.want(t, Sound, "")
	if w.server.fetched != 7+1 || asked != 2 || r.NewEntries != 7 || r.NewAnchors != 1 {
		t.Errorf("%d entries fetched, anchors from %d on asked for, %+v", w.server.fetched, asked, r)
	}
	// From a file the whole comes each time.
	w.auditOf(dir, w.sources().with(w.bundle(0))).want(t, Sound, "")
}

// finding is one way in which something is wrong.
type finding struct {
	name string
	// seen audits before the wrong is done, into the same folder.
	seen    bool
	wrong   func(w *world)
	verdict Verdict
	kind    Kind
	proof   Proof
}

// rewrite makes the keyserver one that has another entry from size on.
func rewrite(w *world, size int) {
	n := len(w.server.entries)
	w.server = w.server.twin(size)
	w.server.grow(n - size)
}

func findings() []finding {
	return []finding{
		{"entry rewritten before the last anchor", false, func(w *world) { rewrite(w, 6) }, Misbehaviour, RewrittenEntry, ByHeadAndAnchor},
		{"the same, no signed head", false, func(w *world) { rewrite(w, 6); w.server.signs = false }, Misbehaviour, RewrittenEntry, ByReplyAndAnchor},
		{"the same, a head that names no chain", false, func(w *world) { rewrite(w, 6); w.server.anchorChain = "" }, Misbehaviour, RewrittenEntry, ByReplyAndAnchor},
		{"the same, nothing signed", false, func(w *world) { rewrite(w, 6); w.server.signs, w.server.answers = false, false }, CouldNotCheck, RewrittenEntry, ""},
		{"the same, seen before", true, func(w *world) { rewrite(w, 6) }, Misbehaviour, RewrittenEntry, ByHeads},
		{"the same, seen before, no signed head", true, func(w *world) { rewrite(w, 6); w.server.signs = false }, Misbehaviour, RewrittenEntry, ByReplies},
		{"the same, longer", true, func(w *world) { rewrite(w, 6); w.server.grow(9) }, Misbehaviour, RewrittenEntry, ByHeads},
		{"the same, seen before, its own entries withheld", true, func(w *world) { rewrite(w, 6); w.server.own = []uint64{0, 3, 1 << 60} }, Misbehaviour, RewrittenEntry, ByHeads},
		{"the same, seen before, a head of nothing", true, func(w *world) {
			rewrite(w, 6)
			w.server.signedHead = newServer(w.t, w.server.key).twin(0).head(testTime)
		}, Misbehaviour, RewrittenEntry, ByReplies},
		{"the same, seen before, somebody else's head", true, func(w *world) {
			rewrite(w, 6)
			w.server.signedHead = newServer(w.t, newKey(9)).head(testTime)
		}, Misbehaviour, RewrittenEntry, ByReplies},
		{"the same, shorter than the anchor", false, func(w *world) { w.server = w.server.twin(6); w.server.grow(1) }, CouldNotCheck, Behind, ""},

		{"two entries at one position", true, func(w *world) { rewrite(w, 13) }, Misbehaviour, TwoEntries, ByHeads},
		{"the same, longer", true, func(w *world) { rewrite(w, 13); w.server.grow(20) }, Misbehaviour, TwoEntries, ByHeads},
		{"the same, shorter", true, func(w *world) { w.server = w.server.twin(12); w.server.grow(1); w.server.signs = true }, Misbehaviour, TwoHistories, ByHeads},
		{"the same, no signed head", true, func(w *world) { rewrite(w, 13); w.server.signs = false }, Misbehaviour, TwoEntries, ByReplies},
		{"the same, last reply kept", true, func(w *world) {
			n := len(w.server.entries)
			kept := w.server.entries[:n]
			rewrite(w, 13)
			w.server.signs = false
			for _, e := range kept[13:] {
				delete(w.server.replies, e.UIDIndex())
			}
		}, Misbehaviour, TwoEntries, ByReplies},
		{"the same, nothing signed", true, func(w *world) { rewrite(w, 13); w.server.signs, w.server.answers = false, false }, CouldNotCheck, TwoEntries, ""},

		{"entry that does not follow", true, func(w *world) {
			w.server.grow(3)
			e := &w.server.entries[len(w.server.entries)-2]
			old := *e
			e[50] ^= 1
			w.server.replies[old.UIDIndex()] = uidReply(w.server, e, uint64(len(w.server.entries)-2))
		}, Misbehaviour, BrokenLink, ByReplies},
		{"entry changed on its way", false, func(w *world) { w.server.entries[7][50] ^= 1 }, CouldNotCheck, BrokenLink, ""},
		{"signed head of another history", false, func(w *world) {
			other := w.server.twin(12)
			other.grow(3)
			w.server.signedHead = other.head(testTime)
		}, Misbehaviour, TwoHistories, ByReplyAndHead},
		{"signed head of more than is shown", false, func(w *world) {
			other := w.server.twin(15)
			other.grow(3)
			w.server.signedHead = other.head(testTime)
		}, CouldNotCheck, Behind, ""},
		{"fewer entries than before", true, func(w *world) { w.server = w.server.twin(13) }, CouldNotCheck, Behind, ""},
		{"another keyserver", true, func(w *world) {
			w.server = newServer(w.t, newKey(9))
			w.server.grow(30)
		}, CouldNotCheck, OtherServer, ""},

		{"lower position", false, func(w *world) {
			r := w.record()
			r.Position = 8
			w.spend(r)
		}, Misbehaviour, LowerPosition, ByAnchors},
		{"another head at the same position", false, func(w *world) {
			w.server.grow(2)
			w.anchor()
			r := w.record()
			r.Head[0] ^= 1
			w.spend(r)
		}, Misbehaviour, OtherHead, ByAnchors},
		{"another root at the same position", false, func(w *world) {
			w.anchor()
			r := w.record()
			r.Root[0] ^= 1
			w.spend(r)
		}, Misbehaviour, OtherHead, ByAnchors},
		{"baton spent without a record", true, func(w *world) { w.spend(nil) }, Misbehaviour, SpentWithoutRecord, ByAnchors},
		{"baton spent for another domain", false, func(w *world) {
			r := w.record()
			r.Domain = "example.net"
			w.spend(r)
		}, Misbehaviour, SpentForOther, ByAnchors},
		{"baton spent by another input", false, func(w *world) { w.spend(w.record(), wire.OutPoint{Index: 7}) }, Misbehaviour, SpentByOtherInput, ByAnchors},
		{"anchor of another root", false, func(w *world) {
			r := w.record()
			r.Root[0] ^= 1
			w.spend(r)
		}, Misbehaviour, OtherRoot, ByHeadAndAnchor},
		{"anchor of another head", false, func(w *world) {
			r := w.record()
			r.Head[0] ^= 1
			w.spend(r)
			w.server.signs = false
		}, Misbehaviour, RewrittenEntry, ByReplyAndAnchor},
		{"anchor of what is not there", false, func(w *world) {
			r := w.record()
			r.Position = 1 << 60
			w.spend(r)
		}, CouldNotCheck, Behind, ""},
	}
}

func TestFindings(t *testing.T) {
	for _, test := range findings() {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.server.grow(5)
			w.anchor()
			w.server.grow(5) // 15, of which 10 are anchored
			dir := t.TempDir()
			if test.seen {
				w.audit(dir).want(t, Sound, "")
			}
			test.wrong(w)
			r := w.audit(dir)
			f := r.want(t, test.verdict, test.kind)
			if test.proof == "" {
				if f.Evidence != "" {
					t.Fatalf("there is evidence, %+v", f)
				}
				return
			}
			e := readEvidence(t, f.Evidence)
			if e.Proof != test.proof || e.Finding != test.kind {
				t.Fatalf("evidence of %q by %q, expected %q by %q", e.Finding, e.Proof, test.kind, test.proof)
			}
			c, err := e.Verify(t.Context(), w.pins(), w.headerFile())
			if err != nil {
				t.Fatal(err)
			}
			if c.Verdict != Misbehaviour || len(c.Shows) < 2 || len(c.Compare) != 0 {
				t.Errorf("%s: it shows %q, to be compared is %q", c.Verdict, c.Shows, c.Compare)
			}
			// It is found again, and kept once.
			again := w.audit(dir).want(t, test.verdict, test.kind)
			if again.Evidence != f.Evidence {
				t.Errorf("evidence is in %s, then in %s", f.Evidence, again.Evidence)
			}
		})
	}
}

// TestMisbehaviourStays: who shows the honest history again is not sound, and evidence
// of the same is kept once however often it is found.
func TestMisbehaviourStays(t *testing.T) {
	w := newWorld(t)
	w.server.grow(5)
	dir := t.TempDir()
	w.audit(dir).want(t, Sound, "")
	honest := w.server
	rewrite(w, 7)
	var f *Finding
	for i := range uint64(3) {
		w.server.signedHead = w.server.head(testTime + i)
		f = w.audit(dir).want(t, Misbehaviour, TwoEntries)
	}
	if files, err := os.ReadDir(filepath.Dir(f.Evidence)); err != nil || len(files) != 1 {
		t.Errorf("%d files of evidence, %v", len(files), err)
	}
	w.server = honest
	if again := w.audit(dir).want(t, Misbehaviour, TwoEntries); again.Evidence != f.Evidence || !strings.HasPrefix(again.Text, "found by an earlier audit") {
		t.Errorf("got %+v, expected that of %+v", again, f)
	}
	if err := os.WriteFile(f.Evidence, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := w.audit(dir)
	r.want(t, Sound, "")
	if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, f.Evidence) }) {
		t.Errorf("a damaged file of evidence is passed over: %q", r.Notes)
	}
}

// TestEvidenceUndone has a reorganisation undo what broke the chain of anchors.
func TestEvidenceUndone(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	w.audit(dir).want(t, Sound, "")
	before := *w
	before.items, before.headers = slices.Clone(w.items), bytes.Clone(w.headers)
	w.spend(nil)
	f := w.audit(dir).want(t, Misbehaviour, SpentWithoutRecord)
	before.mine() // another block
	r := before.audit(dir)
	r.want(t, Sound, "")
	if !slices.ContainsFunc(r.Notes, func(n string) bool { return strings.Contains(n, f.Evidence) }) {
		t.Errorf("notes %q", r.Notes)
	}
}

// TestOtherDomain has anchors of another domain commit to the hashchain.
func TestOtherDomain(t *testing.T) {
	w := newWorld(t)
	record := w.record()
	record.Domain = "example.net"
	w.items, w.baton = nil, wire.OutPoint{}
	w.spend(record)
	w.genesis = w.baton.Hash
	w.audit(t.TempDir()).want(t, CouldNotCheck, OtherServer)
}

func readEvidence(t testing.TB, path string) *Evidence {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	e, err := ReadEvidence(file)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// TestCannotCheck gives the auditor files that are not what they should be.
func TestCannotCheck(t *testing.T) {
	w := newWorld(t)
	w.server.grow(5)
	w.anchor()
	w.server.grow(5)
	w.anchor()
	dir := t.TempDir()
	w.audit(dir).want(t, Sound, "")

	changed := func(n int, change func(it *proof.BundleItem)) []byte {
		items := append([]*proof.BundleItem{}, w.items...)
		it := *items[n]
		it.Branch = append([]chainhash.Hash{}, it.Branch...)
		change(&it)
		items[n] = &it
		return makeBundle(t, w.genesis, 0, items)
	}
	impostor := *w
	impostor.items = nil
	impostor.baton = wire.OutPoint{Index: 5}
	impostor.anchor()
	fake := impostor.baton.Hash
	w.headers, w.tip, w.height = impostor.headers, impostor.tip, impostor.height

	whole := w.bundle(0)
	for name, test := range map[string]struct {
		bundle []byte
		kind   Kind
		text   string
	}{
		"wrong branch": {changed(1, func(it *proof.BundleItem) { it.Branch[0][3] ^= 1 }), WrongBranch, "anchor 1, block 2"},
		"wrong index":  {changed(1, func(it *proof.BundleItem) { it.Index-- }), WrongBranch, "anchor 1"},
		"no work": {changed(2, func(it *proof.BundleItem) {
			for n := byte(0); ; n++ {
				it.Header[76] = n
				if h, err := protocol.ParseHeader(it.Header[:]); err == nil && h.CheckWork(testNet.PowLimit) != nil {
					return
				}
			}
		}), NoWork, "the hash is above the target"},
		"easy target": {changed(2, func(it *proof.BundleItem) { it.Header[75] = 0x21 }), NoWork, "expected at most 256"},
		"block of another chain": {changed(2, func(it *proof.BundleItem) {
			it.Header[68] ^= 1
			solve(t, it.Header[:])
		}), NotOnChain, "the block is not on the best chain"},
		"another height":            {changed(2, func(it *proof.BundleItem) { it.Height-- }), NotOnChain, "block 2"},
		"height beyond the headers": {changed(2, func(it *proof.BundleItem) { it.Height = 1000 }), StaleHeaders, "the file has the headers of blocks 0 to"},
		"anchor missing":            {makeBundle(t, w.genesis, 0, []*proof.BundleItem{w.items[0], w.items[2]}), Unrelated, "does not spend the baton"},
		"order":                     {makeBundle(t, w.genesis, 0, []*proof.BundleItem{w.items[0], w.items[2], w.items[1]}), Unrelated, ""},
		"begins too late":           {makeBundle(t, w.genesis, 1, w.items[1:]), Gap, "begins with anchor 1"},
		"empty":                     {makeBundle(t, w.genesis, 0, nil), Gap, "no anchor"},
		"truncated":                 {whole[:len(whole)-40], Truncated, "cut short"},
		"not a bundle":              {[]byte("-----BEGIN CERTIFICATE-----"), BadBundle, ""},
		"impostor":                  {makeBundle(t, fake, 0, impostor.items), Unrelated, "does not descend from the pinned genesis"},
		"impostor under the name":   {makeBundle(t, w.genesis, 0, impostor.items), Unrelated, "do not descend from the pinned genesis"},
		"impostor behind":           {makeBundle(t, w.genesis, 0, append(w.items[:3:3], impostor.items...)), Unrelated, "does not descend from the pinned genesis"},
		"impostor without record":   {makeBundle(t, w.genesis, 0, append(w.items[:3:3], w.mine(w.filler(9))...)), Gap, "does not spend the baton"},
	} {
		t.Run(name, func(t *testing.T) {
			r := w.auditOf(t.TempDir(), w.sources().with(test.bundle))
			f := r.want(t, CouldNotCheck, test.kind)
			if !strings.Contains(f.Text, test.text) {
				t.Errorf("finding %q, expected %q in it", f.Text, test.text)
			}
		})
	}
	w.auditOf(dir, w.sources().with(whole)).want(t, Sound, "")
}

func TestOtherChainsAreUnrelated(t *testing.T) {
	w := newWorld(t)
	from, other := w.sources(), chainhash.Hash{7}
	from.OtherChains = func(_ context.Context, domain string) ([]chainhash.Hash, error) {
		if domain != testDomain {
			t.Errorf("asked for %q", domain)
		}
		return []chainhash.Hash{w.genesis, other}, nil
	}
	r := w.auditOf(t.TempDir(), from)
	r.want(t, Sound, "")
	named := 0
	for _, n := range r.Notes {
		if strings.HasPrefix(n, string(Unrelated)) {
			named++
			if !strings.Contains(n, other.String()) {
				t.Errorf("note %q", n)
			}
		}
	}
	if named != 1 {
		t.Errorf("notes %q", r.Notes)
	}
}

// TestUnavailable has each source fail.
func TestUnavailable(t *testing.T) {
	w := newWorld(t)
	w.server.grow(3)
	cause := errors.New("the cable is out")
	for name, test := range map[string]struct {
		wrong  func(s *Sources)
		status []Status // of the checks
	}{
		"keyserver": {func(s *Sources) { s.Keyserver = deadKeyserver{cause} }, []Status{Failed, Passed, Passed, Failed, Passed}},
		"bundle": {func(s *Sources) {
			s.Bundle = func(context.Context, uint32) (io.ReadCloser, error) { return nil, cause }
		}, []Status{Passed, Failed, NotDone, NotDone, NotDone}},
		"bundle breaks off": {func(s *Sources) {
			s.Bundle = func(context.Context, uint32) (io.ReadCloser, error) {
				return io.NopCloser(io.MultiReader(bytes.NewReader(w.bundle(0)[:60]), iotest.ErrReader(cause))), nil
			}
		}, []Status{Passed, Failed, NotDone, NotDone, NotDone}},
		"headers": {func(s *Sources) { s.Headers = deadHeaders{cause} }, []Status{Passed, Failed, NotDone, NotDone, NotDone}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, from := t.TempDir(), w.sources()
			test.wrong(&from)
			r := w.auditOf(dir, from)
			f := r.want(t, CouldNotCheck, Unavailable)
			if !strings.Contains(f.Text, cause.Error()) {
				t.Errorf("finding %q", f.Text)
			}
			for i, c := range r.Checks {
				if c.Status != test.status[i] {
					t.Errorf("%+v, expected %s", c, test.status[i])
				}
			}
			w.audit(dir).want(t, Sound, "") // and then all is there again
		})
	}
}

type deadKeyserver struct{ err error }

func (d deadKeyserver) Entries(context.Context, uint64) iter.Seq2[[]hashchain.Entry, error] {
	return func(yield func([]hashchain.Entry, error) bool) { yield(nil, d.err) }
}
func (d deadKeyserver) Positions(context.Context, string) ([]uint64, error)       { return nil, d.err }
func (d deadKeyserver) Reply(context.Context, hashchain.Hash) (*uid.Reply, error) { return nil, d.err }
func (d deadKeyserver) Schedule(context.Context) (*schedule.Schedule, error)      { return nil, d.err }
func (d deadKeyserver) Head(context.Context) (*hashchain.SignedHead, error)       { return nil, d.err }

type deadHeaders struct{ err error }

func (d deadHeaders) OnBestChain(context.Context, uint32, chainhash.Hash) error { return d.err }

func TestTruncatedAtEveryByte(t *testing.T) {
	w := newWorld(t)
	w.server.grow(2)
	w.anchor()
	whole, from := w.bundle(0), w.sources()
	for end := range whole {
		w.auditOf(t.TempDir(), from.with(whole[:end])).want(t, CouldNotCheck, Truncated)
	}
}

// TestChangedBundle changes every byte, and makes the trailer fit again.
func TestChangedBundle(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	w := newWorld(t)
	w.server.grow(2)
	w.anchor()
	whole, from := w.bundle(0), w.sources()
	honest := w.auditOf(t.TempDir(), from.with(whole))
	for at := 0; at < len(whole)-41; at++ {
		b := bytes.Clone(whole)
		b[at] ^= 1
		reseal(b)
		a := w.open(t.TempDir())
		r, err := a.Audit(t.Context(), from.with(b))
		if err := errors.Join(err, a.Close()); err != nil {
			t.Fatal(err)
		}
		if r.Verdict == Misbehaviour || r.Verdict == Sound && (r.Last.TxID != honest.Last.TxID || r.Last.Block != honest.Last.Block || r.Last.Anchor != honest.Last.Anchor) {
			t.Errorf("byte %d changed: %q, %+v, last %+v", at, r.Verdict, r.Findings, r.Last)
		}
	}
}

func TestReorganisation(t *testing.T) {
	w := newWorld(t)
	w.server.grow(5)
	w.anchor()
	dir := t.TempDir()

	old := *w
	old.server.grow(5)
	old.items = append([]*proof.BundleItem{}, w.items...)
	old.headers = bytes.Clone(w.headers)
	old.anchor()
	old.server.grow(1)
	old.anchor()
	old.audit(dir).want(t, Sound, "")

	w.mine() // the blocks of the two anchors are not on the chain that wins
	w.server.grow(1)
	w.anchor()
	w.mine()
	w.mine()
	w.server.fetched = 0
	r := w.audit(dir)
	r.want(t, Sound, "")
	if r.Anchors != 3 || r.Last.TxID != w.baton.Hash || w.server.fetched != 2 {
		t.Errorf("%d anchors, last %+v, %d entries fetched", r.Anchors, r.Last, w.server.fetched)
	}
	if len(r.Notes) == 0 || !strings.Contains(r.Notes[0], "left the best chain") {
		t.Errorf("notes %q", r.Notes)
	}
}

func TestFolder(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	a := w.open(dir)
	if _, err := Open(w.config(dir)); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: got %v, expected %v", err, ErrLocked)
	}
	if _, err := a.Audit(t.Context(), w.sources()); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	c := w.config(dir)
	c.Genesis[0] ^= 1
	if _, err := Open(c); !errors.Is(err, ErrOtherChain) {
		t.Errorf("another chain of anchors: got %v, expected %v", err, ErrOtherChain)
	}
	for name, damage := range map[string]func(dir string) error{
		"state": func(dir string) error { return os.WriteFile(filepath.Join(dir, stateFile), []byte("{"), 0o600) },
		"empty message": func(dir string) error {
			content, err := os.ReadFile(filepath.Join(dir, stateFile))
			if err != nil {
				return err
			}
			content = bytes.Replace(content, []byte(`"keyserver":[`), []byte(`"keyserver":[null,`), 1)
			return os.WriteFile(filepath.Join(dir, stateFile), content, 0o600)
		},
		"entries": func(dir string) error { return os.Truncate(filepath.Join(dir, entriesFile), 100) },
		"anchors": func(dir string) error { return os.Truncate(filepath.Join(dir, anchorsFile), 100) },
	} {
		dir := t.TempDir()
		w.audit(dir)
		if err := damage(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(w.config(dir)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v, expected %v", name, err, ErrDamaged)
		}
	}
}

// TestCrash ends an audit at every of its steps, with what is beyond the saved
// state left in the files, and goes on.
func TestCrash(t *testing.T) {
	w := newWorld(t)
	w.server.grow(3000)
	w.anchor()
	want := w.audit(t.TempDir())
	stop := errors.New("stop")
	every := 1
	if testing.Short() {
		every = 4
	}
	for step := 1; ; step += every {
		dir := t.TempDir()
		ctx, cancel := context.WithCancelCause(t.Context())
		c := w.config(dir)
		n := 0
		c.Progress = func(string, uint64, uint64) {
			if n++; n == step {
				cancel(stop)
			}
		}
		a, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Audit(ctx, w.sources())
		// A killed process leaves more in the files than the state says, or half an item.
		entries, err1 := os.OpenFile(a.copy.Name(), os.O_WRONLY, 0)
		if err1 == nil {
			_, err1 = entries.WriteAt([]byte("rubbish"), int64(a.state.Size)*153)
			err1 = errors.Join(err1, entries.Close())
		}
		_, err2 := a.anchors.WriteAt([]byte{1, 2, 3}, a.state.AnchorBytes)
		if err := errors.Join(err1, err2, a.Close()); err != nil {
			t.Fatal(err)
		}
		cancel(nil)
		if n < step {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if err != nil && !errors.Is(err, stop) {
			t.Fatal(err)
		}
		r := w.audit(dir)
		r.want(t, Sound, "")
		if r.Entries != want.Entries || r.Covered != want.Covered || r.Last.TxID != want.Last.TxID {
			t.Errorf("step %d: %+v, expected %+v", step, r, want)
		}
	}
}
