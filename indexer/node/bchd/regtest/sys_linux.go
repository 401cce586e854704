package regtest

import (
	"errors"
	"os"
	"syscall"
)

// childAttr puts bchd into a process group of its own, so that Ctrl-C on a
// terminal reaches only its parent, and has the kernel kill it when the parent
// dies. The kernel ties that to the thread that forked: see process.run.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// tryLock tries to take the exclusive lock of f, which ends when f is closed.
func tryLock(f *os.File) (bool, error) {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}
