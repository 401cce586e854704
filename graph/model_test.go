package graph_test

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/links"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/protocol"
)

// model is protocol/SPEC.md §3 to §9, and protocol/SPEC.md §12, said once more, as plainly as Go allows, to
// hold against the graph (see property_test.go). There is no database and no
// cleverness in it: every block makes a whole new state out of a copy of the one
// before, everything is looked up by walking. It was written from the text of
// the rules, without a look at the graph's implementation, and has to stay so:
// where the two differ, the text decides, not the other program.
type model struct {
	states []*modelState // after each block of the chain; never changed once here
}

// modelState is everything that is true after a block.
type modelState struct {
	block     graph.Block
	stateHash [32]byte
	effects   []links.Effect // of this block

	actions []modelAction                       // all that are confirmed, in order of position
	links   map[protocol.KeyHash]modelLink      // those in force, by child
	ids     map[protocol.KeyHash]chainhash.Hash // of the trees that have one, by root
	merged  map[chainhash.Hash]chainhash.Hash   // ids that merged, into which
	heights map[protocol.KeyHash]uint32         // of the records of the state root
}

// modelAction is a confirmed action and what has become of it.
type modelAction struct {
	links.Action
	height uint32

	state   links.ActionState // 0 only while its own block is being applied
	reason  links.Reason
	decided uint32 // height at which it got its state
	by      *chainhash.Hash

	// What the action is about, as far as that is known: for a well-formed MLR at
	// once, for others when they are decided, from the request or accept that they
	// refer to; one of the WRONG_KIND is about nobody.
	child, parent *protocol.KeyHash
	refTx         *chainhash.Hash
}

// modelLink is a link in force.
type modelLink struct {
	parent protocol.KeyHash
	accept chainhash.Hash
	since  uint32
}

func (m *model) connect(blocks ...graph.Block) {
	for _, b := range blocks {
		m.states = append(m.states, m.tip().next(b))
	}
}

func (m *model) disconnect() { m.states = m.states[:len(m.states)-1] }

// tip returns the state after the last block, an empty one without a block.
func (m *model) tip() *modelState {
	if len(m.states) == 0 {
		return &modelState{}
	}
	return m.states[len(m.states)-1]
}

// next returns the state after b, s being the one before.
func (s *modelState) next(b graph.Block) *modelState {
	n := s.begin(b)
	n.refuseUnfit()
	n.openRequests()
	n.revokeSettled(s)
	n.accept()
	n.revokeOthers()
	n.stateHash = modelStateHash(s.stateHash, b.Hash, n.effects)
	n.recordHeights(s)
	return n
}

// begin returns a copy of s to which b's actions are added, not yet decided. The
// phases of protocol/SPEC.md §4 follow. Each goes through all actions there are, in order of
// position, and picks those that are its own.
func (s *modelState) begin(b graph.Block) *modelState {
	n := s.clone()
	n.block = b
	n.effects = nil
	for _, tx := range slices.SortedFunc(slices.Values(b.Actions), byIndex) {
		a := modelAction{Action: tx, height: b.Height}
		if a.Kind == protocol.MLR && a.Malformed == nil {
			a.child, a.parent = a.Author, ptr(a.Parent)
		}
		n.actions = append(n.actions, a)
	}
	return n
}

func (s *modelState) clone() *modelState {
	n := *s
	n.actions = slices.Clone(s.actions)
	n.links = make(map[protocol.KeyHash]modelLink)
	n.ids = make(map[protocol.KeyHash]chainhash.Hash)
	n.merged = make(map[chainhash.Hash]chainhash.Hash)
	maps.Copy(n.links, s.links)
	maps.Copy(n.ids, s.ids)
	maps.Copy(n.merged, s.merged)
	return &n
}

func byIndex(a, b links.Action) int { return cmp.Compare(a.Index, b.Index) }

// refuseUnfit is what comes before the four phases.
func (s *modelState) refuseUnfit() {
	for i := range s.actions {
		a := &s.actions[i]
		switch {
		case a.state != 0:
		case a.Malformed != nil:
			s.refuse(a, links.Malformed)
		case a.Author == nil:
			s.refuse(a, links.NoAuthor)
		}
	}
}

// openRequests is phase 1: every MLR.
func (s *modelState) openRequests() {
	for i := range s.actions {
		a := &s.actions[i]
		if a.state != 0 || a.Kind != protocol.MLR {
			continue
		}
		if *a.Author == a.Parent {
			s.refuse(a, links.SelfLink)
			continue
		}
		a.state, a.decided = links.StateOpen, s.block.Height
		s.effect(links.Effect{Type: links.RequestOpened, Tx: a.TxID, Child: *a.Author, Parent: a.Parent})
	}
}

