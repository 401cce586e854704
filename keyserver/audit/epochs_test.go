package audit

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol/proof"
)

// epochs is a keyserver that has replaced its key twice, and a thief who has all of
// its keys.
type epochs struct {
	*world
	keys []ed25519.PrivateKey
	own  []*uid.Reply
	fork *server             // another history, from position 1 on
	end  []*proof.BundleItem // that breaks the chain of anchors
}

// The sizes at which one key gives way to the next: the last of the one, and the first
// of the other.
const (
	lastOfFirst, firstOfSecond = 7, 8
	lastOfSecond, firstOfThird = 11, 12
	epochsSize                 = 15
)

func newEpochs(t *testing.T) *epochs {
	e := &epochs{world: newWorld(t), keys: []ed25519.PrivateKey{newKey(1), newKey(2), newKey(3)}}
	e.fork = e.server.twin(1)
	e.fork.grow(epochsSize + 1)
	e.growTo(lastOfFirst)
	e.anchor()
	e.server.rotate(e.keys[1])
	e.anchor()
	e.growTo(lastOfSecond)
	e.anchor()
	e.server.rotate(e.keys[2])
	e.anchor()
	e.growTo(epochsSize)
	e.anchor()
	for _, position := range e.server.own {
		e.own = append(e.own, e.honestReply(position))
	}
	return e
}

func (e *epochs) growTo(size int) { e.server.grow(size - len(e.server.entries)) }

func (e *epochs) honestReply(position uint64) *uid.Reply {
	return e.server.replies[e.server.entries[position].UIDIndex()]
}

// inForce is the number of the key that signs while there are size entries.
func (e *epochs) inForce(size uint64) int {
	switch {
	case size <= lastOfFirst:
		return 0
	case size <= lastOfSecond:
		return 1
	}
	return 2
}

func signedHeadOf(s *server, size uint64, key ed25519.PrivateKey) *hashchain.SignedHead {
	at := s.twin(int(size))
	at.key = key
	return at.head(testTime)
}

func (e *epochs) honestHead(size uint64) *hashchain.SignedHead {
	return signedHeadOf(e.server, size, e.keys[e.inForce(size)])
}

func (e *epochs) forgedReply(position uint64, key ed25519.PrivateKey) *uid.Reply {
	return uid.NewReply("", &e.fork.entries[position], position, key)
}

// bundleTo is the proof bundle up to the anchor of a hashchain of some size.
func (e *epochs) bundleTo(size uint64) []byte {
	sizes := []uint64{5, lastOfFirst, firstOfSecond, lastOfSecond, firstOfThird, epochsSize}
	for i, anchored := range sizes {
		if anchored == size {
			return makeBundle(e.t, e.genesis, 0, e.items[:i+1])
		}
	}
	e.t.Fatalf("no anchor of %d entries", size)
	return nil
}

