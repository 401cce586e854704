//go:build unix

package blockfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lend has use look at size bytes of f from offset on. They are mapped into memory:
// a copy of a large block would push the block out of the processor's cache before
// anybody has looked at it.
func lend(f *os.File, offset int64, size int, use func(raw []byte) error) (err error) {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() < offset+int64(size) {
		return fmt.Errorf("%w: the file ends at byte %d", io.ErrUnexpectedEOF, info.Size())
	}
	before := int(offset % int64(os.Getpagesize())) // a mapping begins with a page
	mapped, err := unix.Mmap(int(f.Fd()), offset-int64(before), before+size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping the file into memory: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(mapped)) }()

	// What cannot be read shows when it is looked at: a bad disk, or a file that has
	// become shorter just now.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		reason := recover()
		if reason == nil {
			return
		}
		fault, ok := reason.(interface{ Addr() uintptr })
		start := uintptr(unsafe.Pointer(unsafe.SliceData(mapped)))
		if !ok || fault.Addr() < start || fault.Addr()-start >= uintptr(len(mapped)) {
			panic(reason) // not by the mapping
		}
		err = fmt.Errorf("reading byte %d: %w", offset-int64(before)+int64(fault.Addr()-start), unix.EIO)
	}()
	return use(mapped[before:])
}