// revokeSettled is phase 2: every MCR that refers to an MLA that was decided in
// an earlier block; before is the state that those left.
func (s *modelState) revokeSettled(before *modelState) {
	for i := range s.actions {
		a := &s.actions[i]
		if a.state != 0 || a.Kind != protocol.MCR {
			continue
		}
		accept := before.referredTo(a)
		if accept != nil && accept.Kind == protocol.MLA && accept.state != links.StateWaiting {
			s.decideRevoke(a, s.referredTo(a))
		}
	}
}

// accept is phase 3: every MLA, the block's own and those that wait.
func (s *modelState) accept() {
	for i := range s.actions {
		a := &s.actions[i]
		if !a.undecided() || a.Kind != protocol.MLA {
			continue
		}
		if request := s.referredTo(a); request != nil {
			s.decideAccept(a, request)
		} else if a.state == 0 {
			s.wait(a)
		}
	}
}

// revokeOthers is phase 4: every other MCR, the block's own and those that wait.
func (s *modelState) revokeOthers() {
	for i := range s.actions {
		a := &s.actions[i]
		if !a.undecided() || a.Kind != protocol.MCR {
			continue
		}
		accept := s.referredTo(a)
		if accept != nil && !(accept.Kind == protocol.MLA && accept.state == links.StateWaiting) {
			s.decideRevoke(a, accept)
		} else if a.state == 0 {
			s.wait(a)
		}
	}
}

func (s *modelState) decideAccept(a, request *modelAction) {
	a.refTx = ptr(request.TxID)
	if request.Kind == protocol.MLR {
		a.child, a.parent = request.child, request.parent
	}
	switch {
	case request.Kind != protocol.MLR:
		s.refuse(a, links.WrongKind)
	case request.state == links.StateRefused:
		s.refuse(a, links.RequestRefused)
	case *a.Author != request.Parent:
		s.refuse(a, links.NotTheParent)
	case request.state == links.StateUsed:
		s.refuse(a, links.RequestUsed)
	case s.hasParent(*request.Author):
		s.refuse(a, links.ChildHasParent)
	case s.root(*a.Author) == *request.Author:
		s.refuse(a, links.Loop)
	default:
		a.state, a.decided = links.StateInForce, s.block.Height
		request.state, request.decided, request.by = links.StateUsed, s.block.Height, ptr(a.TxID)
		s.link(a, request)
	}
}

// link puts a link in force: two trees become one, which needs an id (protocol/SPEC.md §5).
func (s *modelState) link(a, request *modelAction) {
	child, parent := *request.Author, *a.Author
	root := s.root(parent)
	lower, lowerNamed := s.ids[child] // a child without a parent is a root
	upper, upperNamed := s.ids[root]
	var id chainhash.Hash
	var then *links.Effect
	switch {
	case !lowerNamed && !upperNamed:
		id = request.TxID
		then = &links.Effect{Type: links.IdentityNamed, ID: id, Root: root}
	case lowerNamed && upperNamed:
		var younger chainhash.Hash
		id, younger = lower, upper
		if s.older(upper, lower) {
			id, younger = upper, lower
		}
		s.merged[younger] = id
		then = &links.Effect{Type: links.IdentityMerged, ID: younger, Into: id}
	case lowerNamed:
		id = lower
	default:
		id = upper
	}
	delete(s.ids, child)
	s.ids[root] = id
	s.links[child] = modelLink{parent: parent, accept: a.TxID, since: s.block.Height}

	s.effect(links.Effect{Type: links.LinkFormed, Tx: a.TxID, Ref: request.TxID, Child: child, Parent: parent, ID: id})
	if then != nil {
		s.effect(*then)
	}
}

func (s *modelState) decideRevoke(a, accept *modelAction) {
	a.refTx = ptr(accept.TxID)
	if accept.Kind == protocol.MLA {
		a.child, a.parent = accept.child, accept.parent
	}
	switch {
	case accept.Kind != protocol.MLA:
		s.refuse(a, links.WrongKind)
	case accept.state == links.StateRefused:
		s.refuse(a, links.AcceptRefused)
	case *a.Author != *accept.Author:
		s.refuse(a, links.NotTheParent)
	case accept.state == links.StateCut:
		s.refuse(a, links.AlreadyRevoked)
	default:
		a.state, a.decided = links.StateDone, s.block.Height
		accept.state, accept.decided, accept.by = links.StateCut, s.block.Height, ptr(a.TxID)
		s.cut(a, accept)
	}
}

