package store

import (
	"bytes"
	"encoding/binary"
	"math"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph/badgerdb"
	"github.com/keytree-bch/keytree/protocol"
)

// The keys of the database. Integers are big-endian, so that keys sort by them;
// ^height is its complement, so that the newest version of a thing comes first
// and the version as of h is the first at or after ^h. Hashes are in internal
// byte order. Actions go by their numbers, from 0 on, in order of position; versions of keys by theirs, in the
// order in which they came.
//
//	prefix  rest of the key                value                       what
//	'M'     -                              JSON of the format record   format version, network, start height
//	'T'     -                              height 4, hash 32; or empty the tip: what is above it does not count
//	'b'     height 4                       Block                 what matters of its header, state hash, state root, totals
//	'a'     height 4, chunk 4              storedActions, up to 32     actions of the block, in order of position
//	'm'     height 4, index 4, chunk 4     message, cut in chunks      a message too long for its action
//	'e'     height 4, chunk 4              storedEffects, up to 4096   effects of the block, by number
//	'k'     height 4, chunk 4              keyVersions, up to 32       keys that the block changed: their parents, children and ids from then
//	                                                                   on, and which version of each was before
//	'v'     key 20, version 4              empty                       a version of a key, from its 4th on
//	'i'     id 32, ^height 4               root 20, keys 4; or         an identity's tree; or the one that it merged into, and the action
//	                                       id 32, action 4             that it was named by
//	'n'     id 32, ^height 4               nameRecord                  where to look for the identity that a name merged into
//	'l'     action 4                       lateFate                 what a later block made of an action that waited in its own
//	'f'     action 4                       cutLink                     of an MLR, how its link ended
//	'w'     kind 1, reference 32, action 4 empty                       an action of a kind that waited in its own block; canonical
//	'x'     key 20, action 4               empty                       an action by or about a key: each one before the key was in an
//	                                                                   identity but the first, which package txids finds; every 64th
//	                                                                   of the chain from then on
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
//	'o'     run 4, chunk 4                 entries 8, checksum 4       numbers of actions by hashes of txids and keys (package txids)
//	'r'     -                              list of runs, checksum 4    which of these runs and chunks count
//	'u'     height 4, chunk 4              keys, cut in chunks         what the block added under v, i, n, l, f, w, x, y and c; under h,
//	                                                                   t, j and g that follows from its anchors
//	'U'     -                              height 4                    the lowest block that can be taken back
//	'd'     height 4, hash 32              seq 8, previous hash 32     a block that was taken off the chain
//	'D'     height 4, hash 32, list 1, chunk 4  keys 20, or ids 32     what it had changed: the keys with another link or name (list 0),
//	                                                                   the identities touched (list 1)
//	'W'     -                              empty                       stamp of every transaction (badgerdb.Stamp)
//
// But for T, r, U and W, no record is ever changed.
//
// # Lists that others make longer
//
// Who pays for the length of each list, and what it costs everybody else:
//
//	list                       made longer by                  adding, taking away            one question
//	actions, effects (a, e)    fees: the block's actions, and  some 300 bytes each while the  Events reads of a block those of
//	                           all that they release           step is made, none afterwards  its page, and a chunk before it
//	numbers by txid, by key    fees: anybody                   8 bytes written for each       a chunk of each run: some ten for each
//	(o, r)                                                     factor of 8 in their number;   factor of 8; one, and one in a thousand of
//	                                                           2 bytes held, up to a bound    the others, as long as 2 bytes of each are held
//	waiting for one reference  fees: anybody                   constant each; released once;  none lists them
//	(w, l)                                                     24 bytes held per reference
//	links that were cut (f)    the key that accepted them      constant each                  one read
//	children of a key (k)      the key, which accepts each     constant each; 140 bytes held  Members: a page, and the way up from
//	                                                           per key                        the end of a branch, links.MaxWork at most;
//	                                                                                          LinksBelow: a page
//	links above a key (k)      each key above it               constant each                  Resolve: as of the tip logarithmic, else a seek
//	                                                                                          and a chunk or two for each that changed
//	                                                                                          since, links.MaxWork
//	mentions of a key (x, o)   fees: anybody, of any key       constant each; the first of a  ActionsOf: a page, 63 more, and a chunk of each
//	                                                           key as a number by key         run; Requests: these, and 4,096 that are passed
//	                                                                                          over
//	late mentions (y)          fees: anybody, of any key       constant each                  ActionsOf: a page, and as of a height before
//	                                                                                          they were decided 4,096 that are passed over
//	what checkpoints hold      keys in links, waiting actions  400 bytes written at most      none
//	names that merged (n)      fees: two links each            logarithmic in the merges; 60  logarithmic in the merges
//	                                                           bytes held for the state root
//	versions of a key (k, v)   fees: its links                 constant each                  a seek and two chunks, or three chunks
//	versions of another thing  fees: an action each            constant each                  one seek
//	anchors, chains (h, j, g)  fees: anybody, for any domain   constant each                  a page
//	open chains                fees: anybody                   constant; some 50 bytes held   Batons copies 32 bytes of each
//	breaks of a block (B)      fees: an input each             constant each                  Events: a page, and two chunks for each
//	                                                                                          bit of their number
//	what a block added (u)     fees                            written and removed by the     none
//	                                                           stage and the chunk
//	stale blocks (d)           miners and the node, down to    each reads all of them         Disconnects: those of its heights
//	                           the undo horizon
//	what they had changed (D)  fees: the block's links         written when it is taken off   Following.Disconnected: those of the blocks
//	                                                                                          from the chain up to one
const (
	PrefixFormat   = 'M'
	PrefixTip      = 'T'
	PrefixBlock    = 'b'
	PrefixActions  = 'a'
	PrefixMessage  = 'm'
	PrefixEffects  = 'e'
	PrefixKey      = 'k'
	PrefixVersion  = 'v'
	PrefixIdentity = 'i'
	PrefixName     = 'n'
	PrefixFate     = 'l'
	PrefixCut      = 'f'
	PrefixWaiting  = 'w'
	PrefixLandmark = 'x'
	PrefixLate     = 'y'

	PrefixHeader       = 'H'
	PrefixAnchorTxs    = 'A'
	PrefixRawTx        = 'P'
	PrefixMerkle       = 'N'
	PrefixBreaks       = 'B'
	PrefixChain        = 'c'
	PrefixChainAnchor  = 'h'
	PrefixAnchorTx     = 't'
	PrefixDomainAnchor = 'j'
	PrefixDomainChain  = 'g'

	PrefixRun      = 'o'
	PrefixRuns     = 'r'
	PrefixUndo     = 'u'
	PrefixUndoFrom = 'U'
	PrefixStale    = 'd'

	PrefixStaleChange = 'D'

	PrefixStamp = badgerdb.Stamp
)

