package regtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/bchrpc/pb"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"
)

// feeRate is what every transaction made here pays, in satoshi per byte, twice
// the relay minimum.
const feeRate = 2

// dust is the lowest change worth an output, in satoshi.
const dust = 1000

// Key is a key pair whose outputs are P2PKH of its compressed public key.
type Key struct {
	private *bchec.PrivateKey
}

// NewKey returns a random key.
func NewKey() *Key {
	private, err := bchec.NewPrivateKey(bchec.S256())
	if err != nil {
		panic(fmt.Sprintf("no randomness for a key: %v", err))
	}
	return &Key{private: private}
}

// KeyFromSeed returns the same key for the same seed, for tests whose hashes
// must not change from run to run.
func KeyFromSeed(seed string) *Key {
	secret := sha256.Sum256([]byte(seed))
	private, _ := bchec.PrivKeyFromBytes(bchec.S256(), secret[:])
	return &Key{private: private}
}

// KeyOf returns the key of 32 bytes.
func KeyOf(private []byte) *Key {
	key, _ := bchec.PrivKeyFromBytes(bchec.S256(), private)
	return &Key{key}
}

// PrivateKey returns the private key itself.
func (k *Key) PrivateKey() *bchec.PrivateKey { return k.private }

// PublicKey returns the compressed public key, 33 bytes.
func (k *Key) PublicKey() []byte { return k.private.PubKey().SerializeCompressed() }

// Hash returns the hash160 of the public key.
func (k *Key) Hash() [20]byte { return [20]byte(bchutil.Hash160(k.PublicKey())) }

// WIF returns the private key in wallet import format, for files that other
// programs read.
func (k *Key) WIF() string {
	wif, err := bchutil.NewWIF(k.private, Params, true)
	if err != nil {
		panic(fmt.Sprintf("WIF: %v", err)) // only without network parameters
	}
	return wif.String()
}

// Address returns the key's CashAddr with its prefix, "bchreg:".
func (k *Key) Address() string {
	hash := k.Hash()
	address, err := bchutil.NewAddressPubKeyHash(hash[:], Params)
	if err != nil {
		panic(fmt.Sprintf("address: %v", err)) // only for a wrong length
	}
	return Params.CashAddressPrefix + ":" + address.EncodeAddress()
}

// Script returns the key's P2PKH locking script.
func (k *Key) Script() []byte {
	hash := k.Hash()
	script := []byte{txscript.OP_DUP, txscript.OP_HASH160, txscript.OP_DATA_20}
	script = append(script, hash[:]...)
	return append(script, txscript.OP_EQUALVERIFY, txscript.OP_CHECKSIG)
}

// Output returns an output that pays value satoshi to the key.
func (k *Key) Output(value int64) *wire.TxOut {
	return wire.NewTxOut(value, k.Script(), wire.TokenData{})
}

// Sign returns a signature script for input i of tx, which spends coin, an
// output to the key. A hash type of 0 means SigHashAll; FORKID is always set.
// The script is not put into tx.
func (k *Key) Sign(tx *wire.MsgTx, i int, coin Coin, hashType txscript.SigHashType) ([]byte, error) {
	if hashType == 0 {
		hashType = txscript.SigHashAll
	}
	signature, err := txscript.RawTxInECDSASignature(tx, i, coin.Output.PkScript, hashType, k.private, coin.Output.Value)
	if err != nil {
		return nil, fmt.Errorf("signing input %d: %w", i, err)
	}
	return txscript.NewScriptBuilder().AddData(signature).AddData(k.PublicKey()).Script()
}

// Coin is an output that can be spent.
type Coin struct {
	OutPoint wire.OutPoint
	Output   wire.TxOut
}

// CoinOf returns output index of tx.
func CoinOf(tx *wire.MsgTx, index uint32) Coin {
	return Coin{OutPoint: wire.OutPoint{Hash: tx.TxHash(), Index: index}, Output: *tx.TxOut[index]}
}

// Input is a coin and how to unlock it: signed by Key with HashType, or, if Key
// is nil, with ScriptSig as it stands.
type Input struct {
	Coin      Coin
	Key       *Key
	HashType  txscript.SigHashType // 0 means SigHashAll
	ScriptSig []byte
}

// NewTx returns a transaction with these inputs and outputs in this order. The
// fee is what the outputs leave.
func NewTx(inputs []Input, outputs ...*wire.TxOut) (*wire.MsgTx, error) {
	tx := wire.NewMsgTx(2)
	for _, in := range inputs {
		tx.AddTxIn(wire.NewTxIn(&in.Coin.OutPoint, in.ScriptSig))
	}
	for _, out := range outputs {
		tx.AddTxOut(out)
	}
	for i, in := range inputs {
		if in.Key == nil {
			continue
		}
		script, err := in.Key.Sign(tx, i, in.Coin, in.HashType)
		if err != nil {
			return nil, err
		}
		tx.TxIn[i].SignatureScript = script
	}
	return tx, nil
}

