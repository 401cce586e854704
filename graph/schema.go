package graph

import (
	"encoding/binary"
	"math"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/protocol"
)

// The keys of the database. Integers are big-endian, so that keys sort by them;
// ^height is its complement, so that the newest version of a thing comes first
// and the version as of h is the first at or after ^h. Hashes are in internal
// byte order. Actions go by their numbers, from 0 on, in order of position.
//
//	prefix  rest of the key                value                       what
//	'M'     -                              JSON of the format record   format version, network, start height
//	'T'     -                              height 4, hash 32; or empty the tip: what is above it does not count
//	'b'     height 4                       blockRecord                 what matters of its header, state hash, totals
//	'a'     height 4, chunk 4              storedActions, up to 32     actions of the block, in order of position
//	'm'     height 4, index 4, chunk 4     message, cut in chunks      a message too long for its action
//	'e'     height 4, chunk 4              storedEffects, in chunks     effects of the block, by number
//	'k'     key 20, ^height 4              keyRecord                   a key's parent, children and id from then on
//	'i'     id 32, ^height 4               root 20, keys 4; or empty   an identity's tree; empty: merged into another
//	'n'     id 32, ^height 4               nameRecord                  where to look for the identity that a name merged into
//	'o'     txid 32                        action 4                    the number of an action
//	'l'     action 4                       lateFate                 what a later block made of an action that waited in its own
//	'f'     action 4                       cutLink                     of an MLR, how its link ended
//	'w'     kind 1, reference 32, action 4 empty                       an action of a kind that waited in its own block; canonical
//	'x'     key 20, action 4               empty                       an action by or about a key: each one before the key was in an
//	                                                                   identity, every 64th of the chain from then on
//	'y'     key 20, action 4               empty                       an action that turned out later to be about a key
//	'H'     height 4                       80 bytes, levels 1          header of a block that has anchors or what broke a chain of them,
//	                                                                   and how many levels its merkle tree has below the root
//	'A'     height 4, chunk 4              storedAnchorTxs, up to 16   these transactions, in the order in which they were applied
//	'P'     height 4, number 4, chunk 4    transaction, cut in chunks  the one of that number, serialized
//	'N'     height 4, level 1, index 4     merkle nodes, up to 96      of the branches of these transactions, each once, in order: up to
//	                                                                   the one of that level and index
//	'B'     height 4, chunk 4              storedBreaks, in chunks     chains of anchors that they broke
//	'c'     txid 32, ^height 4             chainRecord                 a chain of anchors from then on, by its genesis anchor
//	'h'     txid 32, number 4              height 4, number 4          an anchor of a chain: where it is under A and P
//	't'     txid 32                        height 4, number 4          the same of any transaction under A
//	'j'     length 1, domain, height 4, index 4  height 4, number 4    the same of a domain's anchors
//	'g'     length 1, domain, height 4, index 4  txid 32               a domain's chains of anchors
//
// These say how the graph came to be, not what it is: two graphs of the same
// chain may differ in them.
//
//	'u'     height 4, chunk 4              keys, cut in chunks         what the block added under k, i, n, o, l, f, w, x, y, c, h, t, j and g
//	'U'     -                              height 4                    the lowest block that can be taken back
//	'd'     height 4, hash 32              seq 8, previous hash 32     a block that was taken off the chain
//	'W'     -                              empty                       stamp of every transaction (badgerdb.Stamp)
//
// But for T, U and W, no record is ever changed.
//
// # Lists that others make longer
//
// Who pays for the length of each list, and what it costs everybody else:
//
//	list                       made longer by                  adding, taking away            one question
//	actions, effects (a, e, o) fees: the block's actions, and  some 300 bytes each while the  Events reads those of the block up to
//	                           all that they release           step is made, none afterwards  the end of its page
//	waiting for one reference  fees: anybody                   constant each; released once;  none lists them
//	(w, l)                                                     24 bytes held per reference
//	links that were cut (f)    the key that accepted them      constant each                  one read
//	children of a key (k)      the key, which accepts each     constant each; 150 bytes held  Members: a page, and the way up from
//	                                                           per key                        the end of a branch
//	mentions of a key (x)      fees: anybody, of any key       constant each                  ActionsOf: a page and 63 more
//	late mentions (y)          fees: anybody, of any key       constant each                  ActionsOf: a page; as of a height before
//	                                                                                          they were decided, each is passed over
//	names that merged (n)      fees: two links each            logarithmic in the merges      logarithmic in the merges
//	versions of a thing        fees: an action each            constant each                  one seek
//	anchors, chains (h, j, g)  fees: anybody, for any domain   constant each                  a page
//	open chains                fees: anybody                   constant; some 50 bytes held   Batons copies 32 bytes of each
//	breaks of a block (B)      fees: an input each             constant each                  Events reads those of the block
//	what a block added (u)     fees                            written and removed by the     none
//	                                                           stage and the chunk
//	stale blocks (d)           miners and the node, down to    each reads all of them         Disconnects: those of its heights
//	                           the undo horizon
const (
	prefixFormat   = 'M'
	prefixTip      = 'T'
	prefixBlock    = 'b'
	prefixActions  = 'a'
	prefixMessage  = 'm'
	prefixEffects  = 'e'
	prefixKey      = 'k'
	prefixIdentity = 'i'
	prefixName     = 'n'
	prefixNumber   = 'o'
	prefixFate     = 'l'
	prefixCut      = 'f'
	prefixWaiting  = 'w'
	prefixLandmark = 'x'
	prefixLate     = 'y'

	prefixHeader       = 'H'
	prefixAnchorTxs    = 'A'
	prefixRawTx        = 'P'
	prefixMerkle       = 'N'
	prefixBreaks       = 'B'
	prefixChain        = 'c'
	prefixChainAnchor  = 'h'
	prefixAnchorTx     = 't'
	prefixDomainAnchor = 'j'
	prefixDomainChain  = 'g'

	prefixUndo     = 'u'
	prefixUndoFrom = 'U'
	prefixStale    = 'd'
	prefixStamp    = badgerdb.Stamp
)

