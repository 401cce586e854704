package indexer_test

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// writer writes a play by drawing what it leaves to chance.
type writer struct {
	t      *rapid.T
	people []*person
	kinds  []unlocking     // that it draws from
	txs    [][]*wire.MsgTx // by height
	acts   []*act
	change []ownCoin // not spent yet
	value  int64     // so that no two coins have the same
	start  int       // where the play begins; what is paid before cannot be remembered
}

// ownCoin is a coin with whose it is.
type ownCoin struct {
	regtest.Coin
	owner *person // nil: nobody's; how to unlock it does not matter
}

// newWriter begins with some blocks of some acts, that unlock their coins in one of
// the ways.
func newWriter(t *rapid.T, kinds []unlocking) *writer {
	w := &writer{t: t, kinds: kinds, txs: make([][]*wire.MsgTx, 1)}
	w.start = w.upTo("start height", 2)
	for _, name := range []string{"A", "B", "C"} {
		key := regtest.KeyFromSeed(name).PrivateKey()
		w.people = append(w.people, &person{key, key.PubKey().SerializeCompressed()}, &person{key, key.PubKey().SerializeUncompressed()})
	}
	for range max(1, w.start) + w.upTo("more blocks", 7) {
		w.txs = append(w.txs, nil)
		for range w.upTo("acts", 5) {
			w.act(scene{})
		}
	}
	return w
}

// upTo draws one of the numbers up to n.
func (w *writer) upTo(label string, n int) int { return rapid.IntRange(0, n).Draw(w.t, label) }

func (w *writer) oneIn(label string, n int) bool { return w.upTo(label, n-1) == n-1 }

func (w *writer) somebody(label string) *person {
	return rapid.SampledFrom(w.people).Draw(w.t, label)
}

// scene says what an act has to be like. What is zero is drawn.
type scene struct {
	unlocks  unlocking
	hashType txscript.SigHashType
	inputs   int
	token    bool // on each coin
	paid     bool // all that it spends has been paid before its block
}

// act adds an act to the last block.
func (w *writer) act(s scene) *act {
	if s.unlocks == 0 {
		s.unlocks = rapid.SampledFrom(w.kinds).Draw(w.t, "unlocks")
	}
	if s.inputs == 0 {
		s.inputs = 1 + w.upTo("more inputs", 2)
	}
	a := &act{height: uint32(len(w.txs) - 1), unlocks: s.unlocks, tx: wire.NewMsgTx(rapid.Int32().Draw(w.t, "version"))}
	a.hashType = s.hashType
	if a.hashType == 0 {
		a.hashType = rapid.SampledFrom(s.unlocks.hashTypes()).Draw(w.t, "hash type")
	}
	record := w.record(a)
	stolen := w.stolen(a, s)
	coins := w.coins(a, s)
	for _, coin := range coins {
		in := wire.NewTxIn(&coin.OutPoint, nil)
		in.Sequence = rapid.Uint32().Draw(w.t, "sequence")
		a.tx.AddTxIn(in)
		a.spends = append(a.spends, outputOf(&coin.Output))
	}
	change := w.pays(a.actor.hash(), false)
	outputs := []*wire.TxOut{change, record}
	if w.oneIn("pays somebody", 3) {
		outputs = append(outputs, w.pays(w.somebody("payee").hash(), false))
	}
	a.tx.TxOut = rapid.Permutation(outputs).Draw(w.t, "outputs")
	a.tx.LockTime = rapid.Uint32().Draw(w.t, "lock time")
	for i := range coins {
		a.tx.TxIn[i].SignatureScript = w.unlock(a, coins, i, stolen)
	}
	at := uint32(slices.Index(a.tx.TxOut, change))
	w.change = append(w.change, ownCoin{regtest.CoinOf(a.tx, at), a.actor})
	w.acts = append(w.acts, a)
	w.txs[a.height] = append(w.txs[a.height], a.tx)
	return a
}

// actAll adds a block with acts of all kinds that can be lied about, or of all that a
// pruned node can tell.
func (w *writer) actAll(pruned bool) {
	scenes := []scene{
		{unlocks: signs, hashType: 0x41}, {unlocks: signs, hashType: 0x41, token: true}, {unlocks: signs, hashType: 0x61, inputs: 2},
		{unlocks: signs, hashType: 0x61, inputs: 3, token: true}, {unlocks: makesUp}, {unlocks: makesUp, token: true}, {unlocks: steals},
	}
	if !pruned {
		scenes = append(scenes, scene{unlocks: signsOld}, scene{unlocks: signsOld, hashType: 0x21, inputs: 2})
	}
	w.txs = append(w.txs, nil)
	for _, s := range scenes {
		s.paid = true
		w.act(s)
	}
}

