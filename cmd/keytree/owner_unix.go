//go:build unix

package main

import (
	"os"
	"syscall"
)

// ownerOf returns the number of the user to whom a file belongs; ok is false if that cannot be
// told, as of one that is not there.
func ownerOf(path string) (id int, ok bool) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(stat.Uid), true
}
