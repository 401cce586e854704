package keyserver

import (
	"crypto/sha512"
	"encoding/binary"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/token"
)

// The keys of the database. Integers are big-endian, so that keys sort by them;
// times are Unix seconds.
//
//	prefix  rest of the key                value                       what
//	'F'     -                              JSON of formatRecord        format version and domain
//	'H'     -                              size 8, head hash 32        the chain's end
//	'e'     position 8                     entry 153, time 8           an entry and when it was appended
//	'E'     entry hash 32                  position 8                  where an entry is
//	'm'     level 1, index 8               hash 32                     Merkle tree: root of a perfect subtree, level > 0
//	'r'     UIDIndex 32                    canonical uid.Reply         what CreateUID or UpdateUID returned
//	'u'     identity                       identityRecord              an identity's last message
//	'p'     identity, 0, position 8        empty                       all entries of an identity
//	'k'     SIGKEYHASH 64, identity        empty                       whose current SIGKEY a key is
//	'l'     domain                         position 8, identity        first authoritative link for a domain
//	't'     token ID 32                    time 8                      a token that was spent
//	'i'     SIGKEYHASH 64, stored 17, digest 32                        a KeyInit to hand out
//	                                       canonical KeyInit
//	'y'     NOTAFTER 8, rest of 'i'        time 8                      when a KeyInit expires, and when it was added;
//	                                                                   0 if that was in format 1
//	'd'     NOTAFTER 8, digest 32          empty                       a KeyInit that was used up
//	'n'     SIGKEYHASH 64                  MSGCOUNT 8                  highest of a key's KeyInits in profile 1.1
//	'o'     SIGKEYHASH 64                  flushRecord                 the last flush of a key
//	'A'     -                              txid, displayed             chain of anchors that the chain is anchored in
//	'N'     -                              empty                       what SetUnanchored said; not in backups
//	'W'     -                              empty                       only in backups that earlier keytrees have made
//
// Format 1 (migrate.go) had two others in place of 'y' and 'o':
//
//	'x'     as 'y'                         time 8, or empty            as 'y', but may not say when one was added
//	'f'     as 'o'                         Nonce 8                     as 'o', but does not say when it was executed
//
// stored is what the dispersing rules go by: FALLBACK 1 (0 or 1), NOTAFTER 8,
// NOTBEFORE 8. digest is keyinit.KeyInit.Digest.
const (
	prefixFormat   = 'F'
	prefixHead     = 'H'
	prefixEntry    = 'e'
	prefixByHash   = 'E'
	prefixNode     = 'm'
	prefixReply    = 'r'
	prefixIdentity = 'u'
	prefixPosition = 'p'
	prefixSigKey   = 'k'
	prefixLink     = 'l'
	prefixToken    = 't'
	prefixKeyInit  = 'i'
	prefixExpiry   = 'y'
	prefixUsed     = 'd'
	prefixMsgCount = 'n'
	prefixFlush    = 'o'
	prefixAnchors  = 'A'
	prefixNone     = 'N'
	prefixStamp    = 'W'

	prefixExpiry1 = 'x'
	prefixFlush1  = 'f'
)

// formatVersion is the format that this keytree makes; migrate.go has those before it.
const formatVersion = 2

type formatRecord struct {
	Version int    `json:"version"`
	Domain  string `json:"domain"`
}

// sigKeyHash is a SIGKEYHASH, decoded.
type sigKeyHash = [sha512.Size]byte

func key(prefix byte, parts ...[]byte) []byte {
	k := []byte{prefix}
	for _, p := range parts {
		k = append(k, p...)
	}
	return k
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func entryKey(position uint64) []byte      { return key(prefixEntry, number(position)) }
func byHashKey(h hashchain.Hash) []byte    { return key(prefixByHash, h[:]) }
func replyKey(index hashchain.Hash) []byte { return key(prefixReply, index[:]) }
func identityKey(identity string) []byte   { return key(prefixIdentity, []byte(identity)) }
func linkKey(domain string) []byte         { return key(prefixLink, []byte(domain)) }
func tokenKey(id token.ID) []byte          { return key(prefixToken, id[:]) }
func msgCountKey(h sigKeyHash) []byte      { return key(prefixMsgCount, h[:]) }
func flushKey(h sigKeyHash) []byte         { return key(prefixFlush, h[:]) }

func nodeKey(id hashchain.NodeID) []byte {
	return append(nodesOf(id.Level), number(id.Index)...)
}

// nodesOf is what the keys of a level's nodes begin with.
func nodesOf(level uint) []byte { return key(prefixNode, []byte{byte(level)}) }

// positionsOf is what the position keys of an identity begin with. No identity
// holds a zero byte.
func positionsOf(identity string) []byte { return key(prefixPosition, []byte(identity), []byte{0}) }

func sigKeyKey(h sigKeyHash, identity string) []byte {
	return key(prefixSigKey, h[:], []byte(identity))
}

// entryRecord is the value under 'e'.
type entryRecord struct {
	entry hashchain.Entry
	time  uint64
}

func (r *entryRecord) encode() []byte { return append(r.entry[:], number(r.time)...) }

func decodeEntryRecord(b []byte) (r entryRecord, err error) {
	if len(b) != hashchain.EntrySize+8 {
		return r, fmt.Errorf("%w: entry record of %d bytes", ErrDamaged, len(b))
	}
	copy(r.entry[:], b)
	r.time = binary.BigEndian.Uint64(b[hashchain.EntrySize:])
	return r, nil
}

// identityRecord is the value under 'u'.
type identityRecord struct {
	position uint64         // of the last entry
	notAfter uint64         // of the last message
	uidHash  hashchain.Hash // of the last message
}

func (r *identityRecord) encode() []byte {
	return append(append(number(r.position), number(r.notAfter)...), r.uidHash[:]...)
}

func decodeIdentityRecord(b []byte) (r identityRecord, err error) {
	if len(b) != 8+8+len(r.uidHash) {
		return r, fmt.Errorf("%w: identity record of %d bytes", ErrDamaged, len(b))
	}
	r.position, r.notAfter = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	copy(r.uidHash[:], b[16:])
	return r, nil
}

// flushRecord is the value under 'o'.
type flushRecord struct {
	nonce    uint64 // by the user's clock
	executed uint64 // for the first time, by the keyserver's clock; 0 if that was in format 1
}

func (r *flushRecord) encode() []byte { return append(number(r.nonce), number(r.executed)...) }

func decodeFlushRecord(b []byte) (flushRecord, error) {
	if len(b) != 16 {
		return flushRecord{}, fmt.Errorf("%w: flush record of %d bytes", ErrDamaged, len(b))
	}
	return flushRecord{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, nil
}

// headRecord returns the value under 'H'.
func headRecord(c *hashchain.Chain) []byte { return append(number(c.Size), c.Head[:]...) }

func decodeNumber(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("%w: expected a number of 8 bytes, got %d", ErrDamaged, len(b))
	}
	return binary.BigEndian.Uint64(b), nil
}
