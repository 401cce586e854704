package graph

// join puts the link of an MLA that accepts request in force: from its child, a
// root, to its parent. It decides the id of the joined tree (identity-rules §5).
func (s *step) join(accept, request int32) {
	child, parent := s.actions.Ref(request).child, s.actions.Ref(request).parent
	root := s.forest.Root(parent)
	childID, rootID := s.places.Ref(child).id, s.places.Ref(root).id
	s.forest.Link(child, parent)
	s.places.Edit(child).accept = accept
	s.changed = append(s.changed, child, s.addChild(child, parent, s.height))
	s.counts.Links++

	id := request
	switch {
	case childID != none && rootID != none:
		id = min(childID, rootID) // the older one: actions are numbered by position
	case childID != none:
		id = childID
	case rootID != none:
		id = rootID
	}
	s.emit(storedEffect{effect: LinkFormed, action: accept, target: request, id: id})
	s.places.Edit(child).id = none
	if rootID != id {
		s.places.Edit(root).id = id
		s.changed = append(s.changed, root)
	}
	s.sized[id] = root
	switch {
	case childID == none && rootID == none:
		s.counts.Identities++
		s.emit(storedEffect{effect: IdentityNamed, action: id, root: root})
	case childID != none && rootID != none:
		merged := max(childID, rootID)
		s.counts.Identities--
		s.emit(storedEffect{effect: IdentityMerged, action: merged, target: id})
		s.sized[merged] = none
		names := s.merge(merged, id)
		s.renamed = append(s.renamed, names[:]...)
	}
}

// part cuts the link of the MLA accept. The trunk keeps its id; the branch
// becomes the identity named by the revoke (identity-rules §5).
func (s *step) part(revoke, accept int32) {
	child, parent := s.actions.Ref(accept).child, s.actions.Ref(accept).parent
	root := s.forest.Root(child)
	s.forest.Cut(child)
	s.places.Edit(child).accept = none
	s.changed = append(s.changed, child, s.removeChild(child, parent, s.height))
	s.counts.Links--
	s.counts.Identities++

	trunk := s.places.Ref(root).id
	s.emit(storedEffect{effect: LinkCut, action: revoke, target: accept, id: trunk})
	s.emit(storedEffect{effect: IdentityNamed, action: revoke, root: child})
	s.places.Edit(child).id = revoke
	s.sized[trunk], s.sized[revoke] = root, child
}