// cut cuts a link: the trunk keeps the id, the branch is named by the MCR (protocol/SPEC.md §5).
func (s *modelState) cut(a, accept *modelAction) {
	child, parent := *accept.child, *accept.parent
	delete(s.links, child)
	s.ids[child] = a.TxID
	trunk := s.ids[s.root(parent)]
	s.effect(links.Effect{Type: links.LinkCut, Tx: a.TxID, Ref: accept.TxID, Child: child, Parent: parent, ID: trunk})
	s.effect(links.Effect{Type: links.IdentityNamed, ID: a.TxID, Root: child})
}

func (s *modelState) refuse(a *modelAction, why links.Reason) {
	a.state, a.reason, a.decided = links.StateRefused, why, s.block.Height
	e := links.Effect{Type: links.ActionRefused, Tx: a.TxID, Kind: a.Kind, Reason: why}
	if a.Author != nil {
		e.Author = *a.Author
	}
	s.effect(e)
}

func (s *modelState) wait(a *modelAction) {
	a.state, a.decided = links.StateWaiting, s.block.Height
	s.effect(links.Effect{Type: links.ActionWaiting, Tx: a.TxID, Kind: a.Kind, Author: *a.Author, Reference: a.Ref})
}

func (s *modelState) effect(e links.Effect) { s.effects = append(s.effects, e) }

func (a *modelAction) undecided() bool { return a.state == 0 || a.state == links.StateWaiting }

// action returns the confirmed action of a txid, nil if there is none.
func (s *modelState) action(txid chainhash.Hash) *modelAction {
	for i := range s.actions {
		if s.actions[i].TxID == txid {
			return &s.actions[i]
		}
	}
	return nil
}

// referredTo returns the confirmed action that a refers to, nil if there is
// none: its txid is the reference read forwards or backwards (protocol/SPEC.md §1).
func (s *modelState) referredTo(a *modelAction) *modelAction {
	backwards := a.Ref
	slices.Reverse(backwards[:])
	for i := range s.actions {
		txid := s.actions[i].TxID
		if bytes.Equal(txid[:], a.Ref[:]) || bytes.Equal(txid[:], backwards[:]) {
			return &s.actions[i]
		}
	}
	return nil
}

// older reports whether the naming tx of id a has the lower position.
func (s *modelState) older(a, b chainhash.Hash) bool {
	x, y := s.action(a), s.action(b)
	if x.height != y.height {
		return x.height < y.height
	}
	return x.Index < y.Index
}

func (s *modelState) hasParent(key protocol.KeyHash) bool {
	_, ok := s.links[key]
	return ok
}

// path walks from a key up to its root, both included.
func (s *modelState) path(key protocol.KeyHash) []protocol.KeyHash {
	path := []protocol.KeyHash{key}
	for s.hasParent(key) {
		key = s.links[key].parent
		path = append(path, key)
	}
	return path
}

func (s *modelState) root(key protocol.KeyHash) protocol.KeyHash {
	path := s.path(key)
	return path[len(path)-1]
}

// The answers, in the graph's own types.

func (s *modelState) counts() store.Counts {
	c := store.Counts{Links: uint32(len(s.links)), Identities: uint32(len(s.ids))}
	for _, a := range s.actions {
		switch a.state {
		case links.StateRefused:
			c.Refused++
		case links.StateWaiting:
			c.Waiting++
		}
	}
	return c
}

func (s *modelState) resolve(key protocol.KeyHash) links.Resolution {
	path := s.path(key)
	r := links.Resolution{
		Key:   key,
		Root:  path[len(path)-1],
		Path:  path,
		Depth: uint32(len(path) - 1),
	}
	r.ID = s.ids[r.Root]
	if l, ok := s.links[key]; ok {
		r.Parent, r.Accept = ptr(l.parent), ptr(l.accept)
	}
	if len(path) > links.MaxPath {
		r.Path, r.Truncated = path[:links.MaxPath], true
	}
	return r
}

// identity returns nil if id names none.
func (s *modelState) identity(id chainhash.Hash) *links.Identity {
	current := id
	for s.merged[current] != (chainhash.Hash{}) {
		current = s.merged[current]
	}
	for root, named := range s.ids {
		if named != current {
			continue
		}
		answer := &links.Identity{
			ID:      id,
			Root:    root,
			Keys:    uint32(len(s.membersBelow(root))),
			NamedAt: s.action(id).height,
		}
		if current != id {
			answer.MergedInto = ptr(current)
		}
		return answer
	}
	return nil
}

// members returns nil if id names no identity.
func (s *modelState) members(id chainhash.Hash) []links.Member {
	identity := s.identity(id)
	if identity == nil {
		return nil
	}
	return s.membersBelow(identity.Root)
}

