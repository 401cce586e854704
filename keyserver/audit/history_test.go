package audit

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
)

// history is a keyserver that anchors, the chain that it anchors in, with a block every
// ten minutes, and an auditor who looks at it now and then.
type history struct {
	t *rapid.T
	w *world
	s schedule.Schedule

	shown   *server          // to the auditor
	record  *protocol.Anchor // that is anchored whatever is shown; nil: what the world's keyserver has
	now     time.Time
	made    time.Time // when the last anchor was signed
	tail    uint64    // its position
	baton   wire.OutPoint
	signed  []*signedAnchor // in no block, in their order
	blocks  []minedBlock    // the last ones
	dir     string          // of the auditor
	ahead   time.Duration   // by how much the auditor's clock is
	covered uint64          // entries that an anchor in a block commits to
	last    time.Time       // of the block of the last anchor
}

// signedAnchor is an anchor that waits for a block.
type signedAnchor struct {
	tx       []byte
	position uint64
	signed   time.Time
	ready    time.Time // before that no miner takes it
}

// minedBlock is what a reorganisation takes back.
type minedBlock struct {
	tip     protocol.Header // before it
	time    time.Time
	anchors []*signedAnchor // in it
	covered uint64          // before it
	last    time.Time       // before it
}

// mostAhead is how far the time in a block may be ahead of when it is found: less than
// what others allow, so that a next one can have the right time (the median rule).
const mostAhead = 50 * time.Minute

// newHistory begins with one anchor.
func newHistory(t *testing.T, r *rapid.T, n int) *history {
	h := &history{t: r, w: newWorld(t)}
	h.s.Interval = time.Duration(rapid.Int64Range(10, 240).Draw(r, "interval")) * time.Minute
	h.s.Heartbeat = h.s.Interval + time.Duration(rapid.Int64Range(0, 30*60).Draw(r, "heartbeat"))*time.Minute
	h.s.MaxEntries = rapid.Uint64Range(1, 8).Draw(r, "max entries")
	h.w.server.schedule = &h.s
	h.shown, h.now, h.made, h.last, h.baton = h.w.server, h.w.now, h.w.now, h.w.now, h.w.baton
	h.tail, h.covered = 4, 5
	h.dir = filepath.Join(t.TempDir(), strconv.Itoa(n))
	return h
}

// sign makes the next anchor, which miners take after a while.
func (h *history) sign() {
	record := h.record
	if record == nil {
		record = h.w.record()
	}
	tx := h.w.tx([]wire.OutPoint{h.baton}, record)
	h.baton = wire.OutPoint{Hash: chainhash.DoubleHashH(tx)}
	h.made, h.tail = h.now, record.Position
	delay := time.Duration(rapid.Int64Range(0, int64((schedule.Slack-mostAhead)/blockEvery)-1).Draw(h.t, "delay")) * blockEvery
	h.signed = append(h.signed, &signedAnchor{tx, record.Position, h.now, h.now.Add(delay)})
}

// publish does what the schedule says.
func (h *history) publish() {
	waiting := uint64(len(h.w.server.entries)) - 1 - h.tail
	if waiting >= h.s.MaxEntries || waiting > 0 && h.now.Sub(h.made) >= h.s.Interval ||
		waiting == 0 && len(h.signed) == 0 && h.newest().Sub(h.last) >= h.s.Heartbeat {
		h.sign()
	}
}

// newest is the time in the last block.
func (h *history) newest() time.Time { return time.Unix(int64(h.w.tip.Time), 0) }

// mine makes the next block, with all that waits and that miners take. The time in it is
// ahead.
func (h *history) mine(ahead time.Duration) {
	at := h.now.Add(ahead)
	b := minedBlock{tip: h.w.tip, time: h.now, covered: h.covered, last: h.last}
	var txs [][]byte
	for len(h.signed) > 0 && !h.signed[0].ready.After(h.now) {
		a := h.signed[0]
		h.signed = h.signed[1:]
		b.anchors, txs = append(b.anchors, a), append(txs, a.tx)
		h.covered, h.last = a.position+1, at
	}
	h.w.now = at.Add(-blockEvery)
	h.w.items = append(h.w.items, h.w.mine(txs...)...)
	h.blocks = append(h.blocks, b)
}

// wait lets a number of blocks come.
func (h *history) wait(blocks int) {
	ahead := time.Duration(rapid.Int64Range(0, int64(mostAhead/time.Minute)).Draw(h.t, "minutes ahead")) * time.Minute
	for i := range blocks {
		h.now = h.now.Add(blockEvery)
		h.publish()
		if i < blocks-1 {
			h.mine(0)
		} else {
			h.mine(ahead)
		}
	}
	h.publish()
}

// reorganise takes back some blocks, whose anchors get into another one, if that is not
// later than miners may be.
func (h *history) reorganise(depth int) {
	if depth > len(h.blocks) {
		return
	}
	undone := h.blocks[len(h.blocks)-depth:]
	var anchors []*signedAnchor
	for _, b := range undone {
		anchors = append(anchors, b.anchors...)
	}
	if len(anchors) > 0 && h.now.Sub(anchors[0].signed) > schedule.Slack {
		return
	}
	h.blocks = h.blocks[:len(h.blocks)-depth]
	h.w.tip, h.covered, h.last = undone[0].tip, undone[0].covered, undone[0].last
	h.w.height -= uint32(depth)
	h.w.headers = bytes.Clone(h.w.headers[:len(h.w.headers)-depth*protocol.HeaderSize])
	h.w.items = append([]*proof.BundleItem{}, h.w.items[:len(h.w.items)-len(anchors)]...)
	h.signed = append(anchors, h.signed...)
	now := h.now
	for i, b := range undone { // empty ones, but for the last
		h.now = b.time.Add(time.Second)
		taken := h.signed
		if i < depth-1 {
			h.signed = nil
		}
		h.mine(0)
		if i < depth-1 {
			h.signed = taken
		}
	}
	h.now = now
}

