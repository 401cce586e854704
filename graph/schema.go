package graph

import (
	"encoding/binary"
	"math"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

// The keys of the database. Integers are big-endian, so that keys sort by them;
// ^height is its complement, so that the newest version of a thing comes first
// and the version as of h is the first at or after ^h. Hashes are in internal
// byte order.
//
//	prefix  rest of the key                value                                 what
//	'M'     -                              JSON of the format record             format version, network, start height
//	'T'     -                              height 4                              the tip
//	'b'     height 4                       blockRecord                           block hash, state hash, totals
//	'e'     height 4, chunk 4              canonical encoding, cut in chunks     effects of the block (SPEC.md)
//	'a'     txid 32                        actionRecord                          an action and what became of it
//	'm'     txid 32, chunk 4               message, cut in chunks                a message too long for the record
//	'x'     key 20, height 4, index 4      txid 32                               actions by and about a key, by position
//	'w'     reference 32, height 4, index 4  txid 32                             actions waiting for a reference (canonical)
//	'p'     child 20, ^height 4            parent 20, accept 32; or empty        parent of a key; empty: none from then on
//	'c'     parent 20, child 20, ^height 4 accept 32; or empty                   children of a key; empty: cut
//	'r'     root 20, ^height 4             id 32; or empty                       id of the tree under a root; empty: not a root
//	'i'     id 32, ^height 4               root 20, keys 4; or empty             an identity's tree; empty: merged into another
//	'n'     id 32, ^height 4               nameRecord                            where to look for the identity that a name merged into
//
// These say how the graph came to be, not what it is: two graphs of the same
// chain may differ in them.
//
//	'u'     height 4, chunk 4              undo entries, cut in chunks           how to take a block back
//	'U'     -                              height 4                              the lowest block that can be taken back
//	'd'     height 4, hash 32              seq 8, previous hash 32               a block that was taken off the chain
//	'j'     chunk 4                        writes, cut in chunks                 a step too large for one transaction
//	'J'     -                              number of chunks 4                    the step in 'j' is complete
//	'W'     -                              empty                                 stamp of every transaction (badger.go)
const (
	prefixFormat      = 'M'
	prefixTip         = 'T'
	prefixBlock       = 'b'
	prefixEffects     = 'e'
	prefixAction      = 'a'
	prefixMessage     = 'm'
	prefixMention     = 'x'
	prefixWaiting     = 'w'
	prefixParent      = 'p'
	prefixChild       = 'c'
	prefixRoot        = 'r'
	prefixIdentity    = 'i'
	prefixName        = 'n'
	prefixUndo        = 'u'
	prefixUndoFrom    = 'U'
	prefixStale       = 'd'
	prefixJournal     = 'j'
	prefixJournalDone = 'J'
	prefixStamp       = 'W'
)

// statePrefixes are those of the first table: two graphs of the same chain hold
// the same bytes under them (identity-rules §8).
const statePrefixes = "MTbeamxwpcrin"

// chunkSize is where long values are cut, in bytes, so that they stay in the
// LSM tree and below Badger's limits.
const chunkSize = 64 << 10

func newest(height uint32) uint32 { return math.MaxUint32 - height }

func heightKey(prefix byte, height uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefix}, height)
}

func chunkKey(prefix byte, height, chunk uint32) []byte {
	return binary.BigEndian.AppendUint32(heightKey(prefix, height), chunk)
}

func actionKey(txid chainhash.Hash) []byte {
	return append([]byte{prefixAction}, txid[:]...)
}

func messageKey(txid chainhash.Hash, chunk uint32) []byte {
	return binary.BigEndian.AppendUint32(append([]byte{prefixMessage}, txid[:]...), chunk)
}

func mentionKey(key protocol.KeyHash, at position) []byte {
	return at.append(append([]byte{prefixMention}, key[:]...))
}

func waitingKey(ref protocol.Reference, at position) []byte {
	canonical := ref.Canonical()
	return at.append(append([]byte{prefixWaiting}, canonical[:]...))
}

// The stems of versioned keys: what stands before ^height.

func parentStem(child protocol.KeyHash) []byte {
	return append([]byte{prefixParent}, child[:]...)
}

func childStem(parent, child protocol.KeyHash) []byte {
	return append(childrenStem(parent), child[:]...)
}

func childrenStem(parent protocol.KeyHash) []byte {
	return append(make([]byte, 0, 45), append([]byte{prefixChild}, parent[:]...)...)
}

func rootStem(root protocol.KeyHash) []byte {
	return append([]byte{prefixRoot}, root[:]...)
}

func identityStem(id chainhash.Hash) []byte {
	return append([]byte{prefixIdentity}, id[:]...)
}

func nameStem(id chainhash.Hash) []byte {
	return append([]byte{prefixName}, id[:]...)
}

// version appends to a stem, without changing it, the height of a version.
func version(stem []byte, height uint32) []byte {
	return binary.BigEndian.AppendUint32(stem[:len(stem):len(stem)], newest(height))
}

// versionHeight reads the height off the end of a versioned key.
func versionHeight(key []byte) uint32 {
	return newest(binary.BigEndian.Uint32(key[len(key)-4:]))
}

func staleKey(height uint32, hash chainhash.Hash) []byte {
	return append(heightKey(prefixStale, height), hash[:]...)
}

// position is where an action stands on the chain (identity-rules, Words).
type position struct {
	height uint32
	index  uint32 // of the tx in the block
}

func (p position) before(q position) bool {
	return p.height < q.height || p.height == q.height && p.index < q.index
}

func (p position) append(key []byte) []byte {
	key = binary.BigEndian.AppendUint32(key, p.height)
	return binary.BigEndian.AppendUint32(key, p.index)
}

// readPosition reads a position off the end of a key.
func readPosition(key []byte) position {
	tail := key[len(key)-8:]
	return position{binary.BigEndian.Uint32(tail), binary.BigEndian.Uint32(tail[4:])}
}
