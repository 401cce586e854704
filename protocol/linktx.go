package protocol

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/gcash/bchd/wire"
)

// MaxFeeRate refuses a rate of a link transaction, in satoshi per byte, that can only be
// a slip.
const MaxFeeRate = 1000

// MaxLinkInputs keeps a link transaction below the 100,000 bytes that are standard.
const MaxLinkInputs = 500

// Funding says whose link transaction it is and what it may spend.
type Funding struct {
	// Author is the key that acts, pays and gets the change.
	Author KeyHash
	// UTXOs are what may be spent. Those that are not P2PKH of the author, or
	// carry a CashToken, are left alone. The caller sees to it that they exist and are
	// mature.
	UTXOs []UTXO
	// FeeRate is in satoshi per byte; 0 means DefaultFeeRate.
	FeeRate int64
	// Uncompressed tells that the author is the hash of a public key of 65
	// bytes, which makes inputs bigger.
	Uncompressed bool
	// Schnorr tells that whoever signs does so by Schnorr, as wallets do, whose signatures
	// are shorter, and so the fee.
	Schnorr bool
}

// NewLinkTx builds the transaction that publishes the action in script (of
// RequestScript, AcceptScript or RevokeScript). It has to be signed: Sign, or
// ToSign and Attach.
//
// Every input spends a P2PKH output of the author without tokens, so input 0
// makes the author the author (protocol/SPEC.md §2). Outputs are spent from the
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
func NewLinkTx(script []byte, funding Funding) (*RecordTx, error) {
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

	size := func(inputs int) int64 {
		size := RecordTxSize(inputs, len(script), funding.Uncompressed)
		if funding.Schnorr {
			size -= inputs * (maxSignature - schnorrSize - 1)
		}
		return int64(size)
	}
	fee, inputFee := rate*size(1), rate*(size(2)-size(1))
	var have int64
	for i, u := range usable[:min(len(usable), MaxLinkInputs)] {
		if i > 0 && u.Value <= inputFee {
			break // spending it costs more than it brings, and so do all that follow
		}
		have += u.Value
		fee = rate * size(i+1)
		if have >= fee+DustLimit {
			return newRecordTx(script, usable[:i+1], funding.Author, fee), nil
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
		if u.Value < 0 || u.Value > MaxSatoshi-sum {
			return nil, fmt.Errorf("output %v holds %d satoshi: negative, or more than there can be in all", u.OutPoint, u.Value)
		}
		sum += u.Value
		if owner, ok := P2PKHKey(u.Script); ok && owner == funding.Author && !u.carriesToken() {
			usable = append(usable, u)
		}
	}
	return usable, nil
}

// ReadLinkTx takes up a transaction that NewLinkTx built elsewhere, say in an
// earlier run, to sign it: its serialization, and what its inputs spend, in the
// same order. Neither is trusted. The transaction must be what NewLinkTx could
// have made of these outputs: it spends just them, its change goes to their
// owner, its fee is below MaxFeeRate, it publishes a well-formed action, and
// the signatures that it has already are good. The values of the outputs cannot
// be checked here, but are covered by each signature: with a wrong one the
// network refuses the transaction.
func ReadLinkTx(raw []byte, spends []UTXO) (*RecordTx, error) {
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
	have := valueOf(usable)
	maxFee := MaxFeeRate * int64(RecordTxSize(len(usable), len(script), true))
	if change < DustLimit || change > have || have-change > maxFee {
		return nil, fmt.Errorf("expected a change of %d to %d satoshi and a fee of up to %d, got a change of %d",
			DustLimit, have, maxFee, change)
	}

	signed := new(wire.MsgTx)
	if err := signed.Deserialize(bytes.NewReader(raw)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	l := newRecordTx(script, usable, author, have-change)
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
		if err := verify(l.Tx, i, usable[i].Script, usable[i].Value); err != nil {
			return nil, fmt.Errorf("%w: input %d: %w", ErrSignature, i, err)
		}
	}
	return l, nil
}
