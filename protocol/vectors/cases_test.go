package vectors

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// scripts are the cases of the corpus, but for those of anchors and chance.
func scripts() []script {
	return []script{
		{"wire", "The bytes of actions (SPEC.md §1): pushes, malformed actions, and what is no action at all. B asks A throughout.", wireForms},
		{"tokens", "CashTokens prefixes before actions, and before the output that is spent (SPEC.md §1, §2): the valid ones are stripped. B asks A throughout.", tokens},
		{"hashtypes", "Which hash types make an author (SPEC.md §2). B asks A throughout; 01, 21, 41 and 61 are authors.", hashTypes},
		{"authors", "What else makes an author (SPEC.md §2): forms of the scriptSig and of the output that is spent. B asks A throughout.", authors},
		{"refused", "Every reason to refuse an action, and which comes first if several apply (SPEC.md §3).", refused},
		{"references", "References in display order and in internal order, of actions that are confirmed, or come later, or stand in the same block (SPEC.md §1, §3).", references},
		{"waiting", "Actions that wait, what releases them, and when (SPEC.md §3, §4).", waiting},
		{"order", "The same transactions in a block, in every order: the phases of SPEC.md §4 make the same of them.", order},
		{"ties", "What the order in a block does decide: conflicting accepts, two revokes of a link, which request names a tree, and which id is the older (SPEC.md §4).", ties},
		{"merges", "Identities that join: the older id survives, wherever it comes from (SPEC.md §5).", merges},
		{"cuts", "Links that are cut: leaves, branches, roots that are replaced, branches that return (SPEC.md §5).", cuts},
		{"reorganisation", "Blocks that are taken back, and other branches (SPEC.md §8).", reorganisation},
		{"anchorforms", "The bytes of anchors (SPEC.md §10), and what is none.", anchorForms},
		{"anchors", "Chains of anchors, every way to break one, and their order in a block (SPEC.md §9, §10).", anchorChains},
		{"chance", "A chain by chance, with links, anchors and reorganisations.", func(c *chain) { byChance(c, 1, 30) }},
	}
}

// named is bytes with what they are an example of.
type named struct {
	about string
	bytes []byte
}