// record draws what is done, and who does it: mostly somebody from whom that means
// something.
func (w *writer) record(a *act) *wire.TxOut {
	a.actor = w.somebody("actor")
	message := rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(w.t, "message")
	var requests, accepts []*act
	for _, a := range w.acts {
		switch a.action.Kind {
		case protocol.MLR:
			requests = append(requests, a)
		case protocol.MLA:
			accepts = append(accepts, a)
		}
	}
	kind := rapid.SampledFrom([]protocol.Kind{protocol.MLR, protocol.MLA, protocol.MLA, protocol.MCR, 0}).Draw(w.t, "kind")
	var script []byte
	switch {
	case kind == 0:
		head := sha256.Sum256(message)
		anchor := protocol.Anchor{Domain: "example.org", Position: uint64(len(w.acts)), Head: head, Root: head}
		script = need(anchor.Script())(w.t)
		return wire.NewTxOut(0, script, wire.TokenData{})
	case kind == protocol.MLA && len(requests) > 0:
		to := rapid.SampledFrom(requests).Draw(w.t, "request")
		a.action = protocol.Action{Kind: kind, Ref: protocol.RefersTo(to.tx.TxHash())}
		if i := slices.IndexFunc(w.people, func(p *person) bool { return p.hash() == to.action.Parent }); !w.oneIn("meddles", 4) {
			a.actor = w.people[i]
		}
		script = need(protocol.AcceptScript(to.tx.TxHash(), message))(w.t)
	case kind == protocol.MCR && len(accepts) > 0:
		to := rapid.SampledFrom(accepts).Draw(w.t, "accept")
		a.action = protocol.Action{Kind: kind, Ref: protocol.RefersTo(to.tx.TxHash())}
		if !w.oneIn("meddles", 4) {
			a.actor = to.actor
		}
		script = need(protocol.RevokeScript(to.tx.TxHash(), message))(w.t)
	default:
		a.action = protocol.Action{Kind: protocol.MLR, Parent: w.somebody("parent").hash()}
		script = need(protocol.RequestScript(a.action.Parent, message))(w.t)
	}
	if len(message) > 0 {
		a.action.Message = message
	}
	return wire.NewTxOut(0, script, wire.TokenData{})
}

// stolen returns the scriptSig that the act steals, nil if it does not.
func (w *writer) stolen(a *act, s scene) []byte {
	if a.unlocks != steals {
		return nil
	}
	var victims []*act
	for _, v := range w.acts {
		if v.unlocks == signs && (s.hashType == 0 || s.hashType == v.hashType) {
			victims = append(victims, v)
		}
	}
	if len(victims) == 0 {
		a.unlocks = makesUp
		return nil
	}
	victim := rapid.SampledFrom(victims).Draw(w.t, "victim")
	a.actor, a.hashType = victim.actor, victim.hashType
	return victim.tx.TxIn[0].SignatureScript
}

// coins returns what the act spends: change, or what a payment in its block or one
// before makes.
func (w *writer) coins(a *act, s scene) []ownCoin {
	coins := make([]ownCoin, s.inputs)
	payment := wire.NewMsgTx(2)
	payment.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Hash: chainhash.HashH(fmt.Append(nil, w.value))}})
	var paid []*ownCoin
	for i := range coins {
		coin := &coins[i]
		coin.owner = a.actor
		if i > 0 && w.oneIn("somebody's", 2) {
			coin.owner = w.somebody("owner")
		}
		if (i > 0 || a.unlocks.signed()) && !s.paid && w.takeChange(coin) {
			continue
		}
		out := w.pays(coin.owner.hash(), s.token)
		if script := w.otherScript(a, i); script != nil {
			out.PkScript, coin.owner = script, nil
		}
		payment.AddTxOut(out)
		paid = append(paid, coin)
	}
	for i, coin := range paid {
		coin.Coin = regtest.CoinOf(payment, uint32(i))
	}
	if len(paid) > 0 {
		last := int(a.height)
		if s.paid {
			last--
		}
		height := last - w.upTo("blocks ago", last-1)
		if w.start > 1 && w.oneIn("paid before the start", 2) {
			height = 1
		}
		w.txs[height] = append(w.txs[height], payment)
	}
	return coins
}

// takeChange makes the coin one that its owner got back.
func (w *writer) takeChange(coin *ownCoin) bool {
	at := slices.IndexFunc(w.change, func(c ownCoin) bool { return c.owner == coin.owner })
	if at < 0 || !w.oneIn("spends change", 3) {
		return false
	}
	*coin = w.change[at]
	w.change = slices.Delete(w.change, at, at+1)
	return true
}

// pays returns an output to the key, with a token if it must, or by chance.
func (w *writer) pays(key protocol.KeyHash, token bool) *wire.TxOut {
	w.value += 1000
	out := wire.NewTxOut(w.value+int64(w.upTo("value", 999)), protocol.P2PKHScript(key), wire.TokenData{})
	if token || w.oneIn("token", 4) {
		out.TokenData = drawToken(w.t)
	}
	return out
}

