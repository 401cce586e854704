package admission

import (
	"errors"
	"net"
	"syscall"
)

// filesError says what to do when the process, or the system, lets no more files and sockets be opened. It passes, as
// the error that it is made of does: servers accept again.
type filesError struct{ accept net.Error }

// Error implements error.
func (e filesError) Error() string {
	return e.accept.Error() + ": connections wait until others are closed; allow the process more open files (ulimit -n, LimitNOFILE), or take fewer connections (--limit-connections)"
}

// Timeout implements net.Error.
func (e filesError) Timeout() bool { return e.accept.Timeout() }

// Temporary implements net.Error, which net/http and gRPC ask whether to accept again.
func (e filesError) Temporary() bool {
	passing, ok := e.accept.(interface{ Temporary() bool })
	return ok && passing.Temporary()
}

// Unwrap returns the system's error.
func (e filesError) Unwrap() error { return e.accept }

// explained says of an error of accepting what to do, where that is known.
func explained(err error) error {
	var accept net.Error
	if (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)) && errors.As(err, &accept) {
		return filesError{accept}
	}
	return err
}