func wireForms(c *chain) {
	c.fund(90, "B")
	c.fund(30, "A")
	hash := c.hash("A")
	a := hash[:]
	message := bytes.Repeat([]byte{'m'}, 300)
	direct := push(a)
	good := []named{
		{"one direct push", direct},
		{"OP_PUSHDATA1, not minimal", slices.Concat([]byte{0x4c, 20}, a)},
		{"OP_PUSHDATA2, not minimal", slices.Concat([]byte{0x4d, 20, 0}, a)},
		{"OP_PUSHDATA4, not minimal", slices.Concat([]byte{0x4e, 20, 0, 0, 0}, a)},
		{"a message", slices.Concat(direct, push([]byte("hello")))},
		{"an empty message: OP_0", slices.Concat(direct, []byte{0x00})},
		{"an empty message: OP_PUSHDATA1 of nothing", slices.Concat(direct, []byte{0x4c, 0})},
		{"a message by OP_1NEGATE", slices.Concat(direct, []byte{0x4f})},
		{"a message by OP_1", slices.Concat(direct, []byte{0x51})},
		{"a message by OP_16", slices.Concat(direct, []byte{0x60})},
		{"a message that is not UTF-8", slices.Concat(direct, push([]byte{0xff, 0xfe}))},
		{"a message of 75 bytes by a direct push", slices.Concat(direct, push(message[:75]))},
		{"a message of 196 bytes by OP_PUSHDATA1", slices.Concat(direct, []byte{0x4c, 196}, message[:196])},
		{"a message of 300 bytes by OP_PUSHDATA2, more than a writer may give", slices.Concat(direct, []byte{0x4d, 0x2c, 0x01}, message)},
	}
	malformed := []named{
		{"nothing behind the prefix", nil},
		{"19 bytes", push(a[:19])},
		{"21 bytes", push(append(slices.Clone(a), 0))},
		{"32 bytes", push(make([]byte, 32))},
		{"OP_0 in place of the address", []byte{0x00}},
		{"OP_1 in place of the address", []byte{0x51}},
		{"OP_0 before the address", slices.Concat([]byte{0x00}, direct)},
		{"a third item", slices.Concat(direct, push([]byte("m")), push([]byte("n")))},
		{"a third item, which is empty", slices.Concat(direct, push([]byte("m")), []byte{0x00})},
		{"OP_RESERVED, which pushes nothing", slices.Concat(direct, []byte{0x50})},
		{"OP_NOP behind the address", slices.Concat(direct, []byte{0x61})},
		{"OP_DROP behind the message", slices.Concat(direct, push([]byte("m")), []byte{0x75})},
		{"a direct push that the script ends in", direct[:20]},
		{"a message that the script ends in", slices.Concat(direct, []byte{5, 'm'})},
		{"OP_PUSHDATA1 without a length", slices.Concat(direct, []byte{0x4c})},
		{"OP_PUSHDATA2 with half a length", slices.Concat(direct, []byte{0x4d, 0x01})},
		{"OP_PUSHDATA4 of 4,294,967,295 bytes", slices.Concat(direct, []byte{0x4e, 0xff, 0xff, 0xff, 0xff, 'm'})},
	}
	none := []named{
		{"no action: the prefix by OP_PUSHDATA1", slices.Concat([]byte{0x6a, 0x4c, 0x02, 0x6d, 0x20}, direct)},
		{"no action: OP_0 before OP_RETURN", slices.Concat([]byte{0x00}, mlr, direct)},
		{"no action: a prefix of three bytes", slices.Concat([]byte{0x6a, 0x03, 0x6d, 0x20, 0x00}, direct)},
		{"no action: the prefix 6d23", slices.Concat([]byte{0x6a, 0x02, 0x6d, 0x23}, direct)},
		{"no action: the prefix 6d26, an alias", slices.Concat([]byte{0x6a, 0x02, 0x6d, 0x26}, direct, push([]byte("alias")))},
		{"no action: the script ends in the prefix", mlr[:3]},
		{"no action: OP_RETURN alone", mlr[:1]},
		{"no action: an empty script", nil},
	}
	c.block("requests that are well-formed", c.acts("B", "MLR: ", mlr, good)...)
	c.block("requests that are malformed", c.acts("B", "malformed MLR: ", mlr, malformed)...)
	c.block("what is no action", c.acts("B", "", nil, none)...)

	// References have another length, and everything else in common.
	unknown := bytes.Repeat([]byte{0x77}, 32)
	var items []named
	for _, n := range []int{0, 20, 31, 33} {
		items = append(items, named{fmt.Sprintf("%d bytes", n), push(append(slices.Clone(unknown), 0x77)[:n])})
	}
	items = append(items, named{"a third item", slices.Concat(push(unknown), push([]byte("m")), push([]byte("n")))})
	c.block("accepts and revokes that are malformed", append(c.acts("A", "malformed MLA: ", mla, items), c.acts("A", "malformed MCR: ", mcr, items)...)...)
	wait := []named{
		{"waits, OP_PUSHDATA1", slices.Concat([]byte{0x4c, 32}, unknown)},
		{"waits, with a message of 300 bytes", slices.Concat(push(unknown), []byte{0x4d, 0x2c, 0x01}, message)},
	}
	c.block("accepts and revokes that are well-formed, and refer to nothing", append(c.acts("A", "MLA: ", mla, wait), c.acts("A", "MCR: ", mcr, wait)...)...)

	// Which output it is.
	spend := func(about string, outputs ...*wire.TxOut) *wire.MsgTx {
		return c.tx(about, []input{{coin: c.take("B")}}, outputs...)
	}
	change := func() *wire.TxOut { return c.pays(c.key("B").Script()) }
	other := c.hash("C")
	asksA, asksC := record(slices.Concat(mlr, direct)), record(slices.Concat(mlr, push(other[:])))
	c.block("which output has the action",
		spend("MLR in output 0", asksA, change()),
		spend("MLR in output 2, behind another OP_RETURN", change(), record([]byte{0x6a, 0x02, 0x6d, 0x02, 0x01, 'm'}), asksA),
		spend("two MLRs: the first counts, which asks C", change(), asksC, asksA),
		spend("a malformed MLR before a well-formed one: malformed", change(), record(mlr), asksA),
		spend("a malformed MCR before a well-formed MLR: a malformed MCR", record(mcr), asksA),
		spend("MLR in output 1, behind a script that is no action", record([]byte{0x6a, 0x4c, 0x02, 0x6d, 0x20}), asksA),
	)
}

// acts makes a transaction of each script, by name.
func (c *chain) acts(name, kind string, prefix []byte, scripts []named) (txs []*wire.MsgTx) {
	for _, s := range scripts {
		txs = append(txs, c.act(kind+s.about, name, slices.Concat(prefix, s.bytes)))
	}
	return txs
}

