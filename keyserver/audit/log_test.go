package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// testLog is the log of a server: what is set replaces what the server's own history has.
type testLog struct {
	key       *tlog.Key
	witnesses []*tlog.Key // that cosign
	cosigned  time.Time   // when they do
	of        *server     // whose history the checkpoint and the tiles are of
	signed    []byte      // checkpoint
	said      *hashchain.SignedLogStatement
	withheld  bool   // tiles
	spoilt    string // path of a tile with another byte
	asked     int    // for tiles
}

func newTestKey(t testing.TB, name string) *tlog.Key {
	t.Helper()
	k, err := tlog.GenerateKey(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newTestLog(t testing.TB) testLog {
	return testLog{
		key:       newTestKey(t, testDomain+"/keytree"),
		witnesses: []*tlog.Key{newTestKey(t, "one.example"), newTestKey(t, "two.example")},
		cosigned:  time.Unix(testTime, 0),
	}
}

// policy demands one of the log's two witnesses. The log's key is pinned, or not.
func (l *testLog) policy(t testing.TB, pinned bool, quorum string) *tlog.Policy {
	t.Helper()
	text := ""
	if pinned {
		text = fmt.Sprintf("log %s\n", l.key.Log())
	}
	text += fmt.Sprintf("witness one %s\nwitness two %s\ngroup any any one two\nquorum %s\n", l.witnesses[0].Witness(), l.witnesses[1].Witness(), quorum)
	p, err := tlog.ParsePolicy([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (s *server) checkpointOf(key *tlog.Key) []byte {
	signed := key.Sign(tlog.Checkpoint{Origin: key.Name(), Size: s.chain.Size, Root: tlog.Hash(s.chain.Root())})
	plain := bytes.Clone(signed)
	for _, w := range s.log.witnesses {
		signed = append(signed, w.Cosign(plain, s.log.cosigned)...)
	}
	return signed
}

func (s *server) statementOf(key *tlog.Key, by ed25519.PrivateKey) *hashchain.SignedLogStatement {
	return hashchain.SignLog(&s.chain, testDomain, key.Name(), key.Log().String(), testTime, by)
}

func (s *server) logged() *server {
	if s.log.of != nil {
		return s.log.of
	}
	return s
}

// Checkpoint implements Log.
func (s *server) Checkpoint(context.Context) ([]byte, error) {
	if s.log.signed != nil {
		return s.log.signed, nil
	}
	return s.logged().checkpointOf(s.log.key), nil
}

// LogStatement implements Log.
func (s *server) LogStatement(context.Context) (*hashchain.SignedLogStatement, error) {
	if s.log.said != nil {
		return s.log.said, nil
	}
	of := s.logged()
	if of.chain.Size < s.chain.Size {
		of = s
	}
	return of.statementOf(s.log.key, s.key), nil
}

// Tile implements Log.
func (s *server) Tile(_ context.Context, t tlog.Tile) ([]byte, error) {
	s.log.asked++
	if s.log.withheld {
		return nil, errors.New("no tiles today")
	}
	of := s.logged()
	if !tlog.Within(t, uint64(len(of.entries))) {
		return nil, errors.New("there is no such tile")
	}
	var content []byte
	for i := range t.W {
		at := int(t.N)*tlog.TileWidth + i
		switch t.L {
		case -1:
			content = tlog.AppendEntry(content, of.entries[at][:])
		default:
			width := 1 << (tlog.TileHeight * t.L)
			below := of.entries[at*width : (at+1)*width]
			var c hashchain.Chain // a tree that may begin amid the hashchain
			if at > 0 {
				c.Head = of.entries[at*width-1].Hash()
			}
			if err := c.Append(below, nil); err != nil {
				return nil, err
			}
			root := c.Root()
			content = append(content, root[:]...)
		}
	}
	if tlog.Path(t) == s.log.spoilt {
		content[0] ^= 1
	}
	return content, nil
}

// logWorld is a keyserver with 15 entries, of which 10 are anchored, whose log is audited.
func logWorld(t testing.TB) *world {
	w := newWorld(t)
	w.server.grow(5)
	w.anchor()
	w.server.grow(5)
	w.server.log.cosigned = w.now
	w.policy = w.server.log.policy(t, true, "any")
	return w
}

// fork is the server's history with others from an entry on, which its log has signed.
func (s *server) fork(at, more int) *server {
	other := s.twin(at)
	other.grow(more)
	return other
}

func TestLogIsAudited(t *testing.T) {
	w := logWorld(t)
	dir := t.TempDir()
	for range 2 {
		r := w.audit(dir)
		r.want(t, Sound, "")
		if i := slices.IndexFunc(r.Checks, func(c Check) bool { return c.Name == "checkpoint" }); i < 0 || r.Checks[i].Status != Passed {
			t.Fatalf("checks %+v", r.Checks)
		}
		if len(r.NotCovered) > 0 && w.server.signs == false {
			t.Error(r.NotCovered)
		}
		w.server.log.asked = 0
	}
	w.audit(dir)
	if w.server.log.asked != 0 {
		t.Errorf("%d tiles fetched again", w.server.log.asked)
	}
	if testing.Short() {
		return
	}
	w.server.grow(600)
	w.anchor()
	w.server.log.cosigned = w.now
	w.audit(dir).want(t, Sound, "")
	w.audit(t.TempDir()).want(t, Sound, "")
}

// TestLogFindings is what can be wrong with a log.
func TestLogFindings(t *testing.T) {
	for _, test := range []struct {
		name    string
		seen    bool
		wrong   func(w *world)
		verdict Verdict
		kind    Kind
		proof   Proof
	}{
		{"no checkpoint", false, func(w *world) { w.server.log.signed = []byte("nothing\n") }, CouldNotCheck, OtherLog, ""},
		{"no witness", false, func(w *world) { w.server.log.witnesses = nil }, NotSound, NoQuorum, ""},
		{"one witness of two", false, func(w *world) { w.server.log.witnesses = w.server.log.witnesses[:1] }, Sound, "", ""},
		{"witnesses of yesterday", false, func(w *world) { w.now = w.now.Add(25 * time.Hour); w.anchor() }, NotSound, OldQuorum, ""},
		{"another key than the policy's", false, func(w *world) { w.server.log.key = newTestKey(w.t, testDomain+"/keytree") }, CouldNotCheck, OtherLog, ""},
		{"a statement by another", false, func(w *world) { w.server.log.said = w.server.statementOf(w.server.log.key, newKey(7)) }, CouldNotCheck, OtherLog, ""},
		{"a tile of others", false, func(w *world) { w.server.log.spoilt = "tile/entries/000.p/15" }, CouldNotCheck, OtherTiles, ""},
		{"a tile of other hashes", false, func(w *world) { w.server.log.spoilt = "tile/0/000.p/15" }, CouldNotCheck, OtherTiles, ""},
		{"no tiles", false, func(w *world) { w.server.log.withheld = true }, CouldNotCheck, Unavailable, ""},
		{"more than is shown", false, func(w *world) { w.server.log.of = w.server.fork(15, 4) }, CouldNotCheck, Behind, ""},

		{"a fork, of which others have seen the checkpoint", true, func(w *world) { w.server.log.of = w.server.fork(12, 7) }, Misbehaviour, OtherCheckpoint, ByCheckpoints},
		{"a fork of the same size", true, func(w *world) { w.server.log.of = w.server.fork(12, 3) }, Misbehaviour, OtherCheckpoint, ByCheckpoints},
		{"a smaller fork, tiles withheld", true, func(w *world) {
			w.server.log.of = w.server.fork(12, 2)
			w.server.log.withheld = true
		}, Misbehaviour, OtherCheckpoint, ByCheckpoints},
		{"a fork and a head", false, func(w *world) { w.server.log.of = w.server.fork(12, 7) }, Misbehaviour, OtherCheckpoint, ByCheckpointAndHead},
		{"a smaller fork and a head, tiles withheld", false, func(w *world) {
			w.server.log.of = w.server.fork(12, 2)
			w.server.log.withheld = true
		}, Misbehaviour, OtherCheckpoint, ByCheckpointAndHead},
		{"a fork below the anchor", false, func(w *world) {
			w.server.log.of = w.server.fork(7, 7)
			w.server.signedHead = w.server.twin(6).head(testTime)
		}, Misbehaviour, OtherCheckpoint, ByCheckpointAndAnchor},
		{"a fork smaller than the anchor, tiles withheld", false, func(w *world) {
			w.server.log.of = w.server.fork(7, 2)
			w.server.log.withheld = true
			w.server.signedHead = w.server.twin(6).head(testTime)
		}, Misbehaviour, OtherCheckpoint, ByCheckpointAndAnchor},
		{"the same, no head that names the chain of anchors", false, func(w *world) {
			w.server.log.of = w.server.fork(7, 7)
			w.server.signs = false
		}, CouldNotCheck, OtherCheckpoint, ""},
		{"shown and logged is another than what is anchored", false, func(w *world) {
			early := w.server.twin(6).head(testTime)
			rewrite(w, 6)
			w.server.signedHead, w.server.answers = early, false
		}, Misbehaviour, RewrittenEntry, ByCheckpointAndAnchor},
		{"a fork after what was seen, tiles withheld", true, func(w *world) {
			w.server.log.of = w.server.fork(15, 4)
			w.server.grow(6)
			w.server.signs, w.server.log.withheld = false, true
		}, CouldNotCheck, OtherCheckpoint, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := logWorld(t)
			dir := t.TempDir()
			if test.seen {
				w.audit(dir).want(t, Sound, "")
			}
			test.wrong(w)
			f := w.audit(dir).want(t, test.verdict, test.kind)
			if test.proof == "" {
				if f != nil && f.Evidence != "" {
					t.Fatalf("there is evidence: %+v", f)
				}
				return
			}
			e := readEvidence(t, f.Evidence)
			if e.Proof != test.proof || e.Version != 2 {
				t.Fatalf("evidence by %q, version %d, expected %q", e.Proof, e.Version, test.proof)
			}
			c, err := e.Verify(t.Context(), w.pins(), w.headerFile())
			if err != nil || c.Verdict != Misbehaviour {
				t.Fatalf("%+v, %v", c, err)
			}
			// It needs its pins, and, with an anchor, the chain.
			c, err = e.Verify(t.Context(), Pins{}, nil)
			if err != nil || c.Verdict == Misbehaviour {
				t.Errorf("without pins: %+v, %v", c, err)
			}
			// It stays.
			w.server.log.of, w.server.signedHead = nil, nil
			w.audit(dir).want(t, Misbehaviour, test.kind)
			tamper(t, w, f.Evidence)
		})
	}
}

// tamper changes bytes of a file of evidence: it convinces of the same, or of nothing.
func tamper(t *testing.T, w *world, path string) {
	t.Helper()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := readEvidence(t, path).Verify(t.Context(), w.pins(), w.headerFile())
	if err != nil {
		t.Fatal(err)
	}
	step := 31
	if testing.Short() {
		step = 301
	}
	for at := 0; at < len(whole); at += step {
		b := bytes.Clone(whole)
		b[at] ^= 2
		tampered, err := ReadEvidence(bytes.NewReader(b))
		if err != nil {
			continue
		}
		got, err := tampered.Verify(t.Context(), w.pins(), w.headerFile())
		if err != nil && !errors.Is(err, ErrNoEvidence) && !errors.Is(err, ErrNoHeader) {
			t.Fatal(err)
		}
		if err == nil && (got.Verdict != Misbehaviour || !slices.Equal(got.Shows, want.Shows)) {
			t.Errorf("byte %d: it shows %q, expected %q", at, got.Shows, want.Shows)
		}
	}
}

// TestNoLogEvidence is what an honest keyserver's log could be accused with.
func TestNoLogEvidence(t *testing.T) {
	w := logWorld(t)
	s := w.server
	now := s.statementOf(s.log.key, s.key)
	early, forked := s.twin(12), s.fork(12, 3)
	keys := s.replies[s.entries[0].UIDIndex()]
	root := s.chain.Root()
	for name, e := range map[string]*Evidence{
		"the same twice":                     {Proof: ByCheckpoints, Checkpoints: []string{string(s.checkpointOf(s.log.key)), string(s.checkpointOf(s.log.key))}, Log: now},
		"no statement":                       {Proof: ByCheckpoints, Checkpoints: []string{string(s.checkpointOf(s.log.key)), string(forked.checkpointOf(s.log.key))}},
		"one":                                {Proof: ByCheckpoints, Checkpoints: []string{string(s.checkpointOf(s.log.key))}, Log: now},
		"a root of its own":                  {Proof: ByCheckpoints, Checkpoints: []string{string(early.checkpointOf(s.log.key)), string(s.checkpointOf(s.log.key))}, Log: now, Root: root[:]},
		"somebody's log":                     {Proof: ByCheckpoints, Checkpoints: []string{string(s.checkpointOf(s.log.key)), string(forked.checkpointOf(newTestKey(t, testDomain+"/keytree")))}, Log: now},
		"a statement of fewer entries":       {Proof: ByCheckpoints, Checkpoints: []string{string(s.checkpointOf(s.log.key)), string(forked.checkpointOf(s.log.key))}, Log: early.statementOf(s.log.key, s.key)},
		"a statement by another":             {Proof: ByCheckpoints, Checkpoints: []string{string(s.checkpointOf(s.log.key)), string(forked.checkpointOf(s.log.key))}, Log: s.statementOf(s.log.key, newKey(8))},
		"a checkpoint and its head":          {Proof: ByCheckpointAndHead, Checkpoints: []string{string(s.checkpointOf(s.log.key))}, Log: now, Heads: []*hashchain.SignedHead{s.head(1)}},
		"a checkpoint and its anchor":        {Proof: ByCheckpointAndAnchor, Checkpoints: []string{string(w.server.twin(10).checkpointOf(s.log.key))}, Log: now, Heads: []*hashchain.SignedHead{s.head(1)}, Genesis: w.genesis.String(), Bundle: w.bundle(0)},
		"an anchor of a chain nobody named":  {Proof: ByCheckpointAndAnchor, Checkpoints: []string{string(s.fork(7, 3).checkpointOf(s.log.key))}, Log: now, Genesis: w.genesis.String(), Bundle: w.bundle(0)},
		"an anchor of a chain named by none": {Proof: ByCheckpointAndAnchor, Checkpoints: []string{string(s.fork(7, 3).checkpointOf(s.log.key))}, Log: now, Heads: []*hashchain.SignedHead{unnamed(s)}, Genesis: w.genesis.String(), Bundle: w.bundle(0)},
	} {
		e.Version, e.Domain, e.Keyserver = e.version(), testDomain, append(e.Keyserver, keys)
		if c, err := e.Verify(t.Context(), w.pins(), w.headerFile()); !errors.Is(err, ErrNoEvidence) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	// A real one, so that the rest is as it should be.
	e := &Evidence{Version: 2, Domain: testDomain, Proof: ByCheckpoints, Keyserver: append([]*uid.Reply{}, keys),
		Checkpoints: []string{string(s.checkpointOf(s.log.key)), string(forked.checkpointOf(s.log.key))}, Log: now}
	if c, err := e.Verify(t.Context(), w.pins(), nil); err != nil || c.Verdict != Misbehaviour {
		t.Errorf("%+v, %v", c, err)
	}
}

// unnamed is a head that names no chain of anchors.
func unnamed(s *server) *hashchain.SignedHead {
	other := *s
	other.anchorChain = ""
	return other.head(1)
}

// TestRetiredKeysOfLogsConvictNobody: neither a server key nor a log key that was replaced convicts
// for sizes after that, whoever has stolen it.
func TestRetiredKeysOfLogsConvictNobody(t *testing.T) {
	w := logWorld(t)
	s := w.server
	w.policy = s.log.policy(t, false, "any")
	dir := t.TempDir()
	w.audit(dir).want(t, Sound, "")
	oldServer, oldLog := s.key, s.log.key
	s.rotate(newKey(2)) // position 15
	s.grow(4)           // 20
	w.anchor()
	s.log.cosigned = w.now
	w.audit(dir).want(t, Sound, "")
	thief := s.fork(18, 5)
	stolen := newTestKey(t, testDomain+"/keytree")
	s.log.signed, s.log.said = thief.checkpointOf(stolen), thief.statementOf(stolen, oldServer)
	if f := w.audit(dir).want(t, CouldNotCheck, OutOfForce); f.Evidence != "" {
		t.Fatal(f)
	}
	s.log.key, s.log.signed, s.log.said = newTestKey(t, testDomain+"/keytree"), nil, nil
	w.audit(dir).want(t, Sound, "")
	s.log.signed, s.log.said = thief.checkpointOf(oldLog), nil // the present statement names another
	if f := w.audit(dir).want(t, CouldNotCheck, OtherLog); f.Evidence != "" {
		t.Fatal(f)
	}
	e := &Evidence{Version: 2, Domain: testDomain, Proof: ByCheckpointAndHead, Checkpoints: []string{string(thief.checkpointOf(stolen))},
		Log: thief.statementOf(stolen, oldServer), Heads: []*hashchain.SignedHead{s.head(1)}}
	for _, p := range s.own {
		e.Keyserver = append(e.Keyserver, s.replies[s.entries[p].UIDIndex()])
	}
	file, err := openEntries(t.TempDir()+"/entries", 0, hashchain.Hash{})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.add(thief.entries); err != nil {
		t.Fatal(err)
	}
	if e.Root, e.Consistency, err = prefixRoot(file, s.chain.Size, thief.chain.Size); err != nil {
		t.Fatal(err)
	}
	if c, err := e.Verify(t.Context(), w.pins(), nil); err != nil || c.Verdict != ConvictsNobody {
		t.Errorf("%+v, %v", c, err)
	}
	e.Log = thief.statementOf(stolen, s.key)
	if c, err := e.Verify(t.Context(), w.pins(), nil); err != nil || c.Verdict != Misbehaviour {
		t.Errorf("by the key in force: %+v, %v", c, err)
	}
}

// TestHonestLogsAreNotConvicted: whatever entries come, keys are replaced, backups are restored,
// clocks jump, blocks are reorganised, witnesses are away, and thieves of replaced keys sign, no
// audit finds misbehaviour of an honest keyserver with a log.
func TestHonestLogsAreNotConvicted(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	eachHistory(t, func(h *history) {
		s := h.w.server
		h.w.policy = s.log.policy(t, false, "any")
		all := s.log.witnesses
		type stolen struct {
			key ed25519.PrivateKey
			log *tlog.Key
		}
		var thieves []stolen
		n := byte(10)
		for range steps() {
			s.log.cosigned = h.now.Add(h.ahead)
			switch rapid.SampledFrom([]string{"act", "act", "audit", "audit", "clock", "server key", "log key", "witnesses", "backup", "thief"}).Draw(h.t, "step") {
			case "act":
				h.act()
			case "clock":
				h.ahead = time.Duration(rapid.SampledFrom([]int64{0, 0, -240, -30, -3, 1, 10, 100}).Draw(h.t, "hours ahead")) * time.Hour
			case "server key":
				thieves = append(thieves, stolen{s.key, s.log.key})
				n++
				s.rotate(newKey(n))
				h.publish()
			case "log key":
				thieves = append(thieves, stolen{s.key, s.log.key})
				s.log.key = newTestKey(t, testDomain+"/keytree")
				s.grow(1)
			case "witnesses":
				s.log.witnesses = all[:rapid.IntRange(0, 2).Draw(h.t, "witnesses")]
			case "backup": // what is shown is old; its log signs nothing, and shows what it has signed last
				shown := s.twin(rapid.IntRange(1, len(s.entries)).Draw(h.t, "of size"))
				shown.log.signed = s.checkpointOf(s.log.key)
				shown.log.of = s
				for p := range s.own { // the key that was in force
					if s.own[p] >= shown.chain.Size {
						shown = nil
						break
					}
				}
				if shown != nil {
					h.shown = shown
					h.honest(h.audit())
					h.shown = s
				}
			case "thief":
				if len(thieves) == 0 {
					continue
				}
				who := rapid.SampledFrom(thieves).Draw(h.t, "thief")
				forked := s.fork(rapid.IntRange(int(s.own[len(s.own)-1])+1, len(s.entries)).Draw(h.t, "forked at"), 3)
				forked.grow(3)
				between := *s
				between.log.signed, between.log.of = forked.checkpointOf(who.log), forked
				between.log.said = forked.statementOf(who.log, who.key)
				if who.key.Equal(s.key) { // the log's key alone
					between.log.said = nil
				}
				h.shown = &between
				h.honest(h.audit())
				h.shown = s
			case "audit":
				h.honest(h.audit())
			}
		}
	})
}

func (h *history) honest(r *Report) {
	if r.Verdict == Misbehaviour {
		h.t.Fatalf("an honest keyserver is convicted: %+v", r.Findings)
	}
}

// TestForkedLogsAreConvicted: a log that has signed two histories is convicted by whoever has seen
// a checkpoint, a head or an anchor of the one behind where they part, and now sees a checkpoint of
// the other.
func TestForkedLogsAreConvicted(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		w := newWorld(t)
		w.policy = w.server.log.policy(t, true, "none")
		dir := filepath.Join(t.TempDir(), strconv.Itoa(n))
		defer os.RemoveAll(dir)
		w.server.grow(rapid.IntRange(1, 300).Draw(r, "entries"))
		if rapid.Bool().Draw(r, "anchored") {
			w.anchor()
		}
		w.server.grow(rapid.IntRange(1, 20).Draw(r, "more"))
		w.audit(dir)
		if rapid.Bool().Draw(r, "rotated") {
			w.server.rotate(newKey(3))
		}
		at := rapid.IntRange(1, len(w.server.entries)-1).Draw(r, "they part")
		forked := w.server.fork(at, rapid.IntRange(1, 300).Draw(r, "entries of the other"))
		if forked.own[len(forked.own)-1] < w.server.own[len(w.server.own)-1] {
			return // it has another key by then
		}
		w.server.grow(rapid.IntRange(0, 3).Draw(r, "since"))
		w.server.log.of = forked
		rep := w.audit(dir)
		if rep.Verdict != Misbehaviour {
			r.Fatalf("they part at %d of %d and %d entries: %+v", at, len(w.server.entries), len(forked.entries), rep.Findings)
		}
	})
}

// TestSuspectIsConvictedLater: a checkpoint of another history that nothing convicts yet is kept
// until something does.
func TestSuspectIsConvictedLater(t *testing.T) {
	w := logWorld(t)
	dir := t.TempDir()
	w.audit(dir).want(t, Sound, "")
	w.server.log.of = w.server.fork(15, 4)
	w.server.grow(6)
	w.server.signs, w.server.log.withheld = false, true
	if f := w.audit(dir).want(t, CouldNotCheck, OtherCheckpoint); f.Evidence != "" {
		t.Fatal(f)
	}
	w.server.log.of, w.server.signs = nil, true
	f := w.audit(dir).want(t, Misbehaviour, OtherCheckpoint)
	if e := readEvidence(t, f.Evidence); e.Proof != ByCheckpointAndHead {
		t.Errorf("evidence by %q", e.Proof)
	}
	w.audit(dir).want(t, Misbehaviour, OtherCheckpoint)
}
