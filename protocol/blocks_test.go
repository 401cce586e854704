package protocol

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
)

// blockSpec says what a generated block looks like. Equal specs give equal
// blocks.
type blockSpec struct {
	seed    uint64
	size    int     // bytes, at least
	actions float64 // share of the transactions that carry an action
	mixed   bool    // tokens, other OP_RETURNs and scripts, many in- and outputs beside payments
}

// newBlock returns a serialized block whose merkle root is right, and the
// number of actions in it.
func newBlock(tb testing.TB, spec blockSpec) (raw []byte, actions int) {
	tb.Helper()
	g := generator{rng: rand.New(rand.NewPCG(spec.seed, 1))}
	block := wire.NewMsgBlock(&wire.BlockHeader{Version: 4})
	coinbase := wire.NewMsgTx(1)
	coinbase.AddTxIn(wire.NewTxIn(wire.NewOutPoint(&chainhash.Hash{}, wire.MaxPrevOutIndex), g.bytes(40)))
	coinbase.AddTxOut(wire.NewTxOut(6_25000000, P2PKHScript(g.key()), wire.TokenData{}))
	txs := []*wire.MsgTx{coinbase}
	for size := 0; size < spec.size; {
		tx := g.payment()
		if spec.mixed && g.rng.IntN(2) == 0 {
			tx = g.other()
		}
		if g.rng.Float64() < spec.actions {
			tx.AddTxOut(g.action(tb))
			actions++
		}
		size += tx.SerializeSize()
		txs = append(txs, tx)
	}
	block.Transactions = txs
	block.Header.MerkleRoot = plainMerkleRoot(txids(txs))
	var buf bytes.Buffer
	if err := block.Serialize(&buf); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes(), actions
}

func txids(txs []*wire.MsgTx) (ids []chainhash.Hash) {
	for _, tx := range txs {
		ids = append(ids, tx.TxHash())
	}
	return ids
}

// plainMerkleRoot is the textbook computation, level by level.
func plainMerkleRoot(level []chainhash.Hash) chainhash.Hash {
	for len(level) > 1 {
		if len(level)%2 == 1 {
			level = append(level[:len(level):len(level)], level[len(level)-1])
		}
		var next []chainhash.Hash
		for i := 0; i < len(level); i += 2 {
			next = append(next, chainhash.DoubleHashH(append(level[i][:], level[i+1][:]...)))
		}
		level = next
	}
	return level[0]
}

type generator struct{ rng *rand.Rand }

func (g generator) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.rng.Uint32())
	}
	return b
}

func (g generator) key() KeyHash         { return KeyHash(g.bytes(20)) }
func (g generator) hash() chainhash.Hash { return chainhash.Hash(g.bytes(32)) }
func (g generator) addInput(tx *wire.MsgTx) {
	hash := g.hash()
	tx.AddTxIn(wire.NewTxIn(wire.NewOutPoint(&hash, g.rng.Uint32N(4)), g.unlock()))
}

// unlock looks like an ECDSA signature and a public key.
func (g generator) unlock() []byte {
	script := appendPush(nil, append(append([]byte{0x30}, g.bytes(70)...), 0x41))
	return appendPush(script, append([]byte{2}, g.bytes(32)...))
}

// payment has 226 bytes: one P2PKH input, two P2PKH outputs.
func (g generator) payment() *wire.MsgTx {
	tx := wire.NewMsgTx(2)
	g.addInput(tx)
	tx.AddTxOut(wire.NewTxOut(int64(g.rng.Uint32()), P2PKHScript(g.key()), wire.TokenData{}))
	tx.AddTxOut(wire.NewTxOut(int64(g.rng.Uint32()), P2PKHScript(g.key()), wire.TokenData{}))
	return tx
}

func (g generator) other() *wire.MsgTx {
	tx := wire.NewMsgTx(2)
	for range 1 + g.rng.IntN(5) {
		g.addInput(tx)
	}
	for range 1 + g.rng.IntN(5) {
		script, token := P2PKHScript(g.key()), wire.TokenData{}
		switch g.rng.IntN(5) {
		case 0:
			token = g.token()
		case 1: // a memo post
			script = appendPush([]byte{0x6a, 0x02, 0x6d, 0x02}, g.bytes(1+g.rng.IntN(200)))
		case 2: // P2SH32
			script = append(append([]byte{0xaa, 0x20}, g.bytes(32)...), 0x87)
		}
		tx.AddTxOut(wire.NewTxOut(1000, script, token))
	}
	return tx
}

func (g generator) token() wire.TokenData {
	token := wire.TokenData{CategoryID: [32]byte(g.bytes(32)), BitField: wire.HAS_AMOUNT, Amount: 1 + uint64(g.rng.Uint32())}
	if g.rng.IntN(2) == 0 {
		token.BitField |= wire.HAS_NFT | wire.HAS_COMMITMENT_LENGTH | wire.MUTABLE
		token.Commitment = g.bytes(1 + g.rng.IntN(40))
	}
	return token
}

func (g generator) action(tb testing.TB) *wire.TxOut {
	message := g.bytes(g.rng.IntN(100))
	script, err := RequestScript(g.key(), message)
	switch g.rng.IntN(3) {
	case 1:
		script, err = AcceptScript(g.hash(), message)
	case 2:
		script, err = RevokeScript(g.hash(), message)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return wire.NewTxOut(0, script, wire.TokenData{})
}

// rawTx serializes a transaction by hand: outputs holds each output's script
// field as it is to stand there, valid or not.
func rawTx(inputs []wire.TxIn, outputs ...[]byte) []byte {
	raw := binary.LittleEndian.AppendUint32(nil, 2)
	raw = appendCompactSize(raw, len(inputs))
	for _, in := range inputs {
		raw = append(raw, in.PreviousOutPoint.Hash[:]...)
		raw = binary.LittleEndian.AppendUint32(raw, in.PreviousOutPoint.Index)
		raw = append(appendCompactSize(raw, len(in.SignatureScript)), in.SignatureScript...)
		raw = binary.LittleEndian.AppendUint32(raw, in.Sequence)
	}
	raw = appendCompactSize(raw, len(outputs))
	for _, script := range outputs {
		raw = binary.LittleEndian.AppendUint64(raw, 1000)
		raw = append(appendCompactSize(raw, len(script)), script...)
	}
	return binary.LittleEndian.AppendUint32(raw, 0)
}

// rawBlock serializes a block of raw transactions, with the right merkle root.
func rawBlock(tb testing.TB, txs ...[]byte) []byte {
	tb.Helper()
	var ids []chainhash.Hash
	for _, tx := range txs {
		ids = append(ids, chainhash.DoubleHashH(tx))
	}
	header := wire.BlockHeader{Version: 4}
	if len(ids) > 0 {
		header.MerkleRoot = plainMerkleRoot(ids)
	}
	var buf bytes.Buffer
	if err := header.Serialize(&buf); err != nil {
		tb.Fatal(err)
	}
	raw := appendCompactSize(buf.Bytes(), len(txs))
	for _, tx := range txs {
		raw = append(raw, tx...)
	}
	return raw
}

func appendCompactSize(b []byte, n int) []byte {
	var buf bytes.Buffer
	_ = wire.WriteVarInt(&buf, 0, uint64(n)) // a Buffer does not fail
	return append(b, buf.Bytes()...)
}
