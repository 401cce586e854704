// Package sha256d computes many double SHA-256 hashes: txids, and the levels of a
// merkle tree.
//
// It is here for its speed, which a check of all transactions depends on. Where the
// processor has AVX-512, sixteen messages go side by side through the hash, each in
// a lane of its own; together they take less than half of the time that
// crypto/sha256 takes with SHA instructions. Elsewhere crypto/sha256 does it.
//
// What never belongs here: what is hashed, and secrets.
package sha256d

import (
	"encoding/binary"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

// Messages computes the hash of each message into sums, which has room for them.
// It is at its best with a hundred messages or more of similar lengths.
func Messages(sums []chainhash.Hash, messages [][]byte) {
	if manyLanes && len(messages) > worthwhile {
		messagesInLanes(sums, messages)
		return
	}
	for i, message := range messages {
		sums[i] = chainhash.DoubleHashH(message)
	}
}

// Pairs computes the hash of each two hashes that follow each other into sums,
// which has room for them and may begin where hashes does. A last hash without
// another is left out.
func Pairs(sums, hashes []chainhash.Hash) {
	count, done := len(hashes)/2, 0
	if manyLanes {
		for ; count-done > worthwhile; done += min(lanes, count-done) {
			n := min(lanes, count-done)
			pairsInLanes(sums[done:done+n], hashes[2*done:2*(done+n)])
		}
	}
	for ; done < count; done++ {
		var pair [2 * chainhash.HashSize]byte
		copy(pair[:], hashes[2*done][:])
		copy(pair[chainhash.HashSize:], hashes[2*done+1][:])
		sums[done] = chainhash.DoubleHashH(pair[:])
	}
}

const (
	lanes = 16
	// worthwhile is up to how many messages are faster one by one.
	worthwhile = 5
	// blockSize is what SHA-256 takes in at a time, in bytes.
	blockSize = 64
)

// states are what SHA-256 has made of the blocks so far, in each lane: words a to h.
type states [8][lanes]uint32

// begin sets a lane's state to that before the first block (FIPS 180-4, 5.3.3).
func (s *states) begin(lane int) {
	s[0][lane], s[1][lane], s[2][lane], s[3][lane] = 0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a
	s[4][lane], s[5][lane], s[6][lane], s[7][lane] = 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19
}

// put writes the hash that a lane's state is.
func (s *states) put(lane int, hash []byte) {
	_ = hash[chainhash.HashSize-1]
	for i := range s {
		binary.BigEndian.PutUint32(hash[4*i:], s[i][lane])
	}
}

// pad appends to the last bytes of a message, fewer than a block, what SHA-256
// wants behind a message of so many bytes, and returns how long that is, one block
// or two.
func pad(last *[2 * blockSize]byte, used, length int) int {
	size := blockSize
	if used+1+8 > blockSize {
		size = 2 * blockSize
	}
	clear(last[used:size])
	last[used] = 0x80
	binary.BigEndian.PutUint64(last[size-8:], 8*uint64(length))
	return size
}

// lane is the way of one message after the other through the first hash.
type lane struct {
	message []byte
	index   int                 // of message
	idle    bool                // another lane has done, or does, the message
	padded  bool                // the whole blocks of message are done
	at, end int                 // the blocks that are left of the message, or else of last
	last    [2 * blockSize]byte // the rest of the message and its padding
}

// next returns the first of the blocks that are left.
func (l *lane) next() *byte {
	if l.padded {
		return &l.last[l.at]
	}
	return &l.message[l.at]
}

// pad goes on from the whole blocks to the rest.
func (l *lane) pad() {
	used := copy(l.last[:], l.message[l.end:])
	l.padded, l.at, l.end = true, 0, pad(&l.last, used, len(l.message))
}

// work is a run of messages through all lanes.
type work struct {
	sums     []chainhash.Hash
	messages [][]byte
	begun    int
	states   states
	lanes    [lanes]lane

	// The messages whose first hash is done wait here until there is one for each
	// lane.
	hashed  states
	indices [lanes]int
	waiting int
	done    int
}

func messagesInLanes(sums []chainhash.Hash, messages [][]byte) {
	w := work{sums: sums, messages: messages}
	for i := range w.lanes {
		w.begin(i)
	}
	var next [lanes]*byte
	for w.done < len(messages) {
		n := w.lanes[0].end - w.lanes[0].at
		for i := range w.lanes {
			l := &w.lanes[i]
			next[i] = l.next()
			n = min(n, l.end-l.at)
		}
		compress(&w.states, &next, n/blockSize)
		for i := range w.lanes {
			l := &w.lanes[i]
			switch l.at += n; {
			case l.at < l.end:
			case l.padded:
				w.finish(i)
				w.begin(i)
			default:
				l.pad()
			}
		}
	}
}

// begin gives a lane its next message. If there is none, it is the last one again.
func (w *work) begin(i int) {
	l := &w.lanes[i]
	if l.idle = w.begun == len(w.messages); !l.idle {
		w.begun++
	}
	l.index = w.begun - 1
	l.message = w.messages[l.index]
	w.states.begin(i)
	l.padded, l.at, l.end = false, 0, len(l.message)&^(blockSize-1)
	if l.end == 0 {
		l.pad()
	}
}

// finish takes the first hash of a lane's message.
func (w *work) finish(i int) {
	if w.lanes[i].idle {
		return
	}
	for word := range w.hashed {
		w.hashed[word][w.waiting] = w.states[word][i]
	}
	w.indices[w.waiting] = w.lanes[i].index
	w.waiting++
	w.done++
	if w.waiting < lanes && w.done < len(w.messages) {
		return
	}
	rehash(&w.hashed)
	for lane, index := range w.indices[:w.waiting] {
		w.hashed.put(lane, w.sums[index][:])
	}
	w.waiting = 0
}

// pairPadding is what follows a message of 64 bytes.
var pairPadding = [blockSize]byte{0: 0x80, 62: 0x02}

// pairsInLanes is Pairs of so many that all have a lane.
func pairsInLanes(sums, hashes []chainhash.Hash) {
	var s states
	var next [lanes]*byte
	for i := range lanes {
		s.begin(i)
		next[i] = &hashes[2*min(i, len(sums)-1)][0] // idle lanes do the last one again
	}
	compress(&s, &next, 1)
	for i := range lanes {
		next[i] = &pairPadding[0]
	}
	compress(&s, &next, 1)
	rehash(&s)
	for i := range sums {
		s.put(i, sums[i][:])
	}
}
