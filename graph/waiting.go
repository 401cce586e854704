package graph

import (
	"github.com/keytree-bch/keytree/graph/cow"
	"github.com/keytree-bch/keytree/protocol"
)

// waiting is the actions that wait for what they refer to. Whoever pays for an action
// can let it wait for whatever he likes, so the lists may be long: adding to one,
// taking from it and releasing all of it take a constant time per action.
//
// All actions in a list are released together, when what they wait for is there, and
// are put back together when that is taken back. Therefore those of different kinds
// do not share a list: an MLA waits for a transaction until it is confirmed, an MCR
// until it is decided.
type waiting struct {
	lists cow.Map[wanted, waiters]
	each  cow.Map[int32, waiter] // by action
}

// wanted is what actions wait for.
type wanted struct {
	what protocol.Reference // canonical
	by   protocol.Kind      // of the actions
}

// waiters is a list of actions in order of position.
type waiters struct{ first, last int32 }

// waiter is an action in a list.
type waiter struct {
	ref            protocol.Reference // as pushed
	previous, next int32
}

func newWaiting() waiting {
	return waiting{cow.NewMap[wanted, waiters](), cow.NewMap[int32, waiter]()}
}

func (w *waiting) fork() waiting { return waiting{w.lists.Fork(), w.each.Fork()} }

// reference returns what an action that waits refers to.
func (w *waiting) reference(action int32) protocol.Reference {
	of, _ := w.each.Get(action)
	return of.ref
}

// add lets an action of a kind wait. It is fast for one behind or before all others in
// its list.
func (w *waiting) add(action int32, kind protocol.Kind, ref protocol.Reference) {
	key := wanted{ref.Canonical(), kind}
	list, ok := w.lists.Get(key)
	if !ok {
		list = waiters{none, none}
	}
	of := waiter{ref: ref, previous: list.last, next: none}
	if list.first > action {
		of.previous = none
	}
	for of.previous > action {
		before, _ := w.each.Get(of.previous)
		of.previous = before.previous
	}
	if of.previous == none {
		of.next = list.first
		list.first = action
	} else {
		of.next = w.link(of.previous, func(p *waiter) *int32 { return &p.next }, action)
	}
	if of.next == none {
		list.last = action
	} else {
		w.link(of.next, func(n *waiter) *int32 { return &n.previous }, action)
	}
	w.each.Set(action, of)
	w.lists.Set(key, list)
}

// remove ends the waiting of an action of a kind, if it does wait.
func (w *waiting) remove(action int32, kind protocol.Kind) {
	of, ok := w.each.Get(action)
	if !ok {
		return
	}
	w.each.Delete(action)
	key := wanted{of.ref.Canonical(), kind}
	list, _ := w.lists.Get(key)
	if of.previous == none {
		list.first = of.next
	} else {
		w.link(of.previous, func(p *waiter) *int32 { return &p.next }, of.next)
	}
	if of.next == none {
		list.last = of.previous
	} else {
		w.link(of.next, func(n *waiter) *int32 { return &n.previous }, of.previous)
	}
	if list.first == none {
		w.lists.Delete(key)
	} else {
		w.lists.Set(key, list)
	}
}

// link lets one end of an action in a list point to another one, and returns to which
// it pointed before.
func (w *waiting) link(action int32, end func(*waiter) *int32, to int32) (was int32) {
	of, _ := w.each.Get(action)
	was, *end(&of) = *end(&of), to
	w.each.Set(action, of)
	return was
}

// on lists the actions of a kind that wait for what is referred to, in order of
// position.
func (w *waiting) on(ref protocol.Reference, kind protocol.Kind) (actions []int32) {
	if w.lists.Len() == 0 {
		return nil
	}
	list, ok := w.lists.Get(wanted{ref.Canonical(), kind})
	if !ok {
		return nil
	}
	for n := list.first; n != none; {
		actions = append(actions, n)
		of, _ := w.each.Get(n)
		n = of.next
	}
	return actions
}
