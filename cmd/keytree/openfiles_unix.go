//go:build unix

package main

import "syscall"

// mostOpenFiles returns how many files and sockets the system lets the process have open; ok
// is false if it does not tell.
func mostOpenFiles() (n uint64, ok bool) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, false
	}
	return uint64(limit.Cur), true // as far up as it goes: Go sees to that
}
