package graph_test

import (
	"testing"

	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/protocol"
)

// The chains of this file are told by hand. Each goes into graph and model, which
// have to agree on every answer after every block; most are what is left of random
// chains on which they once did not.

// scenario is a chain that a test makes block by block.
type scenario struct {
	*pair
	*world
	t *testing.T
}

func newScenario(t *testing.T, keys int) *scenario {
	return &scenario{pair: newPair(t, 0), world: newWorld(keys), t: t}
}

// confirm connects a block of these actions, in this order, and compares.
func (s *scenario) confirm(actions ...links.Action) {
	s.t.Helper()
	b := s.emptyBlock(s.next())
	for i, a := range actions {
		a.Index = uint32(i + 1)
		b.Actions = append(b.Actions, a)
	}
	s.connect(s.t, b)
	s.compare()
}

func (s *scenario) compare() {
	s.t.Helper()
	s.agree(s.t, s.world, 100)
}

// mlr makes a request by a key for another, both by number.
func (s *scenario) mlr(child, parent int) links.Action {
	return s.request(s.keys[child], s.keys[parent])
}

// mla makes an accept of a request.
func (s *scenario) mla(parent int, request links.Action) links.Action {
	return s.reply(protocol.MLA, parent, protocol.RefersTo(request.TxID))
}

// mcr makes a revoke of an accept.
func (s *scenario) mcr(parent int, accept links.Action) links.Action {
	return s.reply(protocol.MCR, parent, protocol.RefersTo(accept.TxID))
}

func (s *scenario) reply(kind protocol.Kind, author int, ref protocol.Reference) links.Action {
	return s.add(links.Action{Action: protocol.Action{Kind: kind, Ref: ref}, Author: &s.keys[author]})
}

// expectReason checks what the graph refused an action for, or that it did not.
func (s *scenario) expectReason(a links.Action, want links.Reason) {
	s.t.Helper()
	v := s.view(s.t, nil)
	defer v.Close()
	status := must(v.Action(a.TxID))(s.t)
	if status.State == links.StateWaiting || status.Reason != want {
		s.t.Fatalf("%s: state %d, reason %d; want reason %d", show(s.world, a), status.State, status.Reason, want)
	}
}

// expectID checks which action names a key's identity.
func (s *scenario) expectID(key int, want links.Action) {
	s.t.Helper()
	v := s.view(s.t, nil)
	defer v.Close()
	if got := must(v.Resolve(s.t.Context(), s.keys[key]))(s.t).ID; got != want.TxID {
		s.t.Fatalf("id of key%d: %s, want %s", key, show(s.world, got), show(s.world, want.TxID))
	}
}

// A tree that lost its only link is two keys with an id each and without a link.
func TestRestartAfterTheOnlyLinkWasCut(t *testing.T) {
	s := newScenario(t, 2)
	request := s.mlr(0, 1)
	accept := s.mla(1, request)
	s.confirm(request, accept)
	s.confirm(s.mcr(1, accept))
	s.restart(t)
	s.compare()
}

// Whom a waiting action is about comes out when it is decided, and is not known as
// of the blocks before.
func TestActionsOfBeforeTheReferenceIsKnown(t *testing.T) {
	s := newScenario(t, 3)
	request := s.mlr(0, 1)
	s.confirm(s.mla(2, request))
	s.confirm(request)
}

// A page that ends with the last entry is the last page, also as of blocks after
// which more came.
func TestNoPageAfterTheLast(t *testing.T) {
	s := newScenario(t, 3)
	first, second := s.mlr(0, 1), s.mlr(2, 1)
	s.confirm(first, s.mla(1, first))
	s.confirm(second, s.mla(1, second))
	s.agree(t, s.world, 1)
}

// An accept that refers to no request is about nobody, whatever that other action
// is about and whether it has been decided already.
func TestWrongKindIsAboutNobody(t *testing.T) {
	s := newScenario(t, 3)
	request := s.mlr(0, 1)
	accept := s.mla(1, request)
	s.confirm(request, accept, s.mla(2, accept), s.mcr(2, request))
	s.confirm(s.mcr(2, s.mcr(1, accept)))
}

// Position decides which of two accepts wins, and only position (protocol/SPEC.md §4).
func TestLowerPositionWins(t *testing.T) {
	for _, swapped := range []bool{false, true} {
		s := newScenario(t, 4)
		request1, request2 := s.mlr(0, 1), s.mlr(0, 2)
		first, second := s.mla(1, request1), s.mla(2, request2)
		winner := request1
		if swapped {
			first, second = second, first
			winner = request2
		}
		s.confirm(request1, request2, first, second)
		s.expectReason(first, links.NoReason)
		s.expectReason(second, links.ChildHasParent)
		s.expectID(0, winner)
	}
}

// Two accepts that close a loop together.
func TestLowerPositionWinsLoop(t *testing.T) {
	for _, swapped := range []bool{false, true} {
		s := newScenario(t, 3)
		up, down := s.mlr(0, 1), s.mlr(1, 0)
		first, second := s.mla(1, up), s.mla(0, down)
		if swapped {
			first, second = second, first
		}
		s.confirm(up, down, first, second)
		s.expectReason(first, links.NoReason)
		s.expectReason(second, links.Loop)
	}
}

