//go:build linux || darwin || freebsd

package graph

import (
	"errors"
	"os"
	"syscall"
)

func freeSpace(dir string) (bytes uint64, ok bool, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, false, os.NewSyscallError("statfs", err)
	}
	return uint64(max(0, s.Bavail)) * uint64(s.Bsize), true, nil
}

// lockFolder takes the lock that Badger takes, for the time before Badger does.
// ErrLocked if somebody else has it.
func lockFolder(dir string) (release func() error, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked(dir)
		}
		return nil, os.NewSyscallError("flock", err)
	}
	return f.Close, nil
}