// membersBelow lists a key and all below it: depth first, children in the order
// in which they were linked.
func (s *modelState) membersBelow(key protocol.KeyHash) []links.Member {
	m := links.Member{Key: key, Depth: uint32(len(s.path(key)) - 1)}
	if l, ok := s.links[key]; ok {
		m.Parent, m.Accept, m.Linked = ptr(l.parent), ptr(l.accept), l.since
	}
	members := []links.Member{m}
	var children []protocol.KeyHash
	for child, l := range s.links {
		if l.parent == key {
			children = append(children, child)
		}
	}
	slices.SortFunc(children, func(a, b protocol.KeyHash) int {
		x, y := s.links[a], s.links[b]
		by, than := s.action(x.accept), s.action(y.accept)
		return cmp.Or(cmp.Compare(x.since, y.since), cmp.Compare(by.height, than.height), cmp.Compare(by.Index, than.Index))
	})
	for _, child := range children {
		members = append(members, s.membersBelow(child)...)
	}
	return members
}

func (a *modelAction) status() links.ActionStatus {
	status := links.ActionStatus{
		TxID:    a.TxID,
		Kind:    a.Kind,
		Height:  a.height,
		Index:   a.Index,
		Author:  a.Author,
		Message: a.Message,
		Child:   a.child,
		Parent:  a.parent,
		RefTx:   a.refTx,
		State:   a.state,
		Reason:  a.reason,
		Decided: a.decided,
		By:      a.by,
	}
	if a.Kind != protocol.MLR && a.Malformed == nil {
		status.Ref = ptr(a.Ref)
	}
	return status
}

// actionsOf lists the actions by and about a key, in order of position. "About"
// is no matter of the rules: see the fields of modelAction.
func (s *modelState) actionsOf(key protocol.KeyHash) []links.ActionStatus {
	is := func(k *protocol.KeyHash) bool { return k != nil && *k == key }
	var actions []links.ActionStatus
	for i := range s.actions {
		a := &s.actions[i]
		if is(a.Author) || is(a.child) || is(a.parent) {
			actions = append(actions, a.status())
		}
	}
	return actions
}

// requestsOf lists the requests that name a key as the parent, the newest first.
func (s *modelState) requestsOf(parent protocol.KeyHash) []links.Request {
	var requests []links.Request
	for i := range s.actions {
		a := &s.actions[i]
		if a.Kind != protocol.MLR || a.parent == nil || *a.parent != parent {
			continue
		}
		r := links.Request{ActionStatus: a.status(), Since: a.decided}
		switch a.state {
		case links.StateOpen:
			r.Link = links.OpenRequest
		case links.StateRefused:
			r.Link = links.RefusedRequest
		case links.StateUsed:
			r.Link = links.AcceptedRequest
			if accept := s.action(*a.by); accept.state == links.StateCut {
				r.Link, r.Since, r.Revoke = links.CutRequest, accept.decided, accept.by
			}
		}
		requests = append(requests, r)
	}
	slices.Reverse(requests)
	return requests
}

// linksBelow lists the links in force of a key's children, in the order in which they came.
func (s *modelState) linksBelow(parent protocol.KeyHash) []links.Link {
	var below []links.Link
	for _, m := range s.membersBelow(parent) {
		if m.Parent != nil && *m.Parent == parent {
			below = append(below, links.Link{Child: m.Key, Accept: *m.Accept, Linked: m.Linked, Branch: len(s.membersBelow(m.Key)) > 1})
		}
	}
	return below
}

// modelStateHash is H(h) of protocol/SPEC.md §9, with the encoding there.
func modelStateHash(prev [32]byte, block chainhash.Hash, effects []links.Effect) [32]byte {
	var encoded bytes.Buffer
	write := func(fields ...any) {
		for _, field := range fields {
			if err := binary.Write(&encoded, binary.BigEndian, field); err != nil {
				panic(err)
			}
		}
	}
	for _, e := range effects {
		switch e.Type {
		case links.RequestOpened:
			write(byte(0x01), e.Tx, e.Child, e.Parent)
		case links.LinkFormed:
			write(byte(0x02), e.Tx, e.Ref, e.Child, e.Parent, e.ID)
		case links.LinkCut:
			write(byte(0x03), e.Tx, e.Ref, e.Child, e.Parent, e.ID)
		case links.ActionRefused:
			write(byte(0x04), e.Tx, e.Kind, e.Reason, e.Author)
		case links.ActionWaiting:
			write(byte(0x05), e.Tx, e.Kind, e.Author, e.Reference)
		case links.IdentityNamed:
			write(byte(0x06), e.ID, e.Root)
		case links.IdentityMerged:
			write(byte(0x07), e.ID, e.Into)
		}
	}
	sum := sha256.Sum256(encoded.Bytes())
	return sha256.Sum256(slices.Concat(prev[:], block[:], sum[:]))
}

func ptr[T any](v T) *T { return &v }
