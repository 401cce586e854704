package rpc_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// await reads frames until one is as wanted, or the connection ends.
func (p *peer2) await(wanted func(http2.Frame) bool) error {
	for {
		frame, err := p.ReadFrame()
		if err != nil {
			return err
		}
		if settings, ok := frame.(*http2.SettingsFrame); ok && !settings.IsAck() {
			if err := p.WriteSettingsAck(); err != nil {
				return err
			}
		}
		if wanted(frame) {
			return nil
		}
	}
}

// settle waits until all that was sent before has been read. Pings would do, but a server takes
// few of them.
func (p *peer2) settle() error {
	if err := p.WriteSettings(); err != nil {
		return err
	}
	return p.await(func(f http2.Frame) bool { settings, ok := f.(*http2.SettingsFrame); return ok && settings.IsAck() })
}

// TestCallsTakenBack has clients begin calls and take them back. One that does nothing else loses
// its connection; one that also waits for an answer now and then keeps it.
func TestCallsTakenBack(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	call := framed(&keytreev1.ResolveAddressRequest{Address: rpctest.Address("anybody")})
	for _, answers := range []bool{true, false} {
		t.Run(fmt.Sprint("waits for answers: ", answers), func(t *testing.T) {
			c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.Conn.Target())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(time.Minute))
			result := make(chan error, 1)
			overHTTP2(1<<16-1, func(p *peer2) error {
				result <- p.takeBack(600, answers, call)
				return io.EOF
			})(context.Background(), c)
			switch err := <-result; {
			case answers && err != nil:
				t.Errorf("the connection of a client that waits for answers: %v", err)
			case !answers && err == nil:
				t.Error("600 calls were taken back, and the connection is open")
			}
		})
	}
}

// takeBack begins calls and takes all of them back, but for every hundredth, where it waits for
// the answer if it is to.
func (p *peer2) takeBack(calls int, answers bool, message []byte) error {
	for i := range calls {
		stream := uint32(2*i + 1)
		if err := p.begin(stream, "ResolveAddress"); err != nil {
			return err
		}
		if answers && i%100 == 0 {
			if err := p.send(stream, message, true); err != nil {
				return err
			}
			if err := p.await(func(f http2.Frame) bool {
				headers, ok := f.(*http2.HeadersFrame)
				return ok && headers.StreamID == stream && headers.StreamEnded()
			}); err != nil {
				return err
			}
			continue
		}
		if err := p.WriteRSTStream(stream, http2.ErrCodeCancel); err != nil {
			return err
		}
		if err := p.settle(); err != nil {
			return err
		}
	}
	return nil
}
