package admission

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// streamed is the connection of a stream over HTTP/1, which was taken from net/http: that would keep 10 kB of
// buffers for as long as the stream goes on, which may be for days. The stream is the last answer on it, in chunks
// (RFC 9112 §7.1). The goroutine that answers uses it.
type streamed struct {
	net.Conn
	ctx     context.Context // of the request
	unhurry func() bool     // ends what hurries the client when ctx has ended
	watched chan struct{}   // closed when nobody waits for the client to go any more
}

// streamable tells whether an answer can go past net/http: in chunks, and with a body.
func (w *writer) streamable(code int) bool {
	return w.call.kind == Stream && code == http.StatusOK && w.request.ProtoMajor == 1 && w.request.ProtoMinor >= 1 && w.request.Method != http.MethodHead
}

// stream takes the connection, and sends the header of the answer. It fails, and has done nothing, where there is none to
// take, as in tests.
func (w *writer) stream() error {
	conn, buffers, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return err
	}
	// The server of net/http has these as long as the handler runs, and uses them no more.
	*buffers.Reader, *buffers.Writer = bufio.Reader{}, bufio.Writer{}
	s := &streamed{Conn: conn, ctx: w.request.Context(), watched: make(chan struct{})}
	s.unhurry = context.AfterFunc(s.ctx, s.hurry)
	w.streamed = s
	go s.watch(w.call)

	header := w.Header().Clone()
	header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	header.Set("Connection", "close")
	header.Set("Transfer-Encoding", "chunked")
	var text strings.Builder
	fmt.Fprintf(&text, "HTTP/1.1 %d %s\r\n", http.StatusOK, http.StatusText(http.StatusOK))
	header.Write(&text) // a builder takes all
	text.WriteString("\r\n")
	w.call.patient()
	s.send([]byte(text.String())) // one that cannot be written to fails at the next write, too
	return nil
}

// watch waits for the client to go, and ends the call then. One that sends more is not listened to any more: that it has
// gone is found when something is sent.
func (s *streamed) watch(c *call) {
	defer close(s.watched)
	if n, _ := s.Conn.Read(make([]byte, 1)); n > 0 {
		return
	}
	c.mu.Lock()
	cancel := c.cancel
	c.mu.Unlock()
	cancel(context.Canceled)
}

// hurry leaves the client of a stream that ends some time to read why.
func (s *streamed) hurry() { s.Conn.SetWriteDeadline(time.Now().Add(partingTime)) }

// send sends something as it is.
func (s *streamed) send(b []byte) error {
	if s.ctx.Err() != nil {
		s.hurry()
	}
	_, err := s.Conn.Write(b)
	return err
}

// Write implements io.Writer: b is a chunk.
func (s *streamed) Write(b []byte) (int, error) {
	if len(b) == 0 { // which would be the end
		return 0, nil
	}
	chunk := fmt.Appendf(make([]byte, 0, len(b)+16), "%x\r\n", len(b))
	if err := s.send(append(append(chunk, b...), "\r\n"...)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// end ends the answer, and the connection.
func (s *streamed) end() {
	s.unhurry()
	s.hurry()
	s.send([]byte("0\r\n\r\n")) // who has gone needs no end
	s.Conn.Close()
	<-s.watched
}
