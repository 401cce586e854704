package admission

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"time"

	"google.golang.org/grpc/credentials"
)

// framed is a connection whose client may speak HTTP/2, after it was decrypted. Of HTTP/2, one read may bring hundreds of
// requests, of which a library makes something before it asks whether they are let in, and other frames that it answers by itself.
// So framed reads little at a time, for each of which it waits for a processor, counts the frames, and reads nothing more for a while
// when the client has asked for more than it may. One goroutine reads; others may write.
type framed struct {
	net.Conn
	on  *conn
	log *log.Logger // of handshakes that fail; nil for none

	// Owned by the goroutine that reads:
	secure  *tls.Conn // nil when there is no handshake to be made any more
	failed  error     // what reading ended with
	speaks  protocol
	room    []byte  // nil before something is read, and over HTTP/1
	unread  []byte  // of room: what was read, and not asked for yet
	header  [9]byte // of a frame, or a part
	has     int     // bytes of the preface, then of header
	left    int     // bytes of the frame's payload that are still to come
	data    bool    // they are a message's or a body's
	message bool    // they are of a request
	asks    bool    // something of a request has come since it was read last
	whole   bool    // a request has come to its end since then
	frames  int     // that were counted, and are not paid for
}

// protocol is what a client speaks, as far as is known.
type protocol int

const (
	unknownProtocol protocol = iota
	http1
	http2
)

const (
	// readFrames is how many bytes of HTTP/2 are read at once, but for data: ten requests or so.
	readFrames = 512
	// fewFrames is how many bytes of frames are read without a turn, if none of them is of a request: a client acknowledges what
	// it has received, and its next request would wait behind that.
	fewFrames = 64
	// framesPerUnit is how many frames of HTTP/2 are a unit of work. The calls that they begin are counted for themselves.
	framesPerUnit = 16
	// smallData is how many bytes of data a frame has that is not counted.
	smallData = 256
	// holdFrames is how long nothing is read from a client that has sent more frames than it may.
	holdFrames = time.Second
)

// preface is what a client begins HTTP/2 with: RFC 9113, section 3.4.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Types of frames, and the flag of those that end what a stream sends: RFC 9113, section 6.
const (
	frameData         = 0
	frameHeaders      = 1
	frameRSTStream    = 3
	frameContinuation = 9
	flagEndStream     = 1
)

// Read implements net.Conn.
func (f *framed) Read(b []byte) (int, error) {
	if len(f.unread) > 0 || len(b) == 0 {
		return f.hand(b), nil
	}
	if f.failed != nil {
		return 0, f.failed
	}
	shaken := f.secure != nil
	if shaken {
		if f.failed = f.handshake(); f.failed != nil {
			return 0, f.failed
		}
	}
	if f.speaks == http1 {
		f.room = nil
		return f.Conn.Read(b)
	}
	switch {
	case f.whole && f.left == 0:
		f.on.leave()
	case !shaken: // else the first request may have come with what ended the handshake
		f.on.rest()
	}
	f.whole = false
	f.on.await()
	if f.data && f.left > readFrames && len(b) > readFrames {
		n, err := f.Conn.Read(b[:min(len(b), f.left)])
		if f.left -= n; n > 0 {
			f.on.compute()
		}
		return n, err
	}
	if f.room == nil {
		f.room = make([]byte, readFrames)
	}
	n, err := f.Conn.Read(f.room)
	if n == 0 {
		return 0, err
	}
	if !f.scan(f.room[:n]) {
		f.failed = net.ErrClosed
		f.on.Close()
		return 0, f.failed
	}
	f.unread, f.failed = f.room[:n], err
	if f.asks || n > fewFrames {
		f.on.compute()
	}
	f.asks = false
	return f.hand(b), nil
}

// hand hands on what was read.
func (f *framed) hand(b []byte) int {
	n := copy(b, f.unread)
	f.unread = f.unread[n:]
	return n
}

