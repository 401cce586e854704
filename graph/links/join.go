package links

// join puts the link of an MLA that accepts request in force: from its child, a
// root, to its parent. They have these numbers, none if they were in no link. It decides the id of the joined tree (protocol/SPEC.md §5).
func (s *Step) join(accept, request *acted, child, parent int32) {
	if child == none {
		child = s.enter(request.child)
	}
	if parent == none {
		parent = s.enter(request.parent)
	}
	root := s.forest.Root(parent)
	childID, rootID := s.identity(child), s.identity(root)
	s.forest.Link(child, parent, s.height)
	s.nameKey(child, naming{accept.txid, accept.number}, s.height)
	s.places.Edit(child).request = request.number
	s.change(child)
	s.change(s.addChild(child, parent))
	s.Counts.Links++

	hasChildID, hasRootID := !childID.none(), !rootID.none()
	id := naming{request.txid, request.number}
	switch {
	case hasChildID && hasRootID:
		id = rootID
		if childID.number < rootID.number { // the older one: actions are numbered by position
			id = childID
		}
	case hasChildID:
		id = childID
	case hasRootID:
		id = rootID
	}
	s.emit(storedEffect{effect: LinkFormed, action: accept.number, target: request.number, id: id.number},
		&Effect{Tx: accept.txid, Ref: request.txid, Child: request.child, Parent: request.parent, ID: id.tx})
	if rootID != id {
		s.nameKey(root, id, s.height)
		s.change(root)
	}
	s.sized[id.tx] = root
	switch {
	case !hasChildID && !hasRootID:
		s.Counts.Identities++
		s.emit(storedEffect{effect: IdentityNamed, action: id.number}, &Effect{ID: id.tx, Root: s.keys.Key(root)})
	case hasChildID && hasRootID:
		merged := childID
		if id == childID {
			merged = rootID
		}
		s.Counts.Identities--
		s.emit(storedEffect{effect: IdentityMerged, action: merged.number, target: id.number}, &Effect{ID: merged.tx, Into: id.tx})
		s.sized[merged.tx], s.merged[merged.tx] = none, identityRecord{into: id.tx, number: merged.number}
		names, err := s.merge(merged.tx, id.tx)
		if err != nil {
			s.fail(err)
			return
		}
		s.renamed = append(s.renamed, names[:]...)
	}
}

// part cuts the link of the MLA accept, which is about some keys. The trunk keeps its
// id; the branch becomes the identity named by the revoke (protocol/SPEC.md §5).
func (s *Step) part(revoke, accept *acted, of about) {
	child, parent := s.keys.Find(of.child), s.keys.Find(of.parent)
	root := s.forest.Root(child)
	s.forest.Cut(child)
	p := s.places.Edit(child)
	s.cuts[p.request] = cutLink{accept.number, p.stands, revoke.number, s.height}
	s.cutNow = append(s.cutNow, p.request)
	id := naming{revoke.txid, revoke.number}
	p.request = none
	s.nameKey(child, id, s.height)
	s.change(child)
	s.change(s.removeChild(child, parent))
	s.Counts.Links--
	s.Counts.Identities++

	trunk := s.identity(root)
	s.emit(storedEffect{effect: LinkCut, action: revoke.number, target: accept.number, id: trunk.number},
		&Effect{Tx: revoke.txid, Ref: accept.txid, Child: of.child, Parent: of.parent, ID: trunk.tx})
	s.emit(storedEffect{effect: IdentityNamed, action: revoke.number}, &Effect{ID: id.tx, Root: of.child})
	s.sized[trunk.tx], s.sized[id.tx] = root, child
}
