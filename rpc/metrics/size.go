package metrics

import "os"

// sizeOf returns the bytes that the files of a database take. Badger keeps all of them in one
// folder, a few hundred of a large database.
func sizeOf(dir string) (bytes int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil { // else it was removed meanwhile
			bytes += onDisk(info)
		}
	}
	return bytes
}
