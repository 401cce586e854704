package audit

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
)

func TestReadHeaders(t *testing.T) {
	w := newWorld(t)
	for range 5 {
		w.mine()
	}
	at := func(n int) protocol.Header {
		h, err := protocol.ParseHeader(w.headers[n*protocol.HeaderSize:])
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	for _, first := range []int{0, 2} {
		b := w.headers[first*protocol.HeaderSize:]
		{
			checkpoint := Checkpoint{uint32(100 + first), at(first).Hash}
			f, err := ReadHeaders(t.Context(), bytes.NewReader(b), int64(len(b)), testNet, checkpoint, w.now)
			if err != nil {
				t.Fatal(err)
			}
			if f.Height() != 106 || f.Work().Int64() != int64(2*(7-first)) {
				t.Errorf("height %d, work %v", f.Height(), f.Work())
			}
			for n := first; n < 7; n++ {
				if err := f.OnBestChain(t.Context(), uint32(100+n), at(n).Hash); err != nil {
					t.Error(err)
				}
				if err := f.OnBestChain(t.Context(), uint32(100+n), chainhash.Hash{1}); !errors.Is(err, ErrNotOnBestChain) {
					t.Errorf("another block: got %v, expected %v", err, ErrNotOnBestChain)
				}
			}
			for _, height := range []uint32{uint32(99 + first), 107, 0, 1<<32 - 1} {
				if err := f.OnBestChain(t.Context(), height, at(first).Hash); !errors.Is(err, ErrNoHeader) {
					t.Errorf("height %d: got %v, expected %v", height, err, ErrNoHeader)
				}
			}
		}
	}

	with := func(change func(b []byte) []byte) []byte { return change(bytes.Clone(w.headers)) }
	checkpoint := Checkpoint{0, at(0).Hash}
	for name, test := range map[string]struct {
		b    []byte
		want error
	}{
		"empty":             {nil, ErrHeaders},
		"cut short":         {w.headers[:len(w.headers)-1], ErrHeaders},
		"another beginning": {w.headers[3*protocol.HeaderSize:], ErrHeaders},
		"the one after it":  {w.headers[protocol.HeaderSize:], ErrHeaders},
		"one is missing": {with(func(b []byte) []byte {
			return append(b[:3*protocol.HeaderSize], b[4*protocol.HeaderSize:]...)
		}), ErrHeaders},
		"no work": {with(func(b []byte) []byte {
			last := b[6*protocol.HeaderSize:]
			for n := byte(0); ; n++ {
				last[76] = n
				if h, err := protocol.ParseHeader(last); err == nil && h.CheckWork(testNet.PowLimit) != nil {
					return b
				}
			}
		}), protocol.ErrWork},
		"easier than allowed": {with(func(b []byte) []byte {
			copy(b[6*protocol.HeaderSize+72:], []byte{0xff, 0xff, 0x7f, 0x21})
			return b
		}), protocol.ErrWork},
	} {
		if _, err := ReadHeaders(t.Context(), bytes.NewReader(test.b), int64(len(test.b)), testNet, checkpoint, w.now); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, expected %v", name, err, test.want)
		}
	}
	if _, err := ReadHeaders(t.Context(), bytes.NewReader(w.headers[:80]), 160, testNet, checkpoint, w.now); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		t.Errorf("a file that shrinks: got %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	if _, err := ReadHeaders(ctx, bytes.NewReader(w.headers), int64(len(w.headers)), testNet, checkpoint, w.now); !errors.Is(err, stop) {
		t.Errorf("stopped: got %v, expected %v", err, stop)
	}
}

func TestParseCheckpoint(t *testing.T) {
	const hash = "000000000000000000651ef99cb9fcbe0dadde1d424bd9f15ff20136191a5eec"
	c, err := ParseCheckpoint("478559:" + hash)
	if err != nil || c.Height != 478559 || c.String() != "478559:"+hash {
		t.Errorf("got %v, %v", c, err)
	}
	for _, s := range []string{"", ":", "478559", "478559:", hash, "-1:" + hash, "4294967296:" + hash, "1:" + hash[1:], "1:zz" + hash[2:]} {
		if _, err := ParseCheckpoint(s); err == nil {
			t.Errorf("%q was taken", s)
		}
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
				bits = protocol.ASERTBits(net, uint32(99+n), last.Time)
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
