package audit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"

	"github.com/keytree-bch/keytree/protocol"
)

func TestASERT(t *testing.T) {
	text, err := os.ReadFile("testdata/asert.txt")
	if err != nil {
		t.Fatal(err)
	}
	net := chaincfg.MainNetParams
	checked := 0
	for line := range strings.Lines(string(text)) {
		var run int
		if strings.HasPrefix(line, "#") {
			continue
		}
		if n, _ := fmt.Sscanf(line, "run %d %d %d %x", &run, &net.AsertDifficultyAnchorHeight, &net.AsertDifficultyAnchorParentTimestamp, &net.AsertDifficultyAnchorBits); n == 4 {
			continue
		}
		var height, time, want uint32
		if _, err := fmt.Sscanf(line, "%d %d %x", &height, &time, &want); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if got := asertBits(&net, height, time); got != want {
			t.Errorf("%safter block %d of time %d: got %08x, expected %08x", line, height, time, got, want)
		}
		checked++
	}
	if checked < 300 {
		t.Errorf("%d vectors", checked)
	}
}

// asertNet is like mainnet, but easy.
func asertNet() *chaincfg.Params {
	net := chaincfg.MainNetParams
	net.PowLimit, net.PowLimitBits = chaincfg.RegressionNetParams.PowLimit, chaincfg.RegressionNetParams.PowLimitBits
	net.AxionActivationHeight, net.AsertDifficultyAnchorHeight = 100, 100
	net.AsertDifficultyAnchorParentTimestamp, net.AsertDifficultyAnchorBits = testTime, 0x1f7fffff
	return &net
}

// TestHeadersOfRightDifficulty makes headers as the network's rule asks, and others.
func TestHeadersOfRightDifficulty(t *testing.T) {
	net := asertNet()
	// chain makes headers from height 100 on, each some time after the one before it,
	// with bits as asked for unless change says otherwise.
	chain := func(net *chaincfg.Params, pauses []time.Duration, change func(n int, bits uint32) uint32) ([]byte, time.Time) {
		var all []byte
		last := protocol.Header{Time: testTime}
		for n, pause := range append([]time.Duration{0}, pauses...) {
			raw := make([]byte, protocol.HeaderSize)
			copy(raw[4:], last.Hash[:])
			at := last.Time + uint32(pause/time.Second)
			bits := net.AsertDifficultyAnchorBits
			if n > 0 {
				bits = asertBits(net, uint32(99+n), last.Time)
			}
			binary.LittleEndian.PutUint32(raw[68:], at)
			binary.LittleEndian.PutUint32(raw[72:], change(n, bits))
			for nonce := uint32(0); ; nonce++ {
				binary.LittleEndian.PutUint32(raw[76:], nonce)
				h, err := protocol.ParseHeader(raw)
				if err != nil {
					t.Fatal(err)
				}
				if h.CheckWork(net.PowLimit) == nil {
					last = h
					break
				}
			}
			all = append(all, raw...)
		}
		return all, time.Unix(int64(last.Time), 0)
	}
	steady := make([]time.Duration, 20)
	for i := range steady {
		steady[i] = 10 * time.Minute
	}
	asked := func(_ int, bits uint32) uint32 { return bits }
	pause := append([]time.Duration{14 * 24 * time.Hour}, steady...)
	lag := append([]time.Duration{15 * 24 * time.Hour}, steady...)
	test := *net
	test.ReduceMinDifficulty, test.MinDiffReductionTime = true, 20*time.Minute
	for name, c := range map[string]struct {
		net    *chaincfg.Params
		pauses []time.Duration
		change func(n int, bits uint32) uint32
		clock  time.Duration // against the last header's time
		want   error
	}{
		"as asked":        {net, steady, asked, 0, nil},
		"a clock behind":  {net, steady, asked, -2 * time.Hour, nil},
		"from the future": {net, steady, asked, -2*time.Hour - time.Second, ErrHeaders},
		"a long pause":    {net, pause, asked, 0, nil},
		"too long":        {net, lag, asked, 0, ErrHeaders},
		"easier": {net, steady, func(n int, bits uint32) uint32 {
			if n == 7 {
				return 0x207fffff
			}
			return bits
		}, 0, protocol.ErrWork},
		"a little easier": {net, steady, func(n int, bits uint32) uint32 {
			if n == 7 {
				return bits + 1
			}
			return bits
		}, 0, protocol.ErrWork},
		"easy after a pause, on mainnet": {net, append([]time.Duration{time.Hour}, steady...), func(n int, bits uint32) uint32 {
			if n == 1 {
				return 0x207fffff
			}
			return bits
		}, 0, protocol.ErrWork},
		"easy after a pause, on a test network": {&test, append([]time.Duration{time.Hour}, steady...), func(n int, bits uint32) uint32 {
			if n == 1 {
				return 0x207fffff
			}
			return bits
		}, 0, nil},
		"without pause, on a test network": {&test, steady, func(n int, bits uint32) uint32 {
			if n == 1 {
				return 0x207fffff
			}
			return bits
		}, 0, protocol.ErrWork},
	} {
		t.Run(name, func(t *testing.T) {
			b, last := chain(c.net, c.pauses, c.change)
			first, err := protocol.ParseHeader(b)
			if err != nil {
				t.Fatal(err)
			}
			_, err = ReadHeaders(t.Context(), bytes.NewReader(b), int64(len(b)), c.net, Checkpoint{100, first.Hash}, last.Add(c.clock))
			if !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Errorf("got %v, expected %v", err, c.want)
			}
		})
	}
}