// handshake makes that of TLS.
func (f *framed) handshake() error {
	err := f.secure.HandshakeContext(context.Background()) // the deadline of reading holds
	if err == nil {
		f.secure = nil
		return nil
	}
	var record tls.RecordHeaderError
	if errors.As(err, &record) && record.Conn != nil && looksLikeHTTP(record.RecordHeader) {
		io.WriteString(record.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n") // as net/http does
		record.Conn.Close()
		err = errors.New("client sent an HTTP request to an HTTPS server")
	}
	if f.log != nil {
		f.log.Printf("TLS handshake error from %s: %v", f.RemoteAddr(), err)
	}
	return err
}

// looksLikeHTTP reports whether what is no TLS is likely to be the beginning of a request.
func looksLikeHTTP(header [5]byte) bool {
	switch string(header[:]) {
	case "GET /", "HEAD ", "POST ", "PUT /", "OPTIO":
		return true
	}
	return false
}

// scan looks at what was read, and reports whether the client may go on.
func (f *framed) scan(b []byte) bool {
	for len(b) > 0 && f.speaks != http1 {
		switch {
		case f.speaks == unknownProtocol:
			n := min(len(b), len(preface)-f.has)
			if string(b[:n]) != preface[f.has:f.has+n] {
				f.speaks = http1
				return true
			}
			if f.has, b = f.has+n, b[n:]; f.has == len(preface) {
				f.speaks, f.has = http2, 0
				f.on.speaksHTTP2()
			}
		case f.left > 0:
			f.asks = f.asks || f.message
			n := min(len(b), f.left)
			f.left, b = f.left-n, b[n:]
		default:
			n := copy(f.header[f.has:], b)
			if f.has, b = f.has+n, b[n:]; f.has == len(f.header) {
				f.has = 0
				if !f.frame() {
					return false
				}
			}
		}
	}
	return true
}

// frame counts the frame that header is of, and reports whether the client may go on.
func (f *framed) frame() bool {
	f.left = int(binary.BigEndian.Uint32(f.header[:4]) >> 8)
	kind := f.header[3]
	f.data = kind == frameData
	f.message = f.data || kind == frameHeaders || kind == frameContinuation
	f.asks = f.asks || f.message
	if f.header[4]&flagEndStream != 0 && (f.data || kind == frameHeaders) {
		f.whole = true
	}
	if kind == frameRSTStream && !f.on.tookBack() {
		return false
	}
	if f.data && f.left >= smallData {
		return true
	}
	if f.frames++; f.frames == framesPerUnit {
		f.frames = 0
		if refusal := f.on.gate.work.take(f.on.client, 1); refusal != nil {
			return f.on.refuseFrames()
		}
	}
	return true
}

// ServeTLS serves HTTP/1 and HTTP/2 to those whom the gate lets in, over TLS, until the server is ended. It sets the server's
// Protocols: what net/http reads is decrypted already.
func (g *Gate) ServeTLS(s *http.Server, l net.Listener) error {
	config := s.TLSConfig.Clone()
	for _, protocol := range []string{"h2", "http/1.1"} { // beside that of ACME, if it is there
		if !slices.Contains(config.NextProtos, protocol) {
			config.NextProtos = append(config.NextProtos, protocol)
		}
	}
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	return s.Serve(&secured{g.Listen(l, nil), config, s.ErrorLog})
}

// secured accepts connections over TLS.
type secured struct {
	net.Listener
	config *tls.Config
	log    *log.Logger
}

// Accept implements net.Listener. The handshake is made when something is read first, by who reads.
func (s *secured) Accept() (net.Conn, error) {
	accepted, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	secure := tls.Server(&greeted{Conn: accepted}, s.config)
	return &framed{Conn: secure, on: accepted.(*conn), log: s.log, secure: secure}, nil
}

// greeted is a connection of which the first bytes are read at once, for one turn: crypto/tls reads a ClientHello, which has some 1,500, in two
// parts. One goroutine reads.
type greeted struct {
	net.Conn
	begun bool
	rest  []byte // of the first bytes, which were not asked for yet
}

// mostGreeting is how many bytes are read first.
const mostGreeting = 2 << 10

// Read implements net.Conn.
func (g *greeted) Read(b []byte) (int, error) {
	if !g.begun {
		g.begun = true
		first := make([]byte, mostGreeting)
		n, err := g.Conn.Read(first)
		g.rest = first[:n]
		if err != nil && n == 0 {
			return 0, err
		}
	}
	if len(g.rest) == 0 {
		return g.Conn.Read(b)
	}
	n := copy(b, g.rest)
	if g.rest = g.rest[n:]; len(g.rest) == 0 {
		g.rest = nil
	}
	return n, nil
}

// framedWire has a gRPC server read connections of Listen as framed.
type framedWire struct {
	credentials.TransportCredentials
}

// ServerHandshake implements credentials.TransportCredentials.
func (w framedWire) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	at, ok := raw.RemoteAddr().(remote)
	if ok {
		at.conn.compute() // gRPC prepares much before it reads
	}
	encrypted := w.Info().SecurityProtocol == "tls"
	if encrypted {
		raw = &greeted{Conn: raw}
	}
	c, info, err := w.TransportCredentials.ServerHandshake(raw)
	if ok && err == nil {
		c = &framed{Conn: c, on: at.conn}
	}
	return c, info, err
}

// Clone implements credentials.TransportCredentials.
func (w framedWire) Clone() credentials.TransportCredentials {
	return framedWire{w.TransportCredentials.Clone()}
}