// statements are the ways in which a statement about a hashchain of some size, by a
// key, can be part of evidence.
var statements = []struct {
	name string
	make func(e *epochs, size uint64, key ed25519.PrivateKey) *Evidence
}{
	{"head, with a head", func(e *epochs, size uint64, key ed25519.PrivateKey) *Evidence {
		return &Evidence{Proof: ByHeads, Heads: []*hashchain.SignedHead{e.honestHead(size), signedHeadOf(e.fork, size, key)}}
	}},
	{"head, before a head", func(e *epochs, size uint64, key ed25519.PrivateKey) *Evidence {
		file := fileOf(e.t, e.server.entries)
		root, proof, err := prefixRoot(file, size, epochsSize)
		if err != nil {
			e.t.Fatal(err)
		}
		return &Evidence{Proof: ByHeads, Heads: []*hashchain.SignedHead{signedHeadOf(e.fork, size, key), e.honestHead(epochsSize)}, Root: root, Consistency: proof}
	}},
	{"reply, with a reply", func(e *epochs, size uint64, key ed25519.PrivateKey) *Evidence {
		return &Evidence{Proof: ByReplies, Replies: []*uid.Reply{e.honestReply(size), e.forgedReply(size, key)}}
	}},
	{"reply, behind a reply", func(e *epochs, size uint64, key ed25519.PrivateKey) *Evidence {
		return &Evidence{Proof: ByReplies, Replies: []*uid.Reply{e.honestReply(size - 1), e.forgedReply(size, key)}}
	}},
	{"head, with a reply", func(e *epochs, size uint64, key ed25519.PrivateKey) *Evidence {
		return &Evidence{Proof: ByReplyAndHead, Heads: []*hashchain.SignedHead{signedHeadOf(e.fork, size, key)}, Replies: []*uid.Reply{e.honestReply(size - 1)}}
	}},
	{"reply, with a head", func(e *epochs, size uint64, key ed25519.PrivateKey) *Evidence {
		return &Evidence{Proof: ByReplyAndHead, Heads: []*hashchain.SignedHead{e.honestHead(size + 1)}, Replies: []*uid.Reply{e.forgedReply(size, key)}}
	}},
	{"reply, in a head's tree", func(e *epochs, size uint64, key ed25519.PrivateKey) *Evidence {
		proof, err := hashchain.InclusionProof(size, epochsSize, fileOf(e.t, e.server.entries))
		if err != nil {
			e.t.Fatal(err)
		}
		return &Evidence{
			Proof: ByReplyAndHead, Heads: []*hashchain.SignedHead{e.honestHead(epochsSize)}, Replies: []*uid.Reply{e.forgedReply(size, key)},
			Inclusion: &Inclusion{Entry: e.server.entries[size].String(), Hashes: hashesOf(proof)},
		}
	}},
	{"head, with an anchor", func(e *epochs, size uint64, key ed25519.PrivateKey) *Evidence {
		return &Evidence{Proof: ByHeadAndAnchor, Heads: []*hashchain.SignedHead{signedHeadOf(e.fork, size, key)}, Bundle: e.bundleTo(size)}
	}},
	{"reply, with an anchor", func(e *epochs, size uint64, key ed25519.PrivateKey) *Evidence {
		if size == lastOfFirst || size == lastOfSecond { // position 7, in the anchor of 8 entries
			return &Evidence{Proof: ByReplyAndAnchor, Replies: []*uid.Reply{e.forgedReply(size, key)}, Bundle: e.bundleTo(size + 1)}
		}
		// The anchors of the others are of the size before.
		return nil
	}},
	{"head that names a broken chain", func(e *epochs, size uint64, key ed25519.PrivateKey) *Evidence {
		items := append(e.items[:len(e.items):len(e.items)], e.end...)
		return &Evidence{Proof: ByAnchors, Heads: []*hashchain.SignedHead{signedHeadOf(e.server, size, key)}, Bundle: makeBundle(e.t, e.genesis, 0, items)}
	}},
}