// StatePrefixes are those of the first table: two graphs of the same chain hold
// the same bytes under them (protocol/SPEC.md §8).
const StatePrefixes = "MTbamekvinlfwxyHAPNBchtjg"

// blockPrefixes are those whose keys go on with the height of the block that
// they belong to, the undo record aside.
const blockPrefixes = "bamekHAPNB"

// ChunkSize is where long values are cut, in bytes, so that they stay in the
// LSM tree and below Badger's limits.
const ChunkSize = 64 << 10

// newest is ^height: the newest version of a thing comes first.
func newest(height uint32) uint32 { return math.MaxUint32 - height }

// HeightKey is what the keys of a block begin with under a prefix of blockPrefixes, and under
// PrefixUndo.
func HeightKey(prefix byte, height uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefix}, height)
}

// ChunkKey is the key of a chunk of a long value of a block.
func ChunkKey(prefix byte, height, chunk uint32) []byte {
	return binary.BigEndian.AppendUint32(HeightKey(prefix, height), chunk)
}

// MessageKey is the key of a chunk of the message of the action at a position.
func MessageKey(at Position, chunk uint32) []byte {
	return binary.BigEndian.AppendUint32(at.Append([]byte{PrefixMessage}), chunk)
}

// NumberedKey is a key under PrefixLandmark, PrefixLate or PrefixVersion.
func NumberedKey(prefix byte, key protocol.KeyHash, number int32) []byte {
	b := append(append(make([]byte, 0, 25), prefix), key[:]...)
	return binary.BigEndian.AppendUint32(b, uint32(number))
}

// RunKey is the key of a chunk of a run of txids.
func RunKey(run, chunk uint32) []byte { return ChunkKey(PrefixRun, run, chunk) }

// ParseRunKey reads what RunKey returned; ok is false if it has another length.
func ParseRunKey(key []byte) (run, chunk uint32, ok bool) {
	d := Decoder{Rest: key[1:]}
	run, chunk = d.Uint32(), d.Uint32()
	return run, chunk, d.Finish("key of a chunk of a run") == nil
}

// LateKey is the key of what a later block made of an action.
func LateKey(action int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{PrefixFate}, uint32(action))
}

// CutKey is the key of how the link of a request ended.
func CutKey(request int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{PrefixCut}, uint32(request))
}

// The stems of versioned keys: what stands before ^height.

// IdentityStemSize is the size of an identity's stem in bytes.
const IdentityStemSize = 1 + chainhash.HashSize

// IdentityStem is the stem of an identity.
func IdentityStem(id chainhash.Hash) []byte {
	return append(append(make([]byte, 0, IdentityStemSize+4), PrefixIdentity), id[:]...)
}

