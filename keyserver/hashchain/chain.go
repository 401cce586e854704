package hashchain

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/bits"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
)

// ErrBroken says that entries do not form the chain they claim to be.
var ErrBroken = errors.New("hashchain broken")

// BrokenError says where a chain is broken. It wraps ErrBroken.
type BrokenError struct {
	Position uint64 // of the first entry that does not fit
	Problem  string
}

func (e *BrokenError) Error() string {
	return fmt.Sprintf("%v at position %d: %s", ErrBroken, e.Position, e.Problem)
}

func (e *BrokenError) Unwrap() error { return ErrBroken }

// Chain is what somebody who verifies a chain from its beginning has to keep
// of it, whatever its length: how many entries, the hash of the last, and the
// Merkle tree's right edge. The zero value is the empty chain.
type Chain struct {
	Size uint64 // entries
	Head Hash   // of the last entry; zero if there is none
	// Edge are the roots of the perfect subtrees that cover the tree, left to
	// right: as many as Size has bits set.
	Edge []Hash
}

// hasher is RFC 6962's, as the merkle module has it.
var hasher = rfc6962.DefaultHasher

// LeafHash is the entry's hash as a leaf of the Merkle tree (RFC 6962 §2.1). It is
// computed here, and not by hasher, because a client does so for every entry there
// is, and hasher takes memory from the heap each time.
func LeafHash(e *Entry) Hash {
	var b [1 + EntrySize]byte
	b[0] = rfc6962.RFC6962LeafHashPrefix
	copy(b[1:], e[:])
	return sha256.Sum256(b[:])
}

// nodeHash is the hash of a node of the Merkle tree, from its children.
func nodeHash(left, right Hash) Hash {
	var b [1 + 2*len(Hash{})]byte
	b[0] = rfc6962.RFC6962NodeHashPrefix
	copy(b[1+copy(b[1:], left[:]):], right[:])
	return sha256.Sum256(b[:])
}

// NodeID names the root of a perfect subtree: of the leaves from Index<<Level on,
// 1<<Level of them.
type NodeID = compact.NodeID

// Append verifies that entries follow the chain, in their order, and adds them.
// At the first that does not it stops and returns a BrokenError; those before it
// have been added. node, which may be nil, is called for each perfect subtree of
// two or more leaves that an entry completes.
func (c *Chain) Append(entries []Entry, node func(NodeID, Hash)) error {
	if len(c.Edge) != bits.OnesCount64(c.Size) {
		return fmt.Errorf("%w: the chain's state has %d entries, %d subtrees", ErrBroken, c.Size, len(c.Edge))
	}
	edge := append(make([]Hash, 0, bits.UintSize), c.Edge...) // copies of the chain share c.Edge
	defer func() { c.Edge = edge }()
	for i := range entries {
		e := &entries[i]
		if problem := c.problem(e); problem != "" {
			return &BrokenError{c.Size, problem}
		}
		h := LeafHash(e)
		// Each subtree at the edge that is as large as the new one makes a larger one with it.
		for level := uint(0); c.Size>>level&1 == 1; level++ {
			h = nodeHash(edge[len(edge)-1], h)
			edge = edge[:len(edge)-1]
			if node != nil {
				node(compact.NewNodeID(level+1, c.Size>>(level+1)), h)
			}
		}
		edge = append(edge, h)
		c.Size, c.Head = c.Size+1, e.Hash()
	}
	return nil
}

// problem says why e cannot be the next entry, or nothing.
func (c *Chain) problem(e *Entry) string {
	if e[atType] != entryType {
		return fmt.Sprintf("expected an entry of type %02x, got %02x", entryType, e[atType])
	}
	if want := e.hashAfter(c.Head); e.Hash() != want {
		return fmt.Sprintf("expected hash %s, got %s: the entry was changed, or is not the one that follows", want, e.Hash())
	}
	return ""
}

// Root is the Merkle tree hash over all entries, that of an empty tree if there
// is none (RFC 6962 §2.1).
func (c *Chain) Root() Hash {
	if len(c.Edge) == 0 {
		return Hash(hasher.EmptyRoot())
	}
	root := c.Edge[len(c.Edge)-1]
	for i := len(c.Edge) - 2; i >= 0; i-- {
		root = nodeHash(c.Edge[i], root)
	}
	return root
}
