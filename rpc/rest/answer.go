package rest

import (
	"net/http"
	"runtime"
	"sync"

	gateway "github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc/admission"
)

// Answer writes an answer of any length in JSON. It holds one piece of it, which is
// sent when it has admission.Piece bytes: who reads slowly makes the server wait, not remember.
// A short answer is sent as a whole. Another type than application/json is set in the header before the first piece.
type Answer struct {
	Text []byte // the piece, to which its user appends

	w     http.ResponseWriter
	begun bool // whether a piece was sent
	parts int  // how often Pass was called
	pool  *Answers
}

// Answers lends out answers, with the memory of their pieces: made anew for each answer, it would be most of what
// there is to collect. It is safe for concurrent use.
type Answers struct{ ended sync.Pool }

const (
	// shortText is how many bytes an answer has room for at first: most are shorter.
	shortText = 1 << 10
	// longText is up to how many bytes of room are kept for the next answer, which may have to wait with them for its turn.
	longText = 4 << 10
)

// New returns an answer of which nothing was sent. It is its user's until End.
func (p *Answers) New(w http.ResponseWriter) *Answer {
	a, ok := p.ended.Get().(*Answer)
	if !ok {
		a = &Answer{Text: make([]byte, 0, shortText), pool: p}
	}
	a.w, a.begun, a.parts = w, false, 0
	return a
}

// yieldEvery is how many parts of an answer are made at a time: some hundred µs.
const yieldEvery = 32

// Pass sends the piece if it is long enough. It lets others go first now and then, who would else wait until Go interrupts a long
// answer, after 10 ms.
func (a *Answer) Pass() error {
	if a.parts++; a.parts%yieldEvery == 0 {
		runtime.Gosched()
	}
	if len(a.Text) < admission.Piece {
		return nil
	}
	return a.send()
}

func (a *Answer) send() error {
	if !a.begun {
		a.begun = true
		if a.w.Header().Get("Content-Type") == "" {
			a.w.Header().Set("Content-Type", "application/json")
		}
	}
	_, err := a.w.Write(a.Text)
	a.Text = a.Text[:0]
	return err
}

// End sends what is left. An error, a gRPC status, is sent in place of an answer that has
// not begun; one that has is broken off: the client must not take what it got for the
// whole.
func (a *Answer) End(err error) {
	switch {
	case err == nil:
		a.send() // a client that went away is no fault to report
	case a.begun:
		panic(http.ErrAbortHandler)
	default:
		WriteError(a.w, gateway.HTTPStatusFromCode(status.Code(err)), err)
	}
	a.w = nil
	if a.Text = a.Text[:0]; cap(a.Text) <= longText {
		a.pool.ended.Put(a)
	}
}