func tokens(c *chain) {
	c.fund(40, "B")
	hash := c.hash("A")
	action := slices.Concat(mlr, push(hash[:]))
	category := bytes.Repeat([]byte{0xca}, 32)
	prefix := func(bits byte, rest ...byte) []byte { return slices.Concat([]byte{0xef}, category, []byte{bits}, rest) }
	commitment := func(n int) []byte { return bytes.Repeat([]byte{0xc0}, n) }
	// bits: 80 reserved, 40 commitment, 20 NFT, 10 amount, capability 0 to 2.
	valid := []named{
		{"an amount of 1", prefix(0x10, 1)},
		{"an amount of 252", prefix(0x10, 0xfc)},
		{"an amount of 253", prefix(0x10, 0xfd, 0xfd, 0)},
		{"an amount of 2^63-1", prefix(0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f)},
		{"an NFT", prefix(0x20)},
		{"a mutable NFT", prefix(0x21)},
		{"a minting NFT", prefix(0x22)},
		{"an NFT and an amount", prefix(0x30, 1)},
		{"an NFT with a commitment of 1 byte", prefix(0x60, slices.Concat([]byte{1}, commitment(1))...)},
		{"an NFT with a commitment of 40 bytes", prefix(0x60, slices.Concat([]byte{40}, commitment(40))...)},
		{"an NFT with a commitment of 41 bytes", prefix(0x60, slices.Concat([]byte{41}, commitment(41))...)},
		{"an NFT with a commitment of 128 bytes", prefix(0x60, slices.Concat([]byte{128}, commitment(128))...)},
		{"a minting NFT with a commitment, and an amount", prefix(0x72, slices.Concat([]byte{2}, commitment(2), []byte{7})...)},
	}
	invalid := []named{
		{"an amount of 0", prefix(0x10, 0)},
		{"an amount of 2^63", prefix(0x10, 0xff, 0, 0, 0, 0, 0, 0, 0, 0x80)},
		{"an amount of 252 in three bytes", prefix(0x10, 0xfd, 0xfc, 0)},
		{"neither NFT nor amount", prefix(0x00)},
		{"the reserved bit", prefix(0xa0)},
		{"a capability of 3", prefix(0x23)},
		{"a capability without an NFT", prefix(0x11, 1)},
		{"a commitment without an NFT", prefix(0x50, slices.Concat([]byte{1}, commitment(1), []byte{1})...)},
		{"a commitment of 0 bytes", prefix(0x60, 0)},
		{"a commitment of 129 bytes", prefix(0x60, slices.Concat([]byte{129}, commitment(129))...)},
		{"a commitment of 40 bytes, its length in three bytes", prefix(0x60, slices.Concat([]byte{0xfd, 40, 0}, commitment(40))...)},
		{"two prefixes, of which one is stripped", slices.Concat(prefix(0x20), prefix(0x20))},
	}
	put := func(about string, prefixes []named) (txs []*wire.MsgTx) {
		for _, p := range prefixes {
			txs = append(txs, c.act(about+p.about, "B", slices.Concat(p.bytes, action)))
		}
		return txs
	}
	c.block("valid prefixes before the action", put("MLR behind ", valid)...)
	c.block("invalid prefixes before the action", append(put("no action: ", invalid), c.act("no action: the prefix ends early", "B", prefix(0x60, 5, 0xc0)))...)

	// The same before the output that is spent.
	var outputs []*wire.TxOut
	for _, p := range slices.Concat(valid, invalid) {
		out := c.pays(slices.Concat(p.bytes, c.key("B").Script()))
		outputs = append(outputs, out)
	}
	// Valid ones as bchd has them, so that what is signed is right.
	for i, token := range []wire.TokenData{
		{BitField: 0x10, Amount: 1}, {BitField: 0x10, Amount: 252}, {BitField: 0x10, Amount: 253}, {BitField: 0x10, Amount: 1<<63 - 1},
		{BitField: 0x20}, {BitField: 0x21}, {BitField: 0x22}, {BitField: 0x30, Amount: 1},
		{BitField: 0x60, Commitment: commitment(1)}, {BitField: 0x60, Commitment: commitment(40)}, {BitField: 0x60, Commitment: commitment(41)},
		{BitField: 0x60, Commitment: commitment(128)}, {BitField: 0x72, Commitment: commitment(2), Amount: 7},
	} {
		token.CategoryID = [32]byte(category)
		outputs[i].PkScript, outputs[i].TokenData = c.key("B").Script(), token
	}
	var spends []*wire.MsgTx
	for i, out := range c.fundOutputs(outputs...) {
		in := input{coin: coin{out, c.key("B")}, schnorr: i%2 == 1}
		about := "MLR by B, whose coin has "
		if i >= len(valid) {
			// The chain has no such spends: nobody can spend these.
			about, in.madeUp = "MLR without an author, as the coin is none of B's: ", bytes.Repeat([]byte{0x30}, 70)
			in.hashType = 0x41
		} else if i%3 == 0 {
			in.hashType = 0x61
		}
		spends = append(spends, c.tx(about+slices.Concat(valid, invalid)[i].about, []input{in}, c.pays(c.key("B").Script()), record(action)))
	}
	c.block("prefixes before the output that is spent", spends...)
}

func hashTypes(c *chain) {
	c.fund(50, "B")
	hash := c.hash("A")
	action := slices.Concat(mlr, push(hash[:]))
	var txs []*wire.MsgTx
	for _, flags := range []byte{0x00, 0x20, 0x40, 0x60, 0x80, 0xa0, 0xc0, 0xe0} {
		for _, base := range []byte{1, 2, 3, 0, 4, 0x11} {
			in := input{coin: c.take("B"), hashType: txscript.SigHashType(flags | base), schnorr: len(txs)%2 == 1 && flags&0x40 != 0}
			about := fmt.Sprintf("MLR signed with hash type %02x", flags|base)
			if base == 0 || base > 3 {
				in.madeUp = bytes.Repeat([]byte{0x30}, 70)
				about = fmt.Sprintf("MLR with hash type %02x behind a made-up signature", flags|base)
			}
			txs = append(txs, c.tx(about, []input{in}, c.pays(c.key("B").Script()), record(action)))
		}
	}
	c.block("all flags with some base types", txs...)
}

