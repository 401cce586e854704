package protocol_test

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/headertest"
)

// timesBefore returns the times of the headers in front of the one at a height.
func timesBefore(headers []protocol.Header, height uint32) (times []uint32) {
	for _, h := range headers[:height] {
		times = append(times, h.Time)
	}
	return times
}

func clock(h protocol.Header) time.Time { return time.Unix(int64(h.Time), 0) }

// mainnetRuns reads testdata/mainnet-headers.txt: headers by the height of the first.
func mainnetRuns(t *testing.T) map[uint32][]protocol.Header {
	t.Helper()
	text, err := os.ReadFile("testdata/mainnet-headers.txt")
	if err != nil {
		t.Fatal(err)
	}
	runs := make(map[uint32][]protocol.Header)
	var first uint32
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			continue
		}
		if n, _ := fmt.Sscanf(line, "first %d", &first); n == 1 {
			continue
		}
		raw, err := hex.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		h, err := protocol.ParseHeader(raw)
		if err != nil {
			t.Fatal(err)
		}
		runs[first] = append(runs[first], h)
	}
	return runs
}

// TestHeaderChainMainnet judges real headers, and each again with its bits or its
// time changed.
func TestHeaderChainMainnet(t *testing.T) {
	net := &chaincfg.MainNetParams
	runs := mainnetRuns(t)
	if len(runs) != 2 {
		t.Fatalf("%d runs", len(runs))
	}
	for first, run := range runs {
		c := protocol.NewHeaderChain(net, first, run[0], nil)
		work := new(big.Int)
		now := clock(run[len(run)-1])
		for i, h := range run[1:] {
			if c.Height() > 661_647 {
				other := h
				other.Bits++
				if err := c.AddWorked(other, now); !errors.Is(err, protocol.ErrWork) {
					t.Errorf("%d with other bits: %v", c.Height()+1, err)
				}
			}
			if i >= 10 {
				other := h
				other.Time = median(run[i-10 : i+1])
				if err := c.AddWorked(other, now); !errors.Is(err, protocol.ErrHeaderTime) {
					t.Errorf("%d of the median time: %v", c.Height()+1, err)
				}
			}
			if err := c.Add(h, now); err != nil {
				t.Fatal(err)
			}
			w, err := h.Work()
			if err != nil {
				t.Fatal(err)
			}
			work.Add(work, w)
		}
		if c.Height() != first+uint32(len(run))-1 || c.Last() != run[len(run)-1] || c.Work().Cmp(work) != 0 {
			t.Errorf("from %d: height %d, last %v, work %v, expected %v", first, c.Height(), c.Last().Hash, c.Work(), work)
		}
	}

	// ASERT counts from the block before the checkpoint, so that its anchor is pinned.
	run := runs[661_646]
	c := protocol.NewHeaderChain(net, 661_647, run[1], nil)
	ecash := headertest.Solve(protocol.Header{PrevBlock: run[1].Hash, Time: run[2].Time, Bits: chaincfg.RegressionNetParams.PowLimitBits})
	if err := c.AddWorked(ecash, clock(ecash)); !errors.Is(err, protocol.ErrOtherChain) || !strings.Contains(err.Error(), run[2].Hash.String()) {
		t.Errorf("another block behind the anchor: %v", err)
	}
}

