package admission

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	h2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frame is one of HTTP/2, with zeros as its payload.
func frame(kind byte, size int) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(size)<<8|uint32(kind))) + strings.Repeat("\x00", 5+size)
}

// reading is a connection on which some bytes come.
type reading struct {
	net.Conn
	from io.Reader
}

// Read implements net.Conn.
func (r reading) Read(b []byte) (int, error) { return r.from.Read(b) }

// newFramed returns a framed on which bytes come from a reader, and the gate that it came through.
func newFramed(t *testing.T, from io.Reader) (*framed, *Gate) {
	g := New(Config{Limits: DefaultLimits()})
	server, other := net.Pipe()
	t.Cleanup(func() { other.Close() })
	c, refusal := g.connect(dialled{server, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}})
	if refusal != nil {
		t.Fatal(refusal)
	}
	t.Cleanup(func() { c.Close() })
	return &framed{Conn: reading{c, from}, on: c}, g
}

// units is how many units of work a gate's only client has used.
func (g *Gate) units() int {
	g.work.one.mu.Lock()
	defer g.work.one.mu.Unlock()
	for _, l := range g.work.one.young {
		return l.Burst() - int(math.Ceil(l.TokensAt(time.Now())-0.5))
	}
	return 0
}

// TestFramedHandsAllOn has bytes come in pieces, of HTTP/2 and of something else, and reads them in others. None is lost, little is read
// at once but of data, and each frame is counted.
func TestFramedHandsAllOn(t *testing.T) {
	h2 := preface
	const kinds, rounds = 10, 10
	for range rounds {
		for kind := range byte(kinds) {
			size := 0
			if kind != frameRSTStream {
				size = rand.IntN(40)
			}
			h2 += frame(kind, size)
		}
		h2 += frame(frameData, smallData+rand.IntN(4<<10))
	}
	for _, c := range []struct {
		name   string
		sent   string
		frames int
	}{
		{"HTTP/2", h2, kinds * rounds},
		{"HTTP/1", "POST / HTTP/1.1\r\nHost: a\r\n\r\n" + strings.Repeat("x", 10_000), 0},
		{"HTTP/1 that begins like HTTP/2", "PRI * HTTP/2.0\r\n\r\nSN" + strings.Repeat("x", 1000), 0},
		{"less than a preface", preface[:10], 0},
	} {
		for _, pieces := range []struct {
			name string
			of   func(io.Reader) io.Reader
		}{{"as it comes", func(r io.Reader) io.Reader { return r }}, {"byte by byte", iotest.OneByteReader}, {"by halves", iotest.HalfReader}, {"the end with the last", iotest.DataErrReader}} {
			t.Run(c.name+", "+pieces.name, func(t *testing.T) {
				f, g := newFramed(t, pieces.of(strings.NewReader(c.sent)))
				g.work.one.resize(time.Hour, 1000) // so that it tells all that was taken
				before := g.units()
				var got []byte
				for {
					b := make([]byte, []int{9, 300, 20 << 10}[rand.IntN(3)])
					n, err := f.Read(b)
					got = append(got, b[:n]...)
					if c.frames > 0 && !f.data && n > readFrames {
						t.Fatalf("%d bytes at once", n)
					}
					if err != nil {
						if !errors.Is(err, io.EOF) {
							t.Fatal(err)
						}
						break
					}
				}
				if string(got) != c.sent {
					t.Errorf("%d bytes came, not the %d that were sent", len(got), len(c.sent))
				}
				if c.frames > 0 && (f.speaks != http2 || f.left != 0 || f.has != 0) {
					t.Errorf("it speaks %v, and %d bytes are missing of a frame", f.speaks, f.left)
				}
				counted := (g.units()-before)*framesPerUnit + f.frames
				if c.frames == 0 && counted != 0 || c.frames > 0 && (counted > c.frames || counted < c.frames-framesPerUnit) {
					t.Errorf("%d frames were counted, expected %d", counted, c.frames)
				}
			})
		}
	}
}

// TestFramedTakenBack has a client take more calls back than it may.
func TestFramedTakenBack(t *testing.T) {
	sent := preface + strings.Repeat(frame(1, 20)+frame(frameRSTStream, 4), mostReset+1)
	f, g := newFramed(t, strings.NewReader(sent))
	g.turns.busy.Store(time.Now().Add(time.Hour).UnixNano())
	other, refusal := g.connect(dialled{f.on.Conn, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 2}})
	if refusal != nil {
		t.Fatal(refusal)
	}
	stranger, refusal := g.connect(dialled{f.on.Conn, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 1}})
	if refusal != nil {
		t.Fatal(refusal)
	}
	n, err := io.Copy(io.Discard, f)
	if !errors.Is(err, net.ErrClosed) || n < int64(len(sent))*9/10 {
		t.Errorf("it ended after %d of %d bytes with %v", n, len(sent), err)
	}
	if !f.on.isClosed() || !other.isClosed() || stranger.isClosed() {
		t.Errorf("closed: the connection %t, its client's other one %t, another client's %t", f.on.isClosed(), other.isClosed(), stranger.isClosed())
	}
	if refusal := g.work.take(f.on.client, 1); refusal == nil || refusal.After < 5*time.Second {
		t.Errorf("the client is let in again: %v", refusal)
	}
	if refusal := g.work.take(stranger.client, 1); refusal != nil {
		t.Errorf("another client is not let in: %v", refusal)
	}
}