func authors(c *chain) {
	c.fund(30, "B")
	c.fund(3, "C")
	hash := c.hash("A")
	action := slices.Concat(mlr, push(hash[:]))
	b := c.key("B")
	public := b.PublicKey()
	uncompressed := b.PrivateKey().PubKey().SerializeUncompressed()
	hybrid := slices.Concat([]byte{6 + uncompressed[64]&1}, uncompressed[1:])
	oddFirst := slices.Concat([]byte{5}, public[1:])
	madeUp := bytes.Repeat([]byte{0x30}, 70)
	ask := func(about string, inputs ...input) *wire.MsgTx {
		return c.tx("MLR: "+about, inputs, c.pays(b.Script()), record(action))
	}

	form := func(about string, form func(signature, public []byte) []byte) *wire.MsgTx {
		return ask(about, input{coin: c.take("B"), form: form})
	}
	fixed := func(about string, scriptSig ...[]byte) *wire.MsgTx {
		return form(about, func(_, _ []byte) []byte { return slices.Concat(scriptSig...) })
	}
	c.block("forms of the scriptSig",
		form("author, two direct pushes", func(s, k []byte) []byte { return slices.Concat(push(s), push(k)) }),
		form("author, by OP_PUSHDATA1", func(s, k []byte) []byte {
			return slices.Concat([]byte{0x4c}, push(s), []byte{0x4c}, push(k))
		}),
		form("author, by OP_PUSHDATA2 and OP_PUSHDATA4", func(s, k []byte) []byte {
			return slices.Concat([]byte{0x4d, byte(len(s)), 0}, s, []byte{0x4e, byte(len(k)), 0, 0, 0}, k)
		}),
		fixed("author, by a made-up signature: who checks none may be told so by a full previous transaction", push(append(madeUp, 0x41)), push(public)),
		fixed("author, by a signature of one byte, which is its hash type: OP_1", []byte{0x51}, push(public)),
		fixed("no author, a signature of one byte with ANYONECANPAY: OP_1NEGATE", []byte{0x4f}, push(public)),
		fixed("no author, an empty signature", []byte{0x00}, push(public)),
		form("no author, the key before the signature", func(s, k []byte) []byte { return slices.Concat(push(k), push(s)) }),
		form("no author, a third push before", func(s, k []byte) []byte { return slices.Concat([]byte{0x51}, push(s), push(k)) }),
		form("no author, a third push behind", func(s, k []byte) []byte { return slices.Concat(push(s), push(k), []byte{0x00}) }),
		form("no author, an opcode behind that pushes nothing", func(s, k []byte) []byte { return slices.Concat(push(s), push(k), []byte{0x61}) }),
		form("no author, the signature alone", func(s, _ []byte) []byte { return push(s) }),
		form("no author, the key alone", func(_, k []byte) []byte { return push(k) }),
		fixed("no author, nothing"),
		form("no author, a push that the script ends in", func(s, k []byte) []byte { return slices.Concat(push(s), push(k)[:33]) }),
		form("no author, the key of somebody else", func(s, _ []byte) []byte { return slices.Concat(push(s), push(c.key("C").PublicKey())) }),
		form("no author, the other form of the key", func(s, _ []byte) []byte { return slices.Concat(push(s), push(uncompressed)) }),
	)

	// Coins of other forms.
	p2pkh := func(public []byte) []byte {
		return slices.Concat([]byte{0x76, 0xa9}, push(bchutil.Hash160(public)), []byte{0x88, 0xac})
	}
	keyHash := bchutil.Hash160(public)
	outputs := []struct {
		named
		how input
	}{
		{named{"author, another key: the uncompressed form of B's", p2pkh(uncompressed)}, input{uncompressed: true}},
		{named{"no author, a hybrid public key", p2pkh(hybrid)}, input{form: func(s, _ []byte) []byte { return slices.Concat(push(s), push(hybrid)) }}},
		{named{"no author, a public key that starts with 05", p2pkh(oddFirst)}, input{form: func(s, _ []byte) []byte { return slices.Concat(push(s), push(oddFirst)) }}},
		{named{"no author, a public key of 32 bytes", p2pkh(public[:32])}, input{form: func(s, k []byte) []byte { return slices.Concat(push(s), push(k[:32])) }}},
		{named{"no author, anybody can spend it: OP_2DROP OP_1", []byte{0x6d, 0x51}}, input{madeUp: madeUp, hashType: 0x41}},
		{named{"no author, OP_2DROP before P2PKH", slices.Concat([]byte{0x6d}, b.Script())}, input{madeUp: madeUp, hashType: 0x41}},
		{named{"no author, OP_NOP behind P2PKH", slices.Concat(b.Script(), []byte{0x61})}, input{}},
		{named{"no author, P2PKH with OP_PUSHDATA1", slices.Concat([]byte{0x76, 0xa9, 0x4c}, push(keyHash), []byte{0x88, 0xac})}, input{}},
		{named{"no author, P2PKH of a hash of 19 bytes", slices.Concat([]byte{0x76, 0xa9}, push(keyHash[:19]), []byte{0x88, 0xac})}, input{madeUp: madeUp, hashType: 0x41}},
		{named{"no author, P2PK", slices.Concat(push(public), []byte{0xac})}, input{}},
		{named{"no author, P2SH of the key's hash", slices.Concat([]byte{0xa9}, push(keyHash), []byte{0x87})}, input{madeUp: madeUp, hashType: 0x41}},
	}
	var made []*wire.TxOut
	for _, o := range outputs {
		made = append(made, c.pays(o.bytes))
	}
	made = append(made, c.pays([]byte{txscript.OP_1}), c.pays([]byte{txscript.OP_1}), c.pays(b.Script()))
	coins := c.fundOutputs(made...)
	var txs []*wire.MsgTx
	for i, o := range outputs {
		o.how.coin = coin{coins[i], b}
		txs = append(txs, ask(o.about, o.how))
	}
	anybodys := coins[len(outputs):]
	c.block("forms of the output that is spent", txs...)
	c.block("which input",
		ask("author C, whose coin input 0 spends, while input 1 spends B's", input{coin: c.take("C")}, input{coin: c.take("B")}),
		ask("author B, and input 1 spends C's; signed over all spent outputs", input{coin: c.take("B"), hashType: 0x61}, input{coin: c.take("C")}),
		ask("no author, anybody can spend what input 0 spends, and input 1 spends B's", input{coin: coin{anybodys[0], nil}}, input{coin: c.take("B")}),
	)

	// In a block of CTOR a transaction may stand before the one that it spends.
	pay := func(about string) *wire.MsgTx {
		return c.tx(about, []input{{coin: c.take("B")}}, c.pays([]byte{txscript.OP_1}), c.pays(b.Script()))
	}
	payFirst, payLast := pay("pays B by output 1"), pay("pays B by output 1")
	c.block("outputs of the same block",
		payFirst,
		ask("author, its coin stands before it in the block", input{coin: coin{regtest.CoinOf(payFirst, 1), b}}),
		ask("author, its coin stands behind it in the block", input{coin: coin{regtest.CoinOf(payLast, 1), b}}),
		ask("no author, output 0 is another than output 1", input{coin: coin{regtest.CoinOf(payFirst, 0), nil}}),
		payLast,
	)
	c.mine("a coinbase has no author", []*wire.TxOut{c.pays(b.Script()), record(action)})
	c.mine("nor has one that is malformed", []*wire.TxOut{record(mlr)})
}

