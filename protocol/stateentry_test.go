package protocol_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// TestStateEntry reads and writes the test vectors, which another program made of STATELOG.md §1.
func TestStateEntry(t *testing.T) {
	text, err := os.ReadFile("testdata/statelog.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Height    uint32 `json:"height"`
		Block     string `json:"block"`
		StateHash string `json:"state_hash"`
		StateRoot string `json:"state_root"`
		Entry     string `json:"entry"`
		Head      string `json:"head"`
	}
	if err := json.Unmarshal(text, &vectors); err != nil || len(vectors) < 3 {
		t.Fatalf("%d vectors, %v", len(vectors), err)
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, v := range vectors {
		block, err := chainhash.NewHashFromStr(v.Block)
		if err != nil {
			t.Fatal(err)
		}
		want := protocol.StateEntry{Height: v.Height, Block: *block, StateHash: [32]byte(unhex(v.StateHash)), StateRoot: [32]byte(unhex(v.StateRoot))}
		b := want.Bytes()
		if got := hex.EncodeToString(b[:]); got != v.Entry {
			t.Errorf("height %d: got %s, want %s", v.Height, got, v.Entry)
		}
		if head := sha256.Sum256(b[:]); hex.EncodeToString(head[:]) != v.Head {
			t.Errorf("height %d: head %x, want %s", v.Height, head, v.Head)
		}
		if got, err := protocol.DecodeStateEntry(unhex(v.Entry)); err != nil || got != want {
			t.Errorf("height %d: read %+v, %v", v.Height, got, err)
		}
		for _, wrong := range [][]byte{nil, b[:len(b)-1], append(b[:], 0), append([]byte{b[0] ^ 1}, b[1:]...), append(append(append([]byte{}, b[:4]...), 2), b[5:]...)} {
			if got, err := protocol.DecodeStateEntry(wrong); err == nil {
				t.Errorf("%x is read as %+v", wrong, got)
			}
		}
	}
}

func TestStateOrigin(t *testing.T) {
	if got, want := protocol.StateOrigin("keys.example.org", "mainnet", 2), "keys.example.org/state/mainnet/1/2"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
