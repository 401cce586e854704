//go:build linux || darwin || freebsd

package metrics

import (
	"io/fs"
	"syscall"
)

// onDisk returns the bytes that a file takes on the disk. Badger makes files longer than what
// is in them, which takes nothing.
func onDisk(info fs.FileInfo) int64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Blocks * 512 // of which Blocks counts, whatever the disk's own are
	}
	return info.Size()
}
