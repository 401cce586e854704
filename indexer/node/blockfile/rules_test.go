package blockfile_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keytree-bch/keytree/indexer/node/blockfile"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/headertest"
)

// onMainnet writes the blocks of headers as BCHN does for mainnet, whose magic and
// genesis block the made-up network has. All blocks have the genesis block's coinbase.
func onMainnet(headers []protocol.Header) (content []byte) {
	body := serialized(headertest.New().Net.GenesisBlock)[protocol.HeaderSize:]
	for _, h := range headers {
		content = append(content, record("\xf9\xbe\xb4\xd9", append(headertest.Bytes(h), body...))...)
	}
	return content
}

// TestRules has branches that break the rules of a network like mainnet, and files
// that do not get to its last checkpoint.
func TestRules(t *testing.T) {
	const day = 24 * 60 * 60
	root := headertest.New().Net.GenesisBlock.Header.MerkleRoot
	add := func(c *headertest.Chain, h protocol.Header) {
		h.MerkleRoot = root
		c.Append(h)
	}
	extend := func(c *headertest.Chain, height uint32) {
		for c.Height() < height {
			add(c, c.Next(max(c.Tip().Time, headertest.Start)+headertest.Spacing))
		}
	}
	// own is the network's chain, up to height 40, with checkpoints at 5, 12 and 30.
	own := headertest.New()
	extend(own, 40)
	for _, height := range []uint32{5, 12, 30} {
		own.Pin(height)
	}
	unpinned := *own.Net
	unpinned.Checkpoints = nil
	// branch leaves own above a height with a header that breaks a rule, if change does,
	// and goes on up to another height.
	branch := func(above uint32, change func(c *headertest.Chain, h *protocol.Header), to uint32) []protocol.Header {
		c := own.Fork(above)
		h := c.Next(c.Tip().Time + headertest.Spacing/2)
		if change != nil {
			change(c, &h)
		}
		add(c, h)
		extend(c, to)
		return c.Headers[above+1:]
	}
	easy := func(c *headertest.Chain, h *protocol.Header) { h.Bits = c.Net.PowLimitBits }
	hard := func(_ *headertest.Chain, h *protocol.Header) { h.Bits = 0x1f07ffff } // as 256 of the others
	// early is of the median of the eleven before it, which are on schedule.
	early := func(c *headertest.Chain, h *protocol.Header) { h.Time = c.Tip().Time - 5*headertest.Spacing }
	justNot := func(c *headertest.Chain, h *protocol.Header) { h.Time = c.Tip().Time - 5*headertest.Spacing + 1 }
	// laterEarly is like early, on a branch of some blocks.
	laterEarly := own.Fork(32)
	for range 4 {
		h := laterEarly.Next(laterEarly.Tip().Time + headertest.Spacing)
		if laterEarly.Height() == 35 {
			early(laterEarly, &h)
		}
		h.Version = 2 // unlike own
		add(laterEarly, h)
	}
	late := func(_ *headertest.Chain, h *protocol.Header) { h.Time += 15 * day }
	future := func(_ *headertest.Chain, h *protocol.Header) { h.Time = uint32(time.Now().Add(3 * time.Hour).Unix()) }

	for _, tt := range []struct {
		name    string
		headers []protocol.Header
		free    bool   // of checkpoints
		height  uint32 // of the chain, which is own's
		found   blockfile.Found
		broken  error
		refused string // what the error says; else there is none
	}{
		{name: "by the rules", headers: own.Headers, height: 40},
		{name: "a stale branch", headers: slices.Concat(own.Headers, branch(32, nil, 38)), height: 40, found: blockfile.Found{Stale: 6}},

		{name: "easier than asked for", headers: slices.Concat(own.Headers, branch(32, easy, 45)), height: 40, found: blockfile.Found{Foreign: 13}, broken: protocol.ErrWork},
		{name: "easier than asked for, first", headers: slices.Concat(own.Headers[:35], branch(34, easy, 45), own.Headers[35:]), height: 40,
			found: blockfile.Found{Foreign: 11}, broken: protocol.ErrWork},
		{name: "not after the median", headers: slices.Concat(own.Headers, branch(32, early, 45)), height: 40, found: blockfile.Found{Foreign: 13}, broken: protocol.ErrHeaderTime},
		{name: "just after the median", headers: slices.Concat(own.Headers, branch(32, justNot, 33)), height: 40, found: blockfile.Found{Stale: 1}},
		{name: "not after the median, later", headers: slices.Concat(own.Headers, laterEarly.Headers[33:]), height: 40,
			found: blockfile.Found{Stale: 3, Foreign: 1}, broken: protocol.ErrHeaderTime},
		{name: "too late", headers: slices.Concat(own.Headers, branch(32, late, 45)), height: 40, found: blockfile.Found{Foreign: 13}, broken: protocol.ErrOtherChain},
		{name: "ahead of the clock", free: true, headers: slices.Concat(own.Headers[:11], branch(10, future, 11)), height: 10,
			found: blockfile.Found{Foreign: 1}, broken: protocol.ErrFuture},
		{name: "another coin's branch", headers: slices.Concat(branch(25, nil, 50), own.Headers), height: 40, found: blockfile.Found{Stale: 4, Foreign: 21}, broken: protocol.ErrOtherChain},
		{name: "two bad branches", headers: slices.Concat(own.Headers, branch(33, easy, 36), branch(32, easy, 36)), height: 40,
			found: blockfile.Found{Foreign: 7}, broken: protocol.ErrWork},

		{name: "at the last checkpoint", headers: own.Headers[:31], height: 30},
		{name: "below the last checkpoint", headers: own.Headers[:30], height: 12, found: blockfile.Found{Unproven: 17}},
		{name: "at a checkpoint", headers: own.Headers[:13], height: 12},
		{name: "at the first", headers: own.Headers[:6], height: 5},
		{name: "more work below a checkpoint", headers: slices.Concat(own.Headers[:14], branch(6, hard, 11)), height: 12,
			found: blockfile.Found{Stale: 5, Unproven: 1}},
		{name: "more work between checkpoints", headers: slices.Concat(own.Headers[:20], branch(13, hard, 15)), height: 12,
			found: blockfile.Found{Stale: 6, Unproven: 3}},
		{name: "genesis alone", headers: own.Headers[:1], height: 0},
		{name: "below the first checkpoint, on a network without", free: true, headers: own.Headers[:5], height: 4},

		{name: "below the first checkpoint", headers: own.Headers[:5], refused: "end at height 4, and below the checkpoint of made-up at height 5"},
		{name: "another coin's", headers: slices.Concat(own.Headers[:26], branch(25, nil, 50)), broken: protocol.ErrOtherChain,
			refused: "21 of 51 blocks are not of made-up's chain, and the others end at height 29, below the checkpoint at height 30"},
		{name: "another coin's from early on", headers: slices.Concat(own.Headers[:3], branch(2, nil, 50)), broken: protocol.ErrOtherChain,
			refused: "the checkpoint of made-up at this height, block " + own.Headers[5].Hash.String()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			net := own.Net
			if tt.free {
				net = &unpinned
			}
			backwards := slices.Clone(tt.headers)
			slices.Reverse(backwards)
			for _, headers := range [][]protocol.Header{tt.headers, backwards} {
				chain, err := blockfile.Open(t.Context(), folder(t, dat(onMainnet(headers))), net, nil)
				if tt.refused != "" {
					if !errors.Is(err, blockfile.ErrNoChain) || tt.broken != nil && !errors.Is(err, tt.broken) || !strings.Contains(err.Error(), tt.refused) {
						t.Fatalf("%v, expected ErrNoChain with %q", err, tt.refused)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { chain.Close() })
				got := chain.Found()
				if chain.Height() != tt.height {
					t.Fatalf("height %d, expected %d; found %+v", chain.Height(), tt.height, got)
				}
				for height := range tt.height + 1 {
					if want := own.Headers[height].Hash; chain.Hash(height) != want {
						t.Errorf("at height %d is %v, expected %v", height, chain.Hash(height), want)
					}
				}
				if !errors.Is(got.Broken, tt.broken) {
					t.Errorf("%v, expected %v", got.Broken, tt.broken)
				}
				want := tt.found
				want.Files, want.Bytes, want.Blocks, want.Broken = got.Files, got.Bytes, len(headers), got.Broken
				if fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("found %+v, expected %+v", got, want)
				}
			}
		})
	}
}