// TestHeaderChain has a header at the end of a chain break one rule.
func TestHeaderChain(t *testing.T) {
	type made struct {
		*headertest.Chain
		now time.Time // 0: the time of the last header
	}
	const anchor = headertest.AnchorHeight
	chain := func(height uint32) *made {
		c := headertest.New()
		c.Extend(height)
		return &made{Chain: c}
	}
	onTime := func(c *made) protocol.Header { return c.Next(headertest.Start + c.Height()*headertest.Spacing) }
	after := func(pause int) func(c *made) protocol.Header {
		return func(c *made) protocol.Header { return c.Next(uint32(int(c.Tip().Time) + pause)) }
	}
	days := func(n int) int { return n * 24 * 60 * 60 }
	testnet := func(c *made) *made {
		c.Net.ReduceMinDifficulty, c.Net.MinDiffReductionTime = true, 20*time.Minute
		return c
	}
	regtest := func(c *made) *made { c.Net.ReduceMinDifficulty, c.Net.NoDifficultyAdjustment = true, true; return c }
	other := chainhash.Hash{1}
	for _, tt := range []struct {
		name  string
		chain *made
		next  func(c *made) protocol.Header
		want  error
		say   string
	}{
		{name: "by the rules", chain: chain(30), next: onTime},
		{name: "by the rules, below the anchor", chain: chain(10), next: onTime},
		{name: "the anchor", chain: chain(anchor - 1), next: onTime},
		{name: "behind the anchor", chain: chain(anchor), next: onTime},

		{name: "follows another", chain: chain(30), next: func(c *made) protocol.Header {
			h := onTime(c)
			h.PrevBlock = c.Headers[29].Hash
			return h
		}, want: protocol.ErrHeaderLink, say: "height 31"},

		{name: "no work", chain: chain(30), next: func(c *made) protocol.Header {
			h := onTime(c)
			for h = headertest.Solve(h); h.CheckWork(c.Net.PowLimit) == nil; {
				h.Nonce++
				h, _ = protocol.ParseHeader(headertest.Bytes(h))
			}
			return h
		}, want: protocol.ErrWork, say: "height 31"},
		{name: "easier than the network allows", chain: func() *made {
			c := chain(10)
			c.Net.PowLimit = new(big.Int).Rsh(c.Net.PowLimit, 8)
			return c
		}(), next: onTime, want: protocol.ErrWork, say: "easier"},
		{name: "easier than ASERT asks", chain: chain(30), next: func(c *made) protocol.Header {
			h := onTime(c)
			h.Bits++
			return h
		}, want: protocol.ErrWork, say: "height 31"},
		{name: "harder than ASERT asks", chain: chain(anchor), next: func(c *made) protocol.Header {
			h := onTime(c)
			h.Bits--
			return h
		}, want: protocol.ErrWork, say: "height 21"},
		{name: "any target below the anchor", chain: chain(10), next: func(c *made) protocol.Header {
			h := onTime(c)
			h.Bits = c.Net.PowLimitBits
			return h
		}},

		{name: "the checkpoint", chain: func() *made {
			c := chain(11)
			c.Pin(11)
			return &made{Chain: c.Fork(10)}
		}(), next: onTime},
		{name: "not the checkpoint", chain: func() *made {
			c := chain(10)
			c.Net.Checkpoints = []chaincfg.Checkpoint{{Height: 5, Hash: &c.Headers[5].Hash}, {Height: 10, Hash: &c.Headers[10].Hash}, {Height: 11, Hash: &other}, {Height: 20, Hash: &other}}
			return c
		}(), next: onTime, want: protocol.ErrOtherChain, say: "contradicts the checkpoint of made-up at this height, block " + other.String()},
		{name: "a checkpoint elsewhere", chain: func() *made {
			c := chain(10)
			c.Net.Checkpoints = []chaincfg.Checkpoint{{Height: 10, Hash: &other}, {Height: 12, Hash: &other}}
			return c
		}(), next: onTime},

		{name: "above the median", chain: chain(30), next: after(1 - 5*headertest.Spacing)},
		{name: "of the median", chain: chain(30), next: after(-5 * headertest.Spacing), want: protocol.ErrHeaderTime, say: "height 31"},
		{name: "below the median, below the anchor", chain: chain(11), next: after(-5*headertest.Spacing - 1), want: protocol.ErrHeaderTime, say: "height 12"},

		{name: "ahead of the clock", chain: &made{chain(30).Chain, time.Unix(headertest.Start+30*headertest.Spacing, 0).Add(-protocol.MaxAhead)}, next: onTime},
		{name: "too far ahead of the clock", chain: &made{chain(30).Chain, time.Unix(headertest.Start+30*headertest.Spacing-1, 0).Add(-protocol.MaxAhead)}, next: onTime,
			want: protocol.ErrFuture, say: "height 31"},
		{name: "wrong in itself and ahead of the clock", chain: &made{chain(30).Chain, time.Unix(headertest.Start, 0)}, next: after(days(100)), want: protocol.ErrOtherChain},

		{name: "late", chain: chain(30), next: after(days(14) + headertest.Spacing)},
		{name: "too late", chain: chain(30), next: after(days(14) + headertest.Spacing + 1), want: protocol.ErrOtherChain, say: "height 31"},
		{name: "too late for the block behind the anchor", chain: chain(anchor), next: after(days(14) + headertest.Spacing + 1), want: protocol.ErrOtherChain, say: "height 21"},
		{name: "late before the anchor", chain: chain(10), next: after(days(100))},

		{name: "test network: as ASERT asks", chain: testnet(chain(30)), next: after(20 * 60)},
		{name: "test network: easy after a pause", chain: testnet(chain(30)), next: func(c *made) protocol.Header {
			h := after(20*60 + 1)(c)
			h.Bits = c.Net.PowLimitBits
			return h
		}},
		{name: "test network: hard after a pause", chain: testnet(chain(30)), next: after(20*60 + 1), want: protocol.ErrWork},
		{name: "test network: easy without a pause", chain: testnet(chain(30)), next: func(c *made) protocol.Header {
			h := after(20 * 60)(c)
			h.Bits = c.Net.PowLimitBits
			return h
		}, want: protocol.ErrWork},
		{name: "test network: below the median", chain: testnet(chain(30)), next: after(-days(1))},
		{name: "test network: ahead of the clock", chain: &made{testnet(chain(30)).Chain, time.Unix(headertest.Start, 0)}, next: onTime},
		{name: "test network: not the checkpoint", chain: func() *made {
			c := testnet(chain(10))
			c.Net.Checkpoints = []chaincfg.Checkpoint{{Height: 11, Hash: &other}}
			return c
		}(), next: onTime, want: protocol.ErrOtherChain},
		{name: "regtest: any target and time", chain: regtest(chain(30)), next: func(c *made) protocol.Header {
			h := after(-days(1))(c)
			h.Bits = c.Net.PowLimitBits
			return h
		}},
		{name: "regtest: follows another", chain: regtest(chain(30)), next: func(c *made) protocol.Header {
			h := onTime(c)
			h.PrevBlock = c.Headers[29].Hash
			return h
		}, want: protocol.ErrHeaderLink},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.chain
			h := tt.next(c)
			if tt.name != "no work" {
				h = headertest.Solve(h)
			}
			if c.now.IsZero() {
				c.now = clock(h)
			}
			hc := protocol.NewHeaderChain(c.Net, c.Height(), c.Tip(), timesBefore(c.Headers, c.Height()))
			err := hc.Add(h, c.now)
			if !errors.Is(err, tt.want) || tt.want == nil && err != nil {
				t.Fatalf("%v, expected %v", err, tt.want)
			}
			if err == nil {
				if hc.Height() != c.Height()+1 || hc.Last() != h || hc.Work().Sign() == 0 {
					t.Errorf("height %d, last %v, work %v", hc.Height(), hc.Last(), hc.Work())
				}
				return
			}
			if !strings.Contains(err.Error(), tt.say) || tt.want != protocol.ErrWork && !strings.Contains(err.Error(), h.Hash.String()) {
				t.Errorf("%v, expected the block and %q", err, tt.say)
			}
			if hc.Height() != c.Height() || hc.Last() != c.Tip() || hc.Work().Sign() != 0 {
				t.Errorf("a refusal has changed the chain: height %d, last %v", hc.Height(), hc.Last().Hash)
			}
		})
	}
}

