package protocol

import (
	"encoding/binary"
	"fmt"
	"iter"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
)

// Tx is one serialized transaction whose form has been checked: by ParseTx, or
// as part of a block by ReadBlock. Converting other bytes to a Tx is a bug; its
// methods panic on them. It aliases the bytes that it was read from.
type Tx []byte

// Output is one output of a transaction.
type Output struct {
	Value int64 // satoshi; as serialized, so a forged transaction can hold any number
	// Script is the locking script with its token prefix, if it has one
	// (StripTokenPrefix). It aliases the transaction.
	Script []byte
}

// ParseTx checks that raw is the serialization of exactly one transaction. The
// error wraps ErrMalformed. Only the form is checked, which is less than what
// consensus asks of a transaction: no inputs and no outputs are well-formed.
func ParseTx(raw []byte) (Tx, error) {
	end, _, f := scanTx(raw, 0, nil, nil, nil)
	if f != wellFormed {
		return nil, f.at(end, len(raw), "transaction")
	}
	if end != len(raw) {
		return nil, fmt.Errorf("%w: transaction: ends at byte %d, %d bytes follow", ErrMalformed, end, len(raw)-end)
	}
	return raw[:end:end], nil
}

// TxID returns the transaction's id: the double SHA-256 of all of it.
func (t Tx) TxID() chainhash.Hash {
	return chainhash.DoubleHashH(t)
}

// Input0 returns the output that input 0 spends, and its scriptSig, which
// aliases the transaction. Without inputs (the form allows it, consensus does
// not) it answers as for a coinbase: the null outpoint.
func (t Tx) Input0() (wire.OutPoint, []byte) {
	inputs, off, _ := compactSize(t, versionSize)
	if inputs == 0 {
		return wire.OutPoint{Index: wire.MaxPrevOutIndex}, nil
	}
	var spends wire.OutPoint
	off += copy(spends.Hash[:], t[off:])
	spends.Index = binary.LittleEndian.Uint32(t[off:])
	size, off, _ := compactSize(t, off+4)
	end := off + int(size)
	return spends, t[off:end:end]
}

// Inputs iterates over the outputs that the inputs spend, with their index.
func (t Tx) Inputs() iter.Seq2[uint32, wire.OutPoint] {
	return func(yield func(uint32, wire.OutPoint) bool) {
		inputs, off, _ := compactSize(t, versionSize)
		for n := range inputs {
			spends := wire.OutPoint{Hash: chainhash.Hash(t[off : off+chainhash.HashSize]), Index: binary.LittleEndian.Uint32(t[off+chainhash.HashSize:])}
			if !yield(uint32(n), spends) {
				return
			}
			size, next, _ := compactSize(t, off+outPointSize)
			off = next + int(size) + sequenceSize
		}
	}
}

// Outputs iterates over the outputs, with their index.
func (t Tx) Outputs() iter.Seq2[uint32, Output] {
	return func(yield func(uint32, Output) bool) {
		inputs, off, _ := compactSize(t, versionSize)
		for range inputs {
			size, next, _ := compactSize(t, off+outPointSize)
			off = next + int(size) + sequenceSize
		}
		outputs, off, _ := compactSize(t, off)
		for n := range outputs {
			value := int64(binary.LittleEndian.Uint64(t[off:]))
			size, start, _ := compactSize(t, off+valueSize)
			off = start + int(size)
			if !yield(uint32(n), Output{Value: value, Script: t[start:off:off]}) {
				return
			}
		}
	}
}

// Action returns the transaction's action, which is its first output that
// starts with one of the three prefixes (protocol/SPEC.md §1). ok is false if
// there is none.
func (t Tx) Action() (a Action, ok bool) {
	for _, output := range t.Outputs() {
		if a, ok := DecodeAction(StripTokenPrefix(output.Script)); ok {
			return a, true
		}
	}
	return Action{}, false
}

// Carrier returns what the transaction carries and whether it spends one of the batons, nil
// for none. Index is 0: it is not known to be in a block.
func (t Tx) Carrier(batons *BatonSet) Carrier {
	c := Carrier{TxID: t.TxID(), Raw: t, SpendsBaton: batons.Spent(t)}
	c.Action, _ = t.Action()
	if anchor, ok := t.Anchor(); ok {
		c.Anchor = &anchor
	}
	c.Spends, c.Unlock = t.Input0()
	return c
}

// SpentOutput returns the output that out names, of the transaction whose
// serialization raw is claimed to be. This is the check that protocol/SPEC.md §2 asks for
// when a node hands out a previous transaction. The result aliases raw.
func SpentOutput(raw []byte, out wire.OutPoint) (Output, error) {
	tx, err := ParseTx(raw)
	if err != nil {
		return Output{}, err
	}
	if got := tx.TxID(); got != out.Hash {
		return Output{}, fmt.Errorf("expected transaction %v, got one that hashes to %v", out.Hash, got)
	}
	outputs := 0
	for i, output := range tx.Outputs() {
		if i == out.Index {
			return output, nil
		}
		outputs++
	}
	return Output{}, fmt.Errorf("transaction %v has %d outputs, there is no output %d", out.Hash, outputs, out.Index)
}