// audit has the auditor look.
func (h *history) audit() *Report {
	h.w.now = h.now
	from := h.w.sources()
	from.Keyserver = h.shown
	from.Newest = func(context.Context) (time.Time, error) { return h.newest(), nil }
	from.Spending = func(_ context.Context, out wire.OutPoint) (Spending, error) {
		if len(h.signed) > 0 {
			return SpentInMempool, nil
		}
		return Unspent, nil
	}
	c := h.w.config(h.dir)
	c.Now = func() time.Time { return h.now.Add(h.ahead) }
	return auditAs(h.w.t, c, from)
}

// act does one of the things that an honest keyserver, miners, and time do.
func (h *history) act() {
	switch rapid.SampledFrom([]string{"grow", "grow", "wait", "wait", "rest", "rotate", "reorganise"}).Draw(h.t, "act") {
	case "grow":
		h.w.server.grow(rapid.IntRange(1, 12).Draw(h.t, "entries"))
		h.publish()
	case "wait":
		h.wait(rapid.IntRange(1, 40).Draw(h.t, "blocks"))
	case "rest":
		h.wait(rapid.IntRange(40, 500).Draw(h.t, "many blocks"))
	case "rotate":
		h.w.holder++
		h.sign()
	case "reorganise":
		h.reorganise(rapid.IntRange(1, 4).Draw(h.t, "depth"))
	}
}

// steps is how many things happen in a history.
func steps() int {
	if exhaustive() {
		return 300
	}
	return 30
}

// eachHistory checks a property of random histories.
func eachHistory(t *testing.T, check func(h *history)) {
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		n++
		h := newHistory(t, r, n)
		defer os.RemoveAll(h.dir)
		check(h)
	})
}

// TestHonestHistories: whatever entries come, however long miners take, the baton's key
// is replaced, the chain is reorganised, and the auditor's clock jumps, an honest
// keyserver is sound at every audit. Only a clock that is ahead makes anchors look old,
// and only as long as it is. Longer histories are behind KEYTREE_EXHAUSTIVE=1.
func TestHonestHistories(t *testing.T) {
	eachHistory(t, func(h *history) {
		for range steps() {
			switch rapid.SampledFrom([]string{"act", "act", "audit", "clock"}).Draw(h.t, "step") {
			case "act":
				h.act()
			case "clock":
				h.ahead = time.Duration(rapid.SampledFrom([]int64{0, 0, -240, -30, -3, 1, 10, 100}).Draw(h.t, "hours ahead")) * time.Hour
			case "audit":
				r := h.audit()
				for _, f := range r.Findings {
					if h.ahead <= 0 || f.Kind != Stale && f.Kind != TooMany {
						h.t.Fatalf("the clock %v ahead: %s: %s", h.ahead, f.Kind, f.Text)
					}
				}
			}
		}
	})
}

// TestOtherHistories: a keyserver that shows another history than it anchors is not
// sound to anybody once an anchor commits to where they part.
func TestOtherHistories(t *testing.T) {
	eachHistory(t, func(h *history) {
		parted := uint64(0)
		for range steps() {
			switch rapid.SampledFrom([]string{"act", "act", "audit", "fork", "grow the fork"}).Draw(h.t, "step") {
			case "act":
				h.act()
			case "fork":
				if parted == 0 {
					parted = rapid.Uint64Range(5, uint64(len(h.w.server.entries))).Draw(h.t, "parted")
					h.shown = h.w.server.twin(int(parted))
					h.shown.grow(1)
				}
			case "grow the fork":
				if parted > 0 {
					h.shown.grow(rapid.IntRange(1, 12).Draw(h.t, "entries of the fork"))
				}
			case "audit":
				if r := h.audit(); parted > 0 && h.covered > parted && r.Verdict == Sound {
					h.t.Fatalf("they part at position %d, anchors commit to %d entries: %s", parted, h.covered, r.Summary())
				}
			}
		}
	})
}

// TestOldRecords: a keyserver that shows more and more, and anchors one old record again
// and again, is not sound to who has watched for as long as an anchor may take and get
// old, however it times its anchors.
func TestOldRecords(t *testing.T) {
	eachHistory(t, func(h *history) {
		h.record = h.w.record()
		var seen time.Time // when the auditor saw the first entry that is not anchored
		for range steps() {
			switch rapid.SampledFrom([]string{"grow", "anchor", "wait", "wait", "rotate", "audit", "audit"}).Draw(h.t, "step") {
			case "grow":
				h.shown.grow(rapid.IntRange(1, 5).Draw(h.t, "entries"))
			case "rotate":
				h.w.holder++
			case "anchor":
				h.sign()
			case "wait":
				for range rapid.IntRange(1, 100).Draw(h.t, "blocks") {
					h.now = h.now.Add(blockEvery)
					h.mine(0)
				}
			case "audit":
				r := h.audit()
				if seen.IsZero() && r.NotCoveredEntries > 0 {
					seen = h.now
				}
				if !seen.IsZero() && h.now.Sub(seen) > h.s.MaxWait()+h.s.MaxAge() && r.Verdict == Sound {
					h.t.Fatalf("entries that wait since %v are no fault at %v: %s", seen, h.now, r.Summary())
				}
			}
		}
	})
}
