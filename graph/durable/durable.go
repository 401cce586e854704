// Package durable writes files that must survive a crash. Each file is as it was before or as
// it is now, whole. Once a function has returned, the power may fail. Files get mode 0600
// unless a function says otherwise.
//
// # The steps
//
// Each function makes these system calls, in this order. At any of them the process may be
// killed, or the call may fail.
//
//	Replace, Write  unlink PATH.tmp; open it with O_EXCL; write; fsync; close;
//	                rename it to PATH; SyncFolder
//	Rewrite         stat PATH; the same, with fchmod before the first write
//	CreateSecret    as Write, but link instead of rename, which replaces nothing, and
//	                unlink PATH.tmp before SyncFolder
//	Rename          rename; unlink FROM.tmp; SyncFolder
//	Remove          unlink; unlink PATH.tmp; SyncFolder
//	SyncFolder      open, fsync, close
//
// TestFaults compares this list with what they do, and has each call fail, and the process
// killed before it.
//
// PATH.tmp is left by a process that was killed, and removed by the next that writes PATH.
// Nobody else may write the same path meanwhile.
//
// # Known gaps
//
// If the folder cannot be synced, a function returns an error though the new file is there.
// The file may be gone after the power has failed. A file system that lies about having
// synced is believed.
//
// The package stands in graph since both databases and the state files beside them need it.
// It knows nothing of either. What never belongs here: what a file means, and databases.
package durable

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Replace puts a file that write writes in the place of whatever is at path. If write
// fails, or anything else does before the rename, path is as it was. The umask takes bits
// away from mode.
func Replace(path string, mode fs.FileMode, write func(io.Writer) error) error {
	return replace(path, mode, func(f *os.File) error { return buffered(f, write) })
}

// Rewrite is Replace for a file that is there, and keeps its mode.
func Rewrite(path string, write func(io.Writer) error) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	mode := info.Mode().Perm()
	return replace(path, mode, func(f *os.File) error {
		if err := f.Chmod(mode); err != nil {
			return err
		}
		return buffered(f, write)
	})
}

func replace(path string, mode fs.FileMode, write func(*os.File) error) error {
	if err := writeUnfinished(path, mode, write); err != nil {
		return errors.Join(err, removeUnfinished(path))
	}
	if err := os.Rename(unfinished(path), path); err != nil {
		return err
	}
	return SyncFolder(filepath.Dir(path))
}

// buffered writes to a file in pieces that are worth a system call.
func buffered(f *os.File, write func(io.Writer) error) error {
	out := bufio.NewWriterSize(f, 64<<10)
	if err := write(out); err != nil {
		return err
	}
	return out.Flush()
}

// Write puts content in the place of whatever is at path.
func Write(path string, content []byte) error {
	return replace(path, 0o600, func(f *os.File) error {
		_, err := f.Write(content)
		return err
	})
}

// Rename gives a file or a folder, whose content is on disk, the name to, in the same folder.
// A file that is there is replaced.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return errors.Join(removeUnfinished(from), SyncFolder(filepath.Dir(to)))
}

// Remove deletes a file, if there is one.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(removeUnfinished(path), SyncFolder(filepath.Dir(path)))
}

// SyncFolder puts on disk which files are in a folder.
func SyncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// writeUnfinished puts a file on disk, yet to be given its name.
func writeUnfinished(path string, mode fs.FileMode, write func(*os.File) error) error {
	if err := removeUnfinished(path); err != nil {
		return err
	}
	f, err := os.OpenFile(unfinished(path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// unfinished is where a file is until it is whole. A killed process may leave it.
func unfinished(path string) string { return path + ".tmp" }

func removeUnfinished(path string) error {
	if err := os.Remove(unfinished(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
