package chain

import (
	"math/rand/v2"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// actor is a key that carries out actions and writes posts. It spends one coin
// of its own, and then the change, so it can do one thing a block.
type actor struct {
	*key
	coin   coin
	broke  bool   // the coin no longer pays for an action
	busy   uint32 // height of the block that it last did something in
	parent *link
}

// idle reports whether the actor can act in the block at height.
func (a *actor) idle(height uint32) bool { return !a.broke && a.busy < height }

// root returns the root of the actor's tree.
func (a *actor) root() *actor {
	for a.parent != nil {
		a = a.parent.parent
	}
	return a
}

// request is an MLR in a block before the one being made.
type request struct {
	txid          chainhash.Hash
	child, parent *actor
}

// link is an MLA, and the request that it used up.
type link struct {
	request request
	accept  chainhash.Hash
	height  uint32 // of its block
	parent  *actor
	child   *actor
}

// forest decides what the actors do, and predicts what becomes of it by
// protocol/SPEC.md §3 and §4. Both are easy as long as no action refers to one of
// its own block: then all cuts come before all accepts, and if the order in which
// they are made up here brings neither loops nor second parents, no order does.
type forest struct {
	rng    *rand.Rand
	actors []*actor
	open   []request
	links  []*link // in force
	cut    []*link // the last keepCut that were
	stats  *Stats
}

// keepCut bounds how many links that are cut are remembered, to revoke some
// again.
const keepCut = 100

// tries bounds how many candidates are looked at for each action.
const tries = 8

// act is an action that an actor is to publish. sealed is called with its txid
// when its block is complete.
type act struct {
	author *actor
	script []byte
	sealed func(chainhash.Hash)
}

// next makes up an action for the block at height; ok is false if all actors that
// it looks at are busy.
func (f *forest) next(height uint32) (a act, ok bool) {
	kind := f.rng.IntN(100)
	if kind < 3 {
		a, ok = f.mistake(height)
	}
	if !ok && kind < 13 {
		a, ok = f.revoke(height)
	}
	if !ok && kind < 55 {
		a, ok = f.accept(height)
	}
	if !ok {
		a, ok = f.request(height)
	}
	if ok {
		a.author.busy = height
	}
	return a, ok
}

// someone returns an idle actor for which good holds.
func (f *forest) someone(height uint32, good func(*actor) bool) *actor {
	for range tries {
		if a := f.actors[f.rng.IntN(len(f.actors))]; a.idle(height) && good(a) {
			return a
		}
	}
	return nil
}

func anyone(*actor) bool { return true }

func (f *forest) request(height uint32) (act, bool) {
	child := f.someone(height, func(a *actor) bool { return a.parent == nil })
	if child == nil {
		return act{}, false
	}
	for range tries {
		parent := f.actors[f.rng.IntN(len(f.actors))]
		if parent.root() == child {
			continue
		}
		f.stats.Requests++
		return act{child, f.must(protocol.RequestScript(parent.hash, f.message())), func(txid chainhash.Hash) {
			f.open = append(f.open, request{txid, child, parent})
		}}, true
	}
	return act{}, false
}

func (f *forest) accept(height uint32) (act, bool) {
	for range min(tries, len(f.open)) {
		i := f.rng.IntN(len(f.open))
		r := f.open[i]
		if r.child.parent != nil || r.parent.root() == r.child {
			if f.rng.IntN(4) == 0 { // somebody else was quicker, for good mostly
				f.open = slices.Delete(f.open, i, i+1)
			}
			continue
		}
		if !r.parent.idle(height) {
			continue
		}
		f.open = slices.Delete(f.open, i, i+1)
		l := &link{request: r, height: height, parent: r.parent, child: r.child}
		r.child.parent = l
		f.links = append(f.links, l)
		f.stats.Accepts++
		return act{r.parent, f.must(protocol.AcceptScript(r.txid, f.message())), func(txid chainhash.Hash) { l.accept = txid }}, true
	}
	return act{}, false
}

func (f *forest) revoke(height uint32) (act, bool) {
	for range min(tries, len(f.links)) {
		i := f.rng.IntN(len(f.links))
		l := f.links[i]
		if l.height == height || !l.parent.idle(height) {
			continue
		}
		f.links = slices.Delete(f.links, i, i+1)
		l.child.parent = nil
		f.stats.Revokes++
		return act{l.parent, f.must(protocol.RevokeScript(l.accept, f.message())), func(chainhash.Hash) {
			f.cut = append(f.cut, l)
			f.cut = f.cut[max(0, len(f.cut)-keepCut):]
		}}, true
	}
	return act{}, false
}

// mistake makes up an action that is refused.
func (f *forest) mistake(height uint32) (act, bool) {
	var author *actor
	var script []byte
	count := &f.stats.Requests
	switch f.rng.IntN(5) {
	case 0: // SELF_LINK
		if author = f.someone(height, anyone); author != nil {
			script = f.must(protocol.RequestScript(author.hash, nil))
		}
	case 1: // MALFORMED
		if author = f.someone(height, anyone); author != nil {
			script = f.must(protocol.RequestScript(author.hash, nil))
			script = script[:len(script)-1-f.rng.IntN(10)]
		}
	case 2: // NOT_THE_PARENT
		if len(f.open) > 0 {
			r := f.open[f.rng.IntN(len(f.open))]
			author = f.someone(height, func(a *actor) bool { return a != r.parent })
			script, count = f.must(protocol.AcceptScript(r.txid, nil)), &f.stats.Accepts
		}
	case 3: // REQUEST_USED
		if len(f.links) > 0 {
			if l := f.links[f.rng.IntN(len(f.links))]; l.height < height && l.parent.idle(height) {
				author, script, count = l.parent, f.must(protocol.AcceptScript(l.request.txid, nil)), &f.stats.Accepts
			}
		}
	case 4: // ALREADY_REVOKED
		if len(f.cut) > 0 {
			if l := f.cut[f.rng.IntN(len(f.cut))]; l.parent.idle(height) {
				author, script, count = l.parent, f.must(protocol.RevokeScript(l.accept, nil)), &f.stats.Revokes
			}
		}
	}
	if author == nil {
		return act{}, false
	}
	*count++
	f.stats.Refused++
	return act{author, script, func(chainhash.Hash) {}}, true
}

// message is what people write, mostly nothing.
func (f *forest) message() []byte {
	if f.rng.IntN(3) > 0 {
		return nil
	}
	return text(f.rng, 1+f.rng.IntN(100))
}

// must takes what only fails for a message that is too long.
func (f *forest) must(script []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return script
}
