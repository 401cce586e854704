package graph

import "slices"

// write adds all that the block wrote: its actions, its effects, and the version
// of each thing that is another after it.
func (s *step) write(w *writes) {
	s.writeActions(w)
	w.setChunks(prefixEffects, s.height, s.storedEffects)
	for _, key := range distinct(s.changed) {
		r, hash := s.record(key), s.keys.Key(key)
		w.add(
			w.make(func(b []byte) []byte {
				return version(append(append(b, prefixKey), hash[:]...), s.height)
			}),
			w.make(r.appendTo))
	}
	ids := make([]int32, 0, len(s.sized))
	for id := range s.sized {
		ids = append(ids, id)
	}
	for _, id := range distinct(ids) {
		var r identityRecord
		encode := func(b []byte) []byte { return b }
		if root := s.sized[id]; root != none {
			r = identityRecord{s.keys.Key(root), uint32(s.forest.Size(root))}
			encode = r.appendTo
		}
		w.add(version(identityStem(s.txids.Key(id)), s.height), w.make(encode))
	}
	for _, id := range distinct(s.renamed) {
		w.add(version(nameStem(s.txids.Key(id)), s.height), w.make(s.nameRecord(id).appendTo))
	}
	s.writeAnchors(w)
	w.finishBlock(s.height)
}

// distinct sorts numbers and drops those that come again.
func distinct(numbers []int32) []int32 {
	slices.Sort(numbers)
	return slices.Compact(numbers)
}

func (s *step) writeActions(w *writes) {
	for chunk := uint32(0); int(chunk)*actionsPerChunk < len(s.fresh); chunk++ {
		from := int(chunk) * actionsPerChunk
		w.set(chunkKey(prefixActions, s.height, chunk), w.make(func(b []byte) []byte {
			for i := from; i < min(from+actionsPerChunk, len(s.fresh)); i++ {
				a := s.fresh[i]
				if len(a.message) > inlineMessage {
					a.message = nil
				}
				b = a.appendTo(b)
			}
			return b
		}))
	}
	for i := range s.fresh {
		if a := &s.fresh[i]; len(a.message) > inlineMessage {
			for n, rest := uint32(0), a.message; len(rest) > 0; n++ {
				chunk := rest[:min(len(rest), chunkSize)]
				w.set(messageKey(position{s.height, a.index}, n), chunk)
				rest = rest[len(chunk):]
			}
		}
	}
	for _, m := range s.landmarks {
		w.add(mentionKey(prefixLandmark, s.keys.Key(m.key), m.action), []byte{})
	}
	for _, m := range s.late {
		w.add(mentionKey(prefixLate, s.keys.Key(m.key), m.action), []byte{})
	}
}
