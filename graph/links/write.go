package links

import (
	"maps"
	"slices"

	"github.com/keytree-bch/keytree/graph/store"
)

// Write adds all that the block wrote: its actions, its effects, and the version
// of each thing that is another after it.
func (s *Step) Write(w *store.Writes) {
	s.writeActions(w)
	s.writeFates(w)
	for chunk, from := range s.effectChunks {
		until := len(s.storedEffects)
		if chunk+1 < len(s.effectChunks) {
			until = s.effectChunks[chunk+1]
		}
		w.Set(store.ChunkKey(store.PrefixEffects, s.height, uint32(chunk)), s.storedEffects[from:until])
	}
	s.writeKeys(w)
	for _, id := range slices.SortedFunc(maps.Keys(s.sized), store.CompareHashes) {
		r := s.merged[id]
		if root := s.sized[id]; root != none {
			r = identityRecord{root: s.keys.Key(root), keys: uint32(s.forest.Size(root))}
		}
		w.Add(store.Version(store.IdentityStem(id), s.height), w.Make(r.appendTo))
	}
	slices.SortFunc(s.renamed, store.CompareHashes)
	for _, id := range slices.Compact(s.renamed) {
		w.Add(store.Version(store.NameStem(id), s.height), w.Make(s.names[id].appendTo))
	}
}

// writeKeys adds the versions of keys.
func (s *Step) writeKeys(w *store.Writes) {
	chunk := uint32(0)
	for changed := range slices.Chunk(s.changed, KeysPerChunk) {
		w.Set(store.ChunkKey(store.PrefixKey, s.height, chunk), w.Make(func(b []byte) []byte {
			for _, c := range changed {
				v := keyVersion{s.keys.Key(c.key), c.versionPlace, s.record(c.key)}
				b = v.appendTo(b)
			}
			return b
		}))
		chunk++
	}
	for i, c := range s.changed {
		if c.listed() {
			w.Add(store.NumberedKey(store.PrefixVersion, s.keys.Key(c.key), s.firstVersion+int32(i)), []byte{})
		}
	}
}

func (s *Step) writeActions(w *store.Writes) {
	fresh := s.fresh[s.first-s.known:]
	for chunk := uint32(0); int(chunk)*ActionsPerChunk < len(fresh); chunk++ {
		from := int(chunk) * ActionsPerChunk
		w.Set(store.ChunkKey(store.PrefixActions, s.height, chunk), w.Make(func(b []byte) []byte {
			for i := from; i < min(from+ActionsPerChunk, len(fresh)); i++ {
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
				chunk := rest[:min(len(rest), store.ChunkSize)]
				w.Set(store.MessageKey(store.Position{Height: s.height, Index: a.index}, n), chunk)
				rest = rest[len(chunk):]
			}
		}
	}
	for n := s.first; n < s.actions; n++ {
		if a := s.own(n); a.waits {
			w.Add(a.wants().key(n), []byte{})
		}
	}
	for _, m := range s.landmarks {
		w.Add(store.NumberedKey(store.PrefixLandmark, m.key, m.action), []byte{})
	}
	for _, m := range s.lateMention {
		w.Add(store.NumberedKey(store.PrefixLate, m.key, m.action), []byte{})
	}
}

// writeFates adds what became of actions of earlier blocks.
func (s *Step) writeFates(w *store.Writes) {
	for _, n := range s.decided {
		w.Add(store.LateKey(n), w.Make(s.fates[n].appendTo))
	}
	for _, request := range s.cutNow {
		w.Add(store.CutKey(request), w.Make(s.cuts[request].appendTo))
	}
}
