package protocol

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/gcash/bchd/chaincfg"
)

// What HeaderChain.Add has against a header, besides ErrWork; to be matched with
// errors.Is.
var (
	// ErrHeaderLink says that a header does not follow the last one. Whoever gave
	// both has left out a header, or speaks of another branch now: ask again.
	ErrHeaderLink = errors.New("header does not follow the one before it")
	// ErrOtherChain says that a header is not of the network's chain: it contradicts a
	// checkpoint, or comes so late that only a made-up chain can be so slow. Whoever
	// gave it is on another coin, or lies: take nothing from there.
	ErrOtherChain = errors.New("not the network's chain")
	// ErrHeaderTime says that the time in a header is not above the median of the
	// eleven before it, so that no node has taken it.
	ErrHeaderTime = errors.New("time of a header does not hold")
	// ErrFuture says that the time in a header is further ahead of the clock than nodes
	// allow (MaxAhead), and that nothing else is wrong with it. Either the header is
	// made up, or the clock is behind: wait, and have the clock looked at.
	ErrFuture = errors.New("header is ahead of the clock")
)

const (
	// MaxAhead is how far ahead of the clock the time in a header may be: what nodes
	// allow.
	MaxAhead = 2 * time.Hour
	// MaxLag is by how much a chain may lag behind one block every ten minutes. ASERT
	// halves the difficulty for each two days of that, so that a chain within it is at
	// most some hundred times easier to make than the real one, however long it is: a
	// lag that would take the network to lose all but a hundredth of its hash rate.
	MaxLag = 14 * 24 * time.Hour

	// TimesBefore is of how many headers before the first NewHeaderChain wants to know
	// the times, to judge the median at once.
	TimesBefore = medianTimes - 1
	// medianTimes is of how many headers the median is that the time of the next one
	// has to be above.
	medianTimes = 11
)

// HeaderChain judges the headers of one chain of a network, one after the other.
//
// Each must follow the last one, carry the work that it claims, and be the
// checkpoint (chaincfg) at its height if there is one. ProvenHeight tells what a
// chain that passes these proves.
//
// Where ASERT is the rule for difficulty, since November 2020 on mainnet, each must
// claim the target that it asks for. On test networks that is the easiest one after
// a pause. The rules before ASERT are not known here: there, the checkpoints stand
// for them.
//
// On test networks anybody can make blocks, of nearly any time, and nothing more is
// asked. On mainnet, where blocks are not easy, each time must be above the median of
// the eleven before it, and at most MaxAhead ahead of the clock. And under ASERT the
// chain may not lag more than MaxLag behind its schedule, neither since ASERT's anchor
// nor since the header that the chain begins behind. So whoever forges headers must
// spend a good part of a hundredth of what the real ones took since the later of
// these.
//
// It must not be used concurrently.
type HeaderChain struct {
	net  *chaincfg.Params
	pins []chaincfg.Checkpoint // those above height
	// What the schedule counts from: the block before ASERT's anchor, and the header
	// that the chain begins behind, or the same if that is an earlier one.
	anchor, begin slot

	height uint32
	last   Header
	times  [medianTimes]uint32 // of the last headers: of that at height h at h % medianTimes
	known  int                 // how many of times are set
	work   *big.Int
}

// slot is when a block at a height came, in seconds since 1970.
type slot struct{ height, time int64 }

// due is when the block at a height should come, if that of the slot was in time.
func (s slot) due(height int64, net *chaincfg.Params) int64 {
	return s.time + (height-s.height)*int64(net.TargetTimePerBlock/time.Second)
}

// NewHeaderChain begins behind a header, last, that is known to be at a height of
// the chain. before are the times of the headers in front of it, oldest first, of
// which the last TimesBefore count. As long as fewer are known, with those of the
// headers that were added, the median is not judged.
func NewHeaderChain(net *chaincfg.Params, height uint32, last Header, before []uint32) *HeaderChain {
	c := &HeaderChain{net: net, pins: net.Checkpoints, work: new(big.Int)}
	c.anchor = slot{int64(net.AsertDifficultyAnchorHeight) - 1, net.AsertDifficultyAnchorParentTimestamp}
	c.begin = slot{int64(height), int64(last.Time)}
	if c.begin.height < c.anchor.height {
		c.begin = c.anchor
	}
	before = before[max(0, len(before)-TimesBefore):]
	for i, t := range before {
		c.times[(int64(height)+int64(medianTimes-len(before)+i))%medianTimes] = t
	}
	c.known = len(before)
	c.follow(height, last)
	return c
}

