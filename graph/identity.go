package graph

import (
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// join puts the link from child, a root, to parent in force, and decides the id
// of the joined tree (identity-rules §5).
func (s *step) join(accept, request chainhash.Hash, childKey, parentKey protocol.KeyHash) error {
	child, parent := s.forest.add(childKey), s.forest.add(parentKey)
	root := s.forest.root(parent)
	childID, childNamed := s.ids[child]
	rootID, rootNamed := s.ids[root]
	s.forest.link(child, parent, accept)
	s.counts.Links++

	id := request
	switch {
	case childNamed && rootNamed:
		older, err := s.older(childID, rootID)
		if err != nil {
			return err
		}
		id = older
	case childNamed:
		id = childID
	case rootNamed:
		id = rootID
	}
	s.emit(Effect{Type: LinkFormed, Tx: accept, Ref: request, Child: childKey, Parent: parentKey, ID: id})
	s.w.setVersion(parentStem(childKey), s.height, acceptRecord{parentKey, accept}.encode())
	s.w.setVersion(childStem(parentKey, childKey), s.height, accept[:])

	if childNamed {
		s.setID(child, nil)
	}
	if !rootNamed || rootID != id {
		s.setID(root, &id)
	}
	s.sizeIdentity(id, root)
	switch {
	case !childNamed && !rootNamed:
		s.counts.Identities++
		s.emit(Effect{Type: IdentityNamed, ID: id, Root: s.forest.keys[root]})
	case childNamed && rootNamed:
		merged := childID
		if merged == id {
			merged = rootID
		}
		s.counts.Identities--
		s.emit(Effect{Type: IdentityMerged, ID: merged, Into: id})
		return s.merge(merged, id)
	}
	return nil
}

// part cuts the link from child to its parent. The trunk keeps its id; the
// branch becomes the identity named by the revoke (identity-rules §5).
func (s *step) part(revoke, accept chainhash.Hash, childKey, parentKey protocol.KeyHash) {
	child := s.forest.find(childKey)
	root := s.forest.root(child)
	s.forest.cut(child)
	s.counts.Links--
	s.counts.Identities++

	trunk := s.ids[root]
	s.emit(Effect{Type: LinkCut, Tx: revoke, Ref: accept, Child: childKey, Parent: parentKey, ID: trunk})
	s.emit(Effect{Type: IdentityNamed, ID: revoke, Root: childKey})
	s.w.setVersion(parentStem(childKey), s.height, []byte{})
	s.w.setVersion(childStem(parentKey, childKey), s.height, []byte{})
	s.sizeIdentity(trunk, root)
	s.setID(child, &revoke)
	s.sizeIdentity(revoke, child)
}

// setID makes id the id of the tree under root; nil: root is no root any more.
func (s *step) setID(root int32, id *chainhash.Hash) {
	stem := rootStem(s.forest.keys[root])
	if id == nil {
		delete(s.ids, root)
		s.w.setVersion(stem, s.height, []byte{})
		return
	}
	s.ids[root] = *id
	s.w.setVersion(stem, s.height, id[:])
}

// sizeIdentity records the root and size that id has now.
func (s *step) sizeIdentity(id chainhash.Hash, root int32) {
	record := identityRecord{s.forest.keys[root], uint32(s.forest.size(root))}
	s.w.setVersion(identityStem(id), s.height, record.encode())
}

// older returns the id whose naming transaction has the lower position.
func (s *step) older(a, b chainhash.Hash) (chainhash.Hash, error) {
	recordA, err := s.named(a)
	if err != nil {
		return a, err
	}
	recordB, err := s.named(b)
	if err != nil {
		return a, err
	}
	if recordB.at.before(recordA.at) {
		return b, nil
	}
	return a, nil
}

// merge makes the identity merged resolvable, for ever, to the tree that id
// holds.
//
// Names that merged form sets, found by union-find: each name points to another
// of its set, and the set's representative knows the identity that survives. A
// chain of merges, each into the next older identity, would otherwise make the
// first name as slow to resolve as an attacker likes. The smaller set goes under
// the larger, so a name is found in O(log n) steps; pointers are versioned and
// never moved, so that holds as of any height.
func (s *step) merge(merged, id chainhash.Hash) error {
	s.w.setVersion(identityStem(merged), s.height, []byte{})
	small, smallRecord, err := representative(merged, s.nameNow)
	if err != nil {
		return err
	}
	large, largeRecord, err := representative(id, s.nameNow)
	if err != nil {
		return err
	}
	if smallRecord.weight > largeRecord.weight {
		small, large = large, small
	}
	weight := smallRecord.weight + largeRecord.weight
	s.w.setLatest(nameStem(small), s.height, nameRecord{up: large}.encode())
	s.w.setLatest(nameStem(large), s.height, nameRecord{weight: weight, survivor: id}.encode())
	return nil
}

func (s *step) nameNow(id chainhash.Hash) ([]byte, error) { return s.w.latest(nameStem(id)) }

// representative follows a name to the representative of its set. record reads
// a name's record as of the height in question, nil if it has none: such a name
// never merged with another and stands for itself.
func representative(id chainhash.Hash, record func(chainhash.Hash) ([]byte, error)) (chainhash.Hash, nameRecord, error) {
	for {
		value, err := record(id)
		if err != nil {
			return id, nameRecord{}, err
		}
		if value == nil {
			return id, nameRecord{weight: 1, survivor: id}, nil
		}
		r, err := decodeNameRecord(value)
		if err != nil || r.up == (chainhash.Hash{}) {
			return id, r, err
		}
		id = r.up
	}
}
