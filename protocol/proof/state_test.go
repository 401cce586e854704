package proof_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	sumdb "golang.org/x/mod/sumdb/tlog"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// records are those of a map, whole.
type records map[protocol.MapKey][]byte

func (m records) addKey(r protocol.KeyRecord) { m[r.MapKey()] = r.AppendTo(nil) }
func (m records) addID(r protocol.IDRecord)   { m[r.MapKey()] = r.AppendTo(nil) }

// split returns the lowest bit in which the map keys of two or more records differ, and the records on its sides.
func (m records) split() (bit int, sides [2]records) {
	for bit = range 256 {
		sides = [2]records{{}, {}}
		for key, record := range m {
			sides[key.Bit(bit)][key] = record
		}
		if len(sides[0]) > 0 && len(sides[1]) > 0 {
			break
		}
	}
	return bit, sides
}

func (m records) hash() [32]byte {
	switch len(m) {
	case 0:
		return protocol.EmptyMapHash()
	case 1:
		for key, record := range m {
			return protocol.MapLeafHash(key, record)
		}
	}
	bit, sides := m.split()
	return protocol.MapNodeHash(bit, sides[0].hash(), sides[1].hash())
}

// show adds the tree that shows some of the records.
func (m records) show(t *proof.StateTree, shown map[protocol.MapKey]bool) {
	switch len(m) {
	case 0:
		t.Empty()
		return
	case 1:
		for _, record := range m {
			t.Record(record)
		}
		return
	}
	bit, sides := m.split()
	has := func(side records) bool {
		return slices.ContainsFunc(slices.Collect(maps.Keys(side)), func(key protocol.MapKey) bool { return shown[key] })
	}
	switch {
	case !has(sides[0]):
		t.Right(bit, sides[0].hash())
		sides[1].show(t, shown)
	case !has(sides[1]):
		t.Left(bit, sides[1].hash(), func() error { sides[0].show(t, shown); return nil })
	default:
		t.Both(bit)
		sides[0].show(t, shown)
		sides[1].show(t, shown)
	}
}

// tree returns the tree that shows some of the records.
func (m records) tree(shown ...protocol.MapKey) []byte {
	is := make(map[protocol.MapKey]bool)
	for _, key := range shown {
		is[key] = true
	}
	var t proof.StateTree
	m.show(&t, is)
	return t.Bytes()
}

// stateLog is a state log of some entries and those who cosign it.
type stateLog struct {
	log       *tlog.Key
	witnesses []*tlog.Key
	policy    *tlog.Policy
	text      string // of the policy
}

const cosignedAt = 1_700_000_000

// fixedKey returns the same key whenever it is asked for one of a name.
func fixedKey(t testing.TB, name, seed string) *tlog.Key {
	t.Helper()
	secret := sha256.Sum256([]byte(seed))
	public := ed25519.NewKeyFromSeed(secret[:]).Public().(ed25519.PublicKey)
	id := sha256.Sum256(append([]byte(name+"\n\x01"), public...))
	k, err := tlog.ParseKey(fmt.Sprintf("PRIVATE+KEY+%s+%x+%s", name, id[:4], base64.StdEncoding.EncodeToString(append([]byte{1}, secret[:]...))))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const regtestLog = "log.example/state/regtest/1/1"

// newStateLog returns a log of a name, and a policy that demands some of so many witnesses; none if there are none.
func newStateLog(t testing.TB, name, seed string, witnesses, quorum int) *stateLog {
	t.Helper()
	l := &stateLog{log: fixedKey(t, name, seed+" log")}
	l.text = fmt.Sprintf("log %s\n", l.log.Log())
	group := fmt.Sprintf("group enough %d", quorum)
	for i := range witnesses {
		w := fixedKey(t, fmt.Sprintf("witness%d.example", i), fmt.Sprintf("%s witness %d", seed, i))
		l.witnesses = append(l.witnesses, w)
		l.text += fmt.Sprintf("witness w%d %s\n", i, w.Witness())
		group += fmt.Sprintf(" w%d", i)
	}
	if witnesses == 0 {
		l.text += "quorum none\n"
	} else {
		l.text += group + "\nquorum enough\n"
	}
	var err error
	if l.policy, err = tlog.ParsePolicy([]byte(l.text)); err != nil {
		t.Fatal(err)
	}
	return l
}

// prove returns what shows the entry of a number, of all that are in the log, with the extra data.
func (l *stateLog) prove(t testing.TB, entries []protocol.StateEntry, index int, extra []byte) *tlog.Proof {
	t.Helper()
	var stored []sumdb.Hash
	read := sumdb.HashReaderFunc(func(indexes []int64) (hashes []sumdb.Hash, err error) {
		for _, i := range indexes {
			hashes = append(hashes, stored[i])
		}
		return hashes, nil
	})
	for i := range entries {
		b := entries[i].Bytes()
		more, err := sumdb.StoredHashes(int64(i), b[:], read)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, more...)
	}
	root, err := sumdb.TreeHash(int64(len(entries)), read)
	if err != nil {
		t.Fatal(err)
	}
	p := &tlog.Proof{Extra: extra, Index: uint64(index)}
	if p.Hashes, err = sumdb.ProveRecord(int64(len(entries)), int64(index), read); err != nil {
		t.Fatal(err)
	}
	p.Checkpoint = l.log.Sign(tlog.Checkpoint{Origin: l.log.Name(), Size: uint64(len(entries)), Root: root})
	p.Checkpoint = l.cosign(p.Checkpoint, len(l.witnesses))
	return p
}