// Position also decides which of several links of a block names the identity that
// they make together, though no two accepts conflict.
func TestLowerPositionNames(t *testing.T) {
	for _, swapped := range []bool{false, true} {
		s := newScenario(t, 4)
		low, high := s.mlr(0, 1), s.mlr(1, 2)
		first, second := s.mla(1, low), s.mla(2, high)
		name := low
		if swapped {
			first, second = second, first
			name = high
		}
		s.confirm(low, high, first, second)
		s.expectReason(first, links.NoReason)
		s.expectReason(second, links.NoReason)
		s.expectID(0, name)
	}
}

// A loser's reason depends on who comes first, the winner does not: key1 cannot be
// below its own descendant key0 in any order, but is below key2 in every one.
func TestReasonFollowsPosition(t *testing.T) {
	for _, test := range []struct {
		swapped bool
		want    links.Reason
	}{{false, links.Loop}, {true, links.ChildHasParent}} {
		s := newScenario(t, 3)
		link := s.mlr(0, 1)
		s.confirm(link, s.mla(1, link))
		toOwn, toOther := s.mlr(1, 0), s.mlr(1, 2)
		loop, good := s.mla(0, toOwn), s.mla(2, toOther)
		if test.swapped {
			s.confirm(toOwn, toOther, good, loop)
		} else {
			s.confirm(toOwn, toOther, loop, good)
		}
		s.expectReason(good, links.NoReason)
		s.expectReason(loop, test.want)
	}
}

// A hand-over in one block, in the worst order: the revoke of the old parent goes
// before the accept of the new one (protocol/SPEC.md §4, phases 2 and 3).
func TestHandOverInOneBlock(t *testing.T) {
	s := newScenario(t, 4)
	old := s.mlr(0, 1)
	accept := s.mla(1, old)
	s.confirm(old, accept)
	request := s.mlr(0, 2)
	takeOver, revoke := s.mla(2, request), s.mcr(1, accept)
	s.confirm(takeOver, request, revoke)
	s.expectReason(takeOver, links.NoReason)
	s.expectReason(revoke, links.NoReason)
	s.expectID(0, revoke)
	s.expectID(1, old)
}

// A chain of three that confirms backwards, with references in both byte orders:
// the request releases the accept and this the revoke, in the request's block.
func TestWaitingChainConfirmsBackwards(t *testing.T) {
	s := newScenario(t, 3)
	request := s.mlr(0, 1)
	accept := s.reply(protocol.MLA, 1, protocol.Reference(request.TxID))
	revoke := s.mcr(1, accept)
	s.confirm(revoke)
	s.confirm(accept)
	s.confirm()
	s.confirm(request)
	s.expectReason(revoke, links.NoReason)
	s.expectID(0, revoke)
	s.expectID(1, request)
	for range 4 {
		s.disconnect(t)
		s.compare()
	}
}

// The age of an id is that of its naming tx, not of the block that named: a revoke
// that waited names an identity that is older than one named meanwhile (protocol/SPEC.md §5).
func TestReleasedRevokeNamesTheOlderIdentity(t *testing.T) {
	s := newScenario(t, 4)
	request := s.mlr(0, 1)
	accept := s.mla(1, request)
	revoke := s.mcr(1, accept)
	s.confirm(revoke)
	other := s.mlr(2, 3)
	s.confirm(other, s.mla(3, other))
	s.confirm(request, accept)
	s.expectID(0, revoke)
	join := s.mlr(0, 2)
	s.confirm(join, s.mla(2, join))
	s.expectID(3, revoke)
}

// A branch that is cut and comes back, again and again, takes the old id each time
// and leaves one merged id behind each time (protocol/SPEC.md §5).
func TestBranchReturns(t *testing.T) {
	s := newScenario(t, 4)
	below := s.mlr(0, 1)
	s.confirm(below, s.mla(1, below))
	for range 3 {
		request := s.mlr(1, 2)
		accept := s.mla(2, request)
		s.confirm(request, accept)
		s.expectID(0, below)
		revoke := s.mcr(2, accept)
		s.confirm(revoke)
		s.expectID(0, revoke)
		s.expectID(2, below)
	}
	s.restart(t)
	s.compare()
}

// Paths are cut off after MaxPath keys, and are right beyond.
func TestPathLongerThanMaxPath(t *testing.T) {
	if testing.Short() {
		t.Skip("one goroutine does it all")
	}
	keys := links.MaxPath + 3
	s := newScenario(t, keys)
	var block, accepts []links.Action
	for i := range keys - 1 {
		request := s.mlr(i, i+1)
		accepts = append(accepts, s.mla(i+1, request))
		block = append(block, request, accepts[i])
	}
	s.confirm(block...)
	s.confirm(s.mcr(1, accepts[0]), s.mcr(51, accepts[50]))
	s.restart(t)
	s.compare()
	s.disconnect(t)
	s.compare()
}

// An identity that others merged into merges into an older one: their names lead
// there from then on, and as of the blocks before to where they led then.
func TestMergedIntoMerged(t *testing.T) {
	s := newScenario(t, 10)
	var names []links.Action
	for i := range 5 { // five identities of two keys, oldest first
		request := s.mlr(2*i, 2*i+1)
		s.confirm(request, s.mla(2*i+1, request))
		names = append(names, request)
	}
	join := func(child, parent int) {
		request := s.mlr(child, parent)
		s.confirm(request, s.mla(parent, request))
	}
	join(5, 2) // the third into the second
	join(7, 2) // the fourth too
	join(3, 0) // these into the oldest
	join(1, 8) // which stays the oldest below the youngest
	s.expectID(4, names[0])
	s.restart(t)
	s.compare()
	for range 3 {
		s.disconnect(t)
		s.compare()
	}
}
