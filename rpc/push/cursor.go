// Package push follows the chain for who wants to be told what changes.
//
// A Cursor is all that a follower has of the chain: a place. A Place in the log of a Mempool is all
// that he has of what is pending. What he has yet to be told stays in the graph, so who is slow is
// behind, and holds nothing. A Filter says what concerns him.
//
// A Handler tells followers over HTTP, by server-sent events. Over gRPC, package identity does,
// which makes the messages of both.
//
// What never belongs here: what a block looks like in a message, a rule of identities.
package push

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/graph"
)

// Cursor is a place on the chain: what one follower was told. One goroutine uses it.
type Cursor struct {
	graph *graph.Graph
	// next is the height of the next block to connect, have the hash of the block
	// before it if the follower has that block, else nil.
	next uint32
	have *chainhash.Hash
	// sent is how many events of the block have were told, if it has more; else 0.
	sent int
	// floor is the lowest height of a block that the follower may have: none is
	// disconnected below it.
	floor uint32
}

// From returns the place before the block at a height, of a follower who has no block.
func From(g *graph.Graph, height uint32) *Cursor {
	return &Cursor{graph: g, next: height, floor: height}
}

// After returns the place after a block at a height, which need not be on the chain any more.
func After(g *graph.Graph, height uint32, hash chainhash.Hash) *Cursor {
	return &Cursor{graph: g, next: height + 1, have: &hash, floor: g.Params().StartHeight}
}

// ParseID reads a place as ID has written it. The block need not be on the chain.
func ParseID(g *graph.Graph, id string) (*Cursor, error) {
	parts := strings.Split(id, "-")
	if len(parts) != 3 || len(parts[1]) != chainhash.MaxHashStringSize {
		return nil, errID
	}
	height, err := strconv.ParseUint(parts[0], 10, 32)
	if err != nil || height == math.MaxUint32 {
		return nil, errID
	}
	hash, err := chainhash.NewHashFromStr(parts[1])
	if err != nil {
		return nil, errID
	}
	sent, err := strconv.ParseUint(parts[2], 10, 31)
	if err != nil {
		return nil, errID
	}
	if *hash == (chainhash.Hash{}) {
		return From(g, uint32(height)), nil
	}
	c := After(g, uint32(height), *hash)
	c.sent = int(sent)
	return c, nil
}

var errID = errors.New("expected an id of a stream, HEIGHT-HASH-SEQ")

// ID names the place: HEIGHT-HASH-SEQ is the block that the follower has and how many of its events he was told,
// if there are more, else 0. Who has no block has one without a hash, and the height of the
// first that he is to be told.
func (c *Cursor) ID() string {
	if c.have == nil {
		return fmt.Sprintf("%d-%v-0", c.next, chainhash.Hash{})
	}
	return fmt.Sprintf("%d-%v-%d", c.next-1, *c.have, c.sent)
}

// Began says that the follower has no block below a height.
func (c *Cursor) Began(height uint32) { c.floor = max(c.floor, height) }

// Height returns the height of the next block to connect.
func (c *Cursor) Height() uint32 { return c.next }

// Within reports whether the follower was told a part of a block only.
func (c *Cursor) Within() bool { return c.sent > 0 }

// Step is what a follower is to be told next: one of its fields is set.
type Step struct {
	Disconnected *graph.Disconnected
	Connected    *graph.BlockEvents // or a part of the block, if it has many events
}

// ErrUnknown says that a follower has a block that is not on the chain, and that is not among
// the disconnected blocks that the graph keeps: nothing leads him back to the chain.
var ErrUnknown = errors.New("push: the block is neither on the chain nor among the disconnected blocks that are kept")

// At returns the block that the follower has, all of it or a part. ok is false if he has none.
func (c *Cursor) At() (height uint32, hash chainhash.Hash, ok bool) {
	if c.have == nil {
		return 0, hash, false
	}
	return c.next - 1, *c.have, true
}

// Next moves the cursor to what the follower is to be told next, and returns that: a DISCONNECT
// for each block that he has and that has left the chain, newest first, then the blocks of
// the chain, of whose events a step has at most so many. ok is false when he has been told all.
//
// ErrUnknown if nothing leads to the chain. Other errors are the graph's.
func (c *Cursor) Next(events int) (step Step, ok bool, err error) {
	for {
		gone, err := c.disconnect()
		if err != nil || gone != nil {
			return Step{Disconnected: gone}, gone != nil, err
		}
		if c.sent == 0 {
			if tip, ok := c.graph.Tip(); !ok || c.next > tip.Height {
				return Step{}, false, nil
			}
		}
		block, err := c.connect(events)
		if err != nil || block != nil {
			return Step{Connected: block}, block != nil, err
		}
	}
}

// disconnect takes back the block that the follower has, if it has left the chain.
func (c *Cursor) disconnect() (*graph.Disconnected, error) {
	if c.have == nil {
		return nil, nil
	}
	height := c.next - 1
	header, err := c.graph.BlockHeader(height)
	switch {
	case err == nil && header.Hash == *c.have:
		return nil, nil
	case err != nil && !graph.OffChain(err):
		return nil, err
	}
	gone, err := c.graph.DisconnectedBlock(height, *c.have)
	if errors.Is(err, graph.ErrNotFound) {
		return nil, ErrUnknown
	}
	if err != nil {
		return nil, err
	}
	c.next, c.have, c.sent = height, &gone.PrevHash, 0
	if c.next <= c.floor {
		c.have = nil
	}
	return &gone, nil
}

// connect reads the next part of the block being told, or the first of the next one. It
// returns nil if that was reorganised away since disconnect looked.
func (c *Cursor) connect(events int) (*graph.BlockEvents, error) {
	height := c.next
	if c.sent > 0 {
		height--
	}
	block, err := c.graph.Events(height, c.sent, events)
	switch {
	case graph.OffChain(err):
		return nil, nil
	case err != nil:
		return nil, err
	case c.sent > 0 && block.Hash != *c.have, c.sent == 0 && c.have != nil && block.PrevHash != *c.have:
		return nil, nil
	}
	c.next, c.have = height+1, &block.Hash
	if c.sent += len(block.Effects) + len(block.Anchors); !block.More {
		c.sent = 0
	}
	return &block, nil
}
