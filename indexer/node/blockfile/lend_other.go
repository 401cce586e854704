//go:build !unix

package blockfile

import "os"

// lend has use look at size bytes of f from offset on.
func lend(f *os.File, offset int64, size int, use func(raw []byte) error) error {
	raw := make([]byte, size)
	if _, err := f.ReadAt(raw, offset); err != nil {
		return err
	}
	return use(raw)
}
