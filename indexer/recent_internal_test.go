package indexer

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
)

// TestRecentForgets remembers no more than it may, and what came last.
func TestRecentForgets(t *testing.T) {
	r := newRecent(3)
	for i := range uint32(10) {
		c := coin{wire.OutPoint{Index: i}, protocol.Output{Value: int64(i)}}
		r.add([]coin{c, c})
		for j := range i + 1 {
			output, ok := r.find(wire.OutPoint{Index: j})
			if ok != (j+3 > i) || ok && output.Value != int64(j) {
				t.Errorf("after %d: output %d is %+v, %v", i, j, output, ok)
			}
		}
	}
	if len(r.outputs) != 3 || len(r.order) != 3 {
		t.Errorf("%d outputs are remembered in an order of %d", len(r.outputs), len(r.order))
	}
}

// TestPaymentsForget finds what a block pays to keys, and only that, until others have
// taken its place.
func TestPaymentsForget(t *testing.T) {
	tx := func(n int64) ([]byte, chainhash.Hash) {
		m := wire.NewMsgTx(2)
		m.AddTxIn(wire.NewTxIn(&wire.OutPoint{Index: uint32(n)}, nil))
		m.AddTxOut(wire.NewTxOut(n, protocol.P2PKHScript(protocol.KeyHash{byte(n)}), wire.TokenData{}))
		m.AddTxOut(wire.NewTxOut(n, []byte{0x51}, wire.TokenData{}))
		var raw bytes.Buffer
		if err := m.Serialize(&raw); err != nil {
			t.Fatal(err)
		}
		return raw.Bytes(), m.TxHash()
	}
	p := new(payments)
	first, id := tx(7)
	p.hashed([][]byte{first}, []chainhash.Hash{id})
	want := protocol.Output{Value: 7, Script: protocol.P2PKHScript(protocol.KeyHash{7})}
	if got, ok := p.find(wire.OutPoint{Hash: id}); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("found %+v, %v, want %+v", got, ok, want)
	}
	same := id
	same[31]++ // has the same place
	for name, out := range map[string]wire.OutPoint{"another script": {Hash: id, Index: 1}, "another transaction": {Hash: same}, "nothing": {}} {
		if got, ok := p.find(out); ok {
			t.Errorf("%s: found %+v", name, got)
		}
	}
	second, _ := tx(8)
	p.hashed([][]byte{second}, []chainhash.Hash{same})
	if got, ok := p.find(wire.OutPoint{Hash: id}); ok {
		t.Errorf("found %+v, in whose place there is another", got)
	}
}