// Spend returns a transaction that spends coin, an output to key, for outputs.
// Its first output is the change, back to key, which is returned as a coin: so a
// chain of transactions can be made before any of them is sent.
func Spend(key *Key, coin Coin, outputs ...*wire.TxOut) (*wire.MsgTx, Coin, error) {
	change := coin.Output.Value
	for _, out := range outputs {
		change -= out.Value
	}
	all := append([]*wire.TxOut{key.Output(change)}, outputs...)
	tx, err := NewTx([]Input{{Coin: coin, Key: key}}, all...)
	if err != nil {
		return nil, Coin{}, err
	}
	// Signatures vary by a byte or two, which the fee rate has room for.
	all[0].Value -= int64(tx.SerializeSize()) * feeRate
	if all[0].Value < dust {
		return nil, Coin{}, fmt.Errorf("coin of %d satoshi is too small: it would leave %d", coin.Output.Value, all[0].Value)
	}
	if tx, err = NewTx([]Input{{Coin: coin, Key: key}}, all...); err != nil {
		return nil, Coin{}, err
	}
	return tx, CoinOf(tx, 0), nil
}

// Faucet returns the key that mining pays.
func (n *Node) Faucet() *Key { return n.faucet }

// Fund sends one transaction from the faucet to the mempool, which pays the
// outputs, to any scripts, and returns them as coins in the same order.
//
// Each call takes the coinbase of a block of its own as long as there are
// mature ones, so that fundings do not depend on each other; after that it
// takes the change of earlier calls. A coin that a reorganisation took away
// makes the call fail; the next call takes another.
func (n *Node) Fund(ctx context.Context, outputs ...*wire.TxOut) ([]Coin, error) {
	var total int64
	for _, out := range outputs {
		total += out.Value
	}
	coin, err := n.takeCoin(ctx, total)
	if err != nil {
		return nil, err
	}
	tx, change, err := Spend(n.faucet, coin, outputs...)
	if err != nil {
		return nil, err
	}
	if err := n.SubmitTransaction(ctx, tx); err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.coins = append(n.coins, change)
	n.mu.Unlock()
	coins := make([]Coin, len(outputs))
	for i := range outputs {
		coins[i] = CoinOf(tx, uint32(i)+1)
	}
	return coins, nil
}

// FundKey is Fund for one output of value satoshi to key.
func (n *Node) FundKey(ctx context.Context, key *Key, value int64) (Coin, error) {
	coins, err := n.Fund(ctx, key.Output(value))
	if err != nil {
		return Coin{}, err
	}
	return coins[0], nil
}

// takeCoin takes a coin of the faucet's that leaves room for a fee and change.
func (n *Node) takeCoin(ctx context.Context, value int64) (Coin, error) {
	height, _, err := n.Tip(ctx)
	if err != nil {
		return Coin{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	const room = 1_000_000
	for ; n.nextCoinbase+uint32(Params.CoinbaseMaturity) <= height+1; n.nextCoinbase++ {
		coin, err := n.coinbase(ctx, n.nextCoinbase)
		if err != nil {
			return Coin{}, err
		}
		if !bytes.Equal(coin.Output.PkScript, n.faucet.Script()) {
			continue
		}
		if coin.Output.Value >= value+room {
			n.nextCoinbase++
			return coin, nil
		}
		n.coins = append(n.coins, coin)
	}
	for i, coin := range n.coins {
		if coin.Output.Value >= value+room {
			n.coins = append(n.coins[:i], n.coins[i+1:]...)
			return coin, nil
		}
	}
	return Coin{}, fmt.Errorf("the faucet has no coin of %d satoshi at height %d: coinbases mature after %d blocks, mine more or ask for less",
		value+room, height, Params.CoinbaseMaturity)
}

func (n *Node) coinbase(ctx context.Context, height uint32) (Coin, error) {
	resp, err := n.grpc.GetRawBlock(ctx, &pb.GetRawBlockRequest{
		HashOrHeight: &pb.GetRawBlockRequest_Height{Height: int32(height)},
	})
	if err != nil {
		return Coin{}, fmt.Errorf("block %d: %w", height, err)
	}
	var b wire.MsgBlock
	if err := b.Deserialize(bytes.NewReader(resp.Block)); err != nil {
		return Coin{}, fmt.Errorf("block %d: %w", height, err)
	}
	return CoinOf(b.Transactions[0], 0), nil
}