// TestHeaderChainBegins begins at every height, with what is known of the times
// before it. The median is judged as soon as eleven times are known.
func TestHeaderChainBegins(t *testing.T) {
	c := headertest.New()
	c.Extend(40)
	now := clock(c.Tip())
	for begin := range uint32(28) {
		for known := range min(begin, 12) + 1 {
			hc := protocol.NewHeaderChain(c.Net, begin, c.Headers[begin], timesBefore(c.Headers, begin)[begin-known:])
			for _, h := range c.Headers[begin+1:] {
				early := h
				early.Time = c.Headers[1].Time - 1
				if known+1+hc.Height()-begin < 11 {
					fresh := protocol.NewHeaderChain(c.Net, begin, c.Headers[begin], timesBefore(c.Headers, begin)[begin-known:])
					for _, before := range c.Headers[begin+1 : hc.Height()+1] {
						if err := fresh.Add(before, now); err != nil {
							t.Fatal(err)
						}
					}
					if err := fresh.AddWorked(early, now); err != nil {
						t.Fatalf("from %d with %d times, at %d: %v", begin, known, hc.Height()+1, err)
					}
				} else if err := hc.AddWorked(early, now); !errors.Is(err, protocol.ErrHeaderTime) {
					t.Fatalf("from %d with %d times, at %d: %v", begin, known, hc.Height()+1, err)
				}
				if err := hc.Add(h, now); err != nil {
					t.Fatalf("from %d with %d times: %v", begin, known, err)
				}
			}
		}
	}
}

