package audit

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// TestEntryProof proves an entry, and changes every part of the proof.
func TestEntryProof(t *testing.T) {
	w := logWorld(t)
	w.server.grow(2)
	w.anchor() // which covers all 17
	w.server.grow(6)
	s := w.server
	file, err := openEntries(t.TempDir()+"/entries", 0, hashchain.Hash{})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.add(s.entries); err != nil {
		t.Fatal(err)
	}
	const position = 7
	bundle, a, err := CoveringBundle(t.Context(), testNet, w.genesis, bytes.NewReader(w.bundle(0)), position)
	if err != nil || a.Number != 1 || a.Position != 9 {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, _, err := CoveringBundle(t.Context(), testNet, w.genesis, bytes.NewReader(w.bundle(0)), 17); !errors.Is(err, ErrNotProved) {
		t.Errorf("not covered yet: %v", err)
	}
	inclusion, err := hashchain.InclusionProof(position, 23, file)
	if err != nil {
		t.Fatal(err)
	}
	consistency, err := hashchain.ConsistencyProof(a.Position+1, 23, file)
	if err != nil {
		t.Fatal(err)
	}
	build := func(e EntryProof, index uint64, signed []byte) []byte {
		p := tlog.Proof{Extra: e.Marshal(), Index: index, Checkpoint: signed}
		for _, h := range inclusion {
			p.Hashes = append(p.Hashes, tlog.Hash(h))
		}
		return p.Marshal()
	}
	good := EntryProof{s.entries[position], consistency, bundle}
	signed := s.checkpointOf(s.log.key)
	raw := build(good, position, signed)
	pinned := Checkpoint{a.Height, a.Block}
	got, err := VerifyEntry(t.Context(), raw, w.policy, testNet, w.genesis, w.headerFile(), Checkpoint{})
	if err != nil || got.Position != position || got.Entry != s.entries[position] || got.Anchor.TxID != a.TxID || len(got.Cosigners) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := VerifyEntry(t.Context(), raw, w.policy, testNet, w.genesis, nil, pinned); err != nil {
		t.Errorf("with the block pinned: %v", err)
	}
	refused := func(what string, raw []byte, policy *tlog.Policy, pinned Checkpoint) {
		t.Helper()
		if _, err := VerifyEntry(t.Context(), raw, policy, testNet, w.genesis, nil, pinned); !errors.Is(err, ErrNotProved) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("another block pinned", raw, w.policy, Checkpoint{a.Height, w.genesis})
	refused("nothing pinned", raw, w.policy, Checkpoint{})
	refused("another's policy", raw, newServerPolicy(t), pinned)
	refused("another index", build(good, 8, signed), w.policy, pinned)
	refused("another entry", build(EntryProof{s.entries[8], consistency, bundle}, position, signed), w.policy, pinned)
	refused("no consistency", build(EntryProof{s.entries[position], nil, bundle}, position, signed), w.policy, pinned)
	refused("an earlier anchor", build(EntryProof{s.entries[position], consistency, makeBundle(t, w.genesis, 0, w.items[:1])}, position, signed), w.policy, pinned)
	refused("no anchor", build(EntryProof{s.entries[position], consistency, nil}, position, signed), w.policy, pinned)
	refused("another history", build(good, position, s.fork(8, 15).checkpointOf(s.log.key)), w.policy, pinned)
	s.log.witnesses = nil
	refused("no witness", build(good, position, s.checkpointOf(s.log.key)), w.policy, pinned)
	for at := 0; at < len(raw); at += 11 {
		b := bytes.Clone(raw)
		b[at] ^= 1
		got, err := VerifyEntry(t.Context(), b, w.policy, testNet, w.genesis, nil, pinned)
		if err != nil && !errors.Is(err, ErrNotProved) || err == nil && (got.Entry != s.entries[position] || got.Position != position) {
			t.Errorf("byte %d: %+v, %v", at, got, err)
		}
	}
}

// newServerPolicy is the policy of another log.
func newServerPolicy(t *testing.T) *tlog.Policy {
	l := newTestLog(t)
	return l.policy(t, true, "any")
}