// Height is that of the last header.
func (c *HeaderChain) Height() uint32 { return c.height }

// Last is the last header: that of the last Add without an error.
func (c *HeaderChain) Last() Header { return c.last }

// Work is how many hashes it takes on average to find all the headers that were
// added.
func (c *HeaderChain) Work() *big.Int { return new(big.Int).Set(c.work) }

// Add judges the next header at a time, and adds it. The error wraps ErrWork,
// ErrHeaderLink, ErrOtherChain, ErrHeaderTime or ErrFuture, and leaves the chain as
// it was.
func (c *HeaderChain) Add(h Header, now time.Time) error {
	if err := h.CheckWork(c.net.PowLimit); err != nil {
		return fmt.Errorf("%s, height %d: %w", c.net.Name, c.height+1, err)
	}
	return c.AddWorked(h, now)
}

// AddWorked is Add for a header whose CheckWork was asked before. It reads Hash,
// PrevBlock, Time and Bits of the header.
func (c *HeaderChain) AddWorked(h Header, now time.Time) error {
	if err := c.judge(&h, now); err != nil {
		return err
	}
	work, err := h.Work()
	if err != nil {
		return err
	}
	c.work.Add(c.work, work)
	c.follow(c.height+1, h)
	return nil
}

// follow makes h the last header.
func (c *HeaderChain) follow(height uint32, h Header) {
	c.height, c.last = height, h
	c.times[height%medianTimes] = h.Time
	c.known = min(c.known+1, medianTimes)
	for len(c.pins) > 0 && int64(c.pins[0].Height) <= int64(height) {
		c.pins = c.pins[1:]
	}
}

// judge looks for what is wrong with the next header, its own work apart. It compares the
// time with the clock last.
func (c *HeaderChain) judge(h *Header, now time.Time) error {
	height := int64(c.height) + 1
	if h.PrevBlock != c.last.Hash {
		return c.refuse(ErrHeaderLink, h, "expected one that follows block %v, got one that follows %v", c.last.Hash, h.PrevBlock)
	}
	if len(c.pins) > 0 && int64(c.pins[0].Height) == height && h.Hash != *c.pins[0].Hash {
		return c.refuse(ErrOtherChain, h, "it contradicts the checkpoint of %s at this height, block %v: another coin's chain, or a made-up one", c.net.Name, c.pins[0].Hash)
	}
	if err := checkDifficulty(c.net, c.height, &c.last, h); err != nil {
		return fmt.Errorf("%s, height %d: %w", c.net.Name, height, err)
	}
	if easyBlocks(c.net) {
		return nil
	}
	if c.known == medianTimes {
		sorted := c.times
		slices.Sort(sorted[:])
		if median := sorted[medianTimes/2]; h.Time <= median {
			return c.refuse(ErrHeaderTime, h, "expected a time above %v, the median of the %d headers before it, got %v", utc(int64(median)), medianTimes, utc(int64(h.Time)))
		}
	}
	due := min(c.anchor.due(height, c.net), c.begin.due(height, c.net))
	if hasASERT(c.net, c.height+1) && int64(h.Time) > due+int64(MaxLag/time.Second) {
		return c.refuse(ErrOtherChain, h, "it is of %v and was due at %v: so few blocks are easy to make, and not what %s made",
			utc(int64(h.Time)), utc(due), c.net.Name)
	}
	if at := utc(int64(h.Time)); at.After(now.Add(MaxAhead)) {
		return c.refuse(ErrFuture, h, "it is of %v, more than %v ahead of the clock here, %v: is the clock right?", at, MaxAhead, now.UTC().Truncate(time.Second))
	}
	return nil
}

func (c *HeaderChain) refuse(why error, h *Header, format string, args ...any) error {
	return fmt.Errorf("%w: %s, block %v at height %d: %s", why, c.net.Name, h.Hash, int64(c.height)+1, fmt.Sprintf(format, args...))
}

func utc(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }

// easyBlocks tells whether anybody can make blocks on net, after a pause or at any
// time.
func easyBlocks(net *chaincfg.Params) bool {
	return net.ReduceMinDifficulty || net.NoDifficultyAdjustment
}
