package vectors

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

// byChance makes up so many steps: transactions that mostly make sense, are confirmed in any order
// or never, and blocks that are taken back, whose transactions may be confirmed elsewhere.
func byChance(c *chain, seed uint64, steps int) {
	p := &player{chain: c, Rand: rand.New(rand.NewPCG(seed, 0)), batons: make(map[string][]*wire.MsgTx), needs: make(map[*wire.MsgTx]*wire.MsgTx)}
	names := []string{"A", "B", "C", "D", "E", "F", "G"}
	c.fund(steps+40, names...)
	for range 2 * steps {
		p.free = append(p.free, c.pays([]byte{0x51}))
	}
	p.nobodys = c.fundOutputs(p.free...)
	p.names = names
	base := len(c.tips)
	confirmed := make([][]*wire.MsgTx, base)
	for range steps {
		if n := len(c.tips) - base; n > 0 && p.IntN(6) == 0 {
			back := 1 + p.IntN(min(n, 5))
			for range back {
				last := len(confirmed) - 1
				p.pool = append(confirmed[last], p.pool...)
				confirmed = confirmed[:last]
			}
			c.takeBack(back)
		}
		for range p.IntN(5) {
			p.pool = append(p.pool, p.make())
		}
		var txs []*wire.MsgTx
		var left []*wire.MsgTx
		for _, tx := range p.pool { // parents stand before children
			need := p.needs[tx]
			if p.IntN(4) == 0 || (need != nil && slices.Contains(left, need)) {
				left = append(left, tx)
			} else {
				txs = append(txs, tx)
			}
		}
		p.pool = left
		inBlock := slices.Clone(txs)
		p.Shuffle(len(inBlock), func(i, j int) { inBlock[i], inBlock[j] = inBlock[j], inBlock[i] })
		c.block("", inBlock...)
		confirmed = append(confirmed, txs)
	}
}

// player makes up transactions.
type player struct {
	*chain
	*rand.Rand
	names   []string
	free    []*wire.TxOut
	nobodys []regtest.Coin
	pool    []*wire.MsgTx               // not confirmed, parents before children
	needs   map[*wire.MsgTx]*wire.MsgTx // of a child, the parent that it spends

	requests, accepts []doing
	all               []*wire.MsgTx
	batons            map[string][]*wire.MsgTx // anchors whose output 0 nothing spends
}

// doing is an action, and who can take it further.
type doing struct {
	tx     *wire.MsgTx
	parent string
}

func (p *player) name() string { return p.names[p.IntN(len(p.names))] }

func pick[T any](p *player, of []T) T { return of[max(p.IntN(len(of)), p.IntN(len(of)))] }

func (p *player) make() *wire.MsgTx {
	tx := p.draw()
	p.all = append(p.all, tx)
	return tx
}

func (p *player) draw() *wire.MsgTx {
	order := displayed
	if p.IntN(3) == 0 {
		order = internal
	}
	switch n := p.IntN(20); {
	case n < 7 && len(p.requests) > 0:
		to := pick(p, p.requests)
		by := to.parent
		if p.IntN(6) == 0 {
			by = p.name()
		}
		tx := p.act("MLA by "+by, by, slices.Concat(mla, push(order(to.tx))))
		p.accepts = append(p.accepts, doing{tx, by})
		return tx
	case n < 11 && len(p.accepts) > 0:
		to := pick(p, p.accepts)
		by := to.parent
		if p.IntN(6) == 0 {
			by = p.name()
		}
		return p.act("MCR by "+by, by, slices.Concat(mcr, push(order(to.tx))))
	case n == 11 && len(p.all) > 0:
		prefix, by := mla, p.name()
		if p.IntN(2) == 0 {
			prefix = mcr
		}
		return p.act("MLA or MCR by "+by+" of anything", by, slices.Concat(prefix, push(order(pick(p, p.all)))))
	case n == 12:
		prefix := pick(p, [][]byte{mlr, mla, mcr})
		return p.act("malformed", p.name(), slices.Concat(prefix, push([]byte{1})))
	case n == 13 && len(p.nobodys) > 0 && len(p.requests) > 0:
		out := p.nobodys[0]
		p.nobodys = p.nobodys[1:]
		return p.nobody("MLA by nobody", out, slices.Concat(mla, push(order(pick(p, p.requests).tx))))
	case n < 17 && n > 13:
		return p.anchorTx()
	}
	child, parent := p.name(), p.name()
	tx := p.request(child, parent)
	p.requests = append(p.requests, doing{tx, parent})
	return tx
}

// anchorTx goes on with a chain, begins one, or breaks some.
func (p *player) anchorTx() *wire.MsgTx {
	domain := pick(p, []string{"a.example", "b.example"})
	name := "A"
	var inputs []input
	var parent *wire.MsgTx
	if open := p.batons[domain]; len(open) > 0 && p.IntN(4) > 0 {
		i := p.IntN(len(open))
		parent = open[i]
		p.batons[domain] = slices.Delete(open, i, i+1)
		inputs = append(inputs, input{coin: coin{regtest.CoinOf(parent, 0), p.key(name)}})
		if p.IntN(5) == 0 {
			inputs = append([]input{{coin: p.take(name)}}, inputs...)
		}
		if p.IntN(5) == 0 {
			domain = "b.example"
		}
	} else {
		inputs = append(inputs, input{coin: p.take(name)})
	}
	outputs := []*wire.TxOut{p.pays(p.key(name).Script())}
	carries := p.IntN(5) > 0
	if carries {
		outputs = append(outputs, record(p.anchor(domain, uint64(p.IntN(3)+len(p.all)/9), fmt.Sprint(p.IntN(2)))))
	}
	tx := p.tx("a transaction for "+domain, inputs, outputs...)
	if carries {
		p.batons[domain] = append(p.batons[domain], tx)
	}
	if parent != nil {
		p.needs[tx] = parent
	}
	return tx
}
