package signing

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
)

// MaxSize is how many bytes a signed link transaction may have. An input takes up to 148.
const MaxSize = 10_000

// ErrRefused is wrapped by all errors about a transaction that is not to be sent. Sending
// the same again will not help.
var ErrRefused = errors.New("not a link transaction that can be sent")

// Action returns the one action of a transaction, which must be well-formed. The error
// wraps ErrRefused.
func Action(tx protocol.Tx) (protocol.Action, error) {
	var found []protocol.Action
	for _, output := range tx.Outputs() {
		if a, ok := protocol.DecodeAction(protocol.StripTokenPrefix(output.Script)); ok {
			found = append(found, a)
		}
	}
	switch {
	case len(tx) > MaxSize:
		return protocol.Action{}, fmt.Errorf("%w: expected up to %d bytes, got %d", ErrRefused, MaxSize, len(tx))
	case len(found) != 1:
		return protocol.Action{}, fmt.Errorf("%w: expected exactly one action, got %d", ErrRefused, len(found))
	case found[0].Malformed != nil:
		return protocol.Action{}, fmt.Errorf("%w: %w", ErrRefused, found[0].Malformed)
	}
	return found[0], nil
}

// Verify checks that every input of a transaction spends an output that is P2PKH of a key
// and carries no tokens, and that the key has signed the whole transaction for it, with
// hash type 0x41 or, over the outputs that are spent, 0x61. Spent are these outputs, in the
// order of the inputs, with their token prefixes. It returns the author, which is the key
// of input 0. The error wraps ErrRefused.
func Verify(tx protocol.Tx, spent []protocol.Output) (author protocol.KeyHash, err error) {
	refuse := func(format string, args ...any) (protocol.KeyHash, error) {
		return protocol.KeyHash{}, fmt.Errorf("%w: %w", ErrRefused, fmt.Errorf(format, args...))
	}
	parsed := new(wire.MsgTx)
	if err := parsed.Deserialize(bytes.NewReader(tx)); err != nil {
		return refuse("%w", err)
	}
	if len(spent) != len(parsed.TxIn) || len(spent) == 0 {
		return refuse("expected the outputs that %d inputs spend, got %d", len(parsed.TxIn), len(spent))
	}
	outputs := txscript.NewUtxoCache()
	for i, output := range spent {
		if protocol.HasTokenPrefix(output.Script) {
			return refuse("input %d spends tokens", i)
		}
		outputs.AddEntry(i, *wire.NewTxOut(output.Value, output.Script, wire.TokenData{}))
	}
	for i, in := range parsed.TxIn {
		key, ok := protocol.Author(in.SignatureScript, spent[i].Script)
		if !ok {
			return refuse("input %d: expected a signature over all inputs and outputs, and the public key of a P2PKH output", i)
		}
		if t := hashType(in.SignatureScript); t != hashTypeAll && t != hashTypeUTXOs {
			return refuse("input %d: expected hash type 0x%02x or 0x%02x, got 0x%02x", i, hashTypeAll, hashTypeUTXOs, t)
		}
		engine, err := txscript.NewEngine(spent[i].Script, parsed, i, txscript.StandardVerifyFlags|txscript.ScriptAllowCashTokens,
			nil, txscript.NewTxSigHashes(parsed), outputs, spent[i].Value)
		if err == nil {
			err = engine.Execute()
		}
		if err != nil {
			return refuse("%w: input %d: %w", protocol.ErrSignature, i, err)
		}
		if i == 0 {
			author = key
		}
	}
	return author, nil
}

// The hash types that wallets sign with.
const (
	hashTypeAll   = byte(txscript.SigHashAll | txscript.SigHashForkID)
	hashTypeUTXOs = byte(txscript.SigHashAll | txscript.SigHashForkID | txscript.SigHashUTXO)
)

// hashType returns that of a scriptSig of two pushes, of a signature and a public key.
func hashType(scriptSig []byte) byte {
	pushes, err := txscript.PushedData(scriptSig)
	if err != nil || len(pushes) == 0 || len(pushes[0]) == 0 {
		return 0
	}
	return pushes[0][len(pushes[0])-1]
}

// Matches checks that a signed transaction is the one that was prepared, but for the
// signatures. The error wraps ErrRefused.
func Matches(tx protocol.Tx, prepared *wire.MsgTx) error {
	parsed := new(wire.MsgTx)
	if err := parsed.Deserialize(bytes.NewReader(tx)); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	for _, in := range parsed.TxIn {
		in.SignatureScript = nil
	}
	if parsed.TxHash() != prepared.TxHash() {
		return fmt.Errorf("%w: it is not the transaction that was prepared: its inputs or outputs are others", ErrRefused)
	}
	return nil
}
