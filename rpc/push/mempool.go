package push

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
)

// Mempool is the log of what becomes pending and what goes, which all followers share: each has a
// Place in it. Nothing happens in it unless somebody follows. It may be used concurrently.
//
// It holds some 150 bytes for each pending transaction, whose number the mempool's follower
// bounds, and for each of the last MaxLogged changes.
type Mempool struct {
	graph *graph.Graph
	seed  maphash.Seed

	mu         sync.Mutex
	generation uint64        // mu; of what is listed; 0 before the first list
	listed     []Pending     // mu; in the order of comparePending
	log        []Change      // mu
	first      int           // mu; number of the first change in log
	looked     time.Time     // mu; when the list was made
	took       time.Duration // mu; making it
}

const (
	// MaxLogged is how many changes of what is pending are remembered for followers who have
	// not taken them yet.
	MaxLogged = 100_000
	// restFactor is how many times as long as making the list took nobody makes it again.
	restFactor = 10
	// listedAtOnce is how many are read at once for the list.
	listedAtOnce = 1000
)

// Pending is what a transaction of the mempool would do: an action, or something to a chain of
// anchors.
type Pending struct {
	Tx     chainhash.Hash
	Anchor *anchors.Effect // nil for an action

	keys  [3]protocol.KeyHash // that it names
	named int                 // how many keys there are
	fate  uint64              // all about it that can change
}

// Concerns reports whether it names a key of a filter's.
func (p *Pending) Concerns(f *Filter) bool {
	return f == nil || slices.ContainsFunc(p.keys[:p.named], f.HasKey)
}

func (p *Pending) name(keys ...*protocol.KeyHash) {
	for _, key := range keys {
		if key != nil {
			p.keys[p.named] = *key
			p.named++
		}
	}
}

// comparePending orders what is pending by transaction, of which the action comes first.
func comparePending(a, b *Pending) int {
	switch {
	case a.Tx != b.Tx:
		return compareHashes(a.Tx, b.Tx)
	case a.Anchor == nil && b.Anchor == nil:
		return 0
	case a.Anchor == nil:
		return -1
	case b.Anchor == nil:
		return 1
	}
	return cmp.Or(cmp.Compare(a.Anchor.Type, b.Anchor.Type), compareHashes(a.Anchor.Chain, b.Anchor.Chain))
}

// Change is one of the log: something is pending, or would do something else now, or has gone.
type Change struct {
	Pending
	Gone  bool
	Mined bool // it has gone because it is on the chain
}

// NewMempool returns the log of a graph.
func NewMempool(g *graph.Graph) *Mempool { return &Mempool{graph: g, seed: maphash.MakeSeed()} }

// Place is how much of a Mempool a follower was told. The zero value is nothing. One goroutine
// uses it.
type Place struct {
	begun bool
	after *Pending // the last that was told of what was pending at first; nil for none
	whole bool     // all of that was told
	next  int      // number of the next change
}

// Whole reports whether the follower was told all that was pending at first.
func (p *Place) Whole() bool { return p.whole }

// ErrBehind says that a follower has missed changes that nobody remembers any more.
var ErrBehind = errors.New("push: too much became pending that was not taken")

// Part is what a follower is to be told next of what is pending.
type Part struct {
	Changes []Change
	// View is what the changes are to be asked of. Its user closes it.
	View *graph.PendingView
	// More tells that there may be more right now.
	More bool
}

// Next moves a place past at most so many changes for which pick is true. pick is called with
// the log locked. nil as long as it is not known what is pending. A part that has to wait for a while, because the list was made
// just now, is nil, and comes in the time returned. ErrBehind; other errors are the graph's and the context's.
func (m *Mempool) Next(ctx context.Context, at *Place, most int, pick func(*Change) bool) (part *Part, wait time.Duration, err error) {
	view, ok := m.graph.Pending()
	if !ok {
		return nil, 0, nil
	}
	part = &Part{View: view}
	if wait, err = m.next(ctx, part, at, most, pick); wait > 0 || err != nil {
		view.Close()
		return nil, wait, err
	}
	return part, 0, nil
}

func (m *Mempool) next(ctx context.Context, part *Part, at *Place, most int, pick func(*Change) bool) (wait time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch generation := part.View.Generation(); {
	case generation < m.generation: // another follower has seen the next one already
		return time.Millisecond, nil
	case generation > m.generation:
		if rest := restFactor*m.took - time.Since(m.looked); m.generation > 0 && rest > 0 {
			return rest, nil
		}
		if err := m.list(ctx, part.View); err != nil {
			return 0, err
		}
	}
	if !at.begun {
		at.begun, at.next = true, m.end()
	}
	if !at.whole {
		part.Changes = m.readList(at, most, pick)
		part.More = true
		return 0, nil
	}
	if at.next < m.first {
		return 0, ErrBehind
	}
	for ; at.next < m.end() && len(part.Changes) < most; at.next++ {
		if c := m.log[at.next-m.first]; pick(&c) {
			part.Changes = append(part.Changes, c)
		}
	}
	part.More = at.next < m.end()
	return 0, nil
}

