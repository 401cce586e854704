package protocol

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"
)

// What link transactions pay and how big they get.
const (
	// DefaultFeeRate is the fee in satoshi per byte that every node relays at.
	DefaultFeeRate = 1
	// MaxFeeRate refuses a rate, in satoshi per byte, that can only be a slip.
	MaxFeeRate = 1000
	// DustLimit is the smallest change, in satoshi, that every node relays.
	DustLimit = 546
	// MaxLinkInputs keeps a link transaction below the 100,000 bytes that are
	// standard.
	MaxLinkInputs = 500
)

// Sizes in bytes of what a link transaction is made of. Signatures are counted
// as the longest there are, ECDSA with hash type; Schnorr ones are 7 shorter.
const (
	maxSignature    = 72
	compressedKey   = 33
	uncompressedKey = 65
	p2pkhOutputSize = valueSize + 1 + p2pkhSize
)

// linkTxSize returns how big a link transaction gets at most, in bytes.
func linkTxSize(inputs, scriptSize int, uncompressed bool) int {
	keySize := compressedKey
	if uncompressed {
		keySize = uncompressedKey
	}
	inputSize := outPointSize + 1 + (1 + maxSignature) + (1 + keySize) + sequenceSize
	recordSize := valueSize + wire.VarIntSerializeSize(uint64(scriptSize)) + scriptSize
	return versionSize + wire.VarIntSerializeSize(uint64(inputs)) + inputs*inputSize +
		1 + p2pkhOutputSize + recordSize + lockTimeSize
}

// ErrInsufficientFunds says that an author's outputs cannot pay for a
// transaction. The message says how much is needed and there. Send more to the
// author's key.
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

// Funding says whose link transaction it is and what it may spend.
type Funding struct {
	// Author is the key that acts, pays and gets the change.
	Author KeyHash
	// UTXOs are what may be spent. Those that are not P2PKH of the author, or
	// carry a CashToken, are left alone. That they are there and mature is the
	// caller's business.
	UTXOs []UTXO
	// FeeRate is in satoshi per byte; 0 means DefaultFeeRate.
	FeeRate int64
	// Uncompressed tells that the author is the hash of a public key of 65
	// bytes, which makes inputs bigger.
	Uncompressed bool
}

// LinkTx is a link transaction, signed or yet to be signed.
type LinkTx struct {
	Tx     *wire.MsgTx // an input's SignatureScript is empty until it is signed
	Spends []UTXO      // what each input spends, all P2PKH of the author
	Fee    int64       // satoshi
}

// NewLinkTx builds the transaction that publishes the action in script (of
// RequestScript, AcceptScript or RevokeScript). It has to be signed: Sign, or
// ToSign and Attach.
//
// Every input spends a P2PKH output of the author without tokens, so input 0
// makes the author the author (identity-rules §2). Outputs are spent from the
// largest down until they pay for the transaction; ties go by outpoint, so the
// same funding gives the same transaction.
//
// Output 0 is the change, to the author, and the OP_RETURN comes last. Token
// metadata (BCMR) is looked up along an authchain, where each transaction spends
// output 0 of the one before: whoever owns the last output 0 may update it. The
// author may own such an output without knowing, as it looks like any other. If
// it is spent here, the chain goes on to output 0 of this transaction, and with
// an OP_RETURN there it would be dead for good. Therefore there is always a
// change, of at least DustLimit, and funds that cover the fee but not the change
// are ErrInsufficientFunds.
func NewLinkTx(script []byte, funding Funding) (*LinkTx, error) {
	if err := wellFormedAction(script); err != nil {
		return nil, err
	}
	rate := funding.FeeRate
	if rate == 0 {
		rate = DefaultFeeRate
	}
	if rate < 0 || rate > MaxFeeRate {
		return nil, fmt.Errorf("expected a fee rate of 1 to %d satoshi per byte, got %d", MaxFeeRate, rate)
	}
	usable, err := usableOutputs(funding)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(usable, func(a, b UTXO) int {
		return cmp.Or(
			cmp.Compare(b.Value, a.Value),
			bytes.Compare(a.OutPoint.Hash[:], b.OutPoint.Hash[:]),
			cmp.Compare(a.OutPoint.Index, b.OutPoint.Index),
		)
	})

	size := func(inputs int) int64 { return int64(linkTxSize(inputs, len(script), funding.Uncompressed)) }
	fee, inputFee := rate*size(1), rate*(size(2)-size(1))
	var have int64
	for i, u := range usable[:min(len(usable), MaxLinkInputs)] {
		if i > 0 && u.Value <= inputFee {
			break // spending it costs more than it brings, and so do all that follow
		}
		have += u.Value
		fee = rate * size(i+1)
		if have >= fee+DustLimit {
			return newLinkTx(script, funding.Author, usable[:i+1], have, fee), nil
		}
	}
	return nil, fmt.Errorf("%w: need %d satoshi (fee %d, change of at least %d), have %d; of the %d outputs given, %d can be used, "+
		"being P2PKH of the author without tokens", ErrInsufficientFunds, fee+DustLimit, fee, DustLimit, have, len(funding.UTXOs), len(usable))
}

func wellFormedAction(script []byte) error {
	a, ok := DecodeAction(script)
	if !ok {
		return fmt.Errorf("expected the script of an action, got %x", script)
	}
	return a.Malformed
}

