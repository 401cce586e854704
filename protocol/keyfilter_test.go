package protocol

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

func TestKeyFilter(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 9))
	key := func() KeyHash { return KeyHash(generator{rng}.bytes(20)) }
	f := new(KeyFilter)
	if f.MayHave(key()) {
		t.Error("an empty filter has a key")
	}
	var added []KeyHash
	for range filterKeys - 1000 {
		added = append(added, key())
		f.Add(added[len(added)-1])
		f.Add(added[rng.IntN(len(added))]) // again
	}
	for _, k := range added {
		if !f.MayHave(k) {
			t.Fatalf("key %x is missing", k)
		}
	}
	wrong := 0
	for range 100_000 {
		if f.MayHave(key()) {
			wrong++
		}
	}
	if wrong > 100_000/25 {
		t.Errorf("%d of 100,000 keys are taken for others", wrong)
	}
	// Those that were added last are there, and it does not fill up.
	for range 3 * filterKeys {
		k := key()
		f.Add(k)
		if !f.MayHave(k) {
			t.Fatal("a key that was added just now is missing")
		}
	}
	wrong = 0
	for range 100_000 {
		if f.MayHave(key()) {
			wrong++
		}
	}
	if wrong > 100_000/25 {
		t.Errorf("%d of 100,000 keys are taken for others after it was emptied", wrong)
	}
}

// TestPayees finds the transactions that pay a key, beside carriers.
func TestPayees(t *testing.T) {
	raw, actions := newBlock(t, blockSpec{seed: 6, size: 200_000, actions: 0.01, mixed: true})
	plain, err := ReadBlock(raw)
	if err != nil {
		t.Fatal(err)
	}
	payees := new(KeyFilter)
	pays := make(map[uint32]bool)
	var some KeyHash
	for i, tx := range plain.Txs() {
		for _, output := range tx.Outputs() {
			if key, ok := P2PKHKey(output.Script); ok && (i == 50 || i == 60) {
				payees.Add(key)
				some = key
			}
		}
	}
	if !payees.MayHave(some) || some == (KeyHash{}) {
		t.Fatal("nobody is paid")
	}
	for i, tx := range plain.Txs() {
		for _, output := range tx.Outputs() {
			key, ok := P2PKHKey(output.Script)
			pays[i] = pays[i] || ok && payees.MayHave(key)
		}
	}
	found, carriers := make(map[uint32]bool), 0
	block, err := (&Walk{Root: RootAlways, Payees: payees}).Read(raw)
	if err != nil {
		t.Fatal(err)
	}
	for c := range block.Carriers() {
		found[c.Index] = true
		if c.Action.Kind != 0 {
			carriers++
		} else if !pays[c.Index] && c.Anchor == nil {
			t.Errorf("transaction %d was found, and pays nobody", c.Index)
		}
	}
	if carriers != actions {
		t.Errorf("%d carriers, want %d", carriers, actions)
	}
	for i, ok := range pays {
		if ok && !found[i] {
			t.Errorf("transaction %d pays, and was not found", i)
		}
	}
}

// TestHashed is given all transactions of a block with their txids.
func TestHashed(t *testing.T) {
	raw, _ := newBlock(t, blockSpec{seed: 7, size: 200_000, actions: 0.01, mixed: true})
	plain, err := ReadBlock(raw)
	if err != nil {
		t.Fatal(err)
	}
	var want, got []chainhash.Hash
	for _, tx := range plain.Txs() {
		want = append(want, tx.TxID())
	}
	walk := Walk{Root: RootAlways, Hashed: func(txs [][]byte, txids []chainhash.Hash) {
		for i, tx := range txs {
			if id := Tx(tx).TxID(); id != txids[i] {
				t.Errorf("txid %v of a transaction with %v", txids[i], id)
			}
		}
		got = append(got, txids...)
	}}
	if _, err := walk.Read(raw); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d txids, want %d", len(got), len(want))
	}
}