// nobody makes a transaction without an author that carries a script.
func (c *chain) nobody(about string, out regtest.Coin, script []byte) *wire.MsgTx {
	return c.tx(about, []input{{coin: coin{out, nil}}}, c.pays([]byte{txscript.OP_1}), record(script))
}

func refused(c *chain) {
	c.fund(40, "A")
	c.fund(15, "B", "C", "D")
	var outputs []*wire.TxOut
	for range 8 {
		outputs = append(outputs, c.pays([]byte{txscript.OP_1}))
	}
	free := c.fundOutputs(outputs...)
	take := func() regtest.Coin { out := free[0]; free = free[1:]; return out }
	unknown := bytes.Repeat([]byte{0x77}, 32)
	hash := c.hash("A")

	badRequest := c.act("malformed MLR by B", "B", mlr)
	badAccept := c.act("malformed MLA by A", "A", mla)
	badRevoke := c.act("malformed MCR by A", "A", mcr)
	c.block("MALFORMED comes before NO_AUTHOR", badRequest, badAccept, badRevoke,
		c.nobody("malformed MLR by nobody", take(), mlr), c.nobody("malformed MLA by nobody", take(), mla), c.nobody("malformed MCR by nobody", take(), mcr))

	nobodys := c.nobody("MLR by nobody, for A", take(), slices.Concat(mlr, push(hash[:])))
	nobodyAccepts := c.nobody("MLA by nobody, which refers to nothing and does not wait", take(), slices.Concat(mla, push(unknown)))
	c.block("NO_AUTHOR", nobodys, nobodyAccepts, c.nobody("MCR by nobody, which refers to nothing and does not wait", take(), slices.Concat(mcr, push(unknown))))

	self := c.request("A", "A")
	c.block("SELF_LINK", self)

	// A link, and one that waits.
	request, accept := c.link("B", "A")
	waits := c.act("MLA by A, which waits", "A", slices.Concat(mla, push(unknown)))
	revokeWaits := c.act("MCR by A, which waits", "A", slices.Concat(mcr, push(unknown)))
	c.block("a link, and two that wait", request, accept, waits, revokeWaits)

	c.block("WRONG_KIND comes before all but the first two",
		c.accept("A", accept), c.accept("C", accept), c.accept("A", badAccept), c.accept("A", badRevoke),
		c.accept("A", waits), c.accept("A", revokeWaits),
		c.revoke("A", request), c.revoke("C", request), c.revoke("A", badRevoke), c.revoke("A", badRequest), c.revoke("A", revokeWaits))

	c.block("REQUEST_REFUSED comes before NOT_THE_PARENT",
		c.accept("A", self), c.accept("C", self), c.accept("A", badRequest), c.accept("A", nobodys), c.accept("C", nobodys))

	refusedAccept := c.accept("C", request)
	c.block("NOT_THE_PARENT comes before REQUEST_USED", refusedAccept, c.accept("B", request))
	c.block("ACCEPT_REFUSED comes before NOT_THE_PARENT",
		c.revoke("C", refusedAccept), c.revoke("A", refusedAccept), c.revoke("A", badAccept), c.revoke("A", nobodyAccepts))
	wrong := c.accept("D", request)
	c.block("NOT_THE_PARENT, and ACCEPT_REFUSED of an accept of the same block",
		c.revoke("B", accept), c.revoke("C", accept), c.revoke("D", wrong), wrong)

	c.block("REQUEST_USED", c.accept("A", request))

	second := c.request("B", "C")
	third := c.request("B", "A")
	secondAccept := c.accept("C", second)
	c.block("CHILD_HAS_PARENT, also if that is the same", second, third, secondAccept, c.accept("A", third))
	c.block("REQUEST_USED comes before CHILD_HAS_PARENT", c.accept("A", request))

	// C below B below A.
	low, lowAccept := c.link("C", "B")
	c.block("C below B below A", low, lowAccept)
	loop := c.request("A", "C")
	nearLoop := c.request("A", "B")
	c.block("LOOP: the child is the root of the parent's tree", loop, c.accept("C", loop), nearLoop, c.accept("B", nearLoop))

	revoke := c.revoke("A", accept)
	c.block("the link is cut", revoke)
	c.block("ALREADY_REVOKED, after NOT_THE_PARENT", c.revoke("A", accept), c.revoke("B", accept))
	c.block("REQUEST_USED, for good", c.accept("A", request))
	c.block("WRONG_KIND: a revoke is no accept, and no request", c.revoke("A", revoke), c.accept("A", revoke))
	thirdAccept := c.accept("A", third)
	c.block("the request of CHILD_HAS_PARENT was not used up", thirdAccept)
	c.block("the link is cut once more", c.revoke("A", thirdAccept))
	c.block("the request of LOOP was not used up", c.accept("C", loop))
	c.block("CHILD_HAS_PARENT, as A has a parent now", c.accept("B", nearLoop))
}