// NameStem is the stem of a name that merged.
func NameStem(id chainhash.Hash) []byte {
	return append(append(make([]byte, 0, 37), PrefixName), id[:]...)
}

// ChainStemSize is the size of a chain of anchors' stem in bytes.
const ChainStemSize = 1 + chainhash.HashSize

// ChainStem is the stem of a chain of anchors.
func ChainStem(genesis chainhash.Hash) []byte {
	return append(append(make([]byte, 0, ChainStemSize+4), PrefixChain), genesis[:]...)
}

// Version appends to a stem the height of a version.
func Version(stem []byte, height uint32) []byte {
	return binary.BigEndian.AppendUint32(stem, newest(height))
}

// VersionHeight reads the height off the end of a versioned key.
func VersionHeight(key []byte) uint32 {
	return newest(binary.BigEndian.Uint32(key[len(key)-4:]))
}

// AppendRawTxKey appends the key of a chunk of a serialized transaction, the one of a
// number in its block.
func AppendRawTxKey(b []byte, height, number, chunk uint32) []byte {
	b = binary.BigEndian.AppendUint32(append(b, PrefixRawTx), height)
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, number), chunk)
}

// AppendMerkleKey appends the key of the chunk of merkle nodes whose last is that of a level
// and index.
func AppendMerkleKey(b []byte, height uint32, level uint8, index uint32) []byte {
	b = binary.BigEndian.AppendUint32(append(b, PrefixMerkle), height)
	return binary.BigEndian.AppendUint32(append(b, level), index)
}

// AppendChainAnchorKey appends the key of an anchor of a chain.
func AppendChainAnchorKey(b []byte, genesis chainhash.Hash, number uint32) []byte {
	b = append(append(b, PrefixChainAnchor), genesis[:]...)
	return binary.BigEndian.AppendUint32(b, number)
}

// AnchorTxKey is the key of where an anchor is, or what broke a chain of them.
func AnchorTxKey(txid chainhash.Hash) []byte {
	return append([]byte{PrefixAnchorTx}, txid[:]...)
}

// AppendDomainStem appends what keys under PrefixDomainAnchor or PrefixDomainChain begin
// with. The length keeps a domain from being the beginning of another.
func AppendDomainStem(b []byte, prefix byte, domain string) []byte {
	return append(append(b, prefix, byte(len(domain))), domain...)
}

// StaleKey is the key of a block that was taken off the chain.
func StaleKey(height uint32, hash chainhash.Hash) []byte {
	return append(HeightKey(PrefixStale, height), hash[:]...)
}

// Position is where a transaction stands on the chain (protocol/SPEC.md).
type Position struct {
	Height uint32
	Index  uint32 // of the tx in the block
}

// Append appends the position, in an order that is that of the chain.
func (p Position) Append(key []byte) []byte {
	key = binary.BigEndian.AppendUint32(key, p.Height)
	return binary.BigEndian.AppendUint32(key, p.Index)
}

// CompareHashes compares two hashes as the keys of the database do: by their bytes in
// internal order.
func CompareHashes(a, b chainhash.Hash) int { return bytes.Compare(a[:], b[:]) }

// RecordName says what the records under a prefix are, "" if there are none.
func RecordName(prefix byte) string {
	switch prefix {
	case PrefixFormat:
		return "format"
	case PrefixTip:
		return "tip"
	case PrefixBlock:
		return "block"
	case PrefixActions:
		return "actions"
	case PrefixMessage:
		return "message"
	case PrefixEffects:
		return "effects"
	case PrefixKey:
		return "versions of keys"
	case PrefixVersion:
		return "listed version"
	case PrefixIdentity:
		return "identity"
	case PrefixName:
		return "merged name"
	case PrefixRun:
		return "run of txids"
	case PrefixRuns:
		return "list of runs"
	case PrefixFate:
		return "late fate"
	case PrefixCut:
		return "cut link"
	case PrefixWaiting:
		return "waiting action"
	case PrefixLandmark:
		return "landmark"
	case PrefixLate:
		return "late mention"
	case PrefixHeader:
		return "header"
	case PrefixAnchorTxs:
		return "anchors"
	case PrefixRawTx:
		return "serialized transaction"
	case PrefixMerkle:
		return "merkle nodes"
	case PrefixBreaks:
		return "broken chains"
	case PrefixChain:
		return "chain of anchors"
	case PrefixChainAnchor:
		return "chain's anchor"
	case PrefixAnchorTx:
		return "anchor's transaction"
	case PrefixDomainAnchor:
		return "domain's anchor"
	case PrefixDomainChain:
		return "domain's chain of anchors"
	case PrefixUndo:
		return "undo"
	case PrefixUndoFrom:
		return "undo horizon"
	case PrefixStale:
		return "stale block"
	case PrefixStaleChange:
		return "what a stale block had changed"
	case PrefixStamp:
		return "stamp"
	}
	return ""
}
