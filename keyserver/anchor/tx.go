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
	outputSize = 8 + 1 + 25
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
	key   protocol.KeyHash
}

// draft is an anchor yet to be signed.
type draft struct {
	record protocol.Anchor
	inputs []input          // the first spends the baton, or what pays for the genesis anchor
	to     protocol.KeyHash // who gets the baton
	rate   int64            // satoshi per byte
	made   time.Time        // when the record was made
}

// have is what the inputs are worth, fee what the transaction pays, in satoshi.
func (d *draft) have() (value int64) {
	for _, in := range d.inputs {
		value += in.value
	}
	return value
}

func (d *draft) fee() int64 { return d.rate * txSize(len(d.inputs), d.record.Domain) }

// affordable returns errFunds if the fee leaves too little for the baton.
func (d *draft) affordable() error {
	if need := d.fee() + protocol.DustLimit; d.have() < need {
		return fmt.Errorf("%w: %d satoshi are needed (fee %d, and at least %d to go on with), and %d there",
			errFunds, need, d.fee(), protocol.DustLimit, d.have())
	}
	return nil
}

// sign makes the transaction: output 0 is the new baton, with all that the fee leaves,
// output 1 the record. The draft must be affordable, and its keys in the ring.
func (d *draft) sign(keys *keyring) (raw []byte, err error) {
	script, err := d.record.Script()
	if err != nil {
		return nil, err
	}
	tx := wire.NewMsgTx(2)
	for _, in := range d.inputs {
		tx.AddTxIn(wire.NewTxIn(&in.out, nil))
	}
	tx.AddTxOut(wire.NewTxOut(d.have()-d.fee(), protocol.P2PKHScript(d.to), wire.TokenData{}))
	tx.AddTxOut(wire.NewTxOut(0, script, wire.TokenData{}))
	for i, in := range d.inputs {
		if err := signInput(tx, i, in, keys.find(in.key)); err != nil {
			return nil, fmt.Errorf("signing input %d: %w", i, err)
		}
	}
	var b bytes.Buffer
	err = tx.Serialize(&b)
	return b.Bytes(), err
}

func signInput(tx *wire.MsgTx, i int, in input, by *key) error {
	spent := protocol.P2PKHScript(in.key)
	signature, err := txscript.RawTxInECDSASignature(tx, i, spent, hashType, by.private, in.value)
	if err != nil {
		return err
	}
	tx.TxIn[i].SignatureScript, err = txscript.NewScriptBuilder().
		AddData(signature).AddData(by.private.PubKey().SerializeCompressed()).Script()
	if err != nil {
		return err
	}
	// What a fault of this machine has spoilt must not be stored as the anchor.
	return checkInput(tx, i, spent, in.value)
}

// checkInput checks that an input may spend an output with a script and value.
func checkInput(tx *wire.MsgTx, i int, script []byte, value int64) error {
	vm, err := txscript.NewEngine(script, tx, i, txscript.StandardVerifyFlags,
		nil, txscript.NewTxSigHashes(tx), txscript.NewUtxoCache(), value)
	if err != nil {
		return err
	}
	return vm.Execute()
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

// paysTo reports whether an anchor's baton pays a key.
func (s *signed) paysTo(key protocol.KeyHash) bool {
	holder, ok := protocol.P2PKHKey(s.script)
	return ok && holder == key
}

// checkSignature checks that the first input may spend what it does. Of what is not
// confirmed nobody but a node has said so.
func (s *signed) checkSignature(spent protocol.Output) error {
	tx := new(wire.MsgTx)
	if err := tx.Deserialize(bytes.NewReader(s.raw)); err != nil {
		return err
	}
	return checkInput(tx, 0, spent.Script, spent.Value)
}

// outputOf returns an output of a transaction. ErrUnknown if there is none of this
// index.
func outputOf(raw []byte, index uint32) (protocol.Output, error) {
	tx, err := protocol.ParseTx(raw)
	if err != nil {
		return protocol.Output{}, err
	}
	for i, output := range tx.Outputs() {
		if i == index {
			return output, nil
		}
	}
	return protocol.Output{}, fmt.Errorf("%w: output %d of transaction %v", ErrUnknown, index, tx.TxID())
}

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
