package vectors

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

func anchorForms(c *chain) {
	c.fund(60, "K")
	domain := []byte("keys.example.org")
	position := []byte{7, 0, 0, 0, 0, 0, 0, 0}
	head, root := sha256.Sum256([]byte("head")), sha256.Sum256([]byte("root"))
	prefix := []byte{0x6a, 0x04, 0x4b, 0x48, 0x43, 0x00}
	items := func(version, domain, position, head, root []byte) []byte {
		return slices.Concat(version, push(domain), push(position), push(head), push(root))
	}
	of := func(domain string) []byte { return items(push([]byte{1}), []byte(domain), position, head[:], root[:]) }
	whole := of(string(domain))
	long := func(n int, label string) string { return (strings.Repeat(label, 63))[:n] }

	anchors := []named{
		{"direct pushes", whole},
		{"the version by OP_1", items([]byte{0x51}, domain, position, head[:], root[:])},
		{"OP_PUSHDATA1, 2 and 4", slices.Concat([]byte{0x4c}, push([]byte{1}), []byte{0x4d, byte(len(domain)), 0}, domain, []byte{0x4e, 8, 0, 0, 0}, position, push(head[:]), push(root[:]))},
		{"position 0", items(push([]byte{1}), domain, make([]byte, 8), head[:], root[:])},
		{"position 2^64-1", items(push([]byte{1}), domain, bytes.Repeat([]byte{0xff}, 8), head[:], root[:])},
		{"a domain of one letter", of("a")},
		{"a domain of one digit by OP_PUSHDATA1", slices.Concat(push([]byte{1}), []byte{0x4c}, push([]byte("7")), push(position), push(head[:]), push(root[:]))},
		{"a domain with hyphens and digits", of("0a--b.9-9.x")},
		{"a domain of 63 bytes in one label", of(long(63, "a"))},
		{"a domain of 63 bytes in many labels", of(long(63, "a."))},
	}
	none := []named{
		{"version 0", items([]byte{0x00}, domain, position, head[:], root[:])},
		{"version 2", items([]byte{0x52}, domain, position, head[:], root[:])},
		{"a version of two bytes", items(push([]byte{1, 0}), domain, position, head[:], root[:])},
		{"an empty domain", of("")},
		{"a domain of 64 bytes", of(strings.Repeat("a", 64))},
		{"capital letters", of("Keys.example.org")},
		{"an underscore", of("a_b")},
		{"a dot in front", of(".a")},
		{"a dot behind", of("a.")},
		{"two dots", of("a..b")},
		{"a label that starts with a hyphen", of("a.-b")},
		{"a label that ends with a hyphen", of("a-.b")},
		{"a port", of("a:1")},
		{"a letter outside ASCII", of("ä")},
		{"a space", of("a b")},
		{"a zero byte", of("a\x00")},
		{"a newline", of("a\n")},
		{"a position of 7 bytes", items(push([]byte{1}), domain, position[:7], head[:], root[:])},
		{"a position of 9 bytes", items(push([]byte{1}), domain, append(slices.Clone(position), 0), head[:], root[:])},
		{"a head of 31 bytes", items(push([]byte{1}), domain, position, head[:31], root[:])},
		{"a root of 33 bytes", items(push([]byte{1}), domain, position, head[:], append(root[:], 0))},
		{"four items", whole[:len(whole)-33]},
		{"six items", slices.Concat(whole, push([]byte{1}))},
		{"an opcode behind that pushes nothing", slices.Concat(whole, []byte{0x61})},
		{"a push that the script ends in", whole[:len(whole)-1]},
	}
	c.block("anchors", c.acts("K", "anchor: ", prefix, anchors)...)
	c.block("what is no anchor", c.acts("K", "no anchor: ", prefix, none)...)
	c.block("prefixes that are none",
		c.act("no anchor: the prefix by OP_PUSHDATA1", "K", slices.Concat([]byte{0x6a, 0x4c, 0x04, 0x4b, 0x48, 0x43, 0x00}, whole)),
		c.act("no anchor: KHC without the zero byte", "K", slices.Concat([]byte{0x6a, 0x03, 0x4b, 0x48, 0x43}, whole)),
		c.act("no anchor: KTS", "K", slices.Concat([]byte{0x6a, 0x04, 0x4b, 0x54, 0x53, 0x00}, whole)),
	)

	record0 := record(slices.Concat(prefix, none[0].bytes))
	first, second := record(c.anchor("first.example", 1, "a")), record(c.anchor("second.example", 2, "b"))
	token := slices.Concat([]byte{0xef}, bytes.Repeat([]byte{0xca}, 32), []byte{0x10, 1})
	hash := c.hash("P")
	spend := func(about string, outputs ...*wire.TxOut) *wire.MsgTx {
		return c.tx(about, []input{{coin: c.take("K")}}, outputs...)
	}
	change := c.pays(c.key("K").Script())
	c.block("which output has the anchor",
		spend("two anchors: the first counts", change, first, second),
		spend("the first output that is an anchor counts, as there are no malformed ones", change, record0, second, first),
		spend("an anchor in output 0, which is its baton as well", first, change),
		spend("an anchor behind a token prefix", change, record(slices.Concat(token, c.anchor("first.example", 1, "a")))),
		spend("an anchor and an action: both count", change, first, record(slices.Concat(mlr, push(hash[:])))),
		spend("an anchor and a malformed action: both count", change, record(mlr), first),
	)
	free := c.fundOutputs(c.pays([]byte{0x51}))
	c.block("an anchor without an author", c.nobody("anchor by nobody", free[0], c.anchor("first.example", 1, "a")))
	c.mine("anchors in a coinbase", []*wire.TxOut{c.pays(c.key("K").Script()), first})
}

