package admission

import (
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
)

// filesGone is a listener of a process that has all the files open that it may.
type filesGone struct{ net.Listener }

// Accept implements net.Listener.
func (filesGone) Accept() (net.Conn, error) {
	return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
}

// Close implements net.Listener.
func (filesGone) Close() error { return nil }

// TestFilesGone accepts when no more files can be opened: the error says what to raise, and servers try again.
func TestFilesGone(t *testing.T) {
	g := New(Config{Limits: DefaultLimits()})
	l := g.Listen(filesGone{}, nil)
	defer l.Close()
	_, err := l.Accept()
	if err == nil || !strings.Contains(err.Error(), "ulimit -n") || !strings.Contains(err.Error(), "--limit-connections") || !errors.Is(err, syscall.EMFILE) {
		t.Errorf("%v: it does not say what to do", err)
	}
	if passing, ok := err.(interface{ Temporary() bool }); !ok || !passing.Temporary() { // what net/http and gRPC ask
		t.Errorf("%v: servers would end", err)
	}
	if explained(net.ErrClosed) != net.ErrClosed {
		t.Error("another error is not what it was")
	}
}