// usableOutputs returns those of the given outputs that the author can spend
// without touching tokens, in a slice of its own.
func usableOutputs(funding Funding) ([]UTXO, error) {
	var usable []UTXO
	seen := make(map[wire.OutPoint]bool, len(funding.UTXOs))
	var sum int64
	for _, u := range funding.UTXOs {
		if seen[u.OutPoint] {
			return nil, fmt.Errorf("output %v is given twice", u.OutPoint)
		}
		seen[u.OutPoint] = true
		if u.Value < 0 || u.Value > bchutil.MaxSatoshi-sum {
			return nil, fmt.Errorf("output %v holds %d satoshi: negative, or more than there can be in all", u.OutPoint, u.Value)
		}
		sum += u.Value
		if owner, ok := P2PKHKey(u.Script); ok && owner == funding.Author && !u.carriesToken() {
			usable = append(usable, u)
		}
	}
	return usable, nil
}

func newLinkTx(script []byte, author KeyHash, spends []UTXO, have, fee int64) *LinkTx {
	tx := wire.NewMsgTx(2)
	for _, u := range spends {
		tx.AddTxIn(wire.NewTxIn(&u.OutPoint, nil))
	}
	tx.AddTxOut(wire.NewTxOut(have-fee, P2PKHScript(author), wire.TokenData{}))
	tx.AddTxOut(wire.NewTxOut(0, script, wire.TokenData{}))
	return &LinkTx{Tx: tx, Spends: spends, Fee: fee}
}

// ReadLinkTx takes up a transaction that NewLinkTx built elsewhere, say in an
// earlier run, to sign it: its serialization, and what its inputs spend, in the
// same order. Neither is trusted. The transaction must be what NewLinkTx could
// have made of these outputs: it spends just them, its change goes to their
// owner, its fee is below MaxFeeRate, it publishes a well-formed action, and
// the signatures that it has already are good. The values of the outputs cannot
// be checked here, but are covered by each signature: with a wrong one the
// network refuses the transaction.
func ReadLinkTx(raw []byte, spends []UTXO) (*LinkTx, error) {
	parsed, err := ParseTx(raw)
	if err != nil {
		return nil, err
	}
	var outputs []Output
	for _, output := range parsed.Outputs() {
		outputs = append(outputs, output)
	}
	if len(outputs) != 2 {
		return nil, fmt.Errorf("expected two outputs, change and action, got %d", len(outputs))
	}
	change, script := outputs[0].Value, outputs[1].Script
	if err := wellFormedAction(script); err != nil {
		return nil, fmt.Errorf("output 1: %w", err)
	}
	if len(spends) == 0 || len(spends) > MaxLinkInputs {
		return nil, fmt.Errorf("expected 1 to %d outputs to be spent, got %d", MaxLinkInputs, len(spends))
	}
	author, _ := P2PKHKey(spends[0].Script)
	usable, err := usableOutputs(Funding{Author: author, UTXOs: spends})
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(outputs[0].Script, P2PKHScript(author)) {
		return nil, errors.New("expected output 0 to be change to the key whose outputs are spent")
	}
	if len(usable) != len(spends) {
		return nil, errors.New("expected to spend P2PKH outputs of one key without tokens, got others among them")
	}
	var have int64
	for _, u := range usable {
		have += u.Value
	}
	maxFee := MaxFeeRate * int64(linkTxSize(len(usable), len(script), true))
	if change < DustLimit || change > have || have-change > maxFee {
		return nil, fmt.Errorf("expected a change of %d to %d satoshi and a fee of up to %d, got a change of %d",
			DustLimit, have, maxFee, change)
	}

	signed := new(wire.MsgTx)
	if err := signed.Deserialize(bytes.NewReader(raw)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	l := newLinkTx(script, author, usable, have, have-change)
	for i, in := range signed.TxIn[:min(len(signed.TxIn), len(l.Tx.TxIn))] {
		l.Tx.TxIn[i].SignatureScript = in.SignatureScript
	}
	if !bytes.Equal(l.Raw(), raw) {
		return nil, errors.New("expected a link transaction that spends just the outputs given, in this order, got another")
	}
	for i, in := range l.Tx.TxIn {
		if len(in.SignatureScript) == 0 {
			continue
		}
		if err := verify(l.Tx, i, usable[i]); err != nil {
			return nil, fmt.Errorf("%w: input %d: %w", ErrSignature, i, err)
		}
	}
	return l, nil
}

// Author returns the key whose outputs the transaction spends.
func (l *LinkTx) Author() KeyHash {
	author, _ := P2PKHKey(l.Spends[0].Script)
	return author
}

// Change returns what goes back to the author, in satoshi.
func (l *LinkTx) Change() int64 { return l.Tx.TxOut[0].Value }

// Signed reports whether every input is signed.
func (l *LinkTx) Signed() bool {
	return !slices.ContainsFunc(l.Tx.TxIn, func(in *wire.TxIn) bool { return len(in.SignatureScript) == 0 })
}

// Raw returns the serialization of the transaction as it stands, fit for
// broadcast once it is Signed.
func (l *LinkTx) Raw() []byte {
	var buf bytes.Buffer
	if err := l.Tx.Serialize(&buf); err != nil {
		panic(err) // a Buffer does not fail
	}
	return buf.Bytes()
}

// TxID returns the transaction's id, which is final once it is Signed.
func (l *LinkTx) TxID() chainhash.Hash { return l.Tx.TxHash() }
