// Package sha256d computes many double SHA-256 hashes: txids, and the levels of a
// merkle tree.
//
// It is here for its speed, which a check of all transactions depends on. Where the
// processor has AVX-512, sixteen messages go side by side through the hash, each in
// a lane of its own; together they take a third of the time that crypto/sha256
// takes with SHA instructions. Elsewhere crypto/sha256 does it.
//
// What never belongs here: what is hashed, and secrets.
package sha256d

import (
	"encoding/binary"
	"math/bits"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

// Messages computes the hash of each message into sums, which has room for them.
// It is at its best with hundreds of messages, among which are some of each length.
func Messages(sums []chainhash.Hash, messages [][]byte) {
	if !manyLanes {
		for i, message := range messages {
			sums[i] = chainhash.DoubleHashH(message)
		}
		return
	}
	for len(messages) > 0 {
		n := min(sortable, len(messages))
		messagesInLanes(sums[:n], messages[:n])
		sums, messages = sums[n:], messages[n:]
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
	// worthwhile is up to how many lanes' work is faster one by one.
	worthwhile = 5
	// blockSize is what SHA-256 takes in at a time, in bytes.
	blockSize = 64
)

// states are what SHA-256 has made of the blocks so far, in each lane: words a to h.
type states [8][lanes]uint32

// initial is the state before the first block (FIPS 180-4, 5.3.3), in all lanes.
var initial = func() (s states) {
	for i, word := range [len(s)]uint32{
		0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
	} {
		for lane := range s[i] {
			s[i][lane] = word
		}
	}
	return s
}()

// blocks returns how many blocks SHA-256 makes of a message of so many bytes and
// its padding.
func blocks(length int) int { return (length+8)/blockSize + 1 }

// lane is the way of one message through the first hash.
type lane struct {
	message []byte
	padded  bool                // the whole blocks of message are done
	at      int                 // where in message, or else in last, the blocks begin that are left there
	last    [2 * blockSize]byte // the rest of the message and its padding
}

// begin sets out with a message, and returns how many blocks come first.
func (l *lane) begin(message []byte) int {
	l.message, l.padded, l.at = message, false, 0
	if len(message) < blockSize {
		return l.pad()
	}
	return len(message) / blockSize
}

// pad goes on from the whole blocks to the rest, and returns how many blocks that
// is.
func (l *lane) pad() int {
	l.padded = true
	whole := len(l.message) / blockSize
	left := blocks(len(l.message)) - whole
	l.last = [len(l.last)]byte{}
	tail := l.last[:left*blockSize]
	tail[copy(tail, l.message[whole*blockSize:])] = 0x80
	binary.BigEndian.PutUint64(tail[len(tail)-8:], 8*uint64(len(l.message)))
	l.at = 0
	return left
}

// next returns the first of the blocks that are left.
func (l *lane) next() *byte {
	if l.padded {
		return &l.last[l.at]
	}
	return &l.message[l.at]
}

const (
	// sortable is how many messages are put into order together.
	sortable = 256
	// exact is up to how many blocks a message is told from one with another number
	// of them when they are put into order. Three digits of the number count in longer ones.
	exact = 32
)

// class returns a number that does not fall as blocks rises.
func class(blocks int) uint8 {
	if blocks < exact {
		return uint8(blocks)
	}
	digits := bits.Len(uint(blocks))
	return uint8(exact + 4*(digits-bits.Len(exact)) + blocks>>(digits-3)&3)
}

// work is what hashing in lanes needs, once for all groups.
type work struct {
	lanes  [lanes]lane
	left   [lanes]int // blocks until a lane has to pad or is done
	states states
	hashed states // of the lanes that are done
}

// messagesInLanes is Messages of at most sortable ones. Those of like lengths go
// side by side, so that hardly a lane waits for another.
func messagesInLanes(sums []chainhash.Hash, messages [][]byte) {
	var w work
	var classes, order [sortable]uint8
	var ends [1 << 8]uint16 // of each class, in order
	for i, message := range messages {
		classes[i] = class(blocks(len(message)))
		ends[classes[i]]++
	}
	begin := uint16(0)
	for c, count := range ends {
		ends[c] = begin
		begin += count
	}
	for i, c := range classes[:len(messages)] {
		order[ends[c]] = uint8(i)
		ends[c]++
	}
	for end := len(messages); end > 0; {
		group := order[max(0, end-lanes):end]
		longest, all := 0, 0
		for _, i := range group {
			n := blocks(len(messages[i]))
			longest, all = max(longest, n), all+n
		}
		if all <= worthwhile*longest {
			end--
			sums[order[end]] = chainhash.DoubleHashH(messages[order[end]])
			continue
		}
		w.group(sums, messages, group)
		end -= len(group)
	}
}

// group hashes the messages of the given indices, one in each lane.
func (w *work) group(sums []chainhash.Hash, messages [][]byte, group []uint8) {
	for i, index := range group {
		w.left[i] = w.lanes[i].begin(messages[index])
	}
	w.states = initial
	all := uint(1)<<len(group) - 1 // a bit for each lane
	for busy := all; busy != 0; {
		first := bits.TrailingZeros(busy)
		n := w.left[first]
		var next [lanes]*byte
		for i := range next {
			if busy>>i&1 == 1 {
				next[i] = w.lanes[i].next()
				n = min(n, w.left[i])
			} else {
				next[i] = w.lanes[first].next() // again
			}
		}
		compress(&w.states, &next, n)
		ended := w.pass(n, busy)
		busy &^= ended
		if ended == all {
			w.hashed = w.states
		} else {
			w.take(ended)
		}
	}
	var done [lanes]chainhash.Hash
	rehash(&done, &w.hashed)
	for i, index := range group {
		sums[index] = done[i]
	}
}

// pass takes the busy lanes n blocks on, and returns which of them are done.
func (w *work) pass(n int, busy uint) (ended uint) {
	for i := range w.lanes {
		if busy>>i&1 == 0 {
			continue
		}
		l := &w.lanes[i]
		l.at += n * blockSize
		if w.left[i] -= n; w.left[i] > 0 {
			continue
		}
		if l.padded {
			ended |= 1 << i
		} else {
			w.left[i] = l.pad()
		}
	}
	return ended
}

// take keeps the states of lanes that are done.
func (w *work) take(ended uint) {
	for ; ended != 0; ended &= ended - 1 {
		i := bits.TrailingZeros(ended)
		for word := range w.hashed {
			w.hashed[word][i] = w.states[word][i]
		}
	}
}

// pairsInLanes is Pairs of so many that all have a lane.
func pairsInLanes(sums, hashes []chainhash.Hash) {
	s := initial
	var next [lanes]*byte
	for i := range lanes {
		next[i] = &hashes[2*min(i, len(sums)-1)][0] // idle lanes do the last one again
	}
	compress(&s, &next, 1)
	endPair(&s)
	var done [lanes]chainhash.Hash
	rehash(&done, &s)
	copy(sums, done[:])
}
