package admission

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// maxHeader is how many bytes the header of a request may have.
const maxHeader = 32 << 10

// Limit sets what a server may take over connections that come from Listen.
func (g *Gate) Limit(s *http.Server) {
	s.ReadHeaderTimeout = min(5*time.Second, g.limits.Arrive) // also for the TLS handshake
	s.ReadTimeout = g.limits.Arrive
	s.WriteTimeout = 2 * g.limits.Take // of what is not long; Answers gives that more
	s.IdleTimeout = -1                 // conn has one: that of net/http holds all of a connection for as long after it was closed with open requests
	s.MaxHeaderBytes = maxHeader
	s.ConnContext = g.ConnContext
	s.HTTP2 = &http.HTTP2Config{
		MaxConcurrentStreams:          min(100, g.limits.Requests.One),
		MaxReceiveBufferPerConnection: 256 << 10,
		MaxReceiveBufferPerStream:     window,
		SendPingTimeout:               time.Minute,
		WriteByteTimeout:              g.limits.Take,
	}
}

// FarewellHTTP is what a connection that is refused is sent on a wire of plain HTTP/1.
func FarewellHTTP(why *Refusal) []byte {
	text := why.Error() + "\n"
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nRetry-After: %d\r\nConnection: close\r\n\r\n%s",
		why.HTTPStatus(), http.StatusText(why.HTTPStatus()), len(text), why.Seconds(), text)
}

// Refuse answers a request that is refused, in the form of its wire. Retry-After is set.
type Refuse func(http.ResponseWriter, *http.Request, *Refusal)

func (refuse Refuse) answer(w http.ResponseWriter, r *http.Request, why *Refusal) {
	w.Header().Set("Retry-After", strconv.Itoa(why.Seconds()))
	refuse(w, r, why)
}

// Requests says that a request over HTTP is none for a stream.
func Requests(*http.Request) Kind { return Request }

// Handler lets requests in to next, or refuses them; kind says of which kind each is. In their
// context, Work, Long and ClientOf know them.
func (g *Gate) Handler(next http.Handler, kind func(*http.Request) Kind, refuse Refuse) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		on, _ := r.Context().Value(connKey{}).(*conn)
		client := Client{}
		if on != nil {
			if on.isClosed() { // over HTTP/2, it had asked for more
				return
			}
			client = g.asking(on.address, r.Header.Values("X-Forwarded-For"), r.Header.Values("Forwarded"))
		}
		var has turn
		if on != nil && r.ProtoMajor == 1 { // over HTTP/2, the connection goes on to read
			has = on.hand()
			on.answers(true)
			defer on.answers(false)
		}
		asked := r.Context() // which ends when the client takes the request back
		c, refusal := g.let(on, client, kind(r))
		if refusal != nil {
			g.turns.give(has)
			say := func() { refuse.answer(w, r, refusal) }
			switch {
			case on == nil:
				say()
			case !on.refuse(asked):
			case r.ProtoMajor == 1:
				say()
			default:
				on.tell(http.NewResponseController(w), say)
			}
			return
		}
		defer atEnd(asked, func() {
			if r.ProtoMajor > 1 {
				c.flush()
			}
			c.finish()
			c.end(asked.Err() != nil)
		})
		ctx, cancel := context.WithCancelCause(context.WithValue(asked, callKey{}, c))
		c.mu.Lock()
		c.cancel, c.answer = cancel, http.NewResponseController(w)
		c.mu.Unlock()
		if c.turn = has; c.kind == Stream {
			c.rest()
		} else if err := c.compute(ctx); err != nil {
			if errors.As(err, &refusal) {
				refuse.answer(w, r, refusal)
			}
			return
		}
		r = r.WithContext(ctx)
		if r.ContentLength == 0 && c.kind == Request {
			c.place.keep()
		}
		r.Body = &body{r.Body, c}
		next.ServeHTTP(w, r)
	})
}

// body counts what arrives of a request. Reading fails with a *Refusal if there is no room.
type body struct {
	io.ReadCloser
	call *call
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.call.rest()
	n, err := b.ReadCloser.Read(p)
	if refusal := b.call.received(n); refusal != nil {
		return 0, refusal
	}
	if err == io.EOF && b.call.kind == Request {
		b.call.place.keep()
	}
	if n > 0 || err == io.EOF {
		b.call.compute(context.Background()) // it comes soon
	}
	return n, err
}

// Answers has clients take what next answers in time: each piece of it, and as long as
// they do, any number of them. It counts what is held meanwhile. It stands behind Handler, and behind
// what compresses.
func (g *Gate) Answers(next http.Handler, refuse Refuse) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := callOf(r.Context()); c != nil {
			counted := &writer{ResponseWriter: w, request: r, call: c, refuse: refuse}
			defer atEnd(r.Context(), counted.end)
			w = counted
		}
		next.ServeHTTP(w, r)
	})
}

// piece is how many bytes of an answer net/http keeps without sending them.
const piece = 4 << 10

type writer struct {
	http.ResponseWriter
	request *http.Request
	call    *call
	refuse  Refuse
	begun   bool
	refused bool

	streamed *streamed // nil for what net/http sends
}

// WriteHeader implements http.ResponseWriter.
func (w *writer) WriteHeader(code int) {
	if !w.begun && w.streamable(code) && w.stream() == nil {
		w.begun = true
		return
	}
	w.begun = true
	if w.streamed == nil {
		w.ResponseWriter.WriteHeader(code)
	}
}

// FlushError is for http.ResponseController.
func (w *writer) FlushError() error {
	if w.streamed != nil {
		return nil // nothing is kept
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// end ends what net/http does not.
func (w *writer) end() {
	if w.streamed != nil {
		w.streamed.end()
	}
}

// errStopped is what a writer of an answer gets whose call was stopped.
var errStopped = errors.New("admission: the answer was broken off: others wait for its place, and its client is slow")

// Write implements io.Writer.
func (w *writer) Write(b []byte) (int, error) {
	if w.refused {
		return len(b), nil
	}
	switch stream := w.call.kind == Stream; {
	case !stream && len(b) < piece:
	case !w.call.patient():
		return 0, errStopped
	case !stream: // whose place is movable as long as it is there
		w.call.place.free()
		defer w.call.place.keep()
	}
	w.call.pause()
	defer w.call.proceed()
	if on := w.call.conn; on != nil && len(b) > small {
		held, refusal := on.owe(len(b))
		switch {
		case refusal == nil:
			defer held.taken()
		case w.begun:
			return 0, refusal
		default:
			w.refused = true
			w.Header().Del("Content-Length")
			w.refuse.answer(w.ResponseWriter, w.request, refusal)
			return len(b), nil
		}
	}
	w.begun = true
	if w.streamed != nil {
		return w.streamed.Write(b)
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// flush sends what net/http has kept of the answer, while the call has its place still: over HTTP/2, a client that takes nothing would
// leave a goroutine of each call behind that nobody counts.
func (c *call) flush() {
	if c.patient() {
		c.pause()
		c.place.free()
		c.answer.Flush() // fails if the client has gone
	}
}

// patient gives the client time to take the next piece, unless the call was stopped: then a
// stream has some left to say so.
func (c *call) patient() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return c.kind == Stream
	}
	// Without deadlines, as in tests without a network, nothing waits.
	c.answer.SetWriteDeadline(time.Now().Add(c.gate.limits.Take))
	return true
}
