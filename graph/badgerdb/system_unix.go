//go:build linux || darwin || freebsd

package badgerdb

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// FreeSpace returns the bytes that are free for this process where dir is; ok is
// false on systems where they are not asked for.
func FreeSpace(dir string) (bytes uint64, ok bool, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, false, os.NewSyscallError("statfs", err)
	}
	return uint64(max(0, s.Bavail)) * uint64(s.Bsize), true, nil
}

// writable returns why files in dir cannot be written, such as syscall.EROFS: a disk that
// has failed is often mounted anew to be read only.
func writable(dir string) error {
	const write = 2 // W_OK
	if err := syscall.Access(dir, write); err != nil {
		return &os.PathError{Op: "write to", Path: dir, Err: err}
	}
	return nil
}

// lock takes the lock that Badger takes on a folder, for the time before Badger
// does, or instead of it. ErrLocked if somebody else has it.
func lock(dir string, to purpose) (release func() error, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	fd, how := int(f.Fd()), syscall.LOCK_EX
	if to == toRead {
		how = syscall.LOCK_SH
	}
	// A process that is just being started by this one holds all its files, and so
	// the lock that somebody has closed a moment ago, until it is another program.
	for patience := 20; ; patience-- {
		err = syscall.Flock(fd, how|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || patience == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		reading := how == syscall.LOCK_EX && syscall.Flock(fd, syscall.LOCK_SH|syscall.LOCK_NB) == nil
		return nil, errors.Join(errLocked(dir, reading), f.Close())
	}
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("flock", err), f.Close())
	}
	return func() error {
		return errors.Join(os.NewSyscallError("flock", syscall.Flock(fd, syscall.LOCK_UN)), f.Close())
	}, nil
}
