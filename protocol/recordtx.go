package protocol

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"
)

const (
	// DefaultFeeRate is the fee in satoshi per byte that every node relays at.
	DefaultFeeRate = 1
	// DustLimit is the smallest change, in satoshi, that every node relays.
	DustLimit = 546
	// MaxSatoshi is more than there can be in all, in satoshi.
	MaxSatoshi = bchutil.MaxSatoshi
)

// Sizes in bytes of what a record's transaction is made of. Signatures are counted
// as the longest there are, ECDSA with hash type; Schnorr ones are 7 shorter.
const (
	maxSignature    = 72
	compressedKey   = 33
	uncompressedKey = 65
	p2pkhOutputSize = valueSize + 1 + p2pkhSize

	// P2PKHInputSize is how many bytes an input takes at most that spends an output to a
	// compressed public key.
	P2PKHInputSize = outPointSize + 1 + (1 + maxSignature) + (1 + compressedKey) + sequenceSize
)

// RecordTxSize returns how big a record's transaction gets at most, in bytes, with a
// script of that many. uncompressed tells that public keys have 65 bytes.
func RecordTxSize(inputs, scriptSize int, uncompressed bool) int {
	inputSize := P2PKHInputSize
	if uncompressed {
		inputSize += uncompressedKey - compressedKey
	}
	recordSize := valueSize + wire.VarIntSerializeSize(uint64(scriptSize)) + scriptSize
	return versionSize + wire.VarIntSerializeSize(uint64(inputs)) + inputs*inputSize +
		1 + p2pkhOutputSize + recordSize + lockTimeSize
}

// ErrInsufficientFunds says that outputs cannot pay for a transaction. The message says
// how much is needed and there. Send more to the key that they belong to.
var ErrInsufficientFunds = errors.New("insufficient funds")

// UTXO is an unspent output as a node reports it.
type UTXO struct {
	OutPoint wire.OutPoint
	Value    int64 // satoshi
	// Script is the locking script. Some nodes leave the token prefix in it,
	// others report tokens beside it: then set HasToken.
	Script   []byte
	HasToken bool
}

// carriesToken reports whether spending the output would burn or move tokens.
func (u UTXO) carriesToken() bool { return u.HasToken || HasTokenPrefix(u.Script) }

// RecordTx is a transaction that publishes a record, which is a link action or an
// anchor, signed or yet to be signed. Output 0 pays a key what the fee leaves, output 1
// is the record.
type RecordTx struct {
	Tx     *wire.MsgTx // an input's SignatureScript is empty until it is signed
	Spends []UTXO      // what each input spends, all P2PKH
	Fee    int64       // satoshi
}

// NewRecordTx builds the transaction that publishes a record's script, spends just the
// outputs given, in this order, and pays a key what a fee of rate satoshi per byte leaves.
// ErrInsufficientFunds if that is less than DustLimit. It has to be signed: Sign, or ToSign
// and Attach. Which outputs may be spent is the caller's business; all must be P2PKH of
// compressed public keys.
func NewRecordTx(script []byte, spends []UTXO, to KeyHash, rate int64) (*RecordTx, error) {
	fee := rate * int64(RecordTxSize(len(spends), len(script), false))
	if have := valueOf(spends); have < fee+DustLimit {
		return nil, fmt.Errorf("%w: need %d satoshi (fee %d, and at least %d to go on with), have %d",
			ErrInsufficientFunds, fee+DustLimit, fee, DustLimit, have)
	}
	return newRecordTx(script, spends, to, fee), nil
}

func newRecordTx(script []byte, spends []UTXO, to KeyHash, fee int64) *RecordTx {
	tx := wire.NewMsgTx(2)
	for _, u := range spends {
		tx.AddTxIn(wire.NewTxIn(&u.OutPoint, nil))
	}
	tx.AddTxOut(wire.NewTxOut(valueOf(spends)-fee, P2PKHScript(to), wire.TokenData{}))
	tx.AddTxOut(wire.NewTxOut(0, script, wire.TokenData{}))
	return &RecordTx{Tx: tx, Spends: spends, Fee: fee}
}

// valueOf returns what outputs hold together, in satoshi.
func valueOf(utxos []UTXO) (sum int64) {
	for _, u := range utxos {
		sum += u.Value
	}
	return sum
}

// Author returns the key whose output the first input spends.
func (r *RecordTx) Author() KeyHash {
	author, _ := P2PKHKey(r.Spends[0].Script)
	return author
}

// Change returns what output 0 holds, in satoshi.
func (r *RecordTx) Change() int64 { return r.Tx.TxOut[0].Value }

// Signed reports whether every input is signed.
func (r *RecordTx) Signed() bool {
	return !slices.ContainsFunc(r.Tx.TxIn, func(in *wire.TxIn) bool { return len(in.SignatureScript) == 0 })
}

// Raw returns the serialization of the transaction as it stands, fit for
// broadcast once it is Signed.
func (r *RecordTx) Raw() []byte {
	var buf bytes.Buffer
	if err := r.Tx.Serialize(&buf); err != nil {
		panic(err) // a Buffer does not fail
	}
	return buf.Bytes()
}

// TxID returns the transaction's id, which is final once it is Signed.
func (r *RecordTx) TxID() chainhash.Hash { return r.Tx.TxHash() }
