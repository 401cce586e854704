package graph

import (
	"github.com/gcash/bchd/chaincfg/chainhash"
)

// form follows a link that came into force. due are the effects that must come
// next; problem says why it cannot have come into force.
func (i *inspection) form(e *Effect) (due []Effect, problem string, err error) {
	f := i.forest
	child, parent := f.add(e.Child), f.add(e.Parent)
	root := f.root(parent)
	switch {
	case f.parent[child] != none:
		return nil, "the child has a parent", nil
	case root == child:
		return nil, "the links form a cycle", nil
	}
	childID, childNamed := i.ids[child]
	rootID, rootNamed := i.ids[root]
	id, merged := e.Ref, chainhash.Hash{}
	switch {
	case childNamed && rootNamed:
		if id, merged, err = i.elder(childID, rootID); err != nil {
			return nil, "", err
		}
	case childNamed:
		id = childID
	case rootNamed:
		id = rootID
	}
	if e.ID != id {
		return nil, "the joined tree's id is " + id.String(), nil
	}
	f.link(child, parent, e.Tx)
	i.counts.Links++
	i.version(parentStem(e.Child), acceptRecord{e.Parent, e.Tx}.encode())
	i.version(childStem(e.Parent, e.Child), e.Tx.CloneBytes())
	if childNamed {
		delete(i.ids, child)
		i.version(rootStem(e.Child), []byte{})
	}
	if !rootNamed || rootID != id {
		i.ids[root] = id
		i.version(rootStem(f.keys[root]), id.CloneBytes())
	}
	i.size(id, root)
	switch {
	case !childNamed && !rootNamed:
		i.counts.Identities++
		return []Effect{{Type: IdentityNamed, ID: id, Root: f.keys[root]}}, "", nil
	case childNamed && rootNamed:
		i.counts.Identities--
		return []Effect{{Type: IdentityMerged, ID: merged, Into: id}}, "", i.merge(merged, id)
	}
	return nil, "", nil
}

// cut follows a link that was cut, as form does.
func (i *inspection) cut(e *Effect) (due []Effect, problem string) {
	f := i.forest
	child, parent := f.find(e.Child), f.find(e.Parent)
	if child == none || parent == none || f.parent[child] != parent || f.accept[child] != e.Ref {
		return nil, "there is no such link"
	}
	root := f.root(child)
	if i.ids[root] != e.ID {
		return nil, "the trunk's id is " + i.ids[root].String()
	}
	f.cut(child)
	i.counts.Links--
	i.counts.Identities++
	i.version(parentStem(e.Child), []byte{})
	i.version(childStem(e.Parent, e.Child), []byte{})
	i.size(e.ID, root)
	i.ids[child] = e.Tx
	i.version(rootStem(e.Child), e.Tx.CloneBytes())
	i.size(e.Tx, child)
	return []Effect{{Type: IdentityNamed, ID: e.Tx, Root: e.Child}}, ""
}

// elder returns which of two ids is named by the transaction with the lower
// position, and the other.
func (i *inspection) elder(a, b chainhash.Hash) (older, younger chainhash.Hash, err error) {
	recordA, err := i.record(a)
	if err != nil || recordA == nil {
		return a, b, err
	}
	recordB, err := i.record(b)
	if err != nil || recordB == nil {
		return a, b, err
	}
	if recordB.at.before(recordA.at) {
		return b, a, nil
	}
	return a, b, nil
}

// merge follows the union of the names merged and id (identity.go).
func (i *inspection) merge(merged, id chainhash.Hash) error {
	i.version(identityStem(merged), []byte{})
	name := func(id chainhash.Hash) ([]byte, error) {
		if r, ok := i.names[id]; ok {
			return r.encode(), nil
		}
		return nil, nil
	}
	small, smallRecord, err := representative(merged, name)
	if err != nil {
		return err
	}
	large, largeRecord, err := representative(id, name)
	if err != nil {
		return err
	}
	if smallRecord.weight > largeRecord.weight {
		small, large = large, small
	}
	i.names[small] = nameRecord{up: large}
	i.names[large] = nameRecord{weight: smallRecord.weight + largeRecord.weight, survivor: id}
	i.version(nameStem(small), i.names[small].encode())
	i.version(nameStem(large), i.names[large].encode())
	return nil
}

func (i *inspection) size(id chainhash.Hash, root int32) {
	i.version(identityStem(id), identityRecord{i.forest.keys[root], uint32(i.forest.size(root))}.encode())
}

// version expects what the block under way wrote about the thing with the given
// stem.
func (i *inspection) version(stem, value []byte) {
	i.want[string(version(stem, i.height))] = value
}
