package graph

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

// write adds all that the block wrote: its actions, its effects, and the version
// of each thing that is another after it. What it cannot read for that is noted in err.
func (s *step) write(w *writes) {
	s.writeActions(w)
	s.writeFates(w)
	w.setChunks(prefixEffects, s.height, s.storedEffects)
	changed := distinct(s.changed)
	slices.SortFunc(changed, func(a, b int32) int { return bytes.Compare(s.keys.Ref(a)[:], s.keys.Ref(b)[:]) })
	for _, key := range changed {
		r, hash := s.record(key), s.keys.Key(key)
		w.add(
			w.make(func(b []byte) []byte {
				return version(append(append(b, prefixKey), hash[:]...), s.height)
			}),
			w.make(r.appendTo))
	}
	for _, id := range slices.SortedFunc(maps.Keys(s.sized), compareHashes) {
		var r identityRecord
		encode := func(b []byte) []byte { return b }
		if root := s.sized[id]; root != none {
			r = identityRecord{s.keys.Key(root), uint32(s.forest.Size(root))}
			encode = r.appendTo
		}
		w.add(version(identityStem(id), s.height), w.make(encode))
	}
	slices.SortFunc(s.renamed, compareHashes)
	for _, id := range slices.Compact(s.renamed) {
		w.add(version(nameStem(id), s.height), w.make(s.names[id].appendTo))
	}
	s.writeAnchors(w)
	w.finishBlock()
}

func compareHashes(a, b chainhash.Hash) int { return bytes.Compare(a[:], b[:]) }

// distinct sorts numbers and drops those that come again.
func distinct(numbers []int32) []int32 {
	slices.Sort(numbers)
	return slices.Compact(numbers)
}

func (s *step) writeActions(w *writes) {
	fresh := s.fresh[s.first-s.known:]
	for chunk := uint32(0); int(chunk)*actionsPerChunk < len(fresh); chunk++ {
		from := int(chunk) * actionsPerChunk
		w.set(chunkKey(prefixActions, s.height, chunk), w.make(func(b []byte) []byte {
			for i := from; i < min(from+actionsPerChunk, len(fresh)); i++ {
				a := fresh[i]
				if len(a.message) > inlineMessage {
					a.message = nil
				}
				b = a.appendTo(b)
			}
			return b
		}))
	}
	for i := range fresh {
		if a := &fresh[i]; len(a.message) > inlineMessage {
			for n, rest := uint32(0), a.message; len(rest) > 0; n++ {
				chunk := rest[:min(len(rest), chunkSize)]
				w.set(messageKey(position{s.height, a.index}, n), chunk)
				rest = rest[len(chunk):]
			}
		}
	}
	// Badger takes keys that are in order faster.
	for _, n := range s.sortedByTx(s.first, s.actions) {
		w.add(
			w.make(func(b []byte) []byte { return append(append(b, prefixNumber), s.own(n).txid[:]...) }),
			w.make(func(b []byte) []byte { return binary.BigEndian.AppendUint32(b, uint32(n)) }))
	}
	for n := s.first; n < s.actions; n++ {
		if a := s.own(n); a.waits {
			w.add(a.wants().key(n), []byte{})
		}
	}
	for _, m := range s.landmarks {
		w.add(mentionKey(prefixLandmark, m.key, m.action), []byte{})
	}
	for _, m := range s.lateMention {
		w.add(mentionKey(prefixLate, m.key, m.action), []byte{})
	}
}

// writeFates adds what became of actions of earlier blocks.
func (s *step) writeFates(w *writes) {
	for _, n := range s.decided {
		w.add(lateKey(n), w.make(s.fates[n].appendTo))
	}
	for _, request := range s.cutNow {
		w.add(cutKey(request), w.make(s.cuts[request].appendTo))
	}
}
