// Package signing is how a wallet is asked to sign a link transaction, and how its answer
// is read: the object that WalletConnect's bch_signTransaction and WizardConnect's
// sign_transaction_request take, as the wallets read it
// (https://github.com/mainnet-pat/wc2-bch-bcr), and the checks of what they return.
//
// What never belongs here: a connection to a wallet, keys, and what the action means to an
// identity.
package signing

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
)

// Params are the params of bch_signTransaction. Transaction is an object, which every
// wallet reads, or a hex string, which WizardConnect wants.
//
// Its JSON is that of libauth's stringify, with bytes as "<Uint8Array: 0x00>" in lower case
// and integers that may be large as "<bigint: 0n>". Hashes are in display order.
type Params struct {
	Transaction   any            `json:"transaction"`
	SourceOutputs []SourceOutput `json:"sourceOutputs"` // one for each input, in their order
	// Broadcast is always false and always said: to some wallets absent is true. Others
	// broadcast whatever it says, so whoever sends the transaction may come second.
	Broadcast  bool   `json:"broadcast"`
	UserPrompt string `json:"userPrompt"`
}

// Transaction is an unsigned transaction.
type Transaction struct {
	Version  uint32   `json:"version"`
	Inputs   []Input  `json:"inputs"`
	Outputs  []Output `json:"outputs"`
	Locktime uint32   `json:"locktime"`
}

// Input is an input without its signature: wallets sign those whose UnlockingBytecode is
// empty.
type Input struct {
	OutpointTransactionHash Bytes  `json:"outpointTransactionHash"`
	OutpointIndex           uint32 `json:"outpointIndex"`
	SequenceNumber          uint32 `json:"sequenceNumber"`
	UnlockingBytecode       Bytes  `json:"unlockingBytecode"`
}

// Output is an output without tokens.
type Output struct {
	LockingBytecode Bytes    `json:"lockingBytecode"`
	ValueSatoshis   Satoshis `json:"valueSatoshis"`
}

// SourceOutput is an input with the output that it spends.
type SourceOutput struct {
	Input
	Output
}

// Bytes are bytes in the form of libauth's stringify.
type Bytes []byte

// MarshalText implements encoding.TextMarshaler.
func (b Bytes) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "<Uint8Array: 0x%x>", []byte(b)), nil
}

// UnmarshalText implements encoding.TextUnmarshaler. It takes what the wallets take: lower
// case, no blanks.
func (b *Bytes) UnmarshalText(text []byte) error {
	digits, ok := between(text, "<Uint8Array: 0x", ">")
	if !ok || bytes.ContainsFunc(digits, func(r rune) bool { return 'A' <= r && r <= 'F' }) {
		return fmt.Errorf("expected <Uint8Array: 0xHEX> in lower case, got %.40q", text)
	}
	decoded, err := hex.DecodeString(string(digits))
	if err != nil {
		return fmt.Errorf("expected <Uint8Array: 0xHEX>: %w", err)
	}
	*b = decoded
	return nil
}

// Satoshis is an amount in the form of libauth's stringify.
type Satoshis int64

// MarshalText implements encoding.TextMarshaler.
func (s Satoshis) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "<bigint: %dn>", int64(s)), nil
}

// UnmarshalText implements encoding.TextUnmarshaler. It takes what the wallets take: no
// sign, no blanks.
func (s *Satoshis) UnmarshalText(text []byte) error {
	digits, ok := between(text, "<bigint: ", "n>")
	value, err := strconv.ParseUint(string(digits), 10, 63)
	if !ok || err != nil || bytes.ContainsRune(digits, '+') {
		return fmt.Errorf("expected <bigint: NUMBERn>, got %.40q", text)
	}
	*s = Satoshis(value)
	return nil
}

func between(text []byte, start, end string) ([]byte, bool) {
	rest, ok := bytes.CutPrefix(text, []byte(start))
	if !ok {
		return nil, false
	}
	return bytes.CutSuffix(rest, []byte(end))
}

// WalletConnect returns the params of bch_signTransaction for an unsigned transaction.
func WalletConnect(tx *protocol.RecordTx, prompt string) Params {
	p := Params{UserPrompt: prompt}
	object := Transaction{Version: uint32(tx.Tx.Version), Locktime: tx.Tx.LockTime}
	for i, in := range tx.Tx.TxIn {
		hash := in.PreviousOutPoint.Hash
		slices.Reverse(hash[:])
		input := Input{OutpointTransactionHash: hash[:], OutpointIndex: in.PreviousOutPoint.Index, SequenceNumber: in.Sequence}
		object.Inputs = append(object.Inputs, input)
		p.SourceOutputs = append(p.SourceOutputs, SourceOutput{input, Output{tx.Spends[i].Script, Satoshis(tx.Spends[i].Value)}})
	}
	for _, out := range tx.Tx.TxOut {
		object.Outputs = append(object.Outputs, Output{out.PkScript, Satoshis(out.Value)})
	}
	p.Transaction = object
	return p
}

// WizardRequest is what a sign_transaction_request of WizardConnect has, beside its action,
// time and sequence.
type WizardRequest struct {
	Transaction Params      `json:"transaction"`
	InputPaths  []InputPath `json:"inputPaths"`
}