func anchorChains(c *chain) {
	c.fund(45, "K")
	k := c.key("K")
	// next spends outputs of transactions, and has a record unless the script is nil.
	next := func(about string, script []byte, spends ...coin) *wire.MsgTx {
		var inputs []input
		for _, s := range spends {
			inputs = append(inputs, input{coin: s})
		}
		outputs := []*wire.TxOut{c.pays(k.Script()), c.pays(k.Script())}
		if script != nil {
			outputs = append(outputs, record(script))
		}
		return c.tx(about, inputs, outputs...)
	}
	own := func() coin { return c.take("K") }
	out := func(tx *wire.MsgTx, index uint32) coin { return coin{regtest.CoinOf(tx, index), k} }
	baton := func(tx *wire.MsgTx) coin { return out(tx, 0) }
	const a, b = "a.example", "b.example"
	begin := func(domain string, position uint64) *wire.MsgTx {
		tx := next("genesis anchor of "+domain, c.anchor(domain, position, "begin"), own())
		c.block("a chain begins", tx)
		return tx
	}

	one := begin(a, 5)
	two := next("the next anchor", c.anchor(a, 6, "two"), baton(one))
	c.block("it goes on", two)
	same := next("the same record once more", c.anchor(a, 6, "two"), baton(two))
	c.block("the same record breaks nothing", same)
	skip := next("a position that is much higher", c.anchor(a, math.MaxUint64, "skip"), baton(same), own())
	c.block("a position may be skipped, and other inputs do not matter", skip)
	c.block("output 1 is no baton", next("spends output 1 of the last anchor", nil, out(skip, 1)), next("a record of the same domain that spends no baton begins a chain", c.anchor(a, 1, "new"), own()))
	c.block("without a record: 01", next("spends the baton", nil, baton(skip)))

	chain := begin(a, 5)
	c.block("by another input, without a record: 01", next("spends the baton by input 1", nil, own(), baton(chain)))
	chain = begin(a, 5)
	broken := next("a record of another domain", c.anchor(b, 9, "other"), baton(chain))
	c.block("another domain: 02; it begins a chain", broken)
	c.block("which goes on", next("the next anchor", c.anchor(b, 10, "other"), baton(broken)))
	chain = begin(a, 5)
	broken = next("a record of the same domain by input 1", c.anchor(a, 6, "third"), own(), baton(chain))
	c.block("the same domain, but not by input 0: 03; it begins a chain", broken)
	c.block("which goes on", next("the next anchor", c.anchor(a, 7, "third"), baton(broken)))
	chain = begin(a, 5)
	lower := next("a lower position", c.anchor(a, 4, "lower"), baton(chain))
	c.block("a lower position: 04; it is the chain's last anchor", lower)
	c.block("and its output 0 is no baton", next("a record that spends it begins a chain", c.anchor(a, 5, "after"), baton(lower)))
	chain = begin(a, 5)
	head := next("the same position, another head and root", c.anchor(a, 5, "changed"), baton(chain))
	c.block("another head: 05; it is the chain's last anchor", head)
	c.block("and its output 0 is no baton", next("spends it", nil, baton(head)))
	chain = begin(a, 5)
	script := c.anchor(a, 5, "begin")
	script[len(script)-1] ^= 1
	c.block("another root alone: 05", next("the same position and head, another root", script, baton(chain)))
	chain = begin(a, 5)
	script = c.anchor(a, 5, "begin")
	script[len(script)-34] ^= 1
	c.block("another head alone: 05", next("the same position and root, another head", script, baton(chain)))

	// Several chains at once.
	first, second, third := begin(a, 1), begin(a, 1), begin(b, 1)
	many := next("goes on with one chain, and breaks two", c.anchor(a, 2, "many"), baton(first), baton(third), baton(second))
	c.block("01 to 03 are told in the order of the inputs", many)
	first, second, third = many, begin(a, 1), begin(b, 1)
	c.block("all are broken", next("no record", nil, baton(third), own(), baton(second), baton(first)))
	first, second, third = begin(a, 3), begin(a, 1), begin(b, 1)
	c.block("its own chain is broken, too: a lower position", next("a lower position, and two batons more", c.anchor(a, 2, "lower"), baton(first), baton(second), baton(third)))
	first, second = begin(a, 3), begin(b, 1)
	c.block("input 0 has another domain's baton, input 1 its own: it begins a third chain", next("for a", c.anchor(a, 4, "x"), baton(second), baton(first)))

	// Order in a block.
	first = begin(a, 1)
	p := next("2", c.anchor(a, 2, "2"), baton(first))
	q := next("3", c.anchor(a, 3, "3"), baton(p))
	r := next("4", c.anchor(a, 4, "4"), baton(q))
	end := next("the end", nil, baton(r))
	for i, txs := range [][]*wire.MsgTx{{p, q, r, end}, {end, r, q, p}, {q, end, p, r}} {
		c.block(fmt.Sprintf("a chain in one block, in whatever order: %d", i+1), txs...)
		if i < 2 {
			c.takeBack(1)
		}
	}
	// An anchor of output 0 of others, by several inputs: they come first, in the order of its inputs.
	right, deep := next("right", c.anchor(b, 1, "right"), own()), next("before left", c.anchor(a, 0, "deep"), own())
	left := next("left, which goes on", c.anchor(a, 1, "left"), baton(deep))
	meet := next("spends both", c.anchor(b, 2, "meet"), baton(right), baton(left))
	alone := next("alone", c.anchor(a, 8, "alone"), own())
	payment := next("breaks alone", nil, baton(alone))
	for i, txs := range [][]*wire.MsgTx{{alone, meet, left, right, deep, payment}, {payment, deep, right, left, meet, alone}, {meet, payment, left, alone, deep, right}} {
		c.block(fmt.Sprintf("anchors that spend outputs of each other: %d", i+1), txs...)
		if i < 2 {
			c.takeBack(1)
		}
	}
	// Two spenders that break, in order of position; an output that no anchor has.
	first, second = begin(a, 1), begin(b, 1)
	c.block("two that carry no record, in order of position", next("breaks b", nil, baton(second)), next("breaks a", nil, own(), baton(first)))
	plain := next("a payment", nil, own())
	c.block("output 0 of a payment is no baton", next("a record that spends it", c.anchor(a, 1, "x"), baton(plain)), plain)
	// By output 1 of an anchor of the block: no order follows from that.
	one = next("an anchor", c.anchor(a, 1, "one"), own())
	two = next("spends output 1 of the anchor, and stands before it", c.anchor(a, 2, "two"), out(one, 1))
	c.block("output 1 gives no order", two, one)
	c.block("an anchor goes on, and another breaks a chain of its block", func() []*wire.MsgTx {
		one := next("an anchor", c.anchor(b, 1, "one"), own())
		return []*wire.MsgTx{next("spends its baton by input 1", c.anchor(b, 2, "two"), own(), baton(one)), one}
	}()...)

	// Reorganisation.
	chain = begin(a, 1)
	goesOn, breaks := next("goes on", c.anchor(a, 2, "on"), baton(chain)), next("breaks", nil, baton(chain))
	c.block("on one branch it goes on", goesOn)
	c.takeBack(1)
	c.block("on the other it is broken", breaks)
	c.takeBack(1)
	c.block("and now it goes on once more", goesOn)
	c.block("which is no chain that was broken", next("goes on", c.anchor(a, 3, "on"), baton(goesOn)))
}