// statePrefixes are those of the first table: two graphs of the same chain hold
// the same bytes under them (identity-rules §8).
const statePrefixes = "MTbamekinolfwxyHAPNBchtjg"

// blockPrefixes are those whose keys go on with the height of the block that
// they belong to, the undo record aside.
const blockPrefixes = "bameHAPNB"

// chunkSize is where long values are cut, in bytes, so that they stay in the
// LSM tree and below Badger's limits.
const chunkSize = 64 << 10

// actionsPerChunk is how many actions of a block share a value: enough that
// their number costs Badger little, few enough to read for one of them.
const actionsPerChunk = 32

// landmarkEvery is how many actions of a key's chain lie between those that are found
// without walking. At most 256: mentioning.since.
const landmarkEvery = 64

func newest(height uint32) uint32 { return math.MaxUint32 - height }

func heightKey(prefix byte, height uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefix}, height)
}

func chunkKey(prefix byte, height, chunk uint32) []byte {
	return binary.BigEndian.AppendUint32(heightKey(prefix, height), chunk)
}

func messageKey(at position, chunk uint32) []byte {
	return binary.BigEndian.AppendUint32(at.append([]byte{prefixMessage}), chunk)
}

// mentionKey is a key under prefixLandmark or prefixLate.
func mentionKey(prefix byte, key protocol.KeyHash, action int32) []byte {
	b := append(append(make([]byte, 0, 25), prefix), key[:]...)
	return binary.BigEndian.AppendUint32(b, uint32(action))
}

// actionTxKey is the key of an action's number.
func actionTxKey(txid chainhash.Hash) []byte {
	return append(append(make([]byte, 0, 33), prefixNumber), txid[:]...)
}

func lateKey(action int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefixFate}, uint32(action))
}

func cutKey(request int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefixCut}, uint32(request))
}

// The stems of versioned keys: what stands before ^height.

// keyStemSize is the size of a key's stem in bytes.
const keyStemSize = 1 + len(protocol.KeyHash{})

func keyStem(key protocol.KeyHash) []byte {
	return append(append(make([]byte, 0, keyStemSize+4), prefixKey), key[:]...)
}

func identityStem(id chainhash.Hash) []byte {
	return append(append(make([]byte, 0, 37), prefixIdentity), id[:]...)
}

func nameStem(id chainhash.Hash) []byte {
	return append(append(make([]byte, 0, 37), prefixName), id[:]...)
}

// chainStemSize is the size of a chain of anchors' stem in bytes.
const chainStemSize = 1 + chainhash.HashSize

func chainStem(genesis chainhash.Hash) []byte {
	return append(append(make([]byte, 0, chainStemSize+4), prefixChain), genesis[:]...)
}

// version appends to a stem the height of a version.
func version(stem []byte, height uint32) []byte {
	return binary.BigEndian.AppendUint32(stem, newest(height))
}

// versionHeight reads the height off the end of a versioned key.
func versionHeight(key []byte) uint32 {
	return newest(binary.BigEndian.Uint32(key[len(key)-4:]))
}

func appendRawTxKey(b []byte, p anchorPlace, chunk uint32) []byte {
	b = binary.BigEndian.AppendUint32(append(b, prefixRawTx), p.height)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, p.number), chunk)
}

func appendMerkleKey(b []byte, height uint32, level uint8, index uint32) []byte {
	b = binary.BigEndian.AppendUint32(append(b, prefixMerkle), height)
	return binary.BigEndian.AppendUint32(append(b, level), index)
}

func appendChainAnchorKey(b []byte, genesis chainhash.Hash, number uint32) []byte {
	b = append(append(b, prefixChainAnchor), genesis[:]...)
	return binary.BigEndian.AppendUint32(b, number)
}

func anchorTxKey(txid chainhash.Hash) []byte {
	return append([]byte{prefixAnchorTx}, txid[:]...)
}

// appendDomainStem appends what keys under prefixDomainAnchor or prefixDomainChain begin
// with. The length keeps a domain from being the beginning of another.
func appendDomainStem(b []byte, prefix byte, domain string) []byte {
	return append(append(b, prefix, byte(len(domain))), domain...)
}

func staleKey(height uint32, hash chainhash.Hash) []byte {
	return append(heightKey(prefixStale, height), hash[:]...)
}

// position is where an action stands on the chain (identity-rules, Words).
type position struct {
	height uint32
	index  uint32 // of the tx in the block
}

func (p position) append(key []byte) []byte {
	key = binary.BigEndian.AppendUint32(key, p.height)
	return binary.BigEndian.AppendUint32(key, p.index)
}
