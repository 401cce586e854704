package vectors

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/gcash/bchd/blockchain"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

var update = flag.Bool("update", false, "write the corpus anew")

// TestGenerated finds that the blocks of the corpus are what its generator makes, byte for byte; or
// writes them, with what keytree makes of them.
func TestGenerated(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	var written []string
	for _, s := range scripts() {
		name := s.name + ".json"
		written = append(written, name)
		c := s.write(t)
		if *update {
			c.observe(play(t, c))
			save(t, name, c)
			continue
		}
		was := load(t, name)
		for i := range min(len(c.Steps), len(was.Steps)) {
			is := &c.Steps[i]
			about, connect, disconnect, txs := is.About, is.Connect, is.Disconnect, is.Txs
			*is = was.Steps[i] // TestCorpus compares the rest
			is.About, is.Connect, is.Disconnect, is.Txs = about, connect, disconnect, txs
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(text, encoded(t, c)) {
			t.Errorf("%s is not what the generator makes: go test ./protocol/vectors -run TestGenerated -update", name)
		}
	}
	slices.Sort(written)
	if have := files(t); !slices.Equal(have, written) {
		t.Errorf("there are the files %v, and cases of %v", have, written)
	}
}

// observe fills in what keytree makes of each step.
func (c *Case) observe(run []seen) {
	for i, s := range run {
		step := &c.Steps[i]
		step.Height, step.Block, step.Effects, step.StateHash, step.StateRoot = s.height, s.block, s.effects, s.stateHash, s.stateRoot
	}
}

func encoded(t *testing.T, c *Case) []byte {
	t.Helper()
	var text bytes.Buffer
	to := json.NewEncoder(&text)
	to.SetEscapeHTML(false)
	to.SetIndent("", " ")
	if err := to.Encode(c); err != nil {
		t.Fatal(err)
	}
	return text.Bytes()
}

func save(t *testing.T, name string, c *Case) {
	t.Helper()
	if err := os.WriteFile(name, encoded(t, c), 0o644); err != nil {
		t.Fatal(err)
	}
}

// script is how a case is made.
type script struct {
	name, about string
	plot        func(*chain)
}

func (s script) write(t *testing.T) *Case {
	t.Helper()
	c := &chain{
		t: t, made: Case{About: s.about, Network: regtest.Params.Name}, keys: make(map[string]*regtest.Key),
		coins: make(map[string][]coin), about: make(map[chainhash.Hash]string),
	}
	c.connect(regtest.Params.GenesisBlock, "the network's genesis block")
	s.plot(c)
	return &c.made
}

// chain is a case in the making. Keys have names, and are the same in each case.
type chain struct {
	t      *testing.T
	made   Case
	keys   map[string]*regtest.Key
	coins  map[string][]coin // of each name, to be spent
	about  map[chainhash.Hash]string
	tips   []chainhash.Hash // by height
	blocks uint32           // that were made, so that no two are the same
	paid   int64            // so that no two coins are
}

// coin is an output, and who can spend it. The key may be nil.
type coin struct {
	regtest.Coin
	key *regtest.Key
}

func (c *chain) key(name string) *regtest.Key {
	if c.keys[name] == nil {
		c.keys[name] = regtest.KeyFromSeed(name)
	}
	return c.keys[name]
}

func (c *chain) hash(name string) protocol.KeyHash { return c.key(name).Hash() }

// fund makes a block whose coinbase pays n coins to each name.
func (c *chain) fund(n int, names ...string) {
	var outputs []*wire.TxOut
	for _, name := range names {
		for range n {
			outputs = append(outputs, c.pays(c.key(name).Script()))
		}
	}
	coins := c.fundOutputs(outputs...)
	for i, name := range names {
		for _, out := range coins[i*n : (i+1)*n] {
			c.coins[name] = append(c.coins[name], coin{out, c.key(name)})
		}
	}
}

// fundOutputs makes a block whose coinbase has the outputs, and returns them as coins.
func (c *chain) fundOutputs(outputs ...*wire.TxOut) (coins []regtest.Coin) {
	b := c.mine("coins", outputs)
	for i := range outputs {
		coins = append(coins, regtest.CoinOf(b.Transactions[0], uint32(i)))
	}
	return coins
}

func (c *chain) pays(script []byte) *wire.TxOut {
	c.paid++
	return wire.NewTxOut(100_000+c.paid, script, wire.TokenData{})
}

// take returns a coin of the name.
func (c *chain) take(name string) coin {
	if len(c.coins[name]) == 0 {
		c.t.Fatalf("%q: %s has no coins left", c.made.About, name)
	}
	own := c.coins[name]
	c.coins[name] = own[1:]
	return own[0]
}

// block puts a block of the transactions, in this order, at the end of the chain.
func (c *chain) block(about string, txs ...*wire.MsgTx) { c.mine(about, nil, txs...) }

func (c *chain) mine(about string, coinbase []*wire.TxOut, txs ...*wire.MsgTx) *wire.MsgBlock {
	c.blocks++
	height := len(c.tips)
	b := wire.NewMsgBlock(&wire.BlockHeader{
		Version: 1, PrevBlock: c.tips[height-1], Timestamp: time.Unix(1_700_000_000+600*int64(c.blocks), 0), Bits: regtest.Params.PowLimitBits,
	})
	first := wire.NewMsgTx(1)
	first.AddTxIn(&wire.TxIn{
		PreviousOutPoint: wire.OutPoint{Index: math.MaxUint32}, Sequence: math.MaxUint32,
		SignatureScript: binary.LittleEndian.AppendUint32([]byte{4}, c.blocks),
	})
	for _, out := range coinbase {
		first.AddTxOut(out)
	}
	if coinbase == nil {
		first.AddTxOut(c.pays([]byte{txscript.OP_1}))
	}
	for _, tx := range append([]*wire.MsgTx{first}, txs...) {
		b.AddTransaction(tx)
	}
	tree := blockchain.BuildMerkleTreeStore(bchutil.NewBlock(b).Transactions())
	b.Header.MerkleRoot = *tree[len(tree)-1]
	regtest.Solve(&b.Header)
	c.connect(b, about)
	return b
}

func (c *chain) connect(b *wire.MsgBlock, about string) {
	var raw bytes.Buffer
	if err := b.Serialize(&raw); err != nil {
		c.t.Fatal(err)
	}
	step := Step{About: about, Connect: raw.Bytes()}
	for _, tx := range b.Transactions {
		if about := c.about[tx.TxHash()]; about != "" {
			step.Txs = append(step.Txs, Tx{Hash(tx.TxHash()), about})
		}
	}
	c.made.Steps = append(c.made.Steps, step)
	c.tips = append(c.tips, b.BlockHash())
}

// takeBack takes the last n blocks back.
func (c *chain) takeBack(n int) {
	for range n {
		c.tips = c.tips[:len(c.tips)-1]
		c.made.Steps = append(c.made.Steps, Step{Disconnect: true})
	}
}

// again connects a block once more that was taken back: that of a step.
func (c *chain) again(step int) {
	b := new(wire.MsgBlock)
	if err := b.Deserialize(bytes.NewReader(c.made.Steps[step].Connect)); err != nil {
		c.t.Fatal(err)
	}
	c.connect(b, "a block that was taken back before")
}

// input is a coin, and how it is unlocked. Without anything else its key signs for all outputs.
type input struct {
	coin
	hashType     txscript.SigHashType
	schnorr      bool
	uncompressed bool
	madeUp       []byte                                   // not nil: in place of a signature, without its hash type
	form         func(signature, publicKey []byte) []byte // the scriptSig, other than by two direct pushes
}

// tx makes a transaction.
func (c *chain) tx(about string, inputs []input, outputs ...*wire.TxOut) *wire.MsgTx {
	tx := wire.NewMsgTx(2)
	cache := txscript.NewUtxoCache()
	for i, in := range inputs {
		tx.AddTxIn(wire.NewTxIn(&in.OutPoint, nil))
		cache.AddEntry(i, in.Output)
	}
	for _, out := range outputs {
		tx.AddTxOut(out)
	}
	hashes := txscript.NewTxSigHashes(tx)
	hashes.AddTxSigHashUtxoFromUtxoCache(tx, cache)
	for i, in := range inputs {
		tx.TxIn[i].SignatureScript = c.unlock(tx, i, &in, hashes)
	}
	c.about[tx.TxHash()] = about
	return tx
}

func (c *chain) unlock(tx *wire.MsgTx, i int, in *input, hashes *txscript.TxSigHashes) []byte {
	if in.key == nil {
		return []byte{txscript.OP_1}
	}
	hashType := in.hashType
	if hashType == 0 && in.madeUp == nil {
		hashType = txscript.SigHashAll | txscript.SigHashForkID
	}
	signature := in.madeUp
	if signature == nil {
		digest, _, err := txscript.CalcSignatureHash(in.Output.PkScript, hashes, hashType, tx, i, in.Output.Value, hashType&txscript.SigHashForkID != 0)
		if err != nil {
			c.t.Fatal(err)
		}
		sign := in.key.PrivateKey().SignECDSA
		if in.schnorr {
			sign = in.key.PrivateKey().SignSchnorr
		}
		made, err := sign(digest)
		if err != nil {
			c.t.Fatal(err)
		}
		signature = made.Serialize()
	}
	signature = append(slices.Clone(signature), byte(hashType))
	public := in.key.PublicKey()
	if in.uncompressed {
		public = in.key.PrivateKey().PubKey().SerializeUncompressed()
	}
	if in.form != nil {
		return in.form(signature, public)
	}
	return slices.Concat(push(signature), push(public))
}

// push is a direct push of an item.
func push(item []byte) []byte { return append([]byte{byte(len(item))}, item...) }

// record is an output with a script that nobody can spend.
func record(script []byte) *wire.TxOut { return wire.NewTxOut(0, script, wire.TokenData{}) }

// act makes a transaction in which a name does what a script says. Its output 0 pays the name.
func (c *chain) act(about, name string, script []byte) *wire.MsgTx {
	return c.tx(about, []input{{coin: c.take(name)}}, c.pays(c.key(name).Script()), record(script))
}

// The three actions' prefixes.
var (
	mlr = []byte{0x6a, 0x02, 0x6d, 0x20}
	mla = []byte{0x6a, 0x02, 0x6d, 0x21}
	mcr = []byte{0x6a, 0x02, 0x6d, 0x22}
)

// displayed is a txid in the order in which it is shown, and writers push it.
func displayed(tx *wire.MsgTx) []byte {
	id := tx.TxHash()
	slices.Reverse(id[:])
	return id[:]
}

func internal(tx *wire.MsgTx) []byte {
	id := tx.TxHash()
	return id[:]
}

func (c *chain) request(child, parent string) *wire.MsgTx {
	hash := c.hash(parent)
	return c.act(fmt.Sprintf("MLR: %s asks %s", child, parent), child, slices.Concat(mlr, push(hash[:])))
}

func (c *chain) accept(by string, request *wire.MsgTx) *wire.MsgTx {
	return c.act(fmt.Sprintf("MLA by %s of (%s)", by, c.about[request.TxHash()]), by, slices.Concat(mla, push(displayed(request))))
}

func (c *chain) revoke(by string, accept *wire.MsgTx) *wire.MsgTx {
	return c.act(fmt.Sprintf("MCR by %s of (%s)", by, c.about[accept.TxHash()]), by, slices.Concat(mcr, push(displayed(accept))))
}

// link makes a request and its accept.
func (c *chain) link(child, parent string) (request, accept *wire.MsgTx) {
	request = c.request(child, parent)
	return request, c.accept(parent, request)
}

// anchor is an anchor's script. Its head and root are made of the word.
func (c *chain) anchor(domain string, position uint64, word string) []byte {
	a := protocol.Anchor{Domain: domain, Position: position, Head: sha256.Sum256([]byte("head " + word)), Root: sha256.Sum256([]byte("root " + word))}
	script, err := a.Script()
	if err != nil {
		c.t.Fatal(err)
	}
	return script
}
