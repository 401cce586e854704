package proof

import (
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// stated is a file in which a log of one entry, with more entries behind it that nobody sees, has signed it.
func stated(t *testing.T, key *tlog.Key, e protocol.StateEntry, more byte) []byte {
	t.Helper()
	entry := e.Bytes()
	leaf := tlog.Hash(sha256.Sum256(append([]byte{0}, entry[:]...)))
	beside := tlog.Hash{more}
	root := tlog.Hash(sha256.Sum256(append(append([]byte{1}, leaf[:]...), beside[:]...)))
	state := StateProof{Entry: e, Subjects: []StateSubject{{Key: protocol.KeyHash{1}}}, Tree: []byte{treeEmpty}}
	extra, err := state.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	p := tlog.Proof{Extra: extra, Hashes: []tlog.Hash{beside}, Checkpoint: key.Sign(tlog.Checkpoint{Origin: key.Name(), Size: 2, Root: root})}
	return p.Marshal()
}

func newStateKey(t *testing.T, host string) *tlog.Key {
	t.Helper()
	key, err := tlog.GenerateKey(protocol.StateOrigin(host, "regtest", 1))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestContradicts has two logs, of which a policy demands a witness that nobody asks, say the same and something else. A lie that is in
// no checkpoint accuses nobody.
func TestContradicts(t *testing.T) {
	one, two, stranger := newStateKey(t, "one.example"), newStateKey(t, "two.example"), newStateKey(t, "one.example")
	witness, err := tlog.GenerateKey("w.example/w")
	if err != nil {
		t.Fatal(err)
	}
	policy, err := tlog.ParsePolicy([]byte("log " + one.Log().String() + "\nlog " + two.Log().String() + "\nwitness w " + witness.Witness().String() + "\nquorum w\n"))
	if err != nil {
		t.Fatal(err)
	}
	truth := protocol.StateEntry{Height: 7, Block: chainhash.Hash{7}, StateHash: [32]byte{1}, StateRoot: protocol.EmptyMapHash()}
	otherRoot, otherHash, otherBlock, otherHeight := truth, truth, truth, truth
	otherRoot.StateRoot[0] ^= 1
	otherHash.StateHash[0] ^= 1
	otherBlock.Block[0] ^= 1
	otherBlock.StateRoot[0] ^= 1
	otherHeight.Height++
	otherHeight.StateRoot[0] ^= 1
	read := func(file []byte) *StateStatement {
		t.Helper()
		s, err := ReadStateStatement(file, policy)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	of := read(stated(t, one, truth, 1))
	for name, test := range map[string]struct {
		other []byte
		want  string // "" if it does not convict
	}{
		"the same":           {stated(t, one, truth, 1), ""},
		"the same of two":    {stated(t, two, truth, 1), ""},
		"two roots":          {stated(t, one, truth, 2), "one.example/state/regtest/1/1 has signed two roots of 2 entries"},
		"another log's root": {stated(t, two, truth, 2), ""},
		"another state root": {stated(t, two, otherRoot, 1), "says the state root"},
		"another state hash": {stated(t, two, otherHash, 1), "says the state hash"},
		"another block":      {stated(t, two, otherBlock, 1), ""},
		"another height":     {stated(t, two, otherHeight, 1), ""},
	} {
		other := read(test.other)
		for _, why := range []string{of.Contradicts(other), other.Contradicts(of)} {
			if (why == "") != (test.want == "") || !strings.Contains(why, test.want) {
				t.Errorf("%s: %q, want %q", name, why, test.want)
			}
		}
	}
	forged := stated(t, one, truth, 1)
	e := otherRoot
	liar := stated(t, one, e, 1)
	from := strings.Index(string(forged), "\n\n")
	if s := read(append(liar[:strings.Index(string(liar), "\n\n")], forged[from:]...)); s.Entry != nil || s.Contradicts(of) != "" {
		t.Errorf("an entry that is not in the tree: %+v", s)
	}
	for name, file := range map[string][]byte{
		"a log of no policy": stated(t, stranger, truth, 1),
		"nothing":            nil,
	} {
		if s, err := ReadStateStatement(file, policy); !errors.Is(err, ErrState) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	if shown, err := ShowState(stated(t, stranger, truth, 1)); err != nil || shown.Network != "regtest" || shown.Cosigners != nil || len(shown.Subjects) != 1 {
		t.Errorf("%+v, %v", shown, err)
	}
	if _, err := ShowState(stated(t, one, otherRoot, 1)); !errors.Is(err, ErrState) {
		t.Errorf("a tree without the state root: %v", err)
	}
}
