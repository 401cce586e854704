package nodetest

import (
	"bytes"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// TokensFrom is the height from which NewChain's chain spends tokens. bchd does not
// allow it on regtest: give it the chain up to the block before.
const TokensFrom = 104

// firstSpending is the height of the first block that can spend block 1's coinbase.
const firstSpending = 101

// Hash types of signatures.
const (
	coversAll   = txscript.SigHashAll | txscript.SigHashForkID // 0x41
	coversUTXOs = coversAll | txscript.SigHashUTXO             // 0x61
)

// Links are what the actions in NewChain's chain come to.
type Links struct {
	Parent     protocol.KeyHash
	Children   []protocol.KeyHash // of Parent, from below TokensFrom
	WithTokens []protocol.KeyHash // children of Parent, from TokensFrom on
	Forged     protocol.KeyHash   // no child: somebody else accepted in Parent's name
}

// NewChain returns a chain with what is hard to tell of spent outputs: tokens of all
// kinds, values that are not round, transactions with many inputs, inputs from the
// same block. Its actions are signed in every way in which an author may sign, and
// one by somebody else.
func NewChain() (*Chain, Links) {
	key := regtest.KeyFromSeed
	miner, parent, forged := key("miner"), key("parent"), key("forged")
	single, crowd, merchant := key("single"), key("crowd"), key("merchant")
	holder, late := key("holder"), key("late")

	c := Genesis()
	for c.Height() < firstSpending-1 {
		c.Mine(miner)
	}

	outputs := []*wire.TxOut{holder.Output(1_000_000_001), single.Output(123_456_789), late.Output(29_000_000), forged.Output(6_000_007)}
	for i := range int64(5) {
		outputs = append(outputs, parent.Output(115_000_000+i))
	}
	for i := range int64(5) {
		outputs = append(outputs, crowd.Output(300+i)) // it takes all of them to pay a fee
	}
	for i := range int64(40) {
		outputs = append(outputs, merchant.Output(1+1001*i*i*i))
	}
	// Anyone can spend this, and claim to be anybody.
	outputs = append(outputs, wire.NewTxOut(5000, []byte{txscript.OP_2DROP, txscript.OP_1}, wire.TokenData{}))
	first := c.Block(1).Transactions[0]
	funding := spend([]input{{coin: regtest.CoinOf(first, 0), key: miner}}, outputs...)
	c.Mine(miner, funding)
	coins := func(from, count int) (coins []regtest.Coin) {
		for i := range count {
			coins = append(coins, regtest.CoinOf(funding, uint32(from+i)))
		}
		return coins
	}
	holders, singles, lates, forgeds := coins(0, 1), coins(1, 1), coins(2, 1), coins(3, 1)
	parents, crowds, merchants, claimed := coins(4, 5), coins(9, 5), coins(14, 40), coins(54, 1)[0]

	// A category is the id of the transaction whose output 0 is spent.
	outputs = []*wire.TxOut{holder.Output(900_000_000)}
	tokens := tokensOf(funding.TxHash())
	for i := range 4 * len(tokens) {
		outputs = append(outputs, wire.NewTxOut(int64(1000+i), holder.Script(), tokens[i%len(tokens)]))
	}
	minting := spend([]input{{coin: holders[0], key: holder}}, outputs...)
	held := func(i int) regtest.Coin { return regtest.CoinOf(minting, uint32(1+i)) }

	requestSingle := link(single, request(parent), singles...)
	requestCrowd := link(crowd, request(parent), crowds...)
	requestForged := link(forged, request(parent), forgeds...)
	c.Mine(miner, minting, requestSingle, requestCrowd, requestForged)

	var all []input
	for _, coin := range merchants {
		all = append(all, input{coin: coin, key: merchant})
	}
	many := spend(all, merchant.Output(600_000_003))
	child := childOf(many, merchant, +1) // behind its parent, as bchd has it below height 1000
	pretended := spend([]input{{coin: claimed, unlock: pretend(parent)}}, wire.NewTxOut(0, accept(requestForged), wire.TokenData{}))
	c.Mine(miner, many, child, pretended, linkSchnorr(parent, accept(requestSingle), parents[0]), link(parent, accept(requestCrowd), parents[1]))

	requestHolder := spend([]input{{coin: held(0), key: holder}, {coin: regtest.CoinOf(minting, 0), key: holder}},
		holder.Output(800_000_000), wire.NewTxOut(0, request(parent), wire.TokenData{}))
	requestLate := spend([]input{
		{coin: lates[0], key: late, hashType: coversUTXOs, schnorr: true},
		{coin: held(1), key: holder, hashType: coversUTXOs},
	}, late.Output(28_999_001), wire.NewTxOut(0, request(parent), wire.TokenData{}))
	// Each kind of token in input 0; and a transaction before the one that it spends.
	txs := []*wire.MsgTx{requestHolder, requestLate, childOf(requestLate, late, -1)}
	for i := range 3 * len(tokens) {
		hashType := []txscript.SigHashType{coversAll, coversUTXOs}[i%2]
		txs = append(txs, spend([]input{{coin: held(len(tokens) + i), key: holder, hashType: hashType}}, merchant.Output(546)))
	}
	c.Mine(miner, txs...)

	acceptHolder := spend([]input{
		{coin: parents[2], key: parent, hashType: coversUTXOs},
		{coin: held(2), key: holder},
		{coin: held(3), key: holder, schnorr: true},
		{coin: held(4), key: holder, hashType: coversUTXOs, schnorr: true},
	}, parent.Output(100_000_001), wire.NewTxOut(0, accept(requestHolder), wire.TokenData{}))
	c.Mine(miner, acceptHolder, link(parent, accept(requestLate), parents[3], parents[4]))
	c.Mine(miner)

	return c, Links{
		Parent: parent.Hash(), Forged: forged.Hash(),
		Children:   []protocol.KeyHash{single.Hash(), crowd.Hash()},
		WithTokens: []protocol.KeyHash{holder.Hash(), late.Hash()},
	}
}

// tokensOf returns tokens of all kinds.
func tokensOf(category chainhash.Hash) []wire.TokenData {
	const commitment = wire.HAS_NFT | wire.HAS_COMMITMENT_LENGTH
	return []wire.TokenData{
		{CategoryID: category, BitField: wire.HAS_AMOUNT, Amount: 1<<60 + 1}, // no float64
		{CategoryID: category, BitField: wire.HAS_NFT},
		{CategoryID: category, BitField: commitment, Commitment: bytes.Repeat([]byte{0xc0}, 40)},
		{CategoryID: category, BitField: commitment | wire.MUTABLE, Commitment: []byte{0}},
		{CategoryID: category, BitField: commitment | wire.MINTING | wire.HAS_AMOUNT, Commitment: []byte("mint"), Amount: 253},
	}
}

// request returns the script that asks to be the parent's child.
func request(parent *regtest.Key) []byte {
	return must(protocol.RequestScript(parent.Hash(), []byte("nodetest")))
}

func accept(request *wire.MsgTx) []byte { return must(protocol.AcceptScript(request.TxHash(), nil)) }

// link returns a transaction as the project makes them.
func link(author *regtest.Key, action []byte, coins ...regtest.Coin) *wire.MsgTx {
	l := unsigned(author, action, coins...)
	check(l.Sign(author.PrivateKey()))
	return l.Tx
}

// linkSchnorr returns the same, signed by somebody who likes Schnorr's signatures.
func linkSchnorr(author *regtest.Key, action []byte, coins ...regtest.Coin) *wire.MsgTx {
	l := unsigned(author, action, coins...)
	for i, s := range must(l.ToSign()) {
		signature := must(author.PrivateKey().SignSchnorr(s.Digest[:]))
		check(l.Attach(i, append(signature.Serialize(), byte(s.HashType)), author.PublicKey()))
	}
	return l.Tx
}

func unsigned(author *regtest.Key, action []byte, coins ...regtest.Coin) *protocol.RecordTx {
	funding := protocol.Funding{Author: author.Hash()}
	for _, coin := range coins {
		funding.UTXOs = append(funding.UTXOs, protocol.UTXO{OutPoint: coin.OutPoint, Value: coin.Output.Value, Script: coin.Output.PkScript})
	}
	return must(protocol.NewLinkTx(action, funding))
}

// childOf returns a transaction that spends output 0 of parent, and whose txid is
// above (+1) or below (-1) the parent's.
func childOf(parent *wire.MsgTx, key *regtest.Key, order int) *wire.MsgTx {
	id := parent.TxHash()
	for value := parent.TxOut[0].Value - 1000; ; value-- {
		tx := spend([]input{{coin: regtest.CoinOf(parent, 0), key: key}}, key.Output(value))
		if txid := tx.TxHash(); txid.Compare(&id) == order {
			return tx
		}
	}
}

// pretend returns what looks as if the key had signed.
func pretend(key *regtest.Key) []byte {
	signature := append(bytes.Repeat([]byte{0x30}, 70), byte(coversAll))
	return must(txscript.NewScriptBuilder().AddData(signature).AddData(key.PublicKey()).Script())
}

// input is a coin and how it is unlocked: by the key's signature, or without a key as
// it stands.
type input struct {
	coin     regtest.Coin
	key      *regtest.Key
	hashType txscript.SigHashType // 0: coversAll
	schnorr  bool
	unlock   []byte
}

// spend returns a signed transaction.
func spend(inputs []input, outputs ...*wire.TxOut) *wire.MsgTx {
	tx := wire.NewMsgTx(2)
	spent := txscript.NewUtxoCache()
	for i, in := range inputs {
		tx.AddTxIn(wire.NewTxIn(&in.coin.OutPoint, in.unlock))
		spent.AddEntry(i, in.coin.Output)
	}
	for _, out := range outputs {
		tx.AddTxOut(out)
	}
	hashes := txscript.NewTxSigHashes(tx)
	hashes.AddTxSigHashUtxoFromUtxoCache(tx, spent)
	for i, in := range inputs {
		if in.key != nil {
			tx.TxIn[i].SignatureScript = in.sign(tx, i, hashes)
		}
	}
	return tx
}

// sign returns the script that unlocks input i of the transaction.
func (in input) sign(tx *wire.MsgTx, i int, hashes *txscript.TxSigHashes) []byte {
	if in.hashType == 0 {
		in.hashType = coversAll
	}
	digest, _, err := txscript.CalcSignatureHash(in.coin.Output.PkScript, hashes, in.hashType, tx, i, in.coin.Output.Value, true)
	check(err)
	sign := in.key.PrivateKey().SignECDSA
	if in.schnorr {
		sign = in.key.PrivateKey().SignSchnorr
	}
	signature := append(must(sign(digest)).Serialize(), byte(in.hashType))
	return must(txscript.NewScriptBuilder().AddData(signature).AddData(in.key.PublicKey()).Script())
}

// must returns its function's result. What it is for can fail only by a mistake in
// this package.
func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		panic(fmt.Sprintf("making nodetest's chain: %v", err))
	}
}