func fileOf(t testing.TB, entries []hashchain.Entry) *entryFile {
	t.Helper()
	file, err := openEntries(t.TempDir()+"/entries", 0, hashchain.Hash{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if _, err := file.add(entries); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestStatementsByEveryKey: a statement convicts by the key that was in force at its
// size alone, whatever the statement, the key and the size.
func TestStatementsByEveryKey(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	e := newEpochs(t)
	e.end = e.mine(e.tx([]wire.OutPoint{e.baton}, nil))
	tried := make(map[Proof]int)
	for _, statement := range statements {
		for _, size := range []uint64{5, lastOfFirst, firstOfSecond, lastOfSecond, firstOfThird, epochsSize - 1} {
			for n, key := range e.keys {
				if strings.Contains(statement.name, "an anchor") && size == epochsSize-1 {
					continue // nothing is anchored there
				}
				evidence := statement.make(e, size, key)
				if evidence == nil {
					continue
				}
				tried[evidence.Proof]++
				evidence.Version, evidence.Domain, evidence.Keyserver = evidenceVersion, testDomain, e.own
				if evidence.Bundle != nil {
					evidence.Genesis = e.genesis.String()
				}
				name := fmt.Sprintf("%s, of size %d, by key %d", statement.name, size, n+1)
				c, err := evidence.Verify(t.Context(), e.pins(), e.headerFile())
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				if want := n == e.inForce(size); (c.Verdict == Misbehaviour) != want {
					t.Errorf("%s: %q, expected that it convicts: %v", name, c.Verdict, want)
				}
				said := strings.Contains(strings.Join(c.Compare, "\n"), canonical.Encode(key.Public().(ed25519.PublicKey))+", named by the entry at position") &&
					strings.Contains(strings.Join(c.Compare, "\n"), "it convicts nobody")
				if said == (c.Verdict == Misbehaviour) {
					t.Errorf("%s: to compare is %q", name, c.Compare)
				}
			}
		}
	}
	if len(tried) != 6 {
		t.Errorf("proofs tried: %v", tried)
	}
	// A key that never was the keyserver's is none.
	foreign := statements[0].make(e, lastOfFirst, newKey(9))
	foreign.Version, foreign.Domain, foreign.Keyserver = evidenceVersion, testDomain, e.own
	if c, err := foreign.Verify(t.Context(), e.pins(), nil); !errors.Is(err, ErrNoEvidence) {
		t.Errorf("a stranger's key: %+v, %v", c, err)
	}
}

// TestAuditOfEveryKey has each key sign, for each epoch, a head of another history and
// the reply about the last entry, between an honest keyserver and its auditor.
func TestAuditOfEveryKey(t *testing.T) {
	for _, size := range []uint64{lastOfFirst, firstOfSecond, lastOfSecond, firstOfThird, epochsSize} {
		for n := range 3 {
			t.Run(fmt.Sprintf("head of %d entries by key %d", size, n+1), func(t *testing.T) {
				e := newEpochs(t)
				dir := t.TempDir()
				e.audit(dir).want(t, Sound, "")
				e.server.signedHead = signedHeadOf(e.fork, size, e.keys[n])
				if n == e.inForce(size) {
					e.audit(dir).want(t, Misbehaviour, TwoHistories)
					return
				}
				for _, dir := range []string{dir, t.TempDir()} {
					f := e.audit(dir).want(t, CouldNotCheck, OutOfForce)
					if f.Evidence != "" || len(f.Compare) != 1 {
						t.Errorf("%+v", f)
					}
					e.server.signedHead = nil
					e.audit(dir).want(t, Sound, "") // nothing of it stays
					e.server.signedHead = signedHeadOf(e.fork, size, e.keys[n])
				}
			})
		}
	}
	for n := range 3 {
		t.Run(fmt.Sprintf("reply by key %d", n+1), func(t *testing.T) {
			e := newEpochs(t)
			last := &e.server.entries[epochsSize-1]
			e.server.replies[last.UIDIndex()] = uid.NewReply("", last, epochsSize-1, e.keys[n])
			verdict, kind := Sound, Kind("")
			if n != 2 {
				verdict, kind = CouldNotCheck, OutOfForce
			}
			e.audit(t.TempDir()).want(t, verdict, kind)
		})
	}
}

// TestForkByRetiredKey has a thief of the first key show another history than was
// seen: nobody is convicted, and with the honest history all is well again.
func TestForkByRetiredKey(t *testing.T) {
	e := newEpochs(t)
	dir := t.TempDir()
	e.audit(dir).want(t, Sound, "")
	honest := e.server
	thief := honest.twin(firstOfSecond)
	thief.key = e.keys[0]
	thief.grow(epochsSize + 3 - firstOfSecond)
	thief.own = honest.own
	e.server = thief
	f := e.audit(dir).want(t, CouldNotCheck, RewrittenEntry)
	if f.Evidence != "" || len(f.Compare) == 0 {
		t.Errorf("%+v", f)
	}
	e.server = honest
	e.audit(dir).want(t, Sound, "")
}

// TestWithheldRotations has a thief of the first key stand between an honest keyserver
// and its auditor, withhold what replaced the key, and sign two histories with it.
func TestWithheldRotations(t *testing.T) {
	for _, test := range []struct {
		name  string
		knows bool // the auditor has seen the rotations before
	}{{"first audit", false}, {"known before", true}} {
		t.Run(test.name, func(t *testing.T) {
			e := newEpochs(t)
			dir := t.TempDir()
			if test.knows {
				e.audit(dir).want(t, Sound, "")
			}
			e.server.own = []uint64{0}
			last := uint64(epochsSize - 1)
			e.server.replies[e.server.entries[last].UIDIndex()] = uid.NewReply("", &e.server.entries[last], last, e.keys[0])
			e.server.signedHead = signedHeadOf(e.fork, epochsSize, e.keys[0])
			if r := e.audit(dir); r.Verdict != CouldNotCheck {
				t.Errorf("verdict %q with %+v, expected %q", r.Verdict, r.Findings, CouldNotCheck)
			}
		})
	}
}