func references(c *chain) {
	c.fund(20, "A", "B", "C", "D", "E")
	refer := func(about, by string, prefix []byte, to []byte) *wire.MsgTx {
		return c.act(about, by, slices.Concat(prefix, push(to)))
	}
	for _, bytesOf := range []struct {
		about string
		of    func(*wire.MsgTx) []byte
		child string
	}{{"in display order", displayed, "B"}, {"in internal order", internal, "C"}} {
		request := c.request(bytesOf.child, "A")
		c.block("a request", request)
		accept := refer("MLA by A, "+bytesOf.about, "A", mla, bytesOf.of(request))
		c.block("an accept", accept)
		c.block("a revoke", refer("MCR by A, "+bytesOf.about, "A", mcr, bytesOf.of(accept)))

		// The other way round.
		request = c.request(bytesOf.child, "A")
		accept = refer("MLA by A, "+bytesOf.about, "A", mla, bytesOf.of(request))
		revoke := refer("MCR by A, "+bytesOf.about, "A", mcr, bytesOf.of(accept))
		c.block("the revoke first, which waits", revoke)
		c.block("then the accept, which waits", accept)
		c.block("then the request, which releases both", request)

		request = c.request(bytesOf.child, "A")
		accept = refer("MLA by A, "+bytesOf.about, "A", mla, bytesOf.of(request))
		revoke = refer("MCR by A, "+bytesOf.about, "A", mcr, bytesOf.of(accept))
		c.block("all in one block", revoke, accept, request)
	}
	request := c.request("D", "A")
	one := refer("MLA by A, in display order", "A", mla, displayed(request))
	other := refer("MLA by A, in internal order", "A", mla, internal(request))
	c.block("two wait for one request, by both orders", one, other)
	c.block("the lower position is applied first, whichever its order", request)
	near := displayed(one)
	near[31] ^= 1
	c.block("it takes all bits of a reference", refer("MCR by A, one bit of whose reference is another", "A", mcr, near))
}

