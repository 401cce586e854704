package chain

import (
	"bytes"
	"fmt"
	"math/rand/v2"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/protocol"
)

// coin is an output that its owner can spend.
type coin struct {
	out   wire.OutPoint
	value int64 // satoshi
	owner *key
}

// Values in satoshi.
const (
	dust = 546
	// poor is what a coin is worth that is spent together with another.
	poor = 5_000
	// share is about what each coin gets when the first ones are spread.
	share = 20_000
	// stake is what a new actor gets, enough for some hundred actions.
	stake = 50_000
	// actorNeeds is the least that an actor's coin must have for one more action.
	actorNeeds = 2_000
)

// transaction is one in the making. Only sign is called concurrently.
type transaction struct {
	*wire.MsgTx
	spends []coin
	size   int64 // bytes, at most
	fee    int64 // satoshi: one for each byte of size

	// What to do with the outputs when the txid is known.
	coins  []coin   // of the pool; of out only the index is set
	actors []*actor // new ones, each with its coin like that
	author *actor   // whose coin becomes the change, in output 0
	sealed func(chainhash.Hash)

	raw  []byte // set by sign, as is
	txid chainhash.Hash
}

func newTransaction(spends ...coin) *transaction {
	t := &transaction{MsgTx: wire.NewMsgTx(2), spends: spends, size: 4 + 1 + 1 + 4}
	for _, c := range spends {
		t.AddTxIn(wire.NewTxIn(&c.out, nil))
		t.size += c.owner.inputSize()
	}
	return t
}

func (t *transaction) add(out *wire.TxOut) (index uint32) {
	t.AddTxOut(out)
	t.size += int64(out.SerializeSize())
	if len(t.TxOut) == 0xfd {
		t.size += 2 // the count gets longer
	}
	if !out.TokenData.IsEmpty() {
		token := out.TokenData.TokenDataBuffer()
		t.size += int64(token.Len()) + 2
	}
	return uint32(len(t.TxOut) - 1)
}

// left returns what is not yet spent if the outputs added are all but one to a
// key.
func (t *transaction) left() int64 {
	value := -(t.size + 34)
	for _, c := range t.spends {
		value += c.value
	}
	for _, out := range t.TxOut {
		value -= out.Value
	}
	return value
}

// pay adds an output of value to owner, which becomes a coin of the pool.
func (t *transaction) pay(owner *key, value int64) {
	index := t.add(owner.output(value))
	t.coins = append(t.coins, coin{out: wire.OutPoint{Index: index}, value: value, owner: owner})
}

// finish sets the fee: what the outputs leave.
func (t *transaction) finish() *transaction {
	for _, c := range t.spends {
		t.fee += c.value
	}
	for _, out := range t.TxOut {
		t.fee -= out.Value
	}
	return t
}

// sign signs and serializes.
func (t *transaction) sign(s *signer) error {
	if err := s.sign(t.MsgTx, t.spends); err != nil {
		return err
	}
	var raw bytes.Buffer
	raw.Grow(int(t.size))
	if err := t.Serialize(&raw); err != nil {
		return fmt.Errorf("transaction: %w", err)
	}
	t.raw = raw.Bytes()
	t.txid = chainhash.DoubleHashH(t.raw)
	return nil
}

// wallet makes transactions of the coins that everybody but the actors has.
type wallet struct {
	rng  *rand.Rand
	keys []*key
	pool []coin
	want int // how many coins the pool is to have
}

func (w *wallet) someKey() *key { return w.keys[w.rng.IntN(len(w.keys))] }

// take takes coins of the pool, one or more as it takes to get value. It fails
// if there are no more, with the coins back in the pool.
func (w *wallet) take(value int64) ([]coin, bool) {
	var taken []coin
	for have := int64(0); have < value; {
		if len(w.pool) == 0 {
			w.pool = append(w.pool, taken...)
			return nil, false
		}
		i, last := w.rng.IntN(len(w.pool)), len(w.pool)-1
		taken = append(taken, w.pool[i])
		have += w.pool[i].value - w.pool[i].owner.inputSize()
		w.pool[i] = w.pool[last]
		w.pool = w.pool[:last]
	}
	return taken, true
}

