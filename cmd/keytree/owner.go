package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/keytree-bch/keytree/graph/badgerdb"
)

// mayWrite refuses to write into databases, which are in a data folder, that somebody has
// open, or that are another user's. Nothing has been changed then.
func mayWrite(dataDir string, databases ...string) error {
	// A group may share a data folder, in which each has his own; but root is in every group.
	if os.Geteuid() == 0 {
		if err := keepOwner(dataDir); err != nil {
			return err
		}
	}
	for _, dir := range databases {
		if err := keepOwner(dir); err != nil {
			return err
		}
		if err := badgerdb.InUse(dir); errors.Is(err, badgerdb.ErrLocked) {
			return err
		}
	}
	return nil
}

// keepOwner refuses to write into a folder that is another user's: what root made there, or
// anybody else, its owner could not open later. Root is also refused to make a folder in
// another's; whether others can, the file system tells.
func keepOwner(dir string) error {
	me := os.Geteuid()
	owner, ok := ownerOf(dir)
	for up := filepath.Dir(dir); !ok && me == 0 && up != dir; up = filepath.Dir(dir) {
		dir = up
		owner, ok = ownerOf(dir)
	}
	if !ok || owner == me {
		return nil
	}
	return fmt.Errorf("%s belongs to %s, this is %s, and what that writes there the owner could not open: nothing was changed; "+
		"run it as the owner, with sudo -u or su", dir, userName(owner), userName(me))
}

// userName is a user's name, or number where the system knows none.
func userName(id int) string {
	if u, err := user.LookupId(strconv.Itoa(id)); err == nil {
		return u.Username
	}
	return fmt.Sprintf("user %d", id)
}