func waiting(c *chain) {
	c.fund(30, "A")
	c.fund(8, "B", "C", "D", "E", "F", "G")

	request, accept := c.link("B", "A")
	c.block("an accept before its request: it waits", accept)
	c.block("a block with nothing in it")
	c.block("the request releases it", request)

	request, accept = c.link("C", "A")
	revoke := c.revoke("A", accept)
	again := c.revoke("A", accept)
	c.block("a revoke before its accept", revoke)
	c.block("an accept before its request: the revoke waits on", accept)
	c.block("another revoke of an accept that waits: it waits, too", again)
	c.block("the request releases all: the link is formed and cut in one block; the second revoke comes late", request)

	request, accept = c.link("C", "A")
	revoke = c.revoke("A", accept)
	c.block("an accept and its revoke wait in one block, whichever stands first", revoke, accept)
	c.block("and are released", request)

	// What is referred to comes, and is of no use.
	plain := c.tx("a payment that carries no action", []input{{coin: c.take("A")}}, c.pays(c.key("A").Script()))
	forPlain := c.act("MLA by A of a payment", "A", slices.Concat(mla, push(displayed(plain))))
	malformed := c.act("malformed MLR by C", "C", mlr)
	forMalformed := c.accept("A", malformed)
	self := c.request("A", "A")
	forSelf := c.accept("A", self)
	badAccept := c.act("malformed MLA by A", "A", mla)
	revokesBad := c.revoke("A", badAccept)
	c.block("accepts of what is to come", forPlain, forMalformed, forSelf, revokesBad)
	c.block("a payment releases nothing, ever; the others are released to be refused", self, plain, malformed, badAccept)

	request, accept = c.link("C", "A")
	wrongAccept := c.accept("A", accept)
	wrongRevoke := c.revoke("A", request)
	revokeOfWrong := c.revoke("A", wrongAccept)
	c.block("wrong kinds wait as well, as nobody knows what they refer to", wrongAccept, wrongRevoke, revokeOfWrong)
	c.block("an accept that waits tells at once that who refers to it as a request is wrong; and who revokes that one", accept)
	c.block("the request does the same to who revokes it", request)

	// Positions are their own, heights those of the release.
	first := c.request("D", "C")
	acceptFirst := c.accept("C", first)
	second := c.request("D", "E")
	acceptSecond := c.accept("E", second)
	c.block("two accepts of two requests of one child, the one for E first", acceptSecond)
	c.block("and the one for C", acceptFirst)
	c.block("both requests at once: the accept with the lower position wins", first, second)

	// A block's own actions come behind those that it releases.
	own := c.request("E", "A")
	released := c.accept("A", own)
	c.block("an accept that waits", released)
	ownAccept := c.accept("A", own)
	c.block("its request, and another accept: the one that waited is the older", ownAccept, own)
	c.block("the revoke of the accept that came late: it was refused", c.revoke("A", ownAccept))

	// A revoke that waited names its branch by its own position, which is low.
	late, lateAccept := c.link("E", "B")
	c.block("E is cut, and asks B", c.revoke("A", released), late)
	lateRevoke := c.revoke("B", lateAccept)
	c.block("the revoke before the accept", lateRevoke)
	g, gAccept := c.link("G", "F")
	c.block("another tree is named meanwhile", g, gAccept)
	c.block("E below B, and cut at once: its id is a transaction from before that tree", lateAccept)
	f, fAccept := c.link("F", "E")
	c.block("the two meet: the revoke's id is the older, though it was named later", f, fAccept)

	// What a block releases, and what that releases, is one list.
	x, xAccept := c.link("G", "A")
	y, yAccept := c.link("D", "A")
	c.block("G is cut from F, D from E, and D asks A", c.revoke("F", gAccept), c.revoke("E", acceptSecond), y)
	c.block("a revoke whose accept will wait", c.revoke("A", xAccept))
	c.block("a revoke whose accept will not", c.revoke("A", yAccept))
	c.block("an accept before its request", xAccept)
	c.block("one is released by the accept that the request releases, the other by its accept: the older is first", yAccept, x)

	other, otherAccept := c.link("A", "C")
	again, againAccept := c.link("C", "F")
	c.block("an accept that would be a loop, and one of a child with a parent, do not wait", otherAccept, againAccept, other, again)
}

// order makes the block of some transactions in each of their orders, and takes all back but the last.
func order(c *chain) {
	c.fund(12, "A", "B", "C", "D")
	request, accept := c.link("B", "A")
	c.block("B below A", request, accept)

	over := c.request("B", "D")
	handOver := []*wire.MsgTx{over, c.accept("D", over), c.revoke("A", accept)}
	c.permute("a hand-over: B asks D, D accepts, A revokes", handOver)

	whole, wholeAccept := c.link("C", "A")
	bad := c.act("malformed MLA by A", "A", mla)
	d, dAccept := c.link("D", "C")
	refuses := []*wire.MsgTx{bad, c.revoke("A", bad), d, dAccept}
	c.permute("the revoke of an accept that its own block refuses is no revoke of an older one: it comes last", refuses)

	c.permute("a life in one block: request, accept, revoke, and another revoke of an older accept", []*wire.MsgTx{
		whole, wholeAccept, c.revoke("A", wholeAccept), c.revoke("D", handOver[1]),
	})
}

func (c *chain) permute(about string, txs []*wire.MsgTx) {
	all := permutations(txs)
	for i, p := range all {
		c.block(fmt.Sprintf("%s: order %d of %d", about, i+1, len(all)), p...)
		if i < len(all)-1 {
			c.takeBack(1)
		}
	}
}

func permutations[T any](of []T) (all [][]T) {
	if len(of) == 0 {
		return [][]T{nil}
	}
	for i := range of {
		rest := slices.Concat(of[:i], of[i+1:])
		for _, p := range permutations(rest) {
			all = append(all, append([]T{of[i]}, p...))
		}
	}
	return all
}

// ties makes blocks of which two orders are told apart.
func ties(c *chain) {
	c.fund(16, "A", "B", "C", "D", "E", "F")
	both := func(about string, txs ...*wire.MsgTx) {
		c.block(about+": one order", txs...)
		c.takeBack(1)
		slices.Reverse(txs)
		c.block(about+": the other", txs...)
	}
	toA, toC := c.request("B", "A"), c.request("B", "C")
	c.block("B asks A and C", toA, toC)
	byA, byC := c.accept("A", toA), c.accept("C", toC)
	both("both accept: the lower position wins", byA, byC)
	both("C revokes twice: the lower position names the branch", c.revoke("C", byC), c.revoke("C", byC))

	d, dAccept := c.link("D", "E")
	f, fAccept := c.link("F", "E")
	c.block("two requests", d, f)
	both("two accepts join three trees without an id: the lower accept's request names them", dAccept, fAccept)
	c.takeBack(1)
	c.takeBack(1)
	d, dAccept = c.link("D", "E")
	up, upAccept := c.link("E", "F")
	c.block("two requests, one above the other", d, up)
	both("the lower accept's request names the tree, wherever in it the link is", dAccept, upAccept)
	c.takeBack(2)

	// Ids that one block names, and that meet in it or later.
	d, dAccept = c.link("D", "E")
	a, aAccept := c.link("A", "F")
	meet, meetAccept := c.link("E", "F")
	both("two trees named by requests of one block, which meet in it", a, aAccept, d, dAccept, meet, meetAccept)
	c.takeBack(1)
	c.block("two trees named by requests of one block", d, aAccept, a, dAccept)
	c.block("which meet later: the request with the lower index is the older", meetAccept, meet)

	mutual, mutualAccept := c.link("A", "B")
	back, backAccept := c.link("B", "A")
	cut := c.revoke("F", aAccept)
	c.block("A is cut", cut)
	both("each accepts the other: one is a loop", mutual, back, mutualAccept, backAccept)

	f, fAccept = c.link("F", "C")
	c.block("F asks C", f)
	both("one request, two accepts: the second finds it used", fAccept, c.accept("C", f))
}