// spread divides a coin among at most n keys.
func (w *wallet) spread(c coin, n int) *transaction {
	t := newTransaction(c)
	n = max(1, min(n, int(c.value/share)))
	each := (c.value - t.size - int64(n)*34) / int64(n)
	for range n {
		t.pay(w.someKey(), each)
	}
	return t.finish()
}

// payment has one input, or more if the first is poor, and two outputs: what is
// paid and the change. Payments to keys outside keep the pool from growing.
func (w *wallet) payment() (*transaction, bool) {
	spends, ok := w.take(poor)
	if !ok {
		return nil, false
	}
	t := newTransaction(spends...)
	if len(w.pool) > w.want {
		t.add(wire.NewTxOut(dust+w.rng.Int64N(poor-4*dust), w.outside(), wire.TokenData{}))
	} else {
		t.pay(w.someKey(), t.left()/2)
	}
	t.pay(w.someKey(), t.left())
	return t.finish(), true
}

// outside is the locking script of somebody who keeps what he gets.
func (w *wallet) outside() []byte { return p2pkh(protocol.KeyHash(random(w.rng, 20))) }

// onboard pays the stake of a new actor.
func (w *wallet) onboard(a *actor) (*transaction, bool) {
	spends, ok := w.take(stake + poor)
	if !ok {
		return nil, false
	}
	t := newTransaction(spends...)
	index := t.add(a.output(stake))
	a.coin = coin{out: wire.OutPoint{Index: index}, value: stake, owner: a.key}
	t.actors = append(t.actors, a)
	t.pay(w.someKey(), t.left())
	return t.finish(), true
}

// publish spends an actor's coin on an output without value. The change comes
// first, as in protocol.NewLinkTx.
func publish(a *actor, script []byte, sealed func(chainhash.Hash)) *transaction {
	t := newTransaction(a.coin)
	t.author, t.sealed = a, sealed
	record := wire.NewTxOut(0, script, wire.TokenData{})
	change := t.left() - int64(record.SerializeSize())
	t.add(a.output(change))
	t.add(record)
	a.coin = coin{value: change, owner: a.key}
	a.broke = change < actorNeeds
	return t.finish()
}

// mixed is one of what else there is on the chain, in about its proportion.
func (w *wallet) mixed() (*transaction, bool) {
	switch roll := w.rng.IntN(100); {
	case roll < 9:
		return w.token()
	case roll < 18:
		return w.record(memoPost(w.rng), false)
	case roll < 22:
		return w.record(slpLike(w.rng), true)
	case roll < 26:
		return w.scriptHash()
	case roll < 29:
		return w.consolidation()
	case roll < 32:
		return w.batch()
	}
	return w.payment()
}

// token makes a new category (CHIP-2022-02): the txid of an output 0 that the
// transaction spends. See the package comment for why it stays where it is.
func (w *wallet) token() (*transaction, bool) {
	spends, ok := w.take(2 * poor)
	if !ok {
		return nil, false
	}
	for i, c := range spends {
		if c.out.Index != 0 {
			continue
		}
		spends[0], spends[i] = spends[i], spends[0]
		t := newTransaction(spends...)
		for range 1 + w.rng.IntN(3) {
			token := wire.TokenData{CategoryID: spends[0].out.Hash}
			kind := w.rng.IntN(3)
			if kind != 0 {
				token.BitField, token.Amount = wire.HAS_AMOUNT, 1+uint64(w.rng.Uint32())
			}
			if kind != 1 {
				token.BitField |= wire.HAS_NFT | wire.HAS_COMMITMENT_LENGTH | []byte{wire.NONE, wire.MUTABLE, wire.MINTING}[w.rng.IntN(3)]
				token.Commitment = random(w.rng, 1+w.rng.IntN(40))
			}
			t.add(wire.NewTxOut(2*dust, w.someKey().script, token))
		}
		t.pay(w.someKey(), t.left())
		return t.finish(), true
	}
	w.pool = append(w.pool, spends...)
	return w.payment()
}