func drawToken(t *rapid.T) wire.TokenData {
	token := wire.TokenData{CategoryID: chainhash.HashH(rapid.SliceOfN(rapid.Byte(), 0, 4).Draw(t, "category"))}
	if rapid.Bool().Draw(t, "amount") {
		token.BitField, token.Amount = wire.HAS_AMOUNT, rapid.Uint64Range(1, wire.MAX_FT_AMOUNT).Draw(t, "tokens")
	}
	if token.BitField == 0 || rapid.Bool().Draw(t, "nft") {
		token.BitField |= wire.HAS_NFT | rapid.SampledFrom([]byte{wire.NONE, wire.MUTABLE, wire.MINTING}).Draw(t, "capability")
		if token.Commitment = rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "commitment"); len(token.Commitment) > 0 {
			token.BitField |= wire.HAS_COMMITMENT_LENGTH
		}
	}
	return token
}

// otherScript returns the locking script of the coin of an input if that is not P2PKH
// of its owner.
func (w *writer) otherScript(a *act, input int) []byte {
	hash := a.actor.hash()
	p2sh := append(append([]byte{txscript.OP_HASH160, txscript.OP_DATA_20}, hash[:]...), txscript.OP_EQUAL)
	p2pk := append(append([]byte{byte(len(a.actor.public))}, a.actor.public...), txscript.OP_CHECKSIG)
	var scripts [][]byte
	switch {
	case input == 0 && a.unlocks.signed():
		return nil
	case input == 0 && a.isFalse():
		scripts = [][]byte{{txscript.OP_2DROP, txscript.OP_1}, append([]byte{txscript.OP_2DROP}, protocol.P2PKHScript(hash)...), append(protocol.P2PKHScript(hash), txscript.OP_NOP), p2pk}
	default:
		scripts = [][]byte{nil, {txscript.OP_1}, p2sh, p2pk}
	}
	return rapid.SampledFrom(scripts).Draw(w.t, "script")
}

// unlock returns the scriptSig of an input.
func (w *writer) unlock(a *act, coins []ownCoin, input int, stolen []byte) []byte {
	switch owner := coins[input].owner; {
	case input == 0 && stolen != nil:
		return stolen
	case input == 0 && a.unlocks == makesUp:
		madeUp := rapid.SliceOfN(rapid.Byte(), 8, 72).Draw(w.t, "signature")
		return need(txscript.NewScriptBuilder().AddData(append(madeUp, byte(a.hashType))).AddData(a.actor.public).Script())(w.t)
	case owner == nil:
		return rapid.SampledFrom([][]byte{nil, {txscript.OP_1}, append([]byte{60}, make([]byte, 60)...)}).Draw(w.t, "unlock")
	case input > 0:
		return w.sign(a.tx, coins, input, 0x41, false)
	case a.unlocks == unlocksElse:
		return append([]byte{txscript.OP_1}, w.sign(a.tx, coins, input, a.hashType, false)...)
	default:
		return w.sign(a.tx, coins, input, a.hashType, a.unlocks == signsWrong)
	}
}

// sign returns the scriptSig by which the owner of the input's coin signs the
// transaction, or something else.
func (w *writer) sign(tx *wire.MsgTx, coins []ownCoin, input int, hashType txscript.SigHashType, wrong bool) []byte {
	cache := txscript.NewUtxoCache()
	for i, coin := range coins {
		cache.AddEntry(i, coin.Output)
	}
	hashes := txscript.NewTxSigHashes(tx)
	hashes.AddTxSigHashUtxoFromUtxoCache(tx, cache)
	coin := coins[input]
	digest, _, err := txscript.CalcSignatureHash(coin.Output.PkScript, hashes, hashType, tx, input, coin.Output.Value, hashType&txscript.SigHashForkID != 0)
	if err != nil {
		w.t.Fatal(err)
	}
	if wrong {
		digest = chainhash.HashB(digest)
	}
	sign := coin.owner.private.SignECDSA
	if rapid.Bool().Draw(w.t, "Schnorr") {
		sign = coin.owner.private.SignSchnorr
	}
	signature := need(sign(digest))(w.t)
	return need(txscript.NewScriptBuilder().AddData(append(signature.Serialize(), byte(hashType))).AddData(coin.owner.public).Script())(w.t)
}

// play makes blocks of all that was written.
func (w *writer) play() *play {
	p := &play{start: uint32(w.start), blocks: []*wire.MsgBlock{regtest.Params.GenesisBlock}, acts: w.acts, byTxID: make(map[chainhash.Hash]*act), outputs: make(map[wire.OutPoint]protocol.Output)}
	for _, a := range w.acts {
		p.byTxID[a.tx.TxHash()] = a
	}
	for height, txs := range w.txs[1:] {
		txs = rapid.Permutation(txs).Draw(w.t, "order")
		p.blocks = append(p.blocks, fakeBlock(p.blocks[height].BlockHash(), uint32(height)+1, txs...))
		for _, tx := range txs {
			for i, out := range tx.TxOut {
				p.outputs[wire.OutPoint{Hash: tx.TxHash(), Index: uint32(i)}] = outputOf(out)
			}
		}
	}
	return p
}