// cosign adds the cosignatures of some of the witnesses.
func (l *stateLog) cosign(signed []byte, by int) []byte {
	cosigned := slices.Clone(signed)
	for i, w := range l.witnesses[:by] {
		cosigned = append(cosigned, w.Cosign(signed, time.Unix(cosignedAt+int64(i), 0))...)
	}
	return cosigned
}

func repeated[T ~[20]byte | ~[32]byte](b byte) (x T) {
	for i := range len(x) {
		x[i] = b
	}
	return x
}

func aKey(b byte) protocol.KeyHash { return repeated[protocol.KeyHash](b) }
func anID(b byte) chainhash.Hash   { return repeated[chainhash.Hash](b) }

// example is the map at the end of the example of protocol/SPEC.md §12.
func example() records {
	m := make(records)
	m.addKey(protocol.KeyRecord{Key: aKey(0x22), Parent: aKey(0x11), Accept: anID(0xee), Height: 103})
	m.addKey(protocol.KeyRecord{Key: aKey(0x11), ID: anID(0xaa), Height: 103})
	m.addID(protocol.IDRecord{ID: anID(0xaa), Root: aKey(0x11)})
	m.addID(protocol.IDRecord{ID: anID(0xcc), Merged: true, Into: anID(0xaa)})
	return m
}

// exampleProof proves the example with some subjects, and shows some records.
func exampleProof(t testing.TB, l *stateLog, subjects []proof.StateSubject, shown ...protocol.MapKey) []byte {
	t.Helper()
	m := example()
	entries := make([]protocol.StateEntry, 7)
	for i := range entries {
		entries[i] = protocol.StateEntry{Height: 100 + uint32(i), Block: anID(byte(i)), StateRoot: m.hash()}
	}
	p := proof.StateProof{Entry: entries[4], Subjects: subjects, Tree: m.tree(shown...)}
	extra, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return l.prove(t, entries, 4, extra).Marshal()
}

func ofKey(b byte) proof.StateSubject { return proof.StateSubject{Key: aKey(b)} }
func ofID(b byte) proof.StateSubject  { return proof.StateSubject{IsID: true, ID: anID(b)} }

// TestVerifyState: what is shown is what the map has.
func TestVerifyState(t *testing.T) {
	l := newStateLog(t, regtestLog, "one", 3, 3)
	two, one := protocol.MapKeyOf(aKey(0x22)), protocol.MapKeyOf(aKey(0x11))
	aa, cc := protocol.MapKeyOfID(anID(0xaa)), protocol.MapKeyOfID(anID(0xcc))
	file := exampleProof(t, l, []proof.StateSubject{ofKey(0x22), ofID(0xcc), ofKey(0x33)}, two, one, aa, cc)
	got, err := proof.VerifyState(file, l.policy)
	if err != nil {
		t.Fatal(err)
	}
	if got.Entry.Height != 104 || got.Network != "regtest" || len(got.Cosigners) != 3 || got.CosignedAt.Unix() != cosignedAt {
		t.Errorf("got %+v", got)
	}
	if s := got.Subjects[0]; s.Cut || len(s.Keys) != 2 || s.Keys[0].Parent != aKey(0x11) || s.Keys[1].ID != anID(0xaa) {
		t.Errorf("key 22: %+v", s)
	}
	if s := got.Subjects[1]; s.Cut || len(s.IDs) != 2 || s.IDs[1].Root != aKey(0x11) {
		t.Errorf("id cc: %+v", s)
	}
	if s := got.Subjects[2]; s.Cut || s.Keys != nil {
		t.Errorf("key 33: %+v", s)
	}
	if other := newStateLog(t, regtestLog, "another", 3, 3); !fails(file, other.policy, 2) {
		t.Error("another policy accepts it")
	}
	for _, hidden := range []protocol.MapKey{two, one, cc, aa} {
		var shown []protocol.MapKey
		for _, key := range []protocol.MapKey{two, one, aa, cc} {
			if key != hidden {
				shown = append(shown, key)
			}
		}
		if file := exampleProof(t, l, []proof.StateSubject{ofKey(0x22), ofID(0xcc)}, shown...); !fails(file, l.policy, 5) {
			t.Errorf("without the record of %x: %v", hidden, err)
		}
	}
	if file := exampleProof(t, l, []proof.StateSubject{ofKey(0x11)}, one, two); !fails(file, l.policy, 6) {
		t.Error("a record more than is needed is accepted")
	}
	if again := bytes.Replace(file, []byte("\nindex 4\n"), []byte("\nindex 5\n"), 1); !fails(again, l.policy, 3) {
		t.Error("another index is accepted")
	}
}

// fails tells whether a file is refused because of a check.
func fails(file []byte, policy *tlog.Policy, check int) bool {
	_, err := proof.VerifyState(file, policy)
	var failed *proof.StateError
	return errors.Is(err, proof.ErrState) && errors.As(err, &failed) && failed.Check == check
}

// noteLine is a signature of a text by a log's key.
func noteLine(key *tlog.PublicKey, secret []byte, text string) string {
	signed := append(binary.BigEndian.AppendUint32(nil, key.KeyHash()), ed25519.Sign(ed25519.NewKeyFromSeed(secret), []byte(text))...)
	return fmt.Sprintf("— %s %s\n", key.Name(), base64.StdEncoding.EncodeToString(signed))
}
