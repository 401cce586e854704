package snapshot

import (
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// TestExpected has a state log of one entry, which one witness has cosigned, and heads that it vouches for or not.
func TestExpected(t *testing.T) {
	must := func(key *tlog.Key, err error) *tlog.Key {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	log, other := must(tlog.GenerateKey("a.example/state/regtest/1/1")), must(tlog.GenerateKey("a.example/state/mainnet/1/1"))
	witness := must(tlog.GenerateKey("w.example/w"))
	policy, err := tlog.ParsePolicy([]byte("log " + log.Log().String() + "\nlog " + other.Log().String() + "\nwitness w " + witness.Witness().String() + "\nquorum w\n"))
	if err != nil {
		t.Fatal(err)
	}
	head := Head{Network: "regtest", Start: 5, State: protocol.StateEntry{Height: 5, Block: [32]byte{1}, StateHash: [32]byte{2}, StateRoot: [32]byte{3}}}
	prove := func(log *tlog.Key, index uint64, cosigned bool) []byte {
		entry := head.State.Bytes()
		checkpoint := tlog.Checkpoint{Origin: log.Name(), Size: 1, Root: leaf(entry[:])}
		signed := log.Sign(checkpoint)
		if cosigned {
			signed = append(signed, witness.Cosign(signed, time.Unix(1_700_000_000, 0))...)
		}
		return (&tlog.Proof{Index: index, Checkpoint: signed}).Marshal()
	}
	head.Proof = prove(log, 0, true)
	state := State{head.State.Height, head.State.StateHash}
	for _, test := range []struct {
		name     string
		change   func(head *Head, e *Expected)
		refusing string // "" if it is accepted
	}{
		{"as it is", func(*Head, *Expected) {}, ""},
		{"by both", func(_ *Head, e *Expected) { e.State = &state }, ""},
		{"by the state alone", func(head *Head, e *Expected) { e.State, e.Policy, head.Proof = &state, nil, nil }, ""},
		{"another state", func(_ *Head, e *Expected) { e.State = &State{5, [32]byte{9}} }, "expected state 5:09"},
		{"another height", func(_ *Head, e *Expected) { e.State = &State{6, state.Hash} }, "expected state 6:"},
		{"another network", func(head *Head, _ *Expected) { head.Network = "mainnet" }, "expected one of regtest"},
		{"another start", func(head *Head, _ *Expected) { head.Start = 4 }, "from height 5 on"},
		{"no proof", func(head *Head, _ *Expected) { head.Proof = nil }, "it has no proof"},
		{"no proof, as it is written", func(head *Head, _ *Expected) { head.Proof = []byte("hello") }, "its proof"},
		{"too few witnesses", func(head *Head, _ *Expected) { head.Proof = prove(log, 0, false) }, "its proof"},
		{"another entry", func(head *Head, _ *Expected) { head.State.StateHash[0]++ }, "its proof"},
		{"another state root", func(head *Head, _ *Expected) { head.State.StateRoot[0]++ }, "its proof"},
		{"another index", func(head *Head, _ *Expected) { head.Proof = prove(log, 1, true) }, "entry 1 of a state log, expected 0"},
		{"a log of another network", func(head *Head, _ *Expected) { head.Proof = prove(other, 0, true) }, "expected one of the states of regtest"},
		{"a log that is not named", func(head *Head, _ *Expected) {
			head.Proof = prove(must(tlog.GenerateKey("b.example/state/regtest/1/1")), 0, true)
		}, "its proof"},
	} {
		changed, e := head, Expected{Policy: policy}
		test.change(&changed, &e)
		err := e.Check(&changed, "regtest", 5)
		if test.refusing == "" && err != nil || test.refusing != "" && (!errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), test.refusing)) {
			t.Errorf("%s: %v, expected %q", test.name, err, test.refusing)
		}
	}
}

// leaf is the root of a log of one entry (RFC 6962 §2.1).
func leaf(entry []byte) tlog.Hash { return sha256.Sum256(append([]byte{0}, entry...)) }
