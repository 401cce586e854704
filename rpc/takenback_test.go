package rpc_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/admission"
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
// its connection, and is not let in for some time; one that also waits for an answer now and then keeps it, and so does the operator's own.
func TestCallsTakenBack(t *testing.T) {
	_, blocks := rpctest.Family()
	call := framed(&keytreev1.ResolveAddressRequest{Address: rpctest.Address("anybody")})
	for _, test := range []struct {
		name             string
		unlimited        []netip.Prefix
		answers, refused bool
	}{
		{"waits for answers", nil, true, false},
		{"waits for none", nil, false, true},
		{"waits for none, and is unlimited", admission.Loopback(), false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			gate := admission.New(admission.Config{Limits: admission.DefaultLimits(), Unlimited: test.unlimited})
			r := rpctest.NewOf(t, rpc.Config{Admission: gate}, blocks...)
			c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", r.Conn.Target())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(time.Minute))
			result := make(chan error, 1)
			overHTTP2(1<<16-1, func(p *peer2) error {
				result <- p.takeBack(600, test.answers, call)
				return io.EOF
			})(context.Background(), c)
			if err := <-result; (err != nil) != test.refused {
				t.Errorf("600 calls were taken back, and on the connection: %v", err)
			}
			_, err = r.Client.ResolveAddress(t.Context(), &keytreev1.ResolveAddressRequest{Address: rpctest.Address("anybody")})
			if code := status.Code(err); (code == codes.ResourceExhausted) != test.refused {
				t.Errorf("the next call on another connection: %v", err)
			}
		})
	}
}

// takeBack begins calls and takes all of them back, but for every tenth, where it waits for
// the answer if it is to.
func (p *peer2) takeBack(calls int, answers bool, message []byte) error {
	for i := range calls {
		stream := uint32(2*i + 1)
		if err := p.begin(stream, "ResolveAddress"); err != nil {
			return err
		}
		if answers && i%10 == 0 {
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
