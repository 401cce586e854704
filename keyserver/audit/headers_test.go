package audit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/headertest"
)

func TestReadHeaders(t *testing.T) {
	w := newWorld(t)
	for range 5 {
		w.mine()
	}
	for _, first := range []int{0, 2} {
		b := w.headers[first*protocol.HeaderSize:]
		{
			checkpoint := Checkpoint{uint32(100 + first), w.header(first).Hash}
			f, err := ReadHeaders(t.Context(), bytes.NewReader(b), int64(len(b)), testNet, checkpoint, w.now)
			if err != nil {
				t.Fatal(err)
			}
			if f.Height() != 106 || f.Work().Int64() != int64(2*(7-first)) {
				t.Errorf("height %d, work %v", f.Height(), f.Work())
			}
			for n := first; n < 7; n++ {
				if work, err := f.WorkFrom(uint32(100 + n)); err != nil || work.Int64() != int64(2*(7-n)) {
					t.Errorf("work from %d on: %v, %v", 100+n, work, err)
				}
				if err := f.OnBestChain(t.Context(), uint32(100+n), w.header(n).Hash); err != nil {
					t.Error(err)
				}
				if err := f.OnBestChain(t.Context(), uint32(100+n), chainhash.Hash{1}); !errors.Is(err, ErrNotOnBestChain) {
					t.Errorf("another block: got %v, expected %v", err, ErrNotOnBestChain)
				}
			}
			for _, height := range []uint32{uint32(99 + first), 107, 0, 1<<32 - 1} {
				if err := f.OnBestChain(t.Context(), height, w.header(first).Hash); !errors.Is(err, ErrNoHeader) {
					t.Errorf("height %d: got %v, expected %v", height, err, ErrNoHeader)
				}
				if _, err := f.WorkFrom(height); !errors.Is(err, ErrNoHeader) {
					t.Errorf("work from %d on: got %v, expected %v", height, err, ErrNoHeader)
				}
			}
		}
	}

	with := func(change func(b []byte) []byte) []byte { return change(bytes.Clone(w.headers)) }
	checkpoint := Checkpoint{0, w.header(0).Hash}
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
	weak := protocol.Header{Bits: testNet.PowLimitBits}
	for weak.Hash[31] < 0x80 {
		weak.Nonce++
		weak, _ = protocol.ParseHeader(headertest.Bytes(weak))
	}
	if _, err := ReadHeaders(t.Context(), bytes.NewReader(headertest.Bytes(weak)), protocol.HeaderSize, testNet, Checkpoint{0, weak.Hash}, w.now); !errors.Is(err, protocol.ErrWork) {
		t.Errorf("a checkpoint without work: got %v, expected %v", err, protocol.ErrWork)
	}
	last := Checkpoint{1<<32 - 2, w.header(4).Hash} // there is no height for the third header
	if _, err := ReadHeaders(t.Context(), bytes.NewReader(w.headers[4*protocol.HeaderSize:]), 3*protocol.HeaderSize, testNet, last, w.now); !errors.Is(err, ErrHeaders) {
		t.Errorf("more headers than heights: got %v, expected %v", err, ErrHeaders)
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

// TestHeadersOfChain has the last header of a file break a rule of the network. What
// they all are is protocol.HeaderChain's business.
func TestHeadersOfChain(t *testing.T) {
	c := headertest.New()
	c.Extend(35)
	const onTime = headertest.Start + 35*headertest.Spacing
	next := func(time uint32) protocol.Header { return c.Next(time) }
	easy := next(onTime)
	easy.Bits = c.Net.PowLimitBits
	pinned := *c.Net
	pinned.Checkpoints = []chaincfg.Checkpoint{{Height: 36, Hash: &chainhash.Hash{1}}}
	for name, tt := range map[string]struct {
		net    *chaincfg.Params
		header protocol.Header
		clock  int64 // against onTime, in seconds
		want   error
	}{
		"by the rules":                {c.Net, next(onTime), 0, nil},
		"a clock behind":              {c.Net, next(onTime), -2 * 60 * 60, nil},
		"from the future":             {c.Net, next(onTime), -2*60*60 - 1, protocol.ErrFuture},
		"late after the checkpoint":   {c.Net, next(onTime + 14*24*60*60), 1e9, nil},
		"too late after it":           {c.Net, next(onTime + 14*24*60*60 + 1), 1e9, protocol.ErrOtherChain},
		"not after the median":        {c.Net, next(onTime - 6*headertest.Spacing), 0, protocol.ErrHeaderTime},
		"easier than asked for":       {c.Net, easy, 0, protocol.ErrWork},
		"not the network's own block": {&pinned, next(onTime), 0, protocol.ErrOtherChain},
	} {
		t.Run(name, func(t *testing.T) {
			file := c.Fork(35)
			file.Append(tt.header)
			var b []byte
			const first = headertest.AnchorHeight + 4
			for _, h := range file.Headers[first:] {
				b = append(b, headertest.Bytes(h)...)
			}
			_, err := ReadHeaders(t.Context(), bytes.NewReader(b), int64(len(b)), tt.net, Checkpoint{first, c.Headers[first].Hash}, time.Unix(onTime+tt.clock, 0))
			if tt.want == nil && err != nil || tt.want != nil && !(errors.Is(err, tt.want) && errors.Is(err, ErrHeaders)) {
				t.Errorf("got %v, expected %v", err, tt.want)
			}
		})
	}
}