// TestHeaderChainLag has a chain lag behind its schedule, since ASERT's anchor and
// since it begins.
func TestHeaderChainLag(t *testing.T) {
	const day = 24 * 60 * 60
	for _, tt := range []struct {
		name   string
		anchor int64 // how much later it is, in seconds: the chain is so much early
		late   []uint32
		begin  map[uint32]error
	}{
		{"within the bound", 0, []uint32{10 * day}, map[uint32]error{0: nil, 25: nil, 30: nil}},
		{"since the anchor", 0, []uint32{10 * day, 10 * day}, map[uint32]error{0: protocol.ErrOtherChain, 25: protocol.ErrOtherChain, 31: protocol.ErrOtherChain}},
		{"since it begins", 4 * day, []uint32{10 * day, 7 * day}, map[uint32]error{0: nil, 19: protocol.ErrOtherChain, 30: protocol.ErrOtherChain, 31: nil}},
	} {
		c := headertest.New()
		c.Net.AsertDifficultyAnchorParentTimestamp += tt.anchor
		c.Extend(30)
		for _, late := range tt.late {
			c.Append(c.Next(c.Tip().Time + late))
		}
		for begin, want := range tt.begin {
			hc := protocol.NewHeaderChain(c.Net, begin, c.Headers[begin], nil)
			var err error
			for _, h := range c.Headers[begin+1:] {
				if err = hc.Add(h, clock(c.Tip())); err != nil {
					break
				}
			}
			if !errors.Is(err, want) || want == nil && err != nil {
				t.Errorf("%s, from %d: %v, expected %v", tt.name, begin, err, want)
			}
		}
	}
}

