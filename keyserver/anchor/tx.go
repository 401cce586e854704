package anchor

import (
	"errors"
	"fmt"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
)

// draft is an anchor yet to be signed.
type draft struct {
	record protocol.Anchor
	spends []protocol.UTXO  // the first is the baton, or what pays for the genesis anchor
	to     protocol.KeyHash // who gets the baton
	rate   int64            // satoshi per byte
	made   time.Time        // when the record was made
}

// build makes the transaction: output 0 is the new baton, with all that the fee leaves.
// errFunds if that is too little.
func (d *draft) build() (*protocol.RecordTx, error) {
	script, err := d.record.Script()
	if err != nil {
		return nil, err
	}
	tx, err := protocol.NewRecordTx(script, d.spends, d.to, d.rate)
	if errors.Is(err, protocol.ErrInsufficientFunds) {
		return nil, fmt.Errorf("%w: %w", errFunds, err)
	}
	return tx, err
}

// affordable returns errFunds if the fee leaves too little for the baton.
func (d *draft) affordable() error {
	_, err := d.build()
	return err
}

// sign makes the transaction and signs it with the keys of the ring.
func (d *draft) sign(keys *keyring) (raw []byte, err error) {
	tx, err := d.build()
	if err != nil {
		return nil, err
	}
	// Each signature is verified: what a fault of this machine has spoilt must not be
	// stored as the anchor.
	if err := tx.Sign(keys.private()...); err != nil {
		return nil, err
	}
	return tx.Raw(), nil
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
