// Package headertest mines chains of headers on a made-up network, for tests.
//
// The network is like mainnet: blocks are never easy, and its rules are judged. But
// a block takes some thirty hashes.
package headertest

import (
	"encoding/binary"
	"slices"

	"github.com/gcash/bchd/chaincfg"

	"github.com/keytree-bch/keytree/protocol"
)

const (
	// AnchorHeight is that of the block that ASERT counts from.
	AnchorHeight = 20
	// Start is the time of the block at height 1, in seconds since 1970, unless a
	// test has it otherwise.
	Start = 1_700_000_000
	// Spacing is how many seconds are between blocks on schedule.
	Spacing = 600
)

// Chain is a chain of headers, by height, from the genesis block of its network on.
type Chain struct {
	Net     *chaincfg.Params
	Headers []protocol.Header
}

// New makes up a network, and the chain of its genesis block, which is mainnet's.
func New() *Chain {
	net := chaincfg.MainNetParams
	net.Name = "made-up"
	net.Checkpoints = nil
	net.PowLimit, net.PowLimitBits = chaincfg.RegressionNetParams.PowLimit, chaincfg.RegressionNetParams.PowLimitBits
	net.AxionActivationHeight, net.AsertDifficultyAnchorHeight = AnchorHeight, AnchorHeight
	net.AsertDifficultyAnchorBits = 0x2007ffff
	net.AsertDifficultyAnchorParentTimestamp = Start + (AnchorHeight-2)*Spacing
	g := net.GenesisBlock.Header
	return &Chain{&net, []protocol.Header{{
		Hash: *net.GenesisHash, Version: g.Version, MerkleRoot: g.MerkleRoot, Time: uint32(g.Timestamp.Unix()), Bits: g.Bits, Nonce: g.Nonce,
	}}}
}

// Tip is the last header.
func (c *Chain) Tip() protocol.Header { return c.Headers[len(c.Headers)-1] }

// Height is that of the last header.
func (c *Chain) Height() uint32 { return uint32(len(c.Headers) - 1) }

// Fork returns a chain with the same headers up to a height.
func (c *Chain) Fork(height uint32) *Chain {
	return &Chain{c.Net, slices.Clone(c.Headers[:height+1])}
}

// Next returns the header of the next block of a time, as the rules of the network
// ask for it, not solved.
func (c *Chain) Next(time uint32) protocol.Header {
	h := protocol.Header{Version: 1, PrevBlock: c.Tip().Hash, Time: time, Bits: c.Net.AsertDifficultyAnchorBits}
	if c.Height() >= AnchorHeight {
		h.Bits = protocol.ASERTBits(c.Net, c.Height(), c.Tip().Time)
	}
	return h
}

// Append solves a header and makes it the last.
func (c *Chain) Append(h protocol.Header) { c.Headers = append(c.Headers, Solve(h)) }

// Extend mines blocks on schedule up to a height.
func (c *Chain) Extend(height uint32) {
	for c.Height() < height {
		c.Append(c.Next(Start + c.Height()*Spacing))
	}
}

// Pin makes a block of the chain a checkpoint of its network. Pin from below.
func (c *Chain) Pin(height uint32) {
	c.Net.Checkpoints = append(c.Net.Checkpoints, chaincfg.Checkpoint{Height: int32(height), Hash: &c.Headers[height].Hash})
}

// Solve returns h with the first nonce with which it meets its target, and its hash
// then.
func Solve(h protocol.Header) protocol.Header {
	raw := Bytes(h)
	for {
		solved, err := protocol.ParseHeader(raw)
		if err != nil {
			panic(err) // it has the size of one
		}
		if solved.CheckWork(chaincfg.RegressionNetParams.PowLimit) == nil {
			return solved
		}
		binary.LittleEndian.PutUint32(raw[76:], solved.Nonce+1)
	}
}

// Bytes returns the serialization of a header.
func Bytes(h protocol.Header) []byte {
	raw := binary.LittleEndian.AppendUint32(nil, uint32(h.Version))
	raw = append(append(raw, h.PrevBlock[:]...), h.MerkleRoot[:]...)
	raw = binary.LittleEndian.AppendUint32(raw, h.Time)
	raw = binary.LittleEndian.AppendUint32(raw, h.Bits)
	return binary.LittleEndian.AppendUint32(raw, h.Nonce)
}