// TestHeaderChainProperty mines random chains by the rules. None is refused, and all
// are if one thing in them is changed.
func TestHeaderChainProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := headertest.New()
		height := rapid.Uint32Range(headertest.AnchorHeight+2, headertest.AnchorHeight+40).Draw(t, "height")
		for c.Height() < height {
			at := int64(c.Tip().Time)
			switch pause := rapid.IntRange(-3, 5).Draw(t, "pause"); {
			case c.Height() == 0:
				at = headertest.Start
			case pause < 0: // back in time
				at -= rapid.Int64Range(0, 2*headertest.Spacing).Draw(t, "back")
			case pause == 5:
				at += rapid.Int64Range(0, 3*24*60*60).Draw(t, "long")
			default:
				at += rapid.Int64Range(0, 2*headertest.Spacing).Draw(t, "seconds")
			}
			if c.Height() >= 10 {
				at = max(at, int64(median(c.Headers[c.Height()-10:]))+1)
			}
			if c.Height() >= headertest.AnchorHeight {
				due := c.Net.AsertDifficultyAnchorParentTimestamp + (int64(c.Height())+2-headertest.AnchorHeight)*headertest.Spacing
				at = min(at, due+13*24*60*60)
			}
			if c.Height()+1 == headertest.AnchorHeight {
				c.Net.AsertDifficultyAnchorParentTimestamp = int64(c.Tip().Time)
			}
			c.Append(c.Next(uint32(at)))
		}
		for range rapid.IntRange(0, 3).Draw(t, "pins") {
			next := uint32(1)
			if n := len(c.Net.Checkpoints); n > 0 {
				next = uint32(c.Net.Checkpoints[n-1].Height) + 1
			}
			if next < height {
				c.Pin(rapid.Uint32Range(next, height).Draw(t, "pin"))
			}
		}
		var latest protocol.Header
		for _, h := range c.Headers {
			if h.Time > latest.Time {
				latest = h
			}
		}
		now := clock(latest).Add(-time.Duration(rapid.Int64Range(0, int64(protocol.MaxAhead/time.Second)).Draw(t, "clock behind")) * time.Second)
		begin := rapid.Uint32Range(0, height-2).Draw(t, "begin")
		known := rapid.IntRange(0, min(int(begin), 12)).Draw(t, "known")
		judge := func(net *chaincfg.Params, headers []protocol.Header) (uint32, error) {
			before := timesBefore(headers, begin)
			hc := protocol.NewHeaderChain(net, begin, headers[begin], before[len(before)-known:])
			for _, h := range headers[begin+1:] {
				if err := hc.Add(h, now); err != nil {
					return hc.Height() + 1, err
				}
			}
			return hc.Height(), nil
		}
		if at, err := judge(c.Net, c.Headers); err != nil {
			t.Fatalf("an honest chain, at height %d: %v", at, err)
		}

		changed, net := c.Fork(height), *c.Net
		net.Checkpoints = nil
		at := rapid.Uint32Range(begin+1, height-1).Draw(t, "at")
		h := &changed.Headers[at]
		resolve := true
		var want error
		judged := int(at-begin)+known >= 11
		switch change := rapid.SampledFrom([]string{"bits", "time", "future", "lag", "order", "missing", "twice", "checkpoint", "byte"}).Draw(t, "change"); {
		case change == "bits" && at > headertest.AnchorHeight:
			h.Bits ^= rapid.Uint32Range(1, 255).Draw(t, "bits")
			want = protocol.ErrWork
		case change == "time" && judged:
			m := median(c.Headers[at-11 : at])
			h.Time = m - rapid.Uint32Range(0, m/2).Draw(t, "back")
			want = protocol.ErrHeaderTime
		case change == "future" && at < headertest.AnchorHeight:
			h.Time = uint32(now.Add(protocol.MaxAhead).Unix()) + rapid.Uint32Range(1, 1e6).Draw(t, "ahead")
			want = protocol.ErrFuture
		case change == "lag" && at > headertest.AnchorHeight:
			h.Time = uint32(now.Unix()) + rapid.Uint32Range(16*24*60*60, 1e9).Draw(t, "ahead")
			want = protocol.ErrOtherChain
		case change == "order":
			changed.Headers[at], changed.Headers[at+1] = changed.Headers[at+1], changed.Headers[at]
			want, resolve = protocol.ErrHeaderLink, false
		case change == "missing":
			changed.Headers = append(changed.Headers[:at], changed.Headers[at+1:]...)
			want, resolve = protocol.ErrHeaderLink, false
		case change == "twice":
			changed.Headers[at+1] = changed.Headers[at]
			want, resolve, at = protocol.ErrHeaderLink, false, at+1
		case change == "checkpoint":
			net.Checkpoints = []chaincfg.Checkpoint{{Height: int32(at), Hash: &chainhash.Hash{1}}}
			want, resolve = protocol.ErrOtherChain, false
		default: // the header is another one now: it has no work, or the next does not follow
			raw := headertest.Bytes(*h)
			raw[rapid.IntRange(0, len(raw)-1).Draw(t, "index")] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
			other, err := protocol.ParseHeader(raw)
			if err != nil {
				t.Fatal(err)
			}
			*h, resolve = other, false
			if other.CheckWork(net.PowLimit) == nil {
				at++
			}
		}
		if resolve {
			*h = headertest.Solve(*h)
		}
		got, err := judge(&net, changed.Headers)
		if err == nil || want != nil && (!errors.Is(err, want) || got != at) || got > at {
			t.Fatalf("at height %d: %v, expected %v at height %d", got, err, want, at)
		}
	})
}