func merges(c *chain) {
	c.fund(6, "A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N")
	link := func(about, child, parent string) *wire.MsgTx {
		request, accept := c.link(child, parent)
		c.block(about, request, accept)
		return accept
	}
	link("the first tree: A, B", "B", "A")
	link("the second tree: C, D", "D", "C")
	link("the third tree: E, F", "F", "E")
	link("a tree without an id joins one that has: from above", "A", "G")
	hAccept := link("and from below", "H", "D")
	older := link("the second goes below the third: the second is older, and survives", "C", "F")
	link("the first is older than both: the second is merged into it, the third was before", "E", "B")
	c.block("the branch is cut: it has a new id, and the others stay merged", c.revoke("F", older))
	link("the branch returns: the first id is the older", "C", "A")

	// A request names by its own position, however late it is accepted.
	early, earlyAccept := c.link("H", "G")
	c.block("a request", early)
	late, lateAccept := c.link("I", "J")
	c.block("another tree", late, lateAccept)
	c.block("H is cut from D", c.revoke("D", hAccept))
	c.block("and accepted by G: H had an id by the cut, and G's is older", earlyAccept)
	link("the tree of I and J goes below, and is merged", "J", "H")

	k, kAccept := c.link("K", "L")
	c.block("K asks L, long before M and N are linked", k)
	link("M below N", "M", "N")
	c.block("L accepts: the id is the older one, though the link is the younger", kAccept)
	link("L below M: the id of K and L survives", "L", "M")
}

func cuts(c *chain) {
	c.fund(12, "A", "B", "C", "D", "E")
	b, bAccept := c.link("B", "A")
	cRequest, cAccept := c.link("C", "B")
	d, dAccept := c.link("D", "C")
	c.block("D below C below B below A", b, bAccept, cRequest, cAccept, d, dAccept)
	c.block("a leaf is cut, a lone key with an id", c.revoke("C", dAccept))
	c.block("a branch is cut: it keeps its inner links", c.revoke("A", bAccept))
	c.block("a branch of the branch", c.revoke("B", cAccept))

	again, againAccept := c.link("B", "A")
	c.block("B returns, and its id is the old one again", again, againAccept)
	e, eAccept := c.link("A", "E")
	c.block("A goes below a new root, and the id stays", e, eAccept)
	c.block("the old root is cut: the trunk keeps the id, a lone key now", c.revoke("E", eAccept))
	back, backAccept := c.link("E", "A")
	c.block("the trunk goes below the branch: the older id wins", back, backAccept)

	// Many of one block.
	twice, twiceAccept := c.link("C", "D")
	c.block("a link is formed and cut in one block", twice, twiceAccept, c.revoke("D", twiceAccept))
	low, lowAccept := c.link("C", "B")
	c.block("two links of a path", low, lowAccept)
	c.block("are cut in one block: the lower position first", c.revoke("B", lowAccept), c.revoke("A", againAccept))
	c.takeBack(1)
	c.block("or the other", c.revoke("A", againAccept), c.revoke("B", lowAccept))
}

func reorganisation(c *chain) {
	c.fund(20, "A", "B", "C", "D")
	request, accept := c.link("B", "A")
	c.block("a request", request)
	c.block("an accept", accept)
	c.takeBack(2)
	c.block("another branch has the accept first", accept)
	c.block("and the request behind it", request)
	c.block("and is longer")

	revoke := c.revoke("A", accept)
	c.block("a revoke", revoke)
	step := len(c.made.Steps) - 1
	c.takeBack(1)
	c.again(step)
	c.takeBack(1)
	other := c.revoke("A", accept)
	c.block("another revoke takes its place", other)
	c.block("and the first comes too late", revoke)

	// Ids that merge on one branch only.
	d, dAccept := c.link("D", "C")
	c.block("another tree", d, dAccept)
	join, joinAccept := c.link("C", "A")
	c.block("joins the first", join, joinAccept)
	c.block("a block on top", c.accept("A", join))
	c.takeBack(3)
	c.block("the trees are named the other way round", joinAccept, join)
	c.block("and D comes later", dAccept)
	c.block("released by its request", d)
	c.block("a fourth block")

	// Back to where it began.
	top := len(c.tips)
	c.takeBack(top - 2)
	c.block("all of it in one block", joinAccept, join, dAccept, d, revoke, accept, request)
	for len(c.tips) <= top {
		c.block("a block that makes the branch the longest")
	}
}