// end is the number of the next change. The caller holds mu.
func (m *Mempool) end() int { return m.first + len(m.log) }

// readList tells of what was pending at first, and of what came since. The caller holds mu.
func (m *Mempool) readList(at *Place, most int, pick func(*Change) bool) (changes []Change) {
	from := 0
	if at.after != nil {
		var there bool
		if from, there = m.find(at.after); there {
			from++
		}
	}
	for ; from < len(m.listed); from++ {
		if len(changes) == most {
			return changes
		}
		at.after = &m.listed[from]
		if c := (Change{Pending: m.listed[from]}); pick(&c) {
			changes = append(changes, c)
		}
	}
	at.whole, at.after = true, nil
	return changes
}

// find returns where in the list something is, or would be. The caller holds mu.
func (m *Mempool) find(p *Pending) (n int, there bool) {
	return slices.BinarySearchFunc(m.listed, p, func(a Pending, b *Pending) int { return comparePending(&a, b) })
}

// list makes the list of a view, and logs how it differs from the one before. The caller holds mu.
func (m *Mempool) list(ctx context.Context, view *graph.PendingView) error {
	began := time.Now()
	now, err := m.read(ctx, view)
	if err != nil {
		return err
	}
	if m.generation > 0 {
		if err := m.compare(m.listed, now, view.Tip()); err != nil {
			return err
		}
	}
	m.generation, m.listed, m.looked, m.took = view.Generation(), now, time.Now(), time.Since(began)
	return nil
}

// read lists what is pending.
func (m *Mempool) read(ctx context.Context, view *graph.PendingView) (all []Pending, err error) {
	var after *chainhash.Hash
	for first := true; first || after != nil; first = false {
		var actions []links.ActionStatus
		if actions, after, err = view.Actions(ctx, after, listedAtOnce); err != nil {
			return nil, err
		}
		for i := range actions {
			all = append(all, m.action(&actions[i], view))
		}
	}
	for first, more := 0, true; more; first += listedAtOnce {
		effects, err := view.AnchorEffects(first, listedAtOnce)
		if err != nil {
			return nil, err
		}
		for i := range effects {
			p := Pending{Tx: effects[i].Tx, Anchor: &effects[i]}
			p.name(effects[i].Author)
			tx, _ := view.Tx(p.Tx)
			p.fate = maphash.Comparable(m.seed, tx.DoubleSpend)
			all = append(all, p)
		}
		more = len(effects) == listedAtOnce
	}
	slices.SortFunc(all, func(a, b Pending) int { return comparePending(&a, &b) })
	return all, nil
}

func (m *Mempool) action(a *links.ActionStatus, view *graph.PendingView) Pending {
	p := Pending{Tx: a.TxID}
	p.name(a.Author, a.Child, a.Parent)
	tx, _ := view.Tx(a.TxID)
	fate := struct {
		state  links.ActionState
		reason links.Reason
		by     chainhash.Hash
		keys   [3]protocol.KeyHash
		twice  bool
	}{state: a.State, reason: a.Reason, keys: p.keys, twice: tx.DoubleSpend}
	if a.By != nil {
		fate.by = *a.By
	}
	p.fate = maphash.Comparable(m.seed, fate)
	return p
}

// compare logs how what is pending differs from what was. The caller holds mu.
func (m *Mempool) compare(was, is []Pending, tip *graph.View) error {
	var changes []Change
	for len(was) > 0 || len(is) > 0 {
		order := 0
		switch {
		case len(was) == 0:
			order = 1
		case len(is) == 0:
			order = -1
		default:
			order = comparePending(&was[0], &is[0])
		}
		switch {
		case order < 0:
			mined, err := isMined(tip, &was[0])
			if err != nil {
				return err
			}
			changes = append(changes, Change{Pending: was[0], Gone: true, Mined: mined})
		case order > 0 || was[0].fate != is[0].fate:
			changes = append(changes, Change{Pending: is[0]})
		}
		if order <= 0 {
			was = was[1:]
		}
		if order >= 0 {
			is = is[1:]
		}
	}
	m.log = append(m.log, changes...)
	if surplus := len(m.log) - MaxLogged; surplus > 0 {
		m.first += surplus
		m.log = slices.Clone(m.log[surplus:])
	}
	return nil
}

// isMined reports whether what was pending is on the chain.
func isMined(tip *graph.View, p *Pending) (bool, error) {
	var err error
	if p.Anchor == nil {
		_, err = tip.Action(p.Tx)
	} else {
		_, err = tip.AnchorProof(p.Tx)
	}
	if errors.Is(err, graph.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}