// median returns that of the times of eleven headers.
func median(headers []protocol.Header) uint32 {
	for _, h := range headers {
		below, same := 0, 0
		for _, other := range headers {
			if other.Time < h.Time {
				below++
			} else if other.Time == h.Time {
				same++
			}
		}
		if below <= len(headers)/2 && len(headers)/2 < below+same {
			return h.Time
		}
	}
	panic("no headers")
}

func TestPins(t *testing.T) {
	c := headertest.New()
	c.Extend(20)
	c.Pin(5)
	c.Pin(12)
	unpinned := *c.Net
	unpinned.Checkpoints = nil
	for _, tt := range []struct {
		name                     string
		net                      *chaincfg.Params
		tip, proven, below, last uint32
	}{
		{"genesis", c.Net, 0, 0, 0, 12},
		{"below the first", c.Net, 4, 0, 0, 12},
		{"at the first", c.Net, 5, 5, 5, 12},
		{"above the first", c.Net, 11, 5, 5, 12},
		{"at the last", c.Net, 12, 12, 12, 12},
		{"above the last", c.Net, 20, 20, 12, 12},
		{"no checkpoints", &unpinned, 13, 13, 0, 0},
	} {
		if got := protocol.LastPin(tt.net); got != tt.last {
			t.Errorf("%s: the last pin is at %d, expected %d", tt.name, got, tt.last)
		}
		if got := protocol.ProvenHeight(tt.net, tt.tip); got != tt.proven {
			t.Errorf("%s: %d is proven, expected %d", tt.name, got, tt.proven)
		}
		if height, block := protocol.PinBelow(tt.net, tt.tip); height != tt.below || block != c.Headers[tt.below].Hash {
			t.Errorf("%s: the pin below is %d, %v, expected %d, %v", tt.name, height, block, tt.below, c.Headers[tt.below].Hash)
		}
	}

	main := &chaincfg.MainNetParams
	if height, _ := protocol.PinBelow(main, protocol.StartHeight(main)); height != 510_000 {
		t.Errorf("the pin below mainnet's start is at %d", height)
	}
	if last := protocol.LastPin(main); last != uint32(main.AsertDifficultyAnchorHeight)+1 {
		t.Errorf("mainnet's last pin is at %d, expected the block behind ASERT's anchor", last)
	}
}

// BenchmarkHeaderChain prints what a header costs, with its own work and without.
func BenchmarkHeaderChain(b *testing.B) {
	c := headertest.New()
	c.Extend(2_000)
	now := clock(c.Tip())
	const begin = headertest.AnchorHeight
	for _, bb := range []struct {
		name string
		add  func(*protocol.HeaderChain, protocol.Header, time.Time) error
	}{
		{"Add", (*protocol.HeaderChain).Add},
		{"AddWorked", (*protocol.HeaderChain).AddWorked},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				hc := protocol.NewHeaderChain(c.Net, begin, c.Headers[begin], nil)
				for _, h := range c.Headers[begin+1:] {
					if err := bb.add(hc, h, now); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(c.Height()-begin), "ns/header")
		})
	}
}
