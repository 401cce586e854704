package anchor

import (
	"bytes"
	"fmt"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
)

// hashType covers all inputs and outputs.
const hashType = txscript.SigHashAll | txscript.SigHashForkID

// Sizes in bytes, signatures counted as the longest there are.
const (
	inputSize  = 36 + 1 + (1 + 72) + (1 + 33) + 4
	p2pkhSize  = 25
	outputSize = 8 + 1 + p2pkhSize
	// recordSize is that of the record's output without the domain.
	recordSize = 8 + 1 + (1 + 5) + (1 + 1) + 1 + (1 + 8) + 2*(1+32)
)

// txSize returns how big an anchor's transaction gets at most.
func txSize(inputs int, domain string) int64 {
	return int64(4 + wire.VarIntSerializeSize(uint64(inputs)) + inputs*inputSize + 1 + outputSize + recordSize + len(domain) + 4)
}

// input is an output that is spent, P2PKH of its key.
type input struct {
	out   wire.OutPoint
	value int64 // satoshi
	key   *key
}

// draft is an anchor yet to be signed.
type draft struct {
	record protocol.Anchor
	inputs []input          // the first spends the baton, or what pays for the genesis anchor
	to     protocol.KeyHash // who gets the baton
	rate   int64            // satoshi per byte
	made   time.Time        // when the record was made
}

// sign makes the transaction: output 0 is the new baton, with all that the fee leaves,
// output 1 the record. errFunds if too little is left.
func (d *draft) sign() (raw []byte, err error) {
	script, err := d.record.Script()
	if err != nil {
		return nil, err
	}
	tx := wire.NewMsgTx(2)
	var have int64
	for _, in := range d.inputs {
		tx.AddTxIn(wire.NewTxIn(&in.out, nil))
		have += in.value
	}
	fee := d.rate * txSize(len(d.inputs), d.record.Domain)
	if have < fee+protocol.DustLimit {
		return nil, fmt.Errorf("%w: %d satoshi are needed (fee %d, and at least %d to go on with), and %d there",
			errFunds, fee+protocol.DustLimit, fee, protocol.DustLimit, have)
	}
	tx.AddTxOut(wire.NewTxOut(have-fee, p2pkh(d.to), wire.TokenData{}))
	tx.AddTxOut(wire.NewTxOut(0, script, wire.TokenData{}))
	for i, in := range d.inputs {
		if err := signInput(tx, i, in); err != nil {
			return nil, fmt.Errorf("signing input %d: %w", i, err)
		}
	}
	var b bytes.Buffer
	err = tx.Serialize(&b)
	return b.Bytes(), err
}

func signInput(tx *wire.MsgTx, i int, in input) error {
	spent := p2pkh(in.key.hash)
	signature, err := txscript.RawTxInECDSASignature(tx, i, spent, hashType, in.key.private, in.value)
	if err != nil {
		return err
	}
	tx.TxIn[i].SignatureScript, err = txscript.NewScriptBuilder().
		AddData(signature).AddData(in.key.private.PubKey().SerializeCompressed()).Script()
	if err != nil {
		return err
	}
	// What a fault of this machine has spoilt must not be stored as the anchor.
	vm, err := txscript.NewEngine(spent, tx, i, txscript.StandardVerifyFlags,
		nil, txscript.NewTxSigHashes(tx), txscript.NewUtxoCache(), in.value)
	if err != nil {
		return err
	}
	return vm.Execute()
}

// p2pkh is the script that pays a key.
func p2pkh(key protocol.KeyHash) []byte {
	script := make([]byte, 0, p2pkhSize)
	script = append(script, txscript.OP_DUP, txscript.OP_HASH160, txscript.OP_DATA_20)
	script = append(script, key[:]...)
	return append(script, txscript.OP_EQUALVERIFY, txscript.OP_CHECKSIG)
}

// paid returns the key that a script pays, if it is a P2PKH.
func paid(script []byte) (key protocol.KeyHash, ok bool) {
	if len(script) != p2pkhSize {
		return key, false
	}
	copy(key[:], script[3:])
	return key, bytes.Equal(script, p2pkh(key))
}

// signed is an anchor's transaction.
type signed struct {
	protocol.Anchor
	raw  protocol.Tx
	txid chainhash.Hash
	// spends is by its first input: the baton of the anchor before it.
	spends wire.OutPoint
	script []byte // of the baton
	value  int64  // of the baton, in satoshi
	made   time.Time
	rate   int64 // satoshi per byte; 0 if not known
}

// baton is the output that the next anchor spends.
func (s *signed) baton() wire.OutPoint { return wire.OutPoint{Hash: s.txid} }

// readSigned reads a transaction that has to carry an anchor.
func readSigned(raw []byte, made time.Time, rate int64) (*signed, error) {
	tx, err := protocol.ParseTx(raw)
	if err != nil {
		return nil, err
	}
	record, ok := tx.Anchor()
	if !ok {
		return nil, fmt.Errorf("transaction %v carries no anchor", tx.TxID())
	}
	s := &signed{Anchor: record, raw: tx, txid: tx.TxID(), made: made, rate: rate}
	s.spends, _ = tx.Input0()
	for _, output := range tx.Outputs() {
		s.script, s.value = output.Script, output.Value
		break
	}
	return s, nil
}