// record writes an OP_RETURN script: behind the change, or first and followed by
// an output for whom it is about.
func (w *wallet) record(script []byte, first bool) (*transaction, bool) {
	spends, ok := w.take(poor)
	if !ok {
		return nil, false
	}
	t := newTransaction(spends...)
	out := wire.NewTxOut(0, script, wire.TokenData{})
	if first {
		t.add(out)
		t.add(w.someKey().output(dust))
		t.pay(w.someKey(), t.left())
	} else {
		t.pay(w.someKey(), t.left()-int64(out.SerializeSize()))
		t.add(out)
	}
	return t.finish(), true
}

// scriptHash pays to a P2SH output, of 20 or 32 bytes.
func (w *wallet) scriptHash() (*transaction, bool) {
	spends, ok := w.take(poor)
	if !ok {
		return nil, false
	}
	script := append(append([]byte{txscript.OP_HASH160, txscript.OP_DATA_20}, random(w.rng, 20)...), txscript.OP_EQUAL)
	if w.rng.IntN(2) == 0 {
		script = append(append([]byte{txscript.OP_HASH256, txscript.OP_DATA_32}, random(w.rng, 32)...), txscript.OP_EQUAL)
	}
	t := newTransaction(spends...)
	t.add(wire.NewTxOut(2*dust, script, wire.TokenData{}))
	t.pay(w.someKey(), t.left())
	return t.finish(), true
}

// consolidation makes one coin of many.
func (w *wallet) consolidation() (*transaction, bool) {
	var spends []coin
	for range 3 + w.rng.IntN(15) {
		more, ok := w.take(poor)
		if !ok {
			break
		}
		spends = append(spends, more...)
	}
	if len(spends) == 0 {
		return nil, false
	}
	t := newTransaction(spends...)
	t.pay(w.someKey(), t.left())
	return t.finish(), true
}

// batch pays many at once.
func (w *wallet) batch() (*transaction, bool) {
	n := 3 + w.rng.Int64N(20)
	spends, ok := w.take((n + 2) * poor)
	if !ok {
		return nil, false
	}
	t := newTransaction(spends...)
	for range n {
		t.pay(w.someKey(), poor)
	}
	t.pay(w.someKey(), t.left())
	return t.finish(), true
}

// memoPost is an OP_RETURN of the memo protocol (0x6d02, a post).
func memoPost(rng *rand.Rand) []byte {
	return push([]byte{txscript.OP_RETURN, txscript.OP_DATA_2, 0x6d, 0x02}, text(rng, 2+rng.IntN(200)))
}

// slpLike is an OP_RETURN of the form of a Simple Ledger send, of a token that
// nobody made.
func slpLike(rng *rand.Rand) []byte {
	script := push([]byte{txscript.OP_RETURN}, []byte("SLP\x00"))
	script = push(script, []byte{1}, []byte("SEND"), random(rng, 32))
	for range 1 + rng.IntN(3) {
		script = push(script, append(make([]byte, 4), random(rng, 4)...))
	}
	return script
}

// push appends pushes of items of 1 to 255 bytes, as SLP wants them: direct, or
// OP_PUSHDATA1.
func push(script []byte, items ...[]byte) []byte {
	for _, item := range items {
		if len(item) > txscript.OP_DATA_75 {
			script = append(script, txscript.OP_PUSHDATA1)
		}
		script = append(append(script, byte(len(item))), item...)
	}
	return script
}

func random(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func text(rng *rand.Rand, n int) []byte {
	const letters = "etaoin shrdlu etaoin shrdlu cmfwyp vbgkqjxz "
	b := make([]byte, n)
	for i := range b {
		b[i] = letters[rng.IntN(len(letters))]
	}
	return b
}