// TestFramedHeld has a client send frames for which nothing is begun, as pings, until it may not.
func TestFramedHeld(t *testing.T) {
	sent := preface + strings.Repeat(frame(6, 8), 400)
	f, g := newFramed(t, strings.NewReader(sent))
	g.work.resize(Budget{1, 1})
	began := time.Now()
	if _, err := io.CopyN(io.Discard, f, int64(len(sent))); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < holdFrames {
		t.Errorf("it took %v to read more frames than there may be", took)
	}
}

// TestFramedLeavesItsTurn has a call come whole, or in part, while the connection reads on: the turn that the connection has is left to the
// call, or given back.
func TestFramedLeavesItsTurn(t *testing.T) {
	ends := func(f string) string { return f[:4] + "\x01" + f[5:] }
	for _, test := range []struct {
		name string
		sent string
		has  int // turns, while it reads
		left bool
	}{
		{"a call without a message", ends(frame(frameHeaders, 20)), 1, true},
		{"a call and its message", frame(frameHeaders, 20) + ends(frame(frameData, 30)), 1, true},
		{"a call whose message is to come", frame(frameHeaders, 20), 1, false},
		{"a call and half its message", frame(frameHeaders, 20) + ends(frame(frameData, 30))[:20], 1, false},
		{"a ping with the same flag, for which nobody has to wait", ends(frame(6, 8)), 0, false},
		{"more pings than an honest client sends", strings.Repeat(frame(6, 8), 10), 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			more, write := io.Pipe()
			defer write.Close()
			f, g := newFramed(t, io.MultiReader(strings.NewReader(preface+test.sent), more))
			if _, err := io.ReadFull(f, make([]byte, len(preface+test.sent))); err != nil {
				t.Fatal(err)
			}
			if n := g.turns.inUse(); n != test.has {
				t.Errorf("%d turns are taken while it reads, expected %d", n, test.has)
			}
			go f.Read(make([]byte, 1))
			write.Write(nil) // waits until it reads
			if other := f.on.takeOver(client(1)); other != (turn{}) {
				t.Error("another client has it")
			}
			call := f.on.takeOver(f.on.client)
			if (call != turn{}) != test.left {
				t.Errorf("left to the call: %t, expected %t", call != turn{}, test.left)
			}
			g.turns.give(call)
			if n := g.turns.inUse(); n != 0 {
				t.Errorf("%d turns are taken, expected 0", n)
			}
		})
	}
}

// TestFramedTakesItsTurnBack has nobody take over what was left.
func TestFramedTakesItsTurnBack(t *testing.T) {
	f, g := newFramed(t, strings.NewReader(preface))
	if _, err := io.ReadFull(f, make([]byte, len(preface))); err != nil {
		t.Fatal(err)
	}
	f.on.leave()
	for deadline := time.Now().Add(10 * time.Second); g.turns.inUse() != 0; time.Sleep(soon) {
		if time.Now().After(deadline) {
			t.Fatal("the turn is not given back")
		}
	}
}

// TestUnreadAnswersOverHTTP2 has a client ask for short answers and take none. They count as requests until it does, and what says that
// there are too many is not kept waiting for it.
func TestUnreadAnswersOverHTTP2(t *testing.T) {
	limits := DefaultLimits()
	limits.Requests = Budget{All: 4, One: 100} // of which one client has three, as long as others may come
	g := New(Config{Limits: limits})
	refuse := func(w http.ResponseWriter, _ *http.Request, why *Refusal) {
		http.Error(w, why.Error(), why.HTTPStatus())
	}
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") })
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS() // for its certificate
	config := &tls.Config{Certificates: server.TLS.Certificates}
	server.Close()
	s := &http.Server{Handler: g.Handler(g.Answers(hello, refuse), Requests, refuse), TLSConfig: config}
	g.Limit(s)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- g.ServeTLS(s, listener) }()
	defer func() {
		s.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	c, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if p := c.ConnectionState().NegotiatedProtocol; p != "h2" {
		t.Fatalf("it speaks %q", p)
	}
	io.WriteString(c, preface)
	framer := h2.NewFramer(c, c)
	framer.WriteSettings(h2.Setting{ID: h2.SettingInitialWindowSize, Val: 0})
	var block strings.Builder
	headers := hpack.NewEncoder(&block)
	const asked, let = 10, 3
	for i := range uint32(asked) {
		block.Reset()
		for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/"}} {
			headers.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		if err := framer.WriteHeaders(h2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: []byte(block.String()), EndStream: true, EndHeaders: true}); err != nil {
			t.Fatal(err)
		}
	}
	await := func(what string, is func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: there is %+v in use, %d are told", what, g.Usage(), g.telling.Load())
			}
		}
	}
	refused := func() int64 { return int64(g.requests.count.Load()) }
	await("the others are refused", func() bool {
		return g.Usage().Requests == let && refused() == asked-let
	})
	await("that is told", func() bool { return g.telling.Load() == 0 })
	if n := g.Usage().Requests; n != let {
		t.Errorf("%d requests are in use that nobody has taken, expected %d", n, let)
	}
	c.Close()
	await("the end", func() bool { return g.Usage() == Usage{Remembered: g.Usage().Remembered} })
}