// InputPath says which of a wallet's keys signs an input. Its JSON is [INPUT,NAME,INDEX].
type InputPath struct {
	Input int
	KeyPath
}

// KeyPath is a key below one of the extended public keys that a wallet has sent.
type KeyPath struct {
	Name  string // receive, change or defi
	Index uint32
}

// MarshalJSON implements json.Marshaler.
func (p InputPath) MarshalJSON() ([]byte, error) {
	return json.Marshal([]any{p.Input, p.Name, p.Index})
}

// ParseKeyPath reads a path of the form NAME/INDEX.
func ParseKeyPath(s string) (KeyPath, error) {
	name, number, _ := bytes.Cut([]byte(s), []byte("/"))
	index, err := strconv.ParseUint(string(number), 10, 31)
	p := KeyPath{string(name), uint32(index)}
	if err != nil || !slices.Contains([]string{"receive", "change", "defi"}, p.Name) {
		return KeyPath{}, fmt.Errorf("expected receive, change or defi with the number of a key, as receive/5, got %.40q", s)
	}
	return p, nil
}

// WizardConnect returns what WizardConnect asks for an unsigned transaction, all of whose
// inputs one key signs.
func WizardConnect(tx *protocol.RecordTx, prompt string, key KeyPath) WizardRequest {
	r := WizardRequest{Transaction: WalletConnect(tx, prompt)}
	r.Transaction.Transaction = hex.EncodeToString(tx.Raw())
	for i := range tx.Spends {
		r.InputPaths = append(r.InputPaths, InputPath{i, key})
	}
	return r
}

// JSON returns a request as it is printed and sent: without what encoding/json does to < and
// >, and without a newline.
func JSON(request any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(request); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Signed is what a wallet returns. WizardConnect leaves out the hash.
type Signed struct {
	Transaction string `json:"signedTransaction"`
	Hash        string `json:"signedTransactionHash"`
}

// ParseSigned reads a wallet's answer, or a bare transaction in hex, and returns the
// transaction. A hash that comes with it must be its txid.
func ParseSigned(answer []byte) (protocol.Tx, error) {
	answer = bytes.TrimSpace(answer)
	s := Signed{Transaction: string(answer)}
	if bytes.HasPrefix(answer, []byte("{")) {
		s = Signed{}
		if err := json.Unmarshal(answer, &s); err != nil || s.Transaction == "" {
			return nil, fmt.Errorf("expected an object with signedTransaction, as a wallet returns it, got %.40q", answer)
		}
	}
	if hex.DecodedLen(len(s.Transaction)) > MaxSize {
		return nil, fmt.Errorf("expected a transaction of up to %d bytes, got %d", MaxSize, hex.DecodedLen(len(s.Transaction)))
	}
	raw, err := hex.DecodeString(s.Transaction)
	if err != nil {
		return nil, fmt.Errorf("expected a signed transaction in hex: %w", err)
	}
	tx, err := protocol.ParseTx(raw)
	if err != nil {
		return nil, err
	}
	if txid := tx.TxID().String(); s.Hash != "" && s.Hash != txid {
		return nil, fmt.Errorf("the answer has transaction %s, and calls it %.80q", txid, s.Hash)
	}
	return tx, nil
}

// ReadPrepared reads what WalletConnect or WizardConnect has given, and returns the
// transaction that was to be signed.
func ReadPrepared(request []byte) (*wire.MsgTx, error) {
	var form struct {
		Transaction json.RawMessage
		InputPaths  json.RawMessage
	}
	err := json.Unmarshal(request, &form)
	if err == nil && form.InputPaths != nil { // WizardConnect's has one more layer
		err = json.Unmarshal(form.Transaction, &form)
	}
	if err != nil {
		return nil, fmt.Errorf("expected what keytree link … --unsigned --format walletconnect or wizardconnect has printed: %w", err)
	}
	var text string
	tx := new(wire.MsgTx)
	if json.Unmarshal(form.Transaction, &text) == nil {
		raw, err := hex.DecodeString(text)
		if err == nil {
			err = tx.Deserialize(bytes.NewReader(raw))
		}
		if err != nil {
			return nil, fmt.Errorf("prepared transaction: %w", err)
		}
		return tx, nil
	}
	var object Transaction
	if err := json.Unmarshal(form.Transaction, &object); err != nil {
		return nil, fmt.Errorf("prepared transaction: %w", err)
	}
	tx.Version, tx.LockTime = int32(object.Version), object.Locktime
	for _, in := range object.Inputs {
		hash, err := chainhash.NewHash(in.OutpointTransactionHash)
		if err != nil {
			return nil, fmt.Errorf("prepared transaction: %w", err)
		}
		slices.Reverse(hash[:])
		tx.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Hash: *hash, Index: in.OutpointIndex}, Sequence: in.SequenceNumber})
	}
	for _, out := range object.Outputs {
		tx.AddTxOut(wire.NewTxOut(int64(out.ValueSatoshis), out.LockingBytecode, wire.TokenData{}))
	}
	return tx, nil
}
