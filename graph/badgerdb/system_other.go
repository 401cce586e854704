//go:build !(linux || darwin || freebsd)

package badgerdb

// FreeSpace returns ok false: it is not asked for on this system.
func FreeSpace(string) (bytes uint64, ok bool, err error) { return 0, false, nil }

// lock leaves it to Badger to find out that somebody else has the folder; who reads one has
// to know that nobody else has it.
func lock(string, purpose) (release func() error, err error) { return func() error { return nil }, nil }

// writable leaves it to Badger to find out that nothing can be written.
func writable(string) error { return nil }
