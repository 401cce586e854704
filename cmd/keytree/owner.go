package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/keytree-bch/keytree/graph/badgerdb"
)

// mayWrite refuses to write into databases, which are in a data folder, that somebody has
// open, or that are another user's: what root made there, or anybody else, their server
// could not open later. Nothing has been changed then. Where a folder is not there yet, or
// nothing can be told of it, writing will tell.
func mayWrite(dataDir string, databases ...string) error {
	// A group may share a data folder in which each has databases of his own.
	if err := keepOwner(dataDir, os.Geteuid() == 0); err != nil {
		return err
	}
	for _, dir := range databases {
		if err := keepOwner(dir, true); err != nil {
			return err
		}
		if err := badgerdb.InUse(dir); errors.Is(err, badgerdb.ErrLocked) {
			return err
		}
	}
	return nil
}

// keepOwner refuses to write into a folder that is not one's own, if that matters.
func keepOwner(dir string, matters bool) error {
	owner, ok := ownerOf(dir)
	if me := os.Geteuid(); ok && owner != me && matters {
		return fmt.Errorf("%s belongs to %s, this is %s, and what that writes there the other could not open: nothing was changed; "+
			"run it as the owner, with sudo -u or su", dir, userName(owner), userName(me))
	}
	return nil
}

// userName is a user's name, or number where the system knows none.
func userName(id int) string {
	if u, err := user.LookupId(strconv.Itoa(id)); err == nil {
		return u.Username
	}
	return fmt.Sprintf("user %d", id)
}
